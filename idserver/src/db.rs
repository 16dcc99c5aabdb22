//! The ID server's table: one row for each key, whose value is the first number not given to any ID
//! server. A step moves it on in one statement, and the numbers it moved over are the caller's; so
//! any number of ID servers share one database. Where the table has fallen behind what this server has
//! handed out, it is raised first (see [`crate::marks`]).
//!
//! The table's collation takes `../Data` for `../data`: such keys share a row, and their numbers
//! are as unique as any.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::{error, info, warn};
use tnv_common::db::{Column, Database, DbSettings, Schema, Sql, Table};
use tnv_common::error::{Context, Error, ErrorKind, Result};
use tnv_common::fail;
use tnv_common::stop::Stop;
use tnv_common::wire::IdKey;

use crate::globals::{Segment, Source};
use crate::marks::Marks;

/// Rows of the table. Anyone who can reach the server may ask for a key of his own, and each makes
/// a row that stays; a store path has 64 bytes and a deployment some dozens of them, so this is far
/// beyond what is needed and far below what would be felt.
const ROWS_MAX: i64 = 65_536;

/// Rows are counted at most this often: counting the full table takes milliseconds.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);

/// The table.
pub static SCHEMA: Schema = Schema {
    database: "tnv_idsdb",
    tables: &[Table {
        name: "t_id_gen",
        columns: &[
            Column {
                name: "id",
                mysql: "varchar(64) NOT NULL PRIMARY KEY",
                sqlite: "TEXT NOT NULL PRIMARY KEY",
            },
            Column { name: "id_value", mysql: "bigint", sqlite: "INTEGER" },
        ],
        added: &[],
        indexes: &[],
    }],
};

/// One step, and the value after it as `last_id`; 0, and no change, where the value is not one to
/// step from: NULL, negative, or without room for a step.
///
/// In MySQL each branch sets LAST_INSERT_ID: what it had before would be taken for the value.
static STEP: Sql = Sql {
    mysql: "INSERT INTO t_id_gen (id, id_value) VALUES (?, LAST_INSERT_ID(?)) ON DUPLICATE KEY UPDATE \
            id_value = IF(id_value BETWEEN 0 AND ?, LAST_INSERT_ID(id_value + ?), \
            IF(LAST_INSERT_ID(0) = 0, id_value, id_value))",
    sqlite: "INSERT INTO t_id_gen (id, id_value) VALUES (?, ?) ON CONFLICT (id) DO UPDATE \
             SET id_value = id_value + ?4 WHERE typeof(id_value) = 'integer' AND id_value BETWEEN 0 AND ?3 \
             RETURNING id_value",
};

/// Moves a value that has fallen behind up to a mark: mark, key, the largest value that is behind it.
static RAISE: Sql = Sql::both("UPDATE t_id_gen SET id_value = ? WHERE id = ? AND id_value BETWEEN 0 AND ?");

/// How often a table that falls behind again and again is raised for one request.
const RAISES_MAX: usize = 3;

static VALUE: Sql = Sql::both("SELECT id_value FROM t_id_gen WHERE id = ?");

static COUNT: Sql = Sql::both("SELECT count(*) FROM t_id_gen");

/// The ID server's database.
pub struct IdDb {
    database: Database,
    marks: Marks,
    step: u32,
    rows: Mutex<Rows>,
    rows_max: i64,
}

/// How many rows the table has, and when that was counted; those we made since are added.
#[derive(Default)]
struct Rows {
    count: i64,
    counted: Option<Instant>,
}

impl IdDb {
    /// Opens the database and makes what is missing. A step is so many numbers.
    pub fn open(settings: &DbSettings, step: u32, marks: Marks, stop: &Stop) -> Result<IdDb> {
        let database = Database::open(settings, &SCHEMA, stop)?;
        Ok(IdDb { database, marks, step, rows: Mutex::default(), rows_max: ROWS_MAX })
    }

    /// Which database it is.
    pub fn describe(&self) -> String {
        self.database.describe()
    }

    /// The value of a key's row as it stands: the outer `None` is no row, the inner one NULL.
    fn value(&self, key: &IdKey) -> Result<Option<Option<String>>> {
        let rows = self.database.read(&VALUE, &[key.as_str().into()]).context(|| "read t_id_gen")?;
        let Some(row) = rows.first() else { return Ok(None) };
        match row.opt_int(0) {
            Ok(value) => Ok(Some(value.map(|value| value.to_string()))),
            // SQLite keeps whatever it was given.
            Err(_) => Ok(Some(row.opt_text(0)?.map(str::to_owned))),
        }
    }

