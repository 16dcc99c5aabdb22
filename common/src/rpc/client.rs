//! The client's end of a TNV connection: one request at a time, every wait bounded. It knows
//! the framing and no command.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::fail;
use crate::limits::{CONNECT_TIMEOUT, MESSAGE_TIMEOUT, PROGRESS_TIMEOUT, REPLY_TIMEOUT};
use crate::net::Stream;
use crate::proto::tnv::failure::{FAILURE_BYTES_MAX, decode_failure};
use crate::rpc::header::{FAILURE, HEADER_BYTES, Header};

/// How long a refusal may take to arrive after a write has failed.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// What is read at once of a reply: a small one is whole then, be it with a file of one page.
const AHEAD_BYTES: usize = 8 << 10;

/// A connection to one server. After any failure it is broken and must be dropped: existing
/// servers close theirs after a failure reply.
pub struct Conn {
    stream: Stream,
    peer: SocketAddr,
    /// Bytes of the present reply that are still to be taken.
    unread: u64,
    /// What was read of it and not taken yet, from `taken` on.
    ahead: Vec<u8>,
    taken: usize,
    reply_timeout: Duration,
    wait_max: Option<Duration>,
    broken: bool,
    replied: bool,
    note: Option<String>,
}

impl Conn {
    /// Connects, from the local address `from` where one is given.
    pub fn connect(address: SocketAddr, from: Option<IpAddr>) -> Result<Conn> {
        Ok(Conn::new(Stream::connect(address, from, CONNECT_TIMEOUT)?, address))
    }

    /// Takes over a stream that is connected to the server of this address.
    pub fn new(stream: Stream, peer: SocketAddr) -> Conn {
        Conn {
            stream,
            peer,
            unread: 0,
            ahead: Vec::new(),
            taken: 0,
            reply_timeout: REPLY_TIMEOUT,
            wait_max: None,
            broken: false,
            replied: false,
            note: None,
        }
    }

    /// The server's address.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The socket, for those who wait on it between requests.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// What its owner noted about it.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Notes something about it that its owner wants to know when he uses it again.
    pub fn set_note(&mut self, note: impl Into<String>) {
        self.note = Some(note.into());
    }

    /// Whether it must not be used again.
    pub fn is_broken(&self) -> bool {
        self.broken || self.unread > 0 || self.taken < self.ahead.len()
    }

    /// Whether the server has answered the present request, be it with a failure. What the server
    /// itself refused, another try there will not mend; what was lost on the way, it may.
    pub fn replied(&self) -> bool {
        self.replied
    }

    /// Bytes of the present reply's body that are still to be read.
    pub fn unread(&self) -> u64 {
        self.unread
    }

    /// Whether an idle connection has been closed by the server, or has bytes that were not asked for.
    pub fn is_stale(&self) -> bool {
        self.is_broken() || self.stream.readable_now()
    }

    /// How long to wait for the head of each reply from now on; [`REPLY_TIMEOUT`] to begin with.
    pub fn set_reply_timeout(&mut self, timeout: Duration) {
        self.reply_timeout = timeout;
    }

    /// No wait for a reply, nor one for the next bytes of content in either direction, is longer than this
    /// from now on, whatever else bounds it: for those who can ask another server instead. None is no bound.
    pub fn set_wait_max(&mut self, wait_max: Option<Duration>) {
        self.wait_max = wait_max;
    }

    fn at_most(&self, timeout: Duration) -> Duration {
        self.wait_max.map_or(timeout, |most| timeout.min(most))
    }

    /// Sends a whole request.
    pub fn send(&mut self, command: u8, body: &[u8]) -> Result<()> {
        let header = self.begin(command, body.len() as u64);
        let sent = self.stream.write_two(&header, body, MESSAGE_TIMEOUT);
        self.check(sent, "send a request")
    }

    /// Sends the start of a request whose body is `head` and `content_bytes` more, with the first of these.
    pub fn send_start(&mut self, command: u8, head: &[u8], content_bytes: u64, first: &[u8]) -> Result<()> {
        let header = self.begin(command, head.len() as u64 + content_bytes);
        let sent = self.stream.write_two(&[&header, head].concat(), first, self.at_most(PROGRESS_TIMEOUT));
        self.check_sent(sent)
    }

    /// The header of a new request.
    fn begin(&mut self, command: u8, body_bytes: u64) -> [u8; HEADER_BYTES] {
        assert!(!self.is_broken(), "a request on a broken connection");
        self.replied = false;
        Header::new(command, body_bytes).encode()
    }

    /// Sends content. Where the server has refused meanwhile, that refusal is the error.
    pub fn send_content(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = self.stream.write_full(bytes, self.at_most(PROGRESS_TIMEOUT));
        self.check_sent(sent)
    }

    fn check_sent(&mut self, sent: std::io::Result<()>) -> Result<()> {
        match sent {
            Ok(()) => Ok(()),
            Err(error) => {
                let error = self.failed(error, "send content");
                match self.reply_within(0, REFUSAL_TIMEOUT) {
                    Err(refusal) if self.replied => Err(refusal),
                    _ => Err(error),
                }
            }
        }
    }

    /// Whether the server says something while content is still being sent: a refusal.
    pub fn early_reply(&self) -> bool {
        self.stream.readable_now()
    }

    /// Waits for the reply and reads its header: the body's length, or the server's failure.
    pub fn reply(&mut self, command: u8, body_bytes_max: u64) -> Result<u64> {
        let bytes = self.reply_within(command, self.at_most(self.reply_timeout))?;
        if bytes > body_bytes_max {
            self.broken = true;
            return fail!(
                Protocol,
                "{} sent a reply of {bytes} bytes, want at most {body_bytes_max}",
                self.peer
            );
        }
        Ok(bytes)
    }

