//! What a protocol says in its own way within the frames that all of them share: which command its replies carry,
//! what a failure looks like, and which of its commands have a long body. A service brings its dialect along, so that
//! the message layer knows no protocol.

use crate::error::{Error, ErrorKind};
use crate::proto::tnv::failure::encode_failure;
use crate::rpc::header::{FAILURE, Header};

/// A protocol on 10-byte headers.
pub trait Dialect: Send + Sync + 'static {
    /// The command of every reply of this server.
    fn reply_command(&self) -> u8;

    /// The status of a failure reply, which is not 0, and its body.
    fn failure(&self, error: &Error) -> (i8, Vec<u8>);

    /// For a command whose body may be longer than a small one: so many bytes of it are collected before the request
    /// is handled. What follows them is content, which is received afterwards. 0 for every other command.
    fn head_bytes(&self, command: u8) -> usize;

    /// Whether the connection is kept after a failure of this kind. By default it is closed where the next message
    /// cannot be found, and after a permission error.
    fn keeps_connection(&self, kind: ErrorKind) -> bool {
        !matches!(kind, ErrorKind::Protocol | ErrorKind::Unsupported | ErrorKind::Forbidden)
    }

    /// A whole failure reply.
    fn failure_reply(&self, error: &Error) -> Vec<u8> {
        let (status, body) = self.failure(error);
        let header = Header { body_bytes: body.len() as u64, command: self.reply_command(), status };
        [&header.encode(), &body[..]].concat()
    }
}

/// TNV's: the reply command says which kind of server replies; every failure has status -3, an error number and a
/// text that begins with the server's host name.
pub struct Tnv {
    reply_command: u8,
    host: String,
    heads: &'static [(u8, usize)],
}

impl Tnv {
    /// That of a server on this host, whose replies carry this command.
    pub fn new(reply_command: u8, host: impl Into<String>) -> Tnv {
        Tnv { reply_command, host: host.into(), heads: &[] }
    }

    /// The same with these commands of long bodies, each with the bytes that are collected of its body.
    pub fn with_heads(self, heads: &'static [(u8, usize)]) -> Tnv {
        Tnv { heads, ..self }
    }
}

impl Dialect for Tnv {
    fn reply_command(&self) -> u8 {
        self.reply_command
    }

    fn failure(&self, error: &Error) -> (i8, Vec<u8>) {
        (FAILURE, encode_failure(&self.host, error))
    }

    fn head_bytes(&self, command: u8) -> usize {
        self.heads.iter().find(|(known, _)| *known == command).map_or(0, |(_, bytes)| *bytes)
    }
}
