//! The server loop that every part runs on: one thread waits in epoll for new connections, for
//! requests on idle ones, and for room on those whose reader is slow; workers do the work, blocking.
//! A connection that waits holds no worker, and what is less work than to wake one the thread itself does.
//! It knows no protocol: a [`Service`] does.

use std::collections::{BTreeSet, HashMap};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use crate::error::{Context, Result};
use crate::limits::{IDLE_TIMEOUT, REFUSED_CONNS_MAX};
use crate::log_context;
use crate::net::Stream;
use crate::net::allow::{AllowList, RejectedPeers};
use crate::net::stop::Stop;
use crate::net::worker_pool::Workers;

/// What the configuration sets of the loop.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Names the worker threads.
    pub name: &'static str,
    /// Most requests worked on at once.
    pub threads: usize,
    /// Most connections.
    pub max_conns: usize,
    /// Who may connect.
    pub allow_hosts: AllowList,
    /// How long what is under way may take to finish when the server is to end.
    pub stop_timeout: Duration,
}

/// What becomes of a connection after a call of its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It waits for its next request.
    Wait,
    /// It waits in the middle of a request, until more has come or there is room for more. When the
    /// server is to end, this is under way and gets its time.
    Resume(Until),
    /// What it goes on with is here already, so that it waits for nothing but a worker: those that wait for one already
    /// are served before it.
    Turn,
    /// It is closed.
    Close,
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Something to read.
    Readable,
    /// Room to write.
    Writable,
}

/// A protocol, served on connections.
pub trait Service: Send + Sync + 'static {
    /// What is remembered of a connection between calls.
    type Conn: Default + Send + 'static;

    /// Goes on with a connection on which what it waited for has come. A panic in here costs this
    /// connection and no other.
    fn serve(&self, stream: &Stream, conn: &mut Self::Conn) -> Next;

    /// The same on the loop's own thread, for what is done at once and never waits; all others wait meanwhile.
    /// `None` leaves the connection, whatever has been read of it, to [`Service::serve`] on a worker.
    fn serve_inline(&self, _stream: &Stream, _conn: &mut Self::Conn) -> Option<Next> {
        None
    }

    /// Tells a new connection over the limit that it is.
    fn refuse(&self, stream: &Stream, conn: &mut Self::Conn) -> Next;

    /// A connection that is in the middle of a request has waited for too long: on a worker, since undoing what it
    /// has begun may take a disk's time. The default closes it.
    fn time_out(&self, _stream: &Stream, _conn: &mut Self::Conn) -> Next {
        Next::Close
    }

    /// How long this connection may wait for what it waits for, from now on; `None` is for ever.
    fn idle_timeout(&self, _conn: &Self::Conn) -> Option<Duration> {
        Some(IDLE_TIMEOUT)
    }

    /// The connection has been closed, by whichever end.
    fn closed(&self, _conn: Self::Conn) {}
}

const LISTENER: u64 = 0;
const STOP: u64 = 1;
const FIRST_CONN: u64 = 2;

/// Connections accepted in one go, so that a flood of them cannot keep requests waiting.
const ACCEPT_BATCH: usize = 64;

/// The pause after an accept that failed for lack of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A worker that is not needed elsewhere waits this long itself for what its connection waits for:
/// two context switches fewer for a client that asks or reads without pause. For one that pauses, as a
/// storage does between its beats, it would be two more: there it is not done.
const BUSY_POLL: Duration = Duration::from_millis(1);

/// The loop looks at deadlines this often, whatever else happens.
const TICK: Duration = Duration::from_secs(1);

/// And this often while it waits for what is under way at the end.
const STOP_TICK: Duration = Duration::from_millis(10);

/// After the stop time-out, how long workers whose connections were cut may take to tidy up.
const CUT_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves until `stop` is set, then lets what is under way finish within the stop time-out.
pub fn run<S: Service>(
    listener: TcpListener,
    settings: &ServerSettings,
    service: Arc<S>,
    stop: &Stop,
) -> Result<()> {
    run_announced(listener, settings, service, stop, || ())
}

/// The same; calls `ready` when all is there that serving needs: a client that reads that line can be served.
pub fn run_announced<S: Service>(
    listener: TcpListener,
    settings: &ServerSettings,
    service: Arc<S>,
    stop: &Stop,
    ready: impl FnOnce(),
) -> Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
        .and_then(|poller| {
            epoll::add(&poller, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
            epoll::add(&poller, stop, epoll::EventData::new_u64(STOP), epoll::EventFlags::IN)?;
            Ok(poller)
        })
        .map_err(std::io::Error::from)
        .context(|| "watch the listening socket")?;
    let shared = Arc::new(Shared {
        epoll,
        service,
        // Each connection has one job at most, so there is always room.
        workers: Workers::new(settings.name, settings.threads, settings.max_conns + REFUSED_CONNS_MAX)?,
        table: Mutex::new(Table::default()),
    });
    let mut acceptor = Acceptor {
        listener,
        max_conns: settings.max_conns,
        allow_hosts: settings.allow_hosts.clone(),
        strangers: RejectedPeers::default(),
        paused: None,
    };
    ready();
    while !shared.turn(Some(&mut acceptor))? {}
    drop(acceptor);
    shared.finish(stop, settings.stop_timeout)
}

