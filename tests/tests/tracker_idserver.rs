//! What the tracker and the ID server promise while their database is away, and of the tables of an
//! existing deployment. What they answer on the wire is in `wire`, what the existing system gets
//! wrong in `regress`.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mysql::prelude::Queryable;
use tnv_tests::cluster::{Part, connect_options, statuses};
use tnv_tests::mariadb::MariaDb;
use tnv_tests::process::Process;
use tnv_tests::raw::{self, Raw, message};
use tnv_tests::tools::promptly;
use tnv_tests::{Builder, Cluster, Db, PATIENCE, patient};

/// A storage of the test's own: joined and beating on its connection.
fn storage(tracker: SocketAddr, group: &str, port: u16) -> Raw {
    let mut raw = Raw::connect(tracker);
    raw.ask(&message(10, &raw::join(group, "host", port, 1_700_000_000))).success(100);
    beat(&mut raw, group);
    raw
}

fn beat(raw: &mut Raw, group: &str) {
    assert_eq!(raw.ask(&message(11, &raw::beat(group, "host"))).success(100), b"");
}

fn group_of(tracker: SocketAddr, appid: &str, userid: &str) -> String {
    let body = raw::ask(tracker, &raw::addresses(appid, userid)).success(100);
    body[..17].iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte)).collect()
}

/// Command 127: the first number and how many there are.
fn next_ids(raw: &mut Raw, key: &str, count: u32) -> (i64, u32) {
    let body = [&count.to_be_bytes()[..], key.as_bytes(), b"\0"].concat();
    let reply: [u8; 12] = raw.ask(&message(127, &body)).success(101).try_into().expect("12 bytes");
    let (first, count) = reply.split_at(8);
    (i64::from_be_bytes(first.try_into().unwrap()), u32::from_be_bytes(count.try_into().unwrap()))
}

#[test]
fn several_numbers_at_once_are_nobody_elses() {
    let cluster = servers("several").set(Part::Id, "idinc_max_step", 100).start();
    let mut raw = Raw::connect(cluster.id());
    assert_eq!(next_ids(&mut raw, "../data", 10), (0, 10));
    assert_eq!(next_id(&mut raw, "../data"), 10);
    assert_eq!(next_ids(&mut raw, "../data", u32::MAX), (11, 64), "no more than this at once");
    // What is left of a piece of numbers comes first, be it less than was asked for.
    assert_eq!(next_ids(&mut raw, "../data", 64), (75, 25));
    assert_eq!(next_ids(&mut raw, "../data", 1), (100, 1));
    for body in [&b"\0\0\0\0k\0"[..], b"\0\0\0\x01k", b"\0\0\0\x01\0", b"\0\0"] {
        raw::ask(cluster.id(), &message(127, body)).failure(101);
    }
    assert_eq!(next_id(&mut raw, "../data"), 101);
}

fn next_id(raw: &mut Raw, key: &str) -> i64 {
    i64::from_be_bytes(raw.ask(&raw::get_id(key)).success(101).try_into().expect("8 bytes"))
}

/// Trackers and ID servers without storages.
fn servers<'a>(name: &str) -> Builder<'a> {
    Builder::new(name).groups(&["group001"], 0)
}

/// How long a tracker waits for a database that hangs.
const DATABASE_SECS: u64 = 25;

