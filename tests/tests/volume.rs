//! Store paths that are not what they were, and storages that are not called what they were: nothing is
//! stored on the wrong disk, nothing that is known is lost with a name, and nothing is left behind.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tnv_tests::bins::bin;
use tnv_tests::cluster::{Part, group_list, statuses};
use tnv_tests::fsck::fsck;
use tnv_tests::mariadb::MariaDb;
use tnv_tests::mount::Mount;
use tnv_tests::raw::{self, Raw};
use tnv_tests::{Builder, Cluster, Db, Output, PATIENCE, Process, patient, sample, skipped};

const USER: &str = "tnv001";

fn put(cluster: &Cluster, fileid: &str, content: &[u8]) -> Result<(), i16> {
    let frame = raw::ask(cluster.storage(), &raw::upload("tnvideo", USER, fileid, content));
    if frame.status == 0 { Ok(()) } else { Err(i16::from_be_bytes([frame.body[0], frame.body[1]])) }
}

fn get(cluster: &Cluster, fileid: &str) -> Option<Vec<u8>> {
    let frame = raw::ask(cluster.storage(), &raw::download("tnvideo", USER, fileid, 0, 0));
    (frame.status == 0).then(|| frame.success(102))
}

/// The error number of "another server may do better".
const UNAVAILABLE: i16 = -11;

fn entries(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("list a directory").map(|entry| entry.expect("an entry").path());
    entries
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
        .collect()
}

/// `tnv-storage --init`.
fn init(cluster: &Cluster, options: &[&str]) -> Output {
    let storage = &cluster.storages[0];
    let mut command = Command::new(bin("tnv-storage"));
    Output::of(command.arg("-c").arg(storage.config()).arg("--init").args(options).current_dir(storage.cwd()))
}

/// The mount point was there and the disk was not: a journal was made in it, uploads were acknowledged into
/// it, and all of them were gone from sight when the disk was mounted.
#[test]
fn a_disk_that_is_not_mounted_at_the_start_gets_nothing_and_serves_when_it_comes() {
    let mut cluster = Builder::new("late-disk").no_wait().start();
    cluster.put(USER, "before", b"before");
    cluster.put(USER, "deleted", b"deleted");
    let (data, away) = (cluster.path("group001/data"), cluster.path("away"));
    for mount_point in [true, false] {
        cluster.storages[0].kill();
        fs::rename(&data, &away).expect("unmount");
        if mount_point {
            fs::create_dir(&data).expect("make a mount point");
        }
        cluster.storages[0].start();
        for count in 0..20 {
            assert_eq!(put(&cluster, &format!("f{count}"), b"content"), Err(UNAVAILABLE));
        }
        assert_eq!(get(&cluster, "before"), None);
        cluster.storages[0].wait_log("tnv-storage --init --store-path ../data", PATIENCE);
        if mount_point {
            raw::ask(cluster.storage(), &raw::delete("tnvideo", USER, "deleted")).success(102);
            assert_eq!(entries(&data, ""), Vec::<PathBuf>::new());
            fs::remove_dir(&data).expect("remove the mount point");
        }
        assert!(!data.exists());
        fs::rename(&away, &data).expect("mount");
        let fileid = format!("after-{mount_point}");
        patient("uploads work again", PATIENCE, || put(&cluster, &fileid, b"after").is_ok());
        assert_eq!(get(&cluster, "before").as_deref(), Some(&b"before"[..]));
        // No journal was there to note the delete in: a storage that ends before leaves the file to fsck.
        let files = if mount_point { 2 } else { 3 };
        patient("the deleted file goes", PATIENCE, || cluster.content_files("group001").len() == files);
    }
    fsck(&cluster, 0, &["--min-age", "0"]).assert_agrees();
}

#[test]
fn an_empty_disk_in_the_place_of_one_that_is_lost_is_used_when_an_operator_says_so() {
    let mut cluster = Builder::new("new-disk").no_wait().start();
    cluster.put(USER, "lost", b"lost");
    let data = cluster.path("group001/data");
    let marker = fs::read_to_string(data.join(".tnv-volume")).expect("a marker");
    let already = init(&cluster, &[]).success();
    assert!(marker.contains(already.split(' ').find(|word| word.len() == 32).expect("an ID")), "{already}");
    cluster.storages[0].kill();
    fs::remove_dir_all(&data).expect("lose a disk");
    cluster.storages[0].start();
    assert_eq!(put(&cluster, "new", b"new"), Err(UNAVAILABLE));
    assert_eq!(init(&cluster, &["--store-path", "../other"]).code, 1);
    assert!(!data.exists());
    init(&cluster, &["--store-path", "../data/"]).success();
    patient("uploads work", PATIENCE, || put(&cluster, "new", b"new").is_ok());
    assert_ne!(fs::read_to_string(data.join(".tnv-volume")).expect("a marker"), marker);
    assert_eq!((get(&cluster, "new").as_deref(), get(&cluster, "lost")), (Some(&b"new"[..]), None));
}

