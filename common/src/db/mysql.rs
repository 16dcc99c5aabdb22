//! MySQL and MariaDB, over the crate `mysql` and TCP.
//!
//! A connection is used only while the exchange on it is known to be whole: after any failure that
//! is not an answer of the server's it is dropped, so that no query can ever read what was meant for
//! another. Connecting, reading and writing all have their time-outs.
//!
//! Accounts may log in by `mysql_native_password`, `caching_sha2_password` (without TLS: by the
//! server's RSA key) and `ed25519`. What else a server may ask for (`sha256_password`, PAM, GSSAPI,
//! `unix_socket`) is a clear error, save MariaDB's `parsec`, at which the crate panics unless it is
//! built with `client_parsec`. TLS is the crate's too (rustls with ring), where `mysql_tls` asks for it.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::result::Result as StdResult;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use mysql::{Conn, DriverError, OptsBuilder, SslOpts};

use super::charset::Charset;
use super::engine::{CommitError, Engine, TransactionError};
use super::pool::{Lease, Pool};
use super::schema::{Schema, Sql, Table};
use super::settings::{DbSettings, Tls};
use super::value::{ROWS_MAX, Row, Value, Written};
use crate::error::{Error, ErrorKind, Result};
use crate::fail;
use crate::limits::CONNECT_TIMEOUT;
use crate::net;
use crate::net::stop::Stop;
use crate::text::shown;

const DEFAULT_PORT: u16 = 3306;

/// How long a server that cannot be reached is waited for at the start.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// And how long between two attempts.
const START_INTERVAL: Duration = Duration::from_secs(2);

/// How long one statement may take that makes a table, or adds to one that is full.
const MAKE_TIMEOUT: Duration = Duration::from_secs(600);

/// Connections that read: existing servers allow 151 in all by default.
const READERS_MAX: usize = 32;

/// How long a reader waits for one of the connections.
const LEASE_TIMEOUT: Duration = Duration::from_secs(20);

/// A connection that was idle for longer is asked for a sign of life before it is used.
const PING_AFTER: Duration = Duration::from_secs(5);

/// Prepared statements kept by each connection: more than a server has, with those of several rows.
const STATEMENTS_MAX: usize = 64;

/// The largest packet either way: a row of ours is a few KiB.
const PACKET_BYTES_MAX: usize = 16 << 20;

/// Rows in one INSERT at most: each of a few KiB, and a server that takes no more than 1 MiB in a packet
/// is not met with more.
const ROWS_AT_ONCE_MAX: usize = 64;

/// Up to here there is a statement for each number of rows, beyond it for the powers of two.
const ROWS_EXACT_MAX: usize = 8;

/// What stands for no limit of rows. With a limit an answer would be cut without a word.
const NO_LIMIT: u64 = u64::MAX;

/// A wait for row locks ends before the wait for the server's answer does, so that it is the
/// server that says so and the connection stays sound. In seconds, as the server wants it.
const LOCK_WAIT_SECS_MAX: u64 = 10;

/// Refusals that pass: too many connections (of one user too, by either limit), the server is going
/// down, or has no memory (1037, 1038, 1041) or thread (1135) to spare.
const PASSING: [u16; 8] = [1040, 1203, 1226, 1053, 1037, 1038, 1041, 1135];

/// Codes below are of the server's own files and memory, whoever asks ("global error codes", MySQL's Error
/// Message Sources and Elements): no room or no right in its directory for temporary tables, say.
const FIRST_SERVER_ERROR: u16 = 1000;

/// What a server says on a connection that it is closing: going down, killed, idle for too long.
const CLOSING: [u16; 6] = [1053, 1080, 1152, 1927, 3169, 4031];

/// InnoDB ended this transaction because it and another waited for each other's locks.
const DEADLOCK: u16 = 1213;

/// How often a certain read is tried that deadlocks with writers: it locks whatever lies between two keys.
const CERTAIN_ATTEMPTS: u32 = 10;

/// Deadlock; lock wait timed out; the row was changed since this transaction began; the next
/// auto-increment value could not be had, which is how InnoDB tells of a deadlock over its lock.
const CONFLICTS: [u16; 4] = [DEADLOCK, 1205, 1020, 1467];

/// A unique key is taken.
const DUPLICATES: [u16; 4] = [1062, 1586, 1022, 1169];

/// The server does not write, or does not serve at all, whoever asks: it was made read-only (1290,
/// 1836, 1792, 1207, its tables 1036), it is full (1114, 1021), or it was cut off from its cluster
/// (1047). Another one may.
const UNWRITABLE: [u16; 8] = [1290, 1836, 1792, 1207, 1036, 1114, 1021, 1047];

/// What is wrong with the statement or a value in it, and will be the next time: syntax and columns
/// (1054, 1064, 1136, 1267), or a value that a column, a key or a check does not take. All others
/// are states of the server, which may pass.
const WRONG: [u16; 18] = [
    1048, 1054, 1064, 1136, 1264, 1265, 1267, 1292, 1300, 1364, 1366, 1406, 1411, 1451, 1452, 1690, 3819,
    4025,
];

/// The account lacks a right; the table is not there.
const AMISS: [u16; 3] = [1142, 1143, 1146];

/// The account may not log in with what it gave.
const DENIED: u16 = 1045;

/// The account does not log in by a password: MariaDB's root, as it is installed, does so by a socket.
const NO_PASSWORD_DOES: u16 = 1698;