    /// Refuses a key that has no row when there are enough rows.
    fn make_room(&self, key: &IdKey) -> Result<()> {
        if self.value(key)?.is_some() {
            return Ok(());
        }
        let fresh = self.rows().counted.is_some_and(|counted| counted.elapsed() < COUNT_INTERVAL);
        if !fresh {
            // Not under the lock: a database that hangs would let everyone wait in a row.
            let count = self.database.read(&COUNT, &[]).context(|| "count t_id_gen")?;
            let count = count.first().map_or(Ok(0), |row| row.int(0))?;
            *self.rows() = Rows { count, counted: Some(Instant::now()) };
        }
        let mut rows = self.rows();
        if rows.count >= self.rows_max {
            return fail!(
                NoSpace,
                "no room for the new key '{key}', t_id_gen has {} rows of at most {}; delete rows of keys \
                 that no store path has",
                rows.count,
                self.rows_max
            );
        }
        rows.count += 1;
        info!("the key '{key}' is new");
        Ok(())
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves a key's value on by one step.
    fn step(&self, key: &IdKey) -> Result<Segment> {
        let step = i64::from(self.step);
        let params = vec![key.as_str().into(), step.into(), (i64::MAX - step).into(), step.into()];
        let written = self.database.write(&STEP, params).context(|| format!("step the key '{key}'"))?;
        let segment = i64::try_from(written.last_id).ok().and_then(|end| Segment::before(end, self.step));
        match segment {
            Some(segment) => Ok(segment),
            None => {
                let value = self.value(key)?.flatten().unwrap_or_else(|| "NULL".to_owned());
                fail!(
                    Invalid,
                    "id_value of '{key}' in t_id_gen is {value}, want 0 to {}; correct the row",
                    i64::MAX - step
                )
            }
        }
    }
}

impl IdDb {
    /// The same; whether a step whose answer was lost was made does not matter.
    fn step_surely(&self, key: &IdKey) -> Result<Segment> {
        match self.step(key) {
            // Once more at worst skips its numbers.
            Err(error) if error.kind() == ErrorKind::OutcomeUnknown => {
                warn!("{error}; stepping once more");
                self.step(key).map_err(certain)
            }
            stepped => stepped,
        }
    }
}

impl Source for IdDb {
    /// The table has a segment's end before its numbers are used, and so has the mark.
    fn fetch(&self, key: &IdKey) -> Result<Segment> {
        self.make_room(key)?;
        for _ in 0..RAISES_MAX {
            let segment = self.step_surely(key)?;
            let mark = self.marks.of(key);
            if segment.start() >= mark {
                self.marks.raise(key, segment.end())?;
                return Ok(segment);
            }
            error!(
                "t_id_gen has {} for '{key}', and this server has handed out the numbers up to {mark}: the database \
                 has lost steps (a replica that lagged, an old backup?); raising it to {mark}",
                segment.end()
            );
            let params = vec![mark.into(), key.as_str().into(), (mark - 1).into()];
            self.database
                .write(&RAISE, params)
                .context(|| format!("raise the key '{key}' to {mark}"))
                .map_err(certain)?;
        }
        fail!(Unavailable, "t_id_gen falls back again and again below what was handed out of '{key}'")
    }
}

/// To whoever asks for a number it does not matter whether a step was made: none of it is handed out.
fn certain(error: Error) -> Error {
    match error.kind() {
        ErrorKind::OutcomeUnknown => Error::new(ErrorKind::Unavailable, error.message()),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::net::SocketAddr;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU16, Ordering};
    use tnv_common::db::{Password, Value};

    /// The embedded database in a directory of its own, removed at the end.
    struct Bench {
        db: IdDb,
        directory: PathBuf,
    }

    impl Bench {
        fn new(name: &str) -> Bench {
            let directory = std::env::temp_dir().join(format!("tnv-idserver-{name}-{}", std::process::id()));
            Bench { db: open(&directory, 100), directory }
        }

        fn insert(&self, id: &str, value: Value) {
            static ROW: Sql = Sql::both("INSERT INTO t_id_gen (id, id_value) VALUES (?, ?)");
            self.db.database.write(&ROW, vec![id.into(), value]).unwrap();
        }

        fn fetch(&self, id: &str) -> Result<Segment> {
            self.db.fetch(&key(id))
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }

    fn open(directory: &Path, step: u32) -> IdDb {
        let settings = DbSettings {
            addresses: Vec::new(),
            user: "root".into(),
            password: Password::default(),
            rw_timeout: Duration::from_secs(30),
            directory: directory.to_owned(),
            durable: true,
        };
        // Servers of one database, each with marks of its own.
        static PORT: AtomicU16 = AtomicU16::new(1);
        let address = SocketAddr::from(([127, 0, 0, 1], PORT.fetch_add(1, Ordering::Relaxed)));
        let marks = Marks::open(&directory.join("state"), address).unwrap();
        IdDb::open(&settings, step, marks, &Stop::new().unwrap()).unwrap()
    }

    fn key(key: &str) -> IdKey {
        IdKey::new(key).unwrap()
    }

    fn value(bench: &Bench, id: &str) -> Option<Option<String>> {
        bench.db.value(&key(id)).unwrap()
    }

    #[test]
    fn a_new_key_starts_at_zero_and_the_row_is_ahead_of_what_is_used() {
        let bench = Bench::new("new");
        assert_eq!(bench.fetch("../data"), Ok(Segment::before(100, 100).unwrap()));
        assert_eq!(value(&bench, "../data"), Some(Some("100".into())));
        assert_eq!(bench.fetch("../data"), Ok(Segment::before(200, 100).unwrap()));
        assert_eq!(bench.fetch("o'brien' OR '1'='1"), Ok(Segment::before(100, 100).unwrap()));
        assert_eq!(value(&bench, "../data"), Some(Some("200".into())));
    }

    #[test]
    fn an_existing_row_is_gone_on_from() {
        let bench = Bench::new("existing");
        bench.insert("../data", 12_345.into());
        assert_eq!(bench.fetch("../data"), Ok(Segment::before(12_445, 100).unwrap()));
    }

    /// A replica that lagged was promoted: its table had lost the last steps, and their numbers were
    /// handed out again, so that uploads met files of others.
    #[test]
    fn a_table_that_fell_back_is_raised_above_what_was_handed_out() {
        static SET: Sql = Sql::both("UPDATE t_id_gen SET id_value = ? WHERE id = ?");
        static DROP: Sql = Sql::both("DELETE FROM t_id_gen WHERE id = ?");
        let bench = Bench::new("fell-back");
        bench.insert("a", 1000.into());
        assert_eq!(bench.fetch("a"), Ok(Segment::before(1100, 100).unwrap()));
        bench.db.database.write(&SET, vec![300.into(), "a".into()]).unwrap();
        assert_eq!(bench.fetch("a"), Ok(Segment::before(1200, 100).unwrap()));
        bench.db.database.write(&DROP, vec!["a".into()]).unwrap();
        assert_eq!(bench.fetch("a"), Ok(Segment::before(1300, 100).unwrap()));
        // One that is only a little behind is noticed too.
        bench.db.database.write(&SET, vec![1250.into(), "a".into()]).unwrap();
        assert_eq!(bench.fetch("a"), Ok(Segment::before(1450, 100).unwrap()));
        // Others go on from there.
        let other = open(&bench.directory, 100);
        assert_eq!(other.fetch(&key("a")), Ok(Segment::before(1550, 100).unwrap()));
    }

    #[test]
    fn a_value_that_cannot_be_stepped_is_told_and_left_as_it_is() {
        let bench = Bench::new("bad");
        let max = i64::MAX.to_string();
        for (id, bad, shown) in [
            ("negative", Value::Int(-5), Some("-5")),
            ("null", Value::Null, None),
            ("full", Value::Int(i64::MAX), Some(max.as_str())),
            ("text", Value::from("abc"), Some("abc")),
        ] {
            bench.insert(id, bad);
            let error = bench.fetch(id).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.message().contains(shown.unwrap_or("NULL")), "{error}");
            assert_eq!(value(&bench, id), Some(shown.map(str::to_owned)));
        }
        bench.insert("last", (i64::MAX - 100).into());
        assert_eq!(bench.fetch("last"), Ok(Segment::before(i64::MAX, 100).unwrap()));
        assert!(bench.fetch("last").is_err());
    }

    #[test]
    fn several_servers_on_one_database_never_share_a_number() {
        let bench = Bench::new("several");
        let steppers: Vec<_> = (1..=4)
            .map(|step| {
                let db = Arc::new(open(&bench.directory, step));
                std::thread::spawn(move || (0..50).map(|_| db.fetch(&key("a")).unwrap()).collect::<Vec<_>>())
            })
            .collect();
        let segments = steppers.into_iter().flat_map(|stepper| stepper.join().unwrap());
        let numbers: Vec<i64> = segments.flat_map(Segment::numbers).collect();
        assert_eq!(numbers.len(), 500);
        assert_eq!(numbers.into_iter().collect::<HashSet<_>>(), (0..500).collect());
    }

    #[test]
    fn strangers_cannot_grow_the_table_without_bound() {
        let mut bench = Bench::new("bound");
        bench.db.rows_max = 3;
        bench.insert("old", 0.into());
        assert!(bench.fetch("a").is_ok() && bench.fetch("b").is_ok());
        let error = bench.fetch("c").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert!(error.message().contains("'c'"), "{error}");
        assert_eq!(value(&bench, "c"), None);
        assert!(bench.fetch("old").is_ok() && bench.fetch("a").is_ok(), "the keys there are go on");
    }

    #[test]
    fn the_shipped_schema_is_this_one() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../etc/sql/tnv_idsdb.sql");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, SCHEMA.mysql_script()).unwrap();
        }
        let shipped = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(shipped, SCHEMA.mysql_script(), "UPDATE_DOCS=1 cargo test writes {}", path.display());
    }
}
