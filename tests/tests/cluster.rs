//! Failover, with every server on a host of its own: whatever single server is cut off, killed or
//! paused, clients and viewers go on, and it comes back by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use tnv_tests::hosts::{HTTPDS, Hosts, STORAGES, TRACKERS};
use tnv_tests::http::Http;
use tnv_tests::raw::{self, Raw};
use tnv_tests::tools::{PATIENCE, heavy, patient, sample};

/// The longest that anything may take while a server is broken. A host that is gone costs whoever
/// connects to it 5 s, one that is silent costs a message's deadline; several of them may be met in
/// turn, and the machine itself may stand still as well. What is seen is printed, and far less.
const STALL_BOUND: Duration = Duration::from_secs(45);

/// How long a fault lasts at least: longer than a tracker takes to notice.
const FAULT: Duration = Duration::from_millis(7500);

/// A file that was acknowledged.
#[derive(Clone)]
struct Kept {
    user: String,
    id: String,
    bytes: usize,
    seed: u64,
}

impl Kept {
    fn content(&self) -> Vec<u8> {
        sample(self.bytes, self.seed)
    }
}

/// One kind of what clients do.
#[derive(Default)]
struct Doing {
    done: AtomicU64,
    longest_ms: AtomicU64,
}

impl Doing {
    fn note(&self, since: Instant) {
        self.longest_ms.fetch_max(since.elapsed().as_millis() as u64, Ordering::Relaxed);
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    fn take_longest(&self) -> Duration {
        Duration::from_millis(self.longest_ms.swap(0, Ordering::Relaxed))
    }
}

/// Clients and viewers that go on all the time.
struct Traffic<'a> {
    hosts: &'a Hosts,
    kept: Mutex<Vec<Kept>>,
    /// The first so many files are read while the database is away.
    hot: usize,
    stop: AtomicBool,
    /// The fault of now, for messages.
    fault: Mutex<String>,
    /// The HTTP server that is broken, which a load balancer takes out.
    victim: Mutex<Option<&'static str>>,
    db_away: AtomicBool,
    refused: AtomicU64,
    failures: Mutex<Vec<String>>,
    gets: [Doing; 2],
    uploads: [Doing; 2],
    downloads: [Doing; 1],
}

const USERS: u64 = 6;

