//! What the servers rely on when they read and write, tried on both databases: SQLite always, and a
//! private MariaDB where it is installed.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tnv_common::db::{
    Charset, Column, Database, DbSettings, Index, Password, Row, Schema, Sql, Table, Tls, Value,
};
use tnv_common::error::{ErrorKind, Result};
use tnv_common::net::stop::Stop;
use tnv_tests::mariadb::MariaDb;
use tnv_tests::tools::{skipped, this_test};

static SCHEMA: Schema = Schema { database: "tnv_testdb", tables: &[FILES, COUNTERS] };

const FILES: Table = Table {
    name: "t_file",
    columns: &[
        Column {
            name: "id",
            mysql: "varchar(256) NOT NULL PRIMARY KEY",
            sqlite: "TEXT NOT NULL PRIMARY KEY",
        },
        Column { name: "status", mysql: "tinyint NOT NULL", sqlite: "INTEGER NOT NULL" },
        Column { name: "file_path", mysql: "varchar(512)", sqlite: "TEXT" },
        Column { name: "file_size", mysql: "bigint", sqlite: "INTEGER" },
    ],
    added: &[
        Column { name: "checksum", mysql: "bigint NULL", sqlite: "INTEGER" },
        Column { name: "file_key", mysql: "varbinary(255) NULL", sqlite: "BLOB" },
    ],
    indexes: &[
        Index { name: "file_key", columns: "file_key", unique: true, sqlite_where: "" },
        Index { name: "file_path", columns: "file_path", unique: false, sqlite_where: "" },
    ],
};

const COUNTERS: Table = Table {
    name: "t_counter",
    columns: &[
        Column { name: "id", mysql: "varchar(64) NOT NULL PRIMARY KEY", sqlite: "TEXT NOT NULL PRIMARY KEY" },
        Column { name: "id_value", mysql: "bigint", sqlite: "INTEGER" },
    ],
    added: &[],
    indexes: &[],
};

static INSERT: Sql =
    Sql::both("INSERT INTO t_file (id, status, file_path, file_size, file_key) VALUES (?, ?, ?, ?, ?)");
static SELECT: Sql =
    Sql::both("SELECT status, file_path, file_size, checksum, file_key FROM t_file WHERE id = ?");
static SELECT_TIMES: Sql = Sql::both("SELECT create_time, update_time FROM t_file WHERE id = ?");
static UPDATE: Sql = Sql::both("UPDATE t_file SET file_size = ? WHERE id = ?");
static DELETE: Sql = Sql::both("DELETE FROM t_file WHERE id = ?");
static COUNT: Sql = Sql::both("SELECT count(*) FROM t_file");
static ALL: Sql = Sql::both("SELECT id FROM t_file");
static NONSENSE: Sql = Sql::both("INSERT INTO t_file (id, nonsense) VALUES (?, 1)");
static ABSENT: Sql = Sql {
    mysql: "SELECT 1 FROM t_file WHERE id = ? LOCK IN SHARE MODE",
    sqlite: "SELECT 1 FROM t_file WHERE id = ?",
};
static BETWEEN: Sql = Sql {
    mysql: "SELECT id, file_size FROM t_file WHERE id >= ? AND id <= ? LOCK IN SHARE MODE",
    sqlite: "SELECT id, file_size FROM t_file WHERE id >= ? AND id <= ?",
};
static STEP: Sql = Sql {
    mysql: "INSERT INTO t_counter (id, id_value) VALUES (?, LAST_INSERT_ID(?)) \
            ON DUPLICATE KEY UPDATE id_value = LAST_INSERT_ID(id_value + VALUES(id_value))",
    sqlite: "INSERT INTO t_counter (id, id_value) VALUES (?, ?) \
             ON CONFLICT (id) DO UPDATE SET id_value = id_value + excluded.id_value RETURNING id_value",
};
static INSERT_UNLESS_THERE: Sql = Sql {
    mysql: "INSERT INTO t_file (id, status) VALUES (?, 0) ON DUPLICATE KEY UPDATE id = id",
    sqlite: "INSERT INTO t_file (id, status) VALUES (?, 0) ON CONFLICT DO NOTHING",
};

/// A directory that is gone when the test is.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("db-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn settings(&self) -> DbSettings {
        DbSettings {
            addresses: vec![],
            user: "root".into(),
            password: Password::default(),
            rw_timeout: Duration::from_secs(5),
            tls: Tls::Off,
            charset: Charset::Utf8mb4,
            directory: self.0.join("made/on/the/way"),
            durable: true,
        }
    }

    fn file(&self) -> PathBuf {
        self.settings().directory.join("tnv_testdb.db")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn settings_of(mariadb: &MariaDb) -> DbSettings {
    DbSettings {
        addresses: vec![mariadb.addr()],
        user: MariaDb::USER.into(),
        password: Password::new(mariadb.password()),
        rw_timeout: Duration::from_secs(10),
        tls: Tls::Off,
        charset: Charset::Utf8mb4,
        directory: PathBuf::from("/nonexistent"),
        durable: true,
    }
}

fn open(settings: &DbSettings) -> Database {
    Database::open(settings, &SCHEMA, &Stop::new().unwrap()).unwrap()
}

fn insert(database: &Database, id: &str) -> Result<()> {
    let params = vec![id.into(), 0.into(), format!("../data/{id}").into(), 7.into(), Value::Null];
    database.write(&INSERT, params).map(|written| assert_eq!(written.affected, 1))
}

fn count(database: &Database) -> i64 {
    database.read(&COUNT, &[]).unwrap()[0].int(0).unwrap()
}

fn select(database: &Database, id: &str) -> Vec<Row> {
    database.read(&SELECT, &[id.into()]).unwrap()
}

fn kind<T>(result: Result<T>) -> ErrorKind {
    match result {
        Ok(_) => panic!("it should have failed"),
        Err(error) => error.kind(),
    }
}

// What holds on either database.

fn values_come_back_as_they_went_in(database: &Database) {
    let id = "o'brien; DROP TABLE t_file -- \"ü🎬\\";
    let key = vec![0, 0xFF, b'\'', b'\\', 0x80];
    let params = vec![id.into(), (-1).into(), Value::Null, i64::MAX.into(), key.clone().into()];
    assert_eq!(database.write(&INSERT, params).unwrap().affected, 1);
    let rows = select(database, id);
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].int(0), Ok(-1));
    assert_eq!(rows[0].opt_text(1), Ok(None));
    assert_eq!(rows[0].int(2), Ok(i64::MAX));
    assert_eq!(rows[0].opt_int(3), Ok(None));
    assert_eq!(rows[0].bytes(4), Ok(&key[..]));
    let times = database.read(&SELECT_TIMES, &[id.into()]).unwrap();
    assert!(times[0].text(0).unwrap().starts_with('2'));
    assert!(times[0].opt_text(1).unwrap().is_some());
    assert!(select(database, "o").is_empty());
    assert_eq!(database.write(&UPDATE, vec![8.into(), id.into()]).unwrap().affected, 1);
    assert_eq!(select(database, id)[0].int(2), Ok(8));
    assert_eq!(database.write(&DELETE, vec![id.into()]).unwrap().affected, 1);
    assert_eq!(database.write(&DELETE, vec![id.into()]).unwrap().affected, 0);
}