/// The account lacks a right on what is to be made.
const NOT_GRANTED: [u16; 4] = [1044, 1142, 1227, 1370];

/// The server takes no connection without TLS, whatever the account.
const TLS_WANTED: u16 = 3159;

/// A key is longer than the row format of its table has room for.
const KEY_TOO_LONG: [u16; 2] = [1071, 1709];

/// Rows at each end of a table that are read when the server starts: about 1 MiB, in some 10 ms.
const SAMPLE_ROWS: usize = 5_000;

/// The character set of columns of bytes, as the server numbers it.
const BINARY: u16 = 63;

/// What another server did at the same moment: database, table, column or index is there already.
const DONE_BY_ANOTHER: [u16; 4] = [1007, 1050, 1060, 1061];

/// The reading half of a MySQL database.
pub struct Mysql {
    connector: Arc<Connector>,
    readers: Pool<Connection>,
    server: String,
}

impl Mysql {
    /// Connects, waiting for servers that cannot be reached, and makes what is missing.
    pub fn open(settings: &DbSettings, schema: &Schema, stop: &Stop) -> Result<(Mysql, MysqlEngine)> {
        let connector = Arc::new(Connector::new(settings, schema.database));
        let (connection, server) = patiently(stop, || connector.connect_and_prepare(schema))?;
        let engine = MysqlEngine { connector: Arc::clone(&connector), connection: Some(connection) };
        Ok((Mysql { connector, readers: Pool::new(READERS_MAX), server }, engine))
    }

    /// What `--check` asks: can it be logged in to, and what is there? Nothing is made.
    pub fn probe(settings: &DbSettings, schema: &Schema) -> Result<String> {
        let connector = Connector::new(settings, schema.database);
        let mut connection = connector.connect(Scope::Server).map_err(NotConnected::into_error)?;
        let conn = &mut connection.conn;
        let found = version(conn)
            .and_then(|server| Ok((server, exists(conn, HAS_DATABASE, &[schema.database.into()])?)));
        let (server, exists) =
            found.map_err(|failure| connector.not_served(&connection.address, failure).into_error())?;
        let state = if exists { "" } else { " (to be made)" };
        Ok(format!("{server} at {}, database {}{state}", connection.address, schema.database))
    }

    pub fn describe(&self) -> String {
        self.server.clone()
    }

    /// The rows of a query.
    pub fn read(&self, sql: &'static Sql, params: &[Value]) -> Result<Vec<Row>> {
        self.read_in(self.connector.settings.charset, sql, params)
    }

    /// The same with names as they stand in the table.
    pub fn read_stored(&self, sql: &'static Sql, params: &[Value]) -> Result<Vec<Row>> {
        self.read_in(Charset::Utf8mb4, sql, params)
    }

    /// The name that a text of the table stands for.
    pub fn name(&self, stored: &str) -> String {
        self.connector.settings.charset.decode(stored.to_owned())
    }

    /// A query asked again does no harm, so a connection that went stale in the pool costs nothing
    /// but a second attempt on a fresh one.
    fn read_in(&self, charset: Charset, sql: &'static Sql, params: &[Value]) -> Result<Vec<Row>> {
        let mut lease = self.readers.lease(LEASE_TIMEOUT)?;
        if let Some((mut connection, idle)) = lease.reused.take() {
            if self.is_usable(&mut connection, idle) {
                let answer = query(&mut connection.conn, charset, sql.mysql, params);
                self.connector.judge(&mut connection, &answer);
                match answer {
                    Err(Failure::Broken { timed_out: false, hopeless: false, .. }) => {}
                    Err(failure) if failure.is_unwritable() => {}
                    answer => return finish(lease, connection, answer),
                }
            }
            self.readers.clear();
        }
        let mut servers_left = self.connector.settings.addresses.len();
        loop {
            let connected = self.connector.connect(Scope::Database);
            let mut connection = connected.map_err(NotConnected::into_error)?;
            let answer = query(&mut connection.conn, charset, sql.mysql, params);
            self.connector.judge(&mut connection, &answer);
            servers_left -= 1;
            match answer {
                Err(failure) if failure.is_unwritable() && servers_left > 0 => {}
                answer => return finish(lease, connection, answer),
            }
        }
    }

    /// Whether an idle connection may be asked: it lives, and is to the server that is used now, which
    /// the writer may have left since, as one that has only yesterday's rows.
    fn is_usable(&self, connection: &mut Connection, idle: Duration) -> bool {
        self.connector.is_current(connection) && (idle < PING_AFTER || connection.conn.ping().is_ok())
    }

