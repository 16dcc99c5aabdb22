//! The private side: tiny_http behind a unix socket that only this process's user can reach, and
//! the connections to it. tiny_http has no limits of its own, so each of its dangers is kept away
//! here:
//!
//! - connections are opened one at a time, and each is proven by a probe before the next: a burst
//!   of them can strand some unanswered;
//! - one is opened only while descriptors are left: its accepting ends for good, or panics, for
//!   want of one;
//! - should its accepting end all the same, the probe tells, and a new tiny_http takes its place;
//! - a connection carries one request at a time, of our own making;
//! - an answer that cannot be completed cuts its connection, which tiny_http has no way to do.

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use tiny_http::Request;
use tnv_common::error::{Context, ErrorKind, Result};
use tnv_common::fail;
use tnv_common::limits::{MESSAGE_TIMEOUT, STACK_BYTES};
use tnv_common::net::Stream;
use tnv_common::peer;
use tnv_common::workers::Workers;

use crate::directory::PrivateDirectory;

/// Idle connections that are kept; each holds three descriptors, a thread and a buffer.
const IDLE_MAX: usize = 128;

/// A new connection that is not answered within this is stranded.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the service may be silent: longer than it takes to find that every storage of a group
/// is gone, so that its own deadlines come first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);

/// How often it is looked whether everybody has finished, at the end.
const CLOSE_POLL: Duration = Duration::from_millis(2);

/// Longest head of an answer: ours are under 2 KiB.
const ANSWER_HEAD_BYTES_MAX: usize = 16 << 10;

/// What a connection's buffer holds: the head of an answer, and small answers whole.
const BUFFER_BYTES: usize = 2 * ANSWER_HEAD_BYTES_MAX;

/// The target of probes. What strangers ask for begins with a slash.
const PROBE: &str = "probe";

/// The header lines that tell the service's side whose request it is.
const CONNECTION: &str = "X-Tnv-Connection";
const PEER: &str = "X-Tnv-Peer";

/// Descriptors that opening a connection takes: one here, and two there; made in pairs.
const DESCRIPTORS: usize = 4;

/// A header line of the gate's own: the rest of an answer that was begun is asked for. No viewer can send
/// it, since the gate passes on nothing but what it knows.
pub const REST_HEADER: &str = "Tnv-Rest";

/// Who answers the requests.
pub trait Answer: Send + Sync + 'static {
    /// Answers one. After an error the answer is incomplete, and its connection is cut.
    fn answer(&self, request: Request) -> io::Result<()>;
}

/// One request to the service.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// The method.
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// Whose request it is.
    pub peer: &'a str,
    /// Header lines, each ended by CRLF.
    pub passed: &'a str,
}

impl Asking<'_> {
    /// All that tiny_http gets to see of it.
    pub fn request(&self, connection: u64) -> String {
        let Asking { method, target, peer, passed } = self;
        format!(
            "{method} {target} HTTP/1.1\r\nHost: tnv\r\n{CONNECTION}: {connection}\r\n{PEER}: {peer}\r\n\
             {passed}\r\n"
        )
    }
}

/// tiny_http, and the connections to it.
pub struct Private {
    shared: Arc<Shared>,
    idle: Mutex<Vec<Connection>>,
    /// Held while a connection is opened, so that they are opened one at a time.
    current: Mutex<Option<Arc<Generation>>>,
    receivers: Mutex<Vec<thread::JoinHandle<()>>>,
    connections_made: AtomicU64,
    generations_made: AtomicU64,
    directory: PrivateDirectory,
}

/// What the receiving threads need.
struct Shared {
    service: Arc<dyn Answer>,
    workers: Workers,
    /// The connections in use, for those who must cut one.
    connections: Mutex<HashMap<u64, Weak<Stream>>>,
}

/// One tiny_http. There is a second one only where the first stopped accepting.
struct Generation {
    server: Arc<tiny_http::Server>,
    path: PathBuf,
    /// It told that it accepts no more.
    is_over: AtomicBool,
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.server.unblock();
    }
}