#[test]
fn a_database_that_hangs_stops_neither_joins_nor_beats_nor_known_users() {
    let Some(server) = MariaDb::start() else { return };
    let cluster = servers("hang")
        .ids(0)
        .db(Db::Maria(&server))
        .set(Part::Tracker, "tnv_threads", 8)
        .set(Part::Tracker, "mysql_rw_timeout", DATABASE_SECS)
        .start();
    let tracker = cluster.tracker();
    let mut first = storage(tracker, "group001", 1);
    assert_eq!(group_of(tracker, "tnvideo", "known"), "group001");

    server.pause();
    // Whoever had to wait for a worker would wait until one of the crowd has been given up, so that no
    // look were quick enough.
    let mut looks = 0;
    let (mut crowd, states) = promptly(Duration::from_secs(DATABASE_SECS - 5), || {
        looks += 1;
        // More than there are workers, each asking what only the database knows.
        let mut crowd: Vec<Raw> = (0..40).map(|_| Raw::connect(tracker)).collect();
        for (index, raw) in crowd.iter_mut().enumerate() {
            raw.send(&raw::addresses("tnvideo", &format!("new{looks}-{index}")));
        }
        let mut second = storage(tracker, "group001", 2);
        // Storages of such a pace are OFFLINE after three seconds of silence, and their next beats wake
        // them.
        let states = promptly(Duration::from_secs(2), || {
            for _ in 0..5 {
                beat(&mut first, "group001");
                beat(&mut second, "group001");
            }
            assert_eq!(group_of(tracker, "tnvideo", "known"), "group001");
            statuses(tracker)
        });
        (crowd, states)
    });
    let want = [("127.0.0.1:1", "ACTIVE"), ("127.0.0.1:2", "ACTIVE")];
    assert_eq!(states, BTreeMap::from(want.map(|(address, state)| (address.to_owned(), state.to_owned()))));
    for raw in &mut crowd {
        let text = raw.frame().failure(100);
        assert!(text.contains("get storage address fail"), "{text}");
    }

    server.resume();
    patient("new users are served again", PATIENCE, || {
        // It may have been OFFLINE for as long as the crowd waited.
        beat(&mut first, "group001");
        raw::ask(tracker, &raw::addresses("tnvideo", "new")).status == 0
    });
}

#[test]
fn numbers_at_hand_outlast_the_database_and_none_repeats_when_it_is_back() {
    let Some(mut server) = MariaDb::start() else { return };
    let cluster = servers("numbers").trackers(0).db(Db::Maria(&server)).start();
    let mut raw = Raw::connect(cluster.id());
    let mut numbers: Vec<i64> = (0..10).map(|_| next_id(&mut raw, "../data")).collect();
    server.kill();
    numbers.extend((0..90).map(|_| next_id(&mut raw, "../data")));
    assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    let text = raw.ask(&raw::get_id("../data")).failure(101);
    assert!(text.contains("MySQL"), "{text}");

    server.restart();
    patient("numbers are given again", PATIENCE, || {
        raw::ask(cluster.id(), &raw::get_id("../data")).status == 0
    });
    numbers.extend((0..300).map(|_| next_id(&mut Raw::connect(cluster.id()), "../data")));
    assert_eq!(numbers.iter().collect::<HashSet<_>>().len(), 400);
    let row: i64 = cluster.sql("tnv_idsdb", "SELECT id_value FROM t_id_gen")[0][0].parse().expect("a number");
    assert!(numbers.iter().all(|number| *number < row), "the row is ahead of all of them");
}

#[test]
fn a_group_that_another_tracker_added_can_be_joined() {
    let mut cluster = servers("groups").ids(0).trackers(2).prepare();
    let config = cluster.trackers[1].config().to_owned();
    let text = std::fs::read_to_string(&config).expect("read a configuration file");
    std::fs::write(&config, text.replace("tnv_groups = group001", "tnv_groups = group002"))
        .expect("write it");
    cluster.start_all();
    let tracker = cluster.tracker();
    let text = raw::ask(tracker, &message(10, &raw::join("nobody", "host", 1, 1))).failure(100);
    assert!(text.contains("nobody"), "{text}");
    patient("the group is known", PATIENCE, || {
        raw::ask(tracker, &message(10, &raw::join("group002", "host", 1, 1))).status == 0
    });
    let groups = cluster.sql("tnv_trackerdb", "SELECT group_name FROM t_groups_info ORDER BY group_name");
    assert_eq!(groups, [["group001"], ["group002"]]);
}