/// As a previous version leaves it: files, a journal, no marker.
#[test]
fn an_upgrade_knows_a_disk_by_its_files() {
    let mut cluster = Builder::new("no-marker").start();
    for count in 0..5 {
        cluster.put(USER, &format!("f{count}"), b"content");
    }
    cluster.storages[0].kill();
    let data = cluster.path("group001/data");
    fs::remove_file(data.join(".tnv-volume")).expect("remove the marker");
    // All but one are lost, too.
    for file in &cluster.content_files("group001")[1..] {
        fs::remove_file(file).expect("remove a file");
    }
    cluster.storages[0].start();
    put(&cluster, "new", b"new").expect("an upload right after the start");
    assert!(data.join(".tnv-volume").is_file());
    assert!(!cluster.storages[0].log_of_run().contains("ERROR"), "{}", cluster.storages[0].log_of_run());
}

/// Rows that existing storages of other groups wrote: of no group, under the same store path, before all others
/// in the order of the keys.
fn rows_of_others(cluster: &Cluster, count: usize) {
    for table in 1..=3 {
        let rows: Vec<_> = (0..count)
            .map(|number| {
                format!(
                    "('0-{table}-{number:05}', 'tnvideo', 'other', 0, '../data/000/000/00{table}/5F9E3FA7_{:03X}', 7)",
                    number % 512
                )
            })
            .collect();
        let columns = "id, appid, userid, status, file_path, file_size";
        let statement = format!("INSERT INTO t_file_0{table} ({columns}) VALUES {}", rows.join(", "));
        cluster.sql("tnv_storagedb", &statement);
    }
}

/// Only the first rows were looked at, and all of them were other groups': the disk was refused.
fn a_group_that_joined_later(db: Db<'_>) {
    let mut cluster = Builder::new("joined-later").no_wait().db(db).start();
    for count in 0..5 {
        cluster.put(USER, &format!("f{count}"), b"content");
    }
    cluster.storages[0].kill();
    rows_of_others(&cluster, 2500);
    fs::remove_file(cluster.path("group001/data/.tnv-volume")).expect("remove the marker");
    cluster.storages[0].start();
    patient("uploads work", PATIENCE, || put(&cluster, "new", b"new").is_ok());
    assert_eq!(get(&cluster, "f0").as_deref(), Some(&b"content"[..]));
    assert!(!cluster.storages[0].log_of_run().contains("--init"), "{}", cluster.storages[0].log_of_run());
}

#[test]
fn a_group_that_joined_later_knows_its_disk_by_its_newest_rows() {
    a_group_that_joined_later(Db::Embedded);
}

#[test]
fn a_group_that_joined_later_knows_its_disk_by_its_newest_rows_on_mariadb() {
    let Some(server) = MariaDb::start() else { return };
    a_group_that_joined_later(Db::Maria(&server));
}

#[test]
fn a_new_group_beside_rows_of_existing_storages_is_told_to_init_and_why() {
    let mut cluster = Builder::new("new-group").no_wait().start();
    cluster.storages[0].kill();
    fs::remove_dir_all(cluster.path("group001/data")).expect("no storage was here before");
    rows_of_others(&cluster, 100);
    cluster.storages[0].start();
    cluster.storages[0]
        .wait_log("if group group001 is new, they are other groups', and this disk is right", PATIENCE);
    cluster.storages[0].wait_log("run tnv-storage --init --store-path ../data", PATIENCE);
    assert_eq!(put(&cluster, "new", b"new"), Err(UNAVAILABLE));
    init(&cluster, &[]).success();
    patient("uploads work", PATIENCE, || put(&cluster, "new", b"new").is_ok());
}

