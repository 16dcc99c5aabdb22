//! Volumes as a whole.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tnv_common::config::kinds::Space;
use tnv_common::error::{ErrorKind, Result};
use tnv_common::proto::IdKey;

use super::disk::DiskError;
use super::health::PROOFS;
use super::identity::{self, Evidence, Marker};
use super::journal::PendingOp;
use super::placement::{GRACE, Volumes};
use super::probe::MISSED_MAX;
use super::quarantine::Quarantine;
use super::state::{SILENCE_MAX, Volume, VolumeOptions};
use crate::catalog::evidence::{Claim, Page, RowSearch};
use crate::db::Next;
use crate::file::StoredFile;
use crate::globals::MemberName;
use crate::scratch::Scratch;
use crate::volume::journal::JournalEntry;
use std::net::SocketAddr;
use tnv_common::proto::HostName;

fn key(scratch: &Scratch, name: &str) -> IdKey {
    IdKey::new(scratch.path().join(name).to_str().unwrap()).unwrap()
}

/// With these rows.
fn opening(keys: &[IdKey], rows: &Arc<Mutex<Vec<StoredFile>>>) -> VolumeOptions {
    let address = SocketAddr::from(([127, 0, 0, 1], 23000));
    let member = MemberName::new(None, &HostName::new("host").unwrap(), address);
    let quarantine = Arc::new(Quarantine::new(keys.iter().map(IdKey::as_str), &member, 3));
    let rows = Arc::clone(rows);
    let pages = Arc::new(move |table: usize, next: Next<'_>| {
        let is_first = table == 0 && next == Next::First;
        let files = if is_first { rows.lock().unwrap().clone() } else { Vec::new() };
        let claims: Vec<_> = files.into_iter().map(|file| Claim { file, is_own: false }).collect();
        Ok(Page { last: (!claims.is_empty()).then(String::new), claims })
    });
    let evidence =
        Arc::new(move || -> Box<dyn Evidence> { Box::new(RowSearch::new(Arc::clone(&pages) as _)) });
    VolumeOptions { reserve: Space::Bytes(1000), member, group: "group001".to_owned(), evidence, quarantine }
}

fn try_open(scratch: &Scratch, names: &[&str], rows: &Arc<Mutex<Vec<StoredFile>>>) -> Result<Volumes> {
    let keys: Vec<_> = names.iter().map(|name| key(scratch, name)).collect();
    Volumes::open(&keys, &opening(&keys, rows)).map(|(volumes, _)| volumes)
}

fn volumes(scratch: &Scratch, names: &[&str]) -> Volumes {
    try_open(scratch, names, &Arc::default()).unwrap()
}

fn set(store: &Volume, free: u64) {
    let mut state = store.state();
    state.free = free;
    state.total = 1 << 40;
    state.asked_at = Instant::now() + Duration::from_secs(3600);
}

/// Two, the first of which has more room and so comes first.
fn two_stores(scratch: &Scratch) -> Volumes {
    let volumes = volumes(scratch, &["a", "b"]);
    set(&volumes.volumes[0], 9000);
    set(&volumes.volumes[1], 5000);
    volumes
}

/// What the store path's thread does every second.
fn look(store: &Volume) -> Vec<PendingOp> {
    let mut left = Vec::new();
    let asked = store.ask(&mut left, Instant::now());
    store.note(asked);
    left
}

fn order(volumes: &Volumes, size: u64) -> Vec<String> {
    let candidates = volumes.candidates(size).unwrap_or_default();
    candidates.iter().map(|store| store.path.rsplit('/').next().unwrap().to_owned()).collect()
}

#[test]
fn the_most_free_store_path_comes_first_and_a_full_one_not_at_all() {
    let scratch = Scratch::new();
    let volumes = volumes(&scratch, &["a", "b", "c"]);
    set(&volumes.volumes[0], 5000);
    set(&volumes.volumes[1], 9000);
    set(&volumes.volumes[2], 999);
    assert_eq!(order(&volumes, 0), ["b", "a"], "c is below the reserve");
    assert_eq!(order(&volumes, 4000), ["b", "a"]);
    assert_eq!(order(&volumes, 4001), ["b"]);
    assert_eq!(order(&volumes, 8001), Vec::<String>::new());
}

