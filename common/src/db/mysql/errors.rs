//! What MySQL's error codes mean: for the connection, for the transaction, and for the caller.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use mysql::DriverError;

use crate::db::engine::TransactionError;
use crate::error::{Error, ErrorKind};
use crate::limits::CONNECT_TIMEOUT;

/// Refusals that pass: too many connections (of one user too, by either limit), the server is shutting
/// down, or has no memory (1037, 1038, 1041) or thread (1135) to spare.
const TRANSIENT: [u16; 8] = [1040, 1203, 1226, 1053, 1037, 1038, 1041, 1135];

/// Codes below are of the server's own files and memory, whatever the statement ("global error codes",
/// MySQL's Error Message Sources and Elements): no space or no right in its directory for temporary tables,
/// say.
const FIRST_SERVER_ERROR: u16 = 1000;

/// What a server sends on a connection that it closes: shutdown, killed, idle for too long.
const CLOSING: [u16; 6] = [1053, 1080, 1152, 1927, 3169, 4031];

/// InnoDB rolled this transaction back because it and another waited for each other's locks.
pub const DEADLOCK: u16 = 1213;

/// Deadlock; lock wait timed out; the row was changed since this transaction began; the next
/// auto-increment value could not be read, which is how InnoDB reports a deadlock over its lock.
pub const CONFLICTS: [u16; 4] = [DEADLOCK, 1205, 1020, 1467];

/// A unique key is taken.
const DUPLICATES: [u16; 4] = [1062, 1586, 1022, 1169];

/// The server does not write, or does not serve at all, whatever the statement: it was made read-only (1290,
/// 1836, 1792, 1207, its tables 1036), it is full (1114, 1021), or it was cut off from its cluster
/// (1047). Another one may.
const UNWRITABLE: [u16; 8] = [1290, 1836, 1792, 1207, 1036, 1114, 1021, 1047];

/// The statement or a value in it is invalid, and stays so: syntax and columns (1054, 1064, 1136, 1267), or a
/// value that a column, a key or a check does not take. All others are states of the server, which may pass.
const INVALID: [u16; 18] = [
    1048, 1054, 1064, 1136, 1264, 1265, 1267, 1292, 1300, 1364, 1366, 1406, 1411, 1451, 1452, 1690, 3819,
    4025,
];

/// The account lacks a privilege; the table does not exist.
const ACCESS_ERRORS: [u16; 3] = [1142, 1143, 1146];

/// The account may not log in with this password.
pub const ACCESS_DENIED: u16 = 1045;

/// The account does not log in by a password: MariaDB's root, as it is installed, does so by a socket.
pub const NO_PASSWORD_LOGIN: u16 = 1698;

/// The account may not log in from this host.
pub const HOST_NOT_ALLOWED: u16 = 1130;

/// The account lacks a privilege to create what is missing.
pub const NOT_GRANTED: [u16; 4] = [1044, 1142, 1227, 1370];

/// The server takes no connection without TLS, whatever the account.
pub const TLS_REQUIRED: u16 = 3159;

/// A key is longer than the row format of its table allows.
pub const KEY_TOO_LONG: [u16; 2] = [1071, 1709];

/// The database, table, column or index exists: another server created it at the same moment.
pub const ALREADY_EXISTS: [u16; 4] = [1007, 1050, 1060, 1061];

/// How an exchange with a server failed.
#[derive(Clone, Debug)]
pub enum Failure {
    /// The server answered with an error: its code and text. The connection can be used further.
    Server(u16, String),
    /// Anything else. What is under way on the connection is unknown, so it must be dropped.
    Broken {
        /// What happened.
        text: String,
        /// There was no answer in time.
        timed_out: bool,
        /// Another attempt would fail too.
        is_permanent: bool,
    },
}

