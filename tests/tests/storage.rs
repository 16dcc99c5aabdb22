//! What a storage promises when its disks, its database or its neighbours are not as they were: nothing
//! is acknowledged onto the wrong disk, one disk's trouble is not the others', and what it knows it
//! serves.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tnv_tests::cluster::{Part, active, free_address, write_config};
use tnv_tests::mariadb::MariaDb;
use tnv_tests::mount::Mount;
use tnv_tests::raw::{self, Raw};
use tnv_tests::tools::this_test;
use tnv_tests::{Builder, Cluster, Db, Output, PATIENCE, Process, patient, sample, skipped};

fn put(cluster: &Cluster, fileid: &str, content: &[u8]) -> Result<(), String> {
    let frame = raw::ask(cluster.storage(), &raw::upload("tnvideo", "tnv001", fileid, content));
    if frame.status == 0 { Ok(()) } else { Err(frame.failure(102)) }
}

fn get(cluster: &Cluster, fileid: &str) -> Option<Vec<u8>> {
    let frame = raw::ask(cluster.storage(), &raw::download("tnvideo", "tnv001", fileid, 0, 0));
    (frame.status == 0).then(|| frame.success(102))
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).expect("list a directory").next().is_none()
}

/// Entries that hold content or may: stray empty directories harm nobody.
fn files_in(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("list a directory").map(|entry| entry.expect("an entry")) {
        match entry.file_type().expect("a type").is_dir() {
            true => files.append(&mut files_in(&entry.path())),
            false => files.push(entry.path()),
        }
    }
    files
}

fn journals(dir: &Path) -> Vec<PathBuf> {
    files_in(dir).into_iter().filter(|path| path.to_string_lossy().contains("/.uploads-")).collect()
}

/// `umount -l` left the empty mount point, on the disk below, and uploads were acknowledged there:
/// gone from sight as soon as the disk was mounted again.
#[test]
fn where_a_disk_is_not_mounted_any_more_uploads_are_refused_and_deletes_catch_up() {
    const TEST: &str = "where_a_disk_is_not_mounted_any_more_uploads_are_refused_and_deletes_catch_up";
    let mut cluster = Builder::new("unmounted").set(Part::Storage, "tnv_reserved_space", "0").prepare();
    let (disk, data) = (cluster.path("disk"), cluster.path("group001/data"));
    let Some(_disk) = Mount::new(TEST, &["-t", "tmpfs", "-o", "size=20m", "tmpfs"], &disk) else { return };
    let bind = || Mount::new(TEST, &["--bind", disk.to_str().expect("UTF-8")], &data);
    let Some(mounted) = bind() else { return };
    cluster.start_all();
    put(&cluster, "kept", b"kept").expect("an upload");
    put(&cluster, "deleted", b"deleted").expect("an upload");

    drop(mounted);
    assert!(is_empty(&data), "the mount point on the disk below");
    // At once, and when the storage has noticed.
    for round in 0..40 {
        let text = put(&cluster, &format!("f{round}"), b"content").expect_err("no disk");
        assert!(text.contains("no store path works"), "{text}");
        assert!(files_in(&data).is_empty(), "nothing is stored on the disk below");
        std::thread::sleep(Duration::from_millis(50));
    }
    cluster.storages[0].wait_log("a disk is not mounted", PATIENCE);
    raw::ask(cluster.storage(), &raw::delete("tnvideo", "tnv001", "deleted")).success(102);
    assert_eq!(files_in(&disk).len(), 4, "the marker, the journal and both files");

    let _mounted = bind().expect("mount again");
    patient("uploads work again", PATIENCE, || put(&cluster, "new", b"new").is_ok());
    patient("the deleted file goes", PATIENCE, || files_in(&disk).len() == 4);
    assert_eq!(get(&cluster, "kept").as_deref(), Some(&b"kept"[..]));
    assert_eq!(get(&cluster, "deleted"), None);
    assert_eq!(cluster.file_rows(), 2);
    cluster.storages[0].kill();
}

