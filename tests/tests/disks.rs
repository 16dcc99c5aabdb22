//! Disks that fail, for real: one that fills up, one that becomes read-only, and I/O errors of single system
//! calls, which strace injects into the storage while it runs. Each time: the client is told clearly, other
//! store paths and members take over, neither a file nor a row is left, a sync that failed is not repeated,
//! and when the fault is gone all is well again without anybody's help.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use tnv_tests::cluster::Part;
use tnv_tests::mariadb::MariaDb;
use tnv_tests::mount::Mount;
use tnv_tests::raw::{self, Raw};
use tnv_tests::strace::Strace;
use tnv_tests::{Builder, Cluster, Db, Output, PATIENCE, patient, sample};

/// Error numbers of failure replies: another server may do better; no room.
const UNAVAILABLE: i16 = -11;
const NO_SPACE: i16 = -28;

/// A storage with two disks of its own, the first of which has more room and so comes first.
struct TwoDisks {
    /// Dropped before the cluster, whose directory they are in.
    _mounts: [Mount; 3],
    cluster: Cluster,
    disk: PathBuf,
}

impl TwoDisks {
    fn start(test: &str, name: &str, mib: u64) -> Option<TwoDisks> {
        let mut cluster = Builder::new(name)
            .set(Part::Storage, "tnv_store_paths", "../data;../more")
            .set(Part::Storage, "tnv_reserved_space", 0)
            .prepare();
        let disk = cluster.path("disk");
        let first = Mount::memory(test, mib, &disk)?;
        let bound = Mount::bind(test, &disk, &cluster.path("group001/data"))?;
        let second = Mount::memory(test, mib / 4 * 3, &cluster.path("group001/more"))?;
        cluster.start_all();
        Some(TwoDisks { _mounts: [first, bound, second], cluster, disk })
    }

    fn data(&self) -> PathBuf {
        self.cluster.path("group001/data").canonicalize().expect("a directory")
    }

    fn log(&self) -> String {
        self.cluster.storages[0].log_of_run()
    }

    fn put(&self, fileid: &str) -> Result<(), String> {
        let content = sample(5000, 5);
        let frame = raw::ask(self.cluster.storage(), &raw::upload("tnvideo", "tnv001", fileid, &content));
        if frame.status == 0 { Ok(()) } else { Err(frame.failure(102)) }
    }

    /// Stores a file; tells the store path that took it.
    #[track_caller]
    fn lands_in(&self, fileid: &str) -> String {
        self.put(fileid).expect("an upload");
        let path = self.cluster.file_row("tnv001", fileid).expect("a row")[2].clone();
        let back = raw::ask(self.cluster.storage(), &raw::download("tnvideo", "tnv001", fileid, 0, 0));
        assert!(back.success(102) == sample(5000, 5));
        path.split_inclusive('/').take(2).collect::<String>().trim_end_matches('/').to_owned()
    }

    /// Waits until the first disk is trusted again and takes files.
    fn recovers(&self) {
        self.cluster.storages[0].wait_log("is trusted again", PATIENCE);
        let mut count = 0;
        patient("the disk takes files again", PATIENCE, || {
            count += 1;
            self.lands_in(&format!("again{count}")) == "../data"
        });
    }

    /// Begins an upload of so many bytes, and waits for its file.
    fn begin(&self, fileid: &str, content: &[u8], first: usize) -> (Raw, PathBuf) {
        let before = files(&self.disk);
        let mut raw = Raw::connect(self.cluster.storage());
        let mut bytes = raw::head(70, 408 + content.len() as i64);
        bytes.extend(raw::upload_head("tnvideo", "tnv001", fileid, content.len() as i64));
        bytes.extend(&content[..first]);
        raw.send(&bytes);
        let mut file = PathBuf::new();
        patient("the file is begun", PATIENCE, || {
            let found = files(&self.disk).into_iter().find(|path| !before.contains(path));
            file = found.unwrap_or_default();
            file != PathBuf::new()
        });
        (raw, self.data().join(file.strip_prefix(&self.disk).expect("a file of this disk")))
    }
}

/// The files of content in a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("list a directory").map(|entry| entry.expect("an entry")) {
        match entry.file_type().expect("a type").is_dir() {
            true => found.append(&mut files(&entry.path())),
            false if entry.file_name().to_string_lossy().starts_with('.') => {}
            false => found.push(entry.path()),
        }
    }
    found
}