impl From<mysql::Error> for Failure {
    fn from(error: mysql::Error) -> Failure {
        match error {
            mysql::Error::MySqlError(error) if CLOSING.contains(&error.code) => {
                Failure::broken(format!("error {}: {}", error.code, error.message))
            }
            mysql::Error::MySqlError(error) => Failure::Server(error.code, error.message),
            mysql::Error::IoError(error) => Failure::of_socket(&error),
            // The codec's own errors wrap those of the socket in the middle of an exchange.
            mysql::Error::CodecError(error) => {
                match StdError::source(&error).and_then(<dyn StdError>::downcast_ref) {
                    Some(error) => Failure::of_socket(error),
                    None => Failure::broken(error.to_string()),
                }
            }
            mysql::Error::DriverError(DriverError::ConnectTimeout) => {
                Failure::broken(format!("cannot connect within {CONNECT_TIMEOUT:?}"))
            }
            mysql::Error::DriverError(DriverError::CouldNotConnect(Some((_, text, _)))) => {
                Failure::broken(format!("cannot connect: {text}"))
            }
            mysql::Error::DriverError(
                error @ (DriverError::UnknownAuthPlugin(_)
                | DriverError::OldMysqlPasswordDisabled
                | DriverError::CleartextPluginDisabled
                | DriverError::UnsupportedProtocol(_)
                | DriverError::Protocol41NotSet
                | DriverError::TlsNotSupported
                | DriverError::MismatchedStmtParams(..)),
            ) => Failure::permanent(error.to_string()),
            mysql::Error::TlsError(error) => Failure::permanent(format!("TLS: {error}")),
            error => Failure::broken(error.to_string()),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Server(code, text) => write!(out, "error {code}: {text}"),
            Failure::Broken { text, .. } => out.write_str(text),
        }
    }
}

impl Failure {
    fn broken(text: String) -> Failure {
        Failure::Broken { text, timed_out: false, is_permanent: false }
    }

    /// One that another attempt would meet too, such as an answer that is not read to its end.
    pub fn permanent(text: String) -> Failure {
        Failure::Broken { text, timed_out: false, is_permanent: true }
    }

    fn of_socket(error: &io::Error) -> Failure {
        let timed_out = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        let text = if timed_out { "no answer in time".to_owned() } else { error.to_string() };
        // How rustls reports a bad certificate, or a peer that does not speak TLS.
        let is_permanent = error.kind() == io::ErrorKind::InvalidData;
        Failure::Broken { text, timed_out, is_permanent }
    }

    /// Whether this server refuses every client's writes, and another may take them.
    pub fn is_unwritable(&self) -> bool {
        matches!(self, Failure::Server(code, _) if UNWRITABLE.contains(code))
    }

    /// Whether a server that could not be connected to for this may serve later.
    pub fn is_transient(&self) -> bool {
        match self {
            Failure::Server(code, _) => {
                *code < FIRST_SERVER_ERROR
                    || TRANSIENT.contains(code)
                    || CONFLICTS.contains(code)
                    || self.is_unwritable()
            }
            Failure::Broken { is_permanent, .. } => !is_permanent,
        }
    }

    /// Whether the connection must be dropped.
    pub fn ends_connection(&self) -> bool {
        matches!(self, Failure::Broken { .. }) || self.is_unwritable()
    }

    /// What it means to the transaction that the statement was part of.
    pub fn to_transaction_error(&self, address: &str) -> TransactionError {
        let error = self.to_error(address);
        match self {
            failure if failure.ends_connection() => TransactionError::ConnectionLost(error),
            Failure::Server(code, _) if CONFLICTS.contains(code) => TransactionError::Conflict(error),
            // These leave the rest of the transaction as it is.
            Failure::Server(code, _) if DUPLICATES.contains(code) => TransactionError::Refused(error),
            Failure::Server(code, _) if INVALID.contains(code) || ACCESS_ERRORS.contains(code) => {
                TransactionError::Refused(error)
            }
            _ => TransactionError::Aborted(error),
        }
    }

    /// The error of a caller whose request does not matter.
    pub fn to_unavailable(&self, address: &str) -> Error {
        Error::new(ErrorKind::Unavailable, format!("MySQL at {address}: {self}"))
    }

    /// The error of the caller whose statement it was.
    pub fn to_error(&self, address: &str) -> Error {
        let kind = match self {
            Failure::Server(code, _) if DUPLICATES.contains(code) => ErrorKind::Exists,
            Failure::Server(code, _) if CONFLICTS.contains(code) => ErrorKind::Busy,
            Failure::Server(code, _) if INVALID.contains(code) => ErrorKind::Invalid,
            Failure::Server(..) | Failure::Broken { .. } => ErrorKind::Unavailable,
        };
        Error::new(kind, format!("MySQL at {address}: {self}"))
    }
}

/// The error where there is no connection at all.
pub fn no_connection() -> Error {
    Error::new(ErrorKind::Unavailable, "there is no connection to MySQL")
}
