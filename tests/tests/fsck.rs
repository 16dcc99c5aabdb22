//! `tnv-storage --fsck`: it finds what disagrees and nothing else, beside servers at work or without,
//! follows no hostile row, and removes nothing but what is certainly nobody's.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tnv_tests::cluster::Part;
use tnv_tests::fsck::fsck;
use tnv_tests::mariadb::MariaDb;
use tnv_tests::raw::{self, Raw};
use tnv_tests::{Builder, Cluster, Db, PATIENCE, patient, sample};

const USER: &str = "tnv001";

/// Where the file of an upload lies.
fn file_of(cluster: &Cluster, fileid: &str) -> PathBuf {
    cluster.storages[0].cwd().join(row_path(cluster, fileid))
}

fn row_path(cluster: &Cluster, fileid: &str) -> String {
    cluster.file_row(USER, fileid).expect("a row")[2].clone()
}

/// Changes the rows of the table that the user is in.
fn update(cluster: &Cluster, change: &str, fileid: &str) {
    let table = raw::table_of(USER);
    cluster.sql("tnv_storagedb", &format!("UPDATE t_file_0{table} SET {change} WHERE id = '{fileid}'"));
}

fn flip(path: &Path) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("open a stored file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 3).expect("read a byte");
    file.write_all_at(&[byte[0] ^ 1], 3).expect("write a byte");
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()
}