/// A large upload whose file has this fault, when most of it is still to come.
fn an_io_error_in(test: &str, name: &str, inject: &str, what: &str) {
    let Some(disks) = TwoDisks::start(test, name, 160) else { return };
    disks.cluster.put("tnv001", "before", b"before");
    let content = sample(40 << 20, 7);
    let (mut upload, file) = disks.begin("broken", &content, 1000);
    let args = ["-P", file.to_str().expect("UTF-8"), "-e", "trace=write,fsync,fdatasync", "-e", inject];
    let output = disks.cluster.path("log/strace");
    let Some(strace) = Strace::attach(test, &disks.cluster.storages[0], &args, &output) else { return };
    let mut sent = 1000;
    if inject.contains("fdatasync") {
        // So much makes the flush begin, which must not be called off because the upload is over before.
        sent = 36 << 20;
        upload.send(&content[1000..sent]);
        patient("the flush in the background", PATIENCE, || {
            fs::read_to_string(&output).is_ok_and(|trace| trace.contains("fdatasync("))
        });
    }
    // What is sent after the refusal may find nobody who reads it.
    let _ = upload.try_send(&content[sent..]);
    let frame = upload.frame();
    let text = frame.failure(102);
    assert!(text.contains(what) && text.contains("fileid: broken: Input/output error"), "{text}");
    assert_eq!(frame.number(), UNAVAILABLE, "another may do better");
    assert!(!file.exists(), "the file is given up");
    assert_eq!(disks.cluster.file_row("tnv001", "broken"), None);

    // The other one takes over at once.
    assert_eq!(disks.lands_in("other"), "../more");
    disks.cluster.storages[0].wait_log("store path '../data' is bad: ", PATIENCE);
    let back = raw::ask(disks.cluster.storage(), &raw::download("tnvideo", "tnv001", "before", 0, 0));
    assert_eq!(back.success(102), b"before", "what it has is served");
    let calls: Vec<_> = strace.detach().into_iter().filter(|call| Path::new(call.target()) == file).collect();
    let failed = calls.iter().position(|call| call.returned < 0).expect("an injected fault");
    let again: Vec<_> = calls[failed + 1..].iter().filter(|call| call.name.ends_with("sync")).collect();
    assert!(again.is_empty(), "synced again: {again:?}");
    disks.recovers();
    assert_eq!(disks.log().matches("is bad: ").count(), 1, "it is said once");
}

#[test]
fn a_write_with_an_io_error_is_told_and_another_disk_takes_over_until_the_disk_has_proven_itself() {
    const TEST: &str =
        "a_write_with_an_io_error_is_told_and_another_disk_takes_over_until_the_disk_has_proven_itself";
    an_io_error_in(TEST, "eio-write", "inject=write:error=EIO:when=3", "write file fail");
}

#[test]
fn a_failed_fsync_is_never_repeated_and_its_file_is_given_up() {
    const TEST: &str = "a_failed_fsync_is_never_repeated_and_its_file_is_given_up";
    // Once: a second one would succeed, as the kernel's does.
    an_io_error_in(TEST, "eio-fsync", "inject=fsync:error=EIO:when=1", "sync file fail");
}

/// The kernel tells of a lost write once. It told the flush in the background, and the fsync at the end
/// would have succeeded.
#[test]
fn a_flush_that_failed_in_the_background_fails_the_upload() {
    const TEST: &str = "a_flush_that_failed_in_the_background_fails_the_upload";
    an_io_error_in(TEST, "eio-flush", "inject=fdatasync:error=EIO:when=1", "sync file fail");
}

