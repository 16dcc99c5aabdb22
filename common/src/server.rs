//! The server loop that every part runs on: one thread waits in epoll for new connections and for
//! requests on idle ones, workers serve the requests, blocking. An idle connection holds no worker.
//! It knows no protocol: a [`Service`] does.

use std::collections::{BTreeSet, HashMap};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use crate::error::{Context, Result};
use crate::limits::{IDLE_TIMEOUT, REFUSED_CONNS_MAX};
use crate::net::Stream;
use crate::peer;
use crate::stop::Stop;
use crate::workers::Workers;

/// What the loop is told by the configuration.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Names the worker threads.
    pub name: &'static str,
    /// Most requests worked on at once.
    pub threads: usize,
    /// Most connections.
    pub max_conns: usize,
    /// How long what is under way may take to finish when the server is to end.
    pub stop_timeout: Duration,
}

/// What becomes of a connection after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It waits for its next request and holds no worker.
    Wait,
    /// It is closed.
    Close,
}

/// A protocol, served on connections.
pub trait Service: Send + Sync + 'static {
    /// What is remembered of a connection between its requests.
    type Conn: Default + Send + 'static;

    /// Serves what has arrived: at least one whole request, with deadlines of its own. A panic in
    /// here costs this connection and no other.
    fn serve(&self, stream: &Stream, conn: &mut Self::Conn) -> Next;

    /// Tells a connection over the limit that it is; at most two seconds.
    fn refuse(&self, stream: &Stream);

    /// How long this connection may wait for its next request; `None` is for ever.
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

/// A worker that is not needed elsewhere waits this long for the connection's next request itself:
/// two context switches fewer for a client that asks without pause.
const LINGER: Duration = Duration::from_millis(1);

/// After the stop time-out, how long workers whose connections were cut may take to tidy up.
const CUT_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves until `stop` is set, then lets what is under way finish within the stop time-out.
pub fn run<S: Service>(
    listener: TcpListener,
    settings: &ServerSettings,
    service: Arc<S>,
    stop: &Stop,
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
        workers: Workers::new(settings.name, settings.threads),
        table: Mutex::new(Table::default()),
        emptied: Condvar::new(),
        refused: AtomicUsize::new(0),
    });
    let mut acceptor = Acceptor { listener, max_conns: settings.max_conns, paused: None };
    wait_and_dispatch(&shared, &mut acceptor)?;
    drop(acceptor);
    shared.finish(settings.stop_timeout);
    Ok(())
}

/// The loop itself; returns when the stop signal is set.
fn wait_and_dispatch<S: Service>(shared: &Arc<Shared<S>>, acceptor: &mut Acceptor) -> Result<()> {
    let mut events = Vec::with_capacity(256);
    loop {
        events.clear();
        let timeout = shared.expire_idle().min(acceptor.resume(shared));
        let timeout = Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        match epoll::wait(&shared.epoll, spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(std::io::Error::from(error)).context(|| "wait for requests"),
        }
        for event in &events {
            match event.data.u64() {
                LISTENER => acceptor.accept(shared),
                STOP => return Ok(()),
                id => shared.dispatch(id),
            }
        }
    }
}

/// One connection between its requests.
struct Idle<C> {
    stream: Arc<Stream>,
    conn: C,
    deadline: Option<Instant>,
}

/// Every connection is in exactly one of the two maps.
struct Table<C> {
    idle: HashMap<u64, Idle<C>>,
    busy: HashMap<u64, Arc<Stream>>,
    /// The deadlines of the idle ones, soonest first.
    deadlines: BTreeSet<(Instant, u64)>,
    next_id: u64,
    stopping: bool,
}

impl<C> Default for Table<C> {
    fn default() -> Table<C> {
        Table {
            idle: HashMap::new(),
            busy: HashMap::new(),
            deadlines: BTreeSet::new(),
            next_id: FIRST_CONN,
            stopping: false,
        }
    }
}

impl<C> Table<C> {
    fn take_idle(&mut self, id: u64) -> Option<Idle<C>> {
        let idle = self.idle.remove(&id)?;
        if let Some(deadline) = idle.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        Some(idle)
    }

    fn put_idle(&mut self, id: u64, idle: Idle<C>) {
        if let Some(deadline) = idle.deadline {
            self.deadlines.insert((deadline, id));
        }
        self.idle.insert(id, idle);
    }
}

struct Shared<S: Service> {
    epoll: OwnedFd,
    service: Arc<S>,
    workers: Workers,
    table: Mutex<Table<S::Conn>>,
    /// Notified when the last busy connection is done while stopping.
    emptied: Condvar,
    refused: AtomicUsize,
}

