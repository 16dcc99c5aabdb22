//! Connections to MySQL: addresses and failover between them, login, TLS.
//!
//! All threads use one server at a time. A server that does not write, does not answer in time, or breaks new
//! connections is left for the next address.

use std::result::Result as StdResult;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mysql::{Conn, OptsBuilder, SslOpts};

use super::errors::{
    ACCESS_DENIED, Failure, HOST_NOT_ALLOWED, KEY_TOO_LONG, NO_PASSWORD_LOGIN, NOT_GRANTED, TLS_REQUIRED,
    no_connection,
};
use crate::db::charset::Charset;
use crate::db::settings::{DbSettings, Tls};
use crate::error::{Error, ErrorKind, Result};
use crate::fail;
use crate::limits::CONNECT_TIMEOUT;
use crate::net;
use crate::net::stop::Stop;

const DEFAULT_PORT: u16 = 3306;

/// How long the start waits for a server that cannot be reached.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// The pause between two attempts.
const START_INTERVAL: Duration = Duration::from_secs(2);

/// Prepared statements kept by each connection: more than a server has, with those of several rows.
const STATEMENTS_MAX: usize = 64;

/// The largest packet either way: a row is a few KiB.
const PACKET_BYTES_MAX: usize = 16 << 20;

/// No limit of rows: with one, MySQL would cut an answer and report nothing.
const NO_LIMIT: u64 = u64::MAX;

/// A wait for row locks ends before the wait for the server's answer does: then the server reports the
/// time-out, and the connection can be used further. In seconds, as the server wants it.
const LOCK_WAIT_SECS_MAX: u64 = 10;

/// A connection that is logged in.
pub struct Connection {
    /// The driver's connection.
    pub conn: Conn,
    /// As in the configuration.
    pub address: String,
    /// Its index in the configuration.
    index: usize,
    /// What the driver connected to.
    pub peer: Peer,
    /// A query was answered or a transaction committed on it.
    pub has_served: bool,
}

/// Connects to the first of the addresses that answers.
pub struct Connector {
    settings: DbSettings,
    database: &'static str,
    /// Index of the address to be tried first: the one of the last connection, or the next one where that
    /// server did not serve.
    current: AtomicUsize,
}

/// What the driver connects to.
#[derive(Clone)]
pub struct Peer {
    /// An IP address; where the server's certificate must match the host's name, that name.
    host: String,
    port: u16,
}

/// What a connection is bound to.
#[derive(Clone, Copy, PartialEq)]
pub enum Scope {
    /// No database: it may be missing.
    Server,
    /// The schema's database.
    Database,
}

/// Why there is no connection.
pub enum ConnectError {
    /// The server cannot be reached, or not now.
    Unreachable(Error),
    /// The server was reached and refuses this client.
    Refused(Error),
}

impl From<ConnectError> for Error {
    fn from(error: ConnectError) -> Error {
        match error {
            ConnectError::Unreachable(error) | ConnectError::Refused(error) => error,
        }
    }
}

impl Connector {
    /// A connector to the servers of the settings.
    pub fn new(settings: &DbSettings, database: &'static str) -> Connector {
        let mut settings = settings.clone();
        // To the driver zero means no time-out.
        settings.rw_timeout = settings.rw_timeout.max(Duration::from_secs(1));
        Connector { settings, database, current: AtomicUsize::new(0) }
    }

    /// The character set of the deployment's names.
    pub fn charset(&self) -> Charset {
        self.settings.charset
    }

    /// The number of addresses.
    pub fn addresses(&self) -> usize {
        self.settings.addresses.len()
    }

    /// Tries the addresses in turn, the current one first. Of several failures it reports the first refusal,
    /// which the operator can do something about, or else the first failure.
    pub fn connect(&self, scope: Scope) -> StdResult<Connection, ConnectError> {
        let first = self.current.load(Ordering::Relaxed);
        let mut failed: Option<ConnectError> = None;
        for offset in 0..self.addresses() {
            let index = (first + offset) % self.addresses();
            match self.connect_to(index, scope) {
                Ok(connection) => {
                    // Unless another thread has moved on meanwhile.
                    let _ = self.current.compare_exchange(first, index, Ordering::Relaxed, Ordering::Relaxed);
                    return Ok(connection);
                }
                Err(refused @ ConnectError::Refused(_)) => match failed {
                    Some(ConnectError::Refused(_)) => {}
                    _ => failed = Some(refused),
                },
                Err(unreachable) => failed = failed.or(Some(unreachable)),
            }
        }
        Err(failed.unwrap_or_else(|| ConnectError::Unreachable(no_connection())))
    }

    /// Whether a connection is to the current server.
    pub fn is_current(&self, connection: &Connection) -> bool {
        self.current.load(Ordering::Relaxed) == connection.index
    }

    /// Notes how a query went.
    pub fn note<T>(&self, connection: &mut Connection, answer: &StdResult<T, Failure>) {
        match answer {
            Ok(_) => connection.has_served = true,
            Err(failure) => self.note_failure(connection, failure),
        }
    }