fn each_kind_is_told(db: Db<'_>) {
    let cluster = Builder::new("fsck-kinds").db(db).set(Part::Storage, "tnv_scrub_rate", 0).start();
    let plain = ["good", "null", "not-live"];
    let wrong = ["gone", "short", "flipped", "hostile", "up", "other", "null-gone", "null-short"];
    for fileid in plain.iter().chain(&wrong) {
        cluster.put(USER, fileid, b"0123456789");
    }
    let evil = "o'brien\nmissing\tx\u{1b}[2J";
    cluster.put(USER, evil, b"0123456789");
    let groups = cluster
        .sql("tnv_storagedb", &format!("SELECT DISTINCT group_name FROM t_file_0{}", raw::table_of(USER)));
    assert_eq!(groups, [["group001"]], "each upload says whose it is");
    let report = fsck(&cluster, 0, &["--min-age", "0"]);
    report.assert_agrees();
    assert_eq!((report.count("rows of this group"), report.count("files")), (12, 12));
    assert_eq!((report.count("contents read"), report.count("bytes read")), (12, 120));

    for fileid in ["gone", "other", "null-gone", evil] {
        fs::remove_file(file_of(&cluster, fileid)).expect("remove a stored file");
    }
    for fileid in ["short", "null-short"] {
        fs::write(file_of(&cluster, fileid), "012").expect("shorten a stored file");
    }
    flip(&file_of(&cluster, "flipped"));
    // A row of another group, whose store path has the same text and is somewhere else; rows of no group.
    update(&cluster, "group_name = 'group002'", "other");
    for fileid in ["null", "null-gone", "null-short"] {
        update(&cluster, "group_name = NULL", fileid);
    }
    update(&cluster, "status = 1", "not-live");
    // Whoever can write the table names files that are none of the storage's.
    let secret = cluster.file("secret", b"0123456789");
    let (hostile, up) = (row_path(&cluster, "hostile"), row_path(&cluster, "up"));
    let (hostile_file, up_file) = (file_of(&cluster, "hostile"), file_of(&cluster, "up"));
    update(&cluster, &format!("file_path = '{}'", secret.display()), "hostile");
    update(&cluster, "file_path = '../data/../../secret'", "up");

    let report = fsck(&cluster, 0, &["--min-age", "0"]);
    assert_eq!(report.code, 1);
    let escaped = "o'brien\\nmissing\\tx\\u{1b}[2J";
    assert_eq!(report.fileids("missing"), ["gone", escaped]);
    assert_eq!(report.fileids("size"), ["null-short", "short"]);
    assert_eq!(report.fileids("checksum"), ["flipped"]);
    assert_eq!(report.fileids("path"), ["hostile", "up"]);
    assert_eq!(report.paths("orphan"), [hostile.as_str(), up.as_str()]);
    assert_eq!(report.lines.len(), 9, "{report:#?}");
    assert_eq!(report.count("rows of other groups"), 1);
    assert_eq!(report.count("rows of unknown group without a file here"), 1);
    assert_eq!(report.count("rows that are not live"), 1);
    let quick = fsck(&cluster, 0, &["--quick", "--min-age", "0"]);
    assert_eq!((quick.code, quick.count("contents read"), quick.lines.len()), (1, 0, 8));

    // What is no file of a storage's is not its business.
    let data = cluster.path("group001/data");
    for name in ["lost+found", "000/000/000/directory", "000/000/000/5F9E3FA7_0FF"] {
        fs::create_dir_all(data.join(name)).expect("make a directory");
    }
    for name in [".hidden", "notes.txt", "000/000/000/.5F9E3FA7_000.x", "000/000/000/5F9E3FA7_00"] {
        fs::write(data.join(name), "x").expect("write a file");
    }
    std::os::unix::fs::symlink(&secret, data.join("000/000/000/5F9E3FA7_0FE")).expect("make a link");
    // Too young, by any of the times that a file has.
    let coming = format!("../data/000/000/000/{:X}_0FD", now() + 86_400);
    fs::write(cluster.storages[0].cwd().join(&coming), "x").expect("write a file");
    let touched = "../data/000/000/000/5F9E3FA7_0FC";
    let file = fs::File::create(cluster.storages[0].cwd().join(touched)).expect("write a file");
    file.set_modified(std::time::SystemTime::now() + Duration::from_secs(86_400)).expect("set a time");
    let report = fsck(&cluster, 0, &["--repair"]);
    assert_eq!(report.count("removed"), 0, "an hour is the default: {report:#?}");
    assert_eq!((report.paths("orphan").len(), report.paths("young").len()), (0, 4));
    thread::sleep(Duration::from_millis(2100));

    let rows = cluster.file_rows();
    let report = fsck(&cluster, 0, &["--repair", "--min-age", "1"]);
    assert_eq!(report.code, 1);
    assert_eq!(report.paths("removed"), [hostile.as_str(), up.as_str()]);
    let mut young = [coming.as_str(), touched];
    young.sort_unstable();
    assert_eq!(report.paths("young"), young);
    // The marker, the journal, a directory on the top level, two in the last one and five files.
    assert_eq!(report.count("other entries"), 10, "{report:#?}");
    assert!(!hostile_file.exists() && !up_file.exists() && secret.exists());
    assert_eq!(cluster.file_rows(), rows, "never a row");
    for fileid in plain {
        assert!(file_of(&cluster, fileid).exists(), "{fileid}");
    }
    // When all is as it should be again it says so.
    let table = raw::table_of(USER);
    cluster.sql(
        "tnv_storagedb",
        &format!("DELETE FROM t_file_0{table} WHERE id NOT IN ('good', 'null', 'not-live', 'flipped')"),
    );
    flip(&file_of(&cluster, "flipped"));
    let report = fsck(&cluster, 0, &["--repair", "--min-age", "1"]);
    assert_eq!(report.paths("removed").len(), 2, "the shortened ones");
    let report = fsck(&cluster, 0, &[]);
    assert_eq!((report.code, report.lines.len()), (0, 2), "{report:#?}");
}

#[test]
fn fsck_names_every_kind_of_disagreement_and_removes_only_old_files_without_a_row() {
    each_kind_is_told(Db::Embedded);
}

#[test]
fn fsck_does_the_same_on_mariadb() {
    let Some(server) = MariaDb::start() else { return };
    each_kind_is_told(Db::Maria(&server));
}

