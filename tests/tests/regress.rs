//! What the existing system gets wrong, one test for each, with its story.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use tnv_tests::cluster::{Part, active, statuses};
use tnv_tests::http::Http;
use tnv_tests::mariadb::MariaDb;
use tnv_tests::raw::{self, Raw, message};
use tnv_tests::{Builder, Cluster, Db, PATIENCE, patient, sample};

/// The 513th number is the first whose path needs a directory that nobody made: existing storages
/// make none and every upload fails from there on.
#[test]
fn uploads_go_on_after_512_ids() {
    let cluster = Builder::new("512").start();
    let mut ids = Raw::connect(cluster.id());
    for _ in 0..508 {
        ids.ask(&raw::get_id("../data")).success(101);
    }
    for index in 0..10 {
        cluster.put("tnv001", &format!("f{index}"), b"x");
    }
    let last = cluster.file_row("tnv001", "f9").expect("a row")[2].clone();
    assert!(last.starts_with("../data/000/000/001/") && last.ends_with("_005"), "{last}");
}

/// The same where the second and the third directory roll over.
#[test]
fn uploads_go_on_where_every_directory_rolls_over() {
    for (next, before, after) in [
        (512_i64.pow(2) - 1, "000/000/1FF", "000/001/000"),
        (512_i64.pow(3) - 1, "000/1FF/1FF", "001/000/000"),
        (512_i64.pow(4) - 1, "1FF/1FF/1FF", "000/000/000"),
    ] {
        let mut cluster = Builder::new("rollover").set(Part::Id, "idinc_max_step", 1).start();
        cluster.put("tnv001", "first", b"x");
        cluster.ids[0].stop(PATIENCE);
        // With a step of one the next value is what the table says, as 0..N-1 have been handed out.
        cluster.sql("tnv_idsdb", &format!("UPDATE t_id_gen SET id_value = {next} WHERE id = '../data'"));
        cluster.ids[0].start();
        cluster.put("tnv001", "before", b"b");
        cluster.put("tnv001", "after", b"a");
        for (id, dir) in [("before", before), ("after", after)] {
            let path = cluster.file_row("tnv001", id).expect("a row")[2].clone();
            assert!(path.starts_with(&format!("../data/{dir}/")), "{path}");
            assert!(cluster.storages[0].cwd().join(path).exists());
        }
    }
}

/// Existing servers build their SQL out of what the wire brings: `o'brien` cannot upload, and others
/// read any file or delete all rows.
fn hostile_names(cluster: &Cluster) {
    let names = [
        "o'brien",
        "x' OR '1'='1",
        "'; DELETE FROM t_file_02; -- ",
        "'; DROP TABLE t_router; DROP TABLE t_id_gen; -- ",
        "\\",
        "\\' OR 1=1 -- ",
        "\"quoted\"",
        "100%",
        "under_score",
        "`back`",
        "new\nline",
        "?",
        "дмитрий😀",
    ];
    cluster.put("tnv001", "innocent", b"innocent");
    for (index, name) in names.iter().enumerate() {
        // A group for the user, the file, its size, and nothing that belongs to anyone else.
        raw::ask(cluster.tracker(), &raw::addresses("tnvideo", name)).success(100);
        let content = format!("of {index}").into_bytes();
        assert_eq!(
            raw::ask(cluster.storage(), &raw::upload("tnvideo", name, name, &content)).success(102),
            b"",
            "{name:?}"
        );
        let size = raw::ask(cluster.storage(), &raw::filesize("tnvideo", name, name)).success(102);
        assert_eq!(size, (content.len() as i64).to_be_bytes(), "{name:?}");
        let back = raw::ask(cluster.storage(), &raw::download("tnvideo", name, name, 0, 0)).success(102);
        assert_eq!(back, content, "{name:?}");
        raw::ask(cluster.storage(), &raw::download("tnvideo", "tnv001", name, 0, 0)).failure(102);
        raw::ask(cluster.storage(), &raw::delete("tnvideo", "tnv001", name)).failure(102);
        raw::ask(cluster.id(), &raw::get_id(name)).success(101);
    }
    assert_eq!(cluster.file_rows(), names.len() + 1);
    for name in names {
        raw::ask(cluster.storage(), &raw::delete("tnvideo", name, name)).success(102);
    }
    assert_eq!(cluster.file_rows(), 1);
    let back = raw::ask(cluster.storage(), &raw::download("tnvideo", "tnv001", "innocent", 0, 0));
    assert_eq!(back.success(102), b"innocent");
    let keys = cluster.sql("tnv_idsdb", "SELECT COUNT(*) FROM t_id_gen");
    assert_eq!(keys[0][0], (names.len() + 1).to_string(), "each key for itself, and ../data");
    let routes = cluster.sql("tnv_trackerdb", "SELECT COUNT(*) FROM t_router");
    assert_eq!(routes[0][0], (names.len() + 1).to_string(), "a route for each, and the innocent one's");
}