    /// Asks every address: with several it is not known which one the commit went to, and a server
    /// that cannot be asked may have it. A row that one of them has is there, whoever else is away.
    ///
    /// The connections are fresh, and the query locks what it reads: a transaction that wrote the
    /// row and has not ended holds the row's lock, so the answer comes after its end. One that has
    /// not written the row yet cannot commit either: its client, which is gone or has given up,
    /// would have to send a COMMIT first.
    ///
    /// Where the read and a transaction wait for each other, InnoDB ends the read, which has changed
    /// nothing: it is asked again, a little later each time.
    pub fn read_certain(&self, sql: &'static Sql, params: &[Value], any: bool) -> Result<Vec<Row>> {
        let charset = if any { self.connector.settings.charset } else { Charset::Utf8mb4 };
        let ask = |index| {
            let connected = self.connector.connect_to(index, Scope::Database);
            let mut connection = connected.map_err(NotConnected::into_error)?;
            let mut attempt = 1;
            loop {
                match query(&mut connection.conn, charset, sql.mysql, params) {
                    Err(Failure::Told(DEADLOCK, _)) if attempt < CERTAIN_ATTEMPTS => {
                        thread::sleep(Duration::from_millis(1 << attempt));
                        attempt += 1;
                    }
                    rows => return rows.map_err(|failure| failure.to_error(&connection.address)),
                }
            }
        };
        let mut all = Vec::new();
        let mut unasked = None;
        for index in 0..self.connector.settings.addresses.len() {
            match ask(index) {
                Ok(rows) => all.extend(rows),
                Err(error) => unasked = unasked.or(Some(error)),
            }
            if any && !all.is_empty() {
                return Ok(all);
            }
        }
        unasked.map_or(Ok(all), Err)
    }
}

/// Keeps the connection for others if it is sound.
fn finish(
    lease: Lease<'_, Connection>,
    connection: Connection,
    answer: StdResult<Vec<Row>, Failure>,
) -> Result<Vec<Row>> {
    let broken = matches!(&answer, Err(failure) if failure.is_final());
    let result = answer.map_err(|failure| failure.to_error(&connection.address));
    if !broken {
        lease.give_back(connection);
    }
    result
}

/// The writing half.
pub struct MysqlEngine {
    connector: Arc<Connector>,
    connection: Option<Connection>,
}

impl MysqlEngine {
    /// A connection to the server that is used now, so that all read what was written.
    fn connection(&mut self) -> StdResult<&mut Connection, TransactionError> {
        if self.connection.as_ref().is_none_or(|connection| !self.connector.is_current(connection)) {
            let connected = self.connector.connect(Scope::Database);
            self.connection =
                Some(connected.map_err(|failed| TransactionError::Unavailable(failed.into_error()))?);
        }
        self.connection.as_mut().ok_or_else(|| TransactionError::ConnectionLost(no_connection()))
    }

    /// Notes what an answer says about its server; a failure comes with the server's address.
    fn judged<T>(&mut self, answer: StdResult<T, Failure>) -> StdResult<T, (Failure, String)> {
        let Some(connection) = self.connection.as_mut() else {
            return answer.map_err(|failure| (failure, "an unknown address".to_owned()));
        };
        if let Err(failure) = &answer {
            self.connector.leave_if(connection, failure);
        }
        answer.map_err(|failure| (failure, connection.address.clone()))
    }
}

impl Engine for MysqlEngine {
    fn acquire_write_lock(&mut self) -> Result<()> {
        // The server sees to the order among its clients.
        Ok(())
    }

    fn release_write_lock(&mut self) {}

    fn begin(&mut self) -> StdResult<(), TransactionError> {
        let connection = self.connection()?;
        // A round trip of its own. Were the first statement to begin it, one that waited in a database that was
        // away could run when nobody is there to commit it: its locks would then hold up whoever tries next.
        let begun = command(&mut connection.conn, "START TRANSACTION");
        self.judged(begun)
            .map_err(|(failure, address)| TransactionError::ConnectionLost(failure.to_unavailable(&address)))
    }

    fn execute(&mut self, sql: &'static Sql, params: &[Value]) -> StdResult<Written, TransactionError> {
        let charset = self.connector.settings.charset;
        let connection =
            self.connection.as_mut().ok_or_else(|| TransactionError::ConnectionLost(no_connection()))?;
        let written = write(&mut connection.conn, charset, sql.mysql, params);
        self.judged(written).map_err(|(failure, address)| failure.to_transaction_error(&address))
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
        let charset = self.connector.settings.charset;
        let connection =
            self.connection.as_mut().ok_or_else(|| TransactionError::ConnectionLost(no_connection()))?;
        let params = rows.iter().copied().flatten().map(|value| parameter(charset, value)).collect();
        let inserted =
            connection.conn.exec_drop(insert.of_rows(rows.len()), mysql::Params::Positional(params));
        let inserted = inserted.map_err(Failure::from);
        self.judged(inserted).map_err(|(failure, address)| failure.to_transaction_error(&address))
    }

    fn commit(&mut self) -> StdResult<(), CommitError> {
        let Some(connection) = self.connection.as_mut() else {
            return Err(CommitError::RolledBack(TransactionError::ConnectionLost(no_connection())));
        };
        let committed = command(&mut connection.conn, "COMMIT");
        connection.has_served |= committed.is_ok();
        self.judged(committed).map_err(|(failure, address)| {
            let error = failure.to_error(&address);
            match failure {
                Failure::Told(code, _) if CONFLICTS.contains(&code) => {
                    CommitError::RolledBack(TransactionError::Conflict(error))
                }
                _ => CommitError::Unknown(error.context("the answer to a COMMIT did not come")),
            }
        })
    }

