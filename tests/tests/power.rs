//! Power loss: whatever a crash leaves of a storage's files, everything that was acknowledged is there.
//!
//! A storage is recorded while it takes uploads and deletes, is killed, restarted and stopped. From the record a
//! few hundred of the states are made that a power loss could leave (`tnv_tests::power` has the rules), and a
//! real storage is started on each. What is held against it:
//!
//! - It starts.
//! - Each file whose upload was acknowledged before the crash, and whose delete was not begun, is downloaded whole.
//! - No file whose delete was acknowledged is there.
//! - An upload that was not acknowledged is there wholly or not at all; one that was cut off is not.
//! - It takes a new upload.
//! - `--fsck --repair` finds files without a row and nothing else, and after it all agrees. Such files are allowed:
//!   the journal is not synced, so a crash may take the note of what was under way.
//!
//! An ID server is recorded and tried likewise: it repeats no number.
//!
//! `TNV_POWER_STATES` sets how many states there are in all, `TNV_SEED` which.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use tnv_tests::cluster::{Part, free_address};
use tnv_tests::fsck::fsck_of;
use tnv_tests::fuzz::Random;
use tnv_tests::power::{History, Kept, Micros, Recorder, now};
use tnv_tests::raw::{self, Raw};
use tnv_tests::tools::{free_bytes, heavy, knob};
use tnv_tests::{Builder, Cluster, Dir, PATIENCE, Process, patient, sample};

const USER: &str = "tnv001";

/// States of storages in all, a third of them of two members; an ID server has a fifth as many beside them.
const STATES: u64 = 600;

/// How much of what is not durable survives: from nothing to everything, names without data and data without
/// names.
const KEPT: [Kept; 8] = [
    Kept { names: 0, data: 0, sizes: 0 },
    Kept { names: 100, data: 0, sizes: 100 },
    Kept { names: 0, data: 100, sizes: 100 },
    Kept { names: 50, data: 50, sizes: 50 },
    Kept { names: 100, data: 50, sizes: 100 },
    Kept { names: 90, data: 90, sizes: 90 },
    Kept { names: 10, data: 10, sizes: 10 },
    Kept { names: 100, data: 100, sizes: 100 },
];

/// What was done to one file ID, and when.
#[derive(Clone)]
struct Deed {
    fileid: String,
    /// None of an upload that is never to be seen.
    content: Option<Vec<u8>>,
    put: Span,
    delete: Option<Span>,
}

/// From before the request to after the reply.
#[derive(Clone, Copy)]
struct Span {
    begun: Micros,
    acknowledged: Option<Micros>,
}

impl Span {
    fn of(work: impl FnOnce() -> bool) -> Span {
        let begun = now();
        let done = work();
        Span { begun, acknowledged: done.then(now) }
    }

    fn is_done(self, at: Micros) -> bool {
        self.acknowledged.is_some_and(|acknowledged| acknowledged <= at)
    }
}

/// What must be true of a file after a crash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Want {
    Whole,
    Absent,
    WholeOrAbsent,
}

impl Deed {
    fn want(&self, at: Micros) -> Want {
        if self.content.is_none()
            || self.put.begun > at
            || self.delete.is_some_and(|delete| delete.is_done(at))
        {
            return Want::Absent;
        }
        match self.put.is_done(at) && self.delete.is_none_or(|delete| delete.begun > at) {
            true => Want::Whole,
            false => Want::WholeOrAbsent,
        }
    }
}

/// A workload's record.
struct Scene {
    cluster: Cluster,
    history: History,
    deeds: Vec<Deed>,
    /// The moments of a crash to choose from.
    moments: Vec<Micros>,
}

/// The storages of a workload, and what was done.
struct Work<'a> {
    members: Vec<SocketAddr>,
    deeds: &'a Mutex<Vec<Deed>>,
}