fn errors_tell_a_taken_key_from_a_refused_statement(database: &Database) {
    insert(database, "taken").unwrap();
    assert_eq!(kind(insert(database, "taken")), ErrorKind::Exists);
    let with_key = |id: &str| vec![id.into(), 0.into(), "p".into(), 7.into(), b"key"[..].into()];
    database.write(&INSERT, with_key("key1")).unwrap();
    assert_eq!(kind(database.write(&INSERT, with_key("key2"))), ErrorKind::Exists);
    assert_eq!(kind(database.write(&NONSENSE, vec!["x".into()])), ErrorKind::Invalid);
    assert_eq!(kind(database.read(&NONSENSE, &["x".into()])), ErrorKind::Invalid);
    assert!(database.write(&DELETE, vec![]).is_err(), "too few parameters");
    assert_eq!(
        kind(database.write(&INSERT, vec!["n".into(), Value::Null, "p".into(), 7.into(), Value::Null])),
        ErrorKind::Invalid
    );
    // And the connections are none the worse for it.
    assert_eq!(select(database, "taken")[0].text(1), Ok("../data/taken"));
    for id in ["taken", "key1"] {
        database.write(&DELETE, vec![id.into()]).unwrap();
    }
    assert_eq!(count(database), 0);
}

fn a_row_that_is_there_is_not_inserted_again(database: &Database) {
    assert_eq!(database.write(&INSERT_UNLESS_THERE, vec!["once".into()]).unwrap().affected, 1);
    assert_eq!(database.write(&INSERT_UNLESS_THERE, vec!["once".into()]).unwrap().affected, 0);
    assert_eq!(database.is_absent(&ABSENT, &["once".into()]), Ok(false));
    database.write(&DELETE, vec!["once".into()]).unwrap();
    assert_eq!(database.is_absent(&ABSENT, &["once".into()]), Ok(true));
}

/// Eight threads, each statement a tenth time one that fails: what is answered Ok is there, what is
/// answered with an error is not, and a failure takes no neighbour of its group with it.
fn a_failing_statement_takes_no_neighbour_with_it(database: &Database) {
    insert(database, "first").unwrap();
    thread::scope(|scope| {
        for worker in 0..8 {
            scope.spawn(move || {
                for number in 0..100 {
                    match number % 10 {
                        3 => assert_eq!(kind(insert(database, "first")), ErrorKind::Exists),
                        7 => {
                            let result = database.write(&NONSENSE, vec!["x".into()]);
                            assert_eq!(kind(result), ErrorKind::Invalid);
                        }
                        _ => insert(database, &format!("{worker}-{number}")).unwrap(),
                    }
                }
            });
        }
    });
    assert_eq!(count(database), 1 + 8 * 80);
    let ids: HashSet<String> =
        database.read(&ALL, &[]).unwrap().iter().map(|row| row.text(0).unwrap().to_owned()).collect();
    for worker in 0..8 {
        for number in (0..100).filter(|number| !matches!(number % 10, 3 | 7)) {
            assert!(ids.contains(&format!("{worker}-{number}")));
        }
    }
    for id in ids {
        database.write(&DELETE, vec![id.into()]).unwrap();
    }
}