/// One full disk kept the whole storage from starting, with "read …: No space left on device".
#[test]
fn a_full_disk_keeps_no_storage_from_starting_that_has_others() {
    const TEST: &str = "a_full_disk_keeps_no_storage_from_starting_that_has_others";
    let mut cluster = Builder::new("full-start")
        .set(Part::Storage, "tnv_store_paths", "../data;../small")
        .set(Part::Storage, "tnv_reserved_space", "0")
        .prepare();
    let small = cluster.path("group001/small");
    let Some(_small) = Mount::new(TEST, &["-t", "tmpfs", "-o", "size=2m", "tmpfs"], &small) else { return };
    let filler = small.join("filler");
    Output::of(Command::new("dd").args(["if=/dev/zero", "bs=4096"]).arg(format!("of={}", filler.display())));
    cluster.start_all();
    let log = cluster.storages[0].log_of_run();
    assert!(log.contains("make ../small/.tnv-volume: No space left"), "{log}");
    put(&cluster, "f", b"content").expect("the other path works");
    assert_eq!(get(&cluster, "f").as_deref(), Some(&b"content"[..]));
    fs::remove_file(&filler).expect("make room");
    cluster.storages[0].wait_log("store path '../small' works again", PATIENCE);

    // A path that filled up after it was opened has its journal's space.
    Output::of(Command::new("dd").args(["if=/dev/zero", "bs=4096"]).arg(format!("of={}", filler.display())));
    cluster.storages[0].restart();
    let log = cluster.storages[0].log_of_run();
    assert!(!log.contains("ERROR"), "{log}");
    put(&cluster, "g", b"content").expect("the other path works");
    cluster.storages[0].kill();
}

#[test]
fn a_storage_whose_only_disk_cannot_be_written_says_so_and_exits_1() {
    const TEST: &str = "a_storage_whose_only_disk_cannot_be_written_says_so_and_exits_1";
    let mut cluster = Builder::new("read-only").prepare();
    let data = cluster.path("group001/data");
    let Some(_data) = Mount::new(TEST, &["-t", "tmpfs", "-o", "ro", "tmpfs"], &data) else { return };
    let storage = &mut cluster.storages[0];
    storage.spawn();
    assert_eq!(storage.wait_exit(PATIENCE).code(), Some(1));
    let log = storage.log_of_run();
    assert!(log.contains("store path '../data': make ../data/.tnv-volume: Read-only"), "{log}");
    assert_eq!(log.matches("ERROR").count(), 1, "one clear line: {log}");
}

/// A storage that was killed and then started on another port left half files for ever: the journal of
/// the old name was never looked at again.
#[test]
fn a_storage_that_is_started_on_another_port_clears_up_what_the_old_one_left() {
    let mut cluster = Builder::new("other-port").start();
    let data = cluster.path("group001/data");
    put(&cluster, "whole", b"whole").expect("an upload");
    let mut half = raw::head(70, 408 + (4 << 20));
    half.extend(raw::upload_head("tnvideo", "tnv001", "half", 4 << 20));
    half.extend(sample(1 << 20, 1));
    let mut upload = Raw::connect(cluster.storage());
    upload.send(&half);
    patient("the file is begun", PATIENCE, || cluster.content_files("group001").len() == 2);
    cluster.storages[0].kill();

    let config = cluster.storages[0].config().to_owned();
    let text = fs::read_to_string(&config).expect("read a configuration");
    let (old, new) = (cluster.storage(), free_address());
    fs::write(&config, text.replace(&old.to_string(), &new.to_string())).expect("write a configuration");
    let log = cluster.path("log/other.log");
    let mut storage = Process::new("tnv-storage", new, &config, cluster.storages[0].cwd(), &[], &log);
    storage.start();
    patient("no half file", PATIENCE, || cluster.content_files("group001").len() == 1);
    let [journal] = &journals(&data)[..] else { panic!("one journal, not {:?}", journals(&data)) };
    assert!(journal.to_string_lossy().ends_with(&new.port().to_string()), "{}", journal.display());
    let back = raw::ask(new, &raw::download("tnvideo", "tnv001", "whole", 0, 0)).success(102);
    assert_eq!(back, b"whole");
}

