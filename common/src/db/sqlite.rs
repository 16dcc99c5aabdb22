//! The embedded database: SQLite in WAL mode, one file a database, every commit flushed unless the
//! settings say that none need be.
//!
//! Several server processes may use one file. Each has its one writer, and a writer holds an
//! exclusive `flock` on `NAME.lock` around each group: SQLite's own waiting is a poll under which
//! one of two busy processes can starve for seconds. The lock orders writers and guards nothing
//! else: SQLite stays correct if a stranger writes without it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::result::Result as StdResult;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior, ffi};
use rustix::fs::{Access, FlockOperation, access, flock};
use rustix::io::Errno;

use super::engine::{CommitError, Engine, TransactionError};
use super::pool::Pool;
use super::schema::{Schema, Sql};
use super::value::{ROWS_MAX, Row, Value, Written};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::fail;

/// How long SQLite waits for a lock that is held by whoever does not take turns.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long opening, and a certain answer, wait for their turn among the writers.
const TURN_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a reader waits for one of the connections.
const LEASE_TIMEOUT: Duration = Duration::from_secs(20);

/// Connections that read: more than processors read at once.
const READERS_MAX: usize = 8;

/// Prepared statements kept by each connection: more than a server has.
const STATEMENTS_MAX: usize = 64;

/// Pages in the log of commits at which the writer works it into the file: with SQLite's own 1000 it did
/// so, with its flushes, every few hundred rows. More gave nothing.
const CHECKPOINT_PAGES: i64 = 4096;

/// The log of commits is cut back to this size when it has been worked in.
const WAL_BYTES_MAX: i64 = 64 << 20;

/// What every SQLite file begins with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// The reading half of an embedded database.
pub struct Sqlite {
    path: PathBuf,
    lock_path: PathBuf,
    readers: Pool<Connection>,
}

impl Sqlite {
    /// Makes the directory, the file and the tables as far as they are missing.
    pub fn open(directory: &Path, schema: &Schema, durable: bool) -> Result<(Sqlite, SqliteEngine)> {
        create_directory(directory).context(|| format!("make the directory {}", directory.display()))?;
        let path = file_of(directory, schema, "db");
        let lock_path = file_of(directory, schema, "lock");
        let turn = Turn::open(&lock_path)?;
        turn.take_within(TURN_TIMEOUT)?;
        let connection = create(&path, schema).map_err(|error| told(&path, &error))?;
        // Losing the file's name in a crash would lose every row with it.
        sync_directory(directory).context(|| format!("sync the directory {}", directory.display()))?;
        turn.end();
        set_durable(&connection, durable).map_err(|error| told(&path, &error))?;
        let engine = SqliteEngine { path: path.clone(), turn, durable, connection: Some(connection) };
        Ok((Sqlite { path, lock_path, readers: Pool::new(READERS_MAX) }, engine))
    }

    /// What `--check` asks: could it be opened? Nothing is made.
    pub fn probe(directory: &Path, schema: &Schema) -> Result<String> {
        let path = file_of(directory, schema, "db");
        match File::open(&path) {
            Ok(file) => probe_file(&path, file)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).context(|| format!("open {}", path.display())),
        }
        let found = nearest_existing(directory);
        if !found.is_dir() {
            return fail!(Invalid, "{} is not a directory, want one for the databases", found.display());
        }
        access(found, Access::WRITE_OK | Access::EXEC_OK)
            .map_err(io::Error::from)
            .context(|| format!("write in the directory {}", found.display()))?;
        let state = if path.exists() { "" } else { " (to be made)" };
        Ok(format!("embedded database {}{state}", path.display()))
    }

    /// Whether its file is there.
    pub fn exists(directory: &Path, schema: &Schema) -> bool {
        file_of(directory, schema, "db").exists()
    }

    pub fn describe(&self) -> String {
        format!("embedded database {}", self.path.display())
    }

    pub fn read(&self, sql: &'static Sql, params: &[Value]) -> Result<Vec<Row>> {
        let mut lease = self.readers.lease(LEASE_TIMEOUT)?;
        let connection = match lease.reused.take() {
            Some((connection, _)) => connection,
            None => open_reader(&self.path).map_err(|error| told(&self.path, &error))?,
        };
        let rows = query(&connection, sql.sqlite, params).map_err(|error| told(&self.path, &error))?;
        lease.give_back(connection);
        Ok(rows)
    }

    /// The rows of a query; no commit of unknown outcome can make another appear.
    ///
    /// A COMMIT that failed at the flush may have left its frames in the log, where the recovery
    /// after a crash would find them. So this commits a change of its own, which overwrites them.
    pub fn read_certain(&self, sql: &'static Sql, params: &[Value]) -> Result<Vec<Row>> {
        let turn = Turn::open(&self.lock_path)?;
        turn.take_within(TURN_TIMEOUT)?;
        let rows = read_with_commit(&self.path, sql, params);
        rows.map_err(|error| told(&self.path, &error))
    }
}

