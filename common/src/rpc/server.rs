//! The server's end of a protocol on the event loop: collects messages, hands each request to a [`Handler`], and
//! does what is the same for all: deadlines, lengths, the failure reply, draining what a refused request still
//! sends, and deciding whether a connection is kept. It knows no command; the [`Dialect`] says what its replies look
//! like.
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

use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::limits::{HELD_BYTES_MAX, IDLE_TIMEOUT, MESSAGE_TIMEOUT};
use crate::net::Stream;
use crate::net::buffer_pool::BufferPool;
use crate::net::event_loop::{Next, Service, Until};
use crate::net::lingering_close::{Drained, LingeringClose};
use crate::net::memory_budget::{Held, MemoryBudget};
use crate::rpc::dialect::Dialect;
use crate::rpc::header::Header;
use crate::rpc::message::{Collected, Message};
use crate::rpc::pace::PaceLimits;
use crate::rpc::receive::{Received, Receiving};
use crate::rpc::reply::{Reply, SendError};
use crate::rpc::request::Answer;
pub use crate::rpc::request::Request;

/// What a server does with its commands.
pub trait Handler: Send + Sync + 'static {
    /// What is remembered of a connection between its requests.
    type Conn: Default + Send + 'static;

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
pub struct RpcServer<H, D> {
    handler: H,
    dialect: D,
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
    Sending(Reply, LingeringClose),
    Draining(LingeringClose),
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

impl<H: Handler, D: Dialect> RpcServer<H, D> {
    /// A server of this handler, whose replies are in this dialect.
    pub fn new(handler: H, dialect: D, max_conns: usize) -> RpcServer<H, D> {
        RpcServer {
            handler,
            dialect,
            max_conns,
            pace: PaceLimits::default(),
            buffers: BufferPool::default(),
            budget: MemoryBudget::new(HELD_BYTES_MAX),
        }
    }

    /// Demands this of those who send content.
    pub fn with_pace(self, pace: PaceLimits) -> RpcServer<H, D> {
        RpcServer { pace, ..self }
    }

    /// Has the handler answer one message: what comes next on the connection, or nothing where it is to be closed.
    fn answer(&self, stream: &Stream, header: Header, collected: &[u8], conn: &mut H::Conn) -> Option<Phase> {
        let (remaining, command) = (header.body_bytes, self.dialect.reply_command());
        let mut request =
            Request { stream, header, conn, collected, remaining, command, answer: Answer::Open };
        let result = self.handler.handle(&mut request);
        let (unread, rest) = (request.remaining, request.collected);
        let unsent = unread - rest.len() as u64;
        match (request.answer, result) {
            (Answer::Replied(reply), Ok(())) if unread == 0 => {
                Some(Phase::Sending(reply, LingeringClose::nothing()))
            }
            (Answer::Replied(reply), Ok(())) => Some(Phase::Sending(reply, LingeringClose::close())),
            (Answer::Receiving(receiver), Ok(())) => {
                Some(Phase::Receiving(Receiving::new(receiver, header, rest.to_vec(), unread, self.pace)))
            }
            (Answer::Open, Ok(())) => {
                let error = Error::new(ErrorKind::Internal, "the server made no reply");
                Some(self.failure(header, unsent, &error))
            }
            (Answer::Open | Answer::Receiving(_), Err(error)) => Some(self.failure(header, unsent, &error)),
            (Answer::Replied(_), Err(error)) => {
                log::info!("command {}: {error}; closing", header.command);
                None
            }
        }
    }

    /// The failure reply, and what may become of the connection after it. The reply comes first:
    /// a client that reads while it sends learns of it early.
    fn failure(&self, header: Header, unread: u64, error: &Error) -> Phase {
        match error.kind() {
            ErrorKind::Internal | ErrorKind::OutcomeUnknown => {
                log::error!("command {}: {error}", header.command)
            }
            ErrorKind::NotFound => log::debug!("command {}: {error}", header.command),
            _ => log::warn!("command {}: {error}", header.command),
        }
        let keep = self.dialect.keeps_connection(error.kind());
        Phase::Sending(self.refusal(error), LingeringClose::rest(unread, keep))
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
            Phase::Receiving(receiving) => {
                match receiving.receive(stream, &self.buffers, self.dialect.reply_command()) {
                    Received::All(Ok(reply)) => {
                        conn.phase = Phase::Sending(reply, LingeringClose::nothing());
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
                }
            }
            Phase::Sending(reply, drain) => match reply.send(stream) {
                Ok(()) if !reply.is_sent() => Step::Wait(Next::Resume(Until::Writable)),
                Ok(()) => {
                    conn.phase = Phase::Draining(std::mem::replace(drain, LingeringClose::nothing()));
                    Step::Again
                }
                Err(SendError::Peer(error)) => {
                    log::info!("send the reply: {error}; closing");
                    Step::Wait(Next::Close)
                }
                Err(SendError::File(error)) if reply.is_unsent() => {
                    let failure = self.refusal(&error);
                    conn.phase = Phase::Sending(failure, std::mem::replace(drain, LingeringClose::nothing()));
                    Step::Again
                }
                // By the length that was announced the peer knows that this is not all.
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
        let phase = match message.collect(stream, &self.dialect) {
            Collected::Whole(header) => {
                let (collected, next) = message.split(header);
                conn.next = next;
                self.answer(stream, header, &collected, &mut conn.state)
            }
            Collected::Part => return Step::Wait(Next::Wait),
            Collected::Gone => None,
            Collected::Bad(error) => {
                // What follows a bad length cannot be distinguished from the next message.
                log::warn!("{error}");
                Some(Phase::Sending(self.refusal(&error), LingeringClose::close()))
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
        Phase::Sending(self.refusal(&error), LingeringClose::close())
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
        Reply::new(self.dialect.failure_reply(error))
    }
}

impl<H: Handler, D: Dialect> Service for RpcServer<H, D> {
    type Conn = Conn<H::Conn>;

    fn serve(&self, stream: &Stream, conn: &mut Conn<H::Conn>) -> Next {
        let next = self.go_on(stream, conn);
        self.let_wait(conn, next)
    }

    fn serve_inline(&self, stream: &Stream, conn: &mut Conn<H::Conn>) -> Option<Next> {
        if let Phase::Receiving(receiving) = &mut conn.phase {
            // A sender that is given up is found by the worker.
            receiving.news();
        }
        let Phase::Collecting(message) = &mut conn.phase else { return None };
        if H::PROMPT.is_empty() {
            return None;
        }
        let mut step = match message.collect(stream, &self.dialect) {
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
        conn.phase = Phase::Sending(self.refusal(&error), LingeringClose::close());
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