impl<'a> Traffic<'a> {
    fn new(hosts: &'a Hosts) -> Traffic<'a> {
        Traffic {
            hosts,
            kept: Mutex::default(),
            hot: 0,
            stop: AtomicBool::new(false),
            fault: Mutex::new("nothing".to_owned()),
            victim: Mutex::new(None),
            db_away: AtomicBool::new(false),
            refused: AtomicU64::new(0),
            failures: Mutex::default(),
            gets: Default::default(),
            uploads: Default::default(),
            downloads: Default::default(),
        }
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn fail(&self, what: String) {
        let what = format!("with {}: {what}", self.fault.lock().unwrap());
        println!("FAILED {what}");
        self.failures.lock().unwrap().push(what);
    }

    fn any(&self) -> Kept {
        let kept = self.kept.lock().unwrap();
        let count = if self.db_away.load(Ordering::Relaxed) { self.hot } else { kept.len() };
        kept[rand::random_range(0..count)].clone()
    }

    /// Uploads a file of new content with the command line.
    fn upload(&self, thread: usize) -> Result<(), String> {
        let seed = rand::random();
        let kept = Kept {
            user: format!("u{}", seed % USERS),
            id: String::new(),
            bytes: match seed % 10 {
                0 => 2 << 20,
                small => 1 + small as usize * 20_000,
            },
            seed,
        };
        let file = self.hosts.path(&format!("up-{thread}"));
        std::fs::write(&file, kept.content()).expect("write a file");
        let out = self.hosts.tnv(&["upload", "tnvideo", &kept.user, file.to_str().expect("UTF-8")]);
        let said = out.text();
        match said.strip_prefix("Upload success: ") {
            Some(id) if out.code == 0 => {
                self.kept.lock().unwrap().push(Kept { id: id.trim().to_owned(), ..kept });
                Ok(())
            }
            _ => Err(format!("exit code {}, {said}{}", out.code, out.stderr)),
        }
    }

    fn uploader(&self, thread: usize) {
        while self.goes_on() {
            let since = Instant::now();
            match self.upload(thread) {
                Ok(()) => {}
                // Nobody can write then; but it must be said.
                Err(error) if self.db_away.load(Ordering::Relaxed) && error.len() > 20 => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => self.fail(format!("an upload after {:?}: {error}", since.elapsed())),
            }
            self.uploads[thread].note(since);
        }
    }

    fn downloader(&self) {
        let to = self.hosts.path("down");
        while self.goes_on() {
            let file = self.any();
            let since = Instant::now();
            let to = to.to_str().expect("UTF-8");
            let out = self.hosts.tnv(&["download", "tnvideo", &file.user, &file.id, "0", "0", to]);
            if out.code != 0 {
                self.fail(format!("a download after {:?}: {}{}", since.elapsed(), out.text(), out.stderr));
            } else if std::fs::read(to).expect("read a file") != file.content() {
                self.fail(format!("a download of {} gave something else", file.id));
            }
            self.downloads[0].note(since);
        }
    }

    fn viewer(&self, thread: usize) {
        while self.goes_on() {
            let file = self.any();
            let since = Instant::now();
            if let Err(error) = self.get(&file, thread) {
                self.fail(format!("a read after {:?}: {error}", since.elapsed()));
            }
            self.gets[thread].note(since);
        }
    }

    /// Reads a file as through a load balancer: by the other HTTP server where this one is broken.
    fn get(&self, file: &Kept, thread: usize) -> Result<(), String> {
        let is_victim = || *self.victim.lock().unwrap() == Some(HTTPDS[thread]);
        let before = is_victim();
        match self.get_from(HTTPDS[thread], file) {
            Err(_) if before || is_victim() => self.get_from(HTTPDS[1 - thread], file),
            outcome => outcome,
        }
    }

    fn get_from(&self, host: &'static str, file: &Kept) -> Result<(), String> {
        let since = Instant::now();
        let gives_up = |error: &io::Error| {
            let waits = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
            let bound = match *self.victim.lock().unwrap() == Some(host) {
                true => Duration::from_secs(2),
                false => STALL_BOUND,
            };
            !waits || since.elapsed() > bound
        };
        let said = |error: io::Error| format!("{host}: {error}");
        let mut http = loop {
            match Http::try_connect(self.hosts.address(host), Duration::from_millis(500)) {
                Ok(http) => break http,
                Err(error) if gives_up(&error) => return Err(said(error)),
                Err(_) => {}
            }
        };
        let target = format!("/files/tnvideo/{}/{}", file.user, file.id);
        let head = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        http.stream().write_all(head.as_bytes()).map_err(said)?;
        let response = loop {
            match http.head() {
                Ok(response) => break response,
                Err(error) if gives_up(&error) => return Err(said(error)),
                Err(_) => {}
            }
        };
        let length = response.want("Content-Length").parse().expect("a number");
        let body = loop {
            match http.body(length) {
                Ok(body) => break body,
                Err(error) if gives_up(&error) => return Err(said(error)),
                Err(_) => {}
            }
        };
        match response.status {
            200 if body == file.content() => Ok(()),
            200 => Err(format!("{host} gave {length} bytes of something else for {target}")),
            status => Err(format!("{host} answered {status}: {}", String::from_utf8_lossy(&body))),
        }
    }

    fn all(&self) -> impl Iterator<Item = &Doing> {
        self.gets.iter().chain(&self.uploads).chain(&self.downloads)
    }

    /// Lets a time pass, and then waits until each client has begun and done something: what hangs
    /// must come to an end while its cause is still there.
    fn keep_going(&self, while_: Duration) {
        std::thread::sleep(while_);
        let before: Vec<_> = self.all().map(|doing| doing.done.load(Ordering::Relaxed)).collect();
        patient("two more of everything", PATIENCE, || {
            let goes_on = |(doing, before): (&Doing, &u64)| doing.done.load(Ordering::Relaxed) >= before + 2;
            self.all().zip(&before).all(goes_on)
        });
    }

    /// Prints the longest stalls since this was last asked; fails where one is over the bound.
    fn stalls(&self, fault: &str) {
        let longest = |doings: &[Doing]| doings.iter().map(Doing::take_longest).max().unwrap_or_default();
        let stalls = [longest(&self.gets), longest(&self.downloads), longest(&self.uploads)];
        let [gets, downloads, uploads] = stalls.map(|stall| stall.as_secs_f64());
        println!("{fault}: longest read {gets:.1} s, download {downloads:.1} s, upload {uploads:.1} s");
        if stalls.into_iter().any(|stall| stall > STALL_BOUND) {
            self.fail(format!("a stall of over {STALL_BOUND:?}"));
        }
    }
}

/// Ends the traffic, also where the test fails.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A cable that is out shows neither FIN nor RST, a paused server keeps its connections and takes new
/// ones: those are the faults that loopback and kill -9 never show. Which of the trackers, ID servers,
/// storages and HTTP servers it is must not matter, nor that the database comes and goes.
#[test]
fn whichever_single_server_is_cut_off_killed_or_paused_nobody_fails_to_read_or_upload() {
    let test = "whichever_single_server_is_cut_off_killed_or_paused_nobody_fails_to_read_or_upload";
    let _alone = heavy();
    let Some(hosts) = Hosts::start(test, false) else { return };
    let mut traffic = Traffic::new(&hosts);
    hosts.at_client(|| {
        // In both groups: a new user is given one at random.
        patient("files in both groups", PATIENCE, || {
            traffic.upload(0).expect("an upload");
            let has_files = |group: &str| hosts.path(&format!("{group}/data/000")).is_dir();
            has_files("group001") && has_files("group002") && traffic.kept.lock().unwrap().len() >= 8
        });
    });
    traffic.hot = 8;
    let traffic = &traffic;
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&traffic.stop);
        for thread in 0..2 {
            hosts.on_client(scope, move || traffic.viewer(thread));
            hosts.on_client(scope, move || traffic.uploader(thread));
        }
        hosts.on_client(scope, move || traffic.downloader());
        traffic.keep_going(Duration::from_secs(2));
        traffic.stalls("quiet");

        let faults = [
            ("cut", "restore", ["tracker1", "id1", "storage1", "http1"]),
            ("kill", "restart", ["tracker2", "id2", "storage4", "http2"]),
            ("pause", "resume", ["tracker3", "id1", "storage2", "http1"]),
        ];
        for (fault, mend, victims) in faults {
            for victim in victims {
                let what = format!("{fault} {victim}");
                what.clone_into(&mut traffic.fault.lock().unwrap());
                *traffic.victim.lock().unwrap() = HTTPDS.into_iter().find(|&httpd| httpd == victim);
                // A storage is paused first, so that it has uploads in its hands that it never answers.
                let is_busy = what == "cut storage1";
                if is_busy {
                    hosts.act("pause", victim);
                    std::thread::sleep(Duration::from_secs(1));
                }
                hosts.act(fault, victim);
                let is_brief = fault == "kill" || victim.starts_with("http");
                traffic.keep_going(if is_brief { FAULT / 3 } else { FAULT });
                hosts.act(mend, victim);
                if is_busy {
                    hosts.act("resume", victim);
                }
                hosts.wait_active();
                traffic.keep_going(Duration::ZERO);
                *traffic.victim.lock().unwrap() = None;
                traffic.stalls(&what);
            }
        }

        // The database: what is not known without it waits or is refused.
        "the database cut off".clone_into(&mut traffic.fault.lock().unwrap());
        hosts.at_client(|| warm(traffic));
        traffic.db_away.store(true, Ordering::Relaxed);
        // A read that began before may be of any file.
        traffic.keep_going(Duration::ZERO);
        let reads = || traffic.gets.iter().map(|doing| doing.done.load(Ordering::Relaxed)).sum::<u64>();
        let before = reads();
        hosts.act("cut", "db");
        std::thread::sleep(Duration::from_secs(8));
        let during = reads() - before;
        hosts.act("restore", "db");
        assert!(during > 2, "only {during} reads went on without the database");
        let restored = Instant::now();
        hosts.wait_active();
        let kept = || traffic.kept.lock().unwrap().len();
        let before = kept();
        patient("uploads after the database is back", PATIENCE, || kept() >= before + 4);
        let back = restored.elapsed().as_secs_f64();
        let refused = traffic.refused.load(Ordering::Relaxed);
        println!(
            "database away: {during} reads in 8 s, {refused} uploads refused; uploads again in {back:.1} s"
        );
        traffic.keep_going(Duration::ZERO);
        traffic.db_away.store(false, Ordering::Relaxed);
        "nothing".clone_into(&mut traffic.fault.lock().unwrap());
        traffic.stalls("database away");
        traffic.keep_going(Duration::from_secs(1));
    });
    hosts.wait_active();
    hosts.at_client(|| {
        let kept = traffic.kept.lock().unwrap();
        for (index, file) in kept.iter().enumerate() {
            if let Err(error) = traffic.get_from(HTTPDS[index % 2], file) {
                traffic.fail(format!("an acknowledged file is lost: {error}"));
            }
        }
        let done =
            |doings: &[Doing]| doings.iter().map(|doing| doing.done.load(Ordering::Relaxed)).sum::<u64>();
        println!(
            "{} uploads acknowledged and read back; {} reads, {} downloads",
            kept.len(),
            done(&traffic.gets),
            done(&traffic.downloads)
        );
    });
    let failures = traffic.failures.lock().unwrap();
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// Makes every tracker know the routes of the hot files' users, and every storage of their group the files.
fn warm(traffic: &Traffic) {
    let hosts = traffic.hosts;
    let hot = traffic.kept.lock().unwrap()[..traffic.hot].to_vec();
    for file in &hot {
        let mut group = String::new();
        for tracker in TRACKERS {
            group = group_of(hosts, tracker, &file.user);
        }
        for storage in members(&group) {
            raw::ask(hosts.address(storage), &raw::filesize("tnvideo", &file.user, &file.id)).success(102);
        }
        for httpd in HTTPDS {
            traffic.get_from(httpd, file).expect("a read");
        }
    }
}