/// The writing half.
pub struct SqliteEngine {
    path: PathBuf,
    turn: Turn,
    durable: bool,
    connection: Option<Connection>,
}

impl Engine for SqliteEngine {
    fn acquire_write_lock(&mut self) -> Result<()> {
        self.turn.take()
    }

    fn release_write_lock(&mut self) {
        self.turn.end();
    }

    fn begin(&mut self) -> StdResult<(), TransactionError> {
        let connection = match &self.connection {
            Some(connection) => connection,
            None => {
                let fresh = open(&self.path)
                    .and_then(|fresh| set_durable(&fresh, self.durable).map(|()| fresh))
                    .map_err(|error| TransactionError::Unavailable(told(&self.path, &error)))?;
                self.connection.insert(fresh)
            }
        };
        run(connection, "BEGIN IMMEDIATE").map_err(|error| match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                TransactionError::Unavailable(told(&self.path, &error))
            }
            _ => TransactionError::ConnectionLost(told(&self.path, &error)),
        })
    }

    fn execute(&mut self, sql: &'static Sql, params: &[Value]) -> StdResult<Written, TransactionError> {
        let Some(connection) = &self.connection else {
            return Err(TransactionError::ConnectionLost(no_connection()));
        };
        write(connection, sql.sqlite, params).map_err(|error| {
            let failed = told(&self.path, &error);
            match error.sqlite_error_code() {
                // Some failures end the transaction, and then SQLite is back in autocommit.
                _ if connection.is_autocommit() => TransactionError::Aborted(failed),
                Some(
                    ErrorCode::SystemIoFailure
                    | ErrorCode::DatabaseCorrupt
                    | ErrorCode::DiskFull
                    | ErrorCode::OutOfMemory
                    | ErrorCode::NotADatabase,
                ) => TransactionError::Aborted(failed),
                _ => TransactionError::Refused(failed),
            }
        })
    }

    fn commit(&mut self) -> StdResult<(), CommitError> {
        let Some(connection) = &self.connection else { return Err(CommitError::Unknown(no_connection())) };
        run(connection, "COMMIT").map_err(|error| {
            let failed = told(&self.path, &error);
            match error.sqlite_error_code() {
                Some(ErrorCode::DatabaseBusy) => CommitError::RolledBack(TransactionError::Conflict(failed)),
                // The commit mark is the last thing written: without room for it there is none.
                Some(ErrorCode::DiskFull) => CommitError::RolledBack(TransactionError::Unavailable(failed)),
                // A failed flush says nothing about what is on the disk.
                _ => CommitError::Unknown(failed),
            }
        })
    }

    fn rollback(&mut self) {
        let rolled_back = match &self.connection {
            Some(connection) if !connection.is_autocommit() => run(connection, "ROLLBACK").is_ok(),
            _ => true,
        };
        if !rolled_back {
            self.reset();
        }
    }

    fn reset(&mut self) {
        self.connection = None;
    }
}

/// The turn to write among the processes that share a database: the lock of `NAME.lock`.
///
/// A lock alone is not handed over in turn: whoever frees it and asks again at once is faster than
/// one that must first wake up (five commits to one, measured). So a process queues at a second
/// file, `NAME.next`, and leaves the queue when it has the lock: who had its turn finds the other
/// one standing there.
struct Turn {
    path: PathBuf,
    lock: File,
    next: File,
}

