//! Connections to a database file: how they are opened, what runs on them, and what their errors mean.

use std::path::Path;
use std::time::Duration;

use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior, ffi};

use crate::db::schema::{Schema, Sql};
use crate::db::value::{ROWS_MAX, Row, Value, Written};
use crate::error::{Error, ErrorKind};

/// How long SQLite waits for a lock of a process that does not take the write lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Prepared statements kept by each connection: more than a server has.
const STATEMENTS_MAX: usize = 64;

/// Pages in the log at which the writer makes a checkpoint: with SQLite's own 1000 it made one, with its
/// flushes, every few hundred rows. More gave nothing.
const CHECKPOINT_PAGES: i64 = 4096;

/// The log is truncated to this size after a checkpoint.
const WAL_BYTES_MAX: i64 = 64 << 20;

/// A connection to an existing file.
pub fn open(path: &Path) -> rusqlite::Result<Connection> {
    connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
}

/// A connection that cannot write. The file is opened for writing: the index of the log is shared memory.
pub fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = open(path)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    // The pool and the writer let one thread at a time use a connection.
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    // Where SQLite cannot open a file for writing, be it for lack of descriptors, it opens it for reading
    // only. Such a connection would be kept, and fail each write until the server restarts.
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

/// FULL: a commit is flushed before it is answered. NORMAL may lose the last commits at a power cut, but
/// flushes the log before a checkpoint and the file before the log is reused, so that both stay whole, with
/// what another process flushed. OFF would lose both.
pub fn set_durable(connection: &Connection, durable: bool) -> rusqlite::Result<()> {
    connection.pragma_update(None, "synchronous", if durable { "FULL" } else { "NORMAL" })
}

/// Opens the file, created where it is missing, and brings its tables up to the schema.
pub fn create(path: &Path, schema: &Schema) -> rusqlite::Result<Connection> {
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

/// Runs a statement without parameters or rows.
pub fn run(connection: &Connection, sql: &'static str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.raw_execute().map(drop)
}

/// The rows of a query.
pub fn query(connection: &Connection, sql: &'static str, params: &[Value]) -> rusqlite::Result<Vec<Row>> {
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

/// Runs a statement that writes.
pub fn write(connection: &Connection, sql: &'static str, params: &[Value]) -> rusqlite::Result<Written> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut last_id = None;
    let mut rows = statement.query(rusqlite::params_from_iter(params))?;
    // The statement is done only when it is stepped to its end.
    while let Some(row) = rows.next()? {
        if last_id.is_none() {
            last_id = Some(row.get::<_, i64>(0)?);
        }
    }
    drop(rows);
    drop(statement);
    Ok(Written { affected: connection.changes(), last_id: last_id.unwrap_or(0).cast_unsigned() })
}

/// Reads, and commits a change of its own in the same transaction.
pub fn read_with_commit(path: &Path, sql: &'static Sql, params: &[Value]) -> rusqlite::Result<Vec<Row>> {
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
        // No statement stores one; as text it is at least visible.
        ValueRef::Real(value) => Value::Text(value.to_string()),
        ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Value::Text(text.to_owned()),
            Err(_) => Value::Bytes(bytes.to_vec()),
        },
        ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
    }
}

/// The error of the caller.
pub fn to_error(path: &Path, error: &rusqlite::Error) -> Error {
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