/// A FUSE client died and was mounted anew, or a disk was, through another device: the store path led to the
/// same volume and was refused until a restart. The other device is played by a copy of the first one.
#[test]
fn a_volume_that_is_mounted_anew_is_taken_back_and_fails_the_uploads_under_way() {
    let test = "a_volume_that_is_mounted_anew_is_taken_back_and_fails_the_uploads_under_way";
    let mut cluster =
        Builder::new("mounted-anew").no_wait().set(Part::Storage, "tnv_reserved_space", 0).prepare();
    let (data, copy) = (cluster.path("group001/data"), cluster.path("copy"));
    let Some(mut mount) = Mount::memory(test, 64, &data) else { return };
    cluster.start_all();
    cluster.put(USER, "before", b"before");
    let mut copies = Vec::new();
    for round in 0..2 {
        let half = format!("half-{round}");
        let content = sample(4 << 20, 1);
        let before = cluster.content_files("group001").len();
        let mut upload = Raw::connect(cluster.storage());
        upload.send(&raw::head(70, 408 + content.len() as i64));
        upload.send(&raw::upload_head("tnvideo", USER, &half, content.len() as i64));
        upload.send(&content[..1 << 20]);
        patient("the file is begun", PATIENCE, || cluster.content_files("group001").len() > before);
        let copy = copy.join(round.to_string());
        copies.push(Mount::memory(test, 64, &copy).expect("a second one can be mounted"));
        Output::of(Command::new("cp").arg("-a").arg(data.join(".")).arg(&copy)).success();
        drop(mount);
        cluster.storages[0].wait_log("store path '../data'", PATIENCE);
        assert_eq!(put(&cluster, "meanwhile", b"x"), Err(UNAVAILABLE));
        mount = Mount::bind(test, &copy, &data).expect("it can be mounted anew");
        let line = "store path '../data': its volume was mounted anew";
        patient("it is noticed", PATIENCE, || cluster.storages[0].log().matches(line).count() > round);
        let _ = upload.try_send(&content[1 << 20..]);
        let frame = upload.frame();
        let text = frame.failure(102);
        assert!(text.contains("mounted anew or its journal was lost during the upload"), "{text}");
        assert_eq!(frame.number(), UNAVAILABLE, "another may do better");
        let after = format!("after-{round}");
        patient("uploads work again", PATIENCE, || put(&cluster, &after, b"after").is_ok());
        for (fileid, content) in [("before", b"before".as_slice()), (&after, b"after")] {
            assert_eq!(get(&cluster, fileid).as_deref(), Some(content));
        }
        assert_eq!(cluster.file_row(USER, &half), None);
        patient("the half file goes", PATIENCE, || cluster.content_files("group001").len() == before + 1);
    }
    assert_eq!(entries(&data, ".uploads-").len(), 1);
    let log = cluster.storages[0].log();
    assert!(!log.contains("is bad"), "the volume is as good as it was: {log}");
    fsck(&cluster, 0, &["--min-age", "0"]).assert_agrees();
    drop((mount, copies));
}

#[test]
fn members_that_start_at_once_on_a_new_disk_make_one_marker() {
    let cluster = Builder::new("one-marker").groups(&["group001"], 4).start();
    let data = cluster.path("group001/data");
    assert_eq!(entries(&data, ".tnv-volume"), [data.join(".tnv-volume")]);
    for storage in &cluster.storages {
        let request = raw::upload("tnvideo", USER, &storage.address().to_string(), b"x");
        raw::ask(storage.address(), &request).success(102);
    }
}

fn flip(path: &Path) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("open a stored file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 3).expect("read a byte");
    file.write_all_at(&[byte[0] ^ 1], 3).expect("write a byte");
}

fn file_of(cluster: &Cluster, fileid: &str) -> PathBuf {
    let path = cluster.file_row(USER, fileid).expect("a row")[2].clone();
    cluster.storages[0].cwd().join(path)
}