#[test]
fn a_directory_that_cannot_be_synced_costs_the_upload_and_no_other() {
    const TEST: &str = "a_directory_that_cannot_be_synced_costs_the_upload_and_no_other";
    let Some(disks) = TwoDisks::start(TEST, "eio-dir", 16) else { return };
    let output = disks.cluster.path("log/strace");
    let inject = |path: &Path| {
        let args = ["-P", path.to_str().expect("UTF-8"), "-e", "trace=fsync", "-e", "inject=fsync:error=EIO"];
        Strace::attach(TEST, &disks.cluster.storages[0], &args, &output)
    };
    // The one that a new directory is in: the store path itself. The next path takes this very upload.
    let Some(strace) = inject(&disks.data()) else { return };
    assert_eq!(disks.lands_in("new-directory"), "../more");
    assert!(!disks.disk.join("000").exists(), "it is made anew when it is needed");
    disks.cluster.storages[0].wait_log("store path '../data' is bad: sync the directory above", PATIENCE);
    disks.cluster.storages[0].wait_log("store path '../data' is still bad: Input/output error", PATIENCE);
    drop(strace);
    disks.recovers();

    // The one that has the file's name.
    let Some(strace) = inject(&disks.data().join("000/000/000")) else { return };
    let before = (files(&disks.disk).len(), disks.cluster.file_rows());
    let text = disks.put("name").expect_err("no sync");
    assert!(text.contains("sync the directory of the file fail, fileid: name: Input/output error"), "{text}");
    assert_eq!((files(&disks.disk).len(), disks.cluster.file_rows()), before);
    assert_eq!(disks.lands_in("name"), "../more", "its ID is free");
    let calls = strace.detach();
    assert_eq!(calls.iter().filter(|call| call.returned < 0).count(), 1, "it is tried once: {calls:?}");
}

/// Upload A's directory sync failed at once, while its file's sync took seconds more. Upload B, whose name was there
/// before that, asked for another sync of the directory, which succeeded: the kernel had told of the loss. B was
/// acknowledged, and the store path was marked only when A went on.
#[test]
fn an_upload_whose_name_a_failed_sync_may_have_lost_is_refused_though_the_next_sync_succeeds() {
    const TEST: &str =
        "an_upload_whose_name_a_failed_sync_may_have_lost_is_refused_though_the_next_sync_succeeds";
    let Some(disks) = TwoDisks::start(TEST, "eio-late", 200) else { return };
    assert_eq!(disks.lands_in("before"), "../data");
    let content = sample(40 << 20, 7);
    let (mut slow, slow_file) = disks.begin("slow", &content, 1000);
    let (mut quick, quick_file) = disks.begin("quick", &sample(5000, 5), 1000);
    let directory = slow_file.parent().expect("a directory");
    assert_eq!(quick_file.parent(), Some(directory));
    // The flush of the slow one's content takes long; the first sync of the directory fails.
    let args = [
        ["-P", slow_file.to_str().expect("UTF-8")],
        ["-P", directory.to_str().expect("UTF-8")],
        ["-e", "trace=fsync,fdatasync"],
        ["-e", "inject=fdatasync:delay_enter=5000000:when=1"],
        ["-e", "inject=fsync:error=EIO:when=1"],
    ];
    let output = disks.cluster.path("log/strace");
    let Some(strace) = Strace::attach(TEST, &disks.cluster.storages[0], &args.concat(), &output) else {
        return;
    };
    let trace_has = |text: &str| fs::read_to_string(&output).is_ok_and(|trace| trace.contains(text));
    slow.send(&content[1000..36 << 20]);
    patient("the flush in the background", PATIENCE, || trace_has("fdatasync("));
    slow.send(&content[36 << 20..]);
    patient("the directory's failed sync", PATIENCE, || trace_has("(INJECTED)"));
    // strace counts by threads: the next sync is to be made by the same one, and to succeed.
    let storage = &disks.cluster.storages[0];
    patient("the thread that made it waits", PATIENCE, || storage.thread_states("dirsync") == ["S"]);
    quick.send(&sample(5000, 5)[1000..]);
    let frame = quick.frame();
    frame.failure(102);
    assert_eq!(i16::from_be_bytes([frame.body[0], frame.body[1]]), UNAVAILABLE, "another may do better");
    let frame = slow.frame();
    frame.failure(102);
    assert_eq!(i16::from_be_bytes([frame.body[0], frame.body[1]]), UNAVAILABLE);
    for (fileid, file) in [("slow", slow_file), ("quick", quick_file)] {
        assert!(!file.exists() && disks.cluster.file_row("tnv001", fileid).is_none(), "{fileid} is given up");
    }
    let syncs: Vec<_> = (strace.detach().into_iter())
        .filter(|call| call.name == "fsync" && call.target().ends_with("/000/000/000"))
        .map(|call| call.returned)
        .collect();
    assert_eq!(syncs, [-1, 0], "the next sync succeeded");
    assert_eq!(disks.lands_in("quick"), "../more", "its ID is free");
    disks.recovers();
}

