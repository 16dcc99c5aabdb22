//! Receives request heads from a connection, without waiting and within a deadline. What arrives after a head
//! stays for the next one.

use std::io;
use std::time::{Duration, Instant};

use crate::http::refusal::Refusal;
use crate::http::request_head::{self, HEAD_BYTES_MAX, LINE_BYTES_MAX, RequestHead};
use crate::limits::MESSAGE_TIMEOUT;
use crate::net::Stream;

/// The received bytes of a connection that are not used yet: at most a head's length.
#[derive(Default)]
pub struct HeadReader {
    unused: Vec<u8>,
    /// When the first byte of the head arrived.
    since: Option<Instant>,
}

/// The result of a read.
#[derive(Debug)]
pub enum Received {
    /// A whole head.
    Head(RequestHead),
    /// The head is incomplete.
    Incomplete,
    /// The head is not whole in time.
    TimedOut,
    /// The client closed the connection, or it failed.
    Closed,
    /// What arrived is no head that can be served.
    Refused {
        /// The response.
        refusal: Refusal,
        /// Whether the request is a HEAD, whose response has no body.
        is_head: bool,
    },
}

impl HeadReader {
    /// Whether no byte of a next request is here.
    pub fn is_empty(&self) -> bool {
        self.unused.is_empty()
    }

    /// How long an incomplete head has been on its way.
    pub fn elapsed(&self) -> Option<Duration> {
        self.since.map(|since| since.elapsed())
    }

    /// When an incomplete head is too late.
    pub fn deadline(&self) -> Option<Instant> {
        self.since.map(|since| since + MESSAGE_TIMEOUT)
    }

    /// The memory that it holds while the connection waits.
    pub fn held_bytes(&self) -> usize {
        self.unused.capacity()
    }

    /// Reads what has arrived, until a head is whole. Keeps its header lines that are named in `kept`.
    pub fn read(&mut self, stream: &Stream, kept: &[&'static str]) -> Received {
        // The buffer is on the stack: an idle connection holds none.
        let mut buffer = [0; HEAD_BYTES_MAX];
        let mut has_news = !self.unused.is_empty() && self.since.is_none();
        if self.elapsed().is_some_and(|elapsed| elapsed >= MESSAGE_TIMEOUT) {
            return Received::TimedOut;
        }
        loop {
            if has_news {
                match request_head::parse(&self.unused, kept) {
                    Ok(Some((head, length))) => {
                        self.unused.drain(..length);
                        if self.unused.is_empty() {
                            self.unused = Vec::new();
                        }
                        self.since = None;
                        return Received::Head(head);
                    }
                    Ok(None) => {}
                    Err(refusal) => {
                        self.since = None;
                        return Received::Refused { refusal, is_head: self.unused.starts_with(b"HEAD ") };
                    }
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
                    // A head ends with a line. Until a line ends, only the length matters, at each bound
                    // once: a client that sends single bytes must not have them all parsed again each time.
                    has_news = start == 0 || news.contains(&b'\n') || self.crossed_a_bound(start);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Received::Incomplete,
                _ => return Received::Closed,
            }
        }
    }

    /// Whether the length has passed a bound, since it was `before`, that may refuse the head.
    fn crossed_a_bound(&self, before: usize) -> bool {
        let now = self.unused.len();
        [LINE_BYTES_MAX + 1, HEAD_BYTES_MAX].into_iter().any(|bound| before < bound && now >= bound)
    }
}
