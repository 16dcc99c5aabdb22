//! A reply on its way out: bytes, and then perhaps a part of a file. What its reader does not take waits in the
//! connection's state.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::limits::{MESSAGE_TIMEOUT, PROGRESS_TIMEOUT, TURN_BYTES};
use crate::net::{SendFileError, Stream};
use crate::rpc::header::Header;

/// Replies that are no longer leave as one piece: to copy so much costs less than a second system call.
const SMALL_REPLY_BYTES_MAX: usize = 64 << 10;

/// So much of a longer file is read before anything is sent: a disk that does not give it can then still be
/// reported, and the peer asks another member.
const FIRST_BYTES: u64 = 4 << 10;

/// Where so much of a file is left, it is worth a system call whether its reader keeps up.
const LONG_BYTES: u64 = 4 << 20;

/// Within this time a reader who keeps up has taken enough of it that there is room for more.
const KEEPING_UP: Duration = Duration::from_millis(1);

thread_local! {
    /// What a worker puts a reply's first piece together in. Nothing stays in it.
    static PIECE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Learns that a file cannot be read, and gives the failure to reply.
pub type ReadFailed = Box<dyn FnOnce(&io::Error) -> Error + Send>;

/// A reply.
pub struct Reply {
    bytes: Bytes,
    sent: usize,
    content: Option<Content>,
    /// When it was begun, or the last byte of a file was taken.
    since: Instant,
}

/// Its bytes, which it has alone or shares with others.
enum Bytes {
    Own(Vec<u8>),
    Shared(SharedReply),
}

/// A whole reply that many may share.
#[derive(Clone)]
pub struct SharedReply(Arc<Vec<u8>>);

/// A part of a file.
struct Content {
    file: File,
    part: Range<u64>,
    failed: Option<ReadFailed>,
}

/// Why a reply could not be sent.
#[derive(Debug)]
pub enum SendError {
    /// The peer has gone.
    Peer(io::Error),
    /// The file cannot be read.
    File(Error),
}

/// A success as it goes over the wire.
fn success(command: u8, body: &[u8]) -> Vec<u8> {
    let header = Header::new(command, body.len() as u64).encode();
    [&header, body].concat()
}

impl SharedReply {
    /// A success with this body.
    pub fn success(command: u8, body: &[u8]) -> SharedReply {
        SharedReply(Arc::new(success(command, body)))
    }

    /// How many have it.
    pub fn count(&self) -> usize {
        Arc::strong_count(&self.0)
    }
}

impl Reply {
    /// These bytes, header and all.
    pub fn new(bytes: Vec<u8>) -> Reply {
        Reply { bytes: Bytes::Own(bytes), sent: 0, content: None, since: Instant::now() }
    }

    /// A success with this body.
    pub fn success(command: u8, body: &[u8]) -> Reply {
        Reply::new(success(command, body))
    }

    /// One that others have, too.
    pub fn shared(reply: &SharedReply) -> Reply {
        Reply { bytes: Bytes::Shared(reply.clone()), ..Reply::new(Vec::new()) }
    }

    /// These bytes, and then a part of a file.
    pub fn with_file(bytes: Vec<u8>, file: File, part: Range<u64>, failed: ReadFailed) -> Reply {
        let content = Content { file, part, failed: Some(failed) };
        let content = Some(content).filter(|content| !content.part.is_empty());
        Reply { content, ..Reply::new(bytes) }
    }

    /// Bytes that are still to be sent.
    pub fn unsent(&self) -> u64 {
        (self.bytes.get().len() - self.sent) as u64 + self.content.as_ref().map_or(0, Content::left)
    }

    /// Whether all of it is sent.
    pub fn is_sent(&self) -> bool {
        self.unsent() == 0
    }

    /// Whether nothing of it is sent, so that another reply may take its place.
    pub fn is_unsent(&self) -> bool {
        self.sent == 0
    }

    /// A small reply must be taken whole; content only must go on.
    pub fn deadline(&self) -> Instant {
        self.since + if self.content.is_some() { PROGRESS_TIMEOUT } else { MESSAGE_TIMEOUT }
    }

    /// What it alone holds in memory while it waits.
    pub fn held_bytes(&self) -> usize {
        match &self.bytes {
            Bytes::Own(bytes) => bytes.capacity(),
            Bytes::Shared(_) => 0,
        }
    }

    /// Sends what the socket takes now, of a file at most what one turn of a worker is for.
    pub fn send(&mut self, stream: &Stream) -> Result<(), SendError> {
        let before = self.unsent();
        if self.sent > 0 && self.content.is_some() {
            // Called again, since the socket takes more: so soon only where the reader keeps up.
            let keeps_up = before >= LONG_BYTES && self.since.elapsed() < KEEPING_UP;
            stream.set_keeps_up(keeps_up).map_err(SendError::Peer)?;
        }
        self.send_first(stream)?;
        self.send_rest(stream)?;
        if self.content.is_some() && self.unsent() < before {
            self.since = Instant::now();
        }
        if self.is_sent() {
            stream.set_keeps_up(false).map_err(SendError::Peer)?;
        }
        Ok(())
    }

    /// The head and the first bytes of a file in one piece, all of the file where it is small. What the socket
    /// does not take is not kept.
    fn send_first(&mut self, stream: &Stream) -> Result<(), SendError> {
        let Some(content) = self.content.as_mut().filter(|_| self.sent == 0) else { return Ok(()) };
        let head = self.bytes.get();
        let is_small = head.len() as u64 + content.left() <= SMALL_REPLY_BYTES_MAX as u64;
        let first = if is_small { content.left() } else { content.left().min(FIRST_BYTES) };
        PIECE.with_borrow_mut(|piece| {
            let bytes = head.len() + first as usize;
            if piece.len() < bytes {
                piece.resize(bytes.max(SMALL_REPLY_BYTES_MAX), 0);
            }
            let piece = &mut piece[..bytes];
            piece[..head.len()].copy_from_slice(head);
            let read = content.file.read_exact_at(&mut piece[head.len()..], content.part.start);
            read.map_err(|error| content.failed(&error))?;
            let taken = stream.write_now(piece, !is_small).map_err(SendError::Peer)?;
            self.sent = taken.min(head.len());
            content.part.start += (taken - self.sent) as u64;
            Ok(())
        })
    }

    fn send_rest(&mut self, stream: &Stream) -> Result<(), SendError> {
        let bytes = self.bytes.get();
        if self.sent < bytes.len() {
            let more = self.content.is_some();
            self.sent += stream.write_now(&bytes[self.sent..], more).map_err(SendError::Peer)?;
        }
        if self.sent == bytes.len()
            && let Some(content) = &mut self.content
        {
            let mut turn = content.part.clone();
            turn.end = turn.end.min(turn.start + TURN_BYTES as u64);
            let sent = stream.send_file_now(&content.file, &mut turn);
            content.part.start = turn.start;
            match sent {
                Ok(()) => {}
                Err(SendFileError::Socket(error)) => return Err(SendError::Peer(error)),
                Err(SendFileError::File(error)) => return Err(content.failed(&error)),
            }
        }
        Ok(())
    }
}

impl Bytes {
    fn get(&self) -> &[u8] {
        match self {
            Bytes::Own(bytes) => bytes,
            Bytes::Shared(shared) => &shared.0,
        }
    }
}

impl Content {
    fn left(&self) -> u64 {
        self.part.end - self.part.start
    }

    fn failed(&mut self, error: &io::Error) -> SendError {
        SendError::File(match self.failed.take() {
            Some(failed) => failed(error),
            None => Error::from(io::Error::from(error.kind())).context("read the file"),
        })
    }
}