/// The list of damaged files was read once, from the first store path: where that disk came late it was
/// empty, what was damaged was served again, and the empty list was written over the other one.
#[test]
fn what_is_damaged_on_a_disk_that_comes_late_stays_out_of_service() {
    let mut cluster = Builder::new("late-list")
        .no_wait()
        .set(Part::Storage, "tnv_store_paths", "../data;../more")
        .set(Part::Storage, "tnv_scrub_rate", "1G")
        .set(Part::Storage, "tnv_scrub_interval", 1)
        .start();
    let data = cluster.path("group001/data");
    let mut count = 0;
    let fileid = loop {
        let fileid = format!("f{count}");
        cluster.put(USER, &fileid, b"0123456789");
        if cluster.file_row(USER, &fileid).expect("a row")[2].starts_with("../data/") {
            break fileid;
        }
        count += 1;
        assert!(count < 1000, "both paths take files");
    };
    flip(&file_of(&cluster, &fileid));
    cluster.storages[0].wait_log("DAMAGED, out of service here: ../data/", PATIENCE);
    cluster.storages[0].kill();
    // The scrub does not find it anew.
    let config = cluster.storages[0].config().to_owned();
    let text = fs::read_to_string(&config).expect("read the configuration");
    fs::write(&config, text.replace("tnv_scrub_rate = 1G", "tnv_scrub_rate = 0")).expect("write it");
    for _ in 0..2 {
        fs::rename(&data, cluster.path("away")).expect("unmount");
        cluster.storages[0].start();
        put(&cluster, &format!("meanwhile-{}", cluster.storages[0].pid()), b"x")
            .expect("the other path works");
        assert_eq!(get(&cluster, &fileid), None);
        fs::rename(cluster.path("away"), &data).expect("mount");
        cluster.storages[0].wait_log("store path '../data' works again", PATIENCE);
        assert_eq!(get(&cluster, &fileid), None, "known as soon as the disk is used");
        cluster.storages[0].restart();
        assert_eq!(get(&cluster, &fileid), None);
        cluster.storages[0].kill();
    }
}

/// A command that starts a server on a host of this name.
fn on_host(name: &str) -> Vec<String> {
    let script = "echo \"$1\" > /proc/sys/kernel/hostname && shift && exec \"$@\"";
    ["unshare", "--uts", "sh", "-c", script, "sh", name].map(str::to_owned).to_vec()
}

/// The same storage, on a host of another name.
fn renamed(cluster: &Cluster, name: &str) -> Process {
    let old = &cluster.storages[0];
    let log = cluster.path(&format!("log/{name}.log"));
    Process::new("tnv-storage", old.address(), old.config(), old.cwd(), &[], &log).wrapped(&on_host(name))
}

/// Killed in the middle of an upload, with a file that is known to be damaged, and started under other names.
fn a_host_that_is_renamed(test: &str, storage_id: Option<&str>) {
    let probe = Command::new("unshare").args(&on_host("probe")[1..]).arg("true").output();
    if !probe.is_ok_and(|output| output.status.success()) {
        return skipped(test, "no host name can be set here");
    }
    let mut builder = Builder::new(storage_id.unwrap_or("renamed"))
        .no_wait()
        .set(Part::Storage, "tnv_scrub_rate", "1G")
        .set(Part::Storage, "tnv_scrub_interval", 1);
    if let Some(id) = storage_id {
        builder = builder.set(Part::Storage, "tnv_storage_id", id);
    }
    let mut cluster = builder.prepare();
    cluster.storages[0] = renamed(&cluster, "container-1");
    cluster.start_all();
    let data = cluster.path("group001/data");
    for fileid in ["sound", "damaged"] {
        cluster.put(USER, fileid, b"0123456789");
    }
    flip(&file_of(&cluster, "damaged"));
    cluster.storages[0].wait_log("DAMAGED, out of service here: ", PATIENCE);
    // Once it is known the scrub has nothing to do with it.
    let text = fs::read_to_string(cluster.storages[0].config()).expect("read the configuration");
    let text = text.replace("tnv_scrub_rate = 1G", "tnv_scrub_rate = 0");
    fs::write(cluster.storages[0].config(), text).expect("write it");
    for name in ["container-2", "container-3"] {
        let before = cluster.content_files("group001").len();
        let mut upload = Raw::connect(cluster.storage());
        upload.send(&raw::head(70, 408 + (4 << 20)));
        upload.send(&raw::upload_head("tnvideo", USER, "half", 4 << 20));
        upload.send(&sample(1 << 20, 1));
        patient("the file is begun", PATIENCE, || cluster.content_files("group001").len() > before);
        cluster.storages[0].kill();
        cluster.storages[0] = renamed(&cluster, name);
        cluster.storages[0].start();
        // The file system is local, so that a free lock shows that the journal has no holder.
        patient("the half file goes", PATIENCE, || cluster.content_files("group001").len() == before);
        for kind in [".uploads-", ".scrub-"] {
            patient("one of each", PATIENCE, || entries(&data, kind).len() == 1);
            let own = entries(&data, kind)[0].to_string_lossy().contains(storage_id.unwrap_or(name));
            assert!(own, "{:?}", entries(&data, kind));
        }
        assert_eq!(get(&cluster, "sound").as_deref(), Some(&b"0123456789"[..]));
        assert_eq!(get(&cluster, "damaged"), None, "under the name of {name}");
    }
    let report = fsck(&cluster, 0, &["--min-age", "0"]);
    assert_eq!((report.fileids("checksum"), report.lines.len()), (vec!["damaged"], 1), "{report:#?}");
    patient("it is known to the tracker", PATIENCE, || {
        group_list(cluster.tracker()).contains("STATUS: ACTIVE")
    });
    let hosts = group_list(cluster.tracker()).matches("HOSTNAME: ").count();
    let expected = if storage_id.is_some() { 1 } else { 3 };
    assert_eq!(hosts, expected, "{}", group_list(cluster.tracker()));
}

