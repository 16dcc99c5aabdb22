//! The server's end of the TNV protocol, on the server loop: reads the header, hands the request to
//! a [`Handler`], and sees to what is the same for all: deadlines, lengths, the failure reply, the
//! draining of what a refused request still sends, and when a connection may be kept.
//!
//! A small message mostly comes with one system call and leaves with one: what is read at once may go
//! over its end by a little, which then is the start of the next one.
//!
//! Only work holds a worker, and the content of an upload, which is read as it comes. A small message
//! is collected between events and handed over whole; a reply that its reader does not take, and what
//! is to be drained, wait in the connection's state. So neither who drips nor who pauses is in the way
//! of others.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::drain::{Drain, Drained};
use crate::error::{Error, ErrorKind, Result};
use crate::fail;
use crate::limits::{IDLE_TIMEOUT, MESSAGE_TIMEOUT, PROGRESS_TIMEOUT, SMALL_BODY_BYTES_MAX};
use crate::net::Stream;
use crate::server::{Next, Service, Until};
use crate::wire::tnv::encode_failure;
use crate::wire::{HEADER_BYTES, Header};

/// What is read at once of a message: any of the small ones is whole then, and what comes with it of the
/// next one is little.
const READ_BYTES: usize = 512;

/// Replies that are no longer leave as one piece: to copy so much costs less than a second system call.
const SMALL_REPLY_BYTES_MAX: usize = 64 << 10;

