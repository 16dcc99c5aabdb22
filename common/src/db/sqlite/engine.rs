//! The writing half: one connection, and transactions on it.

use std::path::PathBuf;
use std::result::Result as StdResult;

use rusqlite::{Connection, ErrorCode};

use super::connection::{open, run, set_durable, to_error, write};
use super::write_lock::WriteLock;
use crate::db::engine::{CommitError, Engine, TransactionError};
use crate::db::schema::Sql;
use crate::db::value::{Value, Written};
use crate::error::{Error, ErrorKind, Result};

/// The writing half of an embedded database.
pub struct SqliteEngine {
    path: PathBuf,
    write_lock: WriteLock,
    durable: bool,
    connection: Option<Connection>,
}

impl SqliteEngine {
    /// An engine with its first connection.
    pub fn new(path: PathBuf, write_lock: WriteLock, durable: bool, connection: Connection) -> SqliteEngine {
        SqliteEngine { path, write_lock, durable, connection: Some(connection) }
    }
}

impl Engine for SqliteEngine {
    fn acquire_write_lock(&mut self) -> Result<()> {
        self.write_lock.acquire()
    }

    fn release_write_lock(&mut self) {
        self.write_lock.release();
    }

    fn begin(&mut self) -> StdResult<(), TransactionError> {
        let connection = match &self.connection {
            Some(connection) => connection,
            None => {
                let fresh = open(&self.path)
                    .and_then(|fresh| set_durable(&fresh, self.durable).map(|()| fresh))
                    .map_err(|error| TransactionError::Unavailable(to_error(&self.path, &error)))?;
                self.connection.insert(fresh)
            }
        };
        run(connection, "BEGIN IMMEDIATE").map_err(|error| match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                TransactionError::Unavailable(to_error(&self.path, &error))
            }
            _ => TransactionError::ConnectionLost(to_error(&self.path, &error)),
        })
    }

    fn execute(&mut self, sql: &'static Sql, params: &[Value]) -> StdResult<Written, TransactionError> {
        let Some(connection) = &self.connection else {
            return Err(TransactionError::ConnectionLost(no_connection()));
        };
        write(connection, sql.sqlite, params).map_err(|error| {
            let failed = to_error(&self.path, &error);
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
            let failed = to_error(&self.path, &error);
            match error.sqlite_error_code() {
                Some(ErrorCode::DatabaseBusy) => CommitError::RolledBack(TransactionError::Conflict(failed)),
                // The commit mark is written last: on a full disk it is missing.
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

fn no_connection() -> Error {
    Error::new(ErrorKind::Unavailable, "the database's connection was lost")
}
