//! The HTTP front end: the only module that faces the network. It receives request heads, has the service
//! answer, and closes connections so that their clients can read the last response. Only work holds a worker:
//! slow heads, paused viewers and unwanted bodies wait in the event loop, and their connection keeps what is
//! known of them.
//!
//! A connection:
//!
//! ```text
//!  ReadingHead ────┬── head whole, or refused ────────────────────▶ Responding
//!                  └── client closed, idle, or head late ─────────▶ closed
//!  Responding ─────┬── sent, kept alive ──────────────────────────▶ ReadingHead
//!                  ├── sent, not kept alive, client sent no more ─▶ closed
//!                  ├── sent, not kept alive, else ────────────────▶ LingeringClose
//!                  └── failed ────────────────────────────────────▶ closed
//!  LingeringClose ──── client closed, time-out, or enough read ───▶ closed
//! ```
//!
//! From every state it is closed when waiting connections hold more memory than [`HELD_BYTES_MAX`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use tnv_common::http::head_reader::{HeadReader, Received};
use tnv_common::http::refusal::Refusal;
use tnv_common::http::request_head::RequestHead;
use tnv_common::http::response::{self, Connection, Part};
use tnv_common::http::{Method, status_code};
use tnv_common::limits::{DRAIN_TIMEOUT, HELD_BYTES_MAX, IDLE_TIMEOUT};
use tnv_common::net::Stream;
use tnv_common::net::event_loop::{Next, Service, Until};
use tnv_common::net::lingering_close::{Drained, LingeringClose};
use tnv_common::net::memory_budget::{Held, MemoryBudget};
use tnv_common::net::stop::Stop;

use crate::access_log;
use crate::download::content::Content;
use crate::download::files::Files;
use crate::response_writer::{ResponseWriter, Sent};
use crate::service::{FileService, HEADERS_USED};
use crate::status_code::allow;

/// How long a refused connection is read on, so that its client reads the refusal.
const REFUSED_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The front end.
pub struct FrontEnd<F> {
    service: FileService<F>,
    budget: MemoryBudget,
    stop: Stop,
}

/// The state of a connection.
pub struct Conn<I> {
    heads: HeadReader,
    phase: Phase<I>,
    /// Its share of the memory budget while it waits.
    held: Held,
}

impl<I> Default for Conn<I> {
    fn default() -> Conn<I> {
        Conn { heads: HeadReader::default(), phase: Phase::ReadingHead, held: Held::default() }
    }
}

/// See the diagram above.
enum Phase<I> {
    ReadingHead,
    Responding(Box<Responding<I>>),
    /// Closing at once, while the client is still sending, would reset the connection and lose the response.
    LingeringClose(LingeringClose),
}

/// A response on its way.
struct Responding<I> {
    writer: ResponseWriter<I>,
    after: After,
    /// Refusals of what is no request have none: they are logged when they are made.
    entry: Option<access_log::Entry>,
}

/// The state of the connection after a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    KeepAlive,
    /// It is closed, at once if the client has sent nothing more.
    Close,
    /// It is closed when the client has had so long to read the response.
    LingeringClose(Duration),
}

impl<F: Files> Service for FrontEnd<F> {
    type Conn = Conn<F::Info>;

    fn serve(&self, stream: &Stream, conn: &mut Conn<F::Info>) -> Next {
        match self.go_on(stream, conn) {
            Next::Close => Next::Close,
            next => self.let_wait(conn, next),
        }
    }

    fn refuse(&self, stream: &Stream, conn: &mut Conn<F::Info>) -> Next {
        let refusal =
            Refusal::new(status_code::UNAVAILABLE, "too many connections; try again in a few seconds");
        conn.phase = Phase::Responding(Box::new(Responding::last(&refusal, Part::All)));
        self.serve(stream, conn)
    }

    fn idle_timeout(&self, conn: &Conn<F::Info>) -> Option<Duration> {
        let deadline = match &conn.phase {
            Phase::ReadingHead => match conn.heads.deadline() {
                Some(deadline) => deadline,
                None => return Some(IDLE_TIMEOUT),
            },
            Phase::Responding(responding) => responding.writer.deadline(),
            Phase::LingeringClose(drain) => drain.deadline(),
        };
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    fn closed(&self, conn: Conn<F::Info>) {
        match (&conn.phase, conn.heads.elapsed()) {
            (Phase::ReadingHead, Some(elapsed)) => {
                log::info!("connection closed: request head incomplete after {elapsed:?}");
            }
            (Phase::Responding(responding), _) => responding.log(Some("the client read nothing more")),
            (Phase::ReadingHead, None) | (Phase::LingeringClose(_), _) => {}
        }
    }
}

impl<F: Files> FrontEnd<F> {
    /// A front end to this service.
    pub fn new(service: FileService<F>, stop: Stop) -> FrontEnd<F> {
        FrontEnd { service, budget: MemoryBudget::new(HELD_BYTES_MAX), stop }
    }

