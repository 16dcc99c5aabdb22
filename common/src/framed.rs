//! The server's end of the TNV protocol, on the server loop: reads the header, hands the request to
//! a [`Handler`], and sees to what is the same for all: deadlines, lengths, the failure reply, the
//! draining of what a refused request still sends, and when a connection may be kept.
//!
//! A small message mostly comes with one system call and leaves with one: what is read at once may go
//! over its end by a little, which then is the start of the next one.
//!
//! Only work holds a worker. A small message is collected between events and handed over whole. Content that its
//! sender does not send yet, a reply that its reader does not take, and what is to be drained wait in the
//! connection's state. So a peer that drips or pauses is not in the way of others.
//!
//! A connection on the server:
//!
//! ```text
//!               more is to come                content is to come
//!                  ┌──┐                              ┌──┐
//!                  ▼  │   a request with content     ▼  │
//!  accepted ──▶ Collecting ───────────────────▶ Receiving
//!                  ▲  │ any other request            │ all of it, or a failure
//!        the next  │  ▼                              ▼
//!       message    │ Sending ◀───────────────────────┘
//!                  │  │ ▲ └─ the reader takes nothing: it waits
//!                  │  ▼ └──┘
//!               Draining ──▶ closed, after bad framing or a refusal
//! ```

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::buffer_pool::BufferPool;
use crate::drain::{Drain, Drained};
use crate::error::{Error, ErrorKind, Result};
use crate::fail;
use crate::limits::{HELD_BYTES_MAX, IDLE_TIMEOUT, MESSAGE_TIMEOUT, SMALL_BODY_BYTES_MAX};
use crate::memory_budget::{Held, MemoryBudget};
use crate::net::Stream;
use crate::pace::PaceLimits;
use crate::receive::{Received, Receiver, Receiving};
use crate::reply::{ReadFailed, Reply, SendError, SharedReply};
use crate::server::{Next, Service, Until};
use crate::wire::tnv::encode_failure;
use crate::wire::{HEADER_BYTES, Header};

/// What is read at once of a message: any of the small ones is whole then, and what comes with it of the
/// next one is little.
const READ_BYTES: usize = 512;

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

    /// Serves one request: replies once, or names what receives its content, or returns the failure to reply.
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
    pace: PaceLimits,
    buffers: BufferPool,
    /// For what connections hold while they wait.
    budget: MemoryBudget,
}

/// What is remembered of a connection: what the handler wants, and how far the protocol is.
pub struct Conn<S> {
    state: S,
    phase: Phase,
    /// What has come of the next message already.
    next: Vec<u8>,
    /// What it takes of the memory budget while it waits.
    held: Held,
}

/// What a connection is at; see the head of this file.
enum Phase {
    Collecting(Message),
    Receiving(Receiving),
    Sending(Reply, Drain),
    Draining(Drain),
}

/// What is to be done after a step.
enum Step {
    /// The next step, at once: what it needs is here already.
    Again,
    /// Nothing, until something comes.
    Wait(Next),
}

impl<S: Default> Default for Conn<S> {
    fn default() -> Conn<S> {
        Conn {
            state: S::default(),
            phase: Phase::Collecting(Message::default()),
            next: Vec::new(),
            held: Held::default(),
        }
    }
}

impl<H: Handler> Framed<H> {
    /// `host` begins each failure's text, as existing servers have it.
    pub fn new(handler: H, host: String, max_conns: usize) -> Framed<H> {
        Framed {
            handler,
            host,
            max_conns,
            pace: PaceLimits::default(),
            buffers: BufferPool::default(),
            budget: MemoryBudget::new(HELD_BYTES_MAX),
        }
    }

    /// Demands this of those who send content.
    pub fn with_pace(self, pace: PaceLimits) -> Framed<H> {
        Framed { pace, ..self }
    }

