//! Servers killed by the hundred, and paused, under traffic: whatever was acknowledged is there, whatever
//! was deleted stays away, and where one server at a time goes nobody who reads or uploads notices.
//!
//! `TNV_CHAOS_KILLS` sets how many kills there are in all (200), `TNV_SEED` repeats a run: the seed of each is
//! printed, and who is killed when, and for how long, follows from it.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tnv_client::{AppId, Client, ErrorKind, FileId, FileKey, Options, UserId};
use tnv_tests::cluster::Part;
use tnv_tests::fsck::fsck;
use tnv_tests::http::{self, Http};
use tnv_tests::mariadb::MariaDb;
use tnv_tests::port::established;
use tnv_tests::raw::{self, Raw};
use tnv_tests::tools::heavy;
use tnv_tests::{Builder, Cluster, Db, PATIENCE, Process, patient, sample};

/// Kills of both storms together, unless `TNV_CHAOS_KILLS` says otherwise.
const KILLS: usize = 200;

/// Those who upload, read and delete at once.
const WORKERS: usize = 6;

/// Uploads of each of them at most, spread over the whole storm.
const UPLOADS_MAX: usize = 600;

/// Users of all workers: each new one is given a group at some moment of the storm.
const USERS: u64 = 60;

/// Largest file of a storm.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Longest that a reader may have to wait while any one server goes. A paused one costs 3 s at a tracker
/// and 3 s at a storage; the rest is for a machine that stands still.
const READ_STALL_MAX: Duration = Duration::from_secs(18);

/// Chance that can be repeated.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

fn knob(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}: '{text}'")))
}

/// The seed of this run, printed so that it can be repeated.
fn seed(test: &str) -> u64 {
    let seed = knob("TNV_SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()));
    println!("{test}: TNV_SEED={seed}");
    seed
}

/// A server that is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Tracker(usize),
    Id(usize),
    Storage(usize),
    Httpd(usize),
    Database,
}

impl Victim {
    /// Each kind in turn.
    fn of_kind(kind: usize, dice: &mut Dice) -> Victim {
        match kind {
            0 => Victim::Tracker(dice.below(2) as usize),
            1 => Victim::Id(dice.below(2) as usize),
            2 => Victim::Storage(dice.below(4) as usize),
            3 => Victim::Httpd(dice.below(2) as usize),
            _ => Victim::Database,
        }
    }

    fn part(self, cluster: &mut Cluster) -> Option<&mut Process> {
        match self {
            Victim::Tracker(index) => Some(&mut cluster.trackers[index]),
            Victim::Id(index) => Some(&mut cluster.ids[index]),
            Victim::Storage(index) => Some(&mut cluster.storages[index]),
            Victim::Httpd(index) => Some(&mut cluster.httpds[index]),
            Victim::Database => None,
        }
    }
}

/// One moment of a storm.
struct Blow {
    after: Duration,
    /// From the announcement to the blow: the time of about one to three uploads.
    lead: Duration,
    victims: Vec<Victim>,
    away: Duration,
}

/// So many kills: one kind of server after the other, every eighth time several at once.
fn schedule(kills: usize, kinds: usize, seed: u64) -> Vec<Blow> {
    let mut dice = Dice::new(seed);
    let mut blows = Vec::new();
    let mut left = kills;
    while left > 0 {
        let mut victims = vec![Victim::of_kind(blows.len() % kinds, &mut dice)];
        if blows.len() % 8 == 7 {
            for _ in 0..1 + dice.below(3) {
                let kind = dice.below(kinds as u64) as usize;
                let other = Victim::of_kind(kind, &mut dice);
                if victims.len() < left && !victims.contains(&other) {
                    victims.push(other);
                }
            }
        }
        left -= victims.len();
        blows.push(Blow {
            after: dice.millis(20, 350),
            lead: dice.millis(1, 9),
            victims,
            away: dice.millis(10, 400),
        });
    }
    blows
}

/// One upload, which was given an ID.
#[derive(Clone, Debug)]
struct Stored {
    file: FileKey,
    bytes: usize,
    seed: u64,
}

impl Stored {
    fn content(&self) -> Vec<u8> {
        sample(self.bytes, self.seed)
    }

    fn target(&self) -> String {
        format!("/files/{}/{}/{}", self.file.appid, self.file.userid, self.file.fileid)
    }
}