/// An upload under way, and how many bytes it still lacks.
fn half_an_upload(cluster: &Cluster) -> (Raw, usize) {
    const BYTES: usize = 4 << 20;
    let before = cluster.content_files("group001").len();
    let mut raw = Raw::connect(cluster.storage());
    raw.send(&raw::head(70, 408 + BYTES as i64));
    raw.send(&raw::upload_head("tnvideo", USER, "slow", BYTES as i64));
    raw.send(&vec![b'x'; BYTES / 2]);
    patient("the file of the upload", PATIENCE, || cluster.content_files("group001").len() > before);
    (raw, BYTES / 2)
}

/// Ends the others where the test fails, too.
struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The age is no protection here: what keeps it from removing an upload under way is the order in which
/// it looks.
fn it_is_quiet_beside_work(db: Db<'_>) {
    const WORKERS: usize = 6;
    let cluster = Builder::new("fsck-busy").groups(&["group001"], 2).db(db).start();
    cluster.put(USER, "first", b"first");
    let (mut slow, mut left) = half_an_upload(&cluster);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let (cluster, stop) = (&cluster, &stop);
                scope.spawn(move || {
                    let mut raw = Raw::connect(cluster.storages[worker % 2].address());
                    let mut kept = Vec::new();
                    for number in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let fileid = format!("w{worker}-{number}");
                        let content = sample(1 + number % 3000, number as u64);
                        let upload = raw::upload("tnvideo", USER, &fileid, &content);
                        assert_eq!(raw.ask(&upload).success(102), b"");
                        if number % 3 == 0 {
                            kept.push((fileid, content));
                        } else {
                            assert_eq!(raw.ask(&raw::delete("tnvideo", USER, &fileid)).success(102), b"");
                        }
                    }
                    (raw, kept)
                })
            })
            .collect();
        let _stop = SetWhenDropped(&stop);
        // Beside the upload that does not come to its end there is one file that nobody knows of.
        let lost = cluster.path("group001/data/000/000/000/5F9E3FA7_1FF");
        fs::write(&lost, "lost").expect("write a file");
        let start = Instant::now();
        let mut runs = 0;
        while start.elapsed() < Duration::from_secs(4) || runs < 3 {
            let report = fsck(&cluster, runs % 2, &["--min-age", "0", "--repair"]);
            let expected = if runs == 0 { 1 } else { 0 };
            assert_eq!((report.code, report.count("removed")), (expected, expected as u64), "{report:#?}");
            assert!(report.count("files of uploads and deletes under way") >= 1, "{report:#?}");
            assert!(report.stderr.lines().all(|line| !line.contains("ERROR")), "{report:#?}");
            runs += 1;
            // A client that sent nothing at all would be given up.
            slow.send(&[b'x'; 1000]);
            left -= 1000;
        }
        stop.store(true, Ordering::Relaxed);
        let mut files = 0;
        for worker in workers {
            let (mut raw, kept) = worker.join().expect("a worker");
            files += kept.len();
            for (fileid, content) in kept {
                let request = raw::download("tnvideo", USER, &fileid, 0, 0);
                assert_eq!(raw.ask(&request).success(102), content, "{fileid}");
            }
        }
        println!("{runs} runs beside {WORKERS} clients, {files} files kept");
        slow.send(&vec![b'x'; left]);
        assert_eq!(slow.frame().success(102), b"");
        let report = fsck(&cluster, 0, &["--min-age", "0"]);
        report.assert_agrees();
        assert_eq!(report.count("files"), files as u64 + 2);
        assert_eq!(report.count("files of uploads and deletes under way"), 0);
    });
}

#[test]
fn fsck_beside_uploads_and_deletes_at_full_speed_reports_and_removes_none_of_them() {
    it_is_quiet_beside_work(Db::Embedded);
}

#[test]
fn fsck_is_as_quiet_beside_work_on_mariadb() {
    let Some(server) = MariaDb::start() else { return };
    it_is_quiet_beside_work(Db::Maria(&server));
}

