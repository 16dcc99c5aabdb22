//! The ID server's table: one row for each key. A step reads the row, decides in [`next_step`] which numbers
//! it takes, and writes the row where it is still as it was read; so any number of ID servers share one database,
//! and the numbers of a step that fails belong to no server.
//!
//! `id_value` is the existing system's column: the first number that no ID server has. The others are ours:
//!
//! - `own_value` is what a server of ours wrote into `id_value` last. Where `id_value` is lower, the database has
//!   lost steps. Where it is higher, another program moved it. At a server's first step of a key that may have
//!   been an operator, or an ID server of the existing system that ours replaced, and the server goes on from there.
//!   Later it is an existing ID server that runs beside ours: it reads the value and later writes it back advanced,
//!   without a lock, so that what it and ours take at the same moment is the same. So from then on ours take their
//!   numbers from `upper_value`, which counts from [`UPPER_START`] on, where no existing server gets to.
//! - `server_id` is the MySQL server that made the last step. Where it is another one now, that one was a replica
//!   and may lack the last steps of it: [`JUMP`] numbers are skipped.
//!
//! The marks of this server, and of its neighbours on this host, count as the table does (see [`crate::marks`]).
//!
//! The table's collation takes `../Data` for `../data`: such keys share a row, and their numbers
//! are as unique as any.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use log::{error, info, warn};
use tnv_common::db::{Column, Database, DbSettings, Schema, Sql, Table, Value};
use tnv_common::error::{Context, ErrorKind, Result};
use tnv_common::fail;
use tnv_common::net::stop::Stop;
use tnv_common::proto::IdKey;

use crate::globals::{BlockSource, IdBlock};
use crate::marks::Marks;

/// The first number of the upper half. A path is made of a number's lowest 36 bits, so this is as far from 0 as
/// can be: an existing server would have to hand out 34 thousand million numbers to get here.
const UPPER_START: i64 = 1 << 35;

/// Skipped where another MySQL server took over: more numbers than are handed out in the seconds by which a replica
/// may lag, at ten thousand uploads a second, and so few that a failover a day fills nothing.
const JUMP: i64 = 100_000;

/// How often a row that others move is tried for one step. Each time some server has got its numbers.
const TRIES_MAX: usize = 64;

/// After so many tries there is a pause before each further one, so that few are at it at the same time.
const TRIES_AT_ONCE: usize = 4;

/// The longest of these pauses: a step of another server takes a commit.
const TRY_PAUSE_MAX: Duration = Duration::from_millis(20);

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
        added: &[
            Column { name: "own_value", mysql: "bigint NULL", sqlite: "INTEGER" },
            Column { name: "upper_value", mysql: "bigint NULL", sqlite: "INTEGER" },
            Column { name: "server_id", mysql: "bigint NULL", sqlite: "INTEGER" },
        ],
        indexes: &[],
    }],
};

/// A row, and which server says so. The embedded database is one server, 0. In MySQL it is a locking read: it sees
/// what was committed last, and a proxy that splits reads from writes sends it where the step will be written.
static ROW: Sql = Sql {
    mysql: "SELECT id_value, own_value, upper_value, server_id, CAST(@@server_id AS SIGNED) \
            FROM t_id_gen WHERE id = ? FOR UPDATE",
    sqlite: "SELECT id_value, own_value, upper_value, server_id, 0 FROM t_id_gen WHERE id = ?",
};

static ADD: Sql = Sql {
    mysql: "INSERT INTO t_id_gen (id, id_value, own_value, upper_value, server_id) \
            VALUES (?, ?, ?, ?, CAST(@@server_id AS SIGNED))",
    sqlite: "INSERT INTO t_id_gen (id, id_value, own_value, upper_value, server_id) VALUES (?, ?, ?, ?, 0)",
};