/// What a worker was told about its uploads and deletes.
#[derive(Default)]
struct Ledger {
    /// Acknowledged, and not deleted.
    kept: Vec<Stored>,
    /// Their delete was acknowledged.
    deleted: Vec<Stored>,
    /// Nobody told: there and whole, or not there.
    doubtful: Vec<Stored>,
    /// Refused for certain.
    refused: Vec<Stored>,
    uploads: usize,
    reads: usize,
    failures: usize,
    /// What must never happen.
    wrong: Vec<String>,
}

impl Ledger {
    fn merge(mut self, other: Ledger) -> Ledger {
        self.kept.extend(other.kept);
        self.deleted.extend(other.deleted);
        self.doubtful.extend(other.doubtful);
        self.refused.extend(other.refused);
        self.uploads += other.uploads;
        self.reads += other.reads;
        self.failures += other.failures;
        self.wrong.extend(other.wrong);
        self
    }
}

/// What the workers of a storm share.
struct Stage {
    trackers: Vec<String>,
    ids: Vec<std::net::SocketAddr>,
    httpds: Vec<std::net::SocketAddr>,
    dir: PathBuf,
    over: AtomicBool,
    /// Blows so far, and in all.
    announced: AtomicUsize,
    blows: usize,
    /// Every number that an extra asker was given.
    numbers: Mutex<HashSet<i64>>,
}

/// Ends the workers, also where the storm itself fails.
struct Curtain<'a>(&'a Stage);

impl Drop for Curtain<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

impl Stage {
    fn of(cluster: &Cluster, blows: usize) -> Stage {
        Stage {
            trackers: cluster.trackers.iter().map(Process::host_port).collect(),
            ids: cluster.ids.iter().map(Process::address).collect(),
            httpds: cluster.httpds.iter().map(Process::address).collect(),
            dir: cluster.dir().to_owned(),
            over: AtomicBool::new(false),
            announced: AtomicUsize::new(0),
            blows,
            numbers: Mutex::default(),
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn client(&self, route_cache: Duration) -> Client {
        Client::new(&self.trackers, Options { route_cache, ..Options::default() }).expect("a client")
    }

    /// How many uploads each worker may have made by now: each blow is announced a moment before it falls,
    /// so that it meets uploads that are under way.
    fn uploads_max(&self) -> usize {
        20 + UPLOADS_MAX * self.announced.load(Ordering::Relaxed) / self.blows.max(1)
    }
}

fn app() -> AppId {
    AppId::new("tnvideo").expect("an appid")
}

/// A worker, until the storm is over.
struct Worker<'a> {
    stage: &'a Stage,
    number: usize,
    dice: Dice,
    client: Client,
    ledger: Ledger,
}

impl Worker<'_> {
    fn run(mut self) -> Ledger {
        while !self.stage.is_over() {
            let failures = self.ledger.failures;
            match self.dice.below(10) {
                0..=6 if self.ledger.uploads < self.stage.uploads_max() => self.upload(),
                4..=6 => self.read(),
                7 | 8 => self.read_http(),
                // One of four is deleted in the end.
                9 if self.ledger.deleted.len() * 4 < self.ledger.kept.len() => self.delete(),
                _ => thread::sleep(Duration::from_millis(1)),
            }
            // Nobody hammers at a door that is shut.
            if self.ledger.failures > failures {
                thread::sleep(Duration::from_millis(5));
            }
        }
        self.ledger
    }

    fn any(&mut self) -> Option<Stored> {
        let count = self.ledger.kept.len() as u64;
        (count > 0).then(|| self.ledger.kept[self.dice.below(count) as usize].clone())
    }

    fn bytes(&mut self) -> usize {
        let most = match self.dice.below(20) {
            0 | 1 => 1,
            2..=12 => 16 << 10,
            13..=18 => 200 << 10,
            _ => FILE_BYTES_MAX + 1,
        };
        self.dice.below(most) as usize
    }

    fn upload(&mut self) {
        let userid = UserId::new(format!("user{}", self.dice.below(USERS))).expect("a userid");
        let (bytes, seed) = (self.bytes(), self.dice.next());
        self.ledger.uploads += 1;
        match self.dice.below(3) {
            0 => self.upload_raw(userid, bytes, seed),
            way => self.upload_by_client(userid, bytes, seed, way == 1),
        }
    }