    /// Has the handler answer one message: what comes next on the connection, or nothing where it is to be closed.
    fn answer(&self, stream: &Stream, header: Header, collected: &[u8], conn: &mut H::Conn) -> Option<Phase> {
        let remaining = header.body_bytes;
        let mut request =
            Request { stream, header, conn, collected, remaining, command: H::REPLY, state: State::Open };
        let result = self.handler.handle(&mut request);
        let (unread, rest) = (request.remaining, request.collected);
        let unsent = unread - rest.len() as u64;
        match (request.state, result) {
            (State::Replied(reply), Ok(())) if unread == 0 => Some(Phase::Sending(reply, Drain::nothing())),
            (State::Replied(reply), Ok(())) => Some(Phase::Sending(reply, Drain::close())),
            (State::Receiving(receiver), Ok(())) => {
                Some(Phase::Receiving(Receiving::new(receiver, header, rest.to_vec(), unread, self.pace)))
            }
            (State::Open, Ok(())) => {
                let error = Error::new(ErrorKind::Internal, "the server made no reply");
                Some(self.failure(header, unsent, &error))
            }
            (State::Open | State::Receiving(_), Err(error)) => Some(self.failure(header, unsent, &error)),
            (State::Replied(_), Err(error)) => {
                log::info!("command {}: {error}; closing", header.command);
                None
            }
        }
    }

    /// The failure reply, and what may become of the connection after it. The reply comes first:
    /// whoever reads while sending learns of it early.
    fn failure(&self, header: Header, unread: u64, error: &Error) -> Phase {
        match error.kind() {
            ErrorKind::Internal | ErrorKind::OutcomeUnknown => {
                log::error!("command {}: {error}", header.command)
            }
            ErrorKind::NotFound => log::debug!("command {}: {error}", header.command),
            _ => log::warn!("command {}: {error}", header.command),
        }
        let framing_intact = !matches!(error.kind(), ErrorKind::Protocol | ErrorKind::Unsupported);
        // After a permission error the connection is closed.
        let keep = framing_intact && error.kind() != ErrorKind::Forbidden;
        Phase::Sending(self.refusal(error), Drain::rest(unread, keep))
    }

    /// Goes on with a connection, from whatever it is at, until it has to wait.
    fn go_on(&self, stream: &Stream, conn: &mut Conn<H::Conn>) -> Next {
        loop {
            if let Step::Wait(next) = self.step(stream, conn) {
                return next;
            }
        }
    }

    fn step(&self, stream: &Stream, conn: &mut Conn<H::Conn>) -> Step {
        match &mut conn.phase {
            Phase::Collecting(_) => self.collect(stream, conn),
            Phase::Receiving(receiving) => match receiving.receive(stream, &self.buffers, H::REPLY) {
                Received::All(Ok(reply)) => {
                    conn.phase = Phase::Sending(reply, Drain::nothing());
                    Step::Again
                }
                Received::All(Err(error)) => {
                    conn.phase = self.failure(receiving.header(), receiving.left(), &error);
                    Step::Again
                }
                Received::Part => Step::Wait(Next::Resume(Until::Readable)),
                Received::TooSlow => {
                    conn.phase = self.too_slow(receiving);
                    Step::Again
                }
                Received::Gone(error) => {
                    log::info!("command {}: read content: {error}; closing", receiving.header().command);
                    Step::Wait(Next::Close)
                }
            },
            Phase::Sending(reply, drain) => match reply.send(stream) {
                Ok(()) if !reply.is_sent() => Step::Wait(Next::Resume(Until::Writable)),
                Ok(()) => {
                    conn.phase = Phase::Draining(std::mem::replace(drain, Drain::nothing()));
                    Step::Again
                }
                Err(SendError::Peer(error)) => {
                    log::info!("send the reply: {error}; closing");
                    Step::Wait(Next::Close)
                }
                Err(SendError::File(error)) if reply.is_unsent() => {
                    let failure = self.refusal(&error);
                    conn.phase = Phase::Sending(failure, std::mem::replace(drain, Drain::nothing()));
                    Step::Again
                }
                // The length that was announced tells the peer that this is not all.
                Err(SendError::File(error)) => {
                    log::warn!("{error}; closing after a part of the content");
                    Step::Wait(Next::Close)
                }
            },
            Phase::Draining(drain) => match drain.drain(stream) {
                Drained::All => {
                    let message = Message::begun(std::mem::take(&mut conn.next));
                    // A peer may send messages without end: between two of them others have their turn.
                    let next = if message.bytes.is_empty() { Next::Wait } else { Next::Turn };
                    conn.phase = Phase::Collecting(message);
                    Step::Wait(next)
                }
                Drained::Part => Step::Wait(Next::Resume(Until::Readable)),
                Drained::Closing => Step::Wait(Next::Close),
            },
        }
    }

