//! That what is acknowledged is on stable storage: the order of each upload's system calls, as strace sees
//! it from outside. And that it is what was meant, where the client says what that is.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tnv_tests::cluster::Part;
use tnv_tests::mariadb::MariaDb;
use tnv_tests::raw::{self, Raw};
use tnv_tests::strace::{Call, Strace};
use tnv_tests::{Builder, Cluster, Db, PATIENCE, patient, sample};

/// What an upload does that its durability depends on.
const CALLS: &str = "trace=openat,mkdir,mkdirat,write,writev,pwrite64,pwritev,sendto,sendmsg,recvfrom,recvmsg,read,readv,\
                     fsync,fdatasync";

/// How a commit is seen.
#[derive(Clone)]
enum Commit {
    /// SQLite syncs its log.
    Log(PathBuf),
    /// MariaDB, at this address, answers.
    Answer(SocketAddr),
}

/// One upload, seen from outside.
#[derive(Clone)]
struct Upload {
    calls: Vec<Call>,
    /// The directory that the storage runs in.
    cwd: PathBuf,
    file: PathBuf,
    bytes: usize,
    client: SocketAddr,
    commit: Commit,
}

impl Upload {
    /// Holds the calls against the order write → syncs of the file, of its directory, and of what each
    /// new directory is in → commit → reply. Gives the calls that it rests on, and what is missing.
    fn check(&self) -> (Vec<usize>, Vec<String>) {
        let mut checker = Checker { calls: &self.calls, used: Vec::new(), missing: Vec::new() };
        let is = |call: &Call, names: &[&str]| names.contains(&call.name.as_str());
        let on = |call: &Call, path: &Path| Path::new(call.target()) == path && call.returned >= 0;
        let syncs = |call: &Call, path: &Path| is(call, &["fsync", "fdatasync"]) && on(call, path);

        let writes = |call: &Call| is(call, &["write", "writev", "pwrite64", "pwritev"]);
        let content = checker.last("content", 0, usize::MAX, |call| writes(call) && on(call, &self.file));
        let written: i64 = self
            .calls
            .iter()
            .filter(|call| writes(call) && on(call, &self.file))
            .map(|call| call.returned)
            .sum();
        assert_eq!(written, self.bytes as i64, "all of the content is seen");

        let to = format!("->{}]", self.client);
        let reply = checker.first("reply", 0, usize::MAX, |call| {
            is(call, &["sendto", "sendmsg", "write"]) && call.target().ends_with(&to)
        });

        // From the reply backwards, so that each is held against what must come after it.
        let commit = match &self.commit {
            Commit::Log(log) => {
                let frames =
                    checker.last("commit written", 0, reply.begin, |call| writes(call) && on(call, log));
                let sync = checker.first("commit synced", frames.end, reply.begin, |call| syncs(call, log));
                Span { begin: frames.first_begin(&self.calls, log), end: sync.end }
            }
            Commit::Answer(server) => {
                let to = format!("->{server}]");
                let asks = checker.last("commit sent", 0, reply.begin, |call| {
                    is(call, &["sendto", "sendmsg", "write", "writev"])
                        && call.target().ends_with(&to)
                        && call.args.contains("COMMIT")
                });
                // An OK packet: its length, its number, and 0.
                let answer = checker.first("commit answered", asks.end, reply.begin, |call| {
                    is(call, &["recvfrom", "recvmsg", "read", "readv"])
                        && call.target().ends_with(&to)
                        && call.returned > 0
                        && call.args.contains("\\0\\0\\1\\0")
                });
                Span { begin: asks.begin, end: answer.end }
            }
        };
        checker.first("file synced", content.end, commit.begin, |call| syncs(call, &self.file));
        let directory = self.file.parent().expect("a directory");
        checker.first("directory synced", content.end, commit.begin, |call| syncs(call, directory));
        for call in self.calls.iter().filter(|call| is(call, &["mkdir", "mkdirat"]) && call.returned == 0) {
            let made = call.args.split('"').nth(1).expect("a path");
            let parent = self.cwd.join(made).parent().expect("a parent").canonicalize().expect("a directory");
            let what = format!("parent of {made} synced");
            checker.first(&what, call.end, commit.begin, |call| syncs(call, &parent));
        }
        (checker.used, checker.missing)
    }

    /// The new directories.
    fn made(&self) -> usize {
        self.calls.iter().filter(|call| call.name.starts_with("mkdir") && call.returned == 0).count()
    }
}

/// From the begin of one call to the end of another.
#[derive(Clone, Copy)]
struct Span {
    begin: usize,
    end: usize,
}

impl Span {
    /// Where the frames of the transaction begin of which this is the last one: after the sync before it.
    fn first_begin(self, calls: &[Call], log: &Path) -> usize {
        let on = |call: &&Call| Path::new(call.target()) == log && call.begin <= self.begin;
        let before =
            calls.iter().filter(on).filter(|call| call.name.ends_with("sync")).map(|call| call.end).max();
        let writes = calls.iter().filter(on).filter(|call| call.name.contains("write"));
        writes.map(|call| call.begin).filter(|begin| Some(*begin) > before).min().unwrap_or(self.begin)
    }
}