    /// Each server may be tried, and one of them twice: a connection that was idle for long may just
    /// be old.
    fn attempts_max(&self) -> usize {
        self.connector.settings.addresses.len() + 1
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

/// An INSERT of one row whose every value is a parameter, and that ends with them: what may be put
/// together with its like. Not what has an ON DUPLICATE KEY UPDATE, whose answer is of its own row.
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

struct Connection {
    conn: Conn,
    /// As in the configuration.
    address: String,
    /// Its index in the configuration.
    index: usize,
    /// What the driver connected to.
    peer: Peer,
    /// A query was answered or a transaction committed on it.
    has_served: bool,
}

/// Makes connections to whichever of the addresses answers.
struct Connector {
    settings: DbSettings,
    database: &'static str,
    /// Index of the address to be tried first: the one that was connected to last, or the next one
    /// where it did not serve.
    last_good: AtomicUsize,
}

/// What the driver connects to.
#[derive(Clone)]
struct Peer {
    /// A number, or, where the server's certificate must be for that name, the name.
    host: String,
    port: u16,
}

/// What a connection is bound to.
#[derive(Clone, Copy, PartialEq)]
enum Scope {
    /// No database: it may be missing.
    Server,
    /// The schema's database.
    Database,
}

/// Why there is no connection.
enum NotConnected {
    /// The server cannot be reached, or not now.
    Unreachable(Error),
    /// It was reached and does not want this client.
    Refused(Error),
}

impl NotConnected {
    fn into_error(self) -> Error {
        match self {
            NotConnected::Unreachable(error) | NotConnected::Refused(error) => error,
        }
    }
}

impl Connector {
    fn new(settings: &DbSettings, database: &'static str) -> Connector {
        let mut settings = settings.clone();
        // The driver takes zero for no time-out at all.
        settings.rw_timeout = settings.rw_timeout.max(Duration::from_secs(1));
        Connector { settings, database, last_good: AtomicUsize::new(0) }
    }

    /// Tries the addresses in turn, the last good one first. Of several failures the first refusal
    /// is told, since it is what someone can do something about, or else the first failure.
    fn connect(&self, scope: Scope) -> StdResult<Connection, NotConnected> {
        let addresses = &self.settings.addresses;
        let first = self.last_good.load(Ordering::Relaxed);
        let mut failed: Option<NotConnected> = None;
        for turn in 0..addresses.len() {
            let index = (first + turn) % addresses.len();
            match self.connect_to(index, scope) {
                Ok(connection) => {
                    // Unless another thread has left that server in the meantime.
                    let _ =
                        self.last_good.compare_exchange(first, index, Ordering::Relaxed, Ordering::Relaxed);
                    return Ok(connection);
                }
                Err(refused @ NotConnected::Refused(_)) => match failed {
                    Some(NotConnected::Refused(_)) => {}
                    _ => failed = Some(refused),
                },
                Err(unreachable) => failed = failed.or(Some(unreachable)),
            }
        }
        Err(failed.unwrap_or_else(|| NotConnected::Unreachable(no_connection())))
    }

    /// Whether a connection is to the server that is used now.
    fn is_current(&self, connection: &Connection) -> bool {
        self.last_good.load(Ordering::Relaxed) == connection.index
    }

    /// Notes how a query went.
    fn judge<T>(&self, connection: &mut Connection, answer: &StdResult<T, Failure>) {
        match answer {
            Ok(_) => connection.has_served = true,
            Err(failure) => self.leave_if(connection, failure),
        }
    }

    /// Has the next connection go to the next address where this one's server does not write, hangs,
    /// or breaks connections that are new. One that served and broke later says nothing: idle ones
    /// are closed in time, and a server that restarts is found so when it is connected to.
    fn leave_if(&self, connection: &Connection, failure: &Failure) {
        let leave = match failure {
            Failure::Told(..) => failure.is_unwritable(),
            Failure::Broken { timed_out, .. } => *timed_out || !connection.has_served,
        };
        let addresses = self.settings.addresses.len();
        if !leave || addresses == 1 {
            return;
        }
        let next = (connection.index + 1) % addresses;
        // Unless another thread has left it already.
        let left =
            self.last_good.compare_exchange(connection.index, next, Ordering::Relaxed, Ordering::Relaxed);
        if left.is_ok() {
            let next = &self.settings.addresses[next];
            log::warn!("MySQL at {}: {failure}; going on with {next}", connection.address);
        }
    }

    /// The host's addresses in turn; the driver would stop at the first that does not answer. It does so where the
    /// certificate must be for the host's name: it takes the name from what it connects to.
    fn connect_to(&self, index: usize, scope: Scope) -> StdResult<Connection, NotConnected> {
        let address = self.settings.addresses[index].as_str();
        let resolved = net::resolve(address, DEFAULT_PORT).map_err(|error| match error.kind() {
            ErrorKind::Invalid => NotConnected::Refused(error.context("mysql_addrs")),
            _ => NotConnected::Unreachable(error.context(format!("connect to MySQL at {address}"))),
        })?;
        let mut peers: Vec<Peer> =
            resolved.iter().map(|peer| Peer { host: peer.ip().to_string(), port: peer.port() }).collect();
        if matches!(self.settings.tls, Tls::Verify { .. }) {
            peers.truncate(1);
            peers.iter_mut().for_each(|peer| peer.host = host_of(address).to_owned());
        }
        let mut failed = None;
        for peer in peers {
            match self.log_in(&peer, scope, self.settings.rw_timeout) {
                Ok(conn) => {
                    let address = address.to_owned();
                    return Ok(Connection { conn, address, index, peer, has_served: false });
                }
                Err(failure) => failed = Some(failure),
            }
        }
        Err(match failed {
            Some(failure) => self.not_served(address, failure),
            None => NotConnected::Unreachable(no_connection()),
        })
    }

    /// Connects, makes what of the schema is missing, and learns what the server is.
    fn connect_and_prepare(&self, schema: &Schema) -> StdResult<(Connection, String), NotConnected> {
        let mut connection = self.connect(Scope::Server)?;
        let (conn, peer) = (&mut connection.conn, &connection.peer);
        let prepared = missing(conn, schema).and_then(|missing| {
            if missing.database.is_some() || !missing.tables.is_empty() {
                // On a connection of its own, which waits for longer: a table may be large.
                let mut patient = self.log_in(peer, Scope::Server, MAKE_TIMEOUT)?;
                make(&mut patient, schema.database, &missing)?;
            }
            conn.select_db(schema.database)?;
            look_at(conn, schema, self.settings.charset)?;
            version(conn)
        });
        self.judge(&mut connection, &prepared);
        let server = prepared.map_err(|failure| self.not_served(&connection.address, failure))?;
        let server = format!("{server} at {}, database {}", connection.address, schema.database);
        Ok((connection, server))
    }

    fn log_in(&self, peer: &Peer, scope: Scope, rw_timeout: Duration) -> StdResult<Conn, Failure> {
        let settings = &self.settings;
        let lock_wait = (rw_timeout.as_secs() / 2).clamp(1, LOCK_WAIT_SECS_MAX);
        // By name of the statement: the variable's name is another in MariaDB than in MySQL. Statements
        // that insert what they do not find rely on the locks that this level keeps.
        let isolation = "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ";
        let session = format!(
            "SET NAMES utf8mb4, SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', \
             SESSION autocommit = 1, SESSION innodb_lock_wait_timeout = {lock_wait}, \
             SESSION sql_select_limit = {NO_LIMIT}, SESSION sql_big_selects = 1, SESSION completion_type = 0, \
             SESSION sql_safe_updates = 0, SESSION sql_auto_is_null = 0"
        );
        let options = OptsBuilder::new()
            .ip_or_hostname(Some(peer.host.as_str()))
            .tcp_port(peer.port)
            .ssl_opts(ssl_options(&settings.tls))
            .prefer_socket(false)
            .user(Some(settings.user.as_str()))
            .pass(Some(settings.password.expose()))
            .db_name((scope == Scope::Database).then_some(self.database))
            .tcp_connect_timeout(Some(CONNECT_TIMEOUT))
            .read_timeout(Some(rw_timeout))
            .write_timeout(Some(rw_timeout))
            .stmt_cache_size(STATEMENTS_MAX)
            .max_allowed_packet(Some(PACKET_BYTES_MAX))
            .init(vec![isolation.to_owned(), session]);
        Ok(Conn::new(options)?)
    }

    /// What a failure of connecting means: that the server is not there now, or that it will not
    /// have this client.
    fn not_served(&self, address: &str, failure: Failure) -> NotConnected {
        match failure {
            failure if failure.passes() => NotConnected::Unreachable(failure.to_unavailable(address)),
            failure => NotConnected::Refused(self.refusal(address, &failure)),
        }
    }

    /// What to do about a server that refuses this client.
    fn refusal(&self, address: &str, failure: &Failure) -> Error {
        let (user, database) = (&self.settings.user, self.database);
        let hint = match failure {
            Failure::Told(DENIED, _) if self.settings.tls == Tls::Off => {
                "check mysql_user and mysql_pass (or mysql_pass_file); an account that needs TLS (REQUIRE SSL) is \
                 refused in the same words: for it set mysql_tls"
                    .to_owned()
            }
            Failure::Told(DENIED, _) => "check mysql_user and mysql_pass (or mysql_pass_file)".to_owned(),
            Failure::Told(NO_PASSWORD_DOES, _) => {
                "this account logs in without a password and from its own host alone (unix_socket): make one with a \
                 password, and name it in mysql_user and mysql_pass (or mysql_pass_file)"
                    .to_owned()
            }
            Failure::Told(TLS_WANTED, _) => "it takes no connection without TLS: set mysql_tls".to_owned(),
            Failure::Told(code, _) if NOT_GRANTED.contains(code) => {
                format!(
                    "grant the user what it lacks on {database}, or make its tables, columns and indexes from etc/sql"
                )
            }
            Failure::Told(code, _) if KEY_TOO_LONG.contains(code) => {
                "the table's row format is too old for its key: it must be DYNAMIC (in MySQL 5.6 that needs \
                 innodb_file_format = Barracuda and innodb_large_prefix = ON)"
                    .to_owned()
            }
            Failure::Told(1130, _) => "let this host log in there".to_owned(),
            Failure::Told(..) => "the server's error says why; docs/mysql.md has what TNV needs of it".to_owned(),
            Failure::Broken { .. } if self.settings.tls != Tls::Off => {
                "check mysql_addrs, mysql_tls, mysql_tls_ca_file and the account".to_owned()
            }
            Failure::Broken { .. } => "check mysql_addrs and the account".to_owned(),
        };
        let verb = match failure {
            Failure::Told(DENIED | NO_PASSWORD_DOES | TLS_WANTED, _) => "refuses",
            _ => "does not serve",
        };
        let text =
            format!("MySQL at {address} {verb} user '{user}', database '{database}': {failure}; {hint}");
        Error::new(ErrorKind::Unavailable, text)
    }
}

/// The host of `host`, `host:port`, `[v6]` or `[v6]:port` that was resolved.
fn host_of(address: &str) -> &str {
    match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => address.rsplit_once(':').map_or(address, |(host, _)| host),
    }
}

fn ssl_options(tls: &Tls) -> Option<SslOpts> {
    match tls {
        Tls::Off => None,
        Tls::Required => Some(SslOpts::default().with_danger_accept_invalid_certs(true)),
        Tls::Verify { ca_file } => Some(SslOpts::default().with_root_cert_path(ca_file.clone())),
    }
}

/// How an exchange with a server failed.
#[derive(Clone, Debug)]
enum Failure {
    /// The server answered so: its code and text. The connection is sound.
    Told(u16, String),
    /// Anything else. What is under way on the connection is unknown, so it must be dropped.
    Broken {
        text: String,
        timed_out: bool,
        /// Trying again would not help.
        hopeless: bool,
    },
}

impl From<mysql::Error> for Failure {
    fn from(error: mysql::Error) -> Failure {
        let broken = |text: String| Failure::Broken { text, timed_out: false, hopeless: false };
        match error {
            mysql::Error::MySqlError(told) if CLOSING.contains(&told.code) => {
                broken(format!("error {}: {}", told.code, told.message))
            }
            mysql::Error::MySqlError(told) => Failure::Told(told.code, told.message),
            mysql::Error::IoError(error) => Failure::of_socket(&error),
            // The codec's own errors wrap those of the socket in the middle of an exchange.
            mysql::Error::CodecError(error) => {
                match StdError::source(&error).and_then(<dyn StdError>::downcast_ref) {
                    Some(error) => Failure::of_socket(error),
                    None => broken(error.to_string()),
                }
            }
            mysql::Error::DriverError(DriverError::ConnectTimeout) => {
                broken(format!("cannot connect within {CONNECT_TIMEOUT:?}"))
            }
            mysql::Error::DriverError(DriverError::CouldNotConnect(Some((_, text, _)))) => {
                broken(format!("cannot connect: {text}"))
            }
            mysql::Error::DriverError(
                error @ (DriverError::UnknownAuthPlugin(_)
                | DriverError::OldMysqlPasswordDisabled
                | DriverError::CleartextPluginDisabled
                | DriverError::UnsupportedProtocol(_)
                | DriverError::Protocol41NotSet
                | DriverError::TlsNotSupported
                | DriverError::MismatchedStmtParams(..)),
            ) => Failure::Broken { text: error.to_string(), timed_out: false, hopeless: true },
            mysql::Error::TlsError(error) => {
                Failure::Broken { text: format!("TLS: {error}"), timed_out: false, hopeless: true }
            }
            error => broken(error.to_string()),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Told(code, text) => write!(out, "error {code}: {text}"),
            Failure::Broken { text, .. } => out.write_str(text),
        }
    }
}

impl Failure {
    fn of_socket(error: &io::Error) -> Failure {
        let timed_out = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        let text = if timed_out { "no answer in time".to_owned() } else { error.to_string() };
        // What rustls says of a certificate or of what is no TLS at all.
        let hopeless = error.kind() == io::ErrorKind::InvalidData;
        Failure::Broken { text, timed_out, hopeless }
    }

