//! One answer on its way to its viewer: what the socket takes is sent, and the next of it is then read from
//! the storages. A viewer who pauses or is slow holds no worker: as soon as nothing is taken, what is here of
//! the content is forgotten, and read again when there is room for it. It is of the very upload that the
//! answer began with, so that no byte of another one can follow.

use std::fmt::{self, Display};
use std::io;
use std::time::{Duration, Instant};

use tnv_common::error::Error;
use tnv_common::limits::{COPY_BYTES, PROGRESS_TIMEOUT, TURN_BYTES};
use tnv_common::net::Stream;

use crate::content::Content;
use crate::files::Files;
use crate::pieces::{PIECE_BYTES, SMALL_PIECE_BYTES};
use crate::service::FileService;

/// What is read at once for a viewer who is slow, at most.
const SLOW_PIECE_BYTES: usize = COPY_BYTES / 2;

/// A viewer who takes nothing for this long is slow: what is here for him is forgotten.
const PATIENCE: Duration = Duration::from_millis(5);

/// One who was slow and then took so much without pause is not any more. Should that be a mistake, what was
/// read in vain is small beside it.
const STEADY_BYTES: u64 = 4 << 20;

/// An answer on its way.
pub struct Relay<I> {
    head: Vec<u8>,
    head_sent: usize,
    content: Content<I>,
    content_taken: u64,
    /// When the last byte was taken.
    since: Instant,
    /// Since when nothing is taken.
    stalled: Option<Instant>,
    is_slow: bool,
    /// Bytes taken since the viewer last made anybody wait: for long, and at all.
    steady: u64,
    taken: usize,
    /// What is read at once for a slow one: as much as his socket took last.
    slow_piece_bytes: usize,
}

/// How far an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// All of it was taken.
    All,
    /// The viewer takes nothing more now.
    Part,
    /// He may take more. So much was sent that others should have their turn before; nothing is loaded meanwhile.
    Turn,
}

/// Why an answer did not reach its viewer.
#[derive(Debug)]
pub enum Failure {
    /// The viewer went away.
    Viewer(io::Error),
    /// The storages could not complete it.
    Storages(Error),
}

impl Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Viewer(error) => error.fmt(out),
            Failure::Storages(error) => error.fmt(out),
        }
    }
}

impl<I: Send> Relay<I> {
    /// An answer. The head has its empty line.
    pub fn new(head: Vec<u8>, content: Content<I>) -> Relay<I> {
        Relay {
            head,
            head_sent: 0,
            content,
            content_taken: 0,
            since: Instant::now(),
            stalled: None,
            is_slow: false,
            steady: 0,
            taken: 0,
            slow_piece_bytes: SLOW_PIECE_BYTES,
        }
    }

    /// The bytes of content that the viewer has taken.
    pub fn content_taken(&self) -> u64 {
        self.content_taken
    }

    /// What it holds in memory while it waits.
    pub fn held_bytes(&self) -> usize {
        self.head.capacity() + self.content.held_bytes()
    }

    /// When the viewer has taken nothing for too long.
    pub fn deadline(&self) -> Instant {
        self.since + PROGRESS_TIMEOUT
    }

    /// Sends what the viewer takes now.
    pub fn go_on<F>(&mut self, stream: &Stream, service: &FileService<F>) -> Result<Sent, Failure>
    where
        F: Files<Info = I>,
    {
        let taken_before = self.content_taken;
        loop {
            if self.content.left() > 0 && self.content.ready().is_empty() {
                if self.content_taken - taken_before >= TURN_BYTES as u64 {
                    return Ok(Sent::Turn);
                }
                // Nothing is read for whoever has gone, nor what there is no room for.
                if self.is_slow && stream.is_gone() {
                    return Err(Failure::Viewer(io::ErrorKind::ConnectionReset.into()));
                }
                if !self.is_writable(stream) {
                    return Ok(self.let_go());
                }
                let bytes = if self.is_slow { self.slow_piece_bytes } else { PIECE_BYTES };
                service.load(&mut self.content, bytes).map_err(Failure::Storages)?;
            }
            self.send(stream).map_err(Failure::Viewer)?;
            if self.head.is_empty() && self.content.left() == 0 {
                return Ok(Sent::All);
            }
            let is_unsent = !self.head.is_empty() || !self.content.ready().is_empty();
            if is_unsent && !self.is_writable(stream) {
                return Ok(self.let_go());
            }
        }
    }

    fn send(&mut self, stream: &Stream) -> io::Result<()> {
        let (head, ready) = (&self.head[self.head_sent..], self.content.ready());
        let (head_bytes, bytes) = (head.len(), head.len() + ready.len());
        let count = stream.write_two_now(head, ready)?;
        let of_head = count.min(head_bytes);
        self.head_sent += of_head;
        if of_head == head_bytes {
            (self.head, self.head_sent) = (Vec::new(), 0);
        }
        self.content.took(count - of_head);
        self.content_taken += (count - of_head) as u64;
        if count > 0 {
            self.since = Instant::now();
            if self.stalled.take().is_some_and(|stalled| stalled.elapsed() > PATIENCE) {
                self.steady = 0;
            }
            self.steady += count as u64;
            self.taken += count;
            self.is_slow &= self.steady < STEADY_BYTES;
        }
        if count < bytes {
            self.stalled.get_or_insert_with(Instant::now);
        }
        Ok(())
    }

    /// Whether the viewer takes more, at once or so soon that nothing is given up for it. An error comes up
    /// with the next write.
    fn is_writable(&self, stream: &Stream) -> bool {
        let patience = if self.is_slow { Duration::ZERO } else { PATIENCE };
        stream.wait_writable(patience).unwrap_or(true)
    }

    /// The viewer takes nothing now: what is here for him is given up. He is not done.
    fn let_go(&mut self) -> Sent {
        self.content.forget();
        self.stalled.get_or_insert_with(Instant::now);
        self.is_slow = true;
        self.slow_piece_bytes = self.taken.clamp(SMALL_PIECE_BYTES, SLOW_PIECE_BYTES);
        self.taken = 0;
        Sent::Part
    }
}
