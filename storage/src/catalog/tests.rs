//! The files as a whole, on the embedded database and with an ID server of a few lines.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tnv_common::config::kinds::Space;
use tnv_common::db::{Database, DbSettings};
use tnv_common::proto::tnv::{REPLY_ID, command};
use tnv_common::proto::{AppId, FileId, GroupName, HostName, IdKey, UserId};
use tnv_common::rpc::dialect::{Dialect, Tnv};
use tnv_common::rpc::header::{HEADER_BYTES, Header};

use super::*;
use crate::db::SCHEMA;
use crate::file::StoredFile;
use crate::file::recovery::Recovery;
use crate::globals::{MemberName, Settings};
use crate::scratch::Scratch;
use crate::volume::journal::PendingOp;
use tnv_common::rpc::receive::Receiver;
use tnv_tests::tools::promptly;

/// A group's store directory, its database and its ID server.
struct Group {
    scratch: Scratch,
    id_server: SocketAddr,
    stop: Stop,
}

impl Drop for Group {
    fn drop(&mut self) {
        self.stop.set();
    }
}

impl Group {
    /// `repeats`: how often the ID server gives each number, once being what a real one does.
    fn new(repeats: u64) -> Group {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let id_server = listener.local_addr().unwrap();
        let next = Arc::new(std::sync::atomic::AtomicU64::new(0));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, next) = (stream.unwrap(), Arc::clone(&next));
                thread::spawn(move || {
                    let mut header = [0; HEADER_BYTES];
                    while stream.read_exact(&mut header).is_ok() {
                        let header = Header::decode(&header).unwrap();
                        stream.read_exact(&mut vec![0; header.body_bytes as usize]).unwrap();
                        if header.command != command::GET_ID {
                            let unknown = Error::new(ErrorKind::Unsupported, "one at a time");
                            stream.write_all(&Tnv::new(REPLY_ID, "vm").failure_reply(&unknown)).unwrap();
                            return;
                        }
                        let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) / repeats;
                        let reply = [&Header::new(REPLY_ID, 8).encode()[..], &number.to_be_bytes()].concat();
                        stream.write_all(&reply).unwrap();
                    }
                });
            }
        });
        Group { scratch: Scratch::new(), id_server, stop: Stop::new().unwrap() }
    }

    /// A storage of the group.
    fn member(&self, port: u16) -> Arc<Catalog> {
        let database = DbSettings::embedded(self.scratch.path().join("db"));
        let id_servers = vec![self.id_server.to_string()];
        let globals = Globals {
            settings: Settings {
                app_keys: Default::default(),
                app_keys_file: None,
                group: GroupName::new("group001").unwrap(),
                storage_id: None,
                store_paths: vec![IdKey::new(self.data().to_str().unwrap()).unwrap()],
                shared_store: true,
                reserve: Space::Bytes(0),
                fsync: true,
                upload_pace: Default::default(),
                scrub_bytes_a_second: 0,
                scrub_interval: Duration::from_secs(1),
                trackers: Vec::new(),
                id_servers: id_servers.clone(),
                beat_interval: Duration::from_secs(10),
                cache_lifetime: Duration::from_secs(60),
                database: database.clone(),
            },
            host: HostName::new("host").unwrap(),
            member: member_name(port),
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            started: 0,
        };
        let database = Database::open(&database, &SCHEMA, &self.stop).unwrap();
        let db = Db::new(database, &globals.settings.group, 8);
        Arc::new(Catalog::new(&globals, db, Ids::new(&id_servers), &self.stop).unwrap())
    }

    fn data(&self) -> std::path::PathBuf {
        self.scratch.path().join("data")
    }

    /// The files that are there, journals aside.
    fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        collect(&self.data(), &mut found);
        found
    }
}

fn member_name(port: u16) -> MemberName {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    MemberName::new(None, &HostName::new("host").unwrap(), address)
}

fn collect(directory: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if !path.file_name().unwrap().to_str().unwrap().starts_with('.') {
            found.push(path.to_str().unwrap().to_owned());
        }
    }
}

fn triple(fileid: &str) -> FileKey {
    FileKey {
        appid: AppId::new("tnvideo").unwrap(),
        userid: UserId::new("tnv001").unwrap(),
        fileid: FileId::new(fileid).unwrap(),
    }
}

