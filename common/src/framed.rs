//! The server's end of the TNV protocol, on the server loop: reads the header, hands the request to
//! a [`Handler`], and sees to what is the same for all: deadlines, lengths, the failure reply, the
//! draining of what a refused request still sends, and when a connection may be kept.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::fail;
use crate::limits::{
    COPY_BYTES, DRAIN_BYTES_MAX, DRAIN_TIMEOUT, IDLE_TIMEOUT, MESSAGE_TIMEOUT, PROGRESS_TIMEOUT,
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
    refusals: AtomicU64,
}

impl<H: Handler> Framed<H> {
    /// `host` begins each failure's text, as existing servers have it.
    pub fn new(handler: H, host: String, max_conns: usize) -> Framed<H> {
        Framed { handler, host, max_conns, refusals: AtomicU64::new(0) }
    }

    /// The handler.
    pub fn handler(&self) -> &H {
        &self.handler
    }

    /// Connections refused so far.
    pub fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }

    fn send_failure(&self, stream: &Stream, error: &Error) -> io::Result<()> {
        stream.write_full(&encode_failure(H::REPLY, &self.host, error), MESSAGE_TIMEOUT)
    }

    /// The failure reply, and what may become of the connection after it.
    fn fail(&self, request: Request<'_, H::Conn>, error: &Error) -> Next {
        let Request { stream, header, remaining, .. } = request;
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
    type Conn = H::Conn;

    fn serve(&self, stream: &Stream, conn: &mut H::Conn) -> Next {
        let Some(header) = read_header(stream) else { return Next::Close };
        let header = match header {
            Ok(header) => header,
            Err(error) => {
                // What follows a bad length cannot be told apart from the next message.
                log::warn!("{error}");
                if self.send_failure(stream, &error).is_ok() {
                    stream.close_gently(LAST_REPLY_TIMEOUT, LAST_REPLY_BYTES_MAX);
                }
                return Next::Close;
            }
        };
        let mut request = Request {
            stream,
            header,
            conn,
            remaining: header.body_bytes,
            reply: H::REPLY,
            state: State::Open,
        };
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

    fn refuse(&self, stream: &Stream) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
        let text = format!("too many connections, {} are open already; try again later", self.max_conns);
        if self.send_failure(stream, &Error::new(ErrorKind::Busy, text)).is_ok() {
            stream.close_gently(LAST_REPLY_TIMEOUT, LAST_REPLY_BYTES_MAX);
        }
    }

    fn idle_timeout(&self, conn: &H::Conn) -> Option<Duration> {
        self.handler.idle_timeout(conn)
    }

    fn closed(&self, conn: H::Conn) {
        self.handler.closed(conn);
    }
}

/// Reads a header; `None` where the peer has closed, is gone, or is too slow.
fn read_header(stream: &Stream) -> Option<Result<Header>> {
    let mut bytes = [0; HEADER_BYTES];
    match stream.read_full(&mut bytes, Instant::now() + MESSAGE_TIMEOUT) {
        Ok(()) => Some(Header::decode(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            log::info!("no whole header within {MESSAGE_TIMEOUT:?}; closing");
            None
        }
        Err(_) => None,
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
        let read = self.stream.read_full(bytes, Instant::now() + MESSAGE_TIMEOUT);
        self.check(read, "read the request")?;
        self.remaining -= bytes.len() as u64;
        Ok(())
    }

    /// The next bytes of content; 0 when all of it has been read.
    pub fn content(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let want = buffer.len().min(usize::try_from(self.remaining).unwrap_or(buffer.len()));
        if want == 0 {
            return Ok(0);
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
