//! What a peer still sends of a refused request: it is read and dropped within bounds, so that the peer
//! reads its answer. Closing with unread data resets the connection, and takes the answer with it.

use std::io;
use std::time::{Duration, Instant};

use crate::limits::{DRAIN_BYTES_MAX, DRAIN_TIMEOUT, MESSAGE_TIMEOUT, TURN_BYTES};
use crate::net::Stream;

/// How long a connection that is to be closed may take to read its last reply.
const LAST_REPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// What such a connection may still send meanwhile.
const LAST_REPLY_BYTES_MAX: u64 = 1 << 20;

/// What is drained at once, on a worker's stack.
const DRAIN_BYTES: usize = 64 << 10;

/// A connection that is being drained. Then it is kept, or closed after a moment.
pub struct LingeringClose {
    left: u64,
    keep: bool,
    /// The peer knows that nothing more will come.
    closing: bool,
    until: Instant,
    progress: Instant,
}

/// How far the draining is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// All of it was read, and the connection is kept.
    All,
    /// There is more to come.
    Part,
    /// The connection is to be closed now.
    Closing,
}

impl LingeringClose {
    /// There is nothing to drain, and the connection is kept.
    pub fn nothing() -> LingeringClose {
        LingeringClose::rest(0, true)
    }

    /// The connection is to be closed as soon as its last reply has been read.
    pub fn close() -> LingeringClose {
        LingeringClose::rest(0, false)
    }

    /// So much is still to come of a refused request.
    pub fn rest(unread: u64, keep: bool) -> LingeringClose {
        let now = Instant::now();
        let left = unread.min(DRAIN_BYTES_MAX);
        LingeringClose {
            left,
            keep: keep && left == unread,
            closing: false,
            until: now + DRAIN_TIMEOUT,
            progress: now,
        }
    }

    /// The connection is to be closed, but its peer is sending something of unknown length: it is
    /// told at once that nothing more will come, and may take so long to hear it.
    pub fn shut_down(stream: &Stream, timeout: Duration) -> LingeringClose {
        stream.shutdown_write();
        let now = Instant::now();
        LingeringClose {
            left: DRAIN_BYTES_MAX,
            keep: false,
            closing: true,
            until: now + timeout,
            progress: now,
        }
    }

    /// When it is to be closed, should nothing more come.
    pub fn deadline(&self) -> Instant {
        self.until.min(self.progress + MESSAGE_TIMEOUT)
    }

    /// Whether there is nothing to do, as after nearly every request.
    pub fn is_nothing(&self) -> bool {
        self.left == 0 && self.keep
    }

    /// Reads what there is.
    pub fn drain(&mut self, stream: &Stream) -> Drained {
        // No buffer is made for nothing.
        if self.is_nothing() {
            return Drained::All;
        }
        let mut buffer = [0; DRAIN_BYTES];
        let mut turn = 0;
        while turn < TURN_BYTES {
            if self.left == 0 {
                match (self.keep, self.closing) {
                    (true, _) => return Drained::All,
                    (false, true) => return Drained::Closing,
                    (false, false) => self.close_soon(stream),
                }
            }
            let want = buffer.len().min(usize::try_from(self.left).unwrap_or(buffer.len()));
            match stream.read_now(&mut buffer[..want]) {
                Ok(count) if count > 0 => {
                    self.left -= count as u64;
                    turn += count;
                    self.progress = Instant::now();
                }
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < self.deadline() =>
                {
                    return Drained::Part;
                }
                _ => return Drained::Closing,
            }
            if Instant::now() >= self.until {
                return Drained::Closing;
            }
        }
        Drained::Part
    }

    fn close_soon(&mut self, stream: &Stream) {
        stream.shutdown_write();
        self.closing = true;
        self.left = LAST_REPLY_BYTES_MAX;
        self.until = Instant::now() + LAST_REPLY_TIMEOUT;
    }
}