/// One connection that waits.
struct Idle<C> {
    stream: Arc<Stream>,
    conn: C,
    deadline: Option<Instant>,
    /// In the middle of a request.
    under_way: bool,
    /// When it began to wait.
    since: Instant,
}

/// Every connection is in exactly one of the two maps.
struct Table<C> {
    idle: HashMap<u64, Idle<C>>,
    /// Those that a worker has, or that wait for one.
    busy: HashMap<u64, Arc<Stream>>,
    /// The deadlines of the idle ones, soonest first.
    deadlines: BTreeSet<(Instant, u64)>,
    /// How many idle ones are in the middle of a request.
    under_way: usize,
    next_id: u64,
    stopping: bool,
}

impl<C> Default for Table<C> {
    fn default() -> Table<C> {
        Table {
            idle: HashMap::new(),
            busy: HashMap::new(),
            deadlines: BTreeSet::new(),
            under_way: 0,
            next_id: FIRST_CONN,
            stopping: false,
        }
    }
}

impl<C> Table<C> {
    fn count(&self) -> usize {
        self.idle.len() + self.busy.len()
    }

    fn take_idle(&mut self, id: u64) -> Option<Idle<C>> {
        let idle = self.idle.remove(&id)?;
        if let Some(deadline) = idle.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        self.under_way -= usize::from(idle.under_way);
        Some(idle)
    }

    fn add_idle(&mut self, id: u64, idle: Idle<C>) {
        if let Some(deadline) = idle.deadline {
            self.deadlines.insert((deadline, id));
        }
        self.under_way += usize::from(idle.under_way);
        self.idle.insert(id, idle);
    }
}

struct Shared<S: Service> {
    epoll: OwnedFd,
    service: Arc<S>,
    workers: Workers,
    table: Mutex<Table<S::Conn>>,
}