fn upload(files: &Arc<Catalog>, fileid: &str, content: &[u8]) -> Result<()> {
    let mut upload = Box::new(files.upload(triple(fileid), content.len() as u64, None)?);
    content.chunks(100_000).try_for_each(|piece| upload.write(piece))?;
    upload.finish().map(drop)
}

fn content(files: &Catalog, fileid: &str) -> Result<Vec<u8>> {
    let mut found = files.open(&triple(fileid))?;
    let mut content = Vec::new();
    found.what.read_to_end(&mut content).unwrap();
    Ok(content)
}

#[test]
fn a_file_comes_back_as_it_went_in() {
    let group = Group::new(1);
    let files = group.member(1);
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 7) as u8).collect();
    for (name, bytes) in [("empty", &b""[..]), ("one", b"1"), ("large", &large)] {
        upload(&files, name, bytes).unwrap();
        assert_eq!(content(&files, name).unwrap(), bytes);
        let stat = find::stat(&files.look(&triple(name)).unwrap());
        assert_eq!((stat.size, stat.crc32), (bytes.len() as u64, Some(crc32fast::hash(bytes))));
    }
    assert_eq!(group.files().len(), 3);
}

#[test]
fn what_fails_on_the_way_leaves_neither_file_nor_row() {
    let group = Group::new(1);
    let files = group.member(1);
    let mut upload = Box::new(files.upload(triple("a"), 1 << 20, None).unwrap());
    upload.write(&[1; 1000]).unwrap();
    assert_eq!(group.files().len(), 1);
    drop(upload);
    let short = Box::new(files.upload(triple("a"), 10, None).unwrap());
    assert_eq!(short.finish().unwrap_err().kind(), ErrorKind::Protocol, "shorter than it said");
    assert_eq!(group.files(), Vec::<String>::new());
    assert_eq!(files.look(&triple("a")).err().unwrap().kind(), ErrorKind::NotFound);
}

/// Two uploads into one directory: its sync failed for one, and would have succeeded for the other without
/// having written anything.
#[test]
fn a_sync_that_fails_for_one_upload_fails_all_that_were_under_way_there() {
    let group = Group::new(1);
    let files = group.member(1);
    let mut pending = Box::new(files.upload(triple("a"), 1, None).unwrap());
    files.volumes().lose();
    pending.write(b"x").unwrap();
    let outcome = pending.finish();
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("the disk failed during the upload, fileid: a"), "{error}");
    assert_eq!(group.files(), Vec::<String>::new());
    assert_eq!(files.look(&triple("a")).err().unwrap().kind(), ErrorKind::NotFound);
    assert_eq!(upload(&files, "b", b"x").unwrap_err().message(), "no store path works, fileid: b");
}

#[test]
fn a_large_duplicate_is_refused_before_its_content_is_read_and_the_first_one_stays() {
    let group = Group::new(1);
    let files = group.member(1);
    upload(&files, "a", b"first").unwrap();
    let large = files.upload(triple("a"), 1 << 20, None).map(drop).unwrap_err();
    let small = upload(&files, "a", b"other").unwrap_err();
    assert_eq!((large.kind(), small.kind()), (ErrorKind::Exists, ErrorKind::Exists));
    assert_eq!(group.files().len(), 1);
    assert_eq!(content(&files, "a").unwrap(), b"first");
}

#[test]
fn of_two_uploads_of_one_id_at_once_one_wins_and_the_other_leaves_nothing() {
    let group = Group::new(1);
    let files = group.member(1);
    let mut outer = Box::new(files.upload(triple("a"), 5, None).unwrap());
    // The other one begins and ends in the middle of this one.
    upload(&files, "a", b"other").unwrap();
    outer.write(b"outer").unwrap();
    let outer = outer.finish();
    assert_eq!(outer.unwrap_err().kind(), ErrorKind::Exists);
    assert_eq!(content(&files, "a").unwrap(), b"other");
    assert_eq!(group.files().len(), 1);
}