    /// Reads the next message, and has it answered where it is whole.
    fn collect(&self, stream: &Stream, conn: &mut Conn<H::Conn>) -> Step {
        let Phase::Collecting(message) = &mut conn.phase else { return Step::Again };
        let phase = match message.collect(stream, H::head_bytes) {
            Collected::Whole(header) => {
                let (collected, next) = message.split(header);
                conn.next = next;
                self.answer(stream, header, &collected, &mut conn.state)
            }
            Collected::Part => return Step::Wait(Next::Wait),
            Collected::Gone => None,
            Collected::Bad(error) => {
                // What follows a bad length cannot be told apart from the next message.
                log::warn!("{error}");
                Some(Phase::Sending(self.refusal(&error), Drain::close()))
            }
        };
        match phase {
            Some(phase) => {
                conn.phase = phase;
                Step::Again
            }
            None => Step::Wait(Next::Close),
        }
    }

    /// Gives up a sender of content.
    fn too_slow(&self, receiving: &Receiving) -> Phase {
        let error = receiving.too_slow();
        log::info!("command {}: {error}; closing", receiving.header().command);
        Phase::Sending(self.refusal(&error), Drain::close())
    }

    /// Lets a connection wait, where the budget has room for what it holds meanwhile.
    fn let_wait(&self, conn: &mut Conn<H::Conn>, next: Next) -> Next {
        if next == Next::Close || self.budget.hold(&mut conn.held, conn.phase.held_bytes()) {
            return next;
        }
        log::warn!("closing: connections that wait hold {HELD_BYTES_MAX} bytes already");
        Next::Close
    }

    fn refusal(&self, error: &Error) -> Reply {
        Reply::new(encode_failure(H::REPLY, &self.host, error))
    }
}

impl<H: Handler> Service for Framed<H> {
    type Conn = Conn<H::Conn>;

    fn serve(&self, stream: &Stream, conn: &mut Conn<H::Conn>) -> Next {
        let next = self.go_on(stream, conn);
        self.let_wait(conn, next)
    }

    fn serve_promptly(&self, stream: &Stream, conn: &mut Conn<H::Conn>) -> Option<Next> {
        if let Phase::Receiving(receiving) = &mut conn.phase {
            // A sender that is given up is found by the worker.
            receiving.news();
        }
        let Phase::Collecting(message) = &mut conn.phase else { return None };
        if H::PROMPT.is_empty() {
            return None;
        }
        let mut step = match message.collect(stream, H::head_bytes) {
            Collected::Part => Step::Wait(Next::Wait),
            Collected::Gone => Step::Wait(Next::Close),
            Collected::Whole(header) if H::PROMPT.contains(&header.command) => self.collect(stream, conn),
            // It stays collected.
            Collected::Whole(_) | Collected::Bad(_) => return None,
        };
        loop {
            match step {
                // The message behind this one may be of any command.
                Step::Wait(Next::Turn) => return None,
                // To drop megabytes is not done at once.
                Step::Again if matches!(&conn.phase, Phase::Draining(drain) if !drain.is_nothing()) => {
                    return None;
                }
                Step::Wait(next) => return Some(self.let_wait(conn, next)),
                Step::Again => step = self.step(stream, conn),
            }
        }
    }