/// Two handles, as two server processes would have, and eight threads each.
fn a_counter_gives_no_value_twice(one: &Database, other: &Database) {
    let mut values: Vec<u64> = thread::scope(|scope| {
        let mut threads = Vec::new();
        for worker in 0..16 {
            let database = if worker % 2 == 0 { one } else { other };
            threads.push(scope.spawn(move || {
                let step = |_| database.write(&STEP, vec!["../data".into(), 100.into()]).unwrap().last_id;
                (0..50).map(step).collect::<Vec<_>>()
            }));
        }
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    values.sort_unstable();
    assert_eq!(values, (1..=16 * 50).map(|number| number * 100).collect::<Vec<u64>>());
}

fn promises_of_either(settings: &DbSettings) {
    let (database, other) = (open(settings), open(settings));
    values_come_back_as_they_went_in(&database);
    errors_tell_a_taken_key_from_a_refused_statement(&database);
    a_row_that_is_there_is_not_inserted_again(&database);
    a_failing_statement_takes_no_neighbour_with_it(&database);
    a_counter_gives_no_value_twice(&database, &other);
}

#[test]
fn the_embedded_database_keeps_the_promises_of_either() {
    let scratch = Scratch::new("promises");
    promises_of_either(&scratch.settings());
}

#[test]
fn mariadb_keeps_the_promises_of_either() {
    let Some(mariadb) = MariaDb::start() else { return };
    promises_of_either(&settings_of(&mariadb));
}

// The embedded database.

#[test]
fn many_embedded_databases_opened_at_once_make_one() {
    let scratch = Scratch::new("opened");
    let settings = scratch.settings();
    thread::scope(|scope| {
        for worker in 0..8 {
            let settings = &settings;
            scope.spawn(move || insert(&open(settings), &format!("{worker}")).unwrap());
        }
    });
    assert_eq!(count(&open(&settings)), 8);
}

#[test]
fn an_embedded_table_of_an_earlier_version_gets_its_columns_and_goes_on_as_it_is() {
    let scratch = Scratch::new("columns");
    fs::create_dir_all(scratch.settings().directory).unwrap();
    let old = rusqlite::Connection::open(scratch.file()).unwrap();
    old.execute_batch(
        "CREATE TABLE t_file (id TEXT NOT NULL PRIMARY KEY, status INTEGER NOT NULL, file_path TEXT, \
         file_size INTEGER, create_time TEXT, update_time TEXT); \
         CREATE TRIGGER t_file_update_time AFTER UPDATE ON t_file WHEN NEW.update_time IS OLD.update_time BEGIN \
         UPDATE t_file SET update_time = CURRENT_TIMESTAMP WHERE rowid = NEW.rowid; END; \
         INSERT INTO t_file (id, status, file_path) VALUES ('old', 0, 'p'), ('older', 0, 'p');",
    )
    .unwrap();
    drop(old);
    let database = open(&scratch.settings());
    assert_eq!(select(&database, "old")[0].opt_int(3), Ok(None));
    insert(&database, "new").unwrap();
    assert_eq!(kind(insert(&database, "old")), ErrorKind::Exists);
    assert_eq!(database.write(&UPDATE, vec![8.into(), "old".into()]).unwrap().affected, 1);
    let times = database.read(&SELECT_TIMES, &["old".into()]).unwrap();
    assert!(times[0].opt_text(1).unwrap().is_some(), "the trigger does not set the time");
    assert_eq!(count(&open(&scratch.settings())), 3);
}

#[test]
fn two_writers_on_one_embedded_database_take_turns() {
    let scratch = Scratch::new("turns");
    let settings = scratch.settings();
    let (one, other) = (open(&settings), open(&settings));
    let counts = [AtomicU64::new(0), AtomicU64::new(0)];
    let end = Instant::now() + Duration::from_secs(2);
    let longest = AtomicU64::new(0);
    thread::scope(|scope| {
        for worker in 0..8 {
            let (database, counts, longest) =
                (if worker % 2 == 0 { &one } else { &other }, &counts, &longest);
            scope.spawn(move || {
                for number in 0.. {
                    let begun = Instant::now();
                    if begun > end {
                        return;
                    }
                    insert(database, &format!("{worker}-{number}")).unwrap();
                    counts[worker % 2].fetch_add(1, Ordering::Relaxed);
                    longest.fetch_max(begun.elapsed().as_millis() as u64, Ordering::Relaxed);
                }
            });
        }
    });
    let [one_wrote, other_wrote] = counts.map(AtomicU64::into_inner);
    println!("{one_wrote} and {other_wrote} commits, the longest took {longest:?} ms");
    assert_eq!(count(&one) as u64, one_wrote + other_wrote);
    assert!(one_wrote.min(other_wrote) * 4 > one_wrote.max(other_wrote), "{one_wrote} against {other_wrote}");
}

/// Not a test of its own: the body of the process that the next test kills.
#[test]
#[ignore = "run by the test below"]
fn write_until_killed() {
    let Some(directory) = std::env::var_os("TNV_TEST_DB") else { return };
    let mut settings = Scratch::new("unused").settings();
    settings.directory = directory.into();
    settings.durable = std::env::var_os("TNV_TEST_NOT_DURABLE").is_none();
    let database = open(&settings);
    for number in 0.. {
        insert(&database, &format!("{}-{number}", std::process::id())).unwrap();
        println!("committed {number}");
    }
}

#[test]
fn what_a_killed_process_had_been_told_is_there() {
    what_was_told_survives_kills(true);
}

/// What is not flushed the kernel has: only the host's end takes it.
#[test]
fn what_a_killed_process_had_been_told_is_there_without_flushes_too() {
    what_was_told_survives_kills(false);
}

fn what_was_told_survives_kills(durable: bool) {
    use std::io::{BufRead, BufReader};
    let scratch = Scratch::new(if durable { "killed" } else { "killed-not-durable" });
    let settings = DbSettings { durable, ..scratch.settings() };
    let database = open(&settings);
    for round in 0..3 {
        let mut process = Command::new(std::env::current_exe().unwrap());
        process
            .args(["--exact", "write_until_killed", "--ignored", "--nocapture"])
            .env("TNV_TEST_DB", &settings.directory)
            .stdout(std::process::Stdio::piped());
        if !durable {
            process.env("TNV_TEST_NOT_DURABLE", "1");
        }
        let mut process = process.spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut told = None;
        for line in lines.map_while(std::io::Result::ok) {
            let Some(number) =
                line.split("committed ").nth(1).and_then(|text| text.trim().parse::<i64>().ok())
            else {
                continue;
            };
            // Reading on after the kill, to the last line it got out.
            told = Some(number);
            // In the last round the log has been worked into the file, more than once; with flushes that
            // would take minutes on some disks.
            if number == if durable || round < 2 { 200 } else { 10_000 } {
                process.kill().unwrap();
            }
        }
        process.wait().unwrap();
        let last = format!("{}-{}", process.id(), told.unwrap());
        assert_eq!(select(&database, &last).len(), 1);
        // And the killed one holds up nobody.
        insert(&database, &format!("after-{last}")).unwrap();
    }
    drop(database);
    let file = rusqlite::Connection::open(scratch.file()).unwrap();
    let whole: String = file.query_row("PRAGMA integrity_check", (), |row| row.get(0)).unwrap();
    assert_eq!(whole, "ok");
}

#[test]
fn looking_whether_an_embedded_database_could_be_opened_makes_nothing() {
    let scratch = Scratch::new("probe");
    let settings = scratch.settings();
    let told = Database::probe(&settings, &SCHEMA).unwrap();
    assert!(told.contains("tnv_testdb.db") && told.contains("to be made"), "{told}");
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 0);
    insert(&open(&settings), "1").unwrap();
    let told = Database::probe(&settings, &SCHEMA).unwrap();
    assert!(!told.contains("to be made"), "{told}");
    fs::write(scratch.0.join("plain"), "a file").unwrap();
    let below_a_file = DbSettings { directory: scratch.0.join("plain/db"), ..settings.clone() };
    assert!(Database::probe(&below_a_file, &SCHEMA).unwrap_err().message().contains("plain"));
    fs::write(scratch.0.join("tnv_testdb.db"), "this is no database at all").unwrap();
    let other_file = DbSettings { directory: scratch.0.clone(), ..settings };
    assert!(Database::probe(&other_file, &SCHEMA).unwrap_err().message().contains("not an SQLite database"));
    let error = Database::open(&other_file, &SCHEMA, &Stop::new().unwrap()).err().unwrap();
    assert!(error.message().contains("tnv_testdb.db"), "{error}");
}

// MariaDB.

#[test]
fn columns_are_added_to_a_table_of_an_existing_deployment_by_two_servers_at_once() {
    let Some(mariadb) = MariaDb::start() else { return };
    mariadb.query("CREATE DATABASE tnv_testdb");
    mariadb.query(
        "CREATE TABLE tnv_testdb.t_file (id varchar(256) NOT NULL PRIMARY KEY, status tinyint, \
         file_path varchar(512), file_size bigint, \
         create_time timestamp NULL DEFAULT CURRENT_TIMESTAMP, \
         update_time timestamp NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP) ENGINE=InnoDB",
    );
    mariadb.query("INSERT INTO tnv_testdb.t_file (id, status) VALUES ('old', 0), ('older', 0)");
    let settings = settings_of(&mariadb);
    thread::scope(|scope| {
        for worker in 0..6 {
            let settings = &settings;
            scope.spawn(move || insert(&open(settings), &format!("{worker}")).unwrap());
        }
    });
    let database = open(&settings);
    assert_eq!(count(&database), 8);
    assert!(database.describe().starts_with("MariaDB 1"), "{}", database.describe());
    // Existing servers go on writing beside ours.
    mariadb.query("INSERT INTO tnv_testdb.t_file (id, status) VALUES ('theirs', 0)");
    let engine = mariadb.query(
        "SELECT ENGINE, TABLE_COLLATION FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'tnv_testdb' \
         AND TABLE_NAME = 't_counter'",
    );
    assert_eq!(engine[0][0], "InnoDB");
    assert!(engine[0][1].starts_with("utf8mb4"));
}

/// The story: the script was run by hand once more, and ended at the first column that was there.
#[test]
fn the_shipped_script_makes_what_the_server_makes_and_may_be_run_again() {
    use mysql::prelude::Queryable;
    let Some(mariadb) = MariaDb::start() else { return };
    let tables = || {
        ["t_file", "t_counter"].map(|table| mariadb.query(&format!("SHOW CREATE TABLE tnv_testdb.{table}")))
    };
    drop(open(&settings_of(&mariadb)));
    let ours = tables();
    let mut conn = rival(&mariadb);
    let mut run = |script: &str| {
        for statement in script.split(";\n").filter(|text| !text.trim().is_empty()) {
            conn.query_drop(statement).unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
    };
    run(&SCHEMA.mysql_script());
    assert_eq!(tables(), ours, "it leaves alone what the server made");
    mariadb.query("DROP DATABASE tnv_testdb");
    for _ in 0..2 {
        run(&SCHEMA.mysql_script());
        assert_eq!(tables(), ours);
    }
    // What stands in it as comments brings an existing table up to that.
    mariadb.query(
        "ALTER TABLE tnv_testdb.t_file DROP COLUMN checksum, DROP COLUMN file_key, DROP KEY file_path",
    );
    run(&SCHEMA.mysql_script().replace("-- ALTER", "ALTER"));
    let sorted = |tables: [Vec<Vec<String>>; 2]| {
        tables.map(|rows| {
            let mut lines: Vec<String> =
                rows[0][1].lines().map(|line| line.trim_end_matches(',').to_owned()).collect();
            lines.sort();
            lines
        })
    };
    assert_eq!(sorted(tables()), sorted(ours));
}

#[test]
fn an_account_that_may_make_nothing_serves_where_everything_is_there() {
    let Some(mariadb) = MariaDb::start() else { return };
    let limited = |user: &str| DbSettings {
        user: user.into(),
        password: Password::new("limited"),
        ..settings_of(&mariadb)
    };
    mariadb.query("CREATE USER limited@'%' IDENTIFIED BY 'limited'");
    let error = Database::open(&limited("limited"), &SCHEMA, &Stop::new().unwrap()).err().unwrap();
    assert!(error.message().contains("grant"), "{error}");
    drop(open(&settings_of(&mariadb)));
    mariadb.query("GRANT SELECT, INSERT, UPDATE, DELETE ON tnv_testdb.* TO limited@'%'");
    insert(&open(&limited("limited")), "1").unwrap();
    // ed25519 is the other way to log in that MariaDB has.
    let plugins = mariadb.query("SELECT @@plugin_dir").remove(0).remove(0);
    if !PathBuf::from(plugins).join("auth_ed25519.so").exists() {
        return skipped(&this_test(), "this MariaDB has no ed25519 plugin (Debian: it is in mariadb-server)");
    }
    mariadb.query("INSTALL SONAME 'auth_ed25519'");
    mariadb.query("CREATE USER modern@'%' IDENTIFIED VIA ed25519 USING PASSWORD('limited')");
    mariadb.query("GRANT SELECT, INSERT, UPDATE, DELETE ON tnv_testdb.* TO modern@'%'");
    insert(&open(&limited("modern")), "2").unwrap();
}

#[test]
fn a_wrong_password_is_a_clear_error_at_once_and_is_not_told() {
    let Some(mariadb) = MariaDb::start() else { return };
    let wrong = DbSettings { password: Password::new("wr0ng-s3cret"), ..settings_of(&mariadb) };
    let begun = Instant::now();
    let opened = Database::open(&wrong, &SCHEMA, &Stop::new().unwrap()).err().unwrap();
    let probed = Database::probe(&wrong, &SCHEMA).unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(60), "it was waited for, as for a server that is away");
    for error in [opened, probed] {
        for part in [&mariadb.addr(), "'root'", "tnv_testdb", "mysql_pass"] {
            assert!(error.message().contains(part), "{error}");
        }
        assert!(!error.message().contains("wr0ng-s3cret"));
    }
    let told = Database::probe(&settings_of(&mariadb), &SCHEMA).unwrap();
    assert!(told.starts_with("MariaDB 1") && told.contains("to be made"), "{told}");
    assert_eq!(mariadb.query("SHOW DATABASES LIKE 'tnv%'").len(), 0);
}

#[test]
fn a_server_that_comes_up_late_is_waited_for_and_a_stop_ends_the_wait() {
    let Some(mut mariadb) = MariaDb::start() else { return };
    let settings = settings_of(&mariadb);
    mariadb.stop();
    let stop = Stop::new().unwrap();
    thread::scope(|scope| {
        let stopped = scope.spawn(|| Database::open(&settings, &SCHEMA, &stop).err());
        thread::sleep(Duration::from_millis(300));
        stop.set();
        assert_eq!(stopped.join().unwrap().unwrap().kind(), ErrorKind::Unavailable);
        let opened = scope.spawn(|| insert(&open(&settings), "1"));
        thread::sleep(Duration::from_millis(300));
        mariadb.restart();
        opened.join().unwrap().unwrap();
    });
    assert_eq!(
        kind(Database::probe(&DbSettings { addresses: vec!["127.0.0.1:1".into()], ..settings }, &SCHEMA)),
        ErrorKind::Unavailable
    );
}

/// A storage once ended at its start, with advice about the account, because the server had lost a temporary table.
#[test]
fn a_server_that_cannot_make_a_temporary_table_is_waited_for() {
    let Some(mariadb) = MariaDb::start() else { return };
    let settings = settings_of(&mariadb);
    fs::remove_dir(mariadb.tmpdir()).unwrap();
    thread::scope(|scope| {
        let opened = scope.spawn(|| insert(&open(&settings), "1"));
        thread::sleep(Duration::from_secs(1));
        assert!(!opened.is_finished());
        fs::create_dir(mariadb.tmpdir()).unwrap();
        opened.join().unwrap().unwrap();
    });
}

#[test]
fn the_second_address_is_taken_where_the_first_does_not_answer() {
    let Some(mariadb) = MariaDb::start() else { return };
    let settings =
        DbSettings { addresses: vec!["127.0.0.1:1".into(), mariadb.addr()], ..settings_of(&mariadb) };
    let database = open(&settings);
    insert(&database, "1").unwrap();
    // The first one cannot be asked, so nothing is confirmed.
    assert!(database.is_absent(&ABSENT, &["2".into()]).is_err());
}

/// Two servers and an account on both that no privilege lets write to a read-only one.
fn two_servers() -> Option<(MariaDb, MariaDb, DbSettings)> {
    let (one, other) = (MariaDb::start()?, MariaDb::start()?);
    for mariadb in [&one, &other] {
        drop(open(&settings_of(mariadb)));
        mariadb.query("CREATE USER limited@'%' IDENTIFIED BY 'limited'");
        mariadb.query("GRANT SELECT, INSERT, UPDATE, DELETE ON tnv_testdb.* TO limited@'%'");
    }
    let settings = DbSettings {
        addresses: vec![one.addr(), other.addr()],
        user: "limited".into(),
        password: Password::new("limited"),
        ..settings_of(&one)
    };
    Some((one, other, settings))
}

fn count_at(mariadb: &MariaDb) -> String {
    mariadb.query("SELECT COUNT(*) FROM tnv_testdb.t_file").remove(0).remove(0)
}

/// The story: the primary was made a replica, which is read-only. Each INSERT was refused, the sound
/// connection kept, and the new primary never asked, until the servers were restarted.
#[test]
fn a_server_that_became_read_only_is_left_for_the_next() {
    let Some((one, other, settings)) = two_servers() else { return };
    let database = open(&settings);
    insert(&database, "1").unwrap();
    assert_eq!(select(&database, "1").len(), 1);
    assert_eq!([count_at(&one), count_at(&other)], ["1", "0"]);
    one.query("SET GLOBAL read_only = 1");
    insert(&database, "2").unwrap();
    assert_eq!([count_at(&one), count_at(&other)], ["1", "1"]);
    // Whoever reads sees what was written, not what the former primary has.
    assert_eq!(select(&database, "2").len(), 1);
    assert!(select(&database, "1").is_empty());
    // With no server that writes, the error is one that may pass.
    other.query("SET GLOBAL read_only = 1");
    let error = insert(&database, "3").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.message().contains("read-only"), "{error}");
    // And back again.
    one.query("SET GLOBAL read_only = 0");
    insert(&database, "4").unwrap();
    assert_eq!([count_at(&one), count_at(&other)], ["2", "1"]);
}