/// A step, where the row is as it was read. The server that writes it may be another one than it was read from, as
/// behind a balancer over several servers that can be written to: a row that both have is what a step needs. It
/// notes the server that wrote it.
static MOVE: Sql = Sql {
    mysql: "UPDATE t_id_gen SET id_value = ?, own_value = ?, server_id = CAST(@@server_id AS SIGNED) \
            WHERE id = ? AND id_value <=> ? AND own_value <=> ? AND upper_value IS NULL \
            AND server_id <=> ?",
    sqlite: "UPDATE t_id_gen SET id_value = ?, own_value = ?, server_id = 0 \
             WHERE id = ? AND id_value IS ? AND own_value IS ? AND upper_value IS NULL \
             AND server_id IS ?",
};

/// The same in the upper half, where it does not matter what others do to the rest of the row.
static MOVE_UPPER: Sql = Sql {
    mysql: "UPDATE t_id_gen SET upper_value = ?, server_id = CAST(@@server_id AS SIGNED) \
            WHERE id = ? AND upper_value <=> ? AND server_id <=> ?",
    sqlite: "UPDATE t_id_gen SET upper_value = ?, server_id = 0 \
             WHERE id = ? AND upper_value IS ? AND server_id IS ?",
};

static COUNT: Sql = Sql::both("SELECT count(*) FROM t_id_gen");

/// The ID server's database.
pub struct IdDb {
    database: Database,
    marks: Marks,
    step: u32,
    rows: Mutex<Rows>,
    rows_max: i64,
    /// The keys that this server has stepped since it started: no more than there are rows.
    stepped: Mutex<HashSet<IdKey>>,
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
        if settings.is_embedded() {
            marks.share(&settings.directory)?;
        }
        Ok(IdDb {
            database,
            marks,
            step,
            rows: Mutex::default(),
            rows_max: ROWS_MAX,
            stepped: Mutex::default(),
        })
    }

    /// Which database it is.
    pub fn describe(&self) -> String {
        self.database.describe()
    }

    /// A key's row as it is.
    fn row(&self, key: &IdKey) -> Result<Option<Row>> {
        let rows = self.database.read(&ROW, &[key.as_str().into()]).context(|| "read t_id_gen")?;
        let Some(row) = rows.first() else { return Ok(None) };
        let value = match row.opt_int(0) {
            Ok(value) => value,
            // SQLite keeps whatever it was given.
            Err(_) => return bad_value(key, row.opt_text(0)?.unwrap_or("no number"), self.step),
        };
        let (own, upper, server) = (row.opt_int(1)?, row.opt_int(2)?, row.opt_int(3)?);
        Ok(Some(Row { value, own, upper, server, read_from: row.int(4)? }))
    }

    /// Refuses a new key when there are enough rows.
    fn make_room(&self, key: &IdKey) -> Result<()> {
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

    fn before(&self, key: &IdKey) -> Before {
        if self.stepped().contains(key) { Before::Stepped } else { Before::Nothing }
    }

    fn stepped(&self) -> MutexGuard<'_, HashSet<IdKey>> {
        self.stepped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a step where the row is still as it was read; whether it was.
    fn write(&self, key: &IdKey, row: Option<&Row>, step: &Step) -> Result<bool> {
        let key_value = Value::from(key.as_str());
        let written = match (row, step.upper) {
            (None, _) => {
                let params = vec![key_value, step.value.into(), optional(step.own), optional(step.upper)];
                self.database.write(&ADD, params)
            }
            (Some(row), None) => {
                let new = vec![step.value.into(), optional(step.own), key_value];
                let old = [row.value, row.own, row.server].map(optional);
                self.database.write(&MOVE, new.into_iter().chain(old).collect())
            }
            (Some(row), Some(upper)) => {
                let params = vec![upper.into(), key_value, optional(row.upper), optional(row.server)];
                self.database.write(&MOVE_UPPER, params)
            }
        };
        match written {
            Ok(written) => Ok(written.affected > 0),
            // Another server was faster with the first step of a new key.
            Err(error) if error.kind() == ErrorKind::Exists => Ok(false),
            // Where it was written, its numbers are skipped.
            Err(error) if error.kind() == ErrorKind::OutcomeUnknown => {
                warn!("step the key '{key}': {error}; stepping once more");
                Ok(false)
            }
            Err(error) => Err(error.context(format_args!("step the key '{key}'"))),
        }
    }
}