/// Both databases have the same promise, only one of them a loose collation: there a row of an existing tracker
/// is also that of users of another spelling (`alike`).
fn existing_routes_are_kept(cluster: &Cluster, alike: bool) {
    let row = |appid: &str, userid: &str, group: &str| {
        let values = format!("VALUES ('{appid}', '{userid}', '{group}')");
        cluster.sql("tnv_trackerdb", &format!("INSERT INTO t_router (appid, userid, group_name) {values}"));
    };
    row("other", "old", "group002");
    row("tnvideo", "old", "group001");
    row("tnvideo", "old", "group002");
    row("other", "OLD2 ", "group002");
    let tracker = cluster.tracker();
    let _one = storage(tracker, "group001", 1);
    assert_eq!(group_of(tracker, "tnvideo", "old"), "group001", "the application's own row, the older one");
    match alike {
        false => {
            assert_eq!(group_of(tracker, "tnvideo", "old2"), "group001", "another spelling, another user")
        }
        true => {
            assert!(raw::ask(tracker, &raw::addresses("tnvideo", "old2")).failure(100).contains("group002"))
        }
    }
    let text = raw::ask(tracker, &raw::addresses("tnvideo", "OLD2 ")).failure(100);
    assert!(text.contains("group002"), "the oldest row of the user decides, and its group is down: {text}");
    let _two = storage(tracker, "group002", 2);
    assert_eq!(group_of(tracker, "tnvideo", "OLD2 "), "group002");
    let rows = cluster.sql("tnv_trackerdb", "SELECT COUNT(*) FROM t_router");
    assert_eq!(rows, [["5"]], "one row was added, for the one new user");
}

#[test]
fn routes_that_an_existing_tracker_wrote_are_kept_on_the_embedded_database() {
    existing_routes_are_kept(
        &servers("old-routes").ids(0).groups(&["group001", "group002"], 0).start(),
        false,
    );
}

#[test]
fn routes_that_an_existing_tracker_wrote_are_kept_on_mariadb() {
    let Some(server) = MariaDb::start() else { return };
    let groups = ["group001", "group002"];
    existing_routes_are_kept(
        &servers("old-routes-m").ids(0).groups(&groups, 0).db(Db::Maria(&server)).start(),
        true,
    );
}

#[test]
fn the_tables_of_an_existing_deployment_are_taken_over() {
    let Some(server) = MariaDb::start() else { return };
    let times = "create_time timestamp NULL DEFAULT CURRENT_TIMESTAMP, \
                 update_time timestamp NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP";
    let table = |name: &str, columns: &str| {
        server.query(&format!(
            "CREATE TABLE {name} ({columns}, {times}) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"
        ));
    };
    let id = "id int unsigned AUTO_INCREMENT PRIMARY KEY";
    server.query("CREATE DATABASE tnv_trackerdb");
    table("tnv_trackerdb.t_groups_info", &format!("{id}, group_name varchar(32)"));
    let columns = "appid varchar(32), userid varchar(128), group_name varchar(32)";
    table("tnv_trackerdb.t_router", &format!("{id}, {columns}"));
    server.query("CREATE DATABASE tnv_idsdb");
    table("tnv_idsdb.t_id_gen", "id varchar(64) PRIMARY KEY, id_value bigint");
    server.query(
        "INSERT INTO tnv_trackerdb.t_groups_info (group_name) \
         VALUES ('group001'), ('group001'), ('group-x'), (NULL), ('group007')",
    );
    server.query(
        "INSERT INTO tnv_trackerdb.t_router (appid, userid, group_name) \
         VALUES ('tnvideo', 'twice', 'group007'), ('tnvideo', 'twice', 'group001')",
    );
    server.query("INSERT INTO tnv_idsdb.t_id_gen (id, id_value) VALUES ('../data', 4700)");

    let cluster = servers("takeover").db(Db::Maria(&server)).start();
    let tracker = cluster.tracker();
    let list = tnv_tests::cluster::group_list(tracker);
    assert!(list.contains("COUNT OF GROUPS: 2\n"), "{list}");
    let _one = storage(tracker, "group001", 1);
    let _seven = storage(tracker, "group007", 7);
    assert_eq!(group_of(tracker, "tnvideo", "twice"), "group007");
    assert_eq!(next_id(&mut Raw::connect(cluster.id()), "../data"), 4700);
    // An existing tracker goes on writing, as it always did.
    server.query(
        "INSERT INTO tnv_trackerdb.t_router (appid, userid, group_name) \
         VALUES ('tnvideo', 'twice', 'group001'), ('tnvideo', 'third', 'group007'), ('tnvideo', 'third', 'group001')",
    );
    assert_eq!(group_of(tracker, "tnvideo", "third"), "group007");
}