    /// Whether this server will not do it for anybody, and another may.
    fn is_unwritable(&self) -> bool {
        matches!(self, Failure::Told(code, _) if UNWRITABLE.contains(code))
    }

    /// Whether a server that could not be connected to for this may be there later.
    fn passes(&self) -> bool {
        match self {
            Failure::Told(code, _) => {
                *code < FIRST_SERVER_ERROR
                    || PASSING.contains(code)
                    || CONFLICTS.contains(code)
                    || self.is_unwritable()
            }
            Failure::Broken { hopeless, .. } => !hopeless,
        }
    }

    /// Whether the connection is of no more use.
    fn is_final(&self) -> bool {
        matches!(self, Failure::Broken { .. }) || self.is_unwritable()
    }

    /// What it means to the transaction that the statement was part of.
    fn to_transaction_error(&self, address: &str) -> TransactionError {
        let error = self.to_error(address);
        match self {
            failure if failure.is_final() => TransactionError::ConnectionLost(error),
            Failure::Told(code, _) if CONFLICTS.contains(code) => TransactionError::Conflict(error),
            Failure::Told(code, _) if DUPLICATES.contains(code) => TransactionError::Refused(error),
            // Of these it is known that they leave the rest of the transaction as it is.
            Failure::Told(code, _) if WRONG.contains(code) || AMISS.contains(code) => {
                TransactionError::Refused(error)
            }
            _ => TransactionError::Aborted(error),
        }
    }