impl Turn {
    fn open(path: &Path) -> Result<Turn> {
        let open = |path: &Path| {
            let opened = OpenOptions::new().create(true).truncate(false).write(true).open(path);
            opened.context(|| format!("open {}", path.display()))
        };
        Ok(Turn { path: path.to_owned(), lock: open(path)?, next: open(&path.with_extension("next"))? })
    }

    /// Waits in the kernel. The wait ends when the holder ends, whatever ends it; the callers' own
    /// patience is bounded.
    fn take(&self) -> Result<()> {
        self.take_by(|file| rustix::io::retry_on_intr(|| flock(file, FlockOperation::LockExclusive)))
    }

    fn take_within(&self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        self.take_by(|file| {
            loop {
                match flock(file, FlockOperation::NonBlockingLockExclusive) {
                    Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => {
                        thread::sleep(Duration::from_millis(2));
                    }
                    result => return result,
                }
            }
        })
    }

    fn take_by(&self, lock: impl Fn(&File) -> StdResult<(), Errno>) -> Result<()> {
        let locked = lock(&self.next).and_then(|()| lock(&self.lock));
        // What fails to unlock was not locked.
        let _ = flock(&self.next, FlockOperation::Unlock);
        let path = self.path.display();
        match locked {
            Ok(()) => Ok(()),
            Err(Errno::WOULDBLOCK | Errno::INTR) => {
                fail!(Busy, "another process holds {path} and does not let go; find it with lsof")
            }
            Err(error) => Err(io::Error::from(error)).context(|| format!("lock {path}")),
        }
    }

    fn end(&self) {
        let _ = flock(&self.lock, FlockOperation::Unlock);
    }
}

/// A connection to an existing file.
fn open(path: &Path) -> rusqlite::Result<Connection> {
    connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
}

/// One that cannot write, though SQLite needs to: the index of the log is shared memory.
fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = open(path)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    // A connection is used by one thread at a time: the pool and the writer see to it.
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    // SQLite opens a file for reading only where it cannot open it for writing, be it for want of descriptors.
    // Such a connection would be kept, and refuse each write for as long as the server runs.
    if connection.is_readonly(rusqlite::MAIN_DB)? {
        let why = "it can be opened for reading only; check its owner, its mode and the limit of open files";
        let cannot_open = ffi::Error::new(ffi::SQLITE_CANTOPEN);
        return Err(rusqlite::Error::SqliteFailure(cannot_open, Some(why.to_owned())));
    }
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    set_durable(&connection, true)?;
    connection.pragma_update_and_check(None, "wal_autocheckpoint", CHECKPOINT_PAGES, |_| Ok(()))?;
    connection.pragma_update_and_check(None, "journal_size_limit", WAL_BYTES_MAX, |_| Ok(()))?;
    Ok(connection)
}

/// FULL: a commit is flushed before it is answered. NORMAL may lose the last ones with the power, but
/// flushes the log before it is worked into the file and the file before the log is begun again, so that
/// both stay whole, and so does what another process had flushed. OFF would give up both.
fn set_durable(connection: &Connection, durable: bool) -> rusqlite::Result<()> {
    connection.pragma_update(None, "synchronous", if durable { "FULL" } else { "NORMAL" })
}

/// Opens the file, made where missing, and brings its tables up to the schema.
fn create(path: &Path, schema: &Schema) -> rusqlite::Result<Connection> {
    let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        let why = format!("its file system does not support WAL (the journal mode stays '{mode}')");
        return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CANTOPEN), Some(why)));
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for table in schema.tables {
        transaction.execute_batch(&table.sqlite_create())?;
        for column in table.added {
            let known = "SELECT count(*) FROM pragma_table_info(?) WHERE name = ?";
            let known: i64 = transaction.query_row(known, (table.name, column.name), |row| row.get(0))?;
            if known == 0 {
                transaction.execute_batch(&table.sqlite_add_column(column))?;
            }
        }
        for index in table.indexes {
            transaction.execute_batch(&table.sqlite_add_index(index))?;
        }
    }
    transaction.commit()?;
    Ok(connection)
}

fn run(connection: &Connection, sql: &'static str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.raw_execute().map(drop)
}