fn a_bad_row_is_told(cluster: &Cluster) {
    for (key, value) in [("negative", "-1"), ("null", "NULL"), ("full", "9223372036854775807")] {
        cluster.sql("tnv_idsdb", &format!("INSERT INTO t_id_gen (id, id_value) VALUES ('{key}', {value})"));
        let text = raw::ask(cluster.id(), &raw::get_id(key)).failure(101);
        assert!(text.contains(key) && text.contains(value), "{text}");
        let row = cluster.sql("tnv_idsdb", &format!("SELECT id_value FROM t_id_gen WHERE id = '{key}'"));
        assert_eq!(row, [[value]], "it is left as it was");
    }
    assert_eq!(next_id(&mut Raw::connect(cluster.id()), "good"), 0);
}

#[test]
fn a_row_that_cannot_be_counted_from_is_told_on_the_embedded_database() {
    a_bad_row_is_told(&servers("bad-row").trackers(0).start());
}

#[test]
fn a_row_that_cannot_be_counted_from_is_told_on_mariadb() {
    let Some(server) = MariaDb::start() else { return };
    a_bad_row_is_told(&servers("bad-row-m").trackers(0).db(Db::Maria(&server)).start());
}

/// Both databases: whoever only looks makes nothing, and is told what is known.
fn asking_for_a_known_user_records_nothing(cluster: &Cluster) {
    let tracker = cluster.tracker();
    let find = |appid: &str, userid: &str| raw::ask(tracker, &message(122, &raw::triple(appid, userid, "")));
    let text = find("tnvideo", "known").failure(100);
    assert!(text.ends_with("unknown user: known"), "{text}");
    let _one = storage(tracker, "group001", 1);
    for user in 0..20 {
        find("tnvideo", &format!("invented{user}")).failure(100);
    }
    assert_eq!(cluster.sql("tnv_trackerdb", "SELECT COUNT(*) FROM t_router"), [["0"]]);
    let asked = raw::ask(tracker, &raw::addresses("tnvideo", "known")).success(100);
    assert_eq!(find("tnvideo", "known").success(100), asked);
    assert!(find("other", "known").failure(100).contains("unknown appid"));
    assert!(find("tnvideo", "KNOWN").failure(100).contains("unknown user: KNOWN"));
    // It is no reason to close.
    let mut raw = Raw::connect(tracker);
    for _ in 0..3 {
        raw.ask(&message(122, &raw::triple("tnvideo", "nobody", ""))).failure(100);
    }
}

#[test]
fn asking_for_a_known_user_records_nothing_on_the_embedded_database() {
    asking_for_a_known_user_records_nothing(&servers("find").ids(0).start());
}

#[test]
fn asking_for_a_known_user_records_nothing_on_mariadb() {
    let Some(server) = MariaDb::start() else { return };
    asking_for_a_known_user_records_nothing(&servers("find-m").ids(0).db(Db::Maria(&server)).start());
}

/// Command 128 of the host that [`storage`] joins as: so many store paths, each with so many other holders.
fn shares(paths: u8, others: u8) -> Vec<u8> {
    let mut body = raw::beat("group001", "host");
    body.extend(23000_u16.to_be_bytes());
    body.extend([0, paths]);
    for path in 0..paths {
        body.extend(raw::text(format!("/data{path}").as_bytes(), 65));
        body.extend([path; 16]);
        body.extend([2; 16]);
        body.push(others);
        body.extend((0..others).flat_map(|other| [other; 16]));
    }
    message(128, &body)
}

/// The tracker read no body of more than 4,096 bytes, and refused it as one of a bad length: a storage with many
/// store paths got no clients.
#[test]
fn a_report_of_as_many_volumes_as_there_may_be_is_taken() {
    let cluster = servers("reports").ids(0).start();
    let _joined = storage(cluster.tracker(), "group001", 23000);
    let mut reports = Raw::connect(cluster.tracker());
    for (paths, others) in [(1, 0), (4, 64), (16, 64), (16, 1)] {
        reports.ask(&shares(paths, others)).success(100);
    }
    // In pieces, as a network brings them.
    let report = shares(16, 64);
    for part in report.chunks(1000) {
        reports.send(part);
    }
    reports.frame().success(100);
    // One byte too many.
    let body = [&report[10..], b"x"].concat();
    raw::ask(cluster.tracker(), &message(128, &body)).failure(100);
}