impl<S: Service> Shared<S> {
    fn table(&self) -> MutexGuard<'_, Table<S::Conn>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for events once and deals with them; returns whether the stop signal is set.
    fn turn(self: &Arc<Self>, mut acceptor: Option<&mut Acceptor>) -> Result<bool> {
        self.workers.retry();
        let mut events = Vec::with_capacity(256);
        let timeout = match &mut acceptor {
            Some(acceptor) => acceptor.resume(self).min(TICK),
            None => STOP_TICK,
        };
        let timeout = Timespec::try_from(timeout.min(self.expire())).unwrap_or_default();
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(std::io::Error::from(error)).context(|| "wait for requests"),
        }
        let mut stopped = false;
        for event in &events {
            match (event.data.u64(), &mut acceptor) {
                (LISTENER, Some(acceptor)) => acceptor.accept(self),
                (LISTENER, None) => {}
                (STOP, _) => stopped = true,
                (id, _) => self.dispatch(id),
            }
        }
        Ok(stopped)
    }

    /// A new connection waits for its first request as it will for the others. One over the limit
    /// is refused with a reply; where too many are being refused already it is closed without one.
    fn admit(self: &Arc<Self>, stream: Stream, max_conns: usize) -> std::result::Result<(), Stream> {
        let mut table = self.table();
        let refused = table.count() >= max_conns;
        if table.count() >= max_conns + REFUSED_CONNS_MAX {
            return Err(stream);
        }
        let id = table.next_id;
        table.next_id += 1;
        if let Err(error) =
            epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(id), flags(Until::Readable))
        {
            log::error!("watch a connection: {error}");
            return Ok(());
        }
        let (stream, conn) = (Arc::new(stream), S::Conn::default());
        if refused {
            log::warn!("refusing {:?}: {max_conns} connections are open already", stream.peer());
            table.busy.insert(id, Arc::clone(&stream));
            drop(table);
            self.work(id, stream, conn, S::refuse, true);
            return Ok(());
        }
        let since = Instant::now();
        let deadline = self.service.idle_timeout(&conn).map(|timeout| since + timeout);
        table.add_idle(id, Idle { stream, conn, deadline, under_way: false, since });
        Ok(())
    }

    /// Goes on with a connection on which what it waited for has come: at once, or on a worker.
    fn dispatch(self: &Arc<Self>, id: u64) {
        let mut table = self.table();
        let Some(Idle { stream, mut conn, under_way, since, .. }) = table.take_idle(id) else { return };
        table.busy.insert(id, Arc::clone(&stream));
        drop(table);
        log_context::set_peer(stream.peer());
        let served = catch_unwind(AssertUnwindSafe(|| self.service.serve_inline(&stream, &mut conn)));
        match served.unwrap_or(Some(Next::Close)) {
            Some(Next::Wait) => self.make_idle(id, stream, conn, Until::Readable, false),
            Some(Next::Resume(until)) => self.make_idle(id, stream, conn, until, true),
            Some(Next::Turn) => self.work(id, stream, conn, S::serve, true),
            Some(Next::Close) => self.close(id, stream, conn),
            None => {
                let is_quick = under_way || since.elapsed() < BUSY_POLL;
                self.work(id, stream, conn, S::serve, is_quick);
            }
        }
        log_context::set_peer(None);
    }

    fn work(
        self: &Arc<Self>,
        id: u64,
        stream: Arc<Stream>,
        conn: S::Conn,
        first: fn(&S, &Stream, &mut S::Conn) -> Next,
        is_quick: bool,
    ) {
        let shared = Arc::clone(self);
        self.workers.run(move || shared.serve(id, stream, conn, first, is_quick));
    }

    /// On a worker: serves the connection while it has something to do and no other connection needs the worker.
    /// `is_quick`: the peer sent its request soon after the last reply.
    fn serve(
        self: &Arc<Self>,
        id: u64,
        stream: Arc<Stream>,
        mut conn: S::Conn,
        first: fn(&S, &Stream, &mut S::Conn) -> Next,
        is_quick: bool,
    ) {
        log_context::set_peer(stream.peer());
        let mut call = first;
        loop {
            let served = catch_unwind(AssertUnwindSafe(|| call(&self.service, &stream, &mut conn)));
            call = S::serve;
            let (until, under_way) = match served.unwrap_or(Next::Close) {
                Next::Wait => (Until::Readable, false),
                Next::Resume(until) => (until, true),
                Next::Turn if self.workers.is_pressed() => return self.work(id, stream, conn, call, true),
                Next::Turn => continue,
                Next::Close => return self.close(id, stream, conn),
            };
            if !(is_quick || under_way) || !self.busy_polls(&stream, until, under_way) {
                return self.make_idle(id, stream, conn, until, under_way);
            }
        }
    }

    /// Whether what the connection waits for comes so soon that making it idle is not worth it.
    fn busy_polls(&self, stream: &Stream, until: Until, under_way: bool) -> bool {
        if self.workers.is_pressed() || (!under_way && self.table().stopping) {
            return false;
        }
        let came = match until {
            Until::Readable => stream.wait_readable(BUSY_POLL),
            Until::Writable => stream.wait_writable(BUSY_POLL),
        };
        came.unwrap_or(false)
    }

    /// Lets the connection wait in epoll.
    fn make_idle(&self, id: u64, stream: Arc<Stream>, conn: S::Conn, until: Until, under_way: bool) {
        let mut table = self.table();
        if table.stopping && !under_way {
            drop(table);
            return self.close(id, stream, conn);
        }
        table.busy.remove(&id);
        let since = Instant::now();
        let deadline = self.service.idle_timeout(&conn).map(|timeout| since + timeout);
        // Under the lock: the event may come before the connection is in the table again.
        match epoll::modify(&self.epoll, &stream, epoll::EventData::new_u64(id), flags(until)) {
            Ok(()) => table.add_idle(id, Idle { stream, conn, deadline, under_way, since }),
            Err(error) => {
                drop(table);
                log::error!("watch a connection: {error}");
                self.dismiss(stream, conn);
            }
        }
    }

    fn close(&self, id: u64, stream: Arc<Stream>, conn: S::Conn) {
        self.table().busy.remove(&id);
        self.dismiss(stream, conn);
    }

    /// Closes the socket and reports that to the service, whose panic does not harm the loop.
    fn dismiss(&self, stream: Arc<Stream>, conn: S::Conn) {
        drop(stream);
        let _ = catch_unwind(AssertUnwindSafe(|| self.service.closed(conn)));
    }

    /// Closes connections that have waited too long; returns how long until the next may be.
    fn expire(self: &Arc<Self>) -> Duration {
        let now = Instant::now();
        loop {
            let mut table = self.table();
            match table.deadlines.first().copied() {
                Some((deadline, id)) if deadline <= now => {
                    let Some(Idle { stream, conn, under_way, .. }) = table.take_idle(id) else {
                        continue;
                    };
                    if under_way {
                        table.busy.insert(id, Arc::clone(&stream));
                        drop(table);
                        self.work(id, stream, conn, S::time_out, true);
                        continue;
                    }
                    drop(table);
                    log_context::set_peer(stream.peer());
                    self.dismiss(stream, conn);
                    log_context::set_peer(None);
                }
                Some((deadline, _)) => return deadline - now,
                None => return Duration::MAX,
            }
        }
    }

    /// The graceful end: idle connections are closed, the others get their time, then are cut.
    fn finish(self: &Arc<Self>, stop: &Stop, stop_timeout: Duration) -> Result<()> {
        epoll::delete(&self.epoll, stop)
            .map_err(std::io::Error::from)
            .context(|| "stop watching the stop signal")?;
        let mut table = self.table();
        table.stopping = true;
        let ids: Vec<u64> =
            table.idle.iter().filter(|(_, idle)| !idle.under_way).map(|(id, _)| *id).collect();
        let idle: Vec<_> = ids.into_iter().filter_map(|id| table.take_idle(id)).collect();
        drop(table);
        idle.into_iter().for_each(|idle| self.dismiss(idle.stream, idle.conn));
        if self.turn_until_done(stop_timeout)? {
            return Ok(());
        }
        let table = self.table();
        log::warn!("cutting {} connections that did not finish within {stop_timeout:?}", table.count());
        // A worker or epoll that waits on them wakes and finds them closed.
        let idle = table.idle.values().map(|idle| &idle.stream);
        table.busy.values().chain(idle).for_each(|stream| stream.shutdown());
        drop(table);
        self.turn_until_done(CUT_TIMEOUT).map(drop)
    }

    /// Goes on until nothing is under way, at most so long; returns whether that came.
    fn turn_until_done(self: &Arc<Self>, timeout: Duration) -> Result<bool> {
        let deadline = Instant::now() + timeout;
        loop {
            let table = self.table();
            if table.busy.is_empty() && table.under_way == 0 {
                return Ok(true);
            }
            drop(table);
            if Instant::now() >= deadline {
                return Ok(false);
            }
            self.turn(None)?;
        }
    }
}

