//! A message on its way in, as far as it has come: its header, and its body where that is small.
//!
//! A small message mostly comes with one system call: what is read at once may go over its end by a little, which
//! then is the start of the next one.

use std::io;
use std::time::Instant;

use crate::error::Error;
use crate::limits::{MESSAGE_TIMEOUT, SMALL_BODY_BYTES_MAX};
use crate::net::Stream;
use crate::rpc::dialect::Dialect;
use crate::rpc::header::{HEADER_BYTES, Header};

/// What is read at once of a message: any of the small ones is whole then, and what comes with it of the
/// next one is little.
const READ_BYTES: usize = 512;

/// A message as far as it has come: its header, and its body too where that is small.
#[derive(Default)]
pub(super) struct Message {
    /// Perhaps with a little of what follows.
    pub(super) bytes: Vec<u8>,
    /// When the first byte came.
    pub(super) since: Option<Instant>,
}

/// What came of reading it.
pub(super) enum Collected {
    /// The header, and a small body, or the head of a large one.
    Whole(Header),
    /// There is more to come.
    Part,
    /// The peer has closed, is gone, or took too long.
    Gone,
    /// No message.
    Bad(Error),
}

impl Message {
    /// One of which so much has come.
    pub(super) fn begun(bytes: Vec<u8>) -> Message {
        let since = (!bytes.is_empty()).then(Instant::now);
        Message { bytes, since }
    }

    /// Reads what has arrived of the message.
    pub(super) fn collect(&mut self, stream: &Stream, dialect: &impl Dialect) -> Collected {
        loop {
            let header = match self.bytes.first_chunk().map(Header::decode) {
                None => None,
                Some(Ok(header)) => Some(header),
                Some(Err(error)) => return Collected::Bad(error),
            };
            let wanted = HEADER_BYTES + header.map_or(0, |header| collected_bytes(header, dialect));
            let filled = self.bytes.len();
            if let Some(header) = header.filter(|_| filled >= wanted) {
                return Collected::Whole(header);
            }
            self.bytes.resize(wanted.max(READ_BYTES), 0);
            let read = stream.read_now(&mut self.bytes[filled..]);
            self.bytes.truncate(filled + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(count) if count > 0 => self.since = self.since.or_else(|| Some(Instant::now())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match self.since {
                    Some(since) if since.elapsed() >= MESSAGE_TIMEOUT => return Collected::Gone,
                    Some(_) => return Collected::Part,
                    None => {
                        self.bytes = Vec::new();
                        return Collected::Part;
                    }
                },
                _ => return Collected::Gone,
            }
        }
    }

    /// Takes out what there is of the body, and of the message behind it.
    pub(super) fn split(&mut self, header: Header) -> (Vec<u8>, Vec<u8>) {
        let mut body = std::mem::take(&mut self.bytes);
        body.drain(..HEADER_BYTES);
        let end = usize::try_from(header.body_bytes).unwrap_or(usize::MAX).min(body.len());
        let next = body.split_off(end);
        (body, next)
    }
}

/// How much of a body is collected before the request is handled.
fn collected_bytes(header: Header, dialect: &impl Dialect) -> usize {
    let head_bytes = dialect.head_bytes(header.command);
    match usize::try_from(header.body_bytes) {
        Ok(bytes) if bytes <= SMALL_BODY_BYTES_MAX => bytes,
        // One that is larger than small, and still whole within its command's head, is collected whole.
        Ok(bytes) => bytes.min(head_bytes),
        Err(_) => head_bytes,
    }
}
