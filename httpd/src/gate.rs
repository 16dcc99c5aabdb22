//! The gate: it alone faces the network. It reads one request head at a time, within limits and a
//! deadline, refuses what is not proper HTTP, asks the service with what that uses, and relays the answer
//! in bounded pieces. Only work holds a worker: heads that drip, viewers that pause and clients that
//! send what nobody wants wait in the server loop, and what is known of them waits in their state.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant, SystemTime};

use tnv_common::auth::signed_link::without_signature;
use tnv_common::limits::{DRAIN_TIMEOUT, HELD_BYTES_MAX, IDLE_TIMEOUT, MESSAGE_TIMEOUT};
use tnv_common::net::Stream;
use tnv_common::net::event_loop::{Next, Service, Until};
use tnv_common::net::lingering_close::{Drain, Drained};
use tnv_common::net::memory_budget::{Held, MemoryBudget};
use tnv_common::net::stop::Stop;

use crate::content::Content;
use crate::files::Files;
use crate::head::{self, HEAD_BYTES_MAX, Head};
use crate::relay::{Relay, Sent};
use crate::service::FileService;
use crate::status::{ALLOW, Headers, Refusal, Status, head as response_head};

/// How long a refused connection is read on, so that its client gets to read the refusal.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// As much of a target and of a method stands in the log, and is kept until the answer is sent: longer than any
/// of ours.
const LOGGED_TARGET_BYTES_MAX: usize = 1 << 10;
const LOGGED_METHOD_BYTES_MAX: usize = 32;

/// The gate.
pub struct Gate<F> {
    service: FileService<F>,
    budget: MemoryBudget,
    stop: Stop,
}

/// What is remembered of a connection.
pub struct Conn<I> {
    /// What has come and was not used yet: at most a head's length.
    unused: Vec<u8>,
    /// Since when a head has been coming.
    since: Option<Instant>,
    phase: Phase<I>,
    /// What it takes of the memory budget while it waits.
    held: Held,
}

impl<I> Default for Conn<I> {
    fn default() -> Conn<I> {
        Conn { unused: Vec::new(), since: None, phase: Phase::Asking, held: Held::default() }
    }
}

/// What a connection is at. It goes from one to the next and round again.
enum Phase<I> {
    /// A head is awaited, or coming.
    Asking,
    Answering(Box<Answering<I>>),
    /// It is to be closed, but its client is still sending: closing at once would take the answer
    /// with it.
    Closing(Drain),
}

/// An answer on its way.
struct Answering<I> {
    relay: Relay<I>,
    after: After,
    /// What the log is to say of it. Refusals of what is no request are logged before.
    entry: Option<Entry>,
}

struct Entry {
    method: String,
    target: String,
    status: u16,
    began: Instant,
}

/// What becomes of a connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Next,
    /// It is closed, when nothing more has come that could take the answer with it.
    Close,
    CloseGently(Duration),
}

/// What came of reading a head.
enum Incoming {
    Head(Head),
    /// Not whole yet.
    Part,
    /// Not whole in time.
    Late,
    /// The client has gone.
    Gone,
    Refused(Refusal),
}

impl<F: Files> Service for Gate<F> {
    type Conn = Conn<F::Info>;

    fn serve(&self, stream: &Stream, conn: &mut Conn<F::Info>) -> Next {
        match self.go_on(stream, conn) {
            Next::Close => Next::Close,
            next => self.let_wait(conn, next),
        }
    }

    fn refuse(&self, stream: &Stream, conn: &mut Conn<F::Info>) -> Next {
        let refusal = Refusal::new(Status::UNAVAILABLE, "too many connections; try again in a few seconds");
        conn.phase = Phase::Answering(Box::new(Answering::refusal(&refusal, false)));
        self.serve(stream, conn)
    }