    /// An answer that is not read to its end.
    fn cut_short(text: String) -> Failure {
        Failure::Broken { text, timed_out: false, hopeless: true }
    }

    /// In our terms, where it does not matter what was asked.
    fn to_unavailable(&self, address: &str) -> Error {
        Error::new(ErrorKind::Unavailable, format!("MySQL at {address}: {self}"))
    }

    /// In our terms, for who asked.
    fn to_error(&self, address: &str) -> Error {
        let kind = match self {
            Failure::Told(code, _) if DUPLICATES.contains(code) => ErrorKind::Exists,
            Failure::Told(code, _) if CONFLICTS.contains(code) => ErrorKind::Busy,
            Failure::Told(code, _) if WRONG.contains(code) => ErrorKind::Invalid,
            Failure::Told(..) | Failure::Broken { .. } => ErrorKind::Unavailable,
        };
        Error::new(kind, format!("MySQL at {address}: {self}"))
    }
}

fn no_connection() -> Error {
    Error::new(ErrorKind::Unavailable, "there is no connection to MySQL")
}

/// Waits for the server at the start, when the database's host may be starting too.
fn patiently<T>(stop: &Stop, mut open: impl FnMut() -> StdResult<T, NotConnected>) -> Result<T> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        match open() {
            Ok(opened) => return Ok(opened),
            Err(NotConnected::Refused(error)) => return Err(error),
            Err(NotConnected::Unreachable(error)) if Instant::now() >= deadline => {
                return Err(error.context(format!("no database for {START_TIMEOUT:?}")));
            }
            Err(NotConnected::Unreachable(error)) => {
                log::warn!("{error}; trying again every {START_INTERVAL:?}");
            }
        }
        if stop.wait(START_INTERVAL) {
            return fail!(Unavailable, "told to stop while waiting for the database");
        }
    }
}

