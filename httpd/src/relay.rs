//! One answer on its way to its viewer: what the socket takes is sent, and what it does not take
//! waits here, so that a viewer who pauses or is slow holds no worker.
//!
//! Nor does one hold the private connection, with its worker and its threads: as soon as a viewer
//! takes nothing, that is given up, and the rest is asked for in pieces, each when there is room for
//! it. The pieces name the upload, so that no byte of another one can follow. One who takes them
//! without pause for a while gets the rest in one go again. Few answers cannot be continued so: those
//! of existing storages, which have no validator, and several ranges. A bounded number of them keep
//! their private connections.

use std::fmt::{self, Display};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tnv_common::error::{Error, Result};
use tnv_common::fail;
use tnv_common::limits::{COPY_BYTES, PROGRESS_TIMEOUT};
use tnv_common::net::Stream;

use crate::private::{Answered, Asking, Private, REST_HEADER};
use crate::room;

/// Most bytes of an answer that wait here for its viewer, and what is asked for at once for one who
/// is slow. A socket that has room again takes about as much.
const PIECE_BYTES: usize = COPY_BYTES / 2;

/// A viewer who takes nothing for this long is slow: it costs asking anew.
const PATIENCE: Duration = Duration::from_millis(5);

/// One who was slow and then took so much without pause gets the rest in one go. Should that be a
/// mistake, what was read in vain (two slices or so) is small beside it.
const STEADY_BYTES: u64 = 4 << 20;

/// Most slow viewers who keep a private connection. With what the service has ready for each, and the
/// buffers in between, that is 0.4 MiB.
const KEPT_MAX: usize = 256;

/// What relays need.
pub struct Relays {
    private: Private,
    /// How many more slow viewers may keep a private connection.
    kept: Arc<AtomicUsize>,
}

impl Relays {
    /// Relays from there. Half of so many workers at most, and no more than [`KEPT_MAX`], are left to slow
    /// viewers.
    pub fn new(private: Private, threads: usize) -> Relays {
        Relays { private, kept: Arc::new(AtomicUsize::new(threads.div_ceil(2).min(KEPT_MAX))) }
    }

    /// The private side.
    pub fn private(&self) -> &Private {
        &self.private
    }

    fn keep(&self) -> Option<Kept> {
        let taken = self.kept.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        // What is made is also given back, so none may be made in vain.
        taken.is_ok().then(|| Kept(Arc::clone(&self.kept)))
    }
}

/// The right of a slow viewer to a private connection.
struct Kept(Arc<AtomicUsize>);

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// An answer on its way.
pub struct Relay {
    bytes: Vec<u8>,
    /// What of these was not taken yet.
    unsent: Range<usize>,
    /// How much of what is next to be sent belongs to the head.
    head_left: usize,
    content_taken: u64,
    /// What is not here yet.
    rest: Rest,
    /// When the last byte was taken.
    since: Instant,
    /// Since when nothing is taken.
    stalled: Option<Instant>,
    /// Bytes taken since the viewer last made anybody wait.
    steady: u64,
}

/// Where the rest of an answer comes from.
#[derive(Default)]
enum Rest {
    /// All of it is here.
    #[default]
    Nothing,
    /// From the service, as it comes.
    Flow(Box<Flow>),
    /// From the service, so many bytes in all, when they are asked for.
    Pieces(Box<Upload>, u64),
}

struct Flow {
    answered: Answered,
    /// What it is a part of, where it can be asked for again.
    upload: Option<Box<Upload>>,
    /// The viewer is slow.
    kept: Option<Kept>,
}

/// What an answer is a part of.
struct Upload {
    target: String,
    peer: String,
    etag: String,
    size: u64,
    /// Where the answer ends.
    end: u64,
}

/// Why an answer did not reach its viewer.
#[derive(Debug)]
pub enum Failure {
    /// The viewer went away.
    Viewer(io::Error),
    /// The service could not complete it; it has logged why.
    Service(Error),
    /// The viewer is slow, and too many are whose answers cannot be continued.
    Crowded,
}

impl Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Viewer(error) => error.fmt(out),
            Failure::Service(error) => error.fmt(out),
            Failure::Crowded => out.write_str("too many slow viewers kept the service waiting"),
        }
    }
}

impl Relay {
    /// An answer that is all here. The head has its empty line.
    pub fn whole(head: Vec<u8>, content: &[u8]) -> Relay {
        let (head_left, mut bytes) = (head.len(), head);
        bytes.extend_from_slice(content);
        Relay {
            unsent: 0..bytes.len(),
            bytes,
            head_left,
            content_taken: 0,
            rest: Rest::Nothing,
            since: Instant::now(),
            stalled: None,
            steady: 0,
        }
    }