impl BlockSource for IdDb {
    /// The table has a block's end before its numbers are used, and so has the mark.
    fn fetch(&self, key: &IdKey) -> Result<IdBlock> {
        let before = self.before(key);
        let mut made_room = false;
        for tries in 0..TRIES_MAX {
            if tries >= TRIES_AT_ONCE {
                thread::sleep(TRY_PAUSE_MAX.mul_f64(rand::random()));
            }
            let row = self.row(key)?;
            if row.is_none() && !made_room {
                self.make_room(key)?;
                made_room = true;
            }
            let step = next_step(key, row.as_ref(), before, self.marks.of(key), self.step)?;
            if self.write(key, row.as_ref(), &step)? {
                step.report(key, row.as_ref());
                self.stepped().insert(key.clone());
                self.marks.raise(key, step.numbers.end())?;
                return Ok(step.numbers);
            }
        }
        fail!(
            Unavailable,
            "the row of '{key}' in t_id_gen was moved by others {TRIES_MAX} times in a row; ask again"
        )
    }
}

/// A key's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    value: Option<i64>,
    own: Option<i64>,
    upper: Option<i64>,
    server: Option<i64>,
    /// The server that it was read from.
    read_from: i64,
}

/// What this server has done with a key since it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Nothing,
    Stepped,
}

/// The numbers of a step, and the row after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    numbers: IdBlock,
    value: i64,
    own: Option<i64>,
    upper: Option<i64>,
    /// What was handed out reached this, and the row is behind it.
    lost_below: Option<i64>,
    /// The row was moved by another program.
    foreign: bool,
    /// And that while this server ran.
    beside: bool,
    /// The last step was made on another server.
    moved_server: bool,
}

/// Which numbers the next step takes. `mark` is what the marks know: the numbers below it are used.
fn next_step(key: &IdKey, row: Option<&Row>, before: Before, mark: i64, step: u32) -> Result<Step> {
    let new_key = Row { value: Some(0), own: None, upper: None, server: None, read_from: 0 };
    let Row { value, own, upper, server, read_from } = *row.unwrap_or(&new_key);
    let most = i64::MAX - i64::from(step);
    let Some(value) = value.filter(|value| (0..=most).contains(value)) else {
        return bad_value(key, value.map_or_else(|| "NULL".to_owned(), |value| value.to_string()), step);
    };
    let foreign = own.is_some_and(|own| value > own);
    let moved_server = server.is_some_and(|server| server != read_from);
    let jump = if moved_server { JUMP } else { 0 };
    // Where the value itself has come that far there is no other half to go to.
    let beside = foreign && before == Before::Stepped;
    let in_upper = upper.is_some() || (value < UPPER_START && (beside || mark >= UPPER_START));
    let counted = match in_upper {
        true => upper.unwrap_or(UPPER_START).max(UPPER_START),
        false => value,
    };
    let used = match in_upper {
        true => mark,
        false => mark.max(own.unwrap_or(0)),
    };
    let end = counted.max(used).checked_add(jump).and_then(|start| start.checked_add(i64::from(step)));
    let Some((end, numbers)) = end.and_then(|end| Some((end, IdBlock::before(end, step)?))) else {
        return bad_value(key, counted.max(used), step);
    };
    let lost_below = Some(used).filter(|used| *used > counted);
    // In the upper half the rest of the row stays as it is.
    let (value, own, upper) = if in_upper { (value, own, Some(end)) } else { (end, Some(end), None) };
    Ok(Step { numbers, value, own, upper, lost_below, foreign, beside, moved_server })
}