struct Checker<'a> {
    calls: &'a [Call],
    used: Vec<usize>,
    missing: Vec<String>,
}

impl Checker<'_> {
    /// The first call of a kind that lies between two lines wholly.
    fn first(&mut self, what: &str, after: usize, before: usize, wanted: impl Fn(&Call) -> bool) -> Span {
        let found =
            self.calls.iter().position(|call| call.begin >= after && call.end <= before && wanted(call));
        self.found(what, found, after)
    }

    /// The last one.
    fn last(&mut self, what: &str, after: usize, before: usize, wanted: impl Fn(&Call) -> bool) -> Span {
        let found =
            self.calls.iter().rposition(|call| call.begin >= after && call.end <= before && wanted(call));
        self.found(what, found, after)
    }

    fn found(&mut self, what: &str, found: Option<usize>, after: usize) -> Span {
        match found {
            Some(index) => {
                self.used.push(index);
                Span { begin: self.calls[index].begin, end: self.calls[index].end }
            }
            None => {
                self.missing.push(what.to_owned());
                // What was to come after it is still held against what comes before it.
                Span { begin: usize::MAX, end: after }
            }
        }
    }
}

/// Uploads one file of so many bytes under strace.
fn watched(
    test: &str,
    cluster: &Cluster,
    maria: Option<&MariaDb>,
    fileid: &str,
    bytes: usize,
) -> Option<Upload> {
    patient("a group for the user", PATIENCE, || {
        raw::ask(cluster.tracker(), &raw::addresses("tnvideo", "tnv001")).status == 0
    });
    let mut raw = Raw::connect(cluster.storage());
    let client = raw.stream().local_addr().expect("an address");
    let output = cluster.path(&format!("log/{fileid}.strace"));
    let strace = Strace::attach(test, &cluster.storages[0], &["-e", CALLS], &output)?;
    raw.ask(&raw::upload("tnvideo", "tnv001", fileid, &sample(bytes, 1))).success(102);
    // Another exchange: strace notes the end of the call that sent the reply after the reply has come.
    raw.ask(&raw::filesize("tnvideo", "tnv001", fileid)).success(102);
    let calls = strace.detach();
    let cwd = cluster.storages[0].cwd().to_owned();
    let path = cluster.file_row("tnv001", fileid).expect("a row")[2].clone();
    let commit = match maria {
        Some(server) => Commit::Answer(server.addr().parse().expect("an address")),
        None => {
            let db = cluster.path("db").canonicalize().expect("the database's directory");
            Commit::Log(db.join("tnv_storagedb.db-wal"))
        }
    };
    let file = cwd.join(path).canonicalize().expect("the file");
    Some(Upload { calls, cwd, file, bytes, client, commit })
}

/// Holds uploads into new and into known directories, of one write and of many, against the order.
fn holds_to_the_order(test: &str, cluster: &Cluster, maria: Option<&MariaDb>) {
    for (fileid, bytes, made) in [("first", 1000, 3), ("second", 1, 0), ("large", 40 << 20, 0)] {
        let Some(upload) = watched(test, cluster, maria, fileid, bytes) else { return };
        let (used, missing) = upload.check();
        assert_eq!(missing, Vec::<String>::new(), "{fileid}: {:#?}", upload.calls);
        assert_eq!(upload.made(), made, "new directories of {fileid}");
        println!("{fileid}: {} calls, the order rests on {}", upload.calls.len(), used.len());
        // The look is not blind: with the syncs of any one of these left out, or the reply sent at the
        // start, it finds what is wrong.
        for &index in &used {
            let call = &upload.calls[index];
            let calls = match call.name.ends_with("sync") {
                true => upload
                    .calls
                    .iter()
                    .filter(|other| !(other.name.ends_with("sync") && other.target() == call.target()))
                    .cloned()
                    .collect(),
                false if call.target().ends_with(&format!("->{}]", upload.client)) => {
                    let early = Call { begin: 0, end: 0, ..call.clone() };
                    upload.calls.iter().take(index).cloned().chain([early]).collect()
                }
                false => continue,
            };
            let broken = Upload { calls, ..upload.clone() };
            assert!(!broken.check().1.is_empty(), "not missed: {call:?}");
        }
    }
}

#[test]
fn an_upload_is_on_stable_storage_before_its_row_and_its_row_before_its_reply() {
    let cluster = Builder::new("order").start();
    holds_to_the_order(
        "an_upload_is_on_stable_storage_before_its_row_and_its_row_before_its_reply",
        &cluster,
        None,
    );
}