fn query(connection: &Connection, sql: &'static str, params: &[Value]) -> rusqlite::Result<Vec<Row>> {
    let mut statement = connection.prepare_cached(sql)?;
    let columns = statement.column_count();
    let mut found = Vec::new();
    let mut rows = statement.query(rusqlite::params_from_iter(params))?;
    while let Some(row) = rows.next()? {
        if found.len() == ROWS_MAX {
            return Err(rusqlite::Error::QueryReturnedMoreThanOneRow);
        }
        let values = (0..columns).map(|column| Ok(value_of(row.get_ref(column)?)));
        found.push(Row::new(values.collect::<rusqlite::Result<_>>()?));
    }
    Ok(found)
}

fn write(connection: &Connection, sql: &'static str, params: &[Value]) -> rusqlite::Result<Written> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut last_id = None;
    let mut rows = statement.query(rusqlite::params_from_iter(params))?;
    // Stepped to its end: only then is the statement done.
    while let Some(row) = rows.next()? {
        if last_id.is_none() {
            last_id = Some(row.get::<_, i64>(0)?);
        }
    }
    drop(rows);
    drop(statement);
    Ok(Written { affected: connection.changes(), last_id: last_id.unwrap_or(0).cast_unsigned() })
}

fn read_with_commit(path: &Path, sql: &'static Sql, params: &[Value]) -> rusqlite::Result<Vec<Row>> {
    let mut connection = open(path)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let rows = query(&transaction, sql.sqlite, params)?;
    let version: i32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    transaction.pragma_update(None, "user_version", version.wrapping_add(1))?;
    transaction.commit()?;
    Ok(rows)
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Value::Null => ValueRef::Null,
            Value::Int(value) => ValueRef::Integer(*value),
            Value::Text(value) => ValueRef::Text(value.as_bytes()),
            Value::Bytes(value) => ValueRef::Blob(value),
        }))
    }
}

fn value_of(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(value) => Value::Int(value),
        // None of ours stores one; in words it is at least seen.
        ValueRef::Real(value) => Value::Text(value.to_string()),
        ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Value::Text(text.to_owned()),
            Err(_) => Value::Bytes(bytes.to_vec()),
        },
        ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
    }
}

/// SQLite's failure in our terms.
fn told(path: &Path, error: &rusqlite::Error) -> Error {
    let path = path.display();
    let kind = match error {
        rusqlite::Error::SqliteFailure(failure, _) => match (failure.code, failure.extended_code) {
            (_, ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY) => ErrorKind::Exists,
            (ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked, _) => ErrorKind::Busy,
            (
                ErrorCode::SystemIoFailure
                | ErrorCode::DiskFull
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::PermissionDenied
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::OutOfMemory,
                _,
            ) => ErrorKind::Unavailable,
            _ => ErrorKind::Invalid,
        },
        rusqlite::Error::QueryReturnedMoreThanOneRow => {
            return Error::new(ErrorKind::Internal, format!("{path}: more than {ROWS_MAX} rows"));
        }
        _ => ErrorKind::Internal,
    };
    Error::new(kind, format!("embedded database {path}: {error}"))
}

fn no_connection() -> Error {
    Error::new(ErrorKind::Unavailable, "the database's connection was lost")
}

fn file_of(directory: &Path, schema: &Schema, extension: &str) -> PathBuf {
    directory.join(format!("{}.{extension}", schema.database))
}

fn probe_file(path: &Path, file: File) -> Result<()> {
    let mut head = Vec::new();
    file.take(MAGIC.len() as u64).read_to_end(&mut head).context(|| format!("read {}", path.display()))?;
    // An empty file is what a crash right after its making leaves: SQLite takes it as new.
    if !head.is_empty() && head != MAGIC {
        return fail!(Invalid, "{} is not an SQLite database; move it away", path.display());
    }
    access(path, Access::READ_OK | Access::WRITE_OK)
        .map_err(io::Error::from)
        .context(|| format!("write {}", path.display()))
}

/// The directory itself, or the one in which its making would begin.
fn nearest_existing(directory: &Path) -> &Path {
    let mut ancestors = directory.ancestors().filter(|ancestor| !ancestor.as_os_str().is_empty());
    ancestors.find(|ancestor| ancestor.exists()).unwrap_or(Path::new("."))
}

/// Makes a directory and its parents, each durable in the one above.
fn create_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = match directory.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_directory(parent)?;
    match fs::create_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => Ok(()),
        made => made.and_then(|()| sync_directory(parent)),
    }
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