#[test]
fn several_at_once_lose_no_write_when_a_server_becomes_read_only() {
    let Some((one, other, settings)) = two_servers() else { return };
    let database = open(&settings);
    thread::scope(|scope| {
        for worker in 0..8 {
            let database = &database;
            scope.spawn(move || {
                for number in 0..100 {
                    let id = format!("{worker}-{number}");
                    match insert(database, &id) {
                        Ok(()) => {}
                        // What was being committed as it happened.
                        Err(error) => assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error}"),
                    }
                }
            });
        }
        thread::sleep(Duration::from_millis(50));
        one.query("SET GLOBAL read_only = 1");
    });
    let counts = [count_at(&one), count_at(&other)].map(|count| count.parse::<u64>().unwrap());
    println!("{counts:?} rows");
    assert!(counts[0] + counts[1] >= 800 - 8 && counts[0] + counts[1] <= 800, "{counts:?}");
}

#[test]
fn a_server_that_hangs_is_left_for_the_next() {
    let Some((one, other, settings)) = two_servers() else { return };
    let settings = DbSettings { rw_timeout: Duration::from_secs(5), ..settings };
    let database = open(&settings);
    insert(&database, "1").unwrap();
    one.pause();
    let begun = Instant::now();
    insert(&database, "2").unwrap();
    println!("left after {:?}, with a time-out of 5 s", begun.elapsed());
    assert_eq!(select(&database, "2").len(), 1);
    assert_eq!(count_at(&other), "1");
    one.resume();
}

