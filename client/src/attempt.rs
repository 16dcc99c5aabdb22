//! One attempt at one server, and the log of the attempts that failed. The log decides whether another
//! attempt makes sense and becomes the error. It makes no attempts itself.

use std::fmt::Display;
use std::net::SocketAddr;
use std::time::Duration;

use tnv_common::error::{Error, ErrorKind};

/// What legacy servers say. Their error number is the same for every failure, so the text decides: the text,
/// its kind, and whether another server of the group may answer differently. A legacy storage uses the same
/// text for an unknown file and for a database error.
const LEGACY_MESSAGES: [(&str, ErrorKind, bool); 5] = [
    ("unknown command", ErrorKind::Unsupported, false),
    ("unknown appid", ErrorKind::NotFound, false),
    ("invalid offset", ErrorKind::Invalid, false),
    ("invalid size", ErrorKind::Invalid, false),
    ("read database fail", ErrorKind::NotFound, true),
];

/// The failover timeout of a lookup and of the next bytes of a download. A server answers from memory or
/// after one query. A paused or partitioned server accepts connections and sends nothing, while a user waits.
const LOOKUP_FAILOVER_TIMEOUT: Duration = Duration::from_secs(3);

/// The failover timeout of an upload or a delete, which waits for the disk and the database.
const CHANGE_FAILOVER_TIMEOUT: Duration = Duration::from_secs(10);

/// A server to try.
#[derive(Clone, Copy)]
pub(crate) struct Candidate {
    pub(crate) address: SocketAddr,
    /// Another candidate follows, so this one is given up early if it is unresponsive.
    pub(crate) can_fail_over: bool,
}

impl Candidate {
    /// The longest wait for a lookup or for content; `None` leaves it to the protocol.
    pub(crate) fn lookup_timeout(self) -> Option<Duration> {
        self.can_fail_over.then_some(LOOKUP_FAILOVER_TIMEOUT)
    }

    /// The longest wait for a change that takes the server `work` in addition.
    pub(crate) fn change_timeout(self, work: Duration) -> Option<Duration> {
        self.can_fail_over.then_some(CHANGE_FAILOVER_TIMEOUT + work)
    }
}

/// The result of one attempt.
pub(crate) type Attempt<T> = std::result::Result<T, Failure>;

/// A failed attempt.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    pub(crate) stage: Stage,
    /// No other attempt can succeed.
    pub(crate) is_final: bool,
    pub(crate) progress: Progress,
}

/// Where an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// In this process: the content to send, or the destination of a download.
    Local,
    /// Connecting.
    Connect,
    /// After connecting and before a reply.
    NoReply,
    /// The server replied with the failure.
    Reply,
}

/// What a failed attempt achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing.
    None,
    /// Content was transferred, which takes its time: the deadline starts again.
    Transferred,
    /// The next attempt continues where this one ended: the attempts are counted from zero again, too.
    Resumable,
}

impl Failure {
    /// A failure in this process, which no server can avoid.
    pub(crate) fn local(error: Error) -> Failure {
        Failure { error, stage: Stage::Local, is_final: true, progress: Progress::None }
    }

    /// A failure to connect.
    pub(crate) fn connect(error: Error) -> Failure {
        Failure { error, stage: Stage::Connect, is_final: false, progress: Progress::None }
    }

    /// Classifies the error of a connection; `replied` if the server replied.
    pub(crate) fn classify(replied: bool, error: Error) -> Failure {
        let progress = Progress::None;
        if !replied {
            return Failure { error, stage: Stage::NoReply, is_final: false, progress };
        }
        let stage = Stage::Reply;
        if error.kind() == ErrorKind::Internal {
            let message = error.message().to_ascii_lowercase();
            return match LEGACY_MESSAGES.into_iter().find(|(text, ..)| message.contains(text)) {
                Some((_, kind, may_differ)) => Failure {
                    error: Error::new(kind, error.message()),
                    stage,
                    is_final: !may_differ,
                    progress,
                },
                // The disk of another member may be healthy.
                None => Failure { error, stage, is_final: false, progress },
            };
        }
        let is_final = matches!(
            error.kind(),
            ErrorKind::Invalid
                | ErrorKind::NotFound
                | ErrorKind::Exists
                | ErrorKind::Unsupported
                | ErrorKind::Forbidden
        );
        Failure { error, stage, is_final, progress }
    }