/// The journal of a storage that is not there any more protected its half uploads for ever, and fsck said that all
/// agrees.
#[test]
fn what_a_kill_left_is_reported_and_removed_like_any_file_without_a_row() {
    let mut cluster = Builder::new("fsck-kill").start();
    cluster.put(USER, "first", b"first");
    let slow = half_an_upload(&cluster);
    let half = fsck(&cluster, 0, &["--min-age", "0", "--repair"]);
    half.assert_agrees();
    assert_eq!(half.count("files of uploads and deletes under way"), 1);
    cluster.storages[0].kill();
    drop(slow);
    let report = fsck(&cluster, 0, &["--min-age", "0"]);
    assert_eq!(
        (report.code, report.paths("orphan").len(), report.paths("journal").len()),
        (1, 1, 1),
        "{report:#?}"
    );
    let report = fsck(&cluster, 0, &["--min-age", "0", "--repair"]);
    assert_eq!((report.code, report.count("removed"), report.count("journals without a holder")), (1, 1, 1));
    assert_eq!(cluster.content_files("group001").len(), 1);
    cluster.storages[0].start();
    let report = fsck(&cluster, 0, &["--min-age", "0"]);
    report.assert_agrees();
    assert_eq!((report.count("files"), report.count("files of uploads and deletes under way")), (1, 0));
}

/// A store path was configured as `../data/`: rows said `../data//000/…`, and were not compared.
#[test]
fn a_slash_at_the_end_of_a_store_path_hides_no_file_from_fsck_or_the_scrub() {
    let cluster = Builder::new("fsck-slash")
        .set(Part::Storage, "tnv_store_paths", "../data/")
        .set(Part::Storage, "tnv_scrub_rate", "1G")
        .set(Part::Storage, "tnv_scrub_interval", 1)
        .start();
    for fileid in ["new", "old", "bad"] {
        cluster.put(USER, fileid, b"0123456789");
    }
    let plain = row_path(&cluster, "new");
    assert!(plain.starts_with("../data/000/"), "as existing storages write it: {plain}");
    for fileid in ["old", "bad"] {
        let doubled = row_path(&cluster, fileid).replacen("../data/", "../data//", 1);
        update(&cluster, &format!("file_path = '{doubled}', group_name = NULL"), fileid);
    }
    let all = ["--min-age", "0", "--repair"];
    let report = fsck(&cluster, 0, &all);
    report.assert_agrees();
    assert_eq!(
        (report.count("rows of this group"), report.count("files"), report.count("contents read")),
        (3, 3, 3)
    );
    flip(&file_of(&cluster, "bad"));
    cluster.storages[0].wait_log("DAMAGED, out of service here: ../data//000/", PATIENCE);
    let report = fsck(&cluster, 0, &all);
    assert_eq!((report.code, report.fileids("checksum")), (1, vec!["bad"]));
    let old = file_of(&cluster, "old");
    let frame = raw::ask(cluster.storage(), &raw::download("tnvideo", USER, "old", 0, 0));
    assert_eq!(frame.success(102), b"0123456789");
    raw::ask(cluster.storage(), &raw::delete("tnvideo", USER, "old")).success(102);
    assert!(!old.exists());
}