impl Work<'_> {
    fn put(&self, member: usize, fileid: &str, bytes: usize) {
        let content = sample(bytes, bytes as u64 + 7);
        let request = raw::upload("tnvideo", USER, fileid, &content);
        let put = Span::of(|| raw::ask(self.members[member], &request).status == 0);
        assert!(put.acknowledged.is_some(), "{fileid} is stored");
        self.note(Deed { fileid: fileid.to_owned(), content: Some(content), put, delete: None });
    }

    fn delete(&self, member: usize, fileid: &str) {
        let span =
            Span::of(|| raw::ask(self.members[member], &raw::delete("tnvideo", USER, fileid)).status == 0);
        assert!(span.acknowledged.is_some(), "{fileid} is deleted");
        let mut deeds = self.deeds.lock().expect("deeds");
        deeds.iter_mut().find(|deed| deed.fileid == fileid).expect("a file").delete = Some(span);
    }

    /// One that its checksum refuses.
    fn refused(&self, member: usize, fileid: &str) {
        let request = raw::upload_checked("tnvideo", USER, fileid, &sample(20_000, 1), 1);
        let put = Span::of(|| raw::ask(self.members[member], &request).status == 0);
        assert!(put.acknowledged.is_none(), "{fileid} is refused");
        self.note(Deed { fileid: fileid.to_owned(), content: None, put, delete: None });
    }

    /// One of which only a part comes. It lasts until what this gives is dropped.
    fn half(&self, cluster: &Cluster, member: usize, fileid: &str) -> Raw {
        const BYTES: usize = 300_000;
        let before = cluster.content_files("group001").len();
        let mut raw = Raw::connect(self.members[member]);
        let mut request = raw::head(70, (408 + BYTES) as i64);
        request.extend(raw::upload_head("tnvideo", USER, fileid, BYTES as i64));
        request.extend(sample(BYTES / 2, 3));
        let put = Span { begun: now(), acknowledged: None };
        raw.send(&request);
        self.note(Deed { fileid: fileid.to_owned(), content: None, put, delete: None });
        patient("the file is begun", PATIENCE, || cluster.content_files("group001").len() > before);
        raw
    }

    /// Uploads and deletes of several clients at once.
    fn crowd(&self, round: usize) {
        thread::scope(|scope| {
            for client in 0..3 {
                scope.spawn(move || {
                    let member = client % self.members.len();
                    for count in 0..3 {
                        let fileid = format!("crowd{round}-{client}-{count}");
                        self.put(member, &fileid, 1000 * client + 3000 * count + 1);
                        if count == 1 {
                            self.delete((member + 1) % self.members.len(), &fileid);
                        }
                    }
                });
            }
        });
    }

    fn note(&self, deed: Deed) {
        self.deeds.lock().expect("deeds").push(deed);
    }
}

/// Records a workload. None where that cannot be done on this machine.
fn scene(test: &str, name: &str, members: usize, fsync: &str) -> Option<Scene> {
    let recorder = Recorder::new(test)?;
    let wrapper = recorder.wrapper();
    let wrapper: Vec<_> = wrapper.iter().map(String::as_str).collect();
    let mut cluster = Builder::new(name)
        .groups(&["group001"], members)
        .set(Part::Storage, "tnv_fsync", fsync)
        // What it reads again and again is no part of the record.
        .set(Part::Storage, "tnv_scrub_rate", 0)
        .wrap(Part::Storage, &wrapper)
        .no_wait()
        .prepare();
    let before: Vec<_> = ["group001", "group001/run", "db"].map(|name| cluster.path(name)).into();
    fs::create_dir_all(cluster.path("db")).expect("make a directory");
    cluster.start_all();
    cluster.wait_active(members);
    let deeds = Mutex::new(Vec::new());
    let addresses = cluster.storages.iter().map(Process::address).collect();
    let work = Work { members: addresses, deeds: &deeds };
    patient("a group for the user", PATIENCE, || {
        raw::ask(cluster.tracker(), &raw::addresses("tnvideo", USER)).status == 0
    });
    let last = members - 1;

    for (fileid, bytes) in
        [("first", 1000), ("empty", 0), ("medium", 300_000), ("large", 1_200_000), ("gone", 5000)]
    {
        work.put(last, fileid, bytes);
    }
    work.delete(0, "gone");
    work.refused(0, "refused");
    work.crowd(0);
    // Killed in the middle of an upload, and started again.
    let half = work.half(&cluster, 0, "half");
    cluster.storages[0].restart();
    drop(half);
    work.put(0, "after-kill", 70_000);
    work.delete(last, "medium");
    // An orderly end works the log of commits into the database.
    cluster.storages.iter_mut().for_each(|storage| assert!(storage.stop(PATIENCE).success()));
    cluster.storages.iter_mut().for_each(Process::restart);
    work.put(last, "after-stop", 9000);
    work.crowd(1);
    work.delete(0, "large");
    let half = work.half(&cluster, last, "half-again");
    work.put(0, "last", 2000);
    cluster.storages.iter_mut().for_each(Process::kill);
    drop(half);

    let records = recorder.finish();
    let root = cluster.dir().canonicalize().expect("a directory");
    let before: Vec<_> = before.iter().map(|path| path.canonicalize().expect("a directory")).collect();
    let cwd = root.join("group001/run");
    let history = History::read(&root, &cwd, &records, &before);
    let deeds = deeds.into_inner().expect("deeds");
    let mut moments = history.moments();
    moments.retain(|moment| *moment > Micros::MIN);
    let spans = deeds.iter().flat_map(|deed| [Some(deed.put), deed.delete]).flatten();
    moments.extend(spans.filter_map(|span| span.acknowledged));
    moments.sort_unstable();
    let (changes, syncs) = history.size();
    println!(
        "{name}: {} uploads and deletes made {changes} changes and {syncs} syncs in {} runs",
        deeds.iter().map(|deed| 1 + usize::from(deed.delete.is_some())).sum::<usize>(),
        records.len()
    );
    Some(Scene { cluster, history, deeds, moments })
}