#[test]
fn names_are_never_sql_on_the_embedded_database() {
    hostile_names(&Builder::new("sql").start());
}

#[test]
fn names_are_never_sql_on_mariadb() {
    let Some(server) = MariaDb::start() else { return };
    hostile_names(&Builder::new("sql-mariadb").db(Db::Maria(&server)).start());
}

/// A text field without its NUL lets existing servers read on into whatever follows, and die.
/// `wire.rs` tries each field; here all of one server's connections go through it at once.
#[test]
fn a_field_without_nul_kills_no_server() {
    let mut cluster = Builder::new("nul").start();
    let storage = cluster.storage();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    raw::ask(storage, &message(71, &[b'a'; 400])).failure(102);
                }
            });
        }
    });
    assert!(cluster.parts().all(|part| part.runs()));
    cluster.put("tnv001", "alive", b"yes");
}

/// The tables are chosen by the user's name, and existing storages look no further: any user of the
/// same table reads and deletes another's file.
#[test]
fn nobody_reads_or_deletes_another_users_file() {
    let cluster = Builder::new("owners").groups(&["group001"], 2).start();
    let mut thieves = (0..).map(|index| format!("thief{index}"));
    let thief = thieves.find(|name| raw::table_of(name) == raw::table_of("tnv001")).expect("some name");
    cluster.put("tnv001", "mine", b"private");
    for storage in &cluster.storages {
        // Once from the cache as well.
        raw::ask(storage.address(), &raw::filesize("tnvideo", "tnv001", "mine")).success(102);
        for (appid, userid) in
            [("tnvideo", thief.as_str()), ("other", "tnv001"), ("tnvideo", "TNV001"), ("tnvideo", "tnv001 ")]
        {
            for request in [
                raw::filesize(appid, userid, "mine"),
                raw::download(appid, userid, "mine", 0, 0),
                raw::delete(appid, userid, "mine"),
            ] {
                raw::ask(storage.address(), &request).failure(102);
            }
        }
        for fileid in ["MINE", "mine ", "Mine", "mi"] {
            raw::ask(storage.address(), &raw::filesize("tnvideo", "tnv001", fileid)).failure(102);
        }
    }
    let back = raw::ask(cluster.storage(), &raw::download("tnvideo", "tnv001", "mine", 0, 0));
    assert_eq!(back.success(102), b"private");
}

/// Existing storages answer a duplicate upload with two failures, and the second one is taken for the
/// answer of the next request.
#[test]
fn a_duplicate_upload_is_refused_once_and_harms_nothing() {
    let cluster = Builder::new("duplicate").start();
    cluster.put("tnv001", "twice", b"first");
    for size in [0, 6, 300_000, 3 << 20] {
        let mut raw = Raw::connect(cluster.storage());
        raw.ask(&raw::upload("tnvideo", "tnv001", "twice", &vec![b's'; size])).failure(102);
        let asked = raw.try_send(&raw::filesize("tnvideo", "tnv001", "twice")).map(|()| raw.try_frame());
        if let Ok(Ok(Some(frame))) = asked {
            assert_eq!(frame.success(102), 5_i64.to_be_bytes());
        }
    }
    let back = raw::ask(cluster.storage(), &raw::download("tnvideo", "tnv001", "twice", 0, 0));
    assert_eq!(back.success(102), b"first");
    assert_eq!(cluster.content_files("group001").len(), 1, "the refused ones left files");
    assert_eq!(cluster.file_rows(), 1);
}

