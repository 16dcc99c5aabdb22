//! Writes one response: sends what the socket accepts, then reads the next part of the content from the
//! storages. A viewer that pauses or is slow holds no worker and no content: what is loaded for it is dropped
//! as soon as the socket is full, and read again later. It is read of the very upload that the response began
//! with, so no byte of another upload can follow.
//!
//! A response:
//!
//! ```text
//!  Load ──┬── next piece is read from the storages ──────────────────▶ Send
//!         ├── socket is full ────────────────────────────────────────▶ Wait
//!         ├── 8 MiB were sent: other connections have their turn ────▶ Load
//!         └── storages cannot read it, or a slow viewer is gone ─────▶ failed
//!  Send ──┬── all loaded bytes are accepted, more content is left ───▶ Load
//!         ├── nothing is left ───────────────────────────────────────▶ done
//!         ├── socket is full for PATIENCE (slow viewer: at once) ────▶ Wait
//!         └── viewer is gone ────────────────────────────────────────▶ failed
//!  Wait ──┬── socket accepts more (loaded content was dropped) ──────▶ Load (head unsent: Send)
//!         └── nothing is accepted for PROGRESS_TIMEOUT ──────────────▶ failed
//! ```
//!
//! A viewer is slow after Wait, and gets smaller pieces until it accepts STEADY_BYTES without a pause. The
//! head and small bodies are in memory from the start and are never dropped. After a failure the connection
//! is closed, so that the viewer sees a body shorter than its length.

use std::fmt::{self, Display};
use std::io;
use std::time::{Duration, Instant};

use tnv_common::error::Error;
use tnv_common::http::response::Written;
use tnv_common::limits::{COPY_BYTES, PROGRESS_TIMEOUT, TURN_BYTES};
use tnv_common::net::Stream;

use crate::download::buffers::{PIECE_BYTES, SMALL_PIECE_BYTES};
use crate::download::content::Content;
use crate::download::files::Files;
use crate::service::FileService;

/// What is read at once for a slow viewer, at most.
const SLOW_PIECE_BYTES: usize = COPY_BYTES / 2;

/// A viewer that accepts nothing for this long is slow: what is loaded for it is dropped.
const PATIENCE: Duration = Duration::from_millis(5);

/// A slow viewer that accepts so much without a pause is fast again. If that is wrong, what was read in vain
/// is small beside it.
const STEADY_BYTES: u64 = 4 << 20;

/// A response on its way.
pub struct ResponseWriter<I> {
    /// The head, with a small body where it has one.
    head: Written,
    head_sent: usize,
    content: Content<I>,
    body_sent: u64,
    /// When the last byte was accepted.
    progress: Instant,
    /// Since when nothing is accepted.
    stalled: Option<Instant>,
    is_slow: bool,
    /// Bytes accepted since the last pause that was longer than `PATIENCE`.
    steady: u64,
    /// Bytes accepted since the last wait.
    accepted: usize,
    /// What is read at once for a slow viewer: as much as its socket accepted last.
    slow_piece_bytes: usize,
}

/// How far a response is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// All of it was accepted.
    All,
    /// The socket is full.
    Part,
    /// The socket may accept more, and nothing is loaded. So much was sent that other connections have their turn.
    Turn,
}

/// Why a response is incomplete.
#[derive(Debug)]
pub enum Failure {
    /// The viewer went away.
    Viewer(io::Error),
    /// The storages could not read the file.
    Storages(Error),
}

impl Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Viewer(error) => write!(out, "viewer gone: {error}"),
            Failure::Storages(error) => write!(out, "file unreadable: {error}"),
        }
    }
}

impl<I: Send> ResponseWriter<I> {
    /// A response: its head, and the content that follows.
    pub fn new(head: Written, content: Content<I>) -> ResponseWriter<I> {
        ResponseWriter {
            head,
            head_sent: 0,
            content,
            body_sent: 0,
            progress: Instant::now(),
            stalled: None,
            is_slow: false,
            steady: 0,
            accepted: 0,
            slow_piece_bytes: SLOW_PIECE_BYTES,
        }
    }