/// One connection joined 3,840 storages of its invention, and every group list had them from then on.
#[test]
fn one_host_cannot_fill_the_group_list_with_invented_storages() {
    let groups = ["group001", "group002", "group003"];
    let cluster = servers("invented").ids(0).groups(&groups, 0).start();
    let tracker = cluster.tracker();
    let _honest = storage(tracker, "group001", 23000);
    let mut refused = 0;
    let mut evil = Raw::connect(tracker);
    let mut held = Vec::new();
    for number in 0..600_u16 {
        let host = format!("invented{number}");
        let group = groups[usize::from(number) % 3];
        let request = message(10, &raw::join(group, &host, 1 + number, 1));
        // Some keep their connection, so that they are not OFFLINE.
        let frame = match number % 4 {
            0 => {
                let mut raw = Raw::connect_from([127, 0, 0, 66], tracker);
                let frame = raw.ask(&request);
                held.push(raw);
                frame
            }
            _ => evil.ask(&request),
        };
        refused += usize::from(frame.status != 0);
    }
    let listed = statuses(tracker);
    let invented = listed.keys().filter(|address| !address.ends_with(":23000")).count();
    assert!(invented <= 2 * 64, "{invented} invented storages of two addresses are in the list");
    assert!(refused > 0);
    // A host that has not joined yet may, whatever the first one does.
    let mut other = Raw::connect_from([127, 0, 0, 9], tracker);
    other.ask(&message(10, &raw::join("group001", "other", 23000, 1))).success(100);
    other.ask(&message(11, &raw::beat("group001", "other"))).success(100);
    assert_eq!(statuses(tracker)["127.0.0.9:23000"], "ACTIVE");
}

/// A tracker without `tnv_groups` added `group001` to a deployment that has other groups. Trackers of the existing
/// system give new users any group of the table, so these users could not upload.
#[test]
fn the_default_group_is_not_added_to_a_deployment_that_has_groups() {
    let mut cluster = servers("default-group").ids(0).groups(&["groupx"], 0).start();
    let groups = |cluster: &Cluster| cluster.sql("tnv_trackerdb", "SELECT group_name FROM t_groups_info");
    cluster.trackers[0].wait_log("added the group groupx to t_groups_info", PATIENCE);
    cluster.trackers[0].kill();
    let config = cluster.trackers[0].config().to_owned();
    let text = std::fs::read_to_string(&config).expect("read a configuration file");
    std::fs::write(&config, text.replace("    tnv_groups = groupx\n", "")).expect("write it");
    cluster.trackers[0].start();
    assert_eq!(groups(&cluster), [["groupx"]]);
    // A deployment that has none gets it.
    cluster.sql("tnv_trackerdb", "DELETE FROM t_groups_info");
    cluster.trackers[0].restart();
    assert_eq!(groups(&cluster), [["group001"]]);
}

/// An operator closes a group to new users by taking it out of t_groups_info, as the existing system has it. Its
/// storages were refused after their next restart, at debug level, and its users' files were gone.
fn a_retired_group_serves_its_users(cluster: &Cluster) {
    let values = "VALUES ('tnvideo', 'veteran', 'retired')";
    cluster.sql("tnv_trackerdb", &format!("INSERT INTO t_router (appid, userid, group_name) {values}"));
    let tracker = cluster.tracker();
    let text = raw::ask(tracker, &message(10, &raw::join("nonsense", "host", 1, 1))).failure(100);
    assert!(text.contains("nonsense"), "{text}");
    cluster.trackers[0].wait_log("WARN", PATIENCE);
    cluster.trackers[0].wait_log("nonsense", PATIENCE);
}