const HAS_DATABASE: &str = "SELECT 1 FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = ?";
const HAS_TABLE: &str = "SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?";
const HAS_COLUMN: &str = "SELECT 1 FROM information_schema.COLUMNS \
     WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND COLUMN_NAME = ?";
const ENGINES: &str = "SELECT TABLE_NAME, ENGINE FROM information_schema.TABLES WHERE TABLE_SCHEMA = ?";
const HAS_INDEX: &str = "SELECT 1 FROM information_schema.STATISTICS \
     WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND INDEX_NAME = ? LIMIT 1";

/// The statements that make what is missing.
#[derive(Default)]
struct Missing {
    database: Option<String>,
    tables: Vec<String>,
}

/// Looks what is missing. Nothing is made that is there: an account that may not make anything
/// serves where nothing is to be made.
fn missing(conn: &mut Conn, schema: &Schema) -> StdResult<Missing, Failure> {
    let database = schema.database;
    let mut missing = Missing::default();
    if !exists(conn, HAS_DATABASE, &[database.into()])? {
        missing.database = Some(schema.mysql_create());
    }
    for table in schema.tables {
        if !exists(conn, HAS_TABLE, &[database.into(), table.name.into()])? {
            missing.tables.push(table.mysql_create());
        }
        for column in table.added {
            if !exists(conn, HAS_COLUMN, &[database.into(), table.name.into(), column.name.into()])? {
                missing.tables.push(table.mysql_add_column(column));
            }
        }
        for index in table.indexes {
            if !exists(conn, HAS_INDEX, &[database.into(), table.name.into(), index.name.into()])? {
                missing.tables.push(table.mysql_add_index(index));
            }
        }
    }
    Ok(missing)
}

/// Makes it. What another server made in the meantime is as good.
fn make(conn: &mut Conn, database: &str, missing: &Missing) -> StdResult<(), Failure> {
    let run = |conn: &mut Conn, sql: &str| {
        log::info!("database {database}: {}", sql.lines().next().unwrap_or(sql));
        match command(conn, sql) {
            Err(Failure::Told(code, _)) if DONE_BY_ANOTHER.contains(&code) => Ok(()),
            made => made,
        }
    };
    if let Some(sql) = &missing.database {
        run(conn, sql)?;
    }
    conn.select_db(database)?;
    missing.tables.iter().try_for_each(|sql| run(conn, sql))
}

