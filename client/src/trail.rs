//! What became of an attempt, and the trail of those that failed: what an error is told from, and
//! what decides whether another try has a point.

use std::fmt::Display;
use std::net::SocketAddr;
use std::time::Duration;

use tnv_common::error::{Error, ErrorKind};

/// What existing servers say, whose error number is the same for everything: the words, what they
/// mean, and whether another server of the group could see it differently. Existing storages use the
/// same words for an unknown file and for a database that failed them.
const EXISTING_WORDS: [(&str, ErrorKind, bool); 5] = [
    ("unknown command", ErrorKind::Unsupported, false),
    ("unknown appid", ErrorKind::NotFound, false),
    ("invalid offset", ErrorKind::Invalid, false),
    ("invalid size", ErrorKind::Invalid, false),
    ("read database fail", ErrorKind::NotFound, true),
];

/// How long a server may take to find something, and to send the next bytes of it, while another can be
/// asked instead: it answers from memory or after one query, and one that is paused or cut off accepts
/// connections as ever and says nothing. Somebody waits for a picture meanwhile.
const FIND_WAIT_MAX: Duration = Duration::from_secs(3);

/// The same for what changes something, which waits for a disk and for the database's.
const CHANGE_WAIT_MAX: Duration = Duration::from_secs(10);

/// Whose turn it is: whether another server can be asked should this one be silent. The last of them
/// has all the time that the protocol gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Another one is still to be asked.
    Early,
    /// It is the only one that is left.
    Last,
}

impl Turn {
    /// The turn of number `index` of so many.
    pub(crate) fn of(index: usize, count: usize) -> Turn {
        if index + 1 < count { Turn::Early } else { Turn::Last }
    }

    /// The longest silence of a server that finds something.
    pub(crate) fn to_find(self) -> Option<Duration> {
        (self == Turn::Early).then_some(FIND_WAIT_MAX)
    }

    /// The longest silence of a server that changes something, `work` of which is what it has to do.
    pub(crate) fn to_change(self, work: Duration) -> Option<Duration> {
        (self == Turn::Early).then_some(CHANGE_WAIT_MAX + work)
    }
}

/// What became of an attempt.
pub(crate) type Tried<T> = std::result::Result<T, Failure>;

/// An attempt that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// Where it lies.
    pub(crate) at: At,
    /// No other try will mend it.
    pub(crate) last: bool,
    /// What it achieved all the same.
    pub(crate) progress: Progress,
}

/// Where a failure lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// Here: in what is sent, or where it goes to.
    Here,
    /// There was no connection.
    Connect,
    /// There was one, and no answer came on it.
    Way,
    /// The server said so.
    Server,
}

/// What an attempt that failed achieved all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing.
    None,
    /// Content was on its way, which takes what time it takes: the deadline begins anew.
    Moved,
    /// The request has come on for good: the attempts are counted anew, too.
    Kept,
}

impl Failure {
    /// A failure that is no server's, and that none can mend.
    pub(crate) fn here(error: Error) -> Failure {
        Failure { error, at: At::Here, last: true, progress: Progress::None }
    }

    /// There was no connection.
    pub(crate) fn connect(error: Error) -> Failure {
        Failure { error, at: At::Connect, last: false, progress: Progress::None }
    }

    /// Judges what a connection reported; `replied` where the server has answered.
    pub(crate) fn judge(replied: bool, error: Error) -> Failure {
        let progress = Progress::None;
        if !replied {
            return Failure { error, at: At::Way, last: false, progress };
        }
        let at = At::Server;
        if error.kind() == ErrorKind::Internal {
            let words = error.message().to_ascii_lowercase();
            return match EXISTING_WORDS.into_iter().find(|(text, ..)| words.contains(text)) {
                Some((_, kind, another)) => {
                    Failure { error: Error::new(kind, error.message()), at, last: !another, progress }
                }
                // A member of the group may have a sound disk where this one has not.
                None => Failure { error, at, last: false, progress },
            };
        }
        let last = matches!(
            error.kind(),
            ErrorKind::Invalid
                | ErrorKind::NotFound
                | ErrorKind::Exists
                | ErrorKind::Unsupported
                | ErrorKind::Forbidden
        );
        Failure { error, at, last, progress }
    }