impl Private {
    /// Starts tiny_http in a directory of its own; `service` answers with at most `threads` threads.
    pub fn start(service: Arc<dyn Answer>, threads: usize) -> Result<Private> {
        let shared =
            Shared { service, workers: Workers::new("service", threads), connections: Mutex::default() };
        let private = Private {
            shared: Arc::new(shared),
            idle: Mutex::default(),
            current: Mutex::default(),
            receivers: Mutex::default(),
            connections_made: AtomicU64::new(0),
            generations_made: AtomicU64::new(0),
            directory: PrivateDirectory::make()?,
        };
        let first = private.open().context(|| "start the private side of the HTTP server")?;
        private.keep(first);
        Ok(private)
    }

    /// Asks the service, on an idle connection where there is one. A request whose connection broke
    /// before it was answered at all is asked once more.
    pub fn ask(&self, asking: &Asking<'_>) -> Result<Answered> {
        let mut connection = match self.take() {
            Some(connection) => connection,
            None => self.open()?,
        };
        match connection.ask(asking) {
            Ok(answer) => Ok(Answered::new(connection, answer)),
            Err(error) if !connection.was_answered && error.kind() != ErrorKind::Timeout => {
                log::debug!("asking again on a new connection: {error}");
                let mut connection = self.open()?;
                let answer = connection.ask(asking)?;
                Ok(Answered::new(connection, answer))
            }
            Err(error) => Err(error),
        }
    }

    /// How many connections are in use.
    pub fn in_use(&self) -> usize {
        lock(&self.shared.connections).len().saturating_sub(lock(&self.idle).len())
    }

    /// Keeps the connection of an answer that has been read to the end.
    pub fn put(&self, answered: Answered) {
        if answered.remaining == 0 {
            self.keep(answered.connection);
        }
    }

    fn keep(&self, connection: Connection) {
        let mut idle = lock(&self.idle);
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
    }

    /// The idle connection that was used last.
    fn take(&self) -> Option<Connection> {
        loop {
            let connection = lock(&self.idle).pop()?;
            if !connection.stream.readable_now() {
                return Some(connection);
            }
        }
    }

    /// Opens a connection; where tiny_http does not answer on it, with a new tiny_http.
    fn open(&self) -> Result<Connection> {
        let mut current = lock(&self.current);
        if let Some(generation) =
            current.as_ref().filter(|generation| !generation.is_over.load(Ordering::Relaxed))
        {
            match self.connect(generation) {
                Err(error) if error.kind() != ErrorKind::Busy => {
                    log::error!("tiny_http accepts no more, starting another one: {error}");
                }
                outcome => return outcome,
            }
        }
        let generation = self.generation()?;
        let connection = self.connect(&generation)?;
        *current = Some(generation);
        Ok(connection)
    }

    /// Connects and probes.
    fn connect(&self, generation: &Arc<Generation>) -> Result<Connection> {
        have_descriptors()?;
        let socket = UnixStream::connect(&generation.path).context(|| "connect to the private socket")?;
        let stream = Arc::new(Stream::from_unix(socket)?);
        let id = self.connections_made.fetch_add(1, Ordering::Relaxed);
        lock(&self.shared.connections).insert(id, Arc::downgrade(&stream));
        let mut connection = Connection {
            id,
            stream,
            shared: Arc::clone(&self.shared),
            _generation: Arc::clone(generation),
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            was_answered: false,
            answer_timeout: PROBE_TIMEOUT,
        };
        let probe = Asking { method: "GET", target: PROBE, peer: "", passed: "" };
        let probed = connection.ask(&probe).context(|| "probe a private connection")?;
        if probed.status != 204 {
            return fail!(Internal, "the private socket answered a probe with status {}", probed.status);
        }
        connection.answer_timeout = ANSWER_TIMEOUT;
        Ok(connection)
    }