/// Existing trackers look first and insert afterwards: clients that ask at once for a new user make a
/// route each, and the user's files end up in several groups.
fn one_route_for_one_user(name: &str, db: Db<'_>) {
    let cluster = Builder::new(name).trackers(3).groups(&["group001", "group002"], 1).db(db).start();
    let trackers: Vec<_> = cluster.trackers.iter().map(|tracker| tracker.address()).collect();
    for user in 0..12 {
        let userid = format!("new'user{user}");
        let barrier = Arc::new(Barrier::new(12));
        let asked: Vec<_> = (0..12)
            .map(|index| {
                let (barrier, userid, tracker) = (barrier.clone(), userid.clone(), trackers[index % 3]);
                thread::spawn(move || {
                    let mut raw = Raw::connect(tracker);
                    barrier.wait();
                    raw.ask(&raw::addresses("tnvideo", &userid)).success(100)[..17].to_vec()
                })
            })
            .collect::<Vec<_>>()
            .into_iter()
            .map(|thread| thread.join().expect("an answer"))
            .collect();
        assert!(asked.iter().all(|group| *group == asked[0]), "several groups for {userid}");
    }
    let rows = cluster.sql("tnv_trackerdb", "SELECT appid, userid, group_name FROM t_router");
    assert_eq!(rows.len(), 12, "{rows:?}");
    assert!(rows.iter().all(|row| row[0] == "tnvideo"));
}

#[test]
fn one_new_user_gets_one_route_however_many_ask_on_the_embedded_database() {
    one_route_for_one_user("routes", Db::Embedded);
}

#[test]
fn one_new_user_gets_one_route_however_many_ask_on_mariadb() {
    let Some(server) = MariaDb::start() else { return };
    one_route_for_one_user("routes-mariadb", Db::Maria(&server));
}