/// The story: an idle connection is closed in good order, which says nothing about its server. To go
/// to the next one then would split what is written over two.
#[test]
fn a_connection_that_was_closed_for_idling_does_not_move_to_the_next_server() {
    let Some((one, other, settings)) = two_servers() else { return };
    one.query("SET GLOBAL wait_timeout = 1");
    let database = open(&settings);
    for number in 0..3 {
        insert(&database, &number.to_string()).unwrap();
        assert_eq!(count(&database), number + 1);
        thread::sleep(Duration::from_millis(1500));
    }
    assert_eq!([count_at(&one), count_at(&other)], ["3", "0"]);
}

/// The story: whatever the server's error, it was told as Invalid, which clients take for final: an
/// upload was given up because a statement was killed or took too long.
#[test]
fn what_a_server_cannot_do_now_is_unavailable_and_only_a_wrong_statement_is_invalid() {
    static SLOW: Sql = Sql::both("SELECT id, sleep(3) FROM t_file WHERE id = ?");
    static SLOW_WRITE: Sql = Sql::both(
        "INSERT INTO t_file (id, status) SELECT CONCAT(id, 'x'), sleep(3) FROM t_file WHERE id = ?",
    );
    let Some(mariadb) = MariaDb::start() else { return };
    insert(&open(&settings_of(&mariadb)), "1").unwrap();
    mariadb.query("SET GLOBAL max_statement_time = 0.3");
    let database = open(&settings_of(&mariadb));
    for result in [
        database.read(&SLOW, &["1".into()]).map(drop),
        database.write(&SLOW_WRITE, vec!["1".into()]).map(drop),
    ] {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.message().contains("1969"), "{error}");
    }
    assert_eq!(count(&database), 1);
    // A table that is away may come back, and a right may be granted.
    mariadb.query("RENAME TABLE tnv_testdb.t_file TO tnv_testdb.t_away");
    assert_eq!(kind(insert(&database, "2")), ErrorKind::Unavailable);
    mariadb.query("RENAME TABLE tnv_testdb.t_away TO tnv_testdb.t_file");
    let long = "x".repeat(300);
    for (id, status) in [(long.as_str(), 0), ("3", 1000)] {
        let params = vec![id.into(), status.into(), "p".into(), 7.into(), Value::Null];
        assert_eq!(kind(database.write(&INSERT, params)), ErrorKind::Invalid);
    }
    insert(&database, "2").unwrap();
}

/// Statements that insert what they do not find rely on its locks, whatever the server's default is.
#[test]
fn the_isolation_level_is_ours_and_not_the_servers() {
    static LEVEL: Sql = Sql::both(
        "SELECT VARIABLE_VALUE FROM information_schema.SESSION_VARIABLES \
         WHERE VARIABLE_NAME IN ('tx_isolation', 'transaction_isolation')",
    );
    let Some(mariadb) = MariaDb::start() else { return };
    mariadb.query("SET GLOBAL TRANSACTION ISOLATION LEVEL READ UNCOMMITTED");
    let database = open(&settings_of(&mariadb));
    for row in database.read(&LEVEL, &[]).unwrap() {
        assert_eq!(row.text(0), Ok("REPEATABLE-READ"));
    }
    assert!(!database.read(&LEVEL, &[]).unwrap().is_empty());
}

#[test]
fn a_restarted_server_costs_no_request_once_it_is_back() {
    let Some(mut mariadb) = MariaDb::start() else { return };
    let database = open(&settings_of(&mariadb));
    insert(&database, "before").unwrap();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(select(&database, "before").len(), 1));
        }
    });
    mariadb.kill();
    assert_eq!(kind(insert(&database, "during")), ErrorKind::Unavailable);
    assert_eq!(kind(database.read(&COUNT, &[])), ErrorKind::Unavailable);
    mariadb.restart();
    assert_eq!(select(&database, "before").len(), 1);
    insert(&database, "after").unwrap();
    assert_eq!(count(&database), 2);
    // And again without a request in between: the writer finds its connection dead.
    mariadb.restart();
    insert(&database, "at once").unwrap();
    assert_eq!(count(&database), 3);
}

/// The story: sixteen threads insert, the server stops in the middle of their commits. Each answer
/// must be true: Ok is there, an error is not, and what is unknown is_absent tells later.
#[test]
fn a_server_paused_in_the_middle_of_commits_leaves_no_answer_untrue() {
    let Some(mut mariadb) = MariaDb::start() else { return };
    let settings = DbSettings { rw_timeout: Duration::from_secs(1), ..settings_of(&mariadb) };
    let database = open(&settings);
    // Whoever looks what became of a row has all the time.
    let witness = open(&settings_of(&mariadb));
    let mut unknown_seen = 0;
    let mut confirmed_absent = Vec::new();
    // Where a pause strikes is chance: six times at least, and until it has struck a commit.
    for round in 0..24 {
        if round >= 6 && unknown_seen > 0 {
            break;
        }
        let answers = thread::scope(|scope| {
            let mut threads = Vec::new();
            for worker in 0..16 {
                let database = &database;
                threads.push(scope.spawn(move || {
                    let mut answers = Vec::new();
                    for number in 0.. {
                        let id = format!("{round}-{worker}-{number}");
                        let answer = insert(database, &id);
                        let failed = answer.is_err();
                        answers.push((id, answer));
                        if failed {
                            return answers;
                        }
                    }
                    answers
                }));
            }
            thread::sleep(Duration::from_millis(100 + 37 * (round % 6)));
            mariadb.pause();
            thread::sleep(Duration::from_millis(4500));
            match round % 3 {
                // Killed: the commit under way is on the disk or it is not.
                2 => {
                    mariadb.kill();
                    mariadb.restart();
                }
                _ => mariadb.resume(),
            }
            // Those that did not fail yet go on until one does.
            thread::sleep(Duration::from_millis(200));
            mariadb.query("RENAME TABLE tnv_testdb.t_file TO tnv_testdb.t_away");
            mariadb.query("RENAME TABLE tnv_testdb.t_away TO tnv_testdb.t_file");
            thread::sleep(Duration::from_millis(200));
            mariadb.query("RENAME TABLE tnv_testdb.t_file TO tnv_testdb.t_away");
            let answers: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
            mariadb.query("RENAME TABLE tnv_testdb.t_away TO tnv_testdb.t_file");
            answers
        });
        for (id, answer) in answers {
            match answer {
                Ok(()) => assert_eq!(select(&witness, &id).len(), 1, "{id} was acknowledged"),
                Err(error) if error.kind() == ErrorKind::OutcomeUnknown => {
                    unknown_seen += 1;
                    let absent = database.is_absent(&ABSENT, &[id.as_str().into()]).unwrap();
                    assert_eq!(absent, select(&witness, &id).is_empty(), "{id}: {error}");
                    if absent {
                        confirmed_absent.push(id);
                    }
                }
                Err(error) => assert!(select(&witness, &id).is_empty(), "{id} was refused: {error}"),
            }
        }
    }
    println!("{unknown_seen} outcomes were unknown, {} of them absent", confirmed_absent.len());
    for id in confirmed_absent {
        assert!(select(&witness, &id).is_empty(), "{id} appeared after all");
    }
    assert!(unknown_seen > 0);
}

