//! MySQL and MariaDB, over the crate `mysql` and TCP. This module reads; `engine` writes.
//!
//! - `connect`: addresses, failover, login, TLS.
//! - `errors`: what the server's error codes mean.
//! - `migrate`: what is created and checked at the start.
//! - `rows`: statements, and values both ways.
//!
//! A connection is used only while the exchange on it is known to be whole: after any failure that
//! is not an answer of the server's it is dropped, so that no query can ever read what was meant for
//! another. Connecting, reading and writing all have their time-outs.
//!
//! Accounts may log in by `mysql_native_password`, `caching_sha2_password` (without TLS: by the
//! server's RSA key) and `ed25519`. What else a server may ask for (`sha256_password`, PAM, GSSAPI,
//! `unix_socket`) is a clear error, save MariaDB's `parsec`, at which the crate panics unless it is
//! built with `client_parsec`. TLS is the crate's too (rustls with ring), where `mysql_tls` asks for it.

mod connect;
mod engine;
mod errors;
mod migrate;
mod rows;

use std::result::Result as StdResult;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use self::connect::{Connection, Connector, Scope, wait_for_server};
use self::engine::MysqlEngine;
use self::errors::{DEADLOCK, Failure};
use self::migrate::connect_and_migrate;
use self::rows::query;
use super::charset::Charset;
use super::pool::{Lease, Pool};
use super::schema::{Schema, Sql};
use super::settings::DbSettings;
use super::value::{Row, Value};
use crate::error::Result;
use crate::net::stop::Stop;

/// Connections that read: existing servers allow 151 in all by default.
const READERS_MAX: usize = 32;

/// How long a reader waits for one of the connections.
const LEASE_TIMEOUT: Duration = Duration::from_secs(20);

/// A connection that was idle for longer is pinged before it is used.
const PING_AFTER: Duration = Duration::from_secs(5);

/// How often a confirmed read is tried that deadlocks with writers: it also locks the gaps between keys.
const CONFIRMED_ATTEMPTS: u32 = 10;

/// The reading half of a MySQL database.
pub struct Mysql {
    connector: Arc<Connector>,
    readers: Pool<Connection>,
    server: String,
}

impl Mysql {
    /// Connects, waits for servers that cannot be reached, and creates what is missing.
    pub fn open(settings: &DbSettings, schema: &Schema, stop: &Stop) -> Result<(Mysql, MysqlEngine)> {
        let connector = Arc::new(Connector::new(settings, schema.database));
        let (connection, server) = wait_for_server(stop, || connect_and_migrate(&connector, schema))?;
        let engine = MysqlEngine::new(Arc::clone(&connector), connection);
        Ok((Mysql { connector, readers: Pool::new(READERS_MAX), server }, engine))
    }

    /// For `--check`: can this server log in, and does the database exist? Nothing is created.
    pub fn probe(settings: &DbSettings, schema: &Schema) -> Result<String> {
        Ok(migrate::probe(&Connector::new(settings, schema.database), schema)?)
    }

    /// The server and the database, for the log.
    pub fn describe(&self) -> String {
        self.server.clone()
    }

    /// The rows of a query.
    pub fn read(&self, sql: &'static Sql, params: &[Value]) -> Result<Vec<Row>> {
        self.read_in(self.connector.charset(), sql, params)
    }

    /// The same with names as they stand in the table.
    pub fn read_stored(&self, sql: &'static Sql, params: &[Value]) -> Result<Vec<Row>> {
        self.read_in(Charset::Utf8mb4, sql, params)
    }

    /// The name that a text of the table stands for.
    pub fn name(&self, stored: &str) -> String {
        self.connector.charset().decode(stored.to_owned())
    }

    /// A name as it stands in the table.
    pub fn stored(&self, name: &str) -> String {
        self.connector.charset().encode(name).into_owned()
    }