impl Step {
    /// Says in the log what an operator should know of it.
    fn report(&self, key: &IdKey, row: Option<&Row>) {
        if let Some(used) = self.lost_below {
            error!(
                "t_id_gen is behind {used} for '{key}', and the numbers up to there are handed out: the database has lost \
                 steps (a replica that lagged, an old backup?); going on from {}",
                self.numbers.start()
            );
        }
        if let (true, Some(server)) = (self.moved_server, row.and_then(|row| row.server)) {
            warn!(
                "the last step of '{key}' was made on the MySQL server with server_id {server}, this one is another: \
                 skipping {JUMP} numbers, since it may lack the last steps"
            );
        }
        let was_upper = row.is_some_and(|row| row.upper.is_some());
        if !self.foreign || was_upper {
            return;
        }
        let (own, value) = row.map_or((0, 0), |row| (row.own.unwrap_or(0), row.value.unwrap_or(0)));
        if !self.beside {
            info!(
                "'{key}' in t_id_gen was moved from {own} to {value} by another program; going on from there"
            );
            return;
        }
        let what = match self.upper {
            Some(_) => format!("the servers of this version take numbers from {UPPER_START} on from now"),
            None => "numbers may repeat".to_owned(),
        };
        error!(
            "another program moved '{key}' in t_id_gen from {own} to {value}; is it an ID server of the existing \
             system or of an older version? Such servers may repeat each other's numbers: stop them; {what}"
        );
    }
}

fn optional(value: Option<i64>) -> Value {
    value.map_or(Value::Null, Value::Int)
}