/// Looks at what makes a server unsafe or its rows hard to find, and says it. None of it is wrong for every
/// deployment, so none of it keeps a server from starting.
fn look_at(conn: &mut Conn, schema: &Schema, charset: Charset) -> StdResult<(), Failure> {
    let engines = query(conn, Charset::Utf8mb4, ENGINES, &[schema.database.into()])?;
    for (table, engine) in engines.iter().filter_map(|row| Some((row.text(0).ok()?, row.text(1).ok()?))) {
        let ours = schema.tables.iter().any(|known| known.name == table);
        if ours && engine.eq_ignore_ascii_case("MyISAM") {
            log::warn!(
                "table {}.{table} is of the engine {engine}, which has no transactions: a crash of MySQL loses or \
                 damages rows that were acknowledged; run: ALTER TABLE {}.{table} ENGINE=InnoDB ROW_FORMAT=DYNAMIC",
                schema.database,
                schema.database
            );
        }
    }
    match query(conn, Charset::Utf8mb4, "SELECT @@GLOBAL.innodb_flush_log_at_trx_commit", &[]) {
        Ok(rows) => {
            if let Some(value) = rows.first().and_then(|row| row.int(0).ok()).filter(|value| *value != 1) {
                log::warn!(
                    "MySQL has innodb_flush_log_at_trx_commit = {value}: a power cut or crash of its host loses rows \
                     that were acknowledged; set it to 1"
                );
            }
        }
        // Other servers that talk this protocol may not have it.
        Err(Failure::Told(..)) => {}
        Err(failure) => return Err(failure),
    }
    for table in schema.tables {
        match foreign_names(conn, table, charset) {
            Ok(None) => {}
            Ok(Some(found)) => log::warn!("database {}, {found}", schema.database),
            Err(Failure::Told(code, text)) => {
                log::info!("the names in {} were not looked at: error {code}: {text}", table.name);
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

/// What is to be said of names that were written in another character set than the one that is configured, going
/// by the rows at both ends of a table.
fn foreign_names(conn: &mut Conn, table: &Table, charset: Charset) -> StdResult<Option<String>, Failure> {
    let names = table.mysql_names();
    if names.is_empty() {
        return Ok(None);
    }
    let columns = names.join(", ");
    let (mut looked_at, mut foreign, mut example) = (0, 0, None);
    for order in ["id", "id DESC"] {
        let sample = format!("SELECT {columns} FROM `{}` ORDER BY {order} LIMIT {SAMPLE_ROWS}", table.name);
        for row in conn.query_iter(sample)? {
            let row = row_of(row?, Charset::Utf8mb4)?;
            looked_at += 1;
            let mut texts = (0..row.len()).filter_map(|column| row.opt_text(column).ok().flatten());
            if let Some(text) = texts.find(|text| charset.is_foreign(text)) {
                foreign += 1;
                example.get_or_insert_with(|| shown(text.as_bytes()));
            }
        }
    }
    Ok(example.map(|example| {
        let other = charset.other();
        format!(
            "table {}: {foreign} of {looked_at} rows have names that were written in {other} and not in {charset}, as \
             '{example}': they are not found. Set mysql_charset = {other} in the files of all servers where existing \
             servers write so, or rewrite the rows; docs/mysql.md says how (\"Names beyond ASCII\")",
            table.name,
        )
    }))
}

fn exists(conn: &mut Conn, sql: &'static str, params: &[Value]) -> StdResult<bool, Failure> {
    Ok(!query(conn, Charset::Utf8mb4, sql, params)?.is_empty())
}

/// The kind of server and its version: "MariaDB 10.11.6".
fn version(conn: &mut Conn) -> StdResult<String, Failure> {
    let rows = query(conn, Charset::Utf8mb4, "SELECT VERSION()", &[])?;
    let text = rows.first().and_then(|row| row.text(0).ok()).unwrap_or("of unknown version");
    let number = text.split('-').next().unwrap_or(text);
    let kind = if text.contains("MariaDB") { "MariaDB" } else { "MySQL" };
    Ok(format!("{kind} {number}"))
}

/// Runs a statement without parameters or rows.
fn command(conn: &mut Conn, sql: &str) -> StdResult<(), Failure> {
    Ok(conn.query_drop(sql)?)
}

fn write(
    conn: &mut Conn,
    charset: Charset,
    sql: &'static str,
    params: &[Value],
) -> StdResult<Written, Failure> {
    conn.exec_drop(sql, parameters(charset, params))?;
    Ok(Written { affected: conn.affected_rows(), last_id: conn.last_insert_id() })
}

fn query(
    conn: &mut Conn,
    charset: Charset,
    sql: &'static str,
    params: &[Value],
) -> StdResult<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    for row in conn.exec_iter(sql, parameters(charset, params))? {
        if rows.len() == ROWS_MAX {
            return Err(Failure::cut_short(format!("more than {ROWS_MAX} rows")));
        }
        rows.push(row_of(row?, charset)?);
    }
    Ok(rows)
}

fn parameters(charset: Charset, params: &[Value]) -> mysql::Params {
    if params.is_empty() {
        return mysql::Params::Empty;
    }
    mysql::Params::Positional(params.iter().map(|value| parameter(charset, value)).collect())
}

fn parameter(charset: Charset, value: &Value) -> mysql::Value {
    match value {
        Value::Null => mysql::Value::NULL,
        Value::Int(value) => mysql::Value::Int(*value),
        Value::Text(value) => mysql::Value::Bytes(charset.encode(value).into_owned().into_bytes()),
        Value::Bytes(value) => mysql::Value::Bytes(value.clone()),
    }
}

fn row_of(row: mysql::Row, charset: Charset) -> StdResult<Row, Failure> {
    let columns = row.columns();
    let values = row.unwrap().into_iter().zip(columns.iter()).map(|(value, column)| {
        let is_text = column.character_set() != BINARY;
        value_of(value, if is_text { charset } else { Charset::Utf8mb4 })
    });
    Ok(Row::new(values.collect::<StdResult<_, _>>()?))
}

/// Texts and bytes come alike: what is UTF-8 is taken for text, and [`Row`] gives either as the other.
fn value_of(value: mysql::Value, charset: Charset) -> StdResult<Value, Failure> {
    Ok(match value {
        mysql::Value::NULL => Value::Null,
        mysql::Value::Int(value) => Value::Int(value),
        mysql::Value::UInt(value) => match i64::try_from(value) {
            Ok(value) => Value::Int(value),
            Err(_) => return Err(Failure::cut_short(format!("the number {value} is out of range"))),
        },
        mysql::Value::Bytes(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Value::Text(charset.decode(text)),
            Err(error) => Value::Bytes(error.into_bytes()),
        },
        // Times are for people; no statement of ours computes with them, or with fractions.
        other => Value::Text(other.as_sql(true).trim_matches('\'').to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::{Column, Password, Table};
    use std::path::PathBuf;
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
    fn only_an_insert_of_parameters_and_nothing_else_is_put_together() {
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
        // Without a word said about it there is the next transaction, and its end without a commit.
        engine.begin().unwrap();
        insert(&mut engine, &[row("g", 1), row("h", 2)]).unwrap();
        engine.rollback();
        engine.begin().unwrap();
        insert(&mut engine, &[row("i", 1), row("j", 2)]).unwrap();
        engine.reset();
        assert_eq!(ids(), "a b c e");
    }
}