    /// An answer of the service that has begun, with its head as the viewer is to have it.
    pub fn begun(answered: Answered, asking: &Asking<'_>, head: Vec<u8>, relays: &Relays) -> Relay {
        let mut relay = Relay::whole(head, answered.first_content());
        let upload = Upload::of(&answered, asking).map(Box::new);
        relay.rest = Rest::of(answered, upload, relays);
        relay
    }

    /// The bytes of content that the viewer has taken.
    pub fn content_taken(&self) -> u64 {
        self.content_taken
    }

    /// What it holds in memory; those that keep their private connections are few.
    pub fn held_bytes(&self) -> usize {
        match &self.rest {
            Rest::Flow(flow) if flow.kept.is_some() => 0,
            _ => self.bytes.capacity(),
        }
    }

    /// When the viewer has taken nothing for too long.
    pub fn deadline(&self) -> Instant {
        self.since + PROGRESS_TIMEOUT
    }

    /// Sends what the viewer takes now; tells whether that was the last of it.
    pub fn go_on(&mut self, stream: &Stream, relays: &Relays) -> std::result::Result<bool, Failure> {
        loop {
            self.send(stream).map_err(Failure::Viewer)?;
            if !self.unsent.is_empty() {
                if self.is_worth_waiting(stream) {
                    continue;
                }
                self.let_go(relays)?;
                return Ok(false);
            }
            match &self.rest {
                Rest::Nothing => return Ok(true),
                // Nor is anything asked for whoever has gone.
                Rest::Pieces(..) if stream.is_gone() => {
                    return Err(Failure::Viewer(io::ErrorKind::ConnectionReset.into()));
                }
                // What there is no room for is not asked for yet. An error comes up with the next write.
                Rest::Pieces(..) if !stream.wait_writable(Duration::ZERO).unwrap_or(true) => {
                    self.stall();
                    return Ok(false);
                }
                _ => self.fetch(relays).map_err(Failure::Service)?,
            }
        }
    }

    fn send(&mut self, stream: &Stream) -> io::Result<()> {
        let count = stream.write_now(&self.bytes[self.unsent.clone()], false)?;
        self.unsent.start += count;
        let of_head = count.min(self.head_left);
        self.head_left -= of_head;
        self.content_taken += (count - of_head) as u64;
        if count > 0 {
            self.since = Instant::now();
            if self.stalled.take().is_some_and(|stalled| stalled.elapsed() > PATIENCE) {
                self.steady = 0;
            }
            self.steady += count as u64;
        }
        if !self.unsent.is_empty() {
            self.stall();
        }
        Ok(())
    }

    fn stall(&mut self) {
        self.stalled.get_or_insert_with(Instant::now);
    }

    /// Whether the viewer may take more so soon that its private connection is not given up.
    fn is_worth_waiting(&self, stream: &Stream) -> bool {
        match &self.rest {
            Rest::Flow(flow) if flow.kept.is_none() => stream.wait_writable(PATIENCE).unwrap_or(true),
            _ => false,
        }
    }

    /// Gets more of the answer.
    fn fetch(&mut self, relays: &Relays) -> Result<()> {
        match std::mem::take(&mut self.rest) {
            Rest::Nothing => {}
            Rest::Flow(mut flow) => {
                let want = piece_bytes(flow.answered.remaining(), relays);
                if self.bytes.len() < want {
                    self.bytes = vec![0; want];
                }
                self.unsent = 0..flow.answered.read(&mut self.bytes[..want])?;
                self.rest = Rest::flow(flow, relays);
            }
            Rest::Pieces(upload, left) if self.steady < STEADY_BYTES && left > PIECE_BYTES as u64 => {
                let bytes = piece_bytes(left, relays) as u64;
                let answered = upload.ask(relays, left, bytes)?;
                self.take_whole(answered, relays)?;
                self.rest = Rest::Pieces(upload, left - bytes);
            }
            Rest::Pieces(upload, left) => {
                let answered = upload.ask(relays, left, left)?;
                self.bytes = answered.first_content().to_vec();
                self.unsent = 0..self.bytes.len();
                self.rest = Rest::of(answered, Some(upload), relays);
            }
        }
        Ok(())
    }

    /// Takes in all of a small answer.
    fn take_whole(&mut self, mut answered: Answered, relays: &Relays) -> Result<()> {
        let first = answered.first_content();
        let mut bytes = vec![0; first.len() + usize::try_from(answered.remaining()).unwrap_or(0)];
        let mut filled = first.len();
        bytes[..filled].copy_from_slice(first);
        while answered.remaining() > 0 {
            filled += answered.read(&mut bytes[filled..])?;
        }
        relays.private.put(answered);
        self.unsent = 0..filled;
        self.bytes = bytes;
        Ok(())
    }