#[test]
fn a_member_whose_disk_fails_costs_its_clients_nothing_while_there_is_another() {
    const TEST: &str = "a_member_whose_disk_fails_costs_its_clients_nothing_while_there_is_another";
    let cluster = Builder::new("eio-member").groups(&["group001"], 2).start();
    let output = cluster.path("log/strace");
    let args = ["-e", "trace=fsync", "-e", "inject=fsync:error=EIO"];
    let Some(strace) = Strace::attach(TEST, &cluster.storages[0], &args, &output) else { return };
    let content = sample(3 << 20, 3);
    for _ in 0..8 {
        let fileid = cluster.upload("tnvideo", "tnv001", &content);
        let back =
            raw::ask(cluster.storages[1].address(), &raw::download("tnvideo", "tnv001", &fileid, 0, 0));
        assert!(back.success(102) == content);
    }
    let refused = raw::ask(cluster.storage(), &raw::upload("tnvideo", "tnv001", "refused", b"x"));
    let text = refused.failure(102);
    assert!(text.contains("Input/output error") || text.contains("no store path works"), "{text}");
    cluster.storages[0].wait_log("store path '../data' is bad: ", PATIENCE);
    assert_eq!(cluster.content_files("group001").len(), 8, "nothing of what failed");
    assert_eq!(cluster.file_rows(), 8);
    drop(strace);
    cluster.storages[0].wait_log("store path '../data' has proven itself", PATIENCE);
    patient("uploads work again", PATIENCE, || {
        raw::ask(cluster.storage(), &raw::upload("tnvideo", "tnv001", "again", b"x")).status == 0
    });
}

/// A mount of GlusterFS that has lost a member is silent for up to six seconds. Once it had been for five, a storage
/// with no other disk refused what it had only to wait for, and no other member was left to ask.
#[test]
fn the_only_disk_is_waited_for_when_it_is_silent_for_some_seconds() {
    const TEST: &str = "the_only_disk_is_waited_for_when_it_is_silent_for_some_seconds";
    const SILENT: Duration = Duration::from_secs(7);
    let cluster = Builder::new("silent-disk").start();
    cluster.put("tnv001", "before", b"before");
    let output = cluster.path("log/strace");
    let inject = format!("inject=statfs:delay_enter={}:when=1", SILENT.as_micros());
    let args = ["-e", "trace=statfs", "-e", &inject];
    let Some(strace) = Strace::attach(TEST, &cluster.storages[0], &args, &output) else { return };
    // The disk is asked every second, so it has now been silent for 5.4 to 7.4 s.
    thread::sleep(SILENT - Duration::from_millis(600));
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let back = raw::ask(cluster.storage(), &raw::download("tnvideo", "tnv001", "before", 0, 0));
            assert_eq!(back.success(102), b"before");
        });
        cluster.put("tnv001", "meanwhile", b"meanwhile");
        reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let log = cluster.storages[0].log_of_run();
    assert!(!log.contains("store path '../data' has not answered"), "nobody had to be refused: {log}");
    assert!(!strace.detach().is_empty(), "the disk was asked");
}

#[test]
fn a_disk_that_fills_up_in_the_middle_of_an_upload_is_told_and_passed_over_until_there_is_room() {
    const TEST: &str =
        "a_disk_that_fills_up_in_the_middle_of_an_upload_is_told_and_passed_over_until_there_is_room";
    let Some(disks) = TwoDisks::start(TEST, "fills", 16) else { return };
    // So small that its space is not allocated at the start.
    let content = sample(1_000_000, 4);
    let (mut upload, file) = disks.begin("broken", &content, 1000);
    let filler = disks.disk.join(".filler");
    Output::of(Command::new("dd").args(["if=/dev/zero", "bs=4096"]).arg(format!("of={}", filler.display())));
    upload.send(&content[1000..]);
    let frame = upload.frame();
    let text = frame.failure(102);
    assert!(text.contains("write file fail, fileid: broken: No space left on device"), "{text}");
    assert_eq!(frame.number(), NO_SPACE);
    assert!(!file.exists());
    assert_eq!(disks.cluster.file_rows(), 0);
    assert_eq!(disks.lands_in("other"), "../more");
    fs::remove_file(filler).expect("make room");
    let mut count = 0;
    patient("the disk takes files again", PATIENCE, || {
        count += 1;
        disks.lands_in(&format!("again{count}")) == "../data"
    });
    assert!(!disks.log().contains("is bad"), "a full disk is no bad one");
}

