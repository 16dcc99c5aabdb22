//! Every system call may fail, at every place. For each server, and for one request of each kind, its start and its
//! stop, the calls are counted; then the N-th call of each name fails, for N from the first to the last one, with
//! the errors that the kernel gives for it. What is held against each run:
//!
//! - No false success: what was acknowledged is there whole, also after a restart; what was deleted is gone; no number
//!   is handed out twice; no user has two groups; no answer has wrong content.
//! - Nothing is left behind: files and rows agree soon after.
//! - Nothing hangs: each request, start and stop ends within its deadline.
//! - The server serves again by itself. One whose two disks both failed may need the time in which they prove
//!   themselves, so a storage whose disk is marked bad is started anew.
//! - A start that fails says why and exits with an error, and the next one succeeds.
//!
//! strace counts for each thread, so one run may fail the N-th call in several threads. `TNV_CALL_POINTS` sets how
//! many places are tried for each request, start and stop (0: all of them), `TNV_SEED` which.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tnv_tests::cluster::Part;
use tnv_tests::fsck::fsck;
use tnv_tests::fuzz::Random;
use tnv_tests::raw::{self, Raw};
use tnv_tests::strace::{Strace, can_trace};
use tnv_tests::tools::knob;
use tnv_tests::{Builder, Cluster, Dir, PATIENCE, Process, http, patient, sample};

const USER: &str = "tnv001";

/// Places that are tried for each request, start and stop.
const POINTS: u64 = 60;

/// The longest that a request, a start or a stop may take. It is past every time-out that a server has.
const DEADLINE: Duration = Duration::from_secs(60);

/// How long a server may need to serve again, on a busy machine.
const RECOVERY: Duration = Duration::from_secs(40);

/// What each call fails with.
///
/// fcntl is not here: it takes and releases the locks of the embedded database, and a release that fails, which no
/// local file system does, is met by the test of its own below.
const ERRORS: [(&str, &[&str]); 34] = [
    ("openat", &["EMFILE", "EIO", "ENOSPC", "EINTR"]),
    ("read", &["EIO", "EINTR"]),
    ("pread64", &["EIO"]),
    ("write", &["EIO", "ENOSPC", "EINTR"]),
    ("writev", &["EIO", "EINTR"]),
    ("pwrite64", &["EIO", "ENOSPC"]),
    ("fsync", &["EIO", "ENOSPC"]),
    ("fdatasync", &["EIO", "ENOSPC"]),
    ("ftruncate", &["EIO", "EINTR"]),
    ("fallocate", &["ENOSPC", "EIO", "EINTR"]),
    ("rename", &["EIO", "ENOSPC"]),
    ("link", &["EIO", "ENOSPC"]),
    ("unlink", &["EIO", "EROFS"]),
    ("mkdir", &["EIO", "ENOSPC"]),
    ("statx", &["EIO"]),
    ("statfs", &["EIO"]),
    ("flock", &["ENOLCK", "EINTR"]),
    ("mmap", &["ENOMEM"]),
    ("clone3", &["EAGAIN"]),
    ("socket", &["EMFILE"]),
    ("bind", &["EADDRINUSE"]),
    ("listen", &["EADDRINUSE"]),
    ("connect", &["ECONNREFUSED", "EINTR"]),
    ("accept4", &["EMFILE", "EAGAIN", "ECONNABORTED", "EINTR"]),
    ("setsockopt", &["ENOMEM"]),
    ("epoll_create1", &["EMFILE"]),
    ("epoll_ctl", &["ENOMEM"]),
    ("epoll_wait", &["EINTR"]),
    ("eventfd2", &["EMFILE"]),
    ("poll", &["EINTR"]),
    ("sendfile", &["EIO", "EAGAIN", "EINTR"]),
    ("sendto", &["EINTR", "EAGAIN", "ECONNRESET"]),
    ("recvfrom", &["EINTR", "EAGAIN", "ECONNRESET"]),
    ("shutdown", &["ENOTCONN"]),
];

/// A place at which a call fails.
#[derive(Clone, Debug)]
struct Point {
    call: &'static str,
    nth: usize,
    error: &'static str,
}

impl Point {
    fn inject(&self) -> String {
        format!("inject={}:error={}:when={}", self.call, self.error, self.nth)
    }