    fn upload_by_client(&mut self, userid: UserId, bytes: usize, seed: u64, from_file: bool) {
        let content = sample(bytes, seed);
        let outcome = if from_file {
            let path = self.stage.dir.join(format!("worker{}", self.number));
            std::fs::write(&path, &content).expect("write a file");
            self.client.upload_file(&app(), &userid, &path)
        } else {
            self.client.upload(&app(), &userid, &mut content.as_slice(), bytes as u64)
        };
        let stored = |fileid| Stored { file: FileKey { appid: app(), userid, fileid }, bytes, seed };
        match outcome {
            Ok(fileid) => self.ledger.kept.push(stored(fileid)),
            Err(error) => {
                self.ledger.failures += 1;
                let text = error.message();
                if error.kind() == ErrorKind::OutcomeUnknown {
                    let named = text.split("stored as ").nth(1).and_then(|rest| rest.split(' ').next());
                    let fileid = named.expect("the file ID of an upload that nobody knows of");
                    self.ledger.doubtful.push(stored(FileId::new(fileid).expect("a file ID")));
                } else if text.contains("another size or checksum") {
                    self.ledger.wrong.push(text.to_owned());
                }
            }
        }
    }

    /// As an existing client does: one storage, one attempt.
    fn upload_raw(&mut self, userid: UserId, bytes: usize, seed: u64) {
        let Ok(route) = self.client.route(&app(), &userid) else { return };
        let address = route.addresses[self.dice.below(route.addresses.len() as u64) as usize];
        let id = format!("raw-{}-{:012x}", self.number, self.dice.next());
        let fileid = FileId::new(&id).expect("a file ID");
        let stored = Stored { file: FileKey { appid: app(), userid, fileid }, bytes, seed };
        let Ok(mut raw) = Raw::try_connect(address) else { return self.ledger.failures += 1 };
        let user = stored.file.userid.as_str();
        let sent = raw.try_send(&raw::upload("tnvideo", user, &id, &stored.content()));
        let to = match (sent, raw.try_frame()) {
            (_, Ok(Some(frame))) if frame.status == 0 => return self.ledger.kept.push(stored),
            (_, Ok(Some(frame))) => match i16::from_be_bytes([frame.body[0], frame.body[1]]) {
                // EIO, the outcome is unknown, and EPERM, which says nothing.
                -5 | -1 => &mut self.ledger.doubtful,
                _ => &mut self.ledger.refused,
            },
            // What was not sent whole is not stored, but how much the kernel took is not known here.
            _ => &mut self.ledger.doubtful,
        };
        to.push(stored);
        self.ledger.failures += 1;
    }

    fn read(&mut self) {
        let Some(stored) = self.any() else { return };
        self.ledger.reads += 1;
        let mut content = Vec::new();
        match self.client.download(&stored.file, 0, 0, &mut content) {
            Ok(_) if content == stored.content() => {}
            Ok(_) => self.ledger.wrong.push(format!("{} reads differently", stored.target())),
            Err(error) => {
                self.ledger.failures += 1;
                if error.kind() == ErrorKind::NotFound || error.message().contains("damaged") {
                    self.ledger.wrong.push(error.message().to_owned());
                }
            }
        }
    }

    fn read_http(&mut self) {
        let Some(stored) = self.any() else { return };
        self.ledger.reads += 1;
        let address = self.stage.httpds[self.dice.below(2) as usize];
        match http::try_get(address, &stored.target()) {
            Ok(response) if response.status == 200 && response.body == stored.content() => {}
            Ok(response) if [502, 503, 504].contains(&response.status) => self.ledger.failures += 1,
            Ok(response) => {
                let what = format!("{}: status {} over HTTP", stored.target(), response.status);
                self.ledger.wrong.push(what);
            }
            Err(_) => self.ledger.failures += 1,
        }
    }

    fn delete(&mut self) {
        let at = self.dice.below(self.ledger.kept.len() as u64) as usize;
        let stored = self.ledger.kept.swap_remove(at);
        match self.client.delete(&stored.file) {
            Ok(()) => self.ledger.deleted.push(stored),
            Err(error) => {
                self.ledger.failures += 1;
                match error.kind() {
                    ErrorKind::OutcomeUnknown => self.ledger.doubtful.push(stored),
                    ErrorKind::NotFound => self.ledger.wrong.push(error.message().to_owned()),
                    _ => self.ledger.kept.push(stored),
                }
            }
        }
    }
}