/// One state to try.
struct Crash {
    at: Micros,
    kept: Kept,
    seed: u64,
}

/// So many crashes, spread over the whole record.
fn crashes(moments: &[Micros], count: usize, kept: &[Kept], random: &mut Random) -> Vec<Crash> {
    (0..count)
        .map(|index| {
            let from = moments.len() * index / count;
            let to = (moments.len() * (index + 1) / count).max(from + 1);
            let at = moments[from + random.below(to - from)];
            Crash { at, kept: kept[index % kept.len()], seed: random.number() }
        })
        .collect()
}

/// Tries states, two at a time; gives what is wrong with each, and the sum of what each try counts. The servers are
/// started on their addresses by the first worker, and on others by the second one: what a server has is found by its
/// address, and elsewhere it is taken over.
fn try_all(
    history: &History,
    crashes: &[Crash],
    servers: &[Process],
    try_one: impl Fn(&Crash, &Path, &[SocketAddr]) -> Result<usize, String> + Sync,
) -> (Vec<String>, usize) {
    // In memory, where there is such a place: a sync there costs nothing, and nothing here depends on one.
    let memory = Path::new("/dev/shm");
    let base = if free_bytes(memory) > 1 << 30 { Dir::under(memory, "power") } else { Dir::new("power") };
    let first: Vec<_> = servers.iter().map(Process::address).collect();
    let second: Vec<_> = servers.iter().map(|_| free_address()).collect();
    let (faults, counted) = (Mutex::new(Vec::new()), Mutex::new(0));
    thread::scope(|scope| {
        for (worker, addresses) in [first, second].into_iter().enumerate() {
            let (base, faults, counted, try_one) = (&base, &faults, &counted, &try_one);
            scope.spawn(move || {
                for (index, crash) in crashes.iter().enumerate().skip(worker).step_by(2) {
                    let dir = base.join(&format!("state{index}"));
                    history.state(crash.at, crash.kept, &mut Random::new(crash.seed)).write(&dir);
                    match try_one(crash, &dir, &addresses) {
                        Ok(count) => *counted.lock().expect("a count") += count,
                        Err(fault) => {
                            let mut words =
                                format!("state {index}, {:?}, seed {}: {fault}\n", crash.kept, crash.seed);
                            let _ = write!(words, "{}", history.describe(crash.at));
                            faults.lock().expect("faults").push(words);
                        }
                    }
                    let _ = fs::remove_dir_all(&dir);
                }
            });
        }
    });
    (faults.into_inner().expect("faults"), counted.into_inner().expect("a count"))
}

