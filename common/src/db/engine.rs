//! What the writer needs of a database: one connection, made when needed, and transactions on it.
//! It says how a transaction fails, and nothing of SQL or sockets.

use super::schema::Sql;
use super::value::{Value, Written};
use crate::error::{Error, ErrorKind, Result};

/// The writing half of a database.
pub trait Engine: Send + 'static {
    /// Takes the write lock among the processes that write to this database.
    fn acquire_write_lock(&mut self) -> Result<()>;
    /// Releases it.
    fn release_write_lock(&mut self);
    /// Starts a transaction.
    fn begin(&mut self) -> std::result::Result<(), TransactionError>;
    /// Runs a statement in it.
    fn execute(
        &mut self,
        sql: &'static Sql,
        params: &[Value],
    ) -> std::result::Result<Written, TransactionError>;
    /// How many of so many rows that one statement inserts, each by itself, [`Engine::insert_rows`] would
    /// take at once.
    fn rows_at_once(&self, _sql: &'static Sql, _rows: usize) -> usize {
        1
    }
    /// Inserts so many rows at once, all of them or none.
    fn insert_rows(
        &mut self,
        _sql: &'static Sql,
        _rows: &[&[Value]],
    ) -> std::result::Result<(), TransactionError> {
        Err(TransactionError::Refused(Error::new(ErrorKind::Internal, "rows are inserted one by one")))
    }
    /// Commits it.
    fn commit(&mut self) -> std::result::Result<(), CommitError>;
    /// Rolls it back; drops the connection where that fails.
    fn rollback(&mut self);
    /// Drops the connection, whatever its state.
    fn reset(&mut self);
    /// How many connections one transaction may be tried on while they break before the COMMIT.
    fn attempts_max(&self) -> usize {
        2
    }
}

/// How a transaction fails before its COMMIT is sent.
#[derive(Debug)]
pub enum TransactionError {
    /// The statement failed and nothing else: the transaction goes on.
    Refused(Error),
    /// The statement failed, and the transaction with it, or perhaps so.
    Aborted(Error),
    /// It clashed with another transaction; another attempt may succeed.
    Conflict(Error),
    /// The connection broke; a fresh one may serve.
    ConnectionLost(Error),
    /// No connection can be made, or no time is left.
    Unavailable(Error),
}

impl From<TransactionError> for Error {
    fn from(error: TransactionError) -> Error {
        match error {
            TransactionError::Refused(error)
            | TransactionError::Aborted(error)
            | TransactionError::Conflict(error)
            | TransactionError::ConnectionLost(error)
            | TransactionError::Unavailable(error) => error,
        }
    }
}

/// How a COMMIT fails.
#[derive(Debug)]
pub enum CommitError {
    /// It is rolled back, like a failure before the COMMIT.
    RolledBack(TransactionError),
    /// It was sent, and whether it took effect is not known.
    Unknown(Error),
}