#[test]
fn what_uploads_under_way_will_need_is_not_given_away_twice() {
    let scratch = Scratch::new();
    let volumes = volumes(&scratch, &["a"]);
    set(&volumes.volumes[0], 9000);
    let mut reservation = volumes.volumes[0].reserve(6000).unwrap();
    assert_eq!(order(&volumes, 2001), Vec::<String>::new());
    assert_eq!(order(&volumes, 2000), ["a"]);
    reservation.written(6000);
    assert_eq!(order(&volumes, 2001), Vec::<String>::new(), "it is on the disk now");
    drop(reservation);
    assert_eq!(order(&volumes, 2000), ["a"]);
    assert!(volumes.volumes[0].reserve(2001).is_none());
    drop(volumes.volumes[0].reserve(2000));
    assert_eq!(order(&volumes, 2000), ["a"], "an upload that failed gives it back");
}

#[test]
fn a_store_path_that_failed_is_tried_last() {
    let scratch = Scratch::new();
    let volumes = two_stores(&scratch);
    volumes.volumes[0].failed(&DiskError::of("create a file", io::Error::other("too many links")));
    set(&volumes.volumes[0], 9000);
    assert_eq!(order(&volumes, 100), ["b", "a"]);
    assert_eq!(order(&volumes, 6000), ["a"]);
}

#[test]
fn a_store_path_that_is_bad_takes_no_files_until_it_has_proven_itself() {
    let scratch = Scratch::new();
    let volumes = two_stores(&scratch);
    let bad = &volumes.volumes[0];
    bad.failed(&DiskError::of_sync("sync", io::Error::other("lost")));
    assert_eq!(order(&volumes, 100), ["b"]);
    assert!(bad.reserve(1).is_none(), "nor from whoever chose it before");
    for _ in 0..PROOFS {
        assert_eq!(order(&volumes, 100), ["b"]);
        bad.prove();
    }
    assert_eq!(fs::read_dir(&bad.path).unwrap().count(), 2, "the marker and the journal");
    assert!(bad.reserve(1).is_some());
    assert_eq!(bad.error_epoch(), 1);
}

#[test]
fn a_missing_store_path_is_made_and_one_that_cannot_be_is_named() {
    let scratch = Scratch::new();
    assert_eq!(order(&volumes(&scratch, &["new/deep"]), 0).len(), 1);
    std::fs::write(scratch.path().join("file"), "").unwrap();
    let error = try_open(&scratch, &["file"], &Arc::default()).err().unwrap();
    assert!(error.message().contains("/file'"), "{error}");
}

#[test]
fn a_delete_is_noted_in_the_journal_of_its_store_path() {
    let scratch = Scratch::new();
    let volumes = volumes(&scratch, &["a", "aa"]);
    let path = format!("{}/000/000/000/1_000", volumes.volumes[1].path);
    assert!(Arc::ptr_eq(&volumes.journal_of(&path).unwrap(), &volumes.volumes[1].journal().unwrap()));
    assert!(Arc::ptr_eq(&volumes.journal_of("elsewhere/x").unwrap(), &volumes.volumes[0].journal().unwrap()));
}

/// A network file system whose cable was cut hung for a minute, and with it the workers of all
/// uploads, whatever other disks there were.
#[test]
fn a_disk_that_hangs_is_passed_over_without_asking_it() {
    let scratch = Scratch::new();
    let volumes = two_stores(&scratch);
    volumes.silence();
    assert_eq!(volumes.candidates(100).err().unwrap().kind(), ErrorKind::Unavailable);
    look(&volumes.volumes[1]);
    assert_eq!(order(&volumes, 100), ["b"]);
    let path = format!("{}/x", volumes.volumes[0].path);
    assert!(volumes.answers_soon(&path).is_err());
    assert!(Arc::ptr_eq(&volumes.journal_of(&path).unwrap(), &volumes.volumes[1].journal().unwrap()));
    look(&volumes.volumes[0]);
    assert_eq!(order(&volumes, 100).len(), 2);
    assert!(volumes.answers(&path).is_ok());
}