    /// Starts a tiny_http and the thread that receives its requests.
    fn generation(&self) -> Result<Arc<Generation>> {
        have_descriptors()?;
        let number = self.generations_made.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.path().join(format!("{number}.sock"));
        let server = match tiny_http::Server::http_unix(&path) {
            Ok(server) => Arc::new(server),
            Err(error) => return fail!(Internal, "listen on {}: {error}", path.display()),
        };
        let generation = Generation { server: Arc::clone(&server), path, is_over: AtomicBool::new(false) };
        let generation = Arc::new(generation);
        let shared = Arc::clone(&self.shared);
        let alive = Arc::downgrade(&generation);
        let thread = thread::Builder::new().name("receiver".to_owned()).stack_size(STACK_BYTES);
        let started = thread.spawn(move || receive(&server, &alive, &shared));
        let mut receivers = lock(&self.receivers);
        receivers.retain(|receiver| !receiver.is_finished());
        receivers.push(started.context(|| "start the receiving thread")?);
        Ok(generation)
    }

    /// Ends the private side, when nobody asks any more: within `timeout`, should there still be
    /// workers at answers that nobody waits for.
    pub fn close(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        lock(&self.idle).clear();
        drop(lock(&self.current).take());
        let is_done = || lock(&self.receivers).iter().all(thread::JoinHandle::is_finished);
        while !is_done() && Instant::now() < deadline {
            thread::sleep(CLOSE_POLL);
        }
        self.shared.workers.wait_idle(deadline.saturating_duration_since(Instant::now()));
        self.directory.remove();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether there are descriptors for a connection: found out by making as many, here, where it
/// does no harm.
fn have_descriptors() -> Result<()> {
    let pairs: io::Result<Vec<_>> = (0..DESCRIPTORS / 2).map(|_| UnixStream::pair()).collect();
    match pairs {
        Ok(_) => Ok(()),
        Err(error) => fail!(Busy, "no descriptors are left for a private connection: {error}"),
    }
}

/// The receiving thread: hands requests to workers until its generation is over.
fn receive(server: &tiny_http::Server, alive: &Weak<Generation>, shared: &Arc<Shared>) {
    loop {
        let received = server.recv();
        if alive.strong_count() == 0 {
            return;
        }
        match received {
            Ok(request) if request.url() == PROBE => answer_probe(request),
            Ok(request) => {
                let shared = Arc::clone(shared);
                let workers = shared.workers.clone();
                workers.run(move || shared.answer(request));
            }
            Err(error) => {
                log::error!("tiny_http accepts no more: {error}");
                if let Some(generation) = alive.upgrade() {
                    generation.is_over.store(true, Ordering::Relaxed);
                }
            }
        }
    }
}

/// Answered here and not by a worker: however busy those are, this is no sign of a fault.
fn answer_probe(request: Request) {
    let mut writer = request.into_writer();
    // Whoever waits for it notices.
    let _ = writer.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").and_then(|()| writer.flush());
}

impl Shared {
    /// On a worker: has one request answered, and cuts its connection when that fails.
    fn answer(&self, request: Request) {
        let value = |name: &'static str| {
            let header = request.headers().iter().find(|header| header.field.equiv(name));
            header.map(|header| header.value.as_str())
        };
        peer::set(value(PEER).and_then(|peer| peer.parse().ok()));
        let connection = value(CONNECTION).and_then(|id| id.parse::<u64>().ok());
        let answered = catch_unwind(AssertUnwindSafe(|| self.service.answer(request)));
        if let Ok(Ok(())) = answered {
            return;
        }
        if let Ok(Err(error)) = answered {
            log::debug!("an answer ended early: {error}");
        }
        let connections = lock(&self.connections);
        if let Some(stream) = connection.and_then(|id| connections.get(&id)?.upgrade()) {
            stream.shutdown();
        }
    }
}

/// A connection to tiny_http, carrying one request at a time.
pub struct Connection {
    id: u64,
    stream: Arc<Stream>,
    shared: Arc<Shared>,
    /// As long as it has connections, its requests are received.
    _generation: Arc<Generation>,
    buffer: Box<[u8]>,
    /// Whether a byte of the present answer has come.
    was_answered: bool,
    answer_timeout: Duration,
}

impl Drop for Connection {
    fn drop(&mut self) {
        lock(&self.shared.connections).remove(&self.id);
    }
}

/// The start of an answer.
struct AnswerStart {
    status: u16,
    /// The bytes of its head in the buffer, without the empty line.
    head_bytes: usize,
    /// Where its content begins in the buffer, and where what has come ends.
    content: std::ops::Range<usize>,
    /// How long its content is.
    content_bytes: u64,
}

impl Connection {
    fn ask(&mut self, asking: &Asking<'_>) -> Result<AnswerStart> {
        self.was_answered = false;
        self.stream
            .write_full(asking.request(self.id).as_bytes(), MESSAGE_TIMEOUT)
            .context(|| "ask on a private connection")?;
        let deadline = Instant::now() + self.answer_timeout;
        let mut filled = 0;
        loop {
            let read = self.stream.read_some(&mut self.buffer[filled..], deadline);
            match read.context(|| "wait for an answer on a private connection")? {
                0 => return fail!(Unavailable, "a private connection was closed"),
                count => filled += count,
            }
            self.was_answered = true;
            if let Some(start) = AnswerStart::parse(&self.buffer[..filled], asking.method == "HEAD")? {
                return Ok(start);
            }
        }
    }
}

impl AnswerStart {
    /// Reads the head of an answer of ours, once all of it is there.
    fn parse(bytes: &[u8], is_head: bool) -> Result<Option<AnswerStart>> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        let length = match response.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if bytes.len() < ANSWER_HEAD_BYTES_MAX => return Ok(None),
            _ => return fail!(Internal, "the service's answer has no proper head"),
        };
        let status = response.code.unwrap_or_default();
        let content_length = response.headers.iter().find(|header| header.name == "Content-Length");
        let content_length =
            content_length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<u64>().ok());
        let content_bytes = match (content_length, is_head || matches!(status, 204 | 304)) {
            (_, true) => 0,
            (Some(bytes), false) => bytes,
            (None, false) => return fail!(Internal, "the service's answer has no length"),
        };
        if (bytes.len() - length) as u64 > content_bytes {
            return fail!(Internal, "the service's answer is longer than it says");
        }
        Ok(Some(AnswerStart { status, head_bytes: length - 2, content: length..bytes.len(), content_bytes }))
    }
}

