//! Databases and directories of an existing deployment: tables made and filled by existing servers,
//! which go on writing beside ours, with the collation traps that they bring.

use std::path::PathBuf;
use std::time::Duration;

use mysql::prelude::Queryable;
use tnv_tests::cluster::{Part, connect_options};
use tnv_tests::fsck::fsck;
use tnv_tests::mariadb::MariaDb;
use tnv_tests::raw::{self, Raw, message};
use tnv_tests::tools::promptly;
use tnv_tests::{Builder, Cluster, Db, http};

/// The tables as existing deployments have them: none of the columns that ours add.
fn existing_tables() -> Vec<String> {
    let times = "create_time timestamp NULL DEFAULT CURRENT_TIMESTAMP, \
                 update_time timestamp NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP";
    let engine = "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4";
    let mut all = vec![
        "CREATE DATABASE tnv_trackerdb".to_owned(),
        "CREATE DATABASE tnv_idsdb".to_owned(),
        "CREATE DATABASE tnv_storagedb".to_owned(),
        format!(
            "CREATE TABLE tnv_trackerdb.t_groups_info (id int unsigned NOT NULL AUTO_INCREMENT, \
             group_name varchar(32), {times}, PRIMARY KEY (id)) {engine}"
        ),
        format!(
            "CREATE TABLE tnv_trackerdb.t_router (id int unsigned NOT NULL AUTO_INCREMENT, appid varchar(32), \
             userid varchar(128), group_name varchar(32), {times}, PRIMARY KEY (id)) {engine}"
        ),
        format!(
            "CREATE TABLE tnv_idsdb.t_id_gen (id varchar(64) NOT NULL, id_value bigint, {times}, PRIMARY KEY (id)) {engine}"
        ),
    ];
    for table in 1..=3 {
        all.push(format!(
            "CREATE TABLE tnv_storagedb.t_file_0{table} (id varchar(256) NOT NULL, appid varchar(32), \
             userid varchar(128), status tinyint, file_path varchar(512), file_size bigint, {times}, \
             PRIMARY KEY (id)) {engine}"
        ));
    }
    all
}