/// The host of another member was cut off, and for the second in which GlusterFS was silent for longer
/// than 5 s the member that was left refused uploads and reads, with nobody else to do them.
#[test]
fn a_disk_that_hangs_is_waited_for_where_no_other_one_answers() {
    let scratch = Scratch::new();
    let volumes = two_stores(&scratch);
    let path = format!("{}/x", volumes.volumes[0].path);
    let hang = |store: &Volume| store.state().asked_at = Instant::now() - SILENCE_MAX - GRACE;
    hang(&volumes.volumes[0]);
    assert!(volumes.answers_soon(&path).is_err(), "the other one answers");
    hang(&volumes.volumes[1]);
    thread::scope(|scope| {
        let reader = scope.spawn(|| volumes.answers_soon(&path));
        let uploader = scope.spawn(|| volumes.candidates(100).map(|candidates| candidates.len()));
        thread::sleep(GRACE * 3);
        assert!(!reader.is_finished() && !uploader.is_finished(), "they wait");
        look(&volumes.volumes[0]);
        assert!(reader.join().unwrap().is_ok());
        assert_eq!(uploader.join().unwrap().unwrap(), 1, "the other one still hangs");
    });
}

/// A disk was unmounted under a running storage, and uploads were acknowledged into the empty mount
/// point, on another disk.
#[test]
fn a_store_path_whose_journal_is_not_in_its_place_is_passed_over_until_it_is_back() {
    let scratch = Scratch::new();
    let volumes = volumes(&scratch, &["a"]);
    let (path, away) = (scratch.path().join("a"), scratch.path().join("away"));
    let file = format!("{}/000/000/000/1_000", volumes.volumes[0].path);
    fs::rename(&path, &away).unwrap();
    for mount_point in [false, true] {
        if mount_point {
            fs::create_dir(&path).unwrap();
        }
        look(&volumes.volumes[0]);
        assert_eq!(volumes.candidates(0).err().unwrap().kind(), ErrorKind::Unavailable);
        assert!(volumes.remove(&file).is_err(), "it may be there on the other disk");
    }
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    fs::remove_dir(&path).unwrap();
    fs::rename(&away, &path).unwrap();
    look(&volumes.volumes[0]);
    assert_eq!(order(&volumes, 0), ["a"]);
    assert!(volumes.remove(&file).is_ok());
}

/// One disk that was full or read-only kept a storage of twelve from starting.
#[test]
fn a_store_path_that_cannot_be_opened_is_opened_later_with_what_was_left_in_it() {
    let scratch = Scratch::new();
    let entry = JournalEntry {
        owner: "u".to_owned(),
        name: "f".to_owned(),
        path: format!("{}/b/000/000/000/1_000", scratch.path().display()),
    };
    drop(volumes(&scratch, &["b"]).volumes[0].journal().unwrap().take(&entry).unwrap());
    fs::rename(scratch.path().join("b"), scratch.path().join("away")).unwrap();
    fs::write(scratch.path().join("b"), "").unwrap();
    let volumes = volumes(&scratch, &["a", "b"]);
    assert_eq!(order(&volumes, 0), ["a"]);
    assert!(volumes.remove(&entry.path).is_err());
    assert!(volumes.journal_of(&entry.path).is_some(), "a delete is noted elsewhere meanwhile");
    fs::remove_file(scratch.path().join("b")).unwrap();
    fs::rename(scratch.path().join("away"), scratch.path().join("b")).unwrap();
    let left = look(&volumes.volumes[1]);
    assert_eq!(left.iter().map(|open| &open.entry).collect::<Vec<_>>(), [&entry]);
    assert_eq!(order(&volumes, 0).len(), 2);
}

#[test]
fn a_store_path_that_another_storage_has_is_no_matter_to_go_on_without() {
    let scratch = Scratch::new();
    let first = volumes(&scratch, &["b"]);
    let error = thread::scope(|scope| {
        let second = scope.spawn(|| try_open(&scratch, &["a", "b"], &Arc::default()).err().unwrap());
        while !second.is_finished() {
            first.ask();
            thread::sleep(GRACE);
        }
        second.join().unwrap()
    });
    assert_eq!(error.kind(), ErrorKind::Busy);
    // One that shows nothing is perhaps another storage that takes over what is there.
    let second = try_open(&scratch, &["a", "b"], &Arc::default()).unwrap();
    assert_eq!(order(&second, 0), ["a"]);
    drop(first);
    second.ask();
    assert_eq!(order(&second, 0).len(), 2);
}