    /// Where memory is refused, a process may end: nothing else is possible in the middle of an allocation.
    fn may_end_the_server(&self) -> bool {
        self.call == "mmap"
    }
}

/// The argument of strace that names all calls.
fn all_calls() -> String {
    format!("trace={}", ERRORS.map(|(call, _)| call).join(","))
}

/// Whether a line of a trace is of a call on something within the process: an eventfd, or the socket pair that a
/// signal's handler writes to. The kernel has no such error for these.
fn is_within_the_process(line: &str) -> bool {
    ["<anon_inode:[eventfd]", "<UNIX", "<pipe:"].iter().any(|kind| line.contains(kind))
}

/// The places of a trace, or a share of them.
fn points(trace: &str, share: u64, random: &mut Random) -> (Vec<Point>, usize) {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut within = HashSet::new();
    for line in trace.lines().filter(|line| !line.contains(" resumed>")) {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        if let Some((call, _)) = rest.trim_start().split_once('(') {
            let count = counts.entry((call, thread)).or_default();
            *count += 1;
            if is_within_the_process(line) {
                within.insert((call, *count));
            }
        }
    }
    let mut by_call: Vec<Vec<Point>> = Vec::new();
    for (call, errors) in ERRORS {
        let of_call = counts.iter().filter(|((name, _), _)| *name == call);
        let most = of_call.map(|(_, count)| *count).max().unwrap_or(0);
        let possible = (1..=most).filter(|nth| !within.contains(&(call, *nth)));
        by_call.push(
            possible.flat_map(|nth| errors.iter().map(move |error| Point { call, nth, error })).collect(),
        );
    }
    let count = by_call.iter().map(Vec::len).sum();
    let mut left = if share == 0 { count } else { usize::try_from(share).expect("a count").min(count) };
    // The same number of each call, as far as it has so many: some are made hundreds of times.
    by_call.sort_by_key(Vec::len);
    let mut picked = Vec::new();
    for (index, all) in by_call.iter().enumerate() {
        let some = all.len().min(left.div_ceil(ERRORS.len() - index));
        left -= some;
        for index in 0..some {
            let (from, to) = (all.len() * index / some, all.len() * (index + 1) / some);
            picked.push(all[from + random.below(to - from)].clone());
        }
    }
    (picked, count)
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Upload,
    Download,
    Delete,
    Route,
    Number,
    Get,
}

/// How a request ended, as its client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reply {
    Success(Vec<u8>),
    /// The error number and text.
    Failure(i16, String),
    /// The connection ended before a whole reply.
    Cut,
}

impl Reply {
    /// Whether it is certain that nothing was done.
    fn is_certain_failure(&self) -> bool {
        const OUTCOME_UNKNOWN: i16 = -5;
        matches!(self, Reply::Failure(number, _) if *number != OUTCOME_UNKNOWN)
    }
}

fn exchange(address: SocketAddr, request: &[u8]) -> Reply {
    let frame = Raw::try_connect(address).and_then(|mut raw| {
        // The server may refuse before it has read all of it.
        let _ = raw.try_send(request);
        raw.try_frame()
    });
    match frame {
        Ok(Some(frame)) if frame.status == 0 => Reply::Success(frame.body),
        Ok(Some(frame)) => {
            let text = String::from_utf8_lossy(&frame.body[2..]).into_owned();
            Reply::Failure(i16::from_be_bytes([frame.body[0], frame.body[1]]), text)
        }
        Ok(None) | Err(_) => Reply::Cut,
    }
}

/// A deployment of which one server is tried.
struct Scene {
    test: &'static str,
    part: Part,
    cluster: Cluster,
    /// For what the server is started with, and the trace of that.
    dir: Dir,
    random: Random,
    share: u64,
    count: usize,
    /// Files that were acknowledged, and those whose delete was.
    files: BTreeSet<String>,
    deleted: BTreeSet<String>,
    numbers: HashSet<Vec<u8>>,
    faults: Vec<String>,
    /// What is failing just now.
    point: String,
    longest: Duration,
    replies: [usize; 3],
}

/// The content of a file.
fn content(fileid: &str) -> Vec<u8> {
    let bytes = if fileid.starts_with("large") { 1_100_000 } else { 70_000 };
    sample(bytes, fileid.bytes().map(u64::from).sum())
}

