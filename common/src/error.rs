//! The one error type of the house: a kind, which decides what is done about it, and a sentence
//! that says what was wrong, what it was, and what to do.

use std::fmt;
use std::io;

/// What sort of failure it is. The kind travels on the wire as the error number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request or a setting is not acceptable as it is; asking again will not help.
    Invalid,
    /// The named file, user, group or member is not known.
    NotFound,
    /// What was to be made exists already.
    Exists,
    /// No store path has room.
    NoSpace,
    /// More is asked at once than the limits allow; ask again later.
    Busy,
    /// Something this depends on cannot be reached or does not work now; another may.
    Unavailable,
    /// A deadline passed.
    Timeout,
    /// The peer said something that the protocol does not know.
    Protocol,
    /// The content is not what its checksum says: it was damaged on the way.
    Mismatch,
    /// The command is not one of this server's: existing servers answer so to what ours added.
    Unsupported,
    /// The peer may not do this: its host is not allowed to, or it has not proven a key.
    Forbidden,
    /// A commit was sent and its answer never came: it may or may not have happened.
    OutcomeUnknown,
    /// The operating system or this program failed.
    Internal,
}

impl ErrorKind {
    /// Every kind, for looking one up by its number.
    const ALL: [ErrorKind; 13] = [
        ErrorKind::Invalid,
        ErrorKind::NotFound,
        ErrorKind::Exists,
        ErrorKind::NoSpace,
        ErrorKind::Busy,
        ErrorKind::Unavailable,
        ErrorKind::Timeout,
        ErrorKind::Protocol,
        ErrorKind::Mismatch,
        ErrorKind::Unsupported,
        ErrorKind::Forbidden,
        ErrorKind::OutcomeUnknown,
        ErrorKind::Internal,
    ];

    /// The error number of a failure reply: a negated Linux errno, and -1 (EPERM), which is what
    /// existing servers send for everything, where none fits.
    pub fn number(self) -> i16 {
        match self {
            ErrorKind::Internal => -1,
            ErrorKind::NotFound => -2,       // ENOENT
            ErrorKind::OutcomeUnknown => -5, // EIO
            ErrorKind::Unavailable => -11,   // EAGAIN
            ErrorKind::Forbidden => -13,     // EACCES
            ErrorKind::Busy => -16,          // EBUSY
            ErrorKind::Exists => -17,        // EEXIST
            ErrorKind::Invalid => -22,       // EINVAL
            ErrorKind::NoSpace => -28,       // ENOSPC
            ErrorKind::Protocol => -71,      // EPROTO
            ErrorKind::Mismatch => -74,      // EBADMSG
            ErrorKind::Unsupported => -95,   // EOPNOTSUPP
            ErrorKind::Timeout => -110,      // ETIMEDOUT
        }
    }

    /// The kind that a failure reply's error number stands for; unknown numbers are `Internal`.
    pub fn from_number(number: i16) -> ErrorKind {
        ErrorKind::ALL.into_iter().find(|kind| kind.number() == number).unwrap_or(ErrorKind::Internal)
    }
}

/// A failure: its kind, and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

/// What nearly everything here returns.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of a kind, in words.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into() }
    }

    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The sentence.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The same failure with what was being done: `what: message`.
    pub fn context(self, what: impl fmt::Display) -> Error {
        Error { kind: self.kind, message: format!("{what}: {}", self.message) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        let kind = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ErrorKind::Timeout,
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::AlreadyExists => ErrorKind::Exists,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                ErrorKind::NoSpace
            }
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => ErrorKind::Invalid,
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::NotConnected
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable => ErrorKind::Unavailable,
            _ => ErrorKind::Internal,
        };
        Error::new(kind, error.to_string())
    }
}

/// Adds what was being done to whatever failed.
pub trait Context<T> {
    /// `what` is prefixed to the message, made only when there is an error.
    fn context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| error.into().context(what()))
    }
}

/// `Err(Error::new(kind, format!(..)))`, the way most failures begin.
#[macro_export]
macro_rules! fail {
    ($kind:ident, $($text:tt)+) => {
        Err($crate::error::Error::new($crate::error::ErrorKind::$kind, format!($($text)+)))
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_wire_and_every_number_is_negative() {
        for kind in ErrorKind::ALL {
            assert!(kind.number() < 0);
            assert_eq!(ErrorKind::from_number(kind.number()), kind);
        }
        assert_eq!(ErrorKind::from_number(-999), ErrorKind::Internal);
    }
}