    /// `command` 0 stands for any.
    fn reply_within(&mut self, command: u8, timeout: Duration) -> Result<u64> {
        let deadline = Instant::now() + timeout;
        let mut header = [0; HEADER_BYTES];
        let mut filled = 0;
        while filled < HEADER_BYTES {
            let read = self.read_ahead(deadline);
            self.check(read, "read the reply")?;
            filled += self.take_ahead(&mut header[filled..]);
        }
        let header = Header::decode(&header).inspect_err(|_| self.broken = true)?;
        self.unread = header.body_bytes;
        if header.status != 0 {
            return Err(self.failure(header));
        }
        if command != 0 && header.command != command {
            self.broken = true;
            return fail!(Protocol, "{} sent reply {}, want {command}", self.peer, header.command);
        }
        self.replied = true;
        Ok(header.body_bytes)
    }

    /// Reads a failure reply's body.
    fn failure(&mut self, header: Header) -> Error {
        self.broken = true;
        let bytes = usize::try_from(header.body_bytes).unwrap_or(usize::MAX);
        if header.status != FAILURE || bytes > FAILURE_BYTES_MAX {
            let text = format!("{} sent status {} with {bytes} bytes", self.peer, header.status);
            return Error::new(ErrorKind::Protocol, text);
        }
        let mut body = vec![0; bytes];
        let ahead = self.take_ahead(&mut body);
        match self.stream.read_full(&mut body[ahead..], Instant::now() + MESSAGE_TIMEOUT) {
            Ok(()) => {
                self.unread = 0;
                self.replied = true;
                decode_failure(&body)
            }
            Err(error) => self.failed(error, "read a failure reply"),
        }
    }

    /// Reads exactly `buffer` from the reply's body.
    pub fn read_body(&mut self, buffer: &mut [u8]) -> Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_body_some(&mut buffer[filled..])? {
                0 => {
                    self.broken = true;
                    return fail!(Protocol, "{} sent {filled} bytes, want {}", self.peer, buffer.len());
                }
                count => filled += count,
            }
        }
        Ok(())
    }

    /// Reads what there is of the reply's body; 0 only when all of it has been read.
    pub fn read_body_some(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let want = buffer.len().min(usize::try_from(self.unread).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let ahead = self.take_ahead(&mut buffer[..want]);
        if ahead > 0 {
            self.unread -= ahead as u64;
            return Ok(ahead);
        }
        let deadline = Instant::now() + self.at_most(PROGRESS_TIMEOUT);
        let read = self.stream.read_some(&mut buffer[..want], deadline);
        let read = read.and_then(|count| match count {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => Ok(count),
        });
        let count = self.check(read, "read content")?;
        self.unread -= count as u64;
        Ok(count)
    }

    /// A small request and its small reply.
    pub fn call(&mut self, command: u8, body: &[u8], reply: u8, body_bytes_max: usize) -> Result<Vec<u8>> {
        self.send(command, body)?;
        let bytes = self.reply(reply, body_bytes_max as u64)?;
        let mut body = vec![0; usize::try_from(bytes).unwrap_or(body_bytes_max)];
        self.read_body(&mut body)?;
        Ok(body)
    }

    /// Waits for bytes of a reply, of which there are none here, and reads what has come.
    fn read_ahead(&mut self, deadline: Instant) -> std::io::Result<()> {
        // It has hardly ever come yet, so that reading first would be in vain.
        if !self.stream.wait_readable(deadline.saturating_duration_since(Instant::now()))? {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        self.taken = 0;
        self.ahead.resize(AHEAD_BYTES, 0);
        let read = self.stream.read_some(&mut self.ahead, deadline);
        self.ahead.truncate(*read.as_ref().unwrap_or(&0));
        if read? == 0 { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// Takes from what was read already; returns how much that was.
    fn take_ahead(&mut self, buffer: &mut [u8]) -> usize {
        let ahead = &self.ahead[self.taken..];
        let count = buffer.len().min(ahead.len());
        buffer[..count].copy_from_slice(&ahead[..count]);
        self.taken += count;
        count
    }

    fn check<T>(&mut self, result: std::io::Result<T>, what: &str) -> Result<T> {
        result.map_err(|error| self.failed(error, what))
    }

    /// A failure of the connection itself: the server is unreachable or too slow, whatever errno says.
    fn failed(&mut self, error: std::io::Error, what: &str) -> Error {
        self.broken = true;
        let kind = match Error::from(std::io::Error::from(error.kind())).kind() {
            ErrorKind::Timeout => ErrorKind::Timeout,
            _ => ErrorKind::Unavailable,
        };
        let text = match error.kind() {
            std::io::ErrorKind::UnexpectedEof => "the connection was closed".to_owned(),
            _ => error.to_string(),
        };
        Error::new(kind, text).context(format_args!("{what} ({})", self.peer))
    }

    /// A small request whose reply has exactly `N` bytes.
    pub fn call_fixed<const N: usize>(&mut self, command: u8, body: &[u8], reply: u8) -> Result<[u8; N]> {
        let body = self.call(command, body, reply, N)?;
        match <[u8; N]>::try_from(body) {
            Ok(body) => Ok(body),
            Err(body) => {
                self.broken = true;
                fail!(Protocol, "{} sent a reply of {} bytes, want {N}", self.peer, body.len())
            }
        }
    }
}