thread_local! {
    /// What a worker puts small replies together in. Nothing stays in it.
    static SMALL_REPLY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What a server does with its commands.
pub trait Handler: Send + Sync + 'static {
    /// What is remembered of a connection between its requests.
    type Conn: Default + Send + 'static;

    /// The command of this server's replies.
    const REPLY: u8;

    /// How much of a large body is collected before the request is handled: what comes before the
    /// content, where the command has content.
    fn head_bytes(_command: u8) -> usize {
        0
    }

    /// Commands that are done at once, without a wait for anything: less work than to wake a worker for them.
    const PROMPT: &'static [u8] = &[];

    /// Serves one request: replies once, or returns what is to be told as the failure.
    fn handle(&self, request: &mut Request<'_, Self::Conn>) -> Result<()>;

    /// How long a connection may wait for its next request; `None` is for ever.
    fn idle_timeout(&self, _conn: &Self::Conn) -> Option<Duration> {
        Some(IDLE_TIMEOUT)
    }

    /// The connection has been closed.
    fn closed(&self, _conn: Self::Conn) {}
}

/// A handler on the server loop.
pub struct Framed<H> {
    handler: H,
    host: String,
    max_conns: usize,
}

/// What is remembered of a connection: what the handler wants, and how far the protocol is.
pub struct Conn<S> {
    state: S,
    phase: Phase,
    /// What has come of the next message already.
    next: Vec<u8>,
}

/// What a connection is at. It goes from one to the next and round again.
enum Phase {
    Collecting(Message),
    Sending(Reply, Drain),
    Draining(Drain),
}

impl<S: Default> Default for Conn<S> {
    fn default() -> Conn<S> {
        Conn { state: S::default(), phase: Phase::Collecting(Message::default()), next: Vec::new() }
    }
}

impl<H: Handler> Framed<H> {
    /// `host` begins each failure's text, as existing servers have it.
    pub fn new(handler: H, host: String, max_conns: usize) -> Framed<H> {
        Framed { handler, host, max_conns }
    }

    /// Has the handler answer one message: the reply, and what is to be done after it.
    fn answer(
        &self,
        stream: &Stream,
        header: Header,
        collected: &[u8],
        conn: &mut H::Conn,
    ) -> Option<(Reply, Drain)> {
        let remaining = header.body_bytes;
        let mut request =
            Request { stream, header, conn, collected, remaining, command: H::REPLY, state: State::Open };
        let result = self.handler.handle(&mut request);
        let unread = request.remaining - request.collected.len() as u64;
        let done = unread == 0 && request.collected.is_empty();
        match (request.state, result) {
            (State::Replied(reply), Ok(())) if done => Some((reply, Drain::nothing())),
            (State::Replied(reply), Ok(())) => Some((reply, Drain::close())),
            (State::Open, Ok(())) => {
                let error = Error::new(ErrorKind::Internal, "the server made no reply");
                Some(self.failure(header, unread, &error))
            }
            (State::Open, Err(error)) => Some(self.failure(header, unread, &error)),
            (State::Replied(_) | State::Lost, Err(error)) => {
                log::info!("command {}: {error}; closing", header.command);
                None
            }
            (State::Lost, Ok(())) => None,
        }
    }

    /// The failure reply, and what may become of the connection after it. The reply comes first:
    /// whoever reads while sending learns of it early.
    fn failure(&self, header: Header, unread: u64, error: &Error) -> (Reply, Drain) {
        match error.kind() {
            ErrorKind::Internal | ErrorKind::OutcomeUnknown => {
                log::error!("command {}: {error}", header.command)
            }
            ErrorKind::NotFound => log::debug!("command {}: {error}", header.command),
            _ => log::warn!("command {}: {error}", header.command),
        }
        let framing_intact = !matches!(error.kind(), ErrorKind::Protocol | ErrorKind::Unsupported);
        // Whoever tries what he may not has one try a connection.
        let keep = framing_intact && error.kind() != ErrorKind::Forbidden;
        (self.refusal(error), Drain::rest(unread, keep))
    }

    /// Goes on with one message, from whatever it is at.
    fn serve_one(&self, stream: &Stream, conn: &mut Conn<H::Conn>) -> Next {
        if let Phase::Collecting(message) = &mut conn.phase {
            let answer = match message.collect(stream, H::head_bytes) {
                Collected::Whole(header) => {
                    let (collected, next) = message.split(header);
                    conn.next = next;
                    self.answer(stream, header, &collected, &mut conn.state)
                }
                Collected::Part => return Next::Wait,
                Collected::Gone => return Next::Close,
                Collected::Bad(error) => {
                    // What follows a bad length cannot be told apart from the next message.
                    log::warn!("{error}");
                    Some((self.refusal(&error), Drain::close()))
                }
            };
            let Some((reply, drain)) = answer else { return Next::Close };
            conn.phase = Phase::Sending(reply, drain);
        }
        conn.go_on(stream)
    }

    fn refusal(&self, error: &Error) -> Reply {
        Reply::new(encode_failure(H::REPLY, &self.host, error))
    }
}

impl<H: Handler> Service for Framed<H> {
    type Conn = Conn<H::Conn>;

    fn serve(&self, stream: &Stream, conn: &mut Conn<H::Conn>) -> Next {
        loop {
            match self.serve_one(stream, conn) {
                Next::Wait if conn.has_begun() => {}
                next => return next,
            }
        }
    }

    fn serve_promptly(&self, stream: &Stream, conn: &mut Conn<H::Conn>) -> Option<Next> {
        let Phase::Collecting(message) = &mut conn.phase else { return None };
        if H::PROMPT.is_empty() {
            return None;
        }
        match message.collect(stream, H::head_bytes) {
            Collected::Part => Some(Next::Wait),
            Collected::Gone => Some(Next::Close),
            Collected::Whole(header) if H::PROMPT.contains(&header.command) => {
                let next = self.serve_one(stream, conn);
                // What has come behind it may be anything.
                (next != Next::Wait || !conn.has_begun()).then_some(next)
            }
            // It stays collected.
            Collected::Whole(_) | Collected::Bad(_) => None,
        }
    }

    fn refuse(&self, stream: &Stream, conn: &mut Conn<H::Conn>) -> Next {
        let text = format!("too many connections, {} are open already; try again later", self.max_conns);
        let error = Error::new(ErrorKind::Busy, text);
        conn.phase = Phase::Sending(self.refusal(&error), Drain::close());
        conn.go_on(stream)
    }

    fn idle_timeout(&self, conn: &Conn<H::Conn>) -> Option<Duration> {
        let deadline = match &conn.phase {
            Phase::Collecting(message) => match message.since {
                Some(since) => since + MESSAGE_TIMEOUT,
                None => return self.handler.idle_timeout(&conn.state),
            },
            Phase::Sending(reply, _) => reply.deadline(),
            Phase::Draining(drain) => drain.deadline(),
        };
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    fn closed(&self, conn: Conn<H::Conn>) {
        match &conn.phase {
            Phase::Collecting(message) if message.bytes.is_empty() => {}
            Phase::Collecting(message) => {
                log::info!("closed in the middle of a message, after {} bytes of it", message.bytes.len());
            }
            Phase::Sending(reply, _) if !reply.is_sent() => {
                log::info!("closed in the middle of a reply, {} bytes were not taken", reply.unsent());
            }
            Phase::Sending(..) | Phase::Draining(_) => {}
        }
        self.handler.closed(conn.state);
    }
}

impl<S> Conn<S> {
    /// Whether some of the message that is awaited has come already.
    fn has_begun(&self) -> bool {
        matches!(&self.phase, Phase::Collecting(message) if !message.bytes.is_empty())
    }

    /// Sends and drains as far as it goes without waiting.
    fn go_on(&mut self, stream: &Stream) -> Next {
        if let Phase::Sending(reply, drain) = &mut self.phase {
            if let Err(error) = reply.send(stream) {
                log::info!("send the reply: {error}; closing");
                return Next::Close;
            }
            if !reply.is_sent() {
                return Next::Resume(Until::Writable);
            }
            self.phase = Phase::Draining(std::mem::replace(drain, Drain::nothing()));
        }
        if let Phase::Draining(drain) = &mut self.phase {
            match drain.drain(stream) {
                Drained::All => {
                    self.phase = Phase::Collecting(Message::begun(std::mem::take(&mut self.next)))
                }
                Drained::Part => return Next::Resume(Until::Readable),
                Drained::Closing => return Next::Close,
            }
        }
        Next::Wait
    }
}

/// A message as far as it has come: its header, and its body too where that is small.
#[derive(Default)]
struct Message {
    /// Perhaps with a little of what follows.
    bytes: Vec<u8>,
    /// When the first byte came.
    since: Option<Instant>,
}

enum Collected {
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
    fn begun(bytes: Vec<u8>) -> Message {
        let since = (!bytes.is_empty()).then(Instant::now);
        Message { bytes, since }
    }

    /// Reads what has arrived of the message.
    fn collect(&mut self, stream: &Stream, head_bytes: fn(u8) -> usize) -> Collected {
        loop {
            let header = match self.bytes.first_chunk().map(Header::decode) {
                None => None,
                Some(Ok(header)) => Some(header),
                Some(Err(error)) => return Collected::Bad(error),
            };
            let wanted = HEADER_BYTES + header.map_or(0, |header| collected_bytes(header, head_bytes));
            let filled = self.bytes.len();
            if let Some(header) = header.filter(|_| filled >= wanted) {
                return Collected::Whole(header);
            }
            self.bytes.resize(wanted.max(READ_BYTES), 0);
            let read = stream.read_some(&mut self.bytes[filled..], Instant::now());
            self.bytes.truncate(filled + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(count) if count > 0 => self.since = self.since.or_else(|| Some(Instant::now())),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => match self.since {
                    Some(since) if since.elapsed() >= MESSAGE_TIMEOUT => return Collected::Gone,
                    _ => return Collected::Part,
                },
                _ => return Collected::Gone,
            }
        }
    }

    /// Takes out what there is of the body, and of the message behind it.
    fn split(&mut self, header: Header) -> (Vec<u8>, Vec<u8>) {
        let mut body = std::mem::take(&mut self.bytes);
        body.drain(..HEADER_BYTES);
        let end = usize::try_from(header.body_bytes).unwrap_or(usize::MAX).min(body.len());
        let next = body.split_off(end);
        (body, next)
    }
}

/// How much of a body is collected before the request is handled.
fn collected_bytes(header: Header, head_bytes: fn(u8) -> usize) -> usize {
    match usize::try_from(header.body_bytes) {
        Ok(bytes) if bytes <= SMALL_BODY_BYTES_MAX => bytes,
        _ => head_bytes(header.command),
    }
}

/// Where so much of a file is left, it is worth a system call whether its reader keeps up.
const LONG_BYTES: u64 = 4 << 20;

/// Within this time a reader who keeps up has taken enough of it that there is room for more.
const KEEPING_UP: Duration = Duration::from_millis(1);

/// A reply on its way: bytes, and then perhaps a part of a file.
struct Reply {
    bytes: Vec<u8>,
    sent: usize,
    file: Option<(File, Range<u64>)>,
    /// When it was begun, or the last byte of a file was taken.
    since: Instant,
}

impl Reply {
    fn new(bytes: Vec<u8>) -> Reply {
        Reply { bytes, sent: 0, file: None, since: Instant::now() }
    }

    fn with_file(bytes: Vec<u8>, file: File, part: Range<u64>) -> Reply {
        Reply { file: Some((file, part)).filter(|(_, part)| !part.is_empty()), ..Reply::new(bytes) }
    }

    /// Bytes that are still to be sent.
    fn unsent(&self) -> u64 {
        (self.bytes.len() - self.sent) as u64
            + self.file.as_ref().map_or(0, |(_, part)| part.end - part.start)
    }

    fn is_sent(&self) -> bool {
        self.unsent() == 0
    }

    /// A small reply must be taken whole; content only must go on.
    fn deadline(&self) -> Instant {
        self.since + if self.file.is_some() { PROGRESS_TIMEOUT } else { MESSAGE_TIMEOUT }
    }

    /// Sends what the socket takes now.
    fn send(&mut self, stream: &Stream) -> io::Result<()> {
        let before = self.unsent();
        if self.sent > 0 && self.file.is_some() {
            // Called again, since the socket takes more: so soon only where the reader keeps up.
            stream.set_keeps_up(before >= LONG_BYTES && self.since.elapsed() < KEEPING_UP)?;
        }
        if self.sent == 0 && before <= SMALL_REPLY_BYTES_MAX as u64 {
            self.send_small(stream)?;
        } else {
            self.send_large(stream)?;
        }
        if self.file.is_some() && self.unsent() < before {
            self.since = Instant::now();
        }
        if self.is_sent() {
            stream.set_keeps_up(false)?;
        }
        Ok(())
    }

    /// In one piece. What the socket does not take is not kept.
    fn send_small(&mut self, stream: &Stream) -> io::Result<()> {
        let Some((file, part)) = &mut self.file else {
            self.sent = stream.write_now(&self.bytes, false)?;
            return Ok(());
        };
        SMALL_REPLY.with_borrow_mut(|piece| {
            piece.resize(SMALL_REPLY_BYTES_MAX, 0);
            let head = self.bytes.len();
            let piece = &mut piece[..head + (part.end - part.start) as usize];
            piece[..head].copy_from_slice(&self.bytes);
            file.read_exact_at(&mut piece[head..], part.start)?;
            let taken = stream.write_now(piece, false)?;
            self.sent = taken.min(head);
            part.start += (taken - self.sent) as u64;
            Ok(())
        })
    }

    fn send_large(&mut self, stream: &Stream) -> io::Result<()> {
        self.sent += stream.write_now(&self.bytes[self.sent..], self.file.is_some())?;
        if let Some((file, part)) = self.file.as_mut().filter(|_| self.sent == self.bytes.len()) {
            stream.send_file_now(file, part)?;
        }
        Ok(())
    }
}

/// How far the answer to a request is.
enum State {
    /// Nothing has been said yet.
    Open,
    /// This is the reply.
    Replied(Reply),
    /// The peer is gone; nothing can be told.
    Lost,
}

/// One request, and the way to its reply.
pub struct Request<'a, C> {
    stream: &'a Stream,
    header: Header,
    /// What is remembered of the connection.
    pub conn: &'a mut C,
    /// What is there of the body already and was not read yet.
    collected: &'a [u8],
    /// How much of the body was not read yet.
    remaining: u64,
    /// The command of the reply.
    command: u8,
    state: State,
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

    fn read_small(&mut self, bytes: &mut [u8]) -> Result<()> {
        let collected = self.take_collected(bytes);
        let read = self.stream.read_full(&mut bytes[collected..], Instant::now() + MESSAGE_TIMEOUT);
        self.check(read, "read the request")?;
        self.remaining -= (bytes.len() - collected) as u64;
        Ok(())
    }

    /// Reads from what is there already; returns how much that was.
    fn take_collected(&mut self, buffer: &mut [u8]) -> usize {
        let count = buffer.len().min(self.collected.len());
        let (taken, rest) = self.collected.split_at(count);
        buffer[..count].copy_from_slice(taken);
        self.collected = rest;
        self.remaining -= count as u64;
        count
    }

    /// The next bytes of content; 0 when all of it has been read.
    pub fn content(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let want = buffer.len().min(usize::try_from(self.remaining).unwrap_or(buffer.len()));
        let collected = self.take_collected(&mut buffer[..want]);
        if want == 0 || collected > 0 {
            return Ok(collected);
        }
        let read = self.stream.read_some(&mut buffer[..want], Instant::now() + PROGRESS_TIMEOUT);
        let read = read.and_then(|count| match count {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => Ok(count),
        });
        let count = self.check(read, "read content")?;
        self.remaining -= count as u64;
        Ok(count)
    }

    /// Replies with a success. It leaves when the handler returns.
    pub fn reply(&mut self, body: &[u8]) {
        let header = Header::new(self.command, body.len() as u64).encode();
        self.state = State::Replied(Reply::new([&header, body].concat()));
    }

    /// Replies with `head` and a part of a file, which the caller has held against the file's size.
    pub fn reply_file(&mut self, head: &[u8], file: File, part: Range<u64>) {
        let header = Header::new(self.command, head.len() as u64 + part.end - part.start).encode();
        self.state = State::Replied(Reply::with_file([&header, head].concat(), file, part));
    }

    /// After a failure of the connection nothing can be told on it, but to a peer that is too slow.
    fn check<T>(&mut self, result: io::Result<T>, what: &str) -> Result<T> {
        result.map_err(|error| {
            if error.kind() != io::ErrorKind::TimedOut {
                self.state = State::Lost;
            }
            match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    Error::new(ErrorKind::Unavailable, format!("{what}: the peer has gone"))
                }
                _ => Error::from(error).context(what),
            }
        })
    }
}