impl Scene {
    /// None where a server cannot be traced on this machine.
    fn start(test: &'static str, name: &str, part: Part) -> Option<Scene> {
        if !can_trace(test) {
            return None;
        }
        let dir = Dir::new("calls");
        let prefix = dir.join("prefix");
        fs::write(&prefix, "").expect("write a file");
        let script = "if [ -s \"$0\" ]; then . \"$0\"; else exec \"$@\"; fi";
        let cluster = Builder::new(name)
            .httpds(usize::from(part == Part::Httpd))
            .set(Part::Storage, "tnv_store_paths", "../data;../more")
            .set(Part::Storage, "tnv_scrub_rate", 0)
            .wrap(part, &["sh", "-c", script, prefix.to_str().expect("UTF-8")])
            .start();
        let seed = knob("TNV_SEED", u64::from(rand::random::<u32>()));
        println!("{test}: TNV_SEED={seed}");
        let mut scene = Scene {
            test,
            part,
            cluster,
            dir,
            random: Random::new(seed),
            share: knob("TNV_CALL_POINTS", POINTS),
            count: 0,
            files: BTreeSet::new(),
            deleted: BTreeSet::new(),
            numbers: HashSet::new(),
            faults: Vec::new(),
            point: String::new(),
            longest: Duration::ZERO,
            replies: [0; 3],
        };
        scene.cluster.put(USER, "kept", &content("kept"));
        scene.files.insert("kept".to_owned());
        Some(scene)
    }

    fn server(&mut self) -> &mut Process {
        match self.part {
            Part::Tracker => &mut self.cluster.trackers[0],
            Part::Id => &mut self.cluster.ids[0],
            Part::Storage => &mut self.cluster.storages[0],
            Part::Httpd => &mut self.cluster.httpds[0],
        }
    }