/// Starts servers on a state, each as it was and on this address.
fn start(
    was: &Path,
    servers: &[Process],
    dir: &Path,
    addresses: &[SocketAddr],
) -> Result<Vec<Process>, String> {
    let mut started = Vec::new();
    for (server, address) in servers.iter().zip(addresses) {
        let text = fs::read_to_string(server.config()).expect("read a configuration file");
        let text = text.replace(&was.display().to_string(), &dir.display().to_string());
        let text = text.replace(&server.host_port(), &address.to_string());
        let config = dir.join(format!("{}.cfg", address.port()));
        fs::write(&config, text).expect("write a configuration file");
        let log = dir.join(format!("{}.log", address.port()));
        let cwd = dir.join(server.cwd().strip_prefix(was).expect("a directory of the cluster"));
        let mut process = Process::new(server.binary(), *address, &config, &cwd, &[], &log);
        process.spawn();
        started.push(process);
    }
    for server in &mut started {
        let (line, start) = (format!("{} ready on ", server.binary()), Instant::now());
        while !server.log_of_run().contains(&line) {
            if server.exited().is_some() || start.elapsed() > PATIENCE {
                return Err(format!("{} does not start:\n{}", server.binary(), server.log_of_run()));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(started)
}

impl Scene {
    fn try_all(&self, crashes: &[Crash]) -> (Vec<String>, usize) {
        try_all(&self.history, crashes, &self.cluster.storages, |crash, dir, addresses| {
            self.try_one(crash, dir, addresses)
        })
    }

    /// Gives how many files without a row there are.
    fn try_one(&self, crash: &Crash, dir: &Path, addresses: &[SocketAddr]) -> Result<usize, String> {
        let mut storages = start(self.cluster.dir(), &self.cluster.storages, dir, addresses)?;
        self.look(crash.at, &storages)?;
        let last = storages.last().expect("a storage");
        let content = sample(3000, 99);
        let frame = raw::ask(last.address(), &raw::upload("tnvideo", USER, "new", &content));
        if frame.status != 0 {
            return Err(format!("a new upload: {}", frame.failure(102)));
        }
        if !matches!(content_of(storages[0].address(), "new"), Ok(Some(back)) if back == content) {
            return Err("the new upload is not there".to_owned());
        }
        let options = ["--repair", "--min-age", "0"];
        let report = fsck_of(storages[0].config(), storages[0].cwd(), &options);
        if report.lines.iter().any(|line| !["orphan", "removed"].contains(&line[0].as_str()))
            || !(0..=1).contains(&report.code)
        {
            return Err(format!("{report:#?}"));
        }
        if !report.lines.is_empty() {
            let again = fsck_of(storages[0].config(), storages[0].cwd(), &options);
            if again.code != 0 || !again.lines.is_empty() {
                return Err(format!("after a repair: {again:#?}"));
            }
            self.look(crash.at, &storages)?;
        }
        storages.iter_mut().for_each(Process::kill);
        Ok(report.paths("orphan").len())
    }

    /// Holds each file against what must be true of it.
    fn look(&self, at: Micros, storages: &[Process]) -> Result<(), String> {
        for (index, deed) in self.deeds.iter().enumerate() {
            let storage = &storages[index % storages.len()];
            let fileid = &deed.fileid;
            let want = deed.want(at);
            let found = content_of(storage.address(), fileid);
            let good = match &found {
                Ok(None) => want != Want::Whole,
                Ok(Some(content)) => want != Want::Absent && deed.content.as_ref() == Some(content),
                Err(_) => false,
            };
            if !good {
                let found = found.map(|content| content.map(|content| format!("{} bytes", content.len())));
                return Err(format!("{fileid} is {found:?}, want it {want:?}\n{}", storage.log_of_run()));
            }
        }
        Ok(())
    }
}

/// A file as a client downloads it; none where there is none.
fn content_of(storage: SocketAddr, fileid: &str) -> Result<Option<Vec<u8>>, String> {
    const NOT_FOUND: i16 = -2;
    let frame = raw::ask(storage, &raw::download("tnvideo", USER, fileid, 0, 0));
    match frame.status {
        0 => Ok(Some(frame.success(102))),
        _ if i16::from_be_bytes([frame.body[0], frame.body[1]]) == NOT_FOUND => Ok(None),
        _ => Err(frame.failure(102)),
    }
}

fn survives(test: &str, name: &str, members: usize, states: u64) {
    let _heavy = heavy();
    let Some(scene) = scene(test, name, members, "yes") else { return };
    let seed = knob("TNV_SEED", u64::from(rand::random::<u32>()));
    let states = usize::try_from(states).expect("a count");
    let crashes = crashes(&scene.moments, states, &KEPT, &mut Random::new(seed));
    let start = Instant::now();
    let (faults, orphans) = scene.try_all(&crashes);
    println!(
        "{name}: {} states with TNV_SEED={seed} in {:.0} s, {orphans} files without a row, {} faults",
        crashes.len(),
        start.elapsed().as_secs_f64(),
        faults.len()
    );
    assert!(
        faults.is_empty(),
        "{} of {} states:\n{}",
        faults.len(),
        crashes.len(),
        faults[..faults.len().min(3)].join("\n")
    );
}

#[test]
fn a_power_loss_takes_nothing_that_was_acknowledged() {
    let states = knob("TNV_POWER_STATES", STATES) * 2 / 3;
    survives("a_power_loss_takes_nothing_that_was_acknowledged", "power", 1, states);
}

#[test]
fn a_power_loss_takes_nothing_from_two_members_that_share_a_store_path() {
    let states = knob("TNV_POWER_STATES", STATES) / 3;
    survives("a_power_loss_takes_nothing_from_two_members_that_share_a_store_path", "power-two", 2, states);
}

/// Numbers that an ID server handed out before the crash are not handed out after it.
#[test]
fn a_power_loss_makes_no_id_server_repeat_a_number() {
    const KEYS: [&str; 3] = ["../data", "../more", "x"];
    const TEST: &str = "a_power_loss_makes_no_id_server_repeat_a_number";
    let _heavy = heavy();
    let Some(recorder) = Recorder::new(TEST) else { return };
    let wrapper = recorder.wrapper();
    let wrapper: Vec<_> = wrapper.iter().map(String::as_str).collect();
    let mut cluster = Builder::new("power-ids")
        .trackers(0)
        .groups(&["group001"], 0)
        .wrap(Part::Id, &wrapper)
        .no_wait()
        .prepare();
    let before = ["run", "db"].map(|name| cluster.path(name));
    fs::create_dir_all(cluster.path("db")).expect("make a directory");
    cluster.start_all();
    let next = |server: SocketAddr, key: &str| raw::ask(server, &raw::get_id(key)).success(101);
    let mut handed_out = Vec::new();
    for round in 0..4 {
        for key in KEYS {
            for _ in 0..60 * round + 1 {
                let number = next(cluster.id(), key);
                handed_out.push((now(), key, number));
            }
        }
        match round {
            0 => assert!(cluster.ids[0].stop(PATIENCE).success()),
            _ => cluster.ids[0].kill(),
        }
        if round < 3 {
            cluster.ids[0].start();
        }
    }
    let root = cluster.dir().canonicalize().expect("a directory");
    let before = before.map(|path| path.canonicalize().expect("a directory"));
    let history = History::read(&root, &root.join("run"), &recorder.finish(), &before);
    let mut moments = history.moments();
    moments.retain(|moment| *moment > Micros::MIN);
    moments.extend(handed_out.iter().map(|(at, ..)| *at));
    moments.sort_unstable();
    let seed = knob("TNV_SEED", u64::from(rand::random::<u32>()));
    let states = usize::try_from(knob("TNV_POWER_STATES", STATES) / 5).expect("a count");
    let crashes = crashes(&moments, states, &KEPT, &mut Random::new(seed));
    let (faults, _) = try_all(&history, &crashes, &cluster.ids, |crash, dir, addresses| {
        let servers = start(cluster.dir(), &cluster.ids, dir, addresses)?;
        for key in KEYS {
            for _ in 0..3 {
                let number = next(servers[0].address(), key);
                let again = |(at, of, known): &(Micros, &str, Vec<u8>)| {
                    *at <= crash.at && *of == key && *known == number
                };
                if handed_out.iter().any(again) {
                    return Err(format!("{key} {number:?} again\n{}", servers[0].log_of_run()));
                }
            }
        }
        Ok(0)
    });
    let (changes, syncs) = history.size();
    println!(
        "power-ids: {} numbers, {changes} changes, {syncs} syncs; {} states with TNV_SEED={seed}, {} faults",
        handed_out.len(),
        crashes.len(),
        faults.len()
    );
    assert!(faults.is_empty(), "{}", faults[..faults.len().min(3)].join("\n"));
}

/// The control: where nothing is synced, the same states show what a power loss takes.
#[test]
fn without_syncs_the_same_power_losses_take_files() {
    const TEST: &str = "without_syncs_the_same_power_losses_take_files";
    let _heavy = heavy();
    let Some(scene) = scene(TEST, "power-no-fsync", 1, "no") else { return };
    let crashes = crashes(&scene.moments, 12, &KEPT[..3], &mut Random::new(1));
    let (faults, _) = scene.try_all(&crashes);
    println!("{} of {} states lack something", faults.len(), crashes.len());
    assert!(faults.len() > crashes.len() / 2, "{faults:?}");
}