/// What epoll is to report, once, of a connection that waits.
fn flags(until: Until) -> epoll::EventFlags {
    let wanted = match until {
        Until::Readable => epoll::EventFlags::IN | epoll::EventFlags::RDHUP,
        Until::Writable => epoll::EventFlags::OUT,
    };
    wanted | epoll::EventFlags::ONESHOT
}

/// The listening socket, and its pauses.
struct Acceptor {
    listener: TcpListener,
    max_conns: usize,
    allow_hosts: AllowList,
    strangers: RejectedPeers,
    paused: Option<Instant>,
}

impl Acceptor {
    fn accept<S: Service>(&mut self, shared: &Arc<Shared<S>>) {
        for _ in 0..ACCEPT_BATCH {
            match self.listener.accept() {
                Ok((socket, address)) => self.admit(shared, socket, address),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
                Err(error) => return self.pause(shared, &error),
            }
        }
    }

    fn admit<S: Service>(&mut self, shared: &Arc<Shared<S>>, socket: TcpStream, address: SocketAddr) {
        // First of all: a stranger takes no slot, no worker and not even a system call more.
        if !self.allow_hosts.allows(address.ip()) {
            drop(socket);
            if let Some(line) = self.strangers.line(address, Instant::now()) {
                log::warn!("{line}");
            }
            return;
        }
        // The only failure is a connection that is gone already.
        let Ok(stream) = Stream::from_tcp(socket) else { return };
        if shared.admit(stream, self.max_conns).is_err() {
            log::warn!("closing {address}: {REFUSED_CONNS_MAX} over the limit are being refused already");
        }
    }

    /// Stops accepting for a moment: without descriptors or memory the listener would stay
    /// readable and the loop spin.
    fn pause<S: Service>(&mut self, shared: &Arc<Shared<S>>, error: &std::io::Error) {
        log::error!("accept a connection: {error}; waiting {ACCEPT_PAUSE:?}");
        self.paused = Some(Instant::now() + ACCEPT_PAUSE);
        self.watch(shared, epoll::EventFlags::empty());
    }

    /// Ends a pause that is over; returns how long until it will be.
    fn resume<S: Service>(&mut self, shared: &Arc<Shared<S>>) -> Duration {
        let Some(until) = self.paused else { return Duration::MAX };
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            self.paused = None;
            self.watch(shared, epoll::EventFlags::IN);
            return Duration::MAX;
        }
        left
    }

    fn watch<S: Service>(&self, shared: &Arc<Shared<S>>, flags: epoll::EventFlags) {
        let data = epoll::EventData::new_u64(LISTENER);
        if let Err(error) = epoll::modify(&shared.epoll, &self.listener, data, flags) {
            log::error!("watch the listening socket: {error}");
        }
    }
}