/// The row has to be put right by an operator.
fn bad_value<T>(key: &IdKey, value: impl std::fmt::Display, step: u32) -> Result<T> {
    let most = i64::MAX - i64::from(step);
    fail!(Invalid, "id_value of '{key}' in t_id_gen is {value}, want 0 to {most}; correct the row")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU16, Ordering};
    use tnv_common::db::Value;

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

        fn fetch(&self, id: &str) -> Result<IdBlock> {
            self.db.fetch(&key(id))
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }

    fn open(directory: &Path, step: u32) -> IdDb {
        let settings = DbSettings::embedded(directory.to_owned());
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
        static VALUE: Sql = Sql::both("SELECT CAST(id_value AS TEXT) FROM t_id_gen WHERE id = ?");
        let rows = bench.db.database.read(&VALUE, &[id.into()]).unwrap();
        rows.first().map(|row| row.opt_text(0).unwrap().map(str::to_owned))
    }

    #[test]
    fn a_new_key_starts_at_zero_and_the_row_is_ahead_of_what_is_used() {
        let bench = Bench::new("new");
        assert_eq!(bench.fetch("../data"), Ok(IdBlock::before(100, 100).unwrap()));
        assert_eq!(value(&bench, "../data"), Some(Some("100".into())));
        assert_eq!(bench.fetch("../data"), Ok(IdBlock::before(200, 100).unwrap()));
        assert_eq!(bench.fetch("o'brien' OR '1'='1"), Ok(IdBlock::before(100, 100).unwrap()));
        assert_eq!(value(&bench, "../data"), Some(Some("200".into())));
    }

    #[test]
    fn an_existing_row_is_gone_on_from() {
        let bench = Bench::new("existing");
        bench.insert("../data", 12_345.into());
        assert_eq!(bench.fetch("../data"), Ok(IdBlock::before(12_445, 100).unwrap()));
    }

    /// A replica that lagged was promoted: its table had lost the last steps, and their numbers were
    /// handed out again, so that uploads met files of others.
    #[test]
    fn a_table_that_fell_back_is_raised_above_what_was_handed_out() {
        static SET: Sql = Sql::both("UPDATE t_id_gen SET id_value = ? WHERE id = ?");
        static DROP: Sql = Sql::both("DELETE FROM t_id_gen WHERE id = ?");
        let bench = Bench::new("fell-back");
        bench.insert("a", 1000.into());
        assert_eq!(bench.fetch("a"), Ok(IdBlock::before(1100, 100).unwrap()));
        bench.db.database.write(&SET, vec![300.into(), "a".into()]).unwrap();
        assert_eq!(bench.fetch("a"), Ok(IdBlock::before(1200, 100).unwrap()));
        bench.db.database.write(&DROP, vec!["a".into()]).unwrap();
        assert_eq!(bench.fetch("a"), Ok(IdBlock::before(1300, 100).unwrap()));
        // One that is only a little behind is noticed too.
        bench.db.database.write(&SET, vec![1250.into(), "a".into()]).unwrap();
        assert_eq!(bench.fetch("a"), Ok(IdBlock::before(1400, 100).unwrap()));
        // Others go on from there.
        let other = open(&bench.directory, 100);
        assert_eq!(other.fetch(&key("a")), Ok(IdBlock::before(1500, 100).unwrap()));
    }

    /// Each server knew its own numbers only: what its neighbour had handed out came again.
    #[test]
    fn a_table_that_fell_back_repeats_no_number_of_a_neighbour_on_this_host() {
        static SET: Sql = Sql::both("UPDATE t_id_gen SET id_value = 150, own_value = 150");
        static DROP: Sql = Sql::both("DELETE FROM t_id_gen");
        for fall_back in [&SET, &DROP] {
            let bench = Bench::new("neighbour");
            let neighbour = open(&bench.directory, 100);
            assert_eq!(bench.fetch("a"), Ok(IdBlock::before(100, 100).unwrap()));
            for end in [200, 300, 400] {
                assert_eq!(neighbour.fetch(&key("a")), Ok(IdBlock::before(end, 100).unwrap()));
            }
            bench.db.database.write(fall_back, Vec::new()).unwrap();
            assert_eq!(bench.fetch("a"), Ok(IdBlock::before(500, 100).unwrap()));
        }
    }

    /// An ID server of the existing system: it reads, and later writes what it read, advanced.
    struct Existing<'a> {
        db: &'a IdDb,
        read: i64,
    }

    impl Existing<'_> {
        fn read(db: &IdDb) -> Existing<'_> {
            Existing { db, read: db.row(&key("a")).unwrap().unwrap().value.unwrap() }
        }

        /// Its numbers.
        fn write(self) -> std::ops::Range<i64> {
            static SET: Sql = Sql::both("UPDATE t_id_gen SET id_value = ? WHERE id = 'a'");
            self.db.database.write(&SET, vec![(self.read + 100).into()]).unwrap();
            self.read..self.read + 100
        }
    }

    /// With servers of both systems on one database, 99 numbers were handed out twice in 30 s.
    #[test]
    fn beside_an_existing_server_that_was_seen_no_number_is_handed_out_twice() {
        let bench = Bench::new("beside");
        let other = open(&bench.directory, 100);
        let mut used: Vec<i64> = Vec::new();
        used.extend(bench.fetch("a").unwrap().numbers());
        used.extend(other.fetch(&key("a")).unwrap().numbers());
        used.extend(Existing::read(&bench.db).write());
        // From here on it may write whenever it likes.
        let mut upper = 0;
        for turn in 0..20 {
            let existing = Existing::read(&bench.db);
            let server = if turn % 2 == 0 { &bench.db } else { &other };
            let numbers = server.fetch(&key("a")).unwrap();
            upper += i64::from(numbers.start() >= UPPER_START);
            used.extend(numbers.numbers());
            used.extend(existing.write());
        }
        assert_eq!(upper, 20);
        let count = used.len();
        assert_eq!(used.into_iter().collect::<HashSet<_>>().len(), count);
        // And for good: also where the table forgets, and after a restart.
        static FORGET: Sql = Sql::both("UPDATE t_id_gen SET upper_value = NULL, own_value = NULL");
        bench.db.database.write(&FORGET, Vec::new()).unwrap();
        let again = open(&bench.directory, 100);
        assert_eq!(again.fetch(&key("a")).unwrap().start(), UPPER_START + 2000);
    }

    /// Behind a balancer over several MySQL servers each connection may end at another one. A step was then never
    /// written, and there were no numbers for good.
    #[test]
    fn a_row_that_was_read_from_another_server_is_stepped_once() {
        let bench = Bench::new("balancer");
        // The embedded database is server 0.
        let read = |upper| {
            let key = key(if upper { "in the upper half" } else { "in the lower half" });
            bench.insert(key.as_str(), 500.into());
            if upper {
                static UPPER: Sql = Sql::both("UPDATE t_id_gen SET upper_value = 1 WHERE id = ?");
                bench.db.database.write(&UPPER, vec![key.as_str().into()]).unwrap();
            }
            let row = Row { read_from: 7, ..bench.db.row(&key).unwrap().unwrap() };
            (key, row)
        };
        for upper in [false, true] {
            let (key, row) = read(upper);
            let step = next_step(&key, Some(&row), Before::Stepped, 0, 100).unwrap();
            assert_eq!(bench.db.write(&key, Some(&row), &step), Ok(true));
            assert_eq!(bench.db.write(&key, Some(&row), &step), Ok(false), "the row is another one now");
            // It has the server that wrote it: for the one that it is read from this is another one.
            let after = Row { read_from: 7, ..bench.db.row(&key).unwrap().unwrap() };
            assert_eq!(after.server, Some(0));
            let next = next_step(&key, Some(&after), Before::Stepped, 0, 100).unwrap();
            assert_eq!(next.numbers.start(), step.numbers.end() + JUMP);
        }
    }

    fn step(row: Row, mark: i64) -> Step {
        next_step(&key("a"), Some(&row), Before::Stepped, mark, 100).unwrap()
    }

    const ROW_OF_OURS: Row =
        Row { value: Some(500), own: Some(500), upper: None, server: Some(1), read_from: 1 };

    #[test]
    fn a_database_that_was_a_replica_a_moment_ago_has_numbers_skipped_once() {
        let moved = step(Row { read_from: 2, ..ROW_OF_OURS }, 0);
        assert_eq!((moved.numbers.start(), moved.moved_server), (500 + JUMP, true));
        let after =
            Row { value: Some(moved.value), own: moved.own, server: Some(2), read_from: 2, ..ROW_OF_OURS };
        assert_eq!(step(after, 0).numbers.start(), 600 + JUMP);
        // The row of an existing server, or of an earlier version, says nothing of it.
        let unknown = Row { own: None, server: None, read_from: 2, ..ROW_OF_OURS };
        assert_eq!(step(unknown, 0).numbers.start(), 500);
        let upper = Row { upper: Some(UPPER_START + 700), read_from: 2, ..ROW_OF_OURS };
        assert_eq!(step(upper, 0).numbers.start(), UPPER_START + 700 + JUMP);
    }

    #[test]
    fn what_the_row_and_the_marks_know_is_never_handed_out_again() {
        for (value, own, mark, start, lost) in [
            (500, Some(500), 0, 500, None),
            (500, Some(500), 500, 500, None),
            (500, Some(500), 900, 900, Some(900)),
            (500, Some(800), 0, 800, Some(800)),
            (500, Some(800), 900, 900, Some(900)),
            (500, None, 300, 500, None),
        ] {
            let step = step(Row { value: Some(value), own, ..ROW_OF_OURS }, mark);
            assert_eq!((step.numbers.start(), step.lost_below), (start, lost), "{value} {own:?} {mark}");
            assert_eq!((step.value, step.own, step.upper), (start + 100, Some(start + 100), None));
        }
        // Moved by another program: its value stays as it is.
        let foreign = step(Row { value: Some(700), ..ROW_OF_OURS }, 500);
        assert_eq!((foreign.numbers.start(), foreign.foreign), (UPPER_START, true));
        assert_eq!((foreign.value, foreign.own, foreign.upper), (700, Some(500), Some(UPPER_START + 100)));
        // An operator, or a server that this one replaces: its first step goes on from there.
        let row = Row { value: Some(700), ..ROW_OF_OURS };
        let first = next_step(&key("a"), Some(&row), Before::Nothing, 500, 100).unwrap();
        assert_eq!((first.numbers.start(), first.value, first.upper), (700, 800, None));
        // There is no upper half for a value that is in it.
        let high = Row { value: Some(UPPER_START + 900), own: Some(UPPER_START + 500), ..ROW_OF_OURS };
        let high = step(high, 0);
        assert_eq!((high.numbers.start(), high.upper, high.foreign), (UPPER_START + 900, None, true));
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
        assert_eq!(bench.fetch("last"), Ok(IdBlock::before(i64::MAX, 100).unwrap()));
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
        let numbers: Vec<i64> = segments.flat_map(IdBlock::numbers).collect();
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