fn row(scratch: &Scratch, store: &str) -> StoredFile {
    StoredFile { path: format!("{}/000/000/000/1_000", key(scratch, store)), size: 1, crc32: None }
}

/// A disk was not mounted at the start: its store path got a directory and a journal on the disk below,
/// and what was uploaded there was gone from sight when the disk was mounted.
#[test]
fn a_store_path_whose_rows_have_no_file_there_is_left_alone_until_its_disk_comes() {
    let scratch = Scratch::new();
    let rows = Arc::new(Mutex::new(vec![row(&scratch, "a")]));
    for is_mount_point in [false, true] {
        if is_mount_point {
            fs::create_dir(scratch.path().join("a")).unwrap();
        }
        let volumes = try_open(&scratch, &["a"], &rows).unwrap();
        assert_eq!(volumes.candidates(0).err().unwrap().kind(), ErrorKind::Unavailable);
        assert!(volumes.remove(&rows.lock().unwrap()[0].path).is_err(), "it may be there on its disk");
        look(&volumes.volumes[0]);
        assert_eq!(scratch.path().join("a").exists(), is_mount_point);
        if is_mount_point {
            assert_eq!(fs::read_dir(scratch.path().join("a")).unwrap().count(), 0);
        }
        // The disk of a previous version is mounted: no marker, and the file is there.
        fs::create_dir_all(scratch.path().join("a/000/000/000")).unwrap();
        fs::write(&rows.lock().unwrap()[0].path, "1").unwrap();
        look(&volumes.volumes[0]);
        assert_eq!(order(&volumes, 0), ["a"]);
        drop(volumes);
        fs::remove_dir_all(scratch.path().join("a")).unwrap();
    }
}

#[test]
fn a_store_path_without_its_disk_is_in_no_other_ones_way() {
    let scratch = Scratch::new();
    let rows = Arc::new(Mutex::new(vec![row(&scratch, "a")]));
    assert_eq!(order(&try_open(&scratch, &["a", "b"], &rows).unwrap(), 0), ["b"]);
}

#[test]
fn disks_that_were_exchanged_take_no_files() {
    let scratch = Scratch::new();
    let rows = Arc::new(Mutex::new(Vec::new()));
    drop(try_open(&scratch, &["a", "b"], &rows).unwrap());
    let [a, b, c] = ["a", "b", "c"].map(|name| scratch.path().join(name));
    let path = |store: &str, name: &str| format!("{}/000/000/000/{name}", key(&scratch, store));
    let row = |path: String| StoredFile { path, size: 1, crc32: None };
    *rows.lock().unwrap() = vec![row(path("a", "1_000")), row(path("b", "2_000"))];
    for (store, name) in [("a", "1_000"), ("b", "2_000")] {
        fs::create_dir_all(scratch.path().join(store).join("000/000/000")).unwrap();
        fs::write(path(store, name), "1").unwrap();
    }
    for (from, to) in [(&a, &c), (&b, &a), (&c, &b)] {
        fs::rename(from, to).unwrap();
    }
    assert_eq!(order(&try_open(&scratch, &["a", "b"], &rows).unwrap(), 0), Vec::<String>::new());
    for (from, to) in [(&a, &c), (&b, &a), (&c, &b)] {
        fs::rename(from, to).unwrap();
    }
    assert_eq!(order(&try_open(&scratch, &["a", "b"], &rows).unwrap(), 0).len(), 2);
}

#[test]
fn another_disk_under_a_running_storage_takes_no_files_though_it_has_a_marker() {
    let scratch = Scratch::new();
    drop(volumes(&scratch, &["a"]));
    fs::rename(scratch.path().join("a"), scratch.path().join("other")).unwrap();
    let volumes = volumes(&scratch, &["a"]);
    fs::rename(scratch.path().join("a"), scratch.path().join("first")).unwrap();
    fs::rename(scratch.path().join("other"), scratch.path().join("a")).unwrap();
    look(&volumes.volumes[0]);
    assert_eq!(order(&volumes, 0), Vec::<String>::new());
    fs::rename(scratch.path().join("a"), scratch.path().join("other")).unwrap();
    fs::rename(scratch.path().join("first"), scratch.path().join("a")).unwrap();
    look(&volumes.volumes[0]);
    assert_eq!(order(&volumes, 0), ["a"]);
}

