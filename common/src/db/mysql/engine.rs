//! The writing half: one connection, and transactions on it.

use std::result::Result as StdResult;
use std::sync::Arc;

use mysql::prelude::Queryable;

use super::connect::{Connection, Connector, Scope};
use super::errors::{CONFLICTS, Failure, no_connection};
use super::rows::{command, parameter, write};
use crate::db::engine::{CommitError, Engine, TransactionError};
use crate::db::schema::Sql;
use crate::db::value::{Value, Written};
use crate::error::{Error, ErrorKind, Result};

/// Rows in one INSERT at most: each of a few KiB, so that the packet stays below 1 MiB, which is the limit of
/// some servers.
const ROWS_AT_ONCE_MAX: usize = 64;

/// Up to here there is a statement for each number of rows, beyond it for the powers of two.
const ROWS_EXACT_MAX: usize = 8;

/// The writing half of a MySQL database.
pub struct MysqlEngine {
    connector: Arc<Connector>,
    connection: Option<Connection>,
}

impl MysqlEngine {
    /// An engine with its first connection.
    pub fn new(connector: Arc<Connector>, connection: Connection) -> MysqlEngine {
        MysqlEngine { connector, connection: Some(connection) }
    }

    /// A connection to the current server, which readers use too.
    fn connection(&mut self) -> StdResult<&mut Connection, TransactionError> {
        if self.connection.as_ref().is_none_or(|connection| !self.connector.is_current(connection)) {
            let connected = self.connector.connect(Scope::Database);
            self.connection = Some(connected.map_err(|error| TransactionError::Unavailable(error.into()))?);
        }
        self.connection.as_mut().ok_or_else(|| TransactionError::ConnectionLost(no_connection()))
    }

    /// Notes what an answer shows of its server; adds the server's address to a failure.
    fn noted<T>(&mut self, answer: StdResult<T, Failure>) -> StdResult<T, (Failure, String)> {
        let Some(connection) = self.connection.as_mut() else {
            return answer.map_err(|failure| (failure, "an unknown address".to_owned()));
        };
        if let Err(failure) = &answer {
            self.connector.note_failure(connection, failure);
        }
        answer.map_err(|failure| (failure, connection.address.clone()))
    }
}

impl Engine for MysqlEngine {
    fn acquire_write_lock(&mut self) -> Result<()> {
        // The server orders its clients.
        Ok(())
    }

    fn release_write_lock(&mut self) {}

    fn begin(&mut self) -> StdResult<(), TransactionError> {
        let connection = self.connection()?;
        // A round trip of its own. If the first statement began the transaction, one that was delayed by an
        // outage could run after its client gave up, and its locks would block the next attempt.
        let begun = command(&mut connection.conn, "START TRANSACTION");
        self.noted(begun)
            .map_err(|(failure, address)| TransactionError::ConnectionLost(failure.to_unavailable(&address)))
    }

    fn execute(&mut self, sql: &'static Sql, params: &[Value]) -> StdResult<Written, TransactionError> {
        let charset = self.connector.charset();
        let connection =
            self.connection.as_mut().ok_or_else(|| TransactionError::ConnectionLost(no_connection()))?;
        let written = write(&mut connection.conn, charset, sql.mysql, params);
        self.noted(written).map_err(|(failure, address)| failure.to_transaction_error(&address))
    }

    fn rows_at_once(&self, sql: &'static Sql, rows: usize) -> usize {
        match rows {
            0 | 1 => 1,
            _ if Insert::of(sql.mysql).is_none() => 1,
            2..=ROWS_EXACT_MAX => rows,
            _ => 1 << rows.min(ROWS_AT_ONCE_MAX).ilog2(),
        }
    }