/// A MariaDB as an existing deployment left it, and a way to write to it as existing servers do.
fn deployment(rows: &[&str]) -> Option<(MariaDb, mysql::Conn)> {
    let server = MariaDb::start()?;
    let mut conn = mysql::Conn::new(connect_options(&server)).expect("connect");
    for statement in existing_tables().iter().map(String::as_str).chain(rows.iter().copied()) {
        conn.query_drop(statement).unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    Some((server, conn))
}

/// A file where an existing storage left it.
fn place(cluster: &Cluster, path: &str, content: &[u8]) -> PathBuf {
    let path = cluster.path("group001/run").join(path);
    std::fs::create_dir_all(path.parent().expect("a directory")).expect("make");
    std::fs::write(&path, content).expect("write");
    path
}

#[test]
fn rows_and_files_of_existing_servers_are_served_and_deleted() {
    let Some((server, mut conn)) = deployment(&[
        "INSERT INTO tnv_trackerdb.t_groups_info (group_name) VALUES ('group001')",
        "INSERT INTO tnv_trackerdb.t_router (appid, userid, group_name) VALUES ('tnvideo', 'tnv001', 'group001')",
        "INSERT INTO tnv_idsdb.t_id_gen (id, id_value) VALUES ('../data', 300)",
        "INSERT INTO tnv_storagedb.t_file_02 (id, appid, userid, status, file_path, file_size) VALUES \
         ('old', 'tnvideo', 'tnv001', 0, '../data/000/000/000/5F9E3FA7_0AB', 8), \
         ('hidden', 'tnvideo', 'tnv001', 1, '../data/000/000/000/5F9E3FA7_0AC', 8)",
    ]) else {
        return;
    };
    let mut cluster = Builder::new("existing").httpds(1).db(Db::Maria(&server)).prepare();
    let old = place(&cluster, "../data/000/000/000/5F9E3FA7_0AB", b"existing");
    let hidden = place(&cluster, "../data/000/000/000/5F9E3FA7_0AC", b"existing");
    cluster.start_all();

    let mut raw = Raw::connect(cluster.storage());
    assert_eq!(raw.ask(&raw::filesize("tnvideo", "tnv001", "old")).success(102), 8_i64.to_be_bytes());
    assert_eq!(raw.ask(&raw::download("tnvideo", "tnv001", "old", 0, 0)).success(102), b"existing");
    let response = http::get(cluster.httpd(), "/files/old", &[("Range", "bytes=2-")]);
    assert_eq!((response.status, response.text().as_str()), (206, "isting"));
    assert!(response.want("ETag").starts_with('"'));
    // A status other than 0 is not served, and its ID is taken all the same.
    for request in [
        raw::filesize("tnvideo", "tnv001", "hidden"),
        raw::download("tnvideo", "tnv001", "hidden", 0, 0),
        raw::delete("tnvideo", "tnv001", "hidden"),
        raw::upload("tnvideo", "tnv001", "hidden", b"x"),
    ] {
        raw::ask(cluster.storage(), &request).failure(102);
    }
    assert!(hidden.exists());

    // Numbers go on where the database stands, and an existing server finds what ours wrote.
    cluster.put("tnv001", "new", b"from ours");
    let row = cluster.file_row("tnv001", "new").expect("a row");
    let number = u32::from_str_radix(row[2].rsplit_once('_').expect("_").1, 16).expect("hex");
    assert!(number >= 300, "{row:?}");
    let rows: Vec<(String, String, i8, i64)> = conn
        .query("SELECT appid, userid, status, file_size FROM tnv_storagedb.t_file_02 WHERE id='new' AND create_time IS NOT NULL")
        .expect("query");
    assert_eq!(rows, [("tnvideo".to_owned(), "tnv001".to_owned(), 0, 9)]);
    let rows: Vec<(String, Option<String>)> =
        conn.query("SELECT id, group_name FROM tnv_storagedb.t_file_02 ORDER BY id").expect("query");
    let group = Some("group001".to_owned());
    assert_eq!(rows, [("hidden".to_owned(), None), ("new".to_owned(), group), ("old".to_owned(), None)]);
    fsck(&cluster, 0, &["--min-age", "0"]).assert_agrees();

    // An existing storage writes beside ours, without the columns that ours added.
    place(&cluster, "../data/000/000/000/5F9E3FA8_001", b"later one");
    conn.query_drop(
        "INSERT INTO tnv_storagedb.t_file_02 (id, appid, userid, status, file_path, file_size) VALUES \
         ('beside', 'tnvideo', 'tnv001', 0, '../data/000/000/000/5F9E3FA8_001', 9)",
    )
    .expect("an existing server's insert");
    assert_eq!(raw.ask(&raw::download("tnvideo", "tnv001", "beside", 0, 0)).success(102), b"later one");
    assert_eq!(raw.ask(&raw::delete("tnvideo", "tnv001", "old")).success(102), b"");
    assert!(!old.exists());
    assert_eq!(http::get(cluster.httpd(), "/files/old", &[]).status, 404);
    // And deletes beside ours.
    conn.query_drop("DELETE FROM tnv_storagedb.t_file_02 WHERE id='beside'")
        .expect("an existing server's delete");
    std::fs::remove_file(cluster.path("group001/run/../data/000/000/000/5F9E3FA8_001")).expect("remove");
    raw::ask(cluster.storage(), &raw::filesize("tnvideo", "tnv001", "beside")).failure(102);
}

#[test]
fn a_user_with_several_routes_has_the_one_of_the_specification() {
    let Some((server, mut conn)) = deployment(&[
        "INSERT INTO tnv_trackerdb.t_groups_info (group_name) VALUES ('group001'), ('group002')",
        "INSERT INTO tnv_trackerdb.t_router (appid, userid, group_name) VALUES \
         ('other', 'two', 'group002'), ('tnvideo', 'two', 'group001'), \
         ('other', 'foreign', 'group002'), ('other', 'foreign', 'group001'), \
         ('tnvideo', 'same', 'group002'), ('tnvideo', 'same', 'group001'), \
         ('tnvideo', 'UPPER', 'group002')",
    ]) else {
        return;
    };
    let cluster = Builder::new("routes-existing")
        .trackers(2)
        .groups(&["group001", "group002"], 1)
        .db(Db::Maria(&server))
        .start();
    let group = |userid: &str| {
        let mut groups: Vec<_> = cluster
            .trackers
            .iter()
            .map(|tracker| {
                raw::ask(tracker.address(), &raw::addresses("tnvideo", userid)).success(100)[..8].to_vec()
            })
            .collect();
        groups.dedup();
        assert_eq!(groups.len(), 1, "the trackers disagree on {userid}");
        String::from_utf8(groups.remove(0)).expect("UTF-8")
    };
    // The row of this application, else the one with the lowest id.
    assert_eq!(group("two"), "group001");
    assert_eq!(group("foreign"), "group002");
    assert_eq!(group("same"), "group002");
    assert_eq!(group("UPPER"), "group002");
    let count = |conn: &mut mysql::Conn, condition: &str| -> u64 {
        conn.query_first(format!("SELECT COUNT(*) FROM tnv_trackerdb.t_router WHERE {condition}"))
            .expect("query")
            .expect("a count")
    };
    assert_eq!(count(&mut conn, "1"), 7, "no route was added for users who have one");
    // In the table `upper` equals `UPPER`, on the wire it is another user: with a row of its own, of the group
    // that existing trackers gave both.
    for userid in ["upper", "upper ", "Upper"] {
        assert_eq!(group(userid), "group002", "{userid:?}");
        assert_eq!(count(&mut conn, &format!("BINARY userid = '{userid}'")), 1, "{userid:?}");
    }
    assert_eq!(group("UPPER"), "group002");
    // An existing tracker writes a route while ours have the user unknown.
    conn.query_drop("INSERT INTO tnv_trackerdb.t_router (appid, userid, group_name) VALUES ('tnvideo', 'beside', 'group001')")
        .expect("insert");
    assert_eq!(group("beside"), "group001");
    // The groups of the table are all groups, and no duplicate is made of them.
    let groups: u64 = conn
        .query_first("SELECT COUNT(*) FROM tnv_trackerdb.t_groups_info")
        .expect("query")
        .expect("a count");
    assert_eq!(groups, 2);
}

/// The story: existing trackers asked the table for `Alice`, got the row of `alice`, and gave both one group.
/// Ours found no row of `Alice` and gave that user another group, whose storages had none of the old files.
#[test]
fn a_user_keeps_the_group_that_existing_trackers_found_by_the_collation() {
    let users = ["alice", "Jos\u{e9}", "bob ", "Mixed.Case"];
    let alike = ["Alice", "ALICE", "alice ", "jose", "JOSE", "bob", "BOB", "mixed.case"];
    let rows = users.map(|user| format!("('tnvideo', '{user}', 'group004')")).join(", ");
    let Some((server, mut conn)) = deployment(&[
        "INSERT INTO tnv_trackerdb.t_groups_info (group_name) VALUES \
         ('group001'), ('group002'), ('group003'), ('group004')",
        &format!("INSERT INTO tnv_trackerdb.t_router (appid, userid, group_name) VALUES {rows}"),
        // Of two applications' rows the one of this application decides, as it does for existing trackers.
        "INSERT INTO tnv_trackerdb.t_router (appid, userid, group_name) VALUES \
         ('other', 'carol', 'group001'), ('tnvideo', 'Carol', 'group003')",
    ]) else {
        return;
    };
    let cluster = Builder::new("users-alike")
        .trackers(2)
        .groups(&["group001", "group002", "group003", "group004"], 1)
        .db(Db::Maria(&server))
        .set(Part::Tracker, "redis_key_timeout", 0)
        .start();
    let ask = |tracker: usize, userid: &str| {
        let frame = raw::ask(cluster.trackers[tracker].address(), &raw::addresses("tnvideo", userid));
        String::from_utf8(frame.success(100)[..8].to_vec()).expect("UTF-8")
    };
    let find = |userid: &str| message(122, &raw::triple("tnvideo", userid, ""));
    let rows_of = |conn: &mut mysql::Conn, userid: &str| -> Vec<(String, bool)> {
        let sql = "SELECT group_name, route_key = CAST(userid AS BINARY) FROM tnv_trackerdb.t_router \
                   WHERE CAST(userid AS BINARY) = ?";
        conn.exec(sql, (userid,)).expect("query")
    };
    // Who only looks for files leaves no row, and finds them.
    let found = raw::ask(cluster.tracker(), &find("Alice"));
    assert_eq!(&found.success(100)[..8], b"group004");
    assert_eq!(rows_of(&mut conn, "Alice"), []);
    for (number, userid) in alike.iter().enumerate() {
        assert_eq!(ask(number % 2, userid), "group004", "{userid:?}");
        assert_eq!(ask((number + 1) % 2, userid), "group004", "{userid:?}");
        assert_eq!(rows_of(&mut conn, userid), [("group004".to_owned(), true)], "{userid:?}");
    }
    assert_eq!(ask(0, "CAROL"), "group003");
    // The other way round: an existing tracker that is asked for `Dora` finds our row of `dora`. To ours `Dora` is
    // a new user, who is given the same group, and has no files until then.
    for userid in ["dora", "Dora", "DORA ", "D\u{f3}ra"] {
        let theirs: Vec<String> = conn
            .exec("SELECT group_name FROM tnv_trackerdb.t_router WHERE userid = ?", (userid,))
            .expect("an existing tracker's query");
        raw::ask(cluster.tracker(), &find(userid)).failure(100);
        let group = ask(0, userid);
        assert!(theirs.iter().all(|theirs| *theirs == group), "{userid:?}: {group}, beside {theirs:?}");
        assert_eq!(rows_of(&mut conn, userid), [(group, true)], "{userid:?}");
    }
}

/// The same of files: existing storages find their rows by the collation, ours found only exact ones.
#[test]
fn a_file_of_an_existing_storage_is_found_as_existing_storages_find_it_and_ours_only_exactly() {
    let alike = |userid: &str| -> String {
        let mut users = (0..64_u32).map(|bits| -> String {
            let case = |(at, char): (usize, char)| match bits & (1 << at) {
                0 => char,
                _ => char.to_ascii_uppercase(),
            };
            userid.chars().enumerate().map(case).collect()
        });
        let found = users.find(|other| other != userid && raw::table_of(other) == raw::table_of(userid));
        found.expect("a user in the same table")
    };
    let other_user = alike("videos");
    let path = "../data/000/000/000/5F9E3FA7_0AB";
    let Some((server, mut conn)) = deployment(&[&format!(
        "INSERT INTO tnv_storagedb.t_file_0{} (id, appid, userid, status, file_path, file_size) \
         VALUES ('Old-\u{e9}', 'tnvideo', 'videos', 0, '{path}', 8)",
        raw::table_of("videos")
    )]) else {
        return;
    };
    let mut cluster = Builder::new("files-alike").db(Db::Maria(&server)).prepare();
    let old = place(&cluster, path, b"existing");
    cluster.start_all();
    cluster.put("videos", "ours", b"from ours");
    let mut raw = Raw::connect(cluster.storage());
    for (appid, userid, fileid) in [
        ("tnvideo", "videos", "Old-\u{e9}"),
        ("tnvideo", "videos", "old-e"),
        ("TNVideo", "videos", "OLD-\u{e9} "),
        ("tnvideo", other_user.as_str(), "old-\u{e9}"),
    ] {
        let found: u64 = conn
            .exec_first(
                format!(
                    "SELECT COUNT(*) FROM tnv_storagedb.t_file_0{} WHERE id = ? AND appid = ? AND userid = ?",
                    raw::table_of(userid)
                ),
                (fileid, appid, userid),
            )
            .expect("an existing storage's query")
            .expect("a count");
        assert_eq!(found, 1);
        assert_eq!(raw.ask(&raw::filesize(appid, userid, fileid)).success(102), 8_i64.to_be_bytes());
        assert_eq!(raw.ask(&raw::download(appid, userid, fileid, 0, 0)).success(102), b"existing");
    }
    for (appid, userid, fileid) in [
        ("tnvideo", "videos", "Ours"),
        ("tnvideo", other_user.as_str(), "ours"),
        ("TNVideo", "videos", "ours"),
        ("another", "videos", "old-e"),
        ("tnvideo", "videos", "older"),
    ] {
        raw::ask(cluster.storage(), &raw::filesize(appid, userid, fileid)).failure(102);
        raw::ask(cluster.storage(), &raw::delete(appid, userid, fileid)).failure(102);
    }
    // A new file cannot have that ID, and a delete takes the row and the file.
    raw::ask(cluster.storage(), &raw::upload("tnvideo", "videos", "OLD-E", b"x")).failure(102);
    fsck(&cluster, 0, &["--min-age", "0"]).assert_agrees();
    raw::ask(cluster.storage(), &raw::delete("tnvideo", "videos", "OLD-E")).success(102);
    assert!(!old.exists());
    raw::ask(cluster.storage(), &raw::filesize("tnvideo", "videos", "Old-\u{e9}")).failure(102);
    assert_eq!(cluster.file_rows(), 1);
}

/// A connection as existing servers have it whose client library is that of MySQL 5.7: it sends UTF-8 and says
/// that it is latin1.
fn latin1(server: &MariaDb) -> mysql::Conn {
    let mut conn = mysql::Conn::new(connect_options(server)).expect("connect");
    conn.query_drop("SET NAMES latin1").expect("SET NAMES");
    conn
}

/// The statements of docs/mysql.md that rewrite names, for a table's columns.
fn rewriting(table: &str, columns: &[&str]) -> Vec<String> {
    let docs = std::fs::read_to_string(tnv_tests::bins::workspace().join("docs/mysql.md")).expect("docs");
    let section = docs.split("## Names beyond ASCII").nth(1).expect("the section");
    let statement = section.split("```sql").nth(1).and_then(|rest| rest.split("```").next()).expect("SQL");
    let of = |column: &&str| statement.replace("COLUMN", column).replace("TABLE", table);
    columns.iter().map(of).collect()
}

/// The story: existing servers wrote over a latin1 connection, the default of MySQL 5.7's client library, so that
/// `é` stands in the tables as `Ã©`. Ours found none of these users and files, and said nothing.
#[test]
fn names_beyond_ascii_of_existing_servers_over_latin1_are_said_found_and_rewritten() {
    let (user, file) = ("Jos\u{e9}-\u{65e5}\u{672c}", "\u{1f3ac} \u{20ac}\u{81}");
    let table = format!("tnv_storagedb.t_file_0{}", raw::table_of(user));
    let Some((server, mut conn)) = deployment(&[
        "INSERT INTO tnv_trackerdb.t_groups_info (group_name) VALUES ('group001'), ('group002')",
    ]) else {
        return;
    };
    let mut theirs = latin1(&server);
    let [path, plain, later] =
        ["0AB", "0AC", "0AD"].map(|digits| format!("../data/000/000/000/5F9E3FA7_{digits}"));
    for statement in [
        format!(
            "INSERT INTO tnv_trackerdb.t_router (appid, userid, group_name) VALUES ('tnvideo', '{user}', 'group001')"
        ),
        format!(
            "INSERT INTO {table} (id, appid, userid, status, file_path, file_size) \
             VALUES ('{file}', 'tnvideo', '{user}', 0, '{path}', 8), ('plain', 'tnvideo', '{user}', 0, '{plain}', 8)"
        ),
    ] {
        theirs.query_drop(statement).expect("an existing server's insert");
    }
    let prepare = |name: &str, charset: &str| {
        let mut builder = Builder::new(name).groups(&["group001", "group002"], 1).db(Db::Maria(&server));
        for part in [Part::Tracker, Part::Id, Part::Storage] {
            builder = builder.set(part, "mysql_charset", charset);
        }
        let cluster = builder.set(Part::Storage, "tnv_scrub_rate", 0).prepare();
        for path in [&path, &plain] {
            place(&cluster, path, b"existing");
        }
        cluster
    };
    let said = |cluster: &Cluster| -> Vec<bool> {
        let logs = [&cluster.trackers[0], &cluster.storages[0]].map(|part| part.log_of_run());
        logs.iter().map(|log| log.contains("mysql_charset")).collect()
    };
    let served = |cluster: &Cluster, fileid: &str| {
        raw::ask(cluster.storage(), &raw::download("tnvideo", user, fileid, 0, 0)).status == 0
    };

    let mut cluster = prepare("utf8-over-latin1", "utf8mb4");
    cluster.start_all();
    assert_eq!(said(&cluster), [true, true], "the start says so");
    assert!(!served(&cluster, file));
    drop(cluster);

    let mut cluster = prepare("latin1", "latin1");
    cluster.start_all();
    assert_eq!(said(&cluster), [false, false]);
    for fileid in [file, "plain"] {
        assert!(served(&cluster, fileid), "{fileid}");
    }
    let route = raw::ask(cluster.tracker(), &raw::addresses("tnvideo", user)).success(100);
    assert_eq!(&route[..8], b"group001");
    // What ours write, such servers read.
    let new_user = "Fran\u{e7}oise";
    raw::ask(cluster.tracker(), &raw::addresses("tnvideo", new_user)).success(100);
    cluster.put(user, "\u{65e5}", b"from ours");
    let route: Option<String> = theirs
        .query_first(format!("SELECT group_name FROM tnv_trackerdb.t_router WHERE userid = '{new_user}'"))
        .expect("an existing tracker's query");
    assert!(route.is_some());
    let size: Option<i64> = theirs
        .query_first(format!("SELECT file_size FROM {table} WHERE id = '\u{65e5}' AND userid = '{user}'"))
        .expect("an existing storage's query");
    assert_eq!(size, Some(9));
    // Rows in either character set: --fsck meets each of them.
    conn.query_drop(format!(
        "INSERT INTO {table} (id, appid, userid, status, file_path, file_size) VALUES \
         ('\u{672c}\u{8a9e}', 'tnvideo', '{user}', 0, '{later}', 8)"
    ))
    .expect("a row in UTF-8");
    place(&cluster, &later, b"existing");
    fsck(&cluster, 0, &["--min-age", "0"]).assert_agrees();
    drop(cluster);

    // Once no such server is left, the rows are rewritten and the key is removed.
    for statement in
        rewriting("tnv_trackerdb.t_router", &["userid"]).iter().chain(&rewriting(&table, &["id", "userid"]))
    {
        // Twice: they may be run again.
        for statement in [statement.as_str(); 2].iter().flat_map(|text| text.trim().split_terminator(';')) {
            conn.query_drop(statement).unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
    }
    let mut cluster = prepare("rewritten", "utf8mb4");
    place(&cluster, &later, b"existing");
    cluster.start_all();
    assert_eq!(said(&cluster), [false, false]);
    for fileid in [file, "plain", "\u{672c}\u{8a9e}"] {
        assert_eq!(
            raw::ask(cluster.storage(), &raw::filesize("tnvideo", user, fileid)).status,
            0,
            "{fileid}"
        );
    }
    let route = raw::ask(cluster.tracker(), &raw::addresses("tnvideo", user)).success(100);
    assert_eq!(&route[..8], b"group001");
    let routes: u64 =
        conn.query_first("SELECT COUNT(*) FROM tnv_trackerdb.t_router").expect("query").expect("a count");
    assert_eq!(routes, 2, "nobody got a second row");
}

/// Neither was said: such a database loses rows of acknowledged uploads in a crash.
#[test]
fn a_database_that_may_lose_acknowledged_rows_is_said_at_the_start() {
    let Some((server, mut conn)) = deployment(&[]) else { return };
    let mut cluster = Builder::new("loose").db(Db::Maria(&server)).prepare();
    let tracker = &mut cluster.trackers[0];
    let said = |log: String| ["MyISAM", "innodb_flush_log_at_trx_commit"].map(|word| log.contains(word));
    tracker.start();
    assert_eq!(said(tracker.log_of_run()), [false, false]);
    tracker.kill();
    conn.query_drop("ALTER TABLE tnv_trackerdb.t_router ENGINE=MyISAM").expect("alter");
    conn.query_drop("SET GLOBAL innodb_flush_log_at_trx_commit = 2").expect("set");
    tracker.start();
    assert_eq!(said(tracker.log_of_run()), [true, true]);
}

#[test]
fn the_tables_collation_makes_no_two_files_one() {
    let Some((server, _conn)) = deployment(&[]) else { return };
    let cluster = Builder::new("collation").db(Db::Maria(&server)).start();
    cluster.put("tnv001", "ABC", b"upper");
    for other in ["abc", "abc ", "ABC ", "Abc", "\u{e4}BC"] {
        for request in [
            raw::filesize("tnvideo", "tnv001", other),
            raw::download("tnvideo", "tnv001", other, 0, 0),
            raw::delete("tnvideo", "tnv001", other),
        ] {
            raw::ask(cluster.storage(), &request).failure(102);
        }
    }
    // A new ID that the table takes for the existing one is refused, and leaves nothing.
    for other in ["abc", "abc "] {
        raw::ask(cluster.storage(), &raw::upload("tnvideo", "tnv001", other, b"lower")).failure(102);
        raw::ask(cluster.storage(), &raw::filesize("tnvideo", "tnv001", other)).failure(102);
    }
    assert_eq!(cluster.content_files("group001").len(), 1);
    let back = raw::ask(cluster.storage(), &raw::download("tnvideo", "tnv001", "ABC", 0, 0));
    assert_eq!(back.success(102), b"upper");
    // Users and ID keys the same.
    assert_eq!(raw::ask(cluster.id(), &raw::get_id("Key")).success(101), 0_i64.to_be_bytes());
    // Keys that the table takes for one may share its numbers or be refused, but not repeat them.
    let mut seen = std::collections::BTreeSet::new();
    for key in ["Key", "key", "KEY ", "Key", "key"] {
        let frame = raw::ask(cluster.id(), &raw::get_id(key));
        assert!(frame.status == -3 || seen.insert((key.to_lowercase(), frame.body)), "{key}: a number again");
    }
    let thief = raw::ask(cluster.storage(), &raw::filesize("tnvideo", "TNV001", "ABC"));
    thief.failure(102);
}

#[test]
fn an_existing_id_server_and_ours_after_it_repeat_nothing() {
    let Some((server, mut conn)) =
        deployment(&["INSERT INTO tnv_idsdb.t_id_gen (id, id_value) VALUES ('../data', 100)"])
    else {
        return;
    };
    // An existing server had handed out up to 99 of the segment that ends at 100.
    let mut cluster =
        Builder::new("ids-existing").trackers(0).groups(&["group001"], 0).db(Db::Maria(&server)).start();
    let ask = |cluster: &Cluster| {
        let body = raw::ask(cluster.id(), &raw::get_id("../data")).success(101);
        i64::from_be_bytes(body.try_into().expect("8 bytes"))
    };
    assert_eq!(ask(&cluster), 100);
    let value: i64 =
        conn.query_first("SELECT id_value FROM tnv_idsdb.t_id_gen").expect("query").expect("a row");
    assert!(value == 200 || value == 300, "{value}: one step, or one more where the next is fetched ahead");
    assert_eq!(ask(&cluster), 101);
    cluster.ids[0].restart();
    let next = ask(&cluster);
    assert!((102..=302).contains(&next), "{next}: more than two steps are skipped");
}

/// An existing tracker does not know the added commands, and a join of an existing storage, captured,
/// keeps its connection for nothing but heartbeats.
#[test]
fn an_existing_storage_that_only_beats_stays_active() {
    let Some((server, _conn)) = deployment(&[]) else { return };
    let cluster =
        Builder::new("existing-storage").ids(0).groups(&["group001"], 0).db(Db::Maria(&server)).start();
    let mut storage = Raw::connect(cluster.tracker());
    storage.ask(&raw::captured("JOIN.request")).success(100);
    for _ in 0..4 {
        storage.ask(&raw::captured("BEAT.request")).success(100);
        std::thread::sleep(Duration::from_millis(700));
    }
    // A storage of such a pace is OFFLINE after three seconds of silence, and its next beat wakes it.
    let route = promptly(Duration::from_secs(2), || {
        storage.ask(&raw::captured("BEAT.request")).success(100);
        raw::ask(cluster.tracker(), &raw::captured("SADDRS.request"))
    });
    assert_eq!(route.bytes(), raw::captured("SADDRS.response"));
    raw::ask(cluster.tracker(), &message(13, &[])).success(100);
}

#[test]
fn an_existing_data_directory_keeps_its_files_when_ours_restart() {
    let Some((server, mut conn)) = deployment(&[
        "INSERT INTO tnv_idsdb.t_id_gen (id, id_value) VALUES ('../data', 100)",
        "INSERT INTO tnv_storagedb.t_file_02 (id, appid, userid, status, file_path, file_size) VALUES \
         ('old', 'tnvideo', 'tnv001', 0, '../data/000/000/000/5F9E3FA7_0AB', 8)",
    ]) else {
        return;
    };
    let mut cluster = Builder::new("existing-restart").db(Db::Maria(&server)).prepare();
    let old = place(&cluster, "../data/000/000/000/5F9E3FA7_0AB", b"existing");
    // Not in any table: an orphan of an existing server, or something of the operator's. Not ours to
    // remove.
    let stray = place(&cluster, "../data/000/000/000/5F9E3FA7_0AD", b"stray");
    let note = place(&cluster, "../data/README", b"the operator's");
    cluster.start_all();
    cluster.storages[0].restart();
    cluster.wait_active(1);
    assert!(old.exists() && stray.exists() && note.exists());
    // A file that is longer or shorter than its row says is not what was uploaded.
    conn.query_drop("UPDATE tnv_storagedb.t_file_02 SET file_size = 9 WHERE id = 'old'").expect("update");
    let size = raw::ask(cluster.storage(), &raw::filesize("tnvideo", "tnv001", "old"));
    let content = raw::ask(cluster.storage(), &raw::download("tnvideo", "tnv001", "old", 0, 0));
    if content.status == 0 {
        assert_eq!(size.success(102), (content.body.len() as i64).to_be_bytes());
    }
}