    /// Whether the server or the network failed, rather than the request.
    pub(crate) fn is_of_server(&self) -> bool {
        matches!(self.error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Busy)
    }
}

/// The failed attempts of one request.
#[derive(Default)]
pub(crate) struct AttemptLog {
    count: usize,
    /// Each message once.
    messages: Vec<String>,
    kind: Option<ErrorKind>,
    transient: bool,
}

impl AttemptLog {
    /// Adds a failed attempt at `server`.
    pub(crate) fn add(&mut self, server: SocketAddr, failure: &Failure) {
        let server = server.to_string();
        let text = failure.error.message();
        // An error of the connection already names the server.
        self.add_message(if text.contains(&server) { text.to_owned() } else { format!("{server}: {text}") });
        self.count += 1;
        self.add_kind(failure.error.kind());
        self.transient |= failure.is_of_server();
    }

    /// Adds an error that belongs to no server.
    pub(crate) fn add_error(&mut self, error: &Error) {
        self.add_message(error.message().to_owned());
        self.add_kind(error.kind());
    }

    fn add_message(&mut self, text: String) {
        if !self.messages.contains(&text) {
            self.messages.push(text);
        }
    }

    /// Keeps the kind that says most: a reply before a failed connection, "not found" before all others.
    fn add_kind(&mut self, kind: ErrorKind) {
        let weight = |kind| match kind {
            ErrorKind::NotFound => 2,
            ErrorKind::Unavailable | ErrorKind::Timeout => 0,
            _ => 1,
        };
        self.kind = match self.kind {
            Some(before) if weight(before) >= weight(kind) && weight(before) > 0 => Some(before),
            _ => Some(kind),
        };
    }

    /// How many attempts failed.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Starts again from zero, after progress.
    pub(crate) fn clear(&mut self) {
        *self = AttemptLog::default();
    }

    /// Whether a later attempt may succeed.
    pub(crate) fn is_transient(&self) -> bool {
        self.transient
    }

    /// One error with all messages.
    pub(crate) fn error(&self, what: impl Display) -> Error {
        let kind = self.kind.unwrap_or(ErrorKind::Unavailable);
        let messages = match self.messages.is_empty() {
            true => "deadline passed before the first attempt".to_owned(),
            false => self.messages.join("; "),
        };
        Error::new(kind, messages).context(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classified(kind: ErrorKind, text: &str) -> (ErrorKind, bool) {
        let failure = Failure::classify(true, Error::new(kind, text));
        (failure.error.kind(), failure.is_final)
    }

    #[test]
    fn a_legacy_message_decides_the_kind() {
        use ErrorKind::*;
        assert_eq!(classified(Internal, "[vm] unknown appid: badapp"), (NotFound, true));
        assert_eq!(classified(Internal, "[vm] unknown command: 120"), (Unsupported, true));
        assert_eq!(classified(Internal, "[vm] invalid offset, 5 is not between 0 and 4"), (Invalid, true));
        assert_eq!(classified(Internal, "[vm] read database fail, fileid: x"), (NotFound, false));
        assert_eq!(classified(Internal, "[vm] insert database fail"), (Internal, false));
        assert_eq!(classified(NotFound, "[vm] no such file"), (NotFound, true));
        assert_eq!(classified(NoSpace, "[vm] full"), (NoSpace, false));
        assert_eq!(classified(Busy, "[vm] later"), (Busy, false));
    }

    #[test]
    fn the_error_names_each_server_and_its_message() {
        let mut log = AttemptLog::default();
        let at = |port| SocketAddr::from(([10, 0, 0, 1], port));
        log.add(at(1), &Failure::connect(Error::new(ErrorKind::Timeout, "connect to 10.0.0.1:1: timed out")));
        log.add(at(2), &Failure::classify(true, Error::new(ErrorKind::NoSpace, "[b] disk full")));
        let error = log.error("upload x");
        assert_eq!(error.message(), "upload x: connect to 10.0.0.1:1: timed out; 10.0.0.1:2: [b] disk full");
        assert_eq!(error.kind(), ErrorKind::NoSpace, "a reply says more than a failed connection");
    }
}