    /// Makes the next address the current one where this server does not write, does not answer in time, or
    /// breaks connections that are new. A connection that served and broke later proves nothing: servers
    /// close idle ones, and the next connect shows whether a server restarts.
    pub fn note_failure(&self, connection: &Connection, failure: &Failure) {
        let is_unfit = match failure {
            Failure::Server(..) => failure.is_unwritable(),
            Failure::Broken { timed_out, .. } => *timed_out || !connection.has_served,
        };
        if !is_unfit || self.addresses() == 1 {
            return;
        }
        let next = (connection.index + 1) % self.addresses();
        // Unless another thread has moved on already.
        let moved =
            self.current.compare_exchange(connection.index, next, Ordering::Relaxed, Ordering::Relaxed);
        if moved.is_ok() {
            let next = &self.settings.addresses[next];
            log::warn!("MySQL at {}: {failure}; switching to {next}", connection.address);
        }
    }

    /// Tries the IP addresses of a host in turn; the driver would stop at the first that does not answer.
    /// Where the certificate must match the host's name only the driver can: it takes the name from what it
    /// connects to.
    pub fn connect_to(&self, index: usize, scope: Scope) -> StdResult<Connection, ConnectError> {
        let address = self.settings.addresses[index].as_str();
        let resolved = net::resolve(address, DEFAULT_PORT).map_err(|error| match error.kind() {
            ErrorKind::Invalid => ConnectError::Refused(error.context("mysql_addrs")),
            _ => ConnectError::Unreachable(error.context(format!("connect to MySQL at {address}"))),
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
            Some(failure) => self.connect_error(address, failure),
            None => ConnectError::Unreachable(no_connection()),
        })
    }

    /// Connects and sets the session up.
    pub fn log_in(&self, peer: &Peer, scope: Scope, rw_timeout: Duration) -> StdResult<Conn, Failure> {
        let settings = &self.settings;
        let lock_wait = (rw_timeout.as_secs() / 2).clamp(1, LOCK_WAIT_SECS_MAX);
        // By a statement: MariaDB and MySQL name the variable differently. Statements that insert what they
        // do not find rely on the locks of this level.
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

    /// What a failure during connecting means: the server is away, or it refuses this client.
    pub fn connect_error(&self, address: &str, failure: Failure) -> ConnectError {
        match failure {
            failure if failure.is_transient() => ConnectError::Unreachable(failure.to_unavailable(address)),
            failure => ConnectError::Refused(self.refusal(address, &failure)),
        }
    }

    /// The error of a server that refuses this client, with what to do about it.
    fn refusal(&self, address: &str, failure: &Failure) -> Error {
        let (user, database) = (&self.settings.user, self.database);
        let verb = match failure {
            Failure::Server(ACCESS_DENIED | NO_PASSWORD_LOGIN | TLS_REQUIRED, _) => "refuses",
            _ => "does not serve",
        };
        let advice = self.advice(failure);
        let text =
            format!("MySQL at {address} {verb} user '{user}', database '{database}': {failure}; {advice}");
        Error::new(ErrorKind::Unavailable, text)
    }

    fn advice(&self, failure: &Failure) -> String {
        let has_tls = self.settings.tls != Tls::Off;
        let advice = match failure {
            Failure::Server(ACCESS_DENIED, _) if !has_tls => {
                "check mysql_user and mysql_pass (or mysql_pass_file); an account that needs TLS (REQUIRE SSL) is \
                 refused in the same words: for it set mysql_tls"
            }
            Failure::Server(ACCESS_DENIED, _) => "check mysql_user and mysql_pass (or mysql_pass_file)",
            Failure::Server(NO_PASSWORD_LOGIN, _) => {
                "this account logs in without a password and from its own host alone (unix_socket): make one with a \
                 password, and name it in mysql_user and mysql_pass (or mysql_pass_file)"
            }
            Failure::Server(TLS_REQUIRED, _) => "it takes no connection without TLS: set mysql_tls",
            Failure::Server(code, _) if NOT_GRANTED.contains(code) => {
                return format!(
                    "grant the user what it lacks on {}, or make its tables, columns and indexes from etc/sql",
                    self.database
                );
            }
            Failure::Server(code, _) if KEY_TOO_LONG.contains(code) => {
                "the table's row format is too old for its key: it must be DYNAMIC (in MySQL 5.6 that needs \
                 innodb_file_format = Barracuda and innodb_large_prefix = ON)"
            }
            Failure::Server(HOST_NOT_ALLOWED, _) => "let this host log in there",
            Failure::Server(..) => "the server's error says why; docs/mysql.md has what TNV needs of it",
            Failure::Broken { .. } if has_tls => {
                "check mysql_addrs, mysql_tls, mysql_tls_ca_file and the account"
            }
            Failure::Broken { .. } => "check mysql_addrs and the account",
        };
        advice.to_owned()
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

/// Waits for the server at the start, when the database's host may be starting too.
pub fn wait_for_server<T>(stop: &Stop, mut open: impl FnMut() -> StdResult<T, ConnectError>) -> Result<T> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        match open() {
            Ok(opened) => return Ok(opened),
            Err(ConnectError::Refused(error)) => return Err(error),
            Err(ConnectError::Unreachable(error)) if Instant::now() >= deadline => {
                return Err(error.context(format!("no database for {START_TIMEOUT:?}")));
            }
            Err(ConnectError::Unreachable(error)) => {
                log::warn!("{error}; next attempt in {START_INTERVAL:?}");
            }
        }
        if stop.wait(START_INTERVAL) {
            return fail!(Unavailable, "stopped while waiting for the database");
        }
    }
}