    fn idle_timeout(&self, conn: &Conn<F::Info>) -> Option<Duration> {
        let deadline = match (&conn.phase, conn.since) {
            (Phase::Asking, None) => return Some(IDLE_TIMEOUT),
            (Phase::Asking, Some(since)) => since + MESSAGE_TIMEOUT,
            (Phase::Answering(answering), _) => answering.relay.deadline(),
            (Phase::Closing(drain), _) => drain.deadline(),
        };
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    fn closed(&self, conn: Conn<F::Info>) {
        match (&conn.phase, conn.since) {
            (Phase::Asking, Some(since)) => {
                log::info!("closed: the request's head was not whole after {:?}", since.elapsed());
            }
            (Phase::Answering(answering), _) => {
                answering.log(Some("it was closed, since nothing more was taken"));
            }
            (Phase::Asking, None) | (Phase::Closing(_), _) => {}
        }
    }
}

impl<F: Files> Gate<F> {
    /// Goes on with a connection until it has to wait.
    fn go_on(&self, stream: &Stream, conn: &mut Conn<F::Info>) -> Next {
        let _counted = self.service.enter();
        loop {
            match &mut conn.phase {
                Phase::Asking => match conn.next_head(stream) {
                    Incoming::Head(head) => {
                        conn.phase = Phase::Answering(Box::new(self.answer(head)));
                    }
                    Incoming::Part => return Next::Wait,
                    Incoming::Late => return Next::Close,
                    Incoming::Gone => return conn.close(),
                    Incoming::Refused(refusal) => {
                        conn.since = None;
                        let is_head = conn.unused.starts_with(b"HEAD ");
                        log::info!("refused: {} {}", refusal.status.0, refusal.text);
                        conn.phase = Phase::Answering(Box::new(Answering::refusal(&refusal, is_head)));
                    }
                },
                Phase::Answering(answering) => match answering.relay.go_on(stream, &self.service) {
                    Ok(Sent::Part) => return Next::Resume(Until::Writable),
                    Ok(Sent::Turn) => return Next::Turn,
                    Ok(Sent::All) => {
                        answering.log(None);
                        conn.phase = match answering.after {
                            After::Next => Phase::Asking,
                            After::Close if !stream.readable_now() => return conn.close(),
                            After::Close => Phase::Closing(Drain::farewell(stream, FAREWELL_TIMEOUT)),
                            After::CloseGently(timeout) => Phase::Closing(Drain::farewell(stream, timeout)),
                        };
                        if matches!(conn.phase, Phase::Asking) {
                            // A client may send requests without end: between two of them others have their turn.
                            return if conn.unused.is_empty() { Next::Wait } else { Next::Turn };
                        }
                    }
                    Err(failure) => {
                        // Closing is all that can be done: the length tells the viewer that this is not all.
                        answering.log(Some(&failure.to_string()));
                        return conn.close();
                    }
                },
                Phase::Closing(drain) => {
                    return match drain.drain(stream) {
                        Drained::Part => Next::Resume(Until::Readable),
                        Drained::All | Drained::Closing => Next::Close,
                    };
                }
            }
        }
    }

    /// Lets a connection wait, as long as the budget has room for what it holds meanwhile.
    fn let_wait(&self, conn: &mut Conn<F::Info>, next: Next) -> Next {
        let bytes = conn.held_bytes();
        if self.budget.hold(&mut conn.held, bytes) {
            return next;
        }
        const CROWDED: &str = "too many others wait in the middle";
        match &conn.phase {
            Phase::Answering(answering) => answering.log(Some(CROWDED)),
            Phase::Asking | Phase::Closing(_) => log::info!("closed: {CROWDED}"),
        }
        conn.close()
    }

    /// A gate to this service.
    pub fn new(service: FileService<F>, stop: Stop) -> Gate<F> {
        Gate { service, budget: MemoryBudget::new(HELD_BYTES_MAX), stop }
    }

    /// Begins the answer to a request.
    fn answer(&self, head: Head) -> Answering<F::Info> {
        let began = Instant::now();
        let keep_alive = head.keep_alive && !self.stop.is_set();
        let after = match (keep_alive, head.has_body) {
            (true, _) => After::Next,
            (false, true) => After::CloseGently(DRAIN_TIMEOUT),
            (false, false) => After::Close,
        };
        let ending = Ending::new(&head, keep_alive);
        let (status, relay) = match head.method.as_str() {
            "GET" | "HEAD" => self.ask(&head, &ending),
            "OPTIONS" if head.target == "*" => {
                let headers: Headers = vec![(ALLOW.0, ALLOW.1.to_owned())];
                let text = response_head(Status::NO_CONTENT, &headers);
                (Status::NO_CONTENT.0, Relay::new(ending.end(&text), Content::none()))
            }
            method => {
                let text = format!("files are read with GET and HEAD, not with {method:.32}");
                ending.refusal(&Refusal::new(Status::METHOD_NOT_ALLOWED, text), &head)
            }
        };
        let target = shortened(without_signature(&head.target), LOGGED_TARGET_BYTES_MAX);
        let method = shortened(head.method, LOGGED_METHOD_BYTES_MAX);
        let entry = Entry { method, target, status, began };
        Answering { relay, after, entry: Some(entry) }
    }

    /// Has the service answer: the status, and what is to be relayed. Should it panic, its viewer is told.
    fn ask(&self, head: &Head, ending: &Ending) -> (u16, Relay<F::Info>) {
        match catch_unwind(AssertUnwindSafe(|| self.service.answer(head))) {
            Ok(Ok(plan)) => {
                let text = response_head(plan.status, &plan.headers);
                (plan.status.0, Relay::new(ending.end(&text), plan.content))
            }
            Ok(Err(refusal)) => ending.refusal(&refusal, head),
            Err(_) => {
                ending.refusal(&Refusal::new(Status::UNAVAILABLE, "the server cannot answer now"), head)
            }
        }
    }
}

impl<I: Send> Conn<I> {
    /// What it holds in memory while it waits.
    fn held_bytes(&self) -> usize {
        let answer = match &self.phase {
            Phase::Answering(answering) => answering.relay.held_bytes(),
            Phase::Asking | Phase::Closing(_) => 0,
        };
        self.unused.capacity() + answer
    }