/// A process that stood still for long lost its journal to another member.
#[test]
fn a_journal_that_is_gone_from_its_disk_is_made_anew_and_fails_what_is_under_way() {
    let scratch = Scratch::new();
    let volumes = volumes(&scratch, &["a"]);
    let store = &volumes.volumes[0];
    let before = store.error_epoch();
    for entry in fs::read_dir(&store.path).unwrap() {
        let path = entry.unwrap().path();
        if path.to_str().unwrap().contains(".uploads-") {
            fs::remove_file(path).unwrap();
        }
    }
    for _ in 1..MISSED_MAX {
        look(store);
        assert_eq!(order(&volumes, 0), Vec::<String>::new());
    }
    look(store);
    assert_eq!(order(&volumes, 0), ["a"]);
    assert!(store.error_epoch() != before && store.journal().unwrap().is_held());
}

/// The story: a FUSE client died and its volume was mounted anew. The store path led to the same volume through
/// another device, and was refused until a restart. A file system in memory plays the other device.
#[test]
fn a_volume_that_is_mounted_anew_is_taken_back_at_once() {
    let scratch = Scratch::new();
    let memory = Path::new("/dev/shm").join(format!("tnv-anew-{}", std::process::id()));
    let device = |path: &Path| std::os::unix::fs::MetadataExt::dev(&fs::metadata(path).unwrap());
    if !Path::new("/dev/shm").is_dir() || device(Path::new("/dev/shm")) == device(scratch.path()) {
        return; // There is no other file system here.
    }
    let (first, a) = (scratch.path().join("first"), scratch.path().join("a"));
    fs::create_dir(&first).unwrap();
    fs::create_dir_all(&memory).unwrap();
    let mount = |at: &Path| {
        let _ = fs::remove_file(&a);
        std::os::unix::fs::symlink(at, &a).unwrap();
    };
    mount(&first);
    let volumes = volumes(&scratch, &["a"]);
    let store = &volumes.volumes[0];
    set(store, 9000);
    let reservation = store.reserve(1).unwrap();
    let (before, journal) = (store.error_epoch(), store.journal().unwrap());
    let entry = JournalEntry {
        owner: "u".to_owned(),
        name: "f".to_owned(),
        path: format!("{}/000/000/000/1_000", store.path),
    };
    let slot = journal.take(&entry).unwrap();
    assert!(slot.is_held());
    // Another volume is none of ours.
    mount(&memory);
    fs::write(memory.join(identity::NAME), Marker::new(&store.path, "group001").to_string()).unwrap();
    look(store);
    assert_eq!(order(&volumes, 0), Vec::<String>::new());
    assert!(slot.is_held() && store.error_epoch() == before, "the first one may come back");
    for entry in fs::read_dir(&first).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), memory.join(entry.file_name())).unwrap();
    }
    let left = look(store);
    assert_eq!(left.iter().map(|open| &open.entry).collect::<Vec<_>>(), [&entry], "to be undone");
    assert_eq!(order(&volumes, 0), ["a"]);
    assert!(!slot.is_held() && !slot.verify(), "of what was under way nothing is acknowledged");
    assert!(reservation.is_outlived() && store.error_epoch() != before);
    assert!(!Arc::ptr_eq(&journal, &store.journal().unwrap()) && store.journal().unwrap().is_held());
    // What fails on the mount that is gone says nothing of this one.
    reservation.volume().failed(&DiskError::of_sync("sync", io::Error::other("not connected")));
    assert_eq!(order(&volumes, 0), ["a"]);
    fs::remove_dir_all(memory).unwrap();
}

#[test]
fn a_slash_at_the_end_of_a_store_path_is_no_other_store_path() {
    let scratch = Scratch::new();
    let volumes = volumes(&scratch, &["a/", "b"]);
    let store = &volumes.volumes[0];
    assert!(store.path().as_str().ends_with('/') && !store.path.ends_with('/'));
    for slashes in ["/", "//"] {
        let path = format!("{}{slashes}000/000/000/1_000", store.path);
        assert!(Arc::ptr_eq(volumes.store_of(&path).unwrap(), store));
    }
}