/// Asks one ID server for numbers of the key that the storages ask for, until the storm is over.
fn ask_numbers(stage: &Stage, address: std::net::SocketAddr) {
    let mut conn = None;
    while !stage.is_over() {
        thread::sleep(Duration::from_millis(2));
        let raw = match &mut conn {
            Some(raw) => raw,
            None => match Raw::try_connect(address) {
                Ok(raw) => conn.insert(raw),
                Err(_) => continue,
            },
        };
        let frame = raw.try_send(&raw::get_id("../data")).and_then(|()| raw.try_frame());
        match frame {
            Ok(Some(frame)) if frame.status == 0 => {
                let number = i64::from_be_bytes(frame.success(101).try_into().expect("8 bytes"));
                let is_new = stage.numbers.lock().expect("the numbers").insert(number);
                assert!(is_new, "{address} hands out {number} again");
            }
            _ => conn = None,
        }
    }
}

/// A cluster in which any one server may go.
fn two_of_each<'a>(name: &str, db: Db<'a>) -> Builder<'a> {
    Builder::new(name)
        .trackers(2)
        .ids(2)
        .groups(&["group001", "group002"], 2)
        .httpds(2)
        .set(Part::Storage, "tnv_heart_beat_interval", 1)
        .db(db)
}

fn storm(name: &str, kills: usize, mut database: Option<MariaDb>) {
    let _heavy = heavy();
    let start = Instant::now();
    let seed = seed(name);
    let blows = schedule(kills, if database.is_some() { 5 } else { 4 }, seed);
    let db = database.as_ref().map_or(Db::Embedded, Db::Maria);
    let mut cluster = two_of_each(name, db).start();
    let stage = Stage::of(&cluster, blows.len());
    let ledger = thread::scope(|scope| {
        let curtain = Curtain(&stage);
        let workers: Vec<_> = (0..WORKERS)
            .map(|number| {
                let client = stage.client(Duration::from_secs(if number % 2 == 0 { 0 } else { 5 }));
                let dice = Dice::new(seed ^ (number as u64 + 1) << 40);
                let ledger = Ledger::default();
                let worker = Worker { stage: &stage, number, dice, client, ledger };
                scope.spawn(move || worker.run())
            })
            .collect();
        for &address in &stage.ids {
            let stage = &stage;
            scope.spawn(move || ask_numbers(stage, address));
        }
        for blow in &blows {
            strike(blow, &stage, &mut cluster, &mut database);
        }
        drop(curtain);
        workers
            .into_iter()
            .map(|worker| worker.join().expect("a worker"))
            .fold(Ledger::default(), Ledger::merge)
    });
    println!(
        "{name}: {kills} kills in {} blows; {} uploads ({} acknowledged and kept, {} deleted, {} unknown, {} raw \
         refused), {} reads, {} requests failed, {} numbers, {:?}",
        blows.len(),
        ledger.uploads,
        ledger.kept.len(),
        ledger.deleted.len(),
        ledger.doubtful.len(),
        ledger.refused.len(),
        ledger.reads,
        ledger.failures,
        stage.numbers.lock().expect("the numbers").len(),
        start.elapsed()
    );
    assert!(ledger.wrong.is_empty(), "{:#?}", ledger.wrong);
    assert!(ledger.kept.len() > kills * 3, "a storm in which next to nothing was stored shows nothing");
    check(&mut cluster, &stage, &ledger);
    println!("{name}: {:?} with the checks", start.elapsed());
}

fn strike(blow: &Blow, stage: &Stage, cluster: &mut Cluster, database: &mut Option<MariaDb>) {
    thread::sleep(blow.after);
    println!("{:?} away for {:?}", blow.victims, blow.away);
    let ended: Vec<_> =
        cluster.parts().filter_map(|part| (!part.runs()).then(|| part.config().to_owned())).collect();
    assert!(ended.is_empty(), "ended by themselves: {ended:?}");
    stage.announced.fetch_add(1, Ordering::Relaxed);
    thread::sleep(blow.lead);
    for victim in &blow.victims {
        match victim.part(cluster) {
            Some(part) => part.kill(),
            None => database.as_mut().expect("a MariaDB").kill(),
        }
    }
    thread::sleep(blow.away);
    if blow.victims.contains(&Victim::Database) {
        database.as_mut().expect("a MariaDB").restart();
    }
    for victim in &blow.victims {
        if let Some(part) = victim.part(cluster) {
            part.spawn();
        }
    }
    for victim in &blow.victims {
        if let Some(part) = victim.part(cluster) {
            part.wait_ready();
        }
    }
}