fn the_users_of_a_retired_group(cluster: &Cluster) {
    let tracker = cluster.tracker();
    let join = message(10, &raw::join("retired", "old", 7, 1));
    let mut old = Raw::connect(tracker);
    patient("a storage of the retired group may join", PATIENCE, || {
        let joined = old.ask(&join).status == 0;
        if !joined {
            old = Raw::connect(tracker);
        }
        joined
    });
    old.ask(&message(11, &raw::beat("retired", "old"))).success(100);
    let reply = raw::ask(tracker, &raw::addresses("tnvideo", "veteran")).success(100);
    assert!(reply.starts_with(b"retired\0") && reply.ends_with(b"127.0.0.1:7;\0"), "{reply:?}");
    // New users get none of it, also where there is no other group with an active storage.
    raw::ask(tracker, &raw::addresses("tnvideo", "new")).failure(100);
    let _open = storage(tracker, "group001", 1);
    for user in 0..10 {
        old.ask(&message(11, &raw::beat("retired", "old"))).success(100);
        assert_eq!(group_of(tracker, "tnvideo", &format!("new{user}")), "group001");
    }
    let groups = cluster.sql("tnv_trackerdb", "SELECT group_name FROM t_groups_info");
    assert_eq!(groups, [["group001"]], "the table is as the operator left it");
}

#[test]
fn a_group_that_is_in_the_routes_alone_serves_its_users_and_gets_no_new_ones_on_the_embedded_database() {
    let mut cluster = servers("retired").ids(0).start();
    a_retired_group_serves_its_users(&cluster);
    cluster.trackers[0].restart();
    the_users_of_a_retired_group(&cluster);
}

#[test]
fn a_group_that_is_in_the_routes_alone_serves_its_users_and_gets_no_new_ones_on_mariadb() {
    let Some(server) = MariaDb::start() else { return };
    let mut cluster = servers("retired-m").ids(0).db(Db::Maria(&server)).start();
    a_retired_group_serves_its_users(&cluster);
    cluster.trackers[0].restart();
    the_users_of_a_retired_group(&cluster);
}

/// An ID server of the existing system: reads the value, and a moment later writes it back advanced, without a lock.
/// Its numbers.
fn existing_step(conn: &mut mysql::Conn, pause: Duration) -> std::ops::Range<i64> {
    let select = "SELECT id_value FROM tnv_idsdb.t_id_gen WHERE id = '../data'";
    let value: i64 = conn.query_first(select).expect("query").expect("a row");
    std::thread::sleep(pause);
    let update = format!("UPDATE tnv_idsdb.t_id_gen SET id_value = {} WHERE id = '../data'", value + 100);
    conn.query_drop(update).expect("update");
    value..value + 100
}

/// ID servers of both systems on one database handed out 99 numbers twice in 30 s, and storages of the existing
/// system write over a file whose number repeats.
#[test]
fn id_servers_beside_one_of_the_existing_system_repeat_no_number() {
    let Some(server) = MariaDb::start() else { return };
    let cluster = servers("beside").trackers(0).ids(2).db(Db::Maria(&server)).start();
    let mut conn = mysql::Conn::new(connect_options(&server)).expect("connect");
    let mut used: Vec<i64> = (0..100).map(|_| next_id(&mut Raw::connect(cluster.id()), "../data")).collect();
    used.push(next_id(&mut Raw::connect(cluster.ids[1].address()), "../data"));
    // One segment each, and one that is fetched ahead.
    patient("the next segment", PATIENCE, || {
        cluster.sql("tnv_idsdb", "SELECT id_value FROM t_id_gen") == [["300"]]
    });
    // From its first step on, that server may step at any moment.
    used.extend(existing_step(&mut conn, Duration::ZERO));
    let stop = AtomicBool::new(false);
    let servers: Vec<SocketAddr> = cluster.ids.iter().map(|server| server.address()).collect();
    std::thread::scope(|scope| {
        let existing = scope.spawn(|| {
            let mut numbers = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                numbers.extend(existing_step(&mut conn, Duration::from_millis(3)));
            }
            numbers
        });
        let askers: Vec<_> = (0..4)
            .map(|index| {
                let server = servers[index % servers.len()];
                scope.spawn(move || {
                    let mut raw = Raw::connect(server);
                    (0..1500).map(|_| next_id(&mut raw, "../data")).collect::<Vec<_>>()
                })
            })
            .collect();
        let asked: Vec<_> = askers.into_iter().map(|asker| asker.join()).collect();
        stop.store(true, Ordering::Relaxed);
        asked.into_iter().for_each(|numbers| used.extend(numbers.expect("numbers")));
        used.extend(existing.join().expect("numbers"));
    });
    let count = used.len();
    let distinct: HashSet<_> = used.into_iter().collect();
    assert_eq!(distinct.len(), count, "{} numbers were handed out twice", count - distinct.len());
    // The one that saw it first has said so.
    let said = |server: &Process| server.log_of_run().contains("another program moved '../data'");
    patient("a line that says so", PATIENCE, || cluster.ids.iter().any(said));
    let upper: i64 =
        cluster.sql("tnv_idsdb", "SELECT upper_value FROM t_id_gen")[0][0].parse().expect("a number");
    assert!(upper > 1 << 35, "{upper}");
}