#[test]
fn an_upload_is_on_stable_storage_before_mariadb_commits_its_row_and_that_before_its_reply() {
    let Some(server) = MariaDb::start() else { return };
    let cluster = Builder::new("order-maria").db(Db::Maria(&server)).start();
    holds_to_the_order(
        "an_upload_is_on_stable_storage_before_mariadb_commits_its_row_and_that_before_its_reply",
        &cluster,
        Some(&server),
    );
}

/// The control of the two above: where nothing is synced the very same look finds it missing. The order
/// stays.
#[test]
fn with_tnv_fsync_no_nothing_is_synced_before_the_reply() {
    const TEST: &str = "with_tnv_fsync_no_nothing_is_synced_before_the_reply";
    let cluster = Builder::new("no-fsync").set(Part::Storage, "tnv_fsync", "no").start();
    let Some(upload) = watched(TEST, &cluster, None, "first", 40 << 20) else { return };
    let (_, mut missing) = upload.check();
    missing.sort();
    assert_eq!(
        missing,
        [
            "commit synced",
            "directory synced",
            "file synced",
            "parent of ../data/000 synced",
            "parent of ../data/000/000 synced",
            "parent of ../data/000/000/000 synced"
        ]
    );
    for place in ["group001/data", "db"] {
        let place = cluster.path(place).canonicalize().expect("a directory");
        let synced =
            |call: &&Call| call.name.ends_with("sync") && Path::new(call.target()).starts_with(&place);
        assert_eq!(upload.calls.iter().filter(synced).count(), 0, "in {}", place.display());
    }
    assert!(cluster.storages[0].log().contains("tnv_fsync = no"));
}

#[test]
fn an_upload_that_is_not_what_its_checksum_says_is_refused_and_leaves_nothing() {
    let cluster = Builder::new("checked").start();
    assert_eq!(raw::crc32(b"123456789"), 0xCBF4_3926);
    cluster.put("tnv001", "unchecked", b"x");
    let mut raw = Raw::connect(cluster.storage());
    // The question whether the storage knows the command.
    assert_eq!(raw.ask(&raw::message(123, &[])).success(102), b"");
    for (fileid, size) in [("empty", 0), ("small", 1000), ("large", 3_000_000)] {
        let content = sample(size, 8);
        let crc32 = raw::crc32(&content);
        let wrong = raw.ask(&raw::upload_checked("tnvideo", "tnv001", fileid, &content, crc32 ^ 0x100));
        let text = wrong.failure(102);
        assert!(text.contains(&format!("has the CRC-32 {crc32:08x}, want {:08x}", crc32 ^ 0x100)), "{text}");
        assert_eq!(i16::from_be_bytes([wrong.body[0], wrong.body[1]]), -74);
        assert_eq!(cluster.file_row("tnv001", fileid), None);
        assert_eq!(cluster.content_files("group001").len(), cluster.file_rows());
        // On the same connection, under the same ID.
        raw.ask(&raw::upload_checked("tnvideo", "tnv001", fileid, &content, crc32)).success(102);
        let back = raw::ask(cluster.storage(), &raw::download("tnvideo", "tnv001", fileid, 0, 0));
        assert!(back.success(102) == content);
    }
    // One that is damaged on the way: the bytes are others than those that the checksum was made of.
    let mut damaged = raw::upload_checked("tnvideo", "tnv001", "damaged", &[7; 5000], raw::crc32(&[7; 5000]));
    damaged[3000] ^= 0x10;
    raw.ask(&damaged).failure(102);
    let mut lying = raw::upload_checked("tnvideo", "tnv001", "lying", b"content", 1);
    lying[7] -= 8;
    raw.send(&lying);
    assert!(raw.frame().failure(102).contains("invalid body length"));
    assert_eq!((cluster.content_files("group001").len(), cluster.file_rows()), (4, 4));
}

#[test]
fn the_command_line_uploads_a_file_only_where_it_has_the_checksum_that_was_given() {
    let cluster = Builder::new("checked-cli").groups(&["group001"], 2).start();
    let content = sample(700_000, 9);
    let file = cluster.file("film", &content);
    let crc32 = raw::crc32(&content);
    let upload = |crc32: u32| {
        let crc32 = format!("{crc32:08x}");
        cluster.tnv(&["upload", "--crc32", &crc32, "tnvideo", "tnv001", file.to_str().expect("UTF-8")])
    };
    let out = upload(crc32).success();
    let fileid = out.strip_prefix("Upload success: ").expect("an ID").trim();
    let back = raw::ask(cluster.storage(), &raw::download("tnvideo", "tnv001", fileid, 0, 0));
    assert!(back.success(102) == content);
    let wrong = upload(!crc32);
    assert_eq!(wrong.code, 1);
    assert!(wrong.stderr.contains("the content has the CRC-32"), "{}", wrong.stderr);
    patient("nothing of it stays", PATIENCE, || cluster.content_files("group001").len() == 1);
    assert_eq!(cluster.file_rows(), 1);
}