/// What must hold after a storm, when nobody has helped.
fn check(cluster: &mut Cluster, stage: &Stage, ledger: &Ledger) {
    cluster.wait_active(4);
    assert!(cluster.parts().all(|part| part.runs()));
    let client = stage.client(Duration::ZERO);

    // Every acknowledged upload is there, whole, for every reader.
    thread::scope(|scope| {
        for files in ledger.kept.chunks(ledger.kept.len().div_ceil(4).max(1)) {
            let client = client.clone();
            scope.spawn(move || {
                for (index, stored) in files.iter().enumerate() {
                    let (mut content, want) = (Vec::new(), stored.content());
                    let read = client.download(&stored.file, 0, 0, &mut content);
                    read.unwrap_or_else(|error| panic!("lost: {}: {error}", stored.target()));
                    assert!(content == want, "{} has other content", stored.target());
                    let response = http::get(stage.httpds[index % 2], &stored.target(), &[]);
                    assert_eq!(response.status, 200, "lost over HTTP: {}", stored.target());
                    assert!(response.body == want, "{} has other content over HTTP", stored.target());
                }
            });
        }
    });
    // What was deleted or refused is away; what nobody knows is whole or away.
    for stored in ledger.deleted.iter().chain(&ledger.refused) {
        let found = client.stat(&stored.file).map(|info| info.size);
        let kind = found.as_ref().err().map(tnv_client::Error::kind);
        assert_eq!(kind, Some(ErrorKind::NotFound), "{}: {found:?}", stored.target());
    }
    let mut landed = 0;
    for stored in &ledger.doubtful {
        let mut content = Vec::new();
        match client.download(&stored.file, 0, 0, &mut content) {
            Ok(_) => {
                assert!(content == stored.content(), "{} is not whole", stored.target());
                landed += 1;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
        }
    }
    println!("of {} unknown outcomes {landed} files are there", ledger.doubtful.len());

    // The tables say the same, and nothing more.
    let mut ids = HashSet::new();
    let mut paths = HashSet::new();
    for table in 1..=3 {
        let rows =
            cluster.sql("tnv_storagedb", &format!("SELECT id, userid, file_path FROM t_file_0{table}"));
        for row in rows {
            let client = cluster_group(&client, &row[1]);
            assert!(paths.insert((client, row[2].clone())), "the path {} was given twice", row[2]);
            assert!(ids.insert(row[0].clone()), "two rows of {}", row[0]);
        }
    }
    let known: HashSet<_> = ledger.kept.iter().map(|stored| stored.file.fileid.as_str().to_owned()).collect();
    let unknown = ledger.doubtful.iter().map(|stored| stored.file.fileid.as_str().to_owned());
    let allowed: HashSet<_> = known.iter().cloned().chain(unknown).collect();
    assert_eq!(known.difference(&ids).next(), None, "an acknowledged upload without a row");
    assert_eq!(ids.difference(&allowed).next(), None, "a row of a refused or deleted upload");
    let doubled = "SELECT userid, COUNT(*) FROM t_router GROUP BY userid HAVING COUNT(*) > 1";
    assert_eq!(cluster.sql("tnv_trackerdb", doubled), Vec::<Vec<String>>::new(), "users with two routes");
    let each: Vec<_> = (stage.trackers.iter())
        .map(|tracker| Client::new(std::slice::from_ref(tracker), Options::default()).expect("a client"))
        .collect();
    for user in 0..USERS {
        let userid = UserId::new(format!("user{user}")).expect("a userid");
        let told: HashSet<_> = (each.iter())
            .map(|client| {
                client.route(&app(), &userid).map(|route| route.group).map_err(|error| error.kind())
            })
            .collect();
        assert_eq!(told.len(), 1, "{userid}: {told:?}");
    }
    // And so do the disks, once what was half-done is settled.
    let took = patient("a file for each row and a row for each file", PATIENCE, || {
        let files = ["group001", "group002"].map(|group| cluster.content_files(group).len());
        files.iter().sum::<usize>() == cluster.file_rows()
    });
    println!("files and rows agreed after {took:?}");
    for storage in [0, 2] {
        fsck(cluster, storage, &["--min-age", "0"]).assert_agrees();
    }
    // All of it works as before.
    let userid = UserId::new("afterwards").expect("a userid");
    let fileid = client.upload(&app(), &userid, &mut &b"after"[..], 5).expect("an upload");
    client.delete(&FileKey { appid: app(), userid, fileid }).expect("a delete");
    cluster.assert_peaks_below(192);
}

/// The group of a user's files: paths are relative to it.
fn cluster_group(client: &Client, userid: &str) -> String {
    let userid = UserId::new(userid).expect("a userid");
    client.route(&app(), &userid).expect("a route").group.as_str().to_owned()
}

fn kills() -> usize {
    knob("TNV_CHAOS_KILLS").map_or(KILLS, |kills| kills as usize)
}

#[test]
fn a_storm_of_kills_loses_nothing_acknowledged() {
    storm("storm", kills() * 3 / 5, None);
}

#[test]
fn a_storm_of_kills_of_servers_and_their_mariadb_loses_nothing_acknowledged() {
    let Some(server) = MariaDb::start() else { return };
    storm("storm-m", kills() * 2 / 5, Some(server));
}

/// What readers and uploaders met while one server at a time went.
#[derive(Default)]
struct Met {
    reads: usize,
    uploads: usize,
    longest_read: Duration,
    longest_upload: Duration,
    failed: Vec<String>,
}

fn calm(name: &str, database: Option<&MariaDb>) {
    let _heavy = heavy();
    let mut dice = Dice::new(seed(name));
    let mut cluster = two_of_each(name, database.map_or(Db::Embedded, Db::Maria)).start();
    let stage = Stage::of(&cluster, 1);
    let client = stage.client(Duration::ZERO);
    let files: Vec<_> = (0..24)
        .map(|index| {
            let userid = UserId::new(format!("user{}", index % 8)).expect("a userid");
            let (bytes, seed) = (if index == 0 { 8 << 20 } else { dice.below(300_000) as usize }, index);
            let mut content = &sample(bytes, seed)[..];
            let fileid = client.upload(&app(), &userid, &mut content, bytes as u64).expect("an upload");
            Stored { file: FileKey { appid: app(), userid, fileid }, bytes, seed }
        })
        .collect();
    let met: Vec<Met> = thread::scope(|scope| {
        let curtain = Curtain(&stage);
        let mut threads = Vec::new();
        for number in 0..6_u64 {
            let (stage, files, mut dice) = (&stage, &files, Dice::new(number + 7));
            threads.push(scope.spawn(move || {
                let client = stage.client(Duration::from_secs(if number % 2 == 0 { 0 } else { 5 }));
                let mut met = Met::default();
                while !stage.is_over() {
                    let stored = &files[dice.below(files.len() as u64) as usize];
                    match number {
                        0 | 1 => read_calmly(&client, stored, &mut met),
                        2 | 3 => get_calmly(stage.httpds[number as usize - 2], stored, &mut met),
                        _ => upload_calmly(&client, stage, number, &mut dice, &mut met),
                    }
                    thread::sleep(Duration::from_millis(10));
                }
                met
            }));
        }
        let victims = [
            Victim::Tracker(0),
            Victim::Id(0),
            Victim::Storage(0),
            Victim::Storage(2),
            Victim::Tracker(1),
            Victim::Id(1),
            Victim::Storage(1),
            Victim::Storage(3),
        ];
        for victim in victims {
            let part = victim.part(&mut cluster).expect("a server of ours");
            println!("{victim:?} is killed");
            part.kill();
            thread::sleep(dice.millis(300, 1500));
            part.start();
            all_well(&cluster);
        }
        // Paused ones hold the embedded database's lock for all of its processes.
        for victim in victims.into_iter().filter(|_| database.is_some()) {
            let part = victim.part(&mut cluster).expect("a server of ours");
            println!("{victim:?} is paused");
            part.signal(Signal::STOP);
            thread::sleep(Duration::from_secs(5));
            part.signal(Signal::CONT);
            all_well(&cluster);
        }
        drop(curtain);
        threads.into_iter().map(|thread| thread.join().expect("a reader")).collect()
    });
    let longest_read = met.iter().map(|met| met.longest_read).max().unwrap_or_default();
    let longest_upload = met.iter().map(|met| met.longest_upload).max().unwrap_or_default();
    let reads = met.iter().map(|met| met.reads).sum::<usize>();
    let uploads = met.iter().map(|met| met.uploads).sum::<usize>();
    println!(
        "{name}: {reads} reads, longest {longest_read:?}; {uploads} uploads, longest {longest_upload:?}"
    );
    let failed: Vec<_> = met.iter().flat_map(|met| &met.failed).collect();
    assert!(failed.is_empty(), "{} of {} failed: {failed:#?}", failed.len(), reads + uploads);
    assert!(reads > 200 && uploads > 50, "too few to show anything");
    assert!(longest_read < READ_STALL_MAX, "a reader waited {longest_read:?}");
}

/// Waits until every server does its work again.
fn all_well(cluster: &Cluster) {
    cluster.wait_active(4);
    for id in &cluster.ids {
        raw::ask(id.address(), &raw::get_id("calm")).success(101);
    }
}

fn read_calmly(client: &Client, stored: &Stored, met: &mut Met) {
    let start = Instant::now();
    let mut content = Vec::new();
    met.reads += 1;
    match client.download(&stored.file, 0, 0, &mut content) {
        Ok(_) if content == stored.content() => {}
        Ok(_) => met.failed.push(format!("{} reads differently", stored.target())),
        Err(error) => met.failed.push(format!("after {:?}: {error}", start.elapsed())),
    }
    met.longest_read = met.longest_read.max(start.elapsed());
}

fn get_calmly(httpd: std::net::SocketAddr, stored: &Stored, met: &mut Met) {
    let start = Instant::now();
    met.reads += 1;
    match http::try_get(httpd, &stored.target()) {
        Ok(response) if response.status == 200 && response.body == stored.content() => {}
        Ok(response) => {
            met.failed.push(format!("after {:?}: {} {}", start.elapsed(), response.status, response.text()));
        }
        Err(error) => met.failed.push(format!("over HTTP after {:?}: {error}", start.elapsed())),
    }
    met.longest_read = met.longest_read.max(start.elapsed());
}

fn upload_calmly(client: &Client, stage: &Stage, number: u64, dice: &mut Dice, met: &mut Met) {
    let path = stage.dir.join(format!("calm{number}"));
    let userid = UserId::new(format!("user{}", dice.below(8))).expect("a userid");
    let (bytes, seed) = (dice.below(600_000) as usize, dice.next());
    std::fs::write(&path, sample(bytes, seed)).expect("write a file");
    let start = Instant::now();
    met.uploads += 1;
    match client.upload_file(&app(), &userid, &path) {
        Ok(fileid) => {
            met.longest_upload = met.longest_upload.max(start.elapsed());
            read_calmly(client, &Stored { file: FileKey { appid: app(), userid, fileid }, bytes, seed }, met);
        }
        Err(error) => met.failed.push(format!("upload, after {:?}: {error}", start.elapsed())),
    }
}

#[test]
fn no_reader_and_no_uploader_notices_that_one_server_is_killed() {
    calm("calm", None);
}

#[test]
fn no_reader_and_no_uploader_notices_that_one_server_is_killed_or_paused_on_mariadb() {
    let Some(server) = MariaDb::start() else { return };
    calm("calm-m", Some(&server));
}

/// Each read waited 20 s for the paused storage to find the file, and content that was on its way 60 s. Ten
/// reads through it are over in less than two of them used to take.
#[test]
fn a_paused_storage_keeps_a_reader_for_seconds_and_the_next_one_not_at_all() {
    let cluster = Builder::new("paused-storage").groups(&["group001"], 2).httpds(1).start();
    let content = sample(48 << 20, 3);
    let id = cluster.upload("tnvideo", "tnv001", &content);
    let client = Stage::of(&cluster, 1).client(Duration::from_secs(5));
    let fileid = FileId::new(&id).expect("a file ID");
    let file = FileKey { appid: app(), userid: UserId::new("tnv001").expect("a userid"), fileid };
    for victim in [0, 1] {
        let mut conn = Http::connect(cluster.httpd());
        conn.request("GET", &format!("/files/{id}"), &[]);
        assert_eq!(conn.head().expect("a head").status, 200);
        let mut got = conn.body(1 << 20).expect("the first bytes");
        cluster.storages[victim].signal(Signal::STOP);
        let start = Instant::now();
        got.extend(conn.body(content.len() - got.len()).expect("the rest from the other member"));
        assert!(got == content);
        println!("the rest of an HTTP answer: {:?}", start.elapsed());
        for _ in 0..10 {
            assert_eq!(client.file_size(&file).expect("a size"), content.len() as u64);
            assert_eq!(
                http::get(cluster.httpd(), &format!("/files/{id}"), &[("Range", "bytes=0-9")]).status,
                206
            );
        }
        println!("that and twenty reads: {:?}", start.elapsed());
        assert!(start.elapsed() < Duration::from_secs(38), "{:?}", start.elapsed());
        cluster.storages[victim].signal(Signal::CONT);
        cluster.wait_active(2);
    }
}

/// The storage that somebody is connected to.
fn busy_storage(cluster: &Cluster) -> usize {
    let mut busy = None;
    patient("a storage at work", PATIENCE, || {
        busy = cluster.storages.iter().position(|storage| established(storage.address()) > 0);
        busy.is_some()
    });
    busy.expect("a storage at work")
}

/// An uploader whose storage fell silent after the content waited a minute, after which there was no time
/// for another attempt: the upload failed although the other storage was well.
#[test]
fn an_upload_whose_reply_is_lost_is_stored_once() {
    let Some(server) = MariaDb::start() else { return };
    let mut cluster = Builder::new("lost-reply").groups(&["group001"], 2).db(Db::Maria(&server)).start();
    let client = Stage::of(&cluster, 1).client(Duration::ZERO);
    let userid = UserId::new("tnv001").expect("a userid");
    client.upload(&app(), &userid, &mut &b"first"[..], 5).expect("an upload");
    for (round, is_killed) in [(0, false), (1, true), (2, false), (3, true)] {
        let path = cluster.file("content", &sample(100_000 * (1 + round), round as u64));
        // A client of its own, so that no idle connection is taken for one at work.
        let client = Stage::of(&cluster, 1).client(Duration::ZERO);
        server.pause();
        let upload = {
            let (userid, path) = (userid.clone(), path.clone());
            thread::spawn(move || client.upload_file(&app(), &userid, &path))
        };
        // With the database paused all of it arrives and no reply goes.
        thread::sleep(Duration::from_millis(500));
        let victim = busy_or_none(&cluster);
        if let Some(victim) = victim {
            match is_killed {
                true => cluster.storages[victim].kill(),
                false => cluster.storages[victim].signal(Signal::STOP),
            }
        }
        println!("round {round}: storage {victim:?} of an upload goes");
        server.resume();
        let outcome = upload.join().expect("an upload");
        let fileid = outcome.expect("an upload that is acknowledged by somebody");
        let uploads = round + 2;
        if let Some(victim) = victim {
            match is_killed {
                true => {
                    cluster.storages[victim].start();
                }
                false => cluster.storages[victim].signal(Signal::CONT),
            }
        }
        cluster.wait_active(2);
        let mut content = Vec::new();
        let file = FileKey { appid: app(), userid: userid.clone(), fileid };
        let reader = Stage::of(&cluster, 1).client(Duration::ZERO);
        reader.download(&file, 0, 0, &mut content).expect("a download");
        assert!(content == std::fs::read(&path).expect("the file"));
        patient("one row and one file an upload", PATIENCE, || {
            cluster.file_rows() == uploads && cluster.content_files("group001").len() == uploads
        });
    }
}

fn busy_or_none(cluster: &Cluster) -> Option<usize> {
    cluster.storages.iter().position(|storage| established(storage.address()) > 0)
}

/// A delete whose only storage went said "timed out" or "closed", as though nothing had happened.
#[test]
fn a_delete_whose_reply_is_lost_is_settled_or_says_so() {
    let Some(server) = MariaDb::start() else { return };
    for members in [1, 2] {
        let mut cluster =
            // Rows of the one before are not this one's files.
            Builder::new("lost-delete").groups(&[&format!("group{members}")], members).db(Db::Maria(&server)).start();
        let userid = UserId::new(format!("user-of-{members}")).expect("a userid");
        let fileid = {
            let client = Stage::of(&cluster, 1).client(Duration::ZERO);
            client.upload(&app(), &userid, &mut &b"content"[..], 7).expect("an upload")
        };
        let file = FileKey { appid: app(), userid, fileid };
        let client = Stage::of(&cluster, 1).client(Duration::from_secs(60));
        client.route(&file.appid, &file.userid).expect("a route");
        server.pause();
        let delete = {
            let (client, file) = (client.clone(), file.clone());
            thread::spawn(move || client.delete(&file))
        };
        let victim = busy_storage(&cluster);
        // It has read the request and waits for its row.
        thread::sleep(Duration::from_millis(500));
        cluster.storages[victim].kill();
        server.resume();
        let outcome = delete.join().expect("a delete");
        println!("{members} members: {outcome:?}");
        cluster.storages[victim].start();
        cluster.wait_active(members);
        let found = client.stat(&file).map(|info| info.size);
        match &outcome {
            Ok(()) => assert_eq!(found.unwrap_err().kind(), ErrorKind::NotFound),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error}");
                assert!(error.message().contains("may have been removed"), "{error}");
                assert_eq!(members, 1, "another member could have told");
            }
        }
    }
}
