//! The steps of docs/migrating.md, each with servers of ours and with what the existing system's would send, read and
//! write: a deployment is taken over part by part, and may be given back.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use tnv_tests::bins::bin;
use tnv_tests::cluster::{connect_options, statuses};
use tnv_tests::mariadb::MariaDb;
use tnv_tests::raw::{self, Raw, message};
use tnv_tests::tools::{Output, skipped};
use tnv_tests::{Builder, Db, PATIENCE, patient};

/// What an existing storage does: it joins, waits an interval, and beats on that connection. When that fails, it does
/// all of it again after the next interval.
fn existing_storage(tracker: std::net::SocketAddr, interval: Duration, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut raw) = Raw::try_connect(tracker) else {
            thread::sleep(interval);
            continue;
        };
        let join = message(10, &raw::join("group001", "host", 23000, 1));
        let mut next = join;
        while !stop.load(Ordering::Relaxed) {
            let answered = raw.try_send(&next).and_then(|()| raw.try_frame());
            if !matches!(answered, Ok(Some(frame)) if frame.status == 0) {
                break;
            }
            thread::sleep(interval);
            next = message(11, &raw::beat("group001", "host"));
        }
        thread::sleep(interval);
    }
}

/// Sets a flag when it is dropped, also by a panic: a thread that goes by the flag then ends.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_tracker_that_takes_over_has_existing_storages_back_after_a_few_of_their_heartbeats() {
    let mut cluster = Builder::new("takeover-tracker").ids(0).groups(&["group001"], 0).start();
    let (tracker, stop) = (cluster.tracker(), AtomicBool::new(false));
    let interval = Duration::from_millis(500);
    thread::scope(|scope| {
        scope.spawn(|| existing_storage(tracker, interval, &stop));
        let _stops = StopAtEnd(&stop);
        let is_active = || statuses(tracker).get("127.0.0.1:23000").is_some_and(|state| state == "ACTIVE");
        patient("ACTIVE", PATIENCE, is_active);
        // The route of a user, who is served by the tracker that was there before.
        raw::ask(tracker, &raw::addresses("tnvideo", "tnv001")).success(100);
        cluster.trackers[0].kill();
        cluster.trackers[0].start();
        let took = patient("ACTIVE again", PATIENCE, is_active);
        println!("ACTIVE again {took:?} after the start, with heartbeats every {interval:?}");
        raw::ask(tracker, &raw::addresses("tnvideo", "tnv001")).success(100);
    });
}

#[test]
fn a_storage_that_takes_over_serves_at_once_what_its_predecessor_stored() {
    let mut cluster = Builder::new("takeover-storage").groups(&["group001"], 2).start();
    cluster.put("tnv001", "before", b"stored by the predecessor");
    let address = cluster.storage();
    cluster.storages[0].stop(PATIENCE);
    let start = Instant::now();
    cluster.storages[0].start();
    let back = raw::ask(address, &raw::download("tnvideo", "tnv001", "before", 0, 0)).success(102);
    println!("served again {:?} after the start of the next one", start.elapsed());
    assert_eq!(back, b"stored by the predecessor");
    cluster.wait_active(2);
}