    /// The viewer takes nothing now: whatever waits for it elsewhere is given up.
    fn let_go(&mut self, relays: &Relays) -> std::result::Result<(), Failure> {
        let unsent = self.unsent.len();
        match std::mem::take(&mut self.rest) {
            Rest::Flow(flow) if flow.kept.is_some() => self.rest = Rest::Flow(flow),
            Rest::Flow(mut flow) => {
                let remaining = flow.answered.remaining();
                // In a crowd, what is not here yet is not fetched for one who does not take it.
                let room = room::piece_bytes(PIECE_BYTES, relays.private.in_use());
                if remaining <= room.saturating_sub(unsent) as u64 {
                    self.shrink(remaining as usize);
                    while flow.answered.remaining() > 0 {
                        let read = flow.answered.read(&mut self.bytes[self.unsent.end..]);
                        self.unsent.end += read.map_err(Failure::Service)?;
                    }
                    relays.private.put(flow.answered);
                } else if let Some(upload) = flow.upload.take() {
                    // What is here is read once more, so that nothing is held for one who pauses.
                    let forgotten = if self.head_left == 0 { unsent } else { 0 };
                    self.unsent.end -= forgotten;
                    self.rest = Rest::Pieces(upload, remaining + forgotten as u64);
                } else {
                    flow.kept = Some(relays.keep().ok_or(Failure::Crowded)?);
                    self.rest = Rest::Flow(flow);
                }
            }
            rest => self.rest = rest,
        }
        self.shrink(0);
        Ok(())
    }

    /// Keeps what is unsent, and room for so much more.
    fn shrink(&mut self, more: usize) {
        if self.bytes.len() != self.unsent.len() + more {
            let mut bytes = Vec::with_capacity(self.unsent.len() + more);
            bytes.extend_from_slice(&self.bytes[self.unsent.clone()]);
            bytes.resize(self.unsent.len() + more, 0);
            (self.bytes, self.unsent) = (bytes, 0..self.unsent.len());
        }
    }
}

/// So much of what remains is dealt with at once.
fn piece_bytes(remaining: u64, relays: &Relays) -> usize {
    let bytes = room::piece_bytes(PIECE_BYTES, relays.private.in_use());
    usize::try_from(remaining).unwrap_or(bytes).min(bytes)
}

impl Rest {
    fn of(answered: Answered, upload: Option<Box<Upload>>, relays: &Relays) -> Rest {
        Rest::flow(Box::new(Flow { answered, upload, kept: None }), relays)
    }

    /// What has been read to the end needs its connection no longer.
    fn flow(flow: Box<Flow>, relays: &Relays) -> Rest {
        if flow.answered.remaining() > 0 {
            return Rest::Flow(flow);
        }
        relays.private.put(flow.answered);
        Rest::Nothing
    }
}

impl Upload {
    /// What this answer is a part of, where its rest can be asked for: a file or one part of it,
    /// with a strong validator.
    fn of(answered: &Answered, asking: &Asking<'_>) -> Option<Upload> {
        let etag = answered.header("ETag").filter(|etag| etag.starts_with('"'))?;
        let whole = 0..answered.content_bytes();
        let (part, size) = match (asking.method, answered.status()) {
            ("GET", 200) if answered.header("Accept-Ranges") == Some("bytes") => {
                (whole, answered.content_bytes())
            }
            ("GET", 206) => content_range(answered.header("Content-Range")?)?,
            _ => return None,
        };
        (part.end - part.start == answered.content_bytes()).then(|| Upload {
            target: asking.target.to_owned(),
            peer: asking.peer.to_owned(),
            etag: etag.to_owned(),
            size,
            end: part.end,
        })
    }

    /// Asks for the first bytes of those that are left.
    fn ask(&self, relays: &Relays, left: u64, bytes: u64) -> Result<Answered> {
        let first = self.end - left;
        let last = first + bytes - 1;
        // The link was good when the answer began: it may expire while its viewer pauses.
        let passed =
            format!("Range: bytes={first}-{last}\r\nIf-Match: {}\r\n{REST_HEADER}: 1\r\n", self.etag);
        let (target, peer) = (self.target.as_str(), self.peer.as_str());
        let answered = relays.private.ask(&Asking { method: "GET", target, peer, passed: &passed })?;
        let is_it = answered.status() == 206
            && answered.header("ETag") == Some(&self.etag)
            && answered.header("Content-Range").and_then(content_range) == Some((first..last + 1, self.size))
            && answered.content_bytes() == bytes;
        match (is_it, answered.status()) {
            (true, _) => Ok(answered),
            (false, 404 | 412) => fail!(NotFound, "the upload is not there any more"),
            (false, status) => fail!(Unavailable, "the rest could not be had: {status}"),
        }
    }
}

/// Reads a `Content-Range`: the part, and the size of the whole.
pub fn content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (part, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = part.split_once('-')?;
    let (first, end) = (first.parse().ok()?, last.parse::<u64>().ok()?.checked_add(1)?);
    (first < end).then_some((first..end, size.parse().ok()?))
}
