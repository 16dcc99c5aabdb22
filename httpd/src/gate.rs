//! The gate: it alone faces the network. It reads one request head at a time, within limits and a
//! deadline, refuses what is not proper HTTP, passes on what the service uses, and relays the answer
//! in bounded pieces. Connections that wait for their next request hold no worker.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tnv_common::error::ErrorKind;
use tnv_common::limits::{DRAIN_BYTES_MAX, DRAIN_TIMEOUT, IDLE_TIMEOUT, MESSAGE_TIMEOUT, PROGRESS_TIMEOUT};
use tnv_common::net::Stream;
use tnv_common::server::{Next, Service};
use tnv_common::stop::Stop;

use crate::head::{self, HEAD_BYTES_MAX, Head};
use crate::private::{Answered, Private, RelayError};
use crate::status::{ALLOW, Headers, Refusal, Status, head as response_head};

/// How long a refused connection is read on, so that its client gets to read the refusal.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest refusal of a connection over the limit, its farewell included.
const REFUSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The gate.
pub struct Gate {
    private: Private,
    stop: Stop,
    patience: Patience,
}

/// What is remembered of a connection between its requests.
#[derive(Default)]
pub struct Conn {
    /// What has come and was not used yet: at most a head's length.
    unused: Vec<u8>,
    /// Since when a head has been coming.
    since: Option<Instant>,
}

/// How many workers may wait for clients that are slow to ask, or that send what nobody wants. A
/// quarter: however many such clients there are, the others are served.
struct Patience {
    free: AtomicUsize,
}

struct Permit<'a>(&'a Patience);

impl Patience {
    fn new(threads: usize) -> Patience {
        Patience { free: AtomicUsize::new(threads.div_ceil(4)) }
    }

    fn take(&self) -> Option<Permit<'_>> {
        let taken = self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(1));
        // A permit that is made is also given back, so none may be made in vain.
        taken.is_ok().then(|| Permit(self))
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.free.fetch_add(1, Ordering::Relaxed);
    }
}

/// What came of reading a head.
enum Incoming {
    Head(Head),
    /// Not whole yet, and nobody free to wait for it here.
    Later,
    /// The client has gone.
    Gone,
    Refused(Refusal),
}

impl Service for Gate {
    type Conn = Conn;

    fn serve(&self, stream: &Stream, conn: &mut Conn) -> Next {
        loop {
            match self.next_head(stream, conn) {
                Incoming::Head(head) => match self.answer(stream, &head) {
                    After::Next if conn.unused.is_empty() => return Next::Wait,
                    After::Next => {}
                    After::Close => return Next::Close,
                    After::CloseGently(timeout) => {
                        self.close_gently(stream, timeout);
                        return Next::Close;
                    }
                },
                Incoming::Later => return Next::Wait,
                Incoming::Gone => return Next::Close,
                Incoming::Refused(refusal) => {
                    log::info!("refused: {} {}", refusal.status.0, refusal.text);
                    // Whether the client takes it is its own affair.
                    let _ = send_refusal(stream, &refusal, PROGRESS_TIMEOUT);
                    self.close_gently(stream, FAREWELL_TIMEOUT);
                    return Next::Close;
                }
            }
        }
    }

    fn refuse(&self, stream: &Stream) {
        let refusal = Refusal::new(Status::UNAVAILABLE, "too many connections; try again in a few seconds");
        let _ = send_refusal(stream, &refusal, REFUSE_TIMEOUT);
        stream.close_gently(REFUSE_TIMEOUT, DRAIN_BYTES_MAX);
    }

    fn idle_timeout(&self, conn: &Conn) -> Option<Duration> {
        Some(match conn.since {
            Some(since) => (since + MESSAGE_TIMEOUT).saturating_duration_since(Instant::now()),
            None => IDLE_TIMEOUT,
        })
    }
}

/// What becomes of a connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Next,
    Close,
    /// The client is still sending: closing at once would take the answer with it.
    CloseGently(Duration),
}

impl Gate {
    /// A gate to this private side, with so many workers.
    pub fn new(private: Private, threads: usize, stop: Stop) -> Gate {
        Gate { private, stop, patience: Patience::new(threads) }
    }

    /// Ends the private side, when the last request has been answered.
    pub fn close(&self, timeout: Duration) {
        self.private.close(timeout);
    }