    fn requests(&self) -> &'static [Request] {
        match self.part {
            Part::Tracker => &[Request::Route],
            Part::Id => &[Request::Number],
            Part::Storage => &[Request::Upload, Request::Download, Request::Delete],
            Part::Httpd => &[Request::Get],
        }
    }

    /// What a request will be about.
    fn prepare(&mut self, request: Request) -> String {
        self.count += 1;
        match request {
            Request::Upload if self.count.is_multiple_of(2) => format!("large{}", self.count),
            Request::Upload => format!("file{}", self.count),
            Request::Delete => {
                let start = Instant::now();
                loop {
                    let fileid = format!("victim{}-{}", self.count, start.elapsed().as_millis());
                    let request = raw::upload("tnvideo", USER, &fileid, &content(&fileid));
                    let reply = exchange(self.cluster.storage(), &request);
                    if matches!(reply, Reply::Success(_)) {
                        self.files.insert(fileid.clone());
                        break fileid;
                    }
                    // strace may still be there, and fail the first ones.
                    assert!(start.elapsed() < RECOVERY, "a file to delete: {reply:?}");
                    self.spare_the_proofs();
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
            Request::Download | Request::Get => "kept".to_owned(),
            Request::Route => format!("user{}", self.count),
            // A known key, and a new one.
            Request::Number if self.count.is_multiple_of(2) => "known".to_owned(),
            Request::Number => format!("key{}", self.count),
        }
    }

    fn ask(&mut self, request: Request, subject: &str) -> Reply {
        let start = Instant::now();
        let storage = self.cluster.storage();
        let reply = match request {
            Request::Upload => exchange(storage, &raw::upload("tnvideo", USER, subject, &content(subject))),
            Request::Download => exchange(storage, &raw::download("tnvideo", USER, subject, 0, 0)),
            Request::Delete => exchange(storage, &raw::delete("tnvideo", USER, subject)),
            Request::Route => exchange(self.cluster.tracker(), &raw::addresses("tnvideo", subject)),
            Request::Number => exchange(self.cluster.id(), &raw::get_id(subject)),
            Request::Get => {
                let path = format!("/files/tnvideo/{USER}/{subject}");
                match http::try_get(self.cluster.httpd(), &path) {
                    Ok(response) if response.status == 200 => Reply::Success(response.body),
                    Ok(response) => Reply::Failure(0, response.status.to_string()),
                    Err(_) => Reply::Cut,
                }
            }
        };
        self.took(&format!("{request:?}"), start.elapsed());
        reply
    }

    fn took(&mut self, what: &str, time: Duration) {
        self.longest = self.longest.max(time);
        if time > DEADLINE {
            self.faults.push(format!("{what} took {time:?}, {}", self.point));
        }
    }

    /// Whether the reply is true, looked at without faults.
    fn judge(&mut self, request: Request, subject: &str, reply: &Reply) -> Result<(), String> {
        self.replies[match reply {
            Reply::Success(_) => 0,
            Reply::Failure(..) => 1,
            Reply::Cut => 2,
        }] += 1;
        match (request, reply) {
            (Request::Download | Request::Get, Reply::Success(body)) if *body != content(subject) => {
                return Err(format!("wrong content, {} bytes", body.len()));
            }
            (Request::Number, Reply::Success(body)) => {
                let number = [subject.as_bytes(), b" ", body].concat();
                if !self.numbers.insert(number) {
                    return Err(format!("the number {body:?} of {subject} comes again"));
                }
            }
            (Request::Route, Reply::Success(_)) => {
                let rows = self.cluster.sql(
                    "tnv_trackerdb",
                    &format!("SELECT group_name FROM t_router WHERE userid = '{subject}'"),
                );
                if rows.len() != 1 {
                    return Err(format!("{subject} has the routes {rows:?}"));
                }
            }
            (Request::Upload, reply) => match (self.look(subject)?, reply) {
                (true, reply) if reply.is_certain_failure() => {
                    return Err(format!("{reply:?}, and it is there"));
                }
                (false, Reply::Success(_)) => return Err("acknowledged, and it is not there".to_owned()),
                (true, _) => drop(self.files.insert(subject.to_owned())),
                (false, _) => {}
            },
            (Request::Delete, reply) => match (self.look(subject)?, reply) {
                (true, Reply::Success(_)) => {
                    return Err("its delete was acknowledged, and it is there".to_owned());
                }
                (false, reply) if reply.is_certain_failure() => {
                    return Err(format!("{reply:?}, and it is gone"));
                }
                (true, _) => {}
                (false, _) => {
                    self.files.remove(subject);
                    self.deleted.insert(subject.to_owned());
                }
            },
            _ => {}
        }
        Ok(())
    }

    /// Whether a file is there; it is then whole. A storage without a good disk is waited for.
    fn look(&mut self, fileid: &str) -> Result<bool, String> {
        const NOT_FOUND: i16 = -2;
        let start = Instant::now();
        loop {
            match exchange(self.cluster.storage(), &raw::download("tnvideo", USER, fileid, 0, 0)) {
                Reply::Success(body) if body == content(fileid) => return Ok(true),
                Reply::Success(body) => {
                    return Err(format!("{fileid} has other content, {} bytes", body.len()));
                }
                Reply::Failure(NOT_FOUND, _) => return Ok(false),
                reply if start.elapsed() > RECOVERY => {
                    return Err(format!("a download of {fileid}: {reply:?}"));
                }
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Starts a storage anew where both of its disks have to prove themselves, which takes its time and is shown
    /// elsewhere.
    fn spare_the_proofs(&mut self) {
        if self.part == Part::Storage && self.server().log_of_run().matches("is bad: ").count() > 1 {
            self.server().restart();
        }
    }

    /// Waits until the server does all of its work.
    fn serves_again(&mut self) -> Result<(), String> {
        for request in self.requests() {
            let start = Instant::now();
            loop {
                let subject = self.prepare(*request);
                let reply = self.ask(*request, &subject);
                let counts = self.replies;
                self.judge(*request, &subject, &reply)?;
                self.replies = counts;
                if matches!(reply, Reply::Success(_)) {
                    break;
                }
                self.spare_the_proofs();
                if start.elapsed() > RECOVERY {
                    return Err(format!("{request:?} afterwards: {reply:?}"));
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    /// Files that a storage has, and rows.
    fn counts(&self) -> (usize, usize) {
        let mut files = 0;
        let mut directories = vec![self.cluster.path("group001/data"), self.cluster.path("group001/more")];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    true => directories.push(entry.path()),
                    false => files += usize::from(!entry.file_name().to_string_lossy().starts_with('.')),
                }
            }
        }
        (files, self.cluster.file_rows())
    }

    /// Waits until nothing is left of what failed.
    fn tidies_up(&self) -> Result<(), String> {
        let start = Instant::now();
        loop {
            let (files, rows) = self.counts();
            if files == rows {
                return Ok(());
            }
            if start.elapsed() > RECOVERY {
                return Err(format!("{files} files and {rows} rows"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// After a fault: the server runs, serves and has tidied up.
    fn recovers(&mut self, point: &Point) -> Result<(), String> {
        if !self.server().runs() {
            if !point.may_end_the_server() {
                return Err(format!("the server ended: {}", self.server().log_of_run()));
            }
            let _ = self.server().exited();
            self.server().restart();
        }
        self.serves_again()?;
        if self.part == Part::Storage {
            self.tidies_up()?;
            // A disk that is trusted no more gets better in seconds, and those of this storage shall be two.
            if self.server().log_of_run().contains("is bad: ") {
                self.server().restart();
            }
        }
        Ok(())
    }

    fn note(&mut self, what: &str, point: &Point, outcome: Result<(), String>) {
        if let Err(fault) = outcome {
            self.faults.push(format!("{what}, {point:?}: {fault}"));
        }
    }

    /// Attaches to the server, does something and lets go; gives what strace has written.
    fn traced<T>(&mut self, args: &[&str], work: impl FnOnce(&mut Scene) -> T) -> Option<(T, String)> {
        let output = self.cluster.path("log/strace");
        let test = self.test;
        let strace = Strace::attach(test, self.server(), args, &output)?;
        let done = work(self);
        drop(strace);
        Some((done, fs::read_to_string(&output).expect("read a trace")))
    }

    /// A server that has done nothing yet: it starts its threads when they are needed first.
    fn restart(&mut self) {
        self.server().restart();
        self.cluster.wait_active(1);
    }

    /// Fails the calls of a request, one after the other.
    fn request(&mut self, request: Request) -> Option<()> {
        self.restart();
        let subject = self.prepare(request);
        // A large one, so that the counts suffice for every one.
        let subject = if request == Request::Upload { format!("large{subject}") } else { subject };
        let trace = all_calls();
        let (reply, text) = self.traced(&["-e", &trace], |scene| {
            let reply = scene.ask(request, &subject);
            // What the server does after its reply belongs to it, too.
            std::thread::sleep(Duration::from_millis(100));
            reply
        })?;
        self.judge(request, &subject, &reply).expect("a request without a fault");
        assert!(matches!(reply, Reply::Success(_)), "{request:?} without a fault: {reply:?}");
        let (points, all) = points(&text, self.share, &mut self.random);
        let (start, mut hits) = (Instant::now(), 0);
        self.replies = [0; 3];
        for point in &points {
            self.point = format!("{point:?}");
            if point.call == "clone3" {
                self.restart();
            }
            let subject = self.prepare(request);
            let trace = format!("trace={}", point.call);
            let inject = point.inject();
            let (reply, text) =
                self.traced(&["-e", &trace, "-e", &inject], |scene| scene.ask(request, &subject))?;
            hits += text.matches("(INJECTED)").count();
            if !self.server().runs() && point.may_end_the_server() {
                let _ = self.server().exited();
                self.server().restart();
            }
            let judged = self.judge(request, &subject, &reply);
            self.note(&format!("{request:?}"), point, judged);
            let recovered = self.recovers(point);
            self.note(&format!("after {request:?}"), point, recovered);
        }
        let [success, failure, cut] = self.replies;
        println!(
            "{request:?}: {} of {all} places, {hits} faults met: {success} successes, {failure} errors, {cut} cut off; {:.0} s",
            points.len(),
            start.elapsed().as_secs_f64()
        );
        Some(())
    }

    /// Starts the server under strace and waits for an end of that. Whether it is ready.
    fn start_with(&mut self, args: &str) -> bool {
        let (prefix, trace) = (self.dir.join("prefix"), self.dir.join("trace"));
        let command = format!("exec strace -D -f -yy -o {} {args} \"$@\"\n", trace.display());
        fs::write(&prefix, command).expect("write a file");
        self.server().spawn();
        let start = Instant::now();
        let ready = loop {
            let line = format!("{} ready on ", self.server().binary());
            if self.server().log_of_run().contains(&line) {
                break true;
            }
            // The line may be the very write that failed.
            let address = self.server().address();
            if start.elapsed() > Duration::from_secs(3) && TcpStream::connect(address).is_ok() {
                break true;
            }
            if !self.server().runs() || start.elapsed() > DEADLINE {
                break false;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        self.took("a start", start.elapsed());
        fs::write(&prefix, "").expect("write a file");
        ready
    }

    fn trace_of_start(&self) -> String {
        fs::read_to_string(self.dir.join("trace")).unwrap_or_default()
    }

    /// Fails the calls of a start, one after the other.
    fn starts(&mut self) {
        assert!(self.server().stop(PATIENCE).success());
        assert!(self.start_with(&format!("-e {}", all_calls())), "a start under strace");
        self.server().kill();
        let (mut points, all) = points(&self.trace_of_start(), self.share, &mut self.random);
        // Rust's own start ends in a panic without memory.
        points.retain(|point| point.call != "mmap");
        let (start, mut hits, mut ready_count) = (Instant::now(), 0, 0);
        for (index, point) in points.iter().enumerate() {
            self.point = format!("{point:?}");
            let ready = self.start_with(&format!("-e trace={} -e {}", point.call, point.inject()));
            let mut outcome = if ready { self.recovers(point) } else { Ok(()) };
            // It may have ended, before it was ready or just after, but not without a word.
            match self.server().exited() {
                None if ready => ready_count += 1,
                None => outcome = Err("it neither starts nor ends".to_owned()),
                Some(status) if status.success() => outcome = Err("it ended with success".to_owned()),
                Some(_) if point.call == "write" || point.may_end_the_server() => outcome = Ok(()),
                Some(_) if self.server().log_of_run().lines().any(|line| !line.contains(" INFO ")) => {
                    outcome = Ok(());
                }
                Some(_) => outcome = Err(format!("it ended without a word: {}", self.server().log_of_run())),
            }
            self.note("a start", point, outcome);
            self.server().kill();
            hits += self.trace_of_start().matches("(INJECTED)").count();
            if index % 8 == 7 || index + 1 == points.len() {
                self.server().start();
                let recovered = self.recovers(point);
                self.note("the start after those that failed", point, recovered);
                self.server().kill();
            }
        }
        self.server().start();
        println!(
            "start: {} of {all} places, {hits} faults met, {ready_count} times ready all the same; {:.0} s",
            points.len(),
            start.elapsed().as_secs_f64()
        );
    }

    /// Fails the calls of a stop, one after the other.
    fn stops(&mut self) -> Option<()> {
        let stop = |scene: &mut Scene| {
            scene.server().signal(Signal::TERM);
            let start = Instant::now();
            while scene.server().runs() && start.elapsed() < DEADLINE {
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        let trace = all_calls();
        let ((), text) = self.traced(&["-e", &trace], stop)?;
        let (points, all) = points(&text, self.share / 2, &mut self.random);
        let (start, mut hits) = (Instant::now(), 0);
        for point in &points {
            self.point = format!("{point:?}");
            self.server().restart();
            // So that something is open when it stops.
            let served = self.serves_again();
            self.note("before a stop", point, served);
            let trace = format!("trace={}", point.call);
            let inject = point.inject();
            let ((), text) = self.traced(&["-e", &trace, "-e", &inject], stop)?;
            hits += text.matches("(INJECTED)").count();
            let is_possible =
                !text.lines().any(|line| line.contains("(INJECTED)") && is_within_the_process(line));
            if self.server().runs() && is_possible {
                self.note("a stop", point, Err("it does not stop".to_owned()));
            }
        }
        self.server().restart();
        println!(
            "stop: {} of {all} places, {hits} faults met; {:.0} s",
            points.len(),
            start.elapsed().as_secs_f64()
        );
        Some(())
    }

    /// Everything that was acknowledged, after a restart of everything.
    fn finish(mut self) {
        self.cluster.parts().for_each(Process::restart);
        patient("an ACTIVE storage", PATIENCE, || tnv_tests::cluster::active(self.cluster.tracker()) == 1);
        let files: Vec<_> = self.files.iter().cloned().collect();
        for fileid in &files {
            match self.look(fileid) {
                Ok(true) => {}
                other => self.faults.push(format!("after a restart {fileid} is {other:?}")),
            }
        }
        for fileid in self.deleted.clone() {
            if self.look(&fileid) != Ok(false) {
                self.faults.push(format!("after a restart {fileid} is back"));
            }
        }
        let report = fsck(&self.cluster, 0, &["--min-age", "0"]);
        if report.code != 0 {
            self.faults.push(format!("{report:#?}"));
        }
        println!(
            "{}: {} files kept, {} deleted, longest wait {:.1} s, {} faults",
            self.test,
            files.len(),
            self.deleted.len(),
            self.longest.as_secs_f64(),
            self.faults.len()
        );
        assert!(self.faults.is_empty(), "{} faults:\n{}", self.faults.len(), self.faults.join("\n"));
    }

    /// All of it.
    fn run(mut self) {
        for request in self.requests() {
            if self.request(*request).is_none() {
                return;
            }
        }
        self.starts();
        if self.stops().is_some() {
            self.finish();
        }
    }
}

/// The story: SQLite opens a file for reading only where it cannot open it for writing. A server that had no descriptor
/// left at that moment started, was ready, and refused every write until it was restarted.
#[test]
fn a_server_does_not_start_on_a_database_that_it_can_only_read() {
    const TEST: &str = "a_server_does_not_start_on_a_database_that_it_can_only_read";
    let Some(mut scene) = Scene::start(TEST, "read-only", Part::Id) else { return };
    scene.server().kill();
    let db = scene.cluster.path("db").canonicalize().expect("a directory").join("tnv_idsdb.db");
    let inject = "-e trace=openat -e inject=openat:error=EMFILE:when=1";
    let ready = scene.start_with(&format!("-P {} {inject}", db.display()));
    assert!(scene.trace_of_start().contains("(INJECTED)"));
    assert!(!ready, "{}", scene.server().log_of_run());
    assert!(scene.server().log_of_run().contains("for reading only"));
    scene.server().kill();
    scene.server().start();
    scene.serves_again().expect("numbers");
}

/// The embedded database takes and releases POSIX locks with fcntl. One whose release fails stays with the process, and
/// every later write finds the database locked.
#[test]
#[ignore = "not mended: SQLite keeps a lock whose release failed until all connections of the process are closed"]
fn a_lock_whose_release_fails_is_not_kept_for_ever() {
    const TEST: &str = "a_lock_whose_release_fails_is_not_kept_for_ever";
    let Some(mut scene) = Scene::start(TEST, "locks", Part::Tracker) else { return };
    for nth in 1..=8 {
        let point = Point { call: "fcntl", nth, error: "ENOLCK" };
        let (subject, inject) = (scene.prepare(Request::Route), point.inject());
        let asked =
            scene.traced(&["-e", "trace=fcntl", "-e", &inject], |scene| scene.ask(Request::Route, &subject));
        if asked.is_none() {
            return;
        }
        scene.serves_again().unwrap_or_else(|fault| panic!("after {point:?}: {fault}"));
    }
}

#[test]
fn a_tracker_survives_each_failing_call() {
    const TEST: &str = "a_tracker_survives_each_failing_call";
    let Some(scene) = Scene::start(TEST, "calls-tracker", Part::Tracker) else { return };
    scene.run();
}

#[test]
fn an_id_server_survives_each_failing_call() {
    const TEST: &str = "an_id_server_survives_each_failing_call";
    let Some(scene) = Scene::start(TEST, "calls-ids", Part::Id) else { return };
    scene.run();
}

#[test]
fn a_storage_survives_each_failing_call() {
    const TEST: &str = "a_storage_survives_each_failing_call";
    let Some(scene) = Scene::start(TEST, "calls-storage", Part::Storage) else { return };
    scene.run();
}

#[test]
fn an_http_server_survives_each_failing_call() {
    const TEST: &str = "an_http_server_survives_each_failing_call";
    let Some(scene) = Scene::start(TEST, "calls-http", Part::Httpd) else { return };
    scene.run();
}