    fn refuse(&self, stream: &Stream, conn: &mut Conn<H::Conn>) -> Next {
        let text = format!("too many connections, {} are open already; try again later", self.max_conns);
        let error = Error::new(ErrorKind::Busy, text);
        conn.phase = Phase::Sending(self.refusal(&error), Drain::close());
        self.serve(stream, conn)
    }

    fn time_out(&self, stream: &Stream, conn: &mut Conn<H::Conn>) -> Next {
        let Phase::Receiving(receiving) = &conn.phase else { return Next::Close };
        conn.phase = self.too_slow(receiving);
        self.serve(stream, conn)
    }

    fn idle_timeout(&self, conn: &Conn<H::Conn>) -> Option<Duration> {
        let deadline = match &conn.phase {
            Phase::Collecting(message) => match message.since {
                Some(since) => since + MESSAGE_TIMEOUT,
                None => return self.handler.idle_timeout(&conn.state),
            },
            Phase::Receiving(receiving) => receiving.deadline(),
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
            Phase::Receiving(receiving) => {
                log::info!("closed in the middle of a content, {} bytes were to come", receiving.left());
            }
            Phase::Sending(reply, _) if !reply.is_sent() => {
                log::info!("closed in the middle of a reply, {} bytes were not taken", reply.unsent());
            }
            Phase::Sending(..) | Phase::Draining(_) => {}
        }
        self.handler.closed(conn.state);
    }
}

impl Phase {
    /// What it holds in memory while it waits.
    fn held_bytes(&self) -> usize {
        match self {
            Phase::Collecting(message) => message.bytes.capacity(),
            Phase::Receiving(receiving) => receiving.held_bytes(),
            Phase::Sending(reply, _) => reply.held_bytes(),
            Phase::Draining(_) => 0,
        }
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
        // One that is larger than small, and still whole within its command's head, is collected whole.
        Ok(bytes) => bytes.min(head_bytes(header.command)),
        Err(_) => head_bytes(header.command),
    }
}

/// How far the answer to a request is.
enum State {
    /// Nothing has been said yet.
    Open,
    /// This is the reply.
    Replied(Reply),
    /// The content is received by this, which then makes the reply.
    Receiving(Box<dyn Receiver>),
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

    /// From what has been collected: nothing here waits for a peer.
    fn read_small(&mut self, bytes: &mut [u8]) -> Result<()> {
        let Some((taken, rest)) = self.collected.split_at_checked(bytes.len()) else {
            let (want, got) = (bytes.len(), self.collected.len());
            return fail!(Protocol, "invalid body length, want {want} bytes of it at once, got {got}");
        };
        bytes.copy_from_slice(taken);
        self.collected = rest;
        self.remaining -= taken.len() as u64;
        Ok(())
    }

    /// The rest of the body is content: this takes it as it comes, and then makes the reply.
    pub fn receive(&mut self, receiver: impl Receiver + 'static) {
        self.state = State::Receiving(Box::new(receiver));
    }

    /// Replies with a success. It leaves when the handler returns.
    pub fn reply(&mut self, body: &[u8]) {
        self.state = State::Replied(Reply::success(self.command, body));
    }

    /// Replies with a success that many may share.
    pub fn reply_shared(&mut self, reply: &SharedReply) {
        self.state = State::Replied(Reply::shared(reply));
    }

    /// Replies with `head` and a part of a file, which the caller has compared with the file's size. Where the
    /// file cannot be read, `failed` learns of it and gives the failure to reply.
    pub fn reply_file(&mut self, head: &[u8], file: File, part: Range<u64>, failed: ReadFailed) {
        let header = Header::new(self.command, head.len() as u64 + part.end - part.start).encode();
        self.state = State::Replied(Reply::with_file([&header, head].concat(), file, part, failed));
    }
}