    /// Reads on until a head is whole.
    fn next_head(&self, stream: &Stream, conn: &mut Conn) -> Incoming {
        let mut has_news = !conn.unused.is_empty() && conn.since.is_none();
        let mut permit = None;
        loop {
            if has_news {
                match head::parse(&conn.unused) {
                    Ok(Some((head, length))) => {
                        conn.unused.drain(..length);
                        conn.since = None;
                        return Incoming::Head(head);
                    }
                    Ok(None) => {}
                    Err(refusal) => return Incoming::Refused(refusal),
                }
            }
            if !stream.readable_now() && permit.is_none() {
                if conn.unused.is_empty() {
                    return Incoming::Later;
                }
                permit = self.patience.take();
                if permit.is_none() {
                    conn.since.get_or_insert_with(Instant::now);
                    return Incoming::Later;
                }
            }
            let deadline = *conn.since.get_or_insert_with(Instant::now) + MESSAGE_TIMEOUT;
            let start = conn.unused.len();
            // On the stack: most connections idle, and those that do hold no buffer.
            let mut buffer = [0; HEAD_BYTES_MAX];
            let read = match deadline > Instant::now() {
                true => stream.read_some(&mut buffer[start..], deadline),
                false => Err(io::ErrorKind::TimedOut.into()),
            };
            match read {
                Ok(0) => return Incoming::Gone,
                Ok(count) => {
                    let news = &buffer[start..start + count];
                    conn.unused.extend_from_slice(news);
                    // A head ends with a line; until one does, there is only its length to look at.
                    has_news = start == 0 || news.contains(&b'\n') || is_long(conn);
                }
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    let text = format!("the request's head was not whole within {MESSAGE_TIMEOUT:?}");
                    return Incoming::Refused(Refusal::new(Status::REQUEST_TIMEOUT, text));
                }
                Err(_) => return Incoming::Gone,
            }
        }
    }

    /// Answers a request.
    fn answer(&self, stream: &Stream, head: &Head) -> After {
        let began = Instant::now();
        let keep_alive = head.keep_alive && !self.stop.is_set();
        let after = match (keep_alive, head.has_body) {
            (true, _) => After::Next,
            (false, true) => After::CloseGently(DRAIN_TIMEOUT),
            (false, false) => After::CloseGently(FAREWELL_TIMEOUT),
        };
        let ending = Ending::new(head, keep_alive);
        let (status, bytes, outcome) = match head.method.as_str() {
            "GET" | "HEAD" => self.relay(stream, head, &ending),
            "OPTIONS" if head.target == "*" => {
                let headers: Headers = vec![(ALLOW.0, ALLOW.1.to_owned())];
                let text = response_head(Status::NO_CONTENT, &headers);
                (Status::NO_CONTENT.0, 0, ending.send(stream, &text, &[], PROGRESS_TIMEOUT))
            }
            method => {
                let text = format!("files are read with GET and HEAD, not with {method:.32}");
                answer_refusal(stream, &Refusal::new(Status::METHOD_NOT_ALLOWED, text), head, &ending)
            }
        };
        let took = began.elapsed();
        match outcome {
            Ok(()) => log::info!("{} {} {status} {bytes} bytes in {took:?}", head.method, head.target),
            Err(error) => {
                log::info!(
                    "{} {} {status} {bytes} bytes in {took:?}, then {error}",
                    head.method,
                    head.target
                );
                return After::Close;
            }
        }
        match after {
            // Nothing more has come, so nothing can take the answer with it.
            After::CloseGently(_) if !head.has_body && !stream.readable_now() => After::Close,
            after => after,
        }
    }

    /// Has the service answer, and relays what it says: the status, the bytes of content, and
    /// whether all of it got there.
    fn relay(&self, stream: &Stream, head: &Head, ending: &Ending) -> (u16, u64, io::Result<()>) {
        let peer = stream.peer().map(|peer| peer.to_string()).unwrap_or_default();
        let answered = match self.private.ask(head, &peer) {
            Ok(answered) => answered,
            Err(error) => {
                log::error!("the service does not answer: {error}");
                let status = match error.kind() {
                    ErrorKind::Internal => Status::BAD_GATEWAY,
                    _ => Status::UNAVAILABLE,
                };
                return answer_refusal(
                    stream,
                    &Refusal::new(status, "the server cannot answer now"),
                    head,
                    ending,
                );
            }
        };
        let status = answered.status();
        let mut sent = 0;
        let outcome = self.relay_answer(stream, answered, ending, &mut sent);
        (status, sent, outcome)
    }

    fn relay_answer(
        &self,
        stream: &Stream,
        answered: Answered,
        ending: &Ending,
        sent: &mut u64,
    ) -> io::Result<()> {
        ending.send(stream, answered.head(), answered.first_content(), PROGRESS_TIMEOUT)?;
        *sent = answered.first_content().len() as u64;
        let relayed = answered.relay(|content| {
            stream.write_full(content, PROGRESS_TIMEOUT)?;
            *sent += content.len() as u64;
            Ok(())
        });
        match relayed {
            Ok(connection) => {
                self.private.put(connection);
                Ok(())
            }
            Err(RelayError::Viewer(error)) => Err(error),
            // Closing is all that can be done: the length tells the viewer that this is not all.
            Err(RelayError::Service(text)) => Err(io::Error::other(text)),
        }
    }

    /// Lets the client read its answer while it still sends, where a worker can be spared for that.
    fn close_gently(&self, stream: &Stream, timeout: Duration) {
        if let Some(_permit) = self.patience.take() {
            stream.close_gently(timeout, DRAIN_BYTES_MAX);
        }
    }
}

/// Whether so much has come that its length alone may refuse it.
fn is_long(conn: &Conn) -> bool {
    conn.unused.len() > head::TARGET_BYTES_MAX
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

    /// Sends a head, with its end, and content.
    fn send(&self, stream: &Stream, head: &[u8], content: &[u8], progress: Duration) -> io::Result<()> {
        let date = httpdate::HttpDate::from(SystemTime::now());
        let mut text = Vec::with_capacity(head.len() + 96);
        text.extend_from_slice(head);
        text.extend_from_slice(format!("Date: {date}\r\n{}\r\n", self.connection).as_bytes());
        stream.write_two(&text, content, progress)
    }
}

/// A refusal of the gate's own to a request that was well-formed.
fn answer_refusal(
    stream: &Stream,
    refusal: &Refusal,
    head: &Head,
    ending: &Ending,
) -> (u16, u64, io::Result<()>) {
    let (text, body) = refusal.response();
    let body = if head.method == "HEAD" { vec![] } else { body };
    let sent = ending.send(stream, &text, &body, PROGRESS_TIMEOUT);
    (refusal.status.0, body.len() as u64, sent)
}

/// A refusal that ends the connection.
fn send_refusal(stream: &Stream, refusal: &Refusal, progress: Duration) -> io::Result<()> {
    let (text, body) = refusal.response();
    Ending { connection: "Connection: close\r\n" }.send(stream, &text, &body, progress)
}