    /// Reads what has come, until a head is whole.
    fn next_head(&mut self, stream: &Stream) -> Incoming {
        // On the stack: most connections idle, and those that do hold no buffer.
        let mut buffer = [0; HEAD_BYTES_MAX];
        let mut has_news = !self.unused.is_empty() && self.since.is_none();
        if self.since.is_some_and(|since| since.elapsed() >= MESSAGE_TIMEOUT) {
            return Incoming::Late;
        }
        loop {
            if has_news {
                match head::parse(&self.unused) {
                    Ok(Some((head, length))) => {
                        self.unused.drain(..length);
                        if self.unused.is_empty() {
                            self.unused = Vec::new();
                        }
                        self.since = None;
                        return Incoming::Head(head);
                    }
                    Ok(None) => {}
                    Err(refusal) => return Incoming::Refused(refusal),
                }
            }
            if !self.unused.is_empty() {
                self.since.get_or_insert_with(Instant::now);
            }
            let start = self.unused.len();
            match stream.read_now(&mut buffer[start..]) {
                Ok(count) if count > 0 => {
                    let news = &buffer[start..start + count];
                    self.unused.extend_from_slice(news);
                    // A head ends with a line; until one does, there is only its length to look at, at each
                    // bound once: a client that sends byte by byte must not have it all parsed again each time.
                    has_news = start == 0 || news.contains(&b'\n') || self.crossed_a_bound(start);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Incoming::Part,
                _ => return Incoming::Gone,
            }
        }
    }

    /// Whether so much has come, beyond what there was before, that its length alone may refuse it.
    fn crossed_a_bound(&self, before: usize) -> bool {
        let now = self.unused.len();
        [head::LINE_BYTES_MAX + 1, HEAD_BYTES_MAX].into_iter().any(|bound| before < bound && now >= bound)
    }

    /// It is closed with nothing left to be said of it.
    fn close(&mut self) -> Next {
        *self = Conn::default();
        Next::Close
    }
}

impl<I: Send> Answering<I> {
    /// A refusal that ends the connection.
    fn refusal(refusal: &Refusal, is_head: bool) -> Answering<I> {
        let (text, body) = refusal.response();
        let content = if is_head { Content::none() } else { Content::text(body) };
        let relay = Relay::new(Ending { connection: "Connection: close\r\n" }.end(&text), content);
        Answering { relay, after: After::CloseGently(FAREWELL_TIMEOUT), entry: None }
    }

    /// Logs how it ended.
    fn log(&self, failure: Option<&str>) {
        let Some(Entry { method, target, status, began }) = &self.entry else { return };
        let (bytes, took) = (self.relay.content_taken(), began.elapsed());
        match failure {
            None => log::info!("{method} {target} {status} {bytes} bytes in {took:?}"),
            Some(failure) => {
                log::info!("{method} {target} {status} {bytes} bytes in {took:?}, then {failure}")
            }
        }
    }
}

/// A text of at most so many bytes; where it is cut it ends in an ellipsis.
fn shortened(text: String, bytes_max: usize) -> String {
    match text.len() <= bytes_max {
        true => text,
        false => format!("{}…", &text[..text.floor_char_boundary(bytes_max)]),
    }
}

/// The header lines that the gate ends every head with.
struct Ending {
    connection: &'static str,
}

impl Ending {
    fn new(head: &Head, keep_alive: bool) -> Ending {
        let connection = match (keep_alive, head.is_http_10) {
            (false, _) => "Connection: close\r\n",
            (true, true) => "Connection: keep-alive\r\n",
            (true, false) => "",
        };
        Ending { connection }
    }

    /// A head with its end.
    fn end(&self, head: &[u8]) -> Vec<u8> {
        let date = httpdate::HttpDate::from(SystemTime::now());
        let mut text = Vec::with_capacity(head.len() + 96);
        text.extend_from_slice(head);
        text.extend_from_slice(format!("Date: {date}\r\n{}\r\n", self.connection).as_bytes());
        text
    }

    /// A refusal of a request that was well-formed.
    fn refusal<I: Send>(&self, refusal: &Refusal, head: &Head) -> (u16, Relay<I>) {
        let (text, body) = refusal.response();
        let content = if head.method == "HEAD" { Content::none() } else { Content::text(body) };
        (refusal.status.0, Relay::new(self.end(&text), content))
    }
}