    /// The bytes of the body that the viewer's socket accepted.
    pub fn body_sent(&self) -> u64 {
        self.body_sent
    }

    /// The memory that it holds while it waits.
    pub fn held_bytes(&self) -> usize {
        self.head.bytes.capacity() + self.content.held_bytes()
    }

    /// When the viewer has accepted nothing for too long.
    pub fn deadline(&self) -> Instant {
        self.progress + PROGRESS_TIMEOUT
    }

    /// Sends what the socket accepts now.
    pub fn go_on<F>(&mut self, stream: &Stream, service: &FileService<F>) -> Result<Sent, Failure>
    where
        F: Files<Info = I>,
    {
        let sent_before = self.body_sent;
        loop {
            if self.content.left() > 0 && self.content.ready().is_empty() {
                if self.body_sent - sent_before >= TURN_BYTES as u64 {
                    return Ok(Sent::Turn);
                }
                // Nothing is read for a viewer that is gone, nor while the socket is full.
                if self.is_slow && stream.is_gone() {
                    return Err(Failure::Viewer(io::ErrorKind::ConnectionReset.into()));
                }
                if !self.is_writable(stream) {
                    self.stall();
                    return Ok(Sent::Part);
                }
                let bytes = if self.is_slow { self.slow_piece_bytes } else { PIECE_BYTES };
                service.load(&mut self.content, bytes).map_err(Failure::Storages)?;
            }
            self.send(stream).map_err(Failure::Viewer)?;
            let is_head_sent = self.head.bytes.is_empty();
            if is_head_sent && self.content.left() == 0 {
                return Ok(Sent::All);
            }
            let is_unsent = !is_head_sent || !self.content.ready().is_empty();
            if is_unsent && !self.is_writable(stream) {
                self.stall();
                return Ok(Sent::Part);
            }
        }
    }

    fn send(&mut self, stream: &Stream) -> io::Result<()> {
        let (head, ready) = (&self.head.bytes[self.head_sent..], self.content.ready());
        let (head_left, bytes) = (head.len(), head.len() + ready.len());
        let count = stream.write_two_now(head, ready)?;
        let of_head = count.min(head_left);
        let of_content = count - of_head;
        self.body_sent +=
            (self.body_in_memory(self.head_sent + of_head) - self.body_in_memory(self.head_sent)) as u64;
        self.body_sent += of_content as u64;
        self.head_sent += of_head;
        if of_head == head_left {
            (self.head, self.head_sent) = (Written::default(), 0);
        }
        self.content.advance(of_content);
        if count > 0 {
            self.progress = Instant::now();
            if self.stalled.take().is_some_and(|stalled| stalled.elapsed() > PATIENCE) {
                self.steady = 0;
            }
            self.steady += count as u64;
            self.accepted += count;
            self.is_slow &= self.steady < STEADY_BYTES;
        }
        if count < bytes {
            self.stalled.get_or_insert_with(Instant::now);
        }
        Ok(())
    }

    /// How much of the first `sent` bytes in memory is body.
    fn body_in_memory(&self, sent: usize) -> usize {
        sent.saturating_sub(self.head.head_bytes)
    }

    /// Whether the socket accepts more, at once or within the patience. An error shows with the next write.
    fn is_writable(&self, stream: &Stream) -> bool {
        let patience = if self.is_slow { Duration::ZERO } else { PATIENCE };
        stream.wait_writable(patience).unwrap_or(true)
    }

    /// The socket is full: drops what is loaded.
    fn stall(&mut self) {
        self.content.unload();
        self.stalled.get_or_insert_with(Instant::now);
        self.is_slow = true;
        self.slow_piece_bytes = self.accepted.clamp(SMALL_PIECE_BYTES, SLOW_PIECE_BYTES);
        self.accepted = 0;
    }
}
