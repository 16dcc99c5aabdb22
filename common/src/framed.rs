//! The server's end of the TNV protocol, on the server loop: reads the header, hands the request to
//! a [`Handler`], and sees to what is the same for all: deadlines, lengths, the failure reply, the
//! draining of what a refused request still sends, and when a connection may be kept.
//!
//! A small message is collected between events and handed over whole, so that whoever drips one
//! byte by byte holds no worker; only the content of an upload is read as it comes.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::fail;
use crate::limits::{
    COPY_BYTES, DRAIN_BYTES_MAX, DRAIN_TIMEOUT, IDLE_TIMEOUT, MESSAGE_TIMEOUT, PROGRESS_TIMEOUT,
    SMALL_BODY_BYTES_MAX,
};
use crate::net::Stream;
use crate::server::{Next, Service};
use crate::wire::tnv::encode_failure;
use crate::wire::{HEADER_BYTES, Header};

/// How long a connection that is to be closed may take to read its last reply.
const LAST_REPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// What such a connection may still send meanwhile.
const LAST_REPLY_BYTES_MAX: u64 = 1 << 20;

/// What a server does with its commands.
pub trait Handler: Send + Sync + 'static {
    /// What is remembered of a connection between its requests.
    type Conn: Default + Send + 'static;

    /// The command of this server's replies.
    const REPLY: u8;

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

impl<H: Handler> Framed<H> {
    /// `host` begins each failure's text, as existing servers have it.
    pub fn new(handler: H, host: String, max_conns: usize) -> Framed<H> {
        Framed { handler, host, max_conns }
    }

    /// The handler.
    pub fn handler(&self) -> &H {
        &self.handler
    }

    /// Has the handler answer one message.
    fn answer(&self, stream: &Stream, header: Header, collected: &[u8], conn: &mut H::Conn) -> Next {
        let remaining = header.body_bytes;
        let mut request =
            Request { stream, header, conn, collected, remaining, reply: H::REPLY, state: State::Open };
        let result = self.handler.handle(&mut request);
        match (request.state, result) {
            (State::Replied, Ok(())) if request.remaining == 0 => Next::Wait,
            (State::Replied, Ok(())) => Next::Close,
            (State::Open, Ok(())) => {
                self.fail(request, &Error::new(ErrorKind::Internal, "the server made no reply"))
            }
            (State::Open, Err(error)) => self.fail(request, &error),
            (State::Replied | State::Lost, Err(error)) => {
                log::info!("command {}: {error}; closing", header.command);
                Next::Close
            }
            (State::Lost, Ok(())) => Next::Close,
        }
    }

    fn send_failure(&self, stream: &Stream, error: &Error) -> io::Result<()> {
        stream.write_full(&encode_failure(H::REPLY, &self.host, error), MESSAGE_TIMEOUT)
    }

    /// The failure reply, and what may become of the connection after it.
    fn fail(&self, request: Request<'_, H::Conn>, error: &Error) -> Next {
        let Request { stream, header, remaining, collected, .. } = request;
        let remaining = remaining - collected.len() as u64;
        match error.kind() {
            ErrorKind::Internal | ErrorKind::OutcomeUnknown => {
                log::error!("command {}: {error}", header.command)
            }
            ErrorKind::NotFound => log::debug!("command {}: {error}", header.command),
            _ => log::warn!("command {}: {error}", header.command),
        }
        // The reply first: whoever reads while sending learns of it early.
        if self.send_failure(stream, error).is_err() {
            return Next::Close;
        }
        let framing_intact = !matches!(error.kind(), ErrorKind::Protocol | ErrorKind::Unsupported);
        if drain(stream, remaining) && framing_intact {
            return Next::Wait;
        }
        stream.close_gently(LAST_REPLY_TIMEOUT, LAST_REPLY_BYTES_MAX);
        Next::Close
    }
}

impl<H: Handler> Service for Framed<H> {
    type Conn = Conn<H::Conn>;

    fn serve(&self, stream: &Stream, conn: &mut Conn<H::Conn>) -> Next {
        let header = match conn.message.collect(stream) {
            Collected::Whole(header) => header,
            Collected::Part => return Next::Wait,
            Collected::Gone => return Next::Close,
            Collected::Bad(error) => {
                // What follows a bad length cannot be told apart from the next message.
                log::warn!("{error}");
                if self.send_failure(stream, &error).is_ok() {
                    stream.close_gently(LAST_REPLY_TIMEOUT, LAST_REPLY_BYTES_MAX);
                }
                return Next::Close;
            }
        };
        let next = self.answer(stream, header, &conn.message.bytes[HEADER_BYTES..], &mut conn.state);
        conn.message = Message::default();
        next
    }

    fn refuse(&self, stream: &Stream) {
        let text = format!("too many connections, {} are open already; try again later", self.max_conns);
        if self.send_failure(stream, &Error::new(ErrorKind::Busy, text)).is_ok() {
            stream.close_gently(LAST_REPLY_TIMEOUT, LAST_REPLY_BYTES_MAX);
        }
    }