impl<S: Service> Shared<S> {
    fn table(&self) -> MutexGuard<'_, Table<S::Conn>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection: it waits for its first request as it will for the others.
    fn admit(&self, stream: Stream, max_conns: usize) -> std::result::Result<(), Stream> {
        let mut table = self.table();
        if table.idle.len() + table.busy.len() >= max_conns {
            return Err(stream);
        }
        let id = table.next_id;
        table.next_id += 1;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ONESHOT;
        if let Err(error) = epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(id), flags) {
            log::error!("watch a connection: {error}");
            return Ok(());
        }
        let conn = S::Conn::default();
        let deadline = self.service.idle_timeout(&conn).map(|timeout| Instant::now() + timeout);
        table.put_idle(id, Idle { stream: Arc::new(stream), conn, deadline });
        Ok(())
    }

    /// Hands an idle connection that something arrived on to a worker.
    fn dispatch(self: &Arc<Self>, id: u64) {
        let mut table = self.table();
        let Some(idle) = table.take_idle(id) else { return };
        table.busy.insert(id, Arc::clone(&idle.stream));
        drop(table);
        let shared = Arc::clone(self);
        self.workers.run(move || shared.serve(id, idle.stream, idle.conn));
    }

    /// On a worker: serves the connection until it has nothing more to ask at once.
    fn serve(&self, id: u64, stream: Arc<Stream>, mut conn: S::Conn) {
        peer::set(stream.peer());
        loop {
            let served = catch_unwind(AssertUnwindSafe(|| self.service.serve(&stream, &mut conn)));
            match served.unwrap_or(Next::Close) {
                Next::Close => return self.close(id, stream, conn),
                Next::Wait if self.workers.is_pressed() || self.table().stopping => break,
                Next::Wait => match stream.wait_readable(LINGER) {
                    Ok(true) => {}
                    Ok(false) | Err(_) => break,
                },
            }
        }
        self.park(id, stream, conn);
    }

    /// Lets the connection wait for its next request in epoll.
    fn park(&self, id: u64, stream: Arc<Stream>, conn: S::Conn) {
        let mut table = self.table();
        if table.stopping {
            drop(table);
            return self.close(id, stream, conn);
        }
        table.busy.remove(&id);
        let deadline = self.service.idle_timeout(&conn).map(|timeout| Instant::now() + timeout);
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ONESHOT;
        // Under the lock: the event may come before the connection is in the table again.
        match epoll::modify(&self.epoll, &stream, epoll::EventData::new_u64(id), flags) {
            Ok(()) => table.put_idle(id, Idle { stream, conn, deadline }),
            Err(error) => {
                drop(table);
                log::error!("watch a connection: {error}");
                self.close(id, stream, conn);
            }
        }
    }

    fn close(&self, id: u64, stream: Arc<Stream>, conn: S::Conn) {
        let mut table = self.table();
        table.busy.remove(&id);
        if table.stopping && table.busy.is_empty() {
            self.emptied.notify_all();
        }
        drop(table);
        self.dismiss(stream, conn);
    }

    /// Closes the socket and tells the service, which can do the loop no harm.
    fn dismiss(&self, stream: Arc<Stream>, conn: S::Conn) {
        drop(stream);
        let _ = catch_unwind(AssertUnwindSafe(|| self.service.closed(conn)));
    }

    /// Closes connections that have idled too long; returns how long until the next may be.
    fn expire_idle(&self) -> Duration {
        let now = Instant::now();
        loop {
            let mut table = self.table();
            match table.deadlines.first().copied() {
                Some((deadline, id)) if deadline <= now => {
                    let idle = table.take_idle(id);
                    drop(table);
                    if let Some(idle) = idle {
                        self.dismiss(idle.stream, idle.conn);
                    }
                }
                Some((deadline, _)) => return (deadline - now).min(Duration::from_secs(1)),
                None => return Duration::from_secs(1),
            }
        }
    }

    /// The graceful end: idle connections are closed, busy ones get their time, then are cut.
    fn finish(&self, stop_timeout: Duration) {
        let mut table = self.table();
        table.stopping = true;
        table.deadlines.clear();
        let idle: Vec<_> = table.idle.drain().collect();
        drop(table);
        for (_, idle) in idle {
            self.dismiss(idle.stream, idle.conn);
        }
        if self.wait_until_none_is_busy(stop_timeout) {
            return;
        }
        let table = self.table();
        log::warn!("cutting {} connections that did not finish within {stop_timeout:?}", table.busy.len());
        table.busy.values().for_each(|stream| stream.shutdown());
        drop(table);
        self.wait_until_none_is_busy(CUT_TIMEOUT);
    }

    fn wait_until_none_is_busy(&self, timeout: Duration) -> bool {
        let table = self.table();
        let waited = self.emptied.wait_timeout_while(table, timeout, |table| !table.busy.is_empty());
        waited.unwrap_or_else(PoisonError::into_inner).0.busy.is_empty()
    }

    /// Tells a connection over the limit so, unless too many are being told already.
    fn refuse(self: &Arc<Self>, stream: Stream) {
        if self.refused.fetch_add(1, Ordering::Relaxed) >= REFUSED_CONNS_MAX {
            self.refused.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let shared = Arc::clone(self);
        self.workers.run(move || {
            peer::set(stream.peer());
            let refused = catch_unwind(AssertUnwindSafe(|| shared.service.refuse(&stream)));
            shared.refused.fetch_sub(1, Ordering::Relaxed);
            drop(refused);
        });
    }
}

/// The listening socket, and its pauses.
struct Acceptor {
    listener: TcpListener,
    max_conns: usize,
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

    fn admit<S: Service>(&self, shared: &Arc<Shared<S>>, socket: TcpStream, address: SocketAddr) {
        // The only failure is a connection that is gone already.
        let Ok(stream) = Stream::from_tcp(socket) else { return };
        if let Err(stream) = shared.admit(stream, self.max_conns) {
            log::warn!("refusing {address}: {} connections are open already", self.max_conns);
            shared.refuse(stream);
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