    fn insert_rows(&mut self, sql: &'static Sql, rows: &[&[Value]]) -> StdResult<(), TransactionError> {
        let insert = Insert::of(sql.mysql);
        let Some(insert) = insert.filter(|insert| rows.iter().all(|row| row.len() == insert.columns)) else {
            return Err(TransactionError::Refused(Error::new(
                ErrorKind::Internal,
                "these rows fit no common INSERT",
            )));
        };
        let charset = self.connector.charset();
        let connection =
            self.connection.as_mut().ok_or_else(|| TransactionError::ConnectionLost(no_connection()))?;
        let params = rows.iter().copied().flatten().map(|value| parameter(charset, value)).collect();
        let inserted =
            connection.conn.exec_drop(insert.of_rows(rows.len()), mysql::Params::Positional(params));
        let inserted = inserted.map_err(Failure::from);
        self.noted(inserted).map_err(|(failure, address)| failure.to_transaction_error(&address))
    }

    fn commit(&mut self) -> StdResult<(), CommitError> {
        let Some(connection) = self.connection.as_mut() else {
            return Err(CommitError::RolledBack(TransactionError::ConnectionLost(no_connection())));
        };
        let committed = command(&mut connection.conn, "COMMIT");
        connection.has_served |= committed.is_ok();
        self.noted(committed).map_err(|(failure, address)| {
            let error = failure.to_error(&address);
            match failure {
                Failure::Server(code, _) if CONFLICTS.contains(&code) => {
                    CommitError::RolledBack(TransactionError::Conflict(error))
                }
                _ => CommitError::Unknown(error.context("the answer to a COMMIT did not come")),
            }
        })
    }

    /// Each server may be tried, and one of them twice: the server may have closed an idle connection.
    fn attempts_max(&self) -> usize {
        self.connector.addresses() + 1
    }

    fn rollback(&mut self) {
        let Some(connection) = self.connection.as_mut() else { return };
        if command(&mut connection.conn, "ROLLBACK").is_err() {
            self.reset();
        }
    }

    fn reset(&mut self) {
        self.connection = None;
    }
}

/// An INSERT of one row whose every value is a parameter, and that ends with them: several can be sent as
/// one. One with an ON DUPLICATE KEY UPDATE cannot, since its answer is of its own row.
struct Insert<'a> {
    /// Up to the first value.
    head: &'a str,
    /// The values: `(?, ?)`.
    row: &'a str,
    columns: usize,
}