/// The way back: whatever ours wrote is there for the existing servers, with the statements that they have.
#[test]
fn what_ours_wrote_is_there_for_the_servers_of_the_existing_system() {
    let Some(server) = MariaDb::start() else { return };
    let mut cluster = Builder::new("way-back").db(Db::Maria(&server)).start();
    for number in 0..150 {
        cluster.put("tnv001", &format!("file{number}"), b"content");
    }
    cluster.put("tnv001", "gone", b"content");
    raw::ask(cluster.storage(), &raw::delete("tnvideo", "tnv001", "gone")).success(102);
    cluster.parts().for_each(|part| {
        part.stop(PATIENCE);
    });
    let mut conn = mysql::Conn::new(connect_options(&server)).expect("connect");
    let routes: Vec<(String, String, String)> = conn
        .query("SELECT appid, userid, group_name FROM tnv_trackerdb.t_router WHERE userid = 'tnv001'")
        .expect("query");
    assert_eq!(routes, [("tnvideo".to_owned(), "tnv001".to_owned(), "group001".to_owned())]);
    let rows: Vec<(String, i64)> = conn
        .query(
            "SELECT file_path, file_size FROM tnv_storagedb.t_file_02 WHERE appid = 'tnvideo' AND status = 0",
        )
        .expect("query");
    assert_eq!(rows.len(), 150);
    let value: i64 = conn
        .query_first("SELECT id_value FROM tnv_idsdb.t_id_gen WHERE id = '../data'")
        .expect("query")
        .expect("a row");
    for (path, size) in rows {
        let number = i64::from_str_radix(path.rsplit_once('_').expect("_").1, 16).expect("hex");
        assert!(number < value, "an existing ID server goes on from {value} and would give {number} again");
        let file = cluster.path("group001/run").join(&path);
        assert_eq!(std::fs::metadata(&file).expect("a file").len() as i64, size);
    }
    // They write as they always did, without the columns that ours added.
    for statement in [
        "INSERT INTO tnv_trackerdb.t_groups_info (group_name) VALUES ('group002')",
        "INSERT INTO tnv_trackerdb.t_router (appid, userid, group_name) VALUES ('tnvideo', 'new', 'group001')",
        "INSERT INTO tnv_idsdb.t_id_gen (id, id_value) VALUES ('../other', 100)",
        "UPDATE tnv_idsdb.t_id_gen SET id_value = id_value + 100 WHERE id = '../data'",
        "INSERT INTO tnv_storagedb.t_file_01 (id, appid, userid, status, file_path, file_size) \
         VALUES ('theirs', 'tnvideo', 'new', 0, '../data/000/000/000/5F9E3FA8_001', 9)",
        "DELETE FROM tnv_storagedb.t_file_02 WHERE id = 'file7'",
    ] {
        conn.query_drop(statement).unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    // And ours come back once more: the ID server goes on above all of it.
    cluster.ids[0].start();
    let next = raw::ask(cluster.id(), &raw::get_id("../data")).success(101);
    assert!(i64::from_be_bytes(next.try_into().expect("8 bytes")) >= value + 100);
}

/// The store path was the existing storage's, which ran as root. `--check` said that all was well when its top
/// directory had been given to the new user, and then uploads failed and deleted files stayed.
#[test]
fn a_check_finds_what_belongs_to_another_user_and_says_which_command_mends_it() {
    if !rustix::process::geteuid().is_root() {
        return skipped("a_check_finds_what_belongs_to_another_user", "needs root");
    }
    // Not under the directory of the build, which other users may be unable to enter.
    let base = std::env::temp_dir().join(format!("tnv-owner-{}", std::process::id()));
    let data = base.join("data");
    let leaf = data.join("000/001/002");
    std::fs::create_dir_all(&leaf).expect("make");
    std::fs::create_dir_all(base.join("db")).expect("make");
    std::fs::write(leaf.join("5F9E3FA7_0AB"), b"existing").expect("write");
    let program = base.join("tnv-storage");
    std::fs::copy(bin("tnv-storage"), &program).expect("copy");
    let text = format!(
        "service tnv_storage {{\n tnv_store_paths = {}\n tnv_db_path = {}\n}}\n",
        data.display(),
        base.join("db").display()
    );
    std::fs::write(base.join("storage.cfg"), text).expect("write");
    let nobody = 65_534;
    let give =
        |path: &std::path::Path| std::os::unix::fs::chown(path, Some(nobody), Some(nobody)).expect("chown");
    for path in [&base, &data, &base.join("db")] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        give(path);
    }
    let check = || {
        let mut command = Command::new(&program);
        command.arg("-c").arg(base.join("storage.cfg")).arg("--check").current_dir(&base);
        Output::of(command.uid(nobody).gid(nobody))
    };
    let out = check();
    let said = out.text() + &out.stderr;
    assert_eq!(out.code, 1, "{said}");
    assert!(said.contains("tnv_store_paths") && said.contains("/data/000'"), "{said}");
    assert!(said.contains(&format!("chown -R nobody '{}'", data.display())), "{said}");
    // As it says.
    let mut mend = Command::new("chown");
    Output::of(mend.arg("-R").arg(nobody.to_string()).arg(&data)).success();
    assert_eq!(std::fs::metadata(&leaf).expect("a directory").uid(), nobody);
    let out = check();
    assert_eq!(out.code, 0, "{}{}", out.text(), out.stderr);
    // A file that cannot be read, deep down.
    let file = leaf.join("5F9E3FA7_0AB");
    std::os::unix::fs::chown(&file, Some(0), Some(0)).expect("chown");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    let out = check();
    assert!(out.code == 1 && (out.text() + &out.stderr).contains("5F9E3FA7_0AB"), "{out:?}");
    let _ = std::fs::remove_dir_all(base);
}