#[test]
fn a_disk_that_becomes_read_only_is_passed_over_and_tidied_when_it_can_be_written_again() {
    const TEST: &str = "a_disk_that_becomes_read_only_is_passed_over_and_tidied_when_it_can_be_written_again";
    let Some(disks) = TwoDisks::start(TEST, "ro", 16) else { return };
    assert_eq!(disks.lands_in("before"), "../data");
    let (upload, file) = disks.begin("broken", &sample(1_000_000, 4), 1000);
    let Some(over) = Mount::bind(TEST, &disks.disk, &disks.data()) else { return };
    over.make_read_only();
    for count in 0..20 {
        assert_eq!(disks.lands_in(&format!("meanwhile{count}")), "../more");
    }
    disks.cluster.storages[0].wait_log("store path '../data': it is mounted read-only", PATIENCE);
    // What is cut off now cannot be removed now.
    drop(upload);
    disks.cluster.storages[0].wait_log("trying again", PATIENCE);
    disks.cluster.storages[0].wait_log("1 files without a row could not be removed", PATIENCE);
    assert!(file.exists());
    assert_eq!(disks.lands_in("later"), "../more");
    drop(over);
    disks.cluster.storages[0].wait_log("store path '../data' works again", PATIENCE);
    patient("the remains go", PATIENCE, || !file.exists());
    let mut count = 0;
    patient("the disk takes files again", PATIENCE, || {
        count += 1;
        disks.lands_in(&format!("again{count}")) == "../data"
    });
}

/// The embedded database's disk fails, not the store path's: what was to be committed is on neither side, or
/// on both.
#[test]
fn a_commit_that_cannot_be_synced_leaves_files_and_rows_that_agree() {
    const TEST: &str = "a_commit_that_cannot_be_synced_leaves_files_and_rows_that_agree";
    let cluster = Builder::new("eio-commit").start();
    cluster.put("tnv001", "before", b"before");
    let log = cluster.path("db").canonicalize().expect("a directory").join("tnv_storagedb.db-wal");
    let args = [
        "-P",
        log.to_str().expect("UTF-8"),
        "-e",
        "trace=fsync,fdatasync",
        "-e",
        "inject=fsync,fdatasync:error=EIO",
    ];
    let Some(strace) = Strace::attach(TEST, &cluster.storages[0], &args, &cluster.path("log/strace")) else {
        return;
    };
    for count in 0..5 {
        let request = raw::upload("tnvideo", "tnv001", &format!("broken{count}"), &sample(4000, count));
        println!("{}", raw::ask(cluster.storage(), &request).failure(102));
    }
    let calls = strace.detach();
    assert!(calls.iter().filter(|call| call.returned < 0).count() >= 5, "{calls:?}");
    patient("uploads work again", PATIENCE, || {
        raw::ask(cluster.storage(), &raw::upload("tnvideo", "tnv001", "after", b"after")).status == 0
    });
    patient("files and rows agree", PATIENCE, || {
        cluster.content_files("group001").len() == cluster.file_rows()
    });
    for (fileid, content) in [("before", &b"before"[..]), ("after", b"after")] {
        let back = raw::ask(cluster.storage(), &raw::download("tnvideo", "tnv001", fileid, 0, 0));
        assert_eq!(back.success(102), content);
    }
    let rows = cluster.file_rows();
    assert!((2..=7).contains(&rows), "{rows} rows");
    assert!(!cluster.storages[0].log().contains("is bad"), "the store path is not to blame");
}

