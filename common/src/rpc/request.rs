//! One request as its handler sees it: the parts of its body that have been collected, and the way to its reply.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;

use crate::error::{Error, ErrorKind, Result};
use crate::fail;
use crate::net::Stream;
use crate::rpc::header::Header;
use crate::rpc::receive::Receiver;
use crate::rpc::reply::{ReadFailed, Reply, SharedReply};

/// How far the answer to a request is.
pub(super) enum Answer {
    /// Nothing has been said yet.
    Open,
    /// This is the reply.
    Replied(Reply),
    /// The content is received by this, which then makes the reply.
    Receiving(Box<dyn Receiver>),
}

/// One request, and the way to its reply.
pub struct Request<'a, C> {
    pub(super) stream: &'a Stream,
    pub(super) header: Header,
    /// What is remembered of the connection.
    pub conn: &'a mut C,
    /// What is there of the body already and was not read yet.
    pub(super) collected: &'a [u8],
    /// How much of the body was not read yet.
    pub(super) remaining: u64,
    /// The command of the reply.
    pub(super) command: u8,
    pub(super) answer: Answer,
}

impl<C> Request<'_, C> {
    /// The command.
    pub fn command(&self) -> u8 {
        self.header.command
    }

    /// The length of the whole body.
    pub fn body_bytes(&self) -> u64 {
        self.header.body_bytes
    }

    /// Who asks.
    pub fn peer(&self) -> SocketAddr {
        self.stream.peer().unwrap_or_else(|| (Ipv4Addr::UNSPECIFIED, 0).into())
    }

    /// The connection's socket.
    pub fn stream(&self) -> &Stream {
        self.stream
    }

    /// The failure of a command that this server does not have, in the words of existing ones.
    pub fn unknown_command(&self) -> Error {
        Error::new(ErrorKind::Unsupported, format!("unknown command: {}", self.header.command))
    }

    /// A body of exactly `N` bytes.
    pub fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        match self.header.body_bytes {
            bytes if bytes == N as u64 => self.head(),
            bytes => fail!(Protocol, "invalid body length, got {bytes}, want {N}"),
        }
    }

    /// The first `N` bytes of a body that goes on.
    pub fn head<const N: usize>(&mut self) -> Result<[u8; N]> {
        if self.remaining < N as u64 {
            return fail!(Protocol, "invalid body length, got {}, want at least {N}", self.header.body_bytes);
        }
        let mut bytes = [0; N];
        self.read_small(&mut bytes)?;
        Ok(bytes)
    }

    /// A whole body of at most `max` bytes.
    pub fn small(&mut self, max: usize) -> Result<Vec<u8>> {
        match usize::try_from(self.header.body_bytes) {
            Ok(bytes) if bytes <= max => {
                let mut body = vec![0; bytes];
                self.read_small(&mut body)?;
                Ok(body)
            }
            _ => fail!(Protocol, "invalid body length, got {}, want at most {max}", self.header.body_bytes),
        }
    }

    /// A request without a body.
    pub fn empty(&mut self) -> Result<()> {
        self.fixed::<0>().map(drop)
    }

    /// From what has been collected: nothing here waits for a peer.
    fn read_small(&mut self, bytes: &mut [u8]) -> Result<()> {
        let Some((taken, rest)) = self.collected.split_at_checked(bytes.len()) else {
            let (want, got) = (bytes.len(), self.collected.len());
            return fail!(Protocol, "invalid body length, want {want} bytes of it at once, got {got}");
        };
        bytes.copy_from_slice(taken);
        self.collected = rest;
        self.remaining -= taken.len() as u64;
        Ok(())
    }

    /// The rest of the body is content: this takes it as it comes, and then makes the reply.
    pub fn receive(&mut self, receiver: impl Receiver + 'static) {
        self.answer = Answer::Receiving(Box::new(receiver));
    }

    /// Replies with a success. It leaves when the handler returns.
    pub fn reply(&mut self, body: &[u8]) {
        self.answer = Answer::Replied(Reply::success(self.command, body));
    }

    /// Replies with a success that many may share.
    pub fn reply_shared(&mut self, reply: &SharedReply) {
        self.answer = Answer::Replied(Reply::shared(reply));
    }

    /// Replies with `head` and a part of a file, which the caller has compared with the file's size. Where the
    /// file cannot be read, `failed` learns of it and gives the failure to reply.
    pub fn reply_file(&mut self, head: &[u8], file: File, part: Range<u64>, failed: ReadFailed) {
        let header = Header::new(self.command, head.len() as u64 + part.end - part.start).encode();
        self.answer = Answer::Replied(Reply::with_file([&header, head].concat(), file, part, failed));
    }
}