impl<'a> Insert<'a> {
    fn of(sql: &'a str) -> Option<Insert<'a>> {
        let (head, row) = sql.split_at(sql.rfind('(')?);
        let marks = row.strip_prefix('(')?.strip_suffix(')')?;
        let plain = head.starts_with("INSERT INTO ")
            && head.ends_with("VALUES ")
            && !head.contains('?')
            && marks.split(',').all(|mark| mark.trim() == "?");
        plain.then(|| Insert { head, row, columns: marks.split(',').count() })
    }

    fn of_rows(&self, rows: usize) -> String {
        let mut sql = String::with_capacity(self.head.len() + rows * (self.row.len() + 2));
        sql.push_str(self.head);
        for index in 0..rows {
            sql.push_str(if index == 0 { "" } else { ", " });
            sql.push_str(self.row);
        }
        sql
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::mysql::Mysql;
    use crate::db::{Charset, Column, DbSettings, Password, Schema, Table, Tls};
    use crate::net::stop::Stop;
    use std::path::PathBuf;
    use std::time::Duration;
    use tnv_tests::mariadb::MariaDb;

    static SCHEMA: Schema = Schema {
        database: "tnv_rowsdb",
        tables: &[Table {
            name: "t_row",
            columns: &[
                Column {
                    name: "id",
                    mysql: "varchar(64) NOT NULL PRIMARY KEY",
                    sqlite: "TEXT NOT NULL PRIMARY KEY",
                },
                Column { name: "size", mysql: "tinyint", sqlite: "INTEGER" },
            ],
            added: &[],
            indexes: &[],
        }],
    };

    static INSERT: Sql = Sql::both("INSERT INTO t_row (id, size) VALUES (?, ?)");
    static IDS: Sql = Sql::both("SELECT id FROM t_row ORDER BY id");

    #[test]
    fn only_an_insert_of_nothing_but_parameters_is_sent_with_others() {
        let insert = Insert::of(INSERT.mysql).unwrap();
        assert_eq!(insert.columns, 2);
        assert_eq!(insert.of_rows(1), INSERT.mysql);
        assert_eq!(insert.of_rows(3), "INSERT INTO t_row (id, size) VALUES (?, ?), (?, ?), (?, ?)");
        for other in [
            "INSERT INTO t (a, b) VALUES (?, 0)",
            "INSERT INTO t (a) VALUES (lower(?))",
            "INSERT INTO t (a) VALUES (?) ON DUPLICATE KEY UPDATE a = a",
            "INSERT INTO t (a) VALUES (?) ON DUPLICATE KEY UPDATE a = LAST_INSERT_ID(?)",
            "INSERT INTO t (a, b) SELECT ?, ? FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM t WHERE a = ?)",
            "INSERT IGNORE INTO t (a) VALUES (?)",
            "REPLACE INTO t (a) VALUES (?)",
            "DELETE FROM t WHERE (a, b) IN VALUES (?, ?)",
            "SELECT 1",
            "",
        ] {
            assert!(Insert::of(other).is_none(), "{other}");
        }
    }

    #[test]
    fn rows_are_inserted_in_one_go_all_of_them_or_none() {
        let Some(mariadb) = MariaDb::start() else { return };
        let settings = DbSettings {
            addresses: vec![mariadb.addr()],
            user: MariaDb::USER.into(),
            password: Password::new(mariadb.password()),
            rw_timeout: Duration::from_secs(30),
            tls: Tls::Off,
            charset: Charset::Utf8mb4,
            directory: PathBuf::new(),
            durable: true,
        };
        let (mysql, mut engine) = Mysql::open(&settings, &SCHEMA, &Stop::new().unwrap()).unwrap();
        let row = |id: &str, size: i64| vec![Value::from(id), size.into()];
        let insert = |engine: &mut MysqlEngine, rows: &[Vec<Value>]| {
            let rows: Vec<&[Value]> = rows.iter().map(Vec::as_slice).collect();
            engine.insert_rows(&INSERT, &rows)
        };
        let ids = || -> String {
            let rows = mysql.read(&IDS, &[]).unwrap();
            rows.iter().map(|row| row.text(0).unwrap().to_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            [1, 2, 7, 8, 9, 31, 300].map(|rows| engine.rows_at_once(&INSERT, rows)),
            [1, 2, 7, 8, 8, 16, 64]
        );
        engine.begin().unwrap();
        insert(&mut engine, &[row("b", 1), row("a", 2), row("c", 3)]).unwrap();
        assert_eq!(ids(), "", "nothing is there before the commit");
        // One of them is taken, is the same as another, does not fit, or is no row at all.
        for bad in [row("b", 0), row("d", 0), row("f", 1000), vec!["f".into()]] {
            let refused = insert(&mut engine, &[row("d", 4), bad, row("e", 5)]);
            assert!(matches!(refused, Err(TransactionError::Refused(_))), "{refused:?}");
        }
        engine.execute(&INSERT, &row("e", 5)).unwrap();
        assert!(matches!(engine.execute(&INSERT, &row("a", 5)), Err(TransactionError::Refused(_))));
        engine.commit().unwrap();
        assert_eq!(ids(), "a b c e");
        // A transaction that ends without a commit leaves nothing, also when its connection is dropped.
        engine.begin().unwrap();
        insert(&mut engine, &[row("g", 1), row("h", 2)]).unwrap();
        engine.rollback();
        engine.begin().unwrap();
        insert(&mut engine, &[row("i", 1), row("j", 2)]).unwrap();
        engine.reset();
        assert_eq!(ids(), "a b c e");
    }
}