    /// Whether the server, or the way to it, is better avoided for a while.
    pub(crate) fn is_of_server(&self) -> bool {
        matches!(self.error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Busy)
    }
}

/// The attempts that failed.
#[derive(Default)]
pub(crate) struct Trail {
    tried: usize,
    /// Each thing said, once.
    told: Vec<String>,
    kind: Option<ErrorKind>,
    passing: bool,
}

impl Trail {
    /// Notes an attempt at `server` that failed.
    pub(crate) fn note(&mut self, server: SocketAddr, failure: &Failure) {
        let server = server.to_string();
        let text = failure.error.message();
        // What the connection itself reports names the server already.
        self.tell(if text.contains(&server) { text.to_owned() } else { format!("{server}: {text}") });
        self.tried += 1;
        self.note_kind(failure.error.kind());
        self.passing |= failure.is_of_server();
    }

    /// Notes a failure that is no server's.
    pub(crate) fn note_error(&mut self, error: &Error) {
        self.tell(error.message().to_owned());
        self.note_kind(error.kind());
    }

    fn tell(&mut self, text: String) {
        if !self.told.contains(&text) {
            self.told.push(text);
        }
    }

    /// An answer says more than a connection that failed, and "no such file" says most.
    fn note_kind(&mut self, kind: ErrorKind) {
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

    /// How many attempts have failed.
    pub(crate) fn tried(&self) -> usize {
        self.tried
    }

    /// Forgets them: the request has come on.
    pub(crate) fn clear(&mut self) {
        *self = Trail::default();
    }

    /// Whether some of it may pass in a moment.
    pub(crate) fn is_passing(&self) -> bool {
        self.passing
    }

    /// The error that tells all of it.
    pub(crate) fn error(&self, what: impl Display) -> Error {
        let kind = self.kind.unwrap_or(ErrorKind::Unavailable);
        let told = match self.told.is_empty() {
            true => "there was no time for any attempt".to_owned(),
            false => self.told.join("; "),
        };
        Error::new(kind, told).context(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(kind: ErrorKind, text: &str) -> (ErrorKind, bool) {
        let failure = Failure::judge(true, Error::new(kind, text));
        (failure.error.kind(), failure.last)
    }

    #[test]
    fn the_words_of_existing_servers_tell_what_their_number_does_not() {
        use ErrorKind::*;
        assert_eq!(judged(Internal, "[vm] unknown appid: badapp"), (NotFound, true));
        assert_eq!(judged(Internal, "[vm] unknown command: 120"), (Unsupported, true));
        assert_eq!(judged(Internal, "[vm] invalid offset, 5 is not between 0 and 4"), (Invalid, true));
        assert_eq!(judged(Internal, "[vm] read database fail, fileid: x"), (NotFound, false));
        assert_eq!(judged(Internal, "[vm] insert database fail"), (Internal, false));
        assert_eq!(judged(NotFound, "[vm] no such file"), (NotFound, true));
        assert_eq!(judged(NoSpace, "[vm] full"), (NoSpace, false));
        assert_eq!(judged(Busy, "[vm] later"), (Busy, false));
    }

    #[test]
    fn the_error_names_each_server_and_what_it_said() {
        let mut trail = Trail::default();
        let at = |port| SocketAddr::from(([10, 0, 0, 1], port));
        trail.note(
            at(1),
            &Failure::connect(Error::new(ErrorKind::Timeout, "connect to 10.0.0.1:1: timed out")),
        );
        trail.note(at(2), &Failure::judge(true, Error::new(ErrorKind::NoSpace, "[b] disk full")));
        let error = trail.error("upload x");
        assert_eq!(error.message(), "upload x: connect to 10.0.0.1:1: timed out; 10.0.0.1:2: [b] disk full");
        assert_eq!(error.kind(), ErrorKind::NoSpace, "an answer says more than a broken connection");
    }
}