    /// A query can be repeated, so a pooled connection that turns out to be dead costs one more attempt on a
    /// fresh one.
    fn read_in(&self, charset: Charset, sql: &'static Sql, params: &[Value]) -> Result<Vec<Row>> {
        let mut lease = self.readers.lease(LEASE_TIMEOUT)?;
        if let Some((mut connection, idle)) = lease.reused.take() {
            if self.is_usable(&mut connection, idle) {
                let answer = query(&mut connection.conn, charset, sql.mysql, params);
                self.connector.note(&mut connection, &answer);
                match answer {
                    Err(Failure::Broken { timed_out: false, is_permanent: false, .. }) => {}
                    Err(failure) if failure.is_unwritable() => {}
                    answer => return finish(lease, connection, answer),
                }
            }
            self.readers.clear();
        }
        let mut servers_left = self.connector.addresses();
        loop {
            let mut connection = self.connector.connect(Scope::Database)?;
            let answer = query(&mut connection.conn, charset, sql.mysql, params);
            self.connector.note(&mut connection, &answer);
            servers_left -= 1;
            match answer {
                Err(failure) if failure.is_unwritable() && servers_left > 0 => {}
                answer => return finish(lease, connection, answer),
            }
        }
    }

    /// Whether an idle connection can be used: it lives, and is to the current server. The writer may have
    /// left the other one, which may have stale rows.
    fn is_usable(&self, connection: &mut Connection, idle: Duration) -> bool {
        self.connector.is_current(connection) && (idle < PING_AFTER || connection.conn.ping().is_ok())
    }

    /// Asks every address: with several it is not known which one the commit went to, and a server that
    /// cannot be asked may have it. A row that one of them has exists, whatever the others answer.
    ///
    /// The connections are fresh, and the query locks what it reads: a transaction that wrote the
    /// row and has not ended holds the row's lock, so the answer comes after its end. One that has
    /// not written the row yet cannot commit either: its client, which is gone or has given up,
    /// would have to send a COMMIT first.
    ///
    /// Where the read and a transaction wait for each other, InnoDB ends the read, which has changed
    /// nothing: it is repeated, a little later each time.
    ///
    /// `any`: the rows of one server are enough, and names are not those of the table.
    pub fn read_confirmed(&self, sql: &'static Sql, params: &[Value], any: bool) -> Result<Vec<Row>> {
        let charset = if any { self.connector.charset() } else { Charset::Utf8mb4 };
        let mut all = Vec::new();
        let mut failed = None;
        for index in 0..self.connector.addresses() {
            match self.read_confirmed_at(index, charset, sql, params) {
                Ok(rows) => all.extend(rows),
                Err(error) => failed = failed.or(Some(error)),
            }
            if any && !all.is_empty() {
                return Ok(all);
            }
        }
        failed.map_or(Ok(all), Err)
    }

    fn read_confirmed_at(
        &self,
        index: usize,
        charset: Charset,
        sql: &'static Sql,
        params: &[Value],
    ) -> Result<Vec<Row>> {
        let mut connection = self.connector.connect_to(index, Scope::Database)?;
        let mut attempt = 1;
        loop {
            match query(&mut connection.conn, charset, sql.mysql, params) {
                Err(Failure::Server(DEADLOCK, _)) if attempt < CONFIRMED_ATTEMPTS => {
                    thread::sleep(Duration::from_millis(1 << attempt));
                    attempt += 1;
                }
                rows => return rows.map_err(|failure| failure.to_error(&connection.address)),
            }
        }
    }
}

/// Returns the connection to the pool if it can be used further.
fn finish(
    lease: Lease<'_, Connection>,
    connection: Connection,
    answer: StdResult<Vec<Row>, Failure>,
) -> Result<Vec<Row>> {
    let is_lost = matches!(&answer, Err(failure) if failure.ends_connection());
    let result = answer.map_err(|failure| failure.to_error(&connection.address));
    if !is_lost {
        lease.give_back(connection);
    }
    result
}