/// The story: an I/O error when a file was served was an INFO line and a closed connection, though nothing had been
/// sent: no failure reply, the next upload went to the same disk, and the client asked no other member.
#[test]
fn a_file_that_cannot_be_read_is_refused_and_its_disk_is_tried_last() {
    let test = "a file that cannot be read";
    let Some(disks) = TwoDisks::start(test, "unreadable", 64) else { return };
    // A small one is read by the storage, a large one is sent by the kernel, which reads its first bytes before.
    for (fileid, bytes, inject) in [
        ("small", 5000, "inject=pread64,read:error=EIO"),
        ("large", 3 << 20, "inject=pread64,read:error=EIO"),
        ("open", 4000, "inject=openat,open:error=EIO"),
    ] {
        let content = sample(bytes, 5);
        disks.cluster.put("tnv001", fileid, &content);
        let row = disks.cluster.file_row("tnv001", fileid).expect("a row")[2].clone();
        assert!(row.starts_with("../data/"), "{row}");
        let file = disks.data().join(row.strip_prefix("../data/").expect("a path"));
        let output = disks.cluster.path(&format!("log/strace-{fileid}"));
        // The path as the storage opens it, and as the kernel knows it once it is open.
        let args = [
            "-P",
            &row,
            "-P",
            file.to_str().expect("UTF-8"),
            "-e",
            "trace=openat,open,pread64,read",
            "-e",
            inject,
        ];
        let Some(strace) = Strace::attach(test, &disks.cluster.storages[0], &args, &output) else { return };
        let mut raw = Raw::connect(disks.cluster.storage());
        let frame = raw.ask(&raw::download("tnvideo", "tnv001", fileid, 0, 0));
        println!("{fileid}: {}", frame.failure(102));
        assert_eq!(frame.number(), UNAVAILABLE, "another member may have it");
        assert_eq!(disks.lands_in(&format!("beside-{fileid}")), "../more");
        // It is out of service at once, and the connection goes on.
        assert_eq!(raw.ask(&raw::download("tnvideo", "tnv001", fileid, 0, 0)).number(), UNAVAILABLE);
        drop(strace);
        // The disk is well again: the scrub reads the file, and it is served again.
        patient("the file is served again", PATIENCE, || {
            let frame = raw::ask(disks.cluster.storage(), &raw::download("tnvideo", "tnv001", fileid, 0, 0));
            frame.status == 0 && frame.success(102) == content
        });
        let mut count = 0;
        patient("the disk takes files again", PATIENCE, || {
            count += 1;
            disks.lands_in(&format!("after-{fileid}{count}")) == "../data"
        });
    }
}

/// The list of damaged files had the name that the reader asked by, which is not the key of the row where the database
/// takes the two for equal: five seconds later the file counted as deleted, and was served again. And of a row
/// without a checksum the size alone was looked at.
#[test]
fn a_file_that_cannot_be_read_stays_out_of_service_by_whatever_name_it_was_asked_for() {
    let test = "a file asked for by another name";
    let Some(server) = MariaDb::start() else { return };
    let cluster = Builder::new("by-another-name").db(Db::Maria(&server)).start();
    let content = sample(5000, 5);
    cluster.put("tnv001", "abc", &content);
    let row = cluster.file_row("tnv001", "abc").expect("a row")[2].clone();
    // As an existing storage wrote it, whose readers find it by each of its names.
    let table = raw::table_of("tnv001");
    let change =
        format!("UPDATE tnv_storagedb.t_file_0{table} SET id = 'ABC', checksum = NULL, group_name = NULL");
    server.run(&[&change]);
    let file = cluster.path("group001/data").join(row.strip_prefix("../data/").expect("a path"));
    let output = cluster.path("log/strace");
    let path = file.to_str().expect("UTF-8");
    let args = ["-P", &row, "-P", path, "-e", "trace=pread64,read", "-e", "inject=pread64,read:error=EIO"];
    let Some(strace) = Strace::attach(test, &cluster.storages[0], &args, &output) else { return };
    let ask = || raw::ask(cluster.storage(), &raw::download("tnvideo", "tnv001", "abc", 0, 0));
    assert_eq!(ask().number(), UNAVAILABLE);
    // The scrub looks at it every 5 s.
    thread::sleep(Duration::from_secs(13));
    let log = cluster.storages[0].log();
    assert!(!log.contains("has been deleted") && !log.contains("back in service"), "{log}");
    drop(strace);
    patient("the file is served again", PATIENCE, || {
        let frame = ask();
        frame.status == 0 && frame.success(102) == content
    });
    cluster.storages[0].wait_log("sound again and back in service", PATIENCE);
}