/// Run in the wrong directory, on an empty database, or after a store path got another text, every file
/// looks as if it had no row.
#[test]
fn fsck_removes_nothing_where_it_was_pointed_at_the_wrong_place() {
    let mut cluster = Builder::new("fsck-wrong").start();
    cluster.put(USER, "film", b"film");
    let config = cluster.storages[0].config().to_owned();
    let text = fs::read_to_string(&config).expect("read the configuration");
    let all = ["--repair", "--min-age", "0"];
    let with = |key: &str, value: &str| {
        let lines = text.lines().map(|line| match line.trim_start().starts_with(key) {
            true => format!("{key} = {value}\n"),
            false => format!("{line}\n"),
        });
        fs::write(&config, lines.collect::<String>()).expect("write the configuration");
    };
    let stays = |report: &tnv_tests::fsck::Report, words: &str| {
        assert_eq!(report.code, 1, "{report:#?}");
        assert!(report.stderr.contains(words), "{report:#?}");
        assert_eq!(cluster.content_files("group001").len(), 1);
    };

    with("tnv_store_paths", "../elsewhere");
    stays(&fsck(&cluster, 0, &all), "in the directory that the server runs in");
    with("tnv_db_path", "../no-db");
    stays(&fsck(&cluster, 0, &all), "there is no database in ../no-db");
    assert!(!cluster.path("group001/no-db").exists());
    let absolute = cluster.path("group001/data");
    with("tnv_store_paths", "../data;../data/../data");
    stays(&fsck(&cluster, 0, &all), "one directory");
    // The rows name it by its old text.
    with("tnv_store_paths", &absolute.display().to_string());
    if absolute.as_os_str().len() <= 64 {
        fsck(&cluster, 0, &all).assert_agrees();
    }
    let link = std::env::temp_dir().join(format!("tnv-fsck-{}", std::process::id()));
    std::os::unix::fs::symlink(&absolute, &link).expect("make a link");
    with("tnv_store_paths", &link.display().to_string());
    let report = fsck(&cluster, 0, &all);
    fs::remove_file(&link).expect("remove the link");
    report.assert_agrees();
    assert_eq!((report.count("files"), cluster.content_files("group001").len()), (1, 1));
    // A database of this form with nothing in it.
    fs::write(&config, &text).expect("write the configuration");
    for table in 1..=3 {
        cluster.sql("tnv_storagedb", &format!("DELETE FROM t_file_0{table}"));
    }
    stays(&fsck(&cluster, 0, &all), "is it the right one?");
    let output = |args: &[&str]| {
        let mut command = std::process::Command::new(tnv_tests::bins::bin("tnv-storage"));
        tnv_tests::Output::of(command.args(args).arg("-c").arg(&config))
    };
    for wrong in [&["--repair"][..], &["--fsck", "--min-age", "1h"], &["--fsck", "--min-age"], &["--fsck=1"]]
    {
        assert_eq!(output(wrong).code, 2, "{wrong:?}");
    }
    cluster.storages[0].kill();
}

/// The tables as our first storages made them: the checksum is there, and the group is not.
#[test]
fn a_database_without_the_group_s_column_gets_it_and_its_rows_stay() {
    let mut cluster = Builder::new("fsck-column").prepare();
    fs::create_dir_all(cluster.path("db")).expect("make a directory");
    let db = rusqlite::Connection::open(cluster.path("db/tnv_storagedb.db")).expect("make a database");
    for table in 1..=3 {
        db.execute_batch(&format!(
            "CREATE TABLE t_file_0{table} (id TEXT NOT NULL PRIMARY KEY, appid TEXT, userid TEXT, status INTEGER, \
             file_path TEXT, file_size INTEGER, create_time TEXT DEFAULT CURRENT_TIMESTAMP, \
             update_time TEXT DEFAULT CURRENT_TIMESTAMP, checksum INTEGER)"
        ))
        .expect("make a table");
    }
    let table = raw::table_of(USER);
    db.execute_batch(&format!(
        "INSERT INTO t_file_0{table} (id, appid, userid, status, file_path, file_size, checksum) \
         VALUES ('old', 'tnvideo', '{USER}', 0, '../data/000/000/000/5F9E3FA7_0AB', 3, NULL)"
    ))
    .expect("insert a row");
    drop(db);
    let old = cluster.path("group001/data/000/000/000/5F9E3FA7_0AB");
    fs::create_dir_all(old.parent().expect("a directory")).expect("make a directory");
    fs::write(&old, "old").expect("write a file");
    cluster.start_all();
    cluster.put(USER, "new", b"new");
    let rows =
        cluster.sql("tnv_storagedb", &format!("SELECT id, group_name FROM t_file_0{table} ORDER BY id"));
    assert_eq!(rows, [["new", "group001"], ["old", "NULL"]]);
    let report = fsck(&cluster, 0, &["--min-age", "0"]);
    report.assert_agrees();
    assert_eq!((report.count("rows of this group"), report.count("rows without a checksum")), (2, 1));
    let frame = raw::ask(cluster.storage(), &raw::download("tnvideo", USER, "old", 0, 0));
    assert_eq!(frame.success(102), b"old");
}