/// A commit that hangs because of a lock that a test can hold: the row is neither there nor absent
/// until it ends, and no answer says otherwise.
#[test]
fn absence_is_not_confirmed_while_a_transaction_may_still_commit() {
    let Some(mariadb) = MariaDb::start() else { return };
    let settings = DbSettings { rw_timeout: Duration::from_secs(5), ..settings_of(&mariadb) };
    let database = open(&settings);
    let mut open_transaction = rival(&mariadb);
    use mysql::prelude::Queryable;
    open_transaction.query_drop("BEGIN").unwrap();
    open_transaction.query_drop("INSERT INTO t_file (id, status) VALUES ('pending', 0)").unwrap();
    assert!(select(&database, "pending").is_empty());
    assert_eq!(kind(database.is_absent(&ABSENT, &["pending".into()])), ErrorKind::Busy);
    // A write of the same row waits for it as well, and gives up with the truth: not applied.
    assert_eq!(kind(insert(&database, "pending")), ErrorKind::Busy);
    open_transaction.query_drop("COMMIT").unwrap();
    assert_eq!(database.is_absent(&ABSENT, &["pending".into()]), Ok(false));
    assert_eq!(kind(insert(&database, "pending")), ErrorKind::Exists);
}

#[test]
fn a_deadlock_is_tried_again_and_its_neighbours_do_not_notice() {
    let Some(mariadb) = MariaDb::start() else { return };
    let database = open(&settings_of(&mariadb));
    insert(&database, "a").unwrap();
    insert(&database, "b").unwrap();
    let rounds = AtomicU32::new(0);
    thread::scope(|scope| {
        let rival = scope.spawn(|| {
            use mysql::prelude::Queryable;
            let mut rival = rival(&mariadb);
            let mut deadlocks = 0;
            while rounds.load(Ordering::Relaxed) < 4 {
                let _ = rival.query_drop("BEGIN");
                for id in ["b", "a"] {
                    deadlocks += u32::from(
                        rival
                            .query_drop(format!(
                                "UPDATE t_file SET file_size = file_size + 1 WHERE id = '{id}'"
                            ))
                            .is_err(),
                    );
                }
                let _ = rival.query_drop("COMMIT");
            }
            deadlocks
        });
        thread::scope(|writers| {
            for id in ["a", "b", "a", "b"] {
                let (database, rounds) = (&database, &rounds);
                writers.spawn(move || {
                    for size in 0..200 {
                        database.write(&UPDATE, vec![(-size).into(), id.into()]).unwrap();
                    }
                    rounds.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        println!("the rival lost {} deadlocks", rival.join().unwrap());
    });
    let deadlocks = mariadb.query("SHOW ENGINE INNODB STATUS");
    assert!(deadlocks[0][2].contains("LATEST DETECTED DEADLOCK"), "the test met no deadlock");
}

/// A check of the tables beside uploads at full speed ended with "Deadlock found": it locks row after
/// row, a writer took them in another order, and InnoDB rolls back the one that has changed less.
#[test]
fn a_confirmed_read_that_deadlocks_is_repeated() {
    use mysql::prelude::Queryable;
    let Some(mariadb) = MariaDb::start() else { return };
    let database = open(&settings_of(&mariadb));
    insert(&database, "a").unwrap();
    insert(&database, "b").unwrap();
    let mut rival = rival(&mariadb);
    rival.query_drop("BEGIN").unwrap();
    rival.query_drop("UPDATE t_file SET file_size = 1 WHERE id = 'b'").unwrap();
    thread::scope(|scope| {
        let read = scope.spawn(|| database.read_confirmed(&BETWEEN, &["a".into(), "b".into()]));
        let deadline = Instant::now() + Duration::from_secs(5);
        while mariadb
            .query("SELECT 1 FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'")
            .is_empty()
        {
            assert!(Instant::now() < deadline, "it does not wait for the row that is locked");
            // What this table shows gets no younger for who reads it again within a tenth of a second.
            thread::sleep(Duration::from_millis(150));
        }
        rival.query_drop("UPDATE t_file SET file_size = 1 WHERE id = 'a'").unwrap();
        let deadlocks = mariadb.query("SHOW ENGINE INNODB STATUS");
        assert!(deadlocks[0][2].contains("LATEST DETECTED DEADLOCK"), "the test met no deadlock");
        rival.query_drop("COMMIT").unwrap();
        assert_eq!(read.join().unwrap().unwrap().len(), 2);
    });
}

/// What the crate's own pool gets wrong: after a read timed out, the next one on that connection
/// reads the rows that come late.
#[test]
fn a_read_that_timed_out_never_gives_its_rows_to_the_next() {
    static SLOW: Sql = Sql::both("SELECT id, sleep(0.8) FROM t_file WHERE id = ?");
    let Some(mariadb) = MariaDb::start() else { return };
    let settings = DbSettings { rw_timeout: Duration::from_secs(5), ..settings_of(&mariadb) };
    let database = open(&settings);
    for id in 0..8 {
        insert(&database, &id.to_string()).unwrap();
    }
    let paused = AtomicU32::new(0);
    thread::scope(|scope| {
        for worker in 0..8_u32 {
            let (database, paused) = (&database, &paused);
            scope.spawn(move || {
                let id = worker.to_string();
                let mut failed = 0;
                while paused.load(Ordering::Relaxed) < 2 || failed == 0 {
                    match database.read(&SLOW, &[id.as_str().into()]) {
                        Ok(rows) => assert_eq!(rows[0].text(0), Ok(&id[..])),
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                            failed += 1;
                        }
                    }
                }
            });
        }
        thread::sleep(Duration::from_millis(500));
        mariadb.pause();
        thread::sleep(Duration::from_secs(7));
        mariadb.resume();
        paused.store(2, Ordering::Relaxed);
    });
    for id in 0..8 {
        let id = id.to_string();
        assert_eq!(database.read(&SLOW, &[id.as_str().into()]).unwrap()[0].text(0), Ok(&id[..]));
    }
}

/// Not a test of its own: the body of the process that the next test kills.
#[test]
#[ignore = "run by the test below"]
fn hold_a_mariadb_until_killed() {
    if std::env::var_os("TNV_TEST_HOLD").is_none() {
        return;
    }
    let Some(mariadb) = MariaDb::start() else { return println!("held nothing") };
    println!("held {}", mariadb.query("SELECT @@pid_file, @@datadir").remove(0).join(" "));
    thread::sleep(Duration::from_secs(60));
}

/// The story: a run of the tests was killed, and its database servers ran on until the next reboot.
#[test]
fn a_private_mariadb_ends_with_the_process_that_started_it() {
    use std::io::{BufRead, BufReader};
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hold_a_mariadb_until_killed", "--ignored", "--nocapture"])
        .env("TNV_TEST_HOLD", "1")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let held =
        lines.map_while(std::io::Result::ok).find_map(|line| Some(line.split_once("held ")?.1.to_owned()));
    let held = held.unwrap();
    let Some((pid_file, directory)) = held.split_once(' ') else {
        process.wait().unwrap();
        return;
    };
    let directory = PathBuf::from(directory);
    let pid = fs::read_to_string(directory.join(pid_file)).unwrap();
    let server = PathBuf::from(format!("/proc/{}", pid.trim()));
    assert!(server.exists());
    process.kill().unwrap();
    process.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    // One that nobody waits for stays as a zombie, where nobody adopts it.
    let runs = || fs::read(server.join("cmdline")).is_ok_and(|line| !line.is_empty());
    while runs() || directory.exists() {
        assert!(Instant::now() < deadline, "{} runs still", server.display());
        thread::sleep(Duration::from_millis(20));
    }
}

/// A connection of somebody else's.
fn rival(mariadb: &MariaDb) -> mysql::Conn {
    let options = mysql::OptsBuilder::new()
        .ip_or_hostname(Some("127.0.0.1"))
        .tcp_port(mariadb.addr().rsplit(':').next().unwrap().parse().unwrap())
        .prefer_socket(false)
        .user(Some(MariaDb::USER))
        .pass(Some(mariadb.password()))
        .db_name(Some(SCHEMA.database));
    mysql::Conn::new(options).unwrap()
}

// What servers are set to, and what other servers write.

/// Enough of them that several are one statement.
fn several_rows_at_once_are_all_there(database: &Database) {
    thread::scope(|scope| {
        for worker in 0..20 {
            scope.spawn(move || (0..3).for_each(|row| insert(database, &format!("{worker}-{row}")).unwrap()));
        }
    });
    assert_eq!(count(database), 60);
    assert_eq!(database.read(&ALL, &[]).unwrap().len(), 60);
    assert_eq!(database.read_confirmed(&BETWEEN, &["0".into(), "9-9".into()]).unwrap().len(), 60);
    assert_eq!(database.is_absent(&ABSENT, &["7-2".into()]), Ok(false));
}

/// An account without privileges over the server, whom `init_connect` concerns.
fn plain_account(mariadb: &MariaDb, more: &str) -> DbSettings {
    mariadb.query(&format!("CREATE OR REPLACE USER plain@'%' IDENTIFIED BY 'plain' {more}"));
    mariadb.query("GRANT ALL PRIVILEGES ON `tnv\\_%`.* TO plain@'%'");
    DbSettings { user: "plain".into(), password: Password::new("plain"), ..settings_of(mariadb) }
}

/// The story: where the default row format was COMPACT no table could be made, and the error said to check the
/// account. What TNV needs of a table or a session it says itself.
#[test]
fn the_defaults_of_a_server_decide_nothing() {
    let options = ["--lower-case-table-names=1", "--skip-character-set-client-handshake"];
    let Some(mariadb) = MariaDb::start_having(&options) else { return };
    let settings = plain_account(&mariadb, "");
    for defaults in [
        "innodb_default_row_format = compact",
        "innodb_default_row_format = redundant",
        "default_storage_engine = MyISAM",
        "character_set_server = gbk",
        "character_set_server = latin1",
        "character_set_server = utf8mb3",
        "collation_server = utf8mb4_bin",
        "sql_mode = 'ANSI'",
        "sql_mode = 'ORACLE'",
        "sql_mode = ''",
        "sql_mode = 'TRADITIONAL,ONLY_FULL_GROUP_BY,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH'",
        "init_connect = 'SET autocommit = 0, NAMES latin1, sql_mode = ANSI_QUOTES'",
        "autocommit = 0",
        "completion_type = 2",
        "tx_isolation = 'SERIALIZABLE'",
        "explicit_defaults_for_timestamp = 0",
        "innodb_strict_mode = 0",
        "sql_safe_updates = 1",
        "sql_select_limit = 1",
        "time_zone = '+12:00'",
        "max_join_size = 1",
        "sql_auto_is_null = 1",
        "max_allowed_packet = 65536",
    ] {
        println!("{defaults}");
        let name = defaults.split(' ').next().unwrap();
        let before = mariadb.query(&format!("SELECT @@GLOBAL.{name}")).remove(0).remove(0);
        mariadb.query(&format!("SET GLOBAL {defaults}"));
        let database = open(&settings);
        values_come_back_as_they_went_in(&database);
        errors_tell_a_taken_key_from_a_refused_statement(&database);
        a_row_that_is_there_is_not_inserted_again(&database);
        several_rows_at_once_are_all_there(&database);
        let before = if before.parse::<u64>().is_ok() { before } else { format!("'{before}'") };
        mariadb.query(&format!("SET GLOBAL {name} = {before}"));
        let made = mariadb.query(
            "SELECT ENGINE, ROW_FORMAT, TABLE_COLLATION FROM information_schema.TABLES \
             WHERE TABLE_SCHEMA = 'tnv_testdb'",
        );
        assert_eq!(made.len(), 2);
        for table in made {
            assert_eq!(table[..2], ["InnoDB", "Dynamic"], "{defaults}");
            assert!(table[2].starts_with("utf8mb4_"), "{defaults}: {table:?}");
        }
        mariadb.query("DROP DATABASE tnv_testdb");
    }
}

#[test]
fn a_key_that_is_too_long_for_an_old_table_is_not_called_the_accounts_fault() {
    let Some(mariadb) = MariaDb::start() else { return };
    mariadb.query("CREATE DATABASE tnv_testdb");
    mariadb.query(
        "CREATE TABLE tnv_testdb.t_file (id varchar(100) NOT NULL PRIMARY KEY, status tinyint, \
         file_path varchar(512), file_size bigint) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 ROW_FORMAT=COMPACT",
    );
    let error = Database::open(&settings_of(&mariadb), &SCHEMA, &Stop::new().unwrap()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(["1071", "1709"].iter().any(|code| error.message().contains(code)), "{error}");
    assert!(error.message().contains("DYNAMIC"), "{error}");
    assert!(!error.message().contains("account"), "{error}");
}

/// MariaDB's root is such an account when it is installed, and root is what `mysql_user` is where it is not set.
#[test]
fn an_account_that_logs_in_by_a_socket_is_refused_at_once_with_its_own_advice() {
    let Some(mariadb) = MariaDb::start() else { return };
    mariadb.query("CREATE USER local@'%' IDENTIFIED VIA unix_socket");
    let settings = DbSettings { user: "local".into(), ..settings_of(&mariadb) };
    let begun = Instant::now();
    let error = Database::open(&settings, &SCHEMA, &Stop::new().unwrap()).err().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(60), "it was waited for: {error}");
    assert!(error.message().contains("1698") && error.message().contains("unix_socket"), "{error}");
}

/// A directory with certificates: `ca.pem`, and `cert.pem` with its `key.pem` for a server of this name.
fn certificates(scratch: &Scratch, name: &str) -> Option<PathBuf> {
    let directory = scratch.0.join(name.replace(':', "-"));
    fs::create_dir_all(&directory).unwrap();
    let subject = format!("subjectAltName={name}");
    let make = |args: &[&str]| {
        let output = Command::new("openssl").args(args).current_dir(&directory).output().ok()?;
        assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
        Some(())
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"];
    let made = make(
        &[&["req", "-x509", "-subj", "/CN=a test", "-keyout", "ca.key", "-out", "ca.pem"], &key[..]].concat(),
    )
    .and_then(|()| {
        let signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "basicConstraints=CA:FALSE"];
        let server = ["req", "-x509", "-subj", "/CN=server", "-keyout", "key.pem", "-out", "cert.pem"];
        make(&[&server[..], &["-addext", &subject], &signed, &key].concat())
    });
    if made.is_none() {
        eprintln!("SKIPPED: openssl is not installed");
    }
    made.map(|()| directory)
}

/// A server with the certificate of that directory.
fn server_with(directory: &std::path::Path) -> Option<MariaDb> {
    let option = |name: &str, file: &str| format!("--ssl-{name}={}", directory.join(file).display());
    MariaDb::start_having(&[&option("ca", "ca.pem"), &option("cert", "cert.pem"), &option("key", "key.pem")])
}

/// The story: an account with REQUIRE SSL was refused with advice about its password, and there was no way to
/// use it.
#[test]
fn an_account_that_requires_tls_is_served_over_tls_and_refused_clearly_without() {
    static CIPHER: Sql = Sql::both(
        "SELECT VARIABLE_VALUE FROM information_schema.SESSION_STATUS WHERE VARIABLE_NAME = 'Ssl_cipher'",
    );
    let scratch = Scratch::new("tls");
    let Some(directory) = certificates(&scratch, "IP:127.0.0.1") else { return };
    let Some(mariadb) = server_with(&directory) else { return };
    let plain = plain_account(&mariadb, "REQUIRE SSL");
    let with = |tls: Tls| DbSettings { tls, ..plain.clone() };
    let verify = |file: &std::path::Path| with(Tls::Verify { ca_file: Some(file.to_owned()) });
    let refusal = |settings: &DbSettings| {
        let begun = Instant::now();
        let error = Database::open(settings, &SCHEMA, &Stop::new().unwrap()).err().expect("a refusal");
        assert!(begun.elapsed() < Duration::from_secs(60), "it was waited for: {error}");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        error.message().to_owned()
    };
    let text = refusal(&with(Tls::Off));
    assert!(text.contains("1045") && text.contains("mysql_tls"), "{text}");
    for settings in [with(Tls::Required), verify(&directory.join("ca.pem"))] {
        let database = open(&settings);
        assert_ne!(database.read(&CIPHER, &[]).unwrap()[0].text(0), Ok(""));
        insert(&database, "1").unwrap();
        let own = [Value::from("1")];
        assert_eq!(database.write(&DELETE, own.to_vec()).unwrap().affected, 1);
        assert_eq!(database.is_absent(&ABSENT, &own), Ok(true));
        assert!(Database::probe(&settings, &SCHEMA).is_ok());
    }
    // A certificate that is not known is refused, at once.
    let other = certificates(&scratch, "DNS:db.example").unwrap();
    let text = refusal(&verify(&other.join("ca.pem")));
    assert!(text.contains("certificate") && text.contains("mysql_tls_ca_file"), "{text}");
    refusal(&with(Tls::Verify { ca_file: None }));
    // So is one of another host; without a check of it the connection is made.
    let Some(misnamed) = server_with(&other) else { return };
    let at_misnamed = |tls: Tls| DbSettings { tls, ..plain_account(&misnamed, "REQUIRE SSL") };
    let text = refusal(&at_misnamed(Tls::Verify { ca_file: Some(other.join("ca.pem")) }));
    assert!(text.contains("certificate"), "{text}");
    insert(&open(&at_misnamed(Tls::Required)), "1").unwrap();
    // A server that takes nothing without TLS, and one that has none.
    misnamed.query("SET GLOBAL require_secure_transport = ON");
    let text = refusal(&DbSettings { tls: Tls::Off, ..settings_of(&misnamed) });
    assert!(text.contains("mysql_tls"), "{text}");
    let Some(bare) = MariaDb::start() else { return };
    let text = refusal(&DbSettings { tls: Tls::Required, ..settings_of(&bare) });
    assert!(text.contains("mysql_tls"), "{text}");
}

/// Names of one to four bytes a character, and the bytes for which Windows-1252 has no character.
const NAMES: [&str; 7] = [
    "plain",
    "Jos\u{e9}",
    "\u{65e5}\u{672c}\u{8a9e}",
    "\u{1f3ac}",
    "\u{20ac}\u{81}\u{9d}",
    "\u{41f}\u{440}",
    "\u{fd}\u{ff}",
];

/// The story: existing servers wrote names over a latin1 connection, and ours found none that is beyond ASCII.
#[test]
fn names_written_over_a_latin1_connection_are_found_and_found_from_there() {
    use mysql::prelude::Queryable;
    let Some(mariadb) = MariaDb::start() else { return };
    let settings = DbSettings { charset: Charset::Latin1, ..settings_of(&mariadb) };
    let database = open(&settings);
    let mut theirs = rival(&mariadb);
    theirs.query_drop("SET NAMES latin1").unwrap();
    for (number, name) in NAMES.iter().enumerate() {
        let statement =
            format!("INSERT INTO tnv_testdb.t_file (id, status, file_size) VALUES ('{name}', 0, {number})");
        theirs.query_drop(statement).unwrap();
        let rows = select(&database, name);
        assert_eq!(rows.len(), 1, "{name}");
        assert_eq!(rows[0].int(2), Ok(number as i64), "{name}");
    }
    let read: HashSet<String> =
        database.read(&ALL, &[]).unwrap().iter().map(|row| row.text(0).unwrap().to_owned()).collect();
    assert_eq!(read, NAMES.map(str::to_owned).into());
    for row in database.read_stored(&ALL, &[]).unwrap() {
        let stored = row.text(0).unwrap();
        assert!(read.contains(&database.name(stored)), "{stored}");
        assert_eq!(stored.is_ascii(), stored == "plain");
    }
    // What ours write, several at once too, is what such a server reads.
    thread::scope(|scope| {
        for name in NAMES {
            let database = &database;
            scope.spawn(move || {
                let params =
                    vec![format!("{name}-2").into(), 0.into(), name.into(), 7.into(), name.as_bytes().into()];
                database.write(&INSERT, params).unwrap()
            });
        }
    });
    for name in NAMES {
        let statement = format!("SELECT file_path, file_key FROM tnv_testdb.t_file WHERE id = '{name}-2'");
        let row: (Vec<u8>, Vec<u8>) = theirs.query_first(statement).unwrap().expect("a row");
        assert_eq!(row, (name.as_bytes().to_vec(), name.as_bytes().to_vec()), "bytes are as they are");
        assert_eq!(select(&database, &format!("{name}-2"))[0].bytes(4), Ok(name.as_bytes()));
        assert_eq!(database.is_absent(&ABSENT, &[name.into()]), Ok(false));
    }
    // A row in UTF-8 stays readable as what it is.
    mariadb.query("INSERT INTO tnv_testdb.t_file (id, status) VALUES ('\u{e9}\u{65e5}', 0)");
    let all = database.read(&ALL, &[]).unwrap();
    assert!(all.iter().any(|row| row.text(0) == Ok("\u{e9}\u{65e5}")));
}