#[test]
fn an_answer_from_the_cache_is_held_against_what_another_member_did() {
    let group = Group::new(1);
    let (one, two) = (group.member(1), group.member(2));
    upload(&one, "a", b"old").unwrap();
    assert_eq!(content(&one, "a").unwrap(), b"old");
    two.delete(&triple("a")).unwrap();
    assert_eq!(one.look(&triple("a")).err().unwrap().kind(), ErrorKind::NotFound);
    upload(&one, "a", b"old").unwrap();
    let before = find::unique(&one.look(&triple("a")).unwrap());
    two.delete(&triple("a")).unwrap();
    upload(&two, "a", b"newer").unwrap();
    assert_eq!(one.look(&triple("a")).unwrap().size(), 5);
    assert_ne!(find::unique(&one.look(&triple("a")).unwrap()), before);
    assert_eq!(content(&one, "a").unwrap(), b"newer");
    two.delete(&triple("a")).unwrap();
    upload(&two, "a", b"newest").unwrap();
    one.delete(&triple("a")).unwrap();
    assert_eq!(group.files(), Vec::<String>::new(), "what the database has goes, and not what the cache had");
    assert_eq!(two.delete(&triple("a")).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn content_that_was_cut_or_is_a_link_is_not_served() {
    let group = Group::new(1);
    let files = group.member(1);
    upload(&files, "a", b"content").unwrap();
    let path = &group.files()[0];
    std::fs::write(path, "cut").unwrap();
    assert_eq!(content(&files, "a").unwrap_err().kind(), ErrorKind::Unavailable);
    std::fs::remove_file(path).unwrap();
    std::fs::write(group.scratch.path().join("secret"), "content").unwrap();
    std::os::unix::fs::symlink(group.scratch.path().join("secret"), path).unwrap();
    assert_eq!(content(&files, "a").unwrap_err().kind(), ErrorKind::Unavailable);
    files.delete(&triple("a")).unwrap();
    assert_eq!(group.files(), Vec::<String>::new());
    assert!(group.scratch.path().join("secret").exists());
}

#[test]
fn a_number_that_was_given_twice_costs_nobody_his_file() {
    let group = Group::new(2);
    let files = group.member(1);
    for name in 0..10 {
        upload(&files, &name.to_string(), name.to_string().as_bytes()).unwrap();
    }
    for name in 0..10 {
        assert_eq!(content(&files, &name.to_string()).unwrap(), name.to_string().as_bytes());
    }
}

#[test]
fn the_next_start_removes_what_a_kill_left_and_keeps_what_has_its_row() {
    let group = Group::new(1);
    let files = group.member(1);
    // One upload has no row yet when the kill comes...
    let mut half = files.upload(triple("half"), 5, None).unwrap();
    half.write(b"h").unwrap();
    // ...the other has its row, but its slot is not released.
    upload(&files, "other", b"other").unwrap();
    let path = files.db.find(&triple("other")).unwrap().unwrap().path;
    let Owner { owner, name } = owner(&triple("other"));
    let entry = JournalEntry { owner, name, path: path.clone() };
    std::mem::forget(files.volumes().journal_of(&path).unwrap().take(&entry).unwrap());
    assert_eq!(group.files().len(), 2);
    // What a kill would leave now, in the name of another member.
    let journal = |port: u16| group.data().join(format!(".uploads-host-127.0.0.1-{port}"));
    std::fs::copy(journal(1), journal(3)).unwrap();
    let started = group.member(3);
    assert_eq!(group.files(), [path]);
    assert_eq!(content(&started, "other").unwrap(), b"other");
    drop(half);
}

#[test]
fn a_row_that_names_a_file_elsewhere_is_not_followed() {
    let group = Group::new(1);
    let files = group.member(1);
    let secret = group.scratch.path().join("secret");
    std::fs::write(&secret, "12345").unwrap();
    let row = StoredFile { path: secret.to_str().unwrap().into(), size: 5, crc32: None };
    files.db.insert(&triple("a"), &row).unwrap();
    assert_eq!(content(&files, "a").unwrap_err().kind(), ErrorKind::Internal);
    assert!(files.delete(&triple("a")).is_err());
    assert!(secret.exists());
}

/// A disk was unmounted between the storage's looks at it, and an upload was acknowledged into its mount
/// point.
#[test]
fn an_upload_never_lands_beside_the_disk_that_was_opened() {
    let group = Group::new(1);
    let files = group.member(1);
    upload(&files, "a", b"a").unwrap();
    let away = group.scratch.path().join("away");
    std::fs::rename(group.data(), &away).unwrap();
    std::fs::create_dir(group.data()).unwrap();
    assert_eq!(upload(&files, "b", b"b").unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(group.files(), Vec::<String>::new());
    assert_eq!(files.look(&triple("b")).err().unwrap().kind(), ErrorKind::NotFound);
    std::fs::remove_dir_all(group.data()).unwrap();
    std::fs::rename(&away, group.data()).unwrap();
    assert_eq!(content(&files, "a").unwrap(), b"a");
    let start = Instant::now();
    while upload(&files, "b", b"b").is_err() {
        assert!(start.elapsed() < Duration::from_secs(10), "it works again");
        thread::sleep(Duration::from_millis(50));
    }
}

/// One file that could not be removed kept all others from being removed.
#[test]
fn a_file_that_cannot_be_removed_is_in_the_way_of_no_other() {
    let group = Group::new(1);
    let files = group.member(1);
    let open = |name: &str| {
        let Owner { owner, name } = owner(&triple(name));
        let path = format!("{}/000/000/000/1_{name}", group.data().display());
        PendingOp { slot: None, entry: JournalEntry { owner, name, path } }
    };
    std::fs::create_dir_all(group.data().join("000/000/000")).unwrap();
    let (recovery, left) = promptly(Duration::from_secs(1), || {
        // Left by a look that took too long.
        let _ = std::fs::remove_file(open("002").entry.path);
        for name in ["001", "003"] {
            std::fs::write(open(name).entry.path, "").unwrap();
        }
        std::fs::create_dir(open("002").entry.path).unwrap();
        let recovery = Recovery::new(is_absent(&files.db), files.volumes());
        ["001", "002", "003"].into_iter().for_each(|name| recovery.add(open(name)));
        recovery.round(None).unwrap();
        assert_eq!(group.files(), Vec::<String>::new());
        std::fs::remove_dir(open("002").entry.path).unwrap();
        std::fs::write(open("002").entry.path, "").unwrap();
        recovery.round(None).unwrap();
        (recovery, group.files().len())
    });
    assert_eq!(left, 1, "it is put off for a while");
    thread::sleep(Duration::from_millis(1100));
    recovery.round(None).unwrap();
    assert_eq!(group.files(), Vec::<String>::new());
}

/// While a network file system hung, each read of it took a worker, until none was left for the others.
#[test]
fn a_disk_that_hangs_takes_no_worker() {
    let group = Group::new(1);
    let files = group.member(1);
    upload(&files, "a", b"a").unwrap();
    let mut files = Arc::into_inner(files).expect("no upload has it any more");
    // One whose threads do not ask the disk behind the test's back.
    let path = IdKey::new(group.data().to_str().unwrap()).unwrap();
    let pages = evidence::pages(&files.db, "group001");
    let options = VolumeOptions {
        reserve: Space::Bytes(0),
        member: member_name(2),
        group: "group001".to_owned(),
        evidence: Arc::new(move || Box::new(RowSearch::new(Arc::clone(&pages)))),
        quarantine: files.quarantine(),
    };
    let (volumes, _) = Volumes::open(&[path], &options).unwrap();
    let engine = Files::new(Arc::new(volumes), Fsync::Yes, is_absent(&files.db)).unwrap();
    files.files = Arc::new(engine);
    let files = Arc::new(files);

    files.volumes().silence();
    assert_eq!(upload(&files, "b", b"b").unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(content(&files, "a").unwrap_err().kind(), ErrorKind::Unavailable);
    files.volumes().ask();
    assert_eq!(content(&files, "a").unwrap(), b"a");
    files.volumes().silence();
    files.delete(&triple("a")).unwrap();
    assert_eq!(files.look(&triple("a")).err().unwrap().kind(), ErrorKind::NotFound);
    assert_eq!(group.files().len(), 1);
    files.volumes().ask();
    thread::sleep(Duration::from_millis(1100));
    files.files.recovery().round(None).unwrap();
    assert_eq!(group.files(), Vec::<String>::new(), "it is removed when the disk answers");
}