#[test]
fn storages_of_one_host_that_start_at_once_leave_each_other_alone() {
    let mut cluster = Builder::new("at-once").groups(&["group001"], 6).start();
    let data = cluster.path("group001/data");
    for _ in 0..5 {
        assert_eq!(journals(&data).len(), 6);
        cluster.storages.iter_mut().for_each(Process::kill);
        cluster.storages.iter_mut().for_each(Process::spawn);
        cluster.storages.iter_mut().for_each(|storage| {
            storage.wait_ready();
        });
        for storage in &cluster.storages {
            let id = format!("f{}-{}", storage.pid(), storage.address().port());
            raw::ask(storage.address(), &raw::upload("tnvideo", "tnv001", &id, b"x")).success(102);
        }
    }
    assert_eq!(cluster.content_files("group001").len(), 30);
}

/// A database that hung stalled even what the storage knew without it.
#[test]
fn a_database_that_hangs_stalls_nothing_that_is_in_the_cache() {
    let Some(server) = MariaDb::start() else { return };
    let cluster = Builder::new("hang-storage")
        .db(Db::Maria(&server))
        .set(Part::Storage, "tnv_threads", 8)
        .set(Part::Storage, "mysql_rw_timeout", 100)
        .start();
    put(&cluster, "known", b"content").expect("an upload");
    server.pause();
    let mut crowd: Vec<_> = (0..40).map(|_| Raw::connect(cluster.storage())).collect();
    for (index, raw) in crowd.iter_mut().enumerate() {
        raw.send(&raw::filesize("tnvideo", "tnv001", &format!("unknown{index}")));
    }
    let start = Instant::now();
    for _ in 0..3 {
        assert_eq!(get(&cluster, "known").as_deref(), Some(&b"content"[..]));
    }
    let took = start.elapsed();
    assert!(took < Duration::from_secs(100), "it took {took:?}, as long as what waits for the database");
    server.resume();
    for raw in &mut crowd {
        raw.frame().failure(102);
    }
    patient("uploads work again", PATIENCE, || put(&cluster, "new", b"new").is_ok());
}

/// The tracker noted the address that the join came from, [::1], and sent clients there.
#[test]
fn a_tracker_is_not_joined_over_a_family_that_the_storage_does_not_listen_on() {
    let tracker = format!("[::1]:{}", free_address().port());
    let mut cluster = Builder::new("family").no_wait().set(Part::Tracker, "tnv_bind", &tracker).prepare();
    let mut keys = BTreeMap::new();
    for line in fs::read_to_string(cluster.storages[0].config()).expect("read").lines() {
        if let Some((key, value)) = line.split_once(" = ") {
            keys.insert(key.trim().to_owned(), value.to_owned());
        }
    }
    keys.insert("tnv_tracker_addrs".to_owned(), tracker.clone());
    write_config(cluster.storages[0].config(), "tnv-storage", &keys);
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return skipped(&this_test(), "no IPv6 here");
    }
    cluster.start_all();
    let text = format!("'{tracker}' has no IPv4 address, and this storage listens on 127.0.0.1");
    cluster.storages[0].wait_log(&text, PATIENCE);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(cluster.storages[0].log_of_run().matches(&text).count(), 1, "it is said once");
    assert_eq!(active(tracker.parse().expect("an address")), 0);
}

/// Read through one member right after an upload through the other: on GlusterFS its mount had not
/// seen the file yet, and a file that was there was "missing".
#[test]
fn a_file_that_shows_a_moment_later_is_served_and_one_that_never_does_is_refused() {
    let cluster = Builder::new("shows-later").groups(&["group001"], 2).start();
    for delay_ms in [10, 150, 500] {
        let fileid = format!("late{delay_ms}");
        put(&cluster, &fileid, b"content").expect("an upload");
        let path = cluster.content_files("group001").pop().expect("its file");
        let hidden = cluster.path("hidden");
        std::fs::rename(&path, &hidden).expect("hide it");
        let shower = thread::spawn(move || {
            thread::sleep(Duration::from_millis(delay_ms));
            std::fs::rename(&hidden, &path).expect("show it");
            path
        });
        assert_eq!(get(&cluster, &fileid).as_deref(), Some(&b"content"[..]), "after {delay_ms} ms");
        let path = shower.join().expect("shown");
        std::fs::remove_file(path).expect("lose it");
        let started = Instant::now();
        assert_eq!(get(&cluster, &fileid), None);
        assert!(started.elapsed() < PATIENCE, "a client still asks another member");
        raw::ask(cluster.storage(), &raw::delete("tnvideo", "tnv001", &fileid)).success(102);
    }
}