/// Existing ID servers read the value and write it back advanced: two of them hand out the same
/// numbers, and one file overwrites another.
fn no_number_twice(name: &str, db: Db<'_>) {
    let cluster = Builder::new(name)
        .trackers(0)
        .groups(&["group001"], 0)
        .ids(3)
        .set(Part::Id, "idinc_max_step", 7)
        .db(db)
        .start();
    let servers: Vec<_> = cluster.ids.iter().map(|server| server.address()).collect();
    let threads: Vec<_> = (0..9)
        .map(|index| {
            let server = servers[index % 3];
            thread::spawn(move || {
                let mut raw = Raw::connect(server);
                (0..200)
                    .map(|_| raw.ask(&raw::get_id("../data")).success(101).try_into().expect("8 bytes"))
                    .map(i64::from_be_bytes)
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    let mut seen = HashSet::new();
    for thread in threads {
        for number in thread.join().expect("numbers") {
            assert!(number >= 0);
            assert!(seen.insert(number), "{number} was handed out twice");
        }
    }
    assert_eq!(seen.len(), 1800);
    assert!(seen.contains(&0), "the first value of a new key is 0");
    let most = *seen.iter().max().expect("a number");
    assert!(most < 1800 + 3 * 3 * 7, "{most}: more is skipped than the servers' segments explain");
}

#[test]
fn several_id_servers_never_hand_out_a_number_twice_on_the_embedded_database() {
    no_number_twice("ids", Db::Embedded);
}

#[test]
fn several_id_servers_never_hand_out_a_number_twice_on_mariadb() {
    let Some(server) = MariaDb::start() else { return };
    no_number_twice("ids-mariadb", Db::Maria(&server));
}

fn number(server: SocketAddr) -> i64 {
    let body = raw::ask(server, &raw::get_id("../data")).success(101);
    i64::from_be_bytes(body.try_into().expect("8 bytes"))
}

/// The primary of the database was lost, and the replica that took its place had not seen the last
/// steps: the numbers of these steps were handed out a second time.
fn a_database_that_fell_back(name: &str, db: Db<'_>) {
    let mut cluster = Builder::new(name)
        .trackers(0)
        .groups(&["group001"], 0)
        .ids(1)
        .set(Part::Id, "idinc_max_step", 10)
        .db(db)
        .start();
    let mut seen = HashSet::new();
    let mut most = -1;
    for fall_back in ["UPDATE t_id_gen SET id_value = 7", "DELETE FROM t_id_gen"] {
        for killed in [false, true] {
            for _ in 0..95 {
                let number = number(cluster.id());
                assert!(seen.insert(number), "{number} was handed out twice");
                most = most.max(number);
            }
            // What follows is asked of a database that has forgotten, by a server that may have too.
            if killed {
                cluster.ids[0].kill();
            }
            cluster.sql("tnv_idsdb", fall_back);
            if killed {
                cluster.ids[0].start();
                let next = number(cluster.id());
                assert!(next > most, "after {most} came {next}");
                seen.insert(next);
            }
        }
    }
    cluster.ids[0].wait_log("the database has lost steps", PATIENCE);
}

#[test]
fn a_database_that_fell_back_makes_no_id_server_repeat_a_number_on_the_embedded_database() {
    a_database_that_fell_back("fell-back", Db::Embedded);
}

#[test]
fn a_database_that_fell_back_makes_no_id_server_repeat_a_number_on_mariadb() {
    let Some(server) = MariaDb::start() else { return };
    a_database_that_fell_back("fell-back-mariadb", Db::Maria(&server));
}

/// Existing storages join and then wait a whole interval before they beat: nothing can be uploaded
/// for 10 s after a start.
#[test]
fn a_storage_is_usable_at_once_whatever_its_interval() {
    let cluster = Builder::new("at-once")
        .set(Part::Storage, "tnv_heart_beat_interval", 3600)
        .set(Part::Tracker, "check_active_interval", 86_400)
        .no_wait()
        .start();
    let took = patient("ACTIVE", PATIENCE, || active(cluster.tracker()) == 1);
    println!("ACTIVE {took:?} after the storage was ready");
}

/// Existing trackers keep a dead storage ACTIVE for two minutes and send clients there. Here its
/// silence would be noticed after a day, so it is the end of its connection that is.
#[test]
fn a_dead_storage_is_offline_when_its_connection_ends() {
    let mut cluster = Builder::new("dead")
        .groups(&["group001"], 2)
        .set(Part::Storage, "tnv_heart_beat_interval", 3600)
        .set(Part::Tracker, "check_active_interval", 86_400)
        .start();
    let dead = cluster.storages[0].host_port();
    cluster.storages[0].kill();
    let took = patient("OFFLINE", PATIENCE, || statuses(cluster.tracker())[&dead] == "OFFLINE");
    println!("OFFLINE {took:?} after the kill");
    for _ in 0..20 {
        let route = raw::ask(cluster.tracker(), &raw::addresses("tnvideo", "tnv001")).success(100);
        assert!(!String::from_utf8_lossy(&route).contains(&dead));
    }
    cluster.storages[0].start();
    cluster.wait_active(2);
    assert_eq!(statuses(cluster.tracker()).len(), 2, "it is the same member as before");
}

/// And one that is silent with its connection open: after three of its own intervals, where any other
/// bound is a day away.
#[test]
fn a_silent_storage_is_offline_after_three_of_its_intervals() {
    let cluster = Builder::new("silent")
        .groups(&["group001"], 2)
        .set(Part::Storage, "tnv_heart_beat_interval", 1)
        .set(Part::Tracker, "check_active_interval", 86_400)
        .start();
    let silent = cluster.storages[0].host_port();
    // So that the tracker has seen an interval.
    thread::sleep(Duration::from_millis(2500));
    cluster.storages[0].signal(rustix::process::Signal::STOP);
    let took = patient("OFFLINE", PATIENCE, || statuses(cluster.tracker())[&silent] == "OFFLINE");
    println!("OFFLINE {took:?} after it fell silent");
    cluster.storages[0].signal(rustix::process::Signal::CONT);
    cluster.wait_active(2);
}

/// And no sooner, so that one beat may be lost and one late.
#[test]
fn a_silent_storage_is_not_offline_before_three_of_its_intervals() {
    let cluster = Builder::new("not-yet").ids(0).groups(&["group001"], 0).start();
    let mut storage = Raw::connect(cluster.tracker());
    storage.ask(&message(10, &raw::join("group001", "host", 1, 1))).success(100);
    storage.ask(&message(11, &raw::beat("group001", "host"))).success(100);
    thread::sleep(Duration::from_secs(1));
    let last = Instant::now();
    storage.ask(&message(11, &raw::beat("group001", "host"))).success(100);
    patient("OFFLINE", PATIENCE, || statuses(cluster.tracker())["127.0.0.1:1"] == "OFFLINE");
    let took = last.elapsed();
    assert!(took >= Duration::from_secs(3), "{took:?} is less than three intervals");
}

/// And at most `check_active_interval`, whatever its interval.
#[test]
fn a_silent_storage_is_offline_at_the_latest_after_check_active_interval() {
    let cluster = Builder::new("check-active")
        .set(Part::Tracker, "check_active_interval", 3)
        .set(Part::Storage, "tnv_heart_beat_interval", 3600)
        .no_wait()
        .start();
    // Its connection stays, and it is ACTIVE for so short a while that one may miss it.
    let took = patient("OFFLINE", PATIENCE, || statuses(cluster.tracker()).values().eq(["OFFLINE"]));
    println!("OFFLINE {took:?} after its only heartbeat");
}

/// An upload that breaks off leaves existing storages with a file that no row knows.
#[test]
fn a_broken_upload_leaves_neither_file_nor_row() {
    let cluster = Builder::new("orphans").start();
    for sent in [0_usize, 1, 4096, 1 << 20] {
        let mut body = raw::upload_head("tnvideo", "tnv001", "broken", 2 << 20);
        body.extend(sample(sent, 1));
        let mut bytes = raw::head(70, 408 + (2 << 20));
        bytes.extend(&body);
        let mut raw = Raw::connect(cluster.storage());
        raw.send(&bytes);
        drop(raw);
    }
    patient("no file of a broken upload", PATIENCE, || cluster.content_files("group001").is_empty());
    assert_eq!(cluster.file_rows(), 0);
    raw::ask(cluster.storage(), &raw::filesize("tnvideo", "tnv001", "broken")).failure(102);
    cluster.put("tnv001", "broken", b"now whole");
}

/// Existing caches answer with the size of a file that another member deleted, and with the old size
/// after a new upload under the same ID.
#[test]
fn a_cache_never_answers_for_a_file_that_is_gone_or_new() {
    let cluster = Builder::new("cache").groups(&["group001"], 2).start();
    let (here, there) = (cluster.storages[0].address(), cluster.storages[1].address());
    for round in 0..5_usize {
        let content = sample(1000 + round, round as u64);
        let (writer, reader) = if round % 2 == 0 { (here, there) } else { (there, here) };
        raw::ask(writer, &raw::upload("tnvideo", "tnv001", "same", &content)).success(102);
        for member in [writer, reader, reader] {
            let size = raw::ask(member, &raw::filesize("tnvideo", "tnv001", "same")).success(102);
            assert_eq!(size, (content.len() as i64).to_be_bytes());
            let back = raw::ask(member, &raw::download("tnvideo", "tnv001", "same", 0, 0)).success(102);
            assert!(back == content);
        }
        raw::ask(writer, &raw::delete("tnvideo", "tnv001", "same")).success(102);
        for member in [reader, writer] {
            raw::ask(member, &raw::filesize("tnvideo", "tnv001", "same")).failure(102);
            raw::ask(member, &raw::download("tnvideo", "tnv001", "same", 0, 0)).failure(102);
            raw::ask(member, &raw::delete("tnvideo", "tnv001", "same")).failure(102);
        }
    }
    // Deleted there and uploaded anew there, while the cache here still knows the first one.
    raw::ask(here, &raw::upload("tnvideo", "tnv001", "again", b"one")).success(102);
    raw::ask(here, &raw::filesize("tnvideo", "tnv001", "again")).success(102);
    raw::ask(there, &raw::delete("tnvideo", "tnv001", "again")).success(102);
    raw::ask(there, &raw::upload("tnvideo", "tnv001", "again", b"three")).success(102);
    assert_eq!(raw::ask(here, &raw::download("tnvideo", "tnv001", "again", 0, 0)).success(102), b"three");
    assert_eq!(
        raw::ask(here, &raw::filesize("tnvideo", "tnv001", "again")).success(102),
        5_i64.to_be_bytes()
    );
}

/// The existing HTTP server sends no length, hangs 10 s on keep-alive, answers 200 to ranges with
/// wrong bytes and 500 to missing files, drops HEAD, and has one fixed user. `http.rs` has the whole;
/// here is the list, on one connection.
#[test]
fn http_does_what_the_existing_server_does_not() {
    let cluster = Builder::new("http").httpds(1).start();
    let content = sample(50_000, 8);
    cluster.put("tnv001", "film", &content);
    cluster.put("o'brien", "other", b"another's");
    let start = Instant::now();
    let mut conn = Http::connect(cluster.httpd());
    let whole = conn.ask("GET", "/files/film", &[]);
    assert_eq!((whole.status, whole.want("Content-Length")), (200, "50000"));
    let range = conn.ask("GET", "/files/film", &[("Range", "bytes=100-199")]);
    assert_eq!((range.status, range.want("Content-Range")), (206, "bytes 100-199/50000"));
    assert_eq!(range.body, &content[100..200]);
    assert_eq!(conn.ask("GET", "/files/absent", &[]).status, 404);
    let head = conn.ask("HEAD", "/files/film", &[]);
    assert_eq!((head.status, head.want("Content-Length")), (200, "50000"));
    assert_eq!(conn.ask("GET", "/files/tnvideo/o%27brien/other", &[]).body, b"another's");
    assert_eq!(conn.ask("GET", "/files/other", &[]).status, 404);
    println!("six requests on one connection in {:?}", start.elapsed());
}

/// The existing client reads a whole download into memory and keeps nothing of it.
#[test]
fn the_client_keeps_the_download_and_not_in_memory() {
    let mut cluster = Builder::new("client-memory").start();
    let content = sample(96 << 20, 4);
    let id = cluster.upload("tnvideo", "tnv001", &content);
    let out = cluster.path("out");
    let mut command = cluster.tnv_command(&["download", "tnvideo", "tnv001", &id, "0", "0"]);
    let mut child = command.arg(&out).spawn().expect("run the client");
    let mut peak_kib = 0;
    let status = loop {
        if let Some(kib) = tnv_tests::process::status_kib(child.id(), "VmHWM:") {
            peak_kib = kib;
        }
        if let Some(status) = child.try_wait().expect("wait") {
            break status;
        }
        thread::sleep(Duration::from_millis(1));
    };
    assert!(status.success());
    assert!(std::fs::read(&out).expect("OUT") == content);
    println!("peak resident of tnv: {peak_kib} KiB");
    assert!(peak_kib < 48 << 10, "{peak_kib} KiB");
    cluster.assert_peaks_below(128);
}