/// An answer that has begun.
pub struct Answered {
    connection: Connection,
    answer: AnswerStart,
    remaining: u64,
}

impl Answered {
    fn new(connection: Connection, answer: AnswerStart) -> Answered {
        let remaining = answer.content_bytes - answer.content.len() as u64;
        Answered { connection, answer, remaining }
    }

    /// The status.
    pub fn status(&self) -> u16 {
        self.answer.status
    }

    /// The head, without its empty line.
    pub fn head(&self) -> &[u8] {
        &self.connection.buffer[..self.answer.head_bytes]
    }

    /// What of the content has come with the head.
    pub fn first_content(&self) -> &[u8] {
        &self.connection.buffer[self.answer.content.clone()]
    }

    /// Bytes of content that are still to come.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// How long all of its content is.
    pub fn content_bytes(&self) -> u64 {
        self.answer.content_bytes
    }

    /// The value of a header line, by its name as the service writes it.
    pub fn header(&self, name: &str) -> Option<&str> {
        let head = std::str::from_utf8(self.head()).ok()?;
        let mut lines = head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// The next bytes of content, of those that are still to come.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let want = buffer.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let read = self.connection.stream.read_some(&mut buffer[..want], deadline);
        match read.context(|| "read an answer on a private connection")? {
            0 if want > 0 => fail!(Unavailable, "the answer was cut short"),
            count => {
                self.remaining -= count as u64;
                Ok(count)
            }
        }
    }
}