    /// Goes on with a connection until it has to wait.
    fn go_on(&self, stream: &Stream, conn: &mut Conn<F::Info>) -> Next {
        let _counted = self.service.enter();
        loop {
            match &mut conn.phase {
                Phase::ReadingHead => match conn.heads.read(stream, &HEADERS_USED) {
                    Received::Head(head) => {
                        conn.phase = Phase::Responding(Box::new(self.respond(&head)));
                    }
                    Received::Incomplete => return Next::Wait,
                    Received::TimedOut => return Next::Close,
                    Received::Closed => return conn.close(),
                    Received::Refused { refusal, is_head } => {
                        log::info!("request refused: {} {}", refusal.status.0, refusal.text);
                        let part = if is_head { Part::Head } else { Part::All };
                        conn.phase = Phase::Responding(Box::new(Responding::last(&refusal, part)));
                    }
                },
                Phase::Responding(responding) => match responding.writer.go_on(stream, &self.service) {
                    Ok(Sent::Part) => return Next::Resume(Until::Writable),
                    Ok(Sent::Turn) => return Next::Turn,
                    Ok(Sent::All) => {
                        responding.log(None);
                        conn.phase = match responding.after {
                            After::KeepAlive => Phase::ReadingHead,
                            After::Close if !stream.readable_now() => return conn.close(),
                            After::Close => Phase::LingeringClose(LingeringClose::shut_down(
                                stream,
                                REFUSED_CLOSE_TIMEOUT,
                            )),
                            After::LingeringClose(timeout) => {
                                Phase::LingeringClose(LingeringClose::shut_down(stream, timeout))
                            }
                        };
                        if matches!(conn.phase, Phase::ReadingHead) {
                            // A client may send requests without end: others have their turn between two of them.
                            return if conn.heads.is_empty() { Next::Wait } else { Next::Turn };
                        }
                    }
                    Err(failure) => {
                        // The head is sent, so closing is all that is left: the body is shorter than its
                        // length.
                        responding.log(Some(&failure.to_string()));
                        return conn.close();
                    }
                },
                Phase::LingeringClose(drain) => {
                    return match drain.drain(stream) {
                        Drained::Part => Next::Resume(Until::Readable),
                        Drained::All | Drained::Closing => Next::Close,
                    };
                }
            }
        }
    }

    /// Lets a connection wait, if the budget has room for what it holds meanwhile.
    fn let_wait(&self, conn: &mut Conn<F::Info>, next: Next) -> Next {
        let bytes = conn.held_bytes();
        if self.budget.hold(&mut conn.held, bytes) {
            return next;
        }
        const REASON: &str = "waiting connections hold too much memory";
        match &conn.phase {
            Phase::Responding(responding) => responding.log(Some(REASON)),
            Phase::ReadingHead | Phase::LingeringClose(_) => log::info!("connection closed: {REASON}"),
        }
        conn.close()
    }

    /// Begins the response to a request.
    fn respond(&self, head: &RequestHead) -> Responding<F::Info> {
        let began = Instant::now();
        let keep_alive = head.keep_alive && !self.stop.is_set();
        let after = match (keep_alive, head.has_body) {
            (true, _) => After::KeepAlive,
            (false, true) => After::LingeringClose(DRAIN_TIMEOUT),
            (false, false) => After::Close,
        };
        let connection = Connection::new(keep_alive, &head.version);
        let part = if head.method == Method::Head { Part::Head } else { Part::All };
        let (status, writer) = match self.answer(head) {
            Ok((response, content)) => {
                let status = response.status_code();
                (status, ResponseWriter::new(response::write(response, Part::Head, connection), content))
            }
            Err(refusal) => (refusal.status, refused(&refusal, part, connection)),
        };
        Responding { writer, after, entry: Some(access_log::Entry::new(head, status, began)) }
    }

    fn answer(&self, head: &RequestHead) -> Result<(response::Response, Content<F::Info>), Refusal> {
        match &head.method {
            // After a panic of the service its viewer still gets an answer.
            Method::Get | Method::Head => catch_unwind(AssertUnwindSafe(|| self.service.answer(head)))
                .unwrap_or_else(|_| {
                    Err(Refusal::new(status_code::UNAVAILABLE, "the server cannot answer now"))
                }),
            Method::Options if head.target == "*" => {
                Ok((response::with_length(status_code::NO_CONTENT, vec![allow()], 0), Content::none()))
            }
            method => {
                let text = format!("files are read with GET and HEAD, not with {:.32}", method.as_str());
                Err(Refusal::new(status_code::METHOD_NOT_ALLOWED, text).with_header(allow()))
            }
        }
    }
}

impl<I: Send> Conn<I> {
    /// The memory that it holds while it waits.
    fn held_bytes(&self) -> usize {
        let response = match &self.phase {
            Phase::Responding(responding) => responding.writer.held_bytes(),
            Phase::ReadingHead | Phase::LingeringClose(_) => 0,
        };
        self.heads.held_bytes() + response
    }

    /// Closes it, with nothing left to log.
    fn close(&mut self) -> Next {
        *self = Conn::default();
        Next::Close
    }
}

impl<I: Send> Responding<I> {
    /// A refusal that ends the connection.
    fn last(refusal: &Refusal, part: Part) -> Responding<I> {
        let writer = refused(refusal, part, Connection::Close);
        Responding { writer, after: After::LingeringClose(REFUSED_CLOSE_TIMEOUT), entry: None }
    }

    fn log(&self, failure: Option<&str>) {
        if let Some(entry) = &self.entry {
            entry.write(self.writer.body_sent(), failure);
        }
    }
}

fn refused<I: Send>(refusal: &Refusal, part: Part, connection: Connection) -> ResponseWriter<I> {
    ResponseWriter::new(response::write(refusal.response(), part, connection), Content::none())
}