#[test]
fn nothing_is_lost_with_the_name_of_a_host() {
    a_host_that_is_renamed("nothing_is_lost_with_the_name_of_a_host", None);
}

#[test]
fn a_storage_with_an_id_is_one_member_under_every_host_name() {
    a_host_that_is_renamed("a_storage_with_an_id_is_one_member_under_every_host_name", Some("media-1"));
}

/// Two members of a group, the second of which has a store path of its own under the same text.
fn two_apart(builder: Builder<'_>) -> Cluster {
    let mut cluster = builder.groups(&["group001"], 2).no_wait().prepare();
    let cwd = cluster.path("second/run");
    fs::create_dir_all(&cwd).expect("make a directory");
    let (address, config) = (cluster.storages[1].address(), cluster.storages[1].config().to_owned());
    let log = cluster.path("log/second.log");
    cluster.storages[1] = Process::new("tnv-storage", address, &config, &cwd, &[], &log);
    cluster.trackers[0].start();
    cluster.ids[0].start();
    cluster.storages[0].start();
    cluster
}

fn status(cluster: &Cluster, storage: usize) -> Option<String> {
    statuses(cluster.tracker()).remove(&cluster.storages[storage].host_port())
}

#[track_caller]
fn becomes(cluster: &Cluster, storage: usize, wanted: &str) {
    patient(wanted, PATIENCE, || status(cluster, storage).as_deref() == Some(wanted));
}

/// A disk was not mounted, or another file system was: the member stayed ACTIVE, missed most of the files,
/// and took uploads that only it could see.
#[test]
fn a_member_that_does_not_share_its_groups_files_gets_no_clients_until_it_does() {
    let mut cluster = two_apart(Builder::new("apart").set(Part::Storage, "tnv_heart_beat_interval", 1));
    becomes(&cluster, 0, "ACTIVE");
    let (data, second) = (cluster.path("group001/data"), cluster.path("second/data"));
    // A disk of its own, then a copy of the other one, with its marker.
    for copied in [false, true] {
        if copied {
            fs::copy(data.join(".tnv-volume"), second.join(".tnv-volume")).expect("copy a marker");
        }
        cluster.storages[1].start();
        let line = "does not share the files of group group001";
        cluster.storages[1].wait_log(line, PATIENCE);
        becomes(&cluster, 1, "ONLINE");
        patient("the tracker says so", PATIENCE, || cluster.trackers[0].log().contains(line));
        for _ in 0..10 {
            cluster.upload("tnvideo", USER, b"content");
            assert_eq!(status(&cluster, 1).as_deref(), Some("ONLINE"));
        }
        assert!(!second.join("000").exists(), "no upload lands there");
        cluster.storages[1].kill();
    }
    // The right one is mounted.
    fs::remove_dir_all(&second).expect("unmount");
    std::os::unix::fs::symlink(&data, &second).expect("mount");
    cluster.storages[1].start();
    becomes(&cluster, 1, "ACTIVE");
    // Each of them may be started anew beside the other one.
    for storage in [0, 1] {
        cluster.storages[storage].restart();
        becomes(&cluster, storage, "ACTIVE");
        becomes(&cluster, 1 - storage, "ACTIVE");
    }
}

#[test]
fn members_that_replicate_in_another_way_are_not_compared() {
    let mut cluster = two_apart(Builder::new("copies").set(Part::Storage, "tnv_shared_store", "no"));
    cluster.storages[1].start();
    becomes(&cluster, 0, "ACTIVE");
    becomes(&cluster, 1, "ACTIVE");
}