fn group_of(hosts: &Hosts, tracker: &str, user: &str) -> String {
    let route = raw::ask(hosts.address(tracker), &raw::addresses("tnvideo", user)).success(100);
    let route = String::from_utf8_lossy(&route).into_owned();
    if route.contains("group001") { "group001".to_owned() } else { "group002".to_owned() }
}

fn members(group: &str) -> &'static [&'static str] {
    if group == "group001" { &STORAGES[..2] } else { &STORAGES[2..] }
}

/// A file ID of the usual form.
fn new_id() -> String {
    format!("{:032x}{:04}", rand::random::<u128>(), rand::random_range(0..10_000))
}

/// The path of every file that has a row, below its store path.
fn rows(hosts: &Hosts) -> BTreeSet<String> {
    let password = std::fs::read_to_string(hosts.path("etc/db.password")).expect("a password");
    let database = hosts.address("db");
    let options = mysql::OptsBuilder::new()
        .ip_or_hostname(Some(database.ip().to_string()))
        .tcp_port(database.port())
        .user(Some("root"))
        .pass(Some(password.trim().to_owned()));
    hosts.at_client(|| {
        let mut conn = mysql::Conn::new(options).expect("connect to MariaDB");
        let paths = (1..=3).flat_map(|table| {
            let statement = format!("SELECT file_path FROM tnv_storagedb.t_file_0{table}");
            conn.query::<String, _>(statement).expect("rows")
        });
        paths.map(|path| path.trim_start_matches("../data/").to_owned()).collect()
    })
}