    fn idle_timeout(&self, conn: &Conn<H::Conn>) -> Option<Duration> {
        match conn.message.since {
            Some(since) => Some((since + MESSAGE_TIMEOUT).saturating_duration_since(Instant::now())),
            None => self.handler.idle_timeout(&conn.state),
        }
    }

    fn closed(&self, conn: Conn<H::Conn>) {
        if !conn.message.bytes.is_empty() {
            log::info!("closed in the middle of a message, after {} bytes of it", conn.message.bytes.len());
        }
        self.handler.closed(conn.state);
    }
}

/// What is remembered of a connection: what the handler wants, and the message that is coming.
#[derive(Default)]
pub struct Conn<S> {
    state: S,
    message: Message,
}

/// A message as far as it has come: its header, and its body too where that is small.
#[derive(Default)]
struct Message {
    bytes: Vec<u8>,
    /// When the first byte came.
    since: Option<Instant>,
}

enum Collected {
    /// The header, and a small body; a larger one is the handler's to read.
    Whole(Header),
    /// There is more to come.
    Part,
    /// The peer has closed, is gone, or took too long.
    Gone,
    /// No message.
    Bad(Error),
}

impl Message {
    /// Reads what has arrived of the message, and nothing of the one behind it.
    fn collect(&mut self, stream: &Stream) -> Collected {
        let since = *self.since.get_or_insert_with(Instant::now);
        loop {
            let (header, whole) = match self.bytes.first_chunk().map(Header::decode) {
                None => (None, HEADER_BYTES),
                Some(Err(error)) => return Collected::Bad(error),
                Some(Ok(header)) => match usize::try_from(header.body_bytes) {
                    Ok(bytes) if bytes <= SMALL_BODY_BYTES_MAX => (Some(header), HEADER_BYTES + bytes),
                    _ => return Collected::Whole(header),
                },
            };
            let filled = self.bytes.len();
            if let Some(header) = header.filter(|_| filled == whole) {
                return Collected::Whole(header);
            }
            self.bytes.resize(whole, 0);
            let read = stream.read_some(&mut self.bytes[filled..], Instant::now());
            self.bytes.truncate(filled + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(count) if count > 0 => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    match since.elapsed() < MESSAGE_TIMEOUT {
                        true if filled > 0 => return Collected::Part,
                        true => {
                            // Woken for nothing: no message has begun.
                            self.since = None;
                            return Collected::Part;
                        }
                        false => return Collected::Gone,
                    }
                }
                _ => return Collected::Gone,
            }
        }
    }
}

/// Reads and drops what is left of a refused request, within bounds; tells whether that was all.
fn drain(stream: &Stream, mut remaining: u64) -> bool {
    let kept = remaining.saturating_sub(DRAIN_BYTES_MAX);
    let deadline = Instant::now() + DRAIN_TIMEOUT;
    let mut buffer = vec![0; COPY_BYTES.min(usize::try_from(remaining).unwrap_or(COPY_BYTES))];
    while remaining > kept {
        let want = buffer.len().min(usize::try_from(remaining).unwrap_or(buffer.len()));
        let deadline = deadline.min(Instant::now() + MESSAGE_TIMEOUT);
        match stream.read_some(&mut buffer[..want], deadline) {
            Ok(count) if count > 0 => remaining -= count as u64,
            _ => return false,
        }
    }
    remaining == 0
}

/// How far the answer to a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing has been said yet.
    Open,
    /// The reply has been begun: a failure can only be told by closing.
    Replied,
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
    reply: u8,
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

    /// How much of the body is still to be read.
    pub fn remaining(&self) -> u64 {
        self.remaining
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

    /// Replies with a success.
    pub fn reply(&mut self, body: &[u8]) -> Result<()> {
        self.state = State::Replied;
        let header = Header::new(self.reply, body.len() as u64).encode();
        let written = self.stream.write_two(&header, body, PROGRESS_TIMEOUT);
        self.check(written, "send the reply")
    }

    /// Replies with a part of a file, which the caller has held against the file's size.
    pub fn reply_file(&mut self, file: &File, offset: u64, bytes: u64) -> Result<()> {
        if bytes == 0 {
            return self.reply(&[]);
        }
        self.state = State::Replied;
        let header = Header::new(self.reply, bytes).encode();
        let sent = self
            .stream
            .write_head(&header, PROGRESS_TIMEOUT)
            .and_then(|()| self.stream.send_file(file, offset, bytes, PROGRESS_TIMEOUT));
        self.check(sent, "send content")
    }

    /// After a failure of the connection nothing can be told on it, but for a peer that is too slow.
    fn check<T>(&mut self, result: io::Result<T>, what: &str) -> Result<T> {
        result.map_err(|error| {
            if error.kind() != io::ErrorKind::TimedOut && self.state == State::Open {
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