/// A primary dies, and the replica that takes over lacks the last steps. Each ID server knew its own numbers, and
/// handed out again what the other one had.
#[test]
fn several_id_servers_repeat_no_number_when_a_replica_that_lagged_takes_over() {
    let Some((mut primary, replica)) = MariaDb::start_pair() else { return };
    let both = format!("{}; {}", primary.addr(), replica.addr());
    let mut cluster = servers("lagged")
        .trackers(0)
        .ids(2)
        .db(Db::Maria(&replica))
        .set(Part::Id, "mysql_addrs", &both)
        .set(Part::Id, "mysql_user", MariaDb::PLAIN_USER)
        .set(Part::Id, "idinc_max_step", 10)
        .prepare();
    // As on hosts of their own: none knows the other one's marks.
    for (index, server) in cluster.ids.iter().enumerate() {
        let text = std::fs::read_to_string(server.config()).expect("read a configuration file");
        let state = format!("    tnv_state_path = ../state{index}\n}}\n");
        std::fs::write(server.config(), text.replace("}\n", &state)).expect("write it");
    }
    cluster.start_all();
    let servers: Vec<SocketAddr> = cluster.ids.iter().map(|server| server.address()).collect();
    let ask = |server: SocketAddr| {
        let frame = raw::ask(server, &raw::get_id("../data"));
        (frame.status == 0).then(|| i64::from_be_bytes(frame.success(101).try_into().expect("8 bytes")))
    };
    let mut used: Vec<i64> = (0..50).map(|turn| ask(servers[turn % 2]).expect("a number")).collect();
    // Asynchronous replication from here on, and a replica that receives nothing.
    primary.run(&["SET GLOBAL rpl_semi_sync_master_enabled = OFF"]);
    replica.run(&["STOP SLAVE IO_THREAD"]);
    // The first one asks seldom: the other one gets far beyond what it knows.
    used.extend((0..300).map(|turn| ask(servers[usize::from(turn % 30 != 0)]).expect("a number")));
    primary.kill();
    replica.promote();
    // The one that knows less comes first.
    for server in servers.iter().flat_map(|server| [*server; 40]) {
        let mut number = None;
        patient("a number", PATIENCE, || {
            number = ask(server);
            number.is_some()
        });
        used.extend(number);
    }
    let count = used.len();
    let distinct: HashSet<_> = used.into_iter().collect();
    assert_eq!(distinct.len(), count, "{} numbers were handed out twice", count - distinct.len());
}

/// Two ID servers of one host on one embedded database share their marks.
#[test]
fn id_servers_of_one_host_repeat_no_number_of_each_other_after_the_database_fell_back() {
    let mut cluster = servers("neighbours").trackers(0).ids(2).set(Part::Id, "idinc_max_step", 10).start();
    let mut used = HashSet::new();
    let mut ask = |cluster: &Cluster, server: usize| {
        let number = next_id(&mut Raw::connect(cluster.ids[server].address()), "../data");
        assert!(used.insert(number), "{number} was handed out twice");
    };
    (0..20).for_each(|_| ask(&cluster, 0));
    (0..200).for_each(|_| ask(&cluster, 1));
    cluster.ids.iter_mut().for_each(|server| server.kill());
    cluster.sql("tnv_idsdb", "DELETE FROM t_id_gen");
    cluster.ids.iter_mut().for_each(|server| {
        server.start();
    });
    (0..30).for_each(|_| ask(&cluster, 0));
    (0..30).for_each(|_| ask(&cluster, 1));
}