/// Everything that a brick holds for clients: path and content, without what GlusterFS and storages
/// keep for themselves.
fn brick(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut dirs = vec![path.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let is_hidden = entry.file_name().to_string_lossy().starts_with('.');
            match entry.file_type() {
                _ if is_hidden => {}
                Ok(kind) if kind.is_dir() => dirs.push(entry.path()),
                Ok(_) => {
                    let name = entry.path().strip_prefix(path).expect("below").display().to_string();
                    files.insert(name, std::fs::read(entry.path()).unwrap_or_default());
                }
                Err(_) => {}
            }
        }
    }
    files
}

/// The real GlusterFS under the two members of a group, each with a mount of its own. All checks share
/// one cluster, since starting it is what takes long.
#[test]
fn a_group_on_glusterfs_is_one_store_and_a_member_that_was_cut_off_is_healed() {
    let test = "a_group_on_glusterfs_is_one_store_and_a_member_that_was_cut_off_is_healed";
    let _alone = heavy();
    let Some(hosts) = Hosts::start(test, true) else { return };
    let bricks = || ["storage1", "storage2"].map(|host| brick(&hosts.path(&format!("gluster/{host}/brick"))));
    let members = STORAGES.map(|host| hosts.address(host));
    let user = hosts.at_client(|| {
        let mut users = (0..).map(|number| format!("g{number}")).take(64);
        users.find(|user| group_of(&hosts, "tracker1", user) == "group001").expect("a user of group001")
    });
    let mut kept: Vec<Kept> = Vec::new();

    // What one member has acknowledged, the other one gives at once.
    hosts.at_client(|| {
        let mut conns = [Raw::connect(members[0]), Raw::connect(members[1])];
        let since = Instant::now();
        for number in 0..100 {
            let (writer, reader) = (number % 2, 1 - number % 2);
            let file =
                Kept { user: user.clone(), id: new_id(), bytes: 1 + number * 997, seed: number as u64 };
            conns[writer].ask(&raw::upload("tnvideo", &user, &file.id, &file.content())).success(102);
            let frame = conns[reader].ask(&raw::download("tnvideo", &user, &file.id, 0, 0));
            assert!(frame.success(102) == file.content(), "file {number} is another one on the other member");
            kept.push(file);
        }
        println!("100 files through one member and back through the other: {:?}", since.elapsed());
    });

    // A delete reaches both, whichever had the file in its cache.
    hosts.at_client(|| {
        for (number, file) in kept.drain(..20).enumerate() {
            let (deleter, reader) = (members[number % 2], members[1 - number % 2]);
            raw::ask(deleter, &raw::delete("tnvideo", &user, &file.id)).success(102);
            raw::ask(reader, &raw::filesize("tnvideo", &user, &file.id)).failure(102);
            raw::ask(reader, &raw::download("tnvideo", &user, &file.id, 0, 0)).failure(102);
        }
    });
    // Both bricks hold the same, and each row's file is there; tells how many files have no row.
    let differ = |rows: &BTreeSet<String>| {
        let [one, other] = bricks();
        let lacks = |one: &BTreeMap<String, Vec<u8>>, other: &BTreeMap<String, Vec<u8>>| {
            other.iter().filter(|(name, content)| one.get(*name) != Some(*content)).count()
        };
        let lost = rows.iter().filter(|row| !one.contains_key(*row)).count();
        let differences = (lacks(&one, &other), lacks(&other, &one), lost);
        (differences, one.len() - (rows.len() - lost))
    };
    let same = |kept: usize| {
        let since = Instant::now();
        let rows = rows(&hosts);
        assert!(rows.len() >= kept, "{} rows of {kept} files", rows.len());
        loop {
            let ((one_lacks, other_lacks, lost), rowless) = differ(&rows);
            if (one_lacks, other_lacks, lost) == (0, 0, 0) {
                break (since.elapsed(), rowless);
            }
            assert!(
                since.elapsed() < PATIENCE / 2,
                "storage1's brick lacks {one_lacks} files, storage2's {other_lacks}; {lost} rows have no file"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    assert_eq!(same(kept.len()).1, 0, "files without a row");

    // A member is cut off, with an upload under way. Clients go on with the other one.
    let mut deleted: Vec<Kept> = Vec::new();
    let stop = AtomicBool::new(false);
    let (more, longest) = std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        let uploader = hosts.on_client(scope, || {
            let mut more = Vec::new();
            let mut longest = Duration::ZERO;
            while !stop.load(Ordering::Relaxed) {
                let file =
                    Kept { user: user.clone(), id: String::new(), bytes: 300_000, seed: rand::random() };
                let path = hosts.path("up");
                std::fs::write(&path, file.content()).expect("write a file");
                let since = Instant::now();
                let said = hosts.tnv(&["upload", "tnvideo", &user, path.to_str().expect("UTF-8")]).success();
                longest = longest.max(since.elapsed());
                let id = said.strip_prefix("Upload success: ").expect("an ID").trim().to_owned();
                more.push(Kept { id, ..file });
            }
            (more, longest)
        });
        std::thread::sleep(Duration::from_secs(1));
        hosts.act("cut", "storage2");
        deleted.extend(kept.drain(..10));
        hosts.at_client(|| {
            for file in &deleted {
                raw::ask(members[0], &raw::delete("tnvideo", &user, &file.id)).success(102);
            }
            for file in &kept {
                let frame = raw::ask(members[0], &raw::download("tnvideo", &user, &file.id, 0, 0));
                assert!(frame.success(102) == file.content(), "{} changed while a member was away", file.id);
            }
        });
        let since = Instant::now();
        patient("a member noticed as gone, and files written meanwhile", PATIENCE, || {
            let [one, other] = bricks();
            let new = one.keys().filter(|name| !other.contains_key(*name)).count();
            since.elapsed() > Duration::from_secs(8) && new >= 20
        });
        hosts.act("restore", "storage2");
        hosts.wait_active();
        std::thread::sleep(Duration::from_secs(1));
        stop.store(true, Ordering::Relaxed);
        uploader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    println!("{} uploads around the cut, the longest took {longest:?}", more.len());
    kept.extend(more);
    let (healed, rowless) = same(kept.len());
    println!("healed {healed:?} after the last upload: {} files, {rowless} without a row", kept.len());
    // The member that was cut off may have had an upload in its hands: one uploader, one file.
    assert!(rowless <= 1, "{rowless} files without a row");
    // The member that was away may remember them for as long as its cache remembers anything.
    let gone = hosts.at_client(|| {
        patient("what was deleted in the cut is gone for the member that was away", PATIENCE, || {
            let gone = |file: &Kept, member| {
                raw::ask(member, &raw::filesize("tnvideo", &user, &file.id)).status != 0
            };
            let mut all = deleted.iter().flat_map(|file| members[..2].iter().map(move |&at| (file, at)));
            all.all(|(file, member)| gone(file, member))
        })
    });
    println!("what was deleted in the cut is gone everywhere: after {gone:?} more");
    hosts.at_client(|| {
        for file in &kept {
            for member in &members[..2] {
                let frame = raw::ask(*member, &raw::download("tnvideo", &user, &file.id, 0, 0));
                assert!(frame.success(102) == file.content(), "{} is another one on {member}", file.id);
            }
        }
    });
}