/// A tracker that was started anew knows no member: the first one that reports is right, and not both.
#[test]
fn two_members_that_do_not_share_their_files_are_never_active_together() {
    let mut cluster = two_apart(Builder::new("apart-both").set(Part::Storage, "tnv_heart_beat_interval", 1));
    cluster.storages[1].start();
    for _ in 0..5 {
        patient("one is ACTIVE and one is not", PATIENCE, || {
            let mut both = [status(&cluster, 0), status(&cluster, 1)];
            both.sort_unstable();
            both == [Some("ACTIVE".to_owned()), Some("ONLINE".to_owned())]
        });
        cluster.trackers[0].restart();
    }
}

/// While the right member restarted, or rejoined a tracker that was started anew, the one that had been refused
/// reported first: it took the group, and the right one was refused.
#[test]
fn a_member_that_was_refused_does_not_take_the_place_of_the_right_one() {
    let mut cluster = two_apart(Builder::new("apart-order").set(Part::Storage, "tnv_heart_beat_interval", 1));
    becomes(&cluster, 0, "ACTIVE");
    cluster.storages[1].start();
    cluster.storages[1].wait_log("does not share the files of group group001", PATIENCE);
    for _ in 0..3 {
        // The other one reports every second meanwhile.
        cluster.storages[0].kill();
        std::thread::sleep(Duration::from_millis(1500));
        assert_ne!(status(&cluster, 1).as_deref(), Some("ACTIVE"));
        cluster.storages[0].start();
        becomes(&cluster, 0, "ACTIVE");
    }
    for _ in 0..3 {
        cluster.trackers[0].restart();
        becomes(&cluster, 0, "ACTIVE");
        assert_ne!(status(&cluster, 1).as_deref(), Some("ACTIVE"));
    }
}

/// A tracker that knows joins and heartbeats, and closes the connection of everything else without a word.
fn terse_tracker(listener: TcpListener, beats: &Arc<AtomicUsize>) {
    for conn in listener.incoming() {
        let (mut conn, beats) = (conn.expect("take a connection"), Arc::clone(beats));
        std::thread::spawn(move || -> std::io::Result<()> {
            loop {
                let mut head = [0; 10];
                conn.read_exact(&mut head)?;
                let (length, command) = (i64::from_be_bytes(head[..8].try_into().expect("8 bytes")), head[8]);
                if !matches!(command, 10 | 11) {
                    return Ok(());
                }
                conn.read_exact(&mut vec![0; length as usize])?;
                conn.write_all(&raw::head(100, 0))?;
                beats.fetch_add(usize::from(command == 11), Ordering::Relaxed);
            }
        });
    }
}

/// The storage joined and reported without end, and got no clients.
#[test]
fn a_tracker_that_closes_the_connection_of_a_report_gets_heartbeats() {
    let mut cluster = Builder::new("terse").no_wait().prepare();
    let listener = TcpListener::bind(cluster.trackers[0].address()).expect("listen");
    let beats = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&beats);
    std::thread::spawn(move || terse_tracker(listener, &counted));
    cluster.ids[0].start();
    cluster.storages[0].start();
    patient("it beats", PATIENCE, || beats.load(Ordering::Relaxed) > 0);
}

/// A container gets another address with each start: the group list filled with the dead ones.
#[test]
fn a_storage_with_an_id_that_moves_to_another_address_is_one_member() {
    let mut cluster = Builder::new("moves").no_wait().set(Part::Storage, "tnv_storage_id", "media-1").start();
    cluster.put(USER, "before", b"before");
    let config = cluster.storages[0].config().to_owned();
    for host in 2..5 {
        cluster.storages[0].kill();
        let old = cluster.storages[0].address();
        let new = std::net::SocketAddr::from(([127, 0, 0, host], old.port()));
        let text = fs::read_to_string(&config).expect("read the configuration");
        fs::write(&config, text.replace(&format!("tnv_bind = {old}"), &format!("tnv_bind = {new}")))
            .expect("write it");
        let log = cluster.path(&format!("log/{host}.log"));
        cluster.storages[0] = Process::new("tnv-storage", new, &config, cluster.storages[0].cwd(), &[], &log);
        cluster.storages[0].start();
        becomes(&cluster, 0, "ACTIVE");
        let list = group_list(cluster.tracker());
        assert_eq!(list.matches("HOSTNAME: media-1").count(), 1, "{list}");
        assert_eq!(get(&cluster, "before").as_deref(), Some(&b"before"[..]));
    }
}
