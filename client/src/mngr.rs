//! The pool manager: which servers there are, in what order to ask them, and how to get a connection
//! to one. It remembers, within bounds and for a while, which failed lately, which lack the commands
//! that ours added, and where each user's files are.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::seq::SliceRandom;
use tnv_common::auth::app_key::{self, AppKeys};
use tnv_common::error::{Error, ErrorKind, Result};
use tnv_common::fail;
use tnv_common::net::resolve;
use tnv_common::proto::tnv::auth::{Nonce, Proof};
use tnv_common::proto::tnv::tracker::{Addresses, Route};
use tnv_common::proto::{AppId, UserId};
use tnv_common::rpc::client::Conn;

use crate::TRACKER_PORT;
use crate::conn;
use crate::options::Options;
use crate::pool::Pools;
use crate::recent::Recent;
use crate::trail::{At, Failure, Trail, Tried, Turn};

/// A server that failed is tried last for so long: time for a restart, and not for a viewer to
/// notice that the load is uneven.
const SUSPECT_TIMEOUT: Duration = Duration::from_secs(5);

/// One that was silent until it was given up is tried last for longer, since each try costs somebody
/// the seconds for which it is waited.
const SLOW_TIMEOUT: Duration = Duration::from_secs(30);

/// For how long it is remembered that a server lacks the added commands: it may be replaced by one of
/// ours at any time.
const PLAIN_TIMEOUT: Duration = Duration::from_secs(180);

/// Most servers of which either is remembered: more than any deployment has.
const SERVERS_MAX: usize = 1024;

/// Most trackers a client takes, so that a list that all fail ends.
const TRACKERS_MAX: usize = 64;

/// How long the addresses of a tracker's name are used before they are looked up again.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(30);

/// Whose files are meant.
pub(crate) type Owner = (AppId, UserId);

struct Tracker {
    /// `host[:port]`.
    name: String,
    found: Mutex<Option<(Vec<SocketAddr>, Instant)>>,
}

struct State {
    pools: Pools,
    suspects: Recent<SocketAddr, ()>,
    slow: Recent<SocketAddr, ()>,
    plain: Recent<SocketAddr, ()>,
    no_fetch: Recent<SocketAddr, ()>,
    checks: Recent<SocketAddr, bool>,
    keyless: Recent<SocketAddr, ()>,
    routes: Recent<Owner, Route>,
}

/// The manager; every method may be called by many threads at once.
pub(crate) struct Manager {
    trackers: Vec<Tracker>,
    app_keys: AppKeys,
    state: Mutex<State>,
}

impl Manager {
    /// A manager of these trackers, `host[:port]` each.
    pub(crate) fn new(trackers: &[String], options: &Options) -> Result<Manager> {
        if trackers.is_empty() || trackers.len() > TRACKERS_MAX {
            return fail!(
                Invalid,
                "invalid list of trackers, got {}, want 1 to {TRACKERS_MAX}",
                trackers.len()
            );
        }
        let trackers = trackers.iter().map(|name| Tracker::new(name)).collect::<Result<_>>()?;
        let state = State {
            pools: Pools::new(options),
            suspects: Recent::new(SUSPECT_TIMEOUT, SERVERS_MAX),
            slow: Recent::new(SLOW_TIMEOUT, SERVERS_MAX),
            plain: Recent::new(PLAIN_TIMEOUT, SERVERS_MAX),
            no_fetch: Recent::new(PLAIN_TIMEOUT, SERVERS_MAX),
            checks: Recent::new(PLAIN_TIMEOUT, SERVERS_MAX),
            keyless: Recent::new(PLAIN_TIMEOUT, SERVERS_MAX),
            routes: Recent::new(options.route_cache, options.routes_max),
        };
        Ok(Manager { trackers, app_keys: options.app_keys.clone(), state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection.
    pub(crate) fn connect(&self, address: SocketAddr) -> Result<Conn> {
        Conn::connect(address, None)
    }

    /// An idle connection that still seems alive.
    pub(crate) fn pooled(&self, address: SocketAddr) -> Option<Conn> {
        loop {
            let conn = self.state().pools.take(address)?;
            if !conn.is_stale() {
                return Some(conn);
            }
        }
    }

    /// Keeps a connection for the next request; one that is broken is closed.
    pub(crate) fn put(&self, conn: Conn) {
        let dropped = self.state().pools.put(conn);
        drop(dropped); // Closing needs no lock.
    }

    /// Makes a request that may safely be made twice; `wait_max` is the longest silence of the server that
    /// is borne, where it is less than the protocol's. An idle connection that turns out to be dead costs
    /// no attempt: the request is made again on a new one.
    pub(crate) fn exchange<T>(
        &self,
        address: SocketAddr,
        wait_max: Option<Duration>,
        mut request: impl FnMut(&mut Conn) -> Result<T>,
    ) -> Tried<T> {
        if let Some(conn) = self.pooled(address) {
            match self.request(conn, wait_max, &mut request) {
                Err((false, error)) if error.kind() == ErrorKind::Unavailable => {
                    log::debug!("an idle connection was dead: {error}");
                }
                outcome => return outcome.map_err(|(replied, error)| Failure::judge(replied, error)),
            }
        }
        let conn = self.connect(address).map_err(Failure::connect)?;
        self.request(conn, wait_max, &mut request).map_err(|(replied, error)| Failure::judge(replied, error))
    }

    /// The same of a request that changes files of an application: on a connection on which its key has
    /// been proven, where one is known here.
    pub(crate) fn exchange_proven<T>(
        &self,
        address: SocketAddr,
        wait_max: Option<Duration>,
        appid: &AppId,
        mut request: impl FnMut(&mut Conn) -> Result<T>,
    ) -> Tried<T> {
        let mut is_proving = false;
        let outcome = self.exchange(address, wait_max, |conn| {
            is_proving = true;
            self.prove(conn, appid)?;
            is_proving = false;
            request(conn)
        });
        match outcome {
            Err(failure) if is_proving && self.lacks_proofs(address, &failure) => {
                self.exchange(address, wait_max, request)
            }
            outcome => outcome,
        }
    }

    /// Proves the key of an application on a connection, where one is known here and it was not proven
    /// there before. Whether the storage wants it is the storage's to say.
    pub(crate) fn prove(&self, conn: &mut Conn, appid: &AppId) -> Result<()> {
        let Some(key) = self.app_keys.of(appid).first() else { return Ok(()) };
        let peer = conn.peer();
        let is_keyless = || self.is_plain(peer) || self.state().keyless.get(&peer).is_some();
        if conn.note() == Some(appid.as_str()) || is_keyless() {
            return Ok(());
        }
        if let Some(theirs) = conn::challenge(conn, appid)? {
            let nonce: Nonce = rand::random();
            let mac = app_key::prove(key, appid, &theirs, &nonce);
            conn::prove(conn, &Proof { appid: appid.clone(), nonce, mac })?;
            // Only then: a storage that wants no proof today may want one in a minute.
            conn.set_note(appid.as_str());
        }
        Ok(())
    }

    /// Whether a failed proof only means that the storage does not know such: then it wants none, and
    /// the request goes without. Existing storages refuse and close, and their refusal may be lost.
    pub(crate) fn lacks_proofs(&self, address: SocketAddr, failure: &Failure) -> bool {
        match failure.error.kind() {
            ErrorKind::Unsupported => {
                log::debug!("{address} knows nothing of keys");
                self.state().keyless.insert(address, ());
                true
            }
            ErrorKind::Unavailable => failure.at == At::Way,
            ErrorKind::Internal => true,
            _ => false,
        }
    }

    /// One request on one connection; a failure comes with whether the server had answered.
    fn request<T>(
        &self,
        mut conn: Conn,
        wait_max: Option<Duration>,
        request: &mut impl FnMut(&mut Conn) -> Result<T>,
    ) -> std::result::Result<T, (bool, Error)> {
        conn.set_wait_max(wait_max);
        match request(&mut conn) {
            Ok(value) => {
                self.put(conn);
                Ok(value)
            }
            Err(error) => Err((conn.replied(), error)),
        }
    }

    /// The servers in the order in which to try them: as given, but those that failed lately last.
    pub(crate) fn order(&self, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let state = self.state();
        addresses.sort_by_key(|address| {
            state.suspects.get(address).is_some() || state.slow.get(address).is_some()
        });
        addresses
    }

    /// Notes that a server did what it was asked.
    pub(crate) fn note_success(&self, address: SocketAddr) {
        let mut state = self.state();
        state.suspects.remove(&address);
        state.slow.remove(&address);
    }

    /// Notes that a server failed, where the failure is the server's.
    pub(crate) fn note_failure(&self, address: SocketAddr, failure: &Failure) {
        if !failure.is_of_server() {
            return self.note_success(address);
        }
        let mut state = self.state();
        state.suspects.insert(address, ());
        if failure.error.kind() == ErrorKind::Timeout && failure.at != At::Server {
            state.slow.insert(address, ());
        }
    }

    /// Whether a server is known to lack the commands that ours added.
    pub(crate) fn is_plain(&self, address: SocketAddr) -> bool {
        self.state().plain.get(&address).is_some()
    }

    /// Notes that a server lacks the commands that ours added.
    pub(crate) fn note_plain(&self, address: SocketAddr) {
        log::debug!("{address} is an existing server, it lacks the added commands");
        self.state().plain.insert(address, ());
    }

    /// Whether a storage may know how to tell of a file and give its content in one answer.
    pub(crate) fn fetches(&self, address: SocketAddr) -> bool {
        let state = self.state();
        state.plain.get(&address).is_none() && state.no_fetch.get(&address).is_none()
    }

    /// Notes that a storage does not.
    pub(crate) fn note_no_fetch(&self, address: SocketAddr) {
        self.state().no_fetch.insert(address, ());
    }

    /// Whether a storage can hold an upload against its checksum. It is asked without content, on a
    /// connection that may be closed for it, and the answer is remembered.
    pub(crate) fn checks_uploads(&self, address: SocketAddr, turn: Turn) -> Tried<bool> {
        if let Some(checks) = self.state().checks.get(&address) {
            return Ok(*checks);
        }
        let checks = match self.exchange(address, turn.to_find(), conn::checks_uploads) {
            Ok(()) => true,
            Err(failure) => match failure.error.kind() {
                ErrorKind::Unsupported => false,
                // Words that are not known here: nothing is remembered.
                ErrorKind::Internal => return Ok(false),
                _ => return Err(failure),
            },
        };
        self.state().checks.insert(address, checks);
        Ok(checks)
    }

    /// Where a user's files are, as remembered.
    pub(crate) fn known_route(&self, owner: &Owner) -> Option<Route> {
        self.state().routes.get(owner).cloned()
    }

    /// Forgets where a user's files are, so that the tracker is asked.
    pub(crate) fn forget_route(&self, owner: &Owner) {
        self.state().routes.remove(owner);
    }

    /// Where a user's files are, as remembered or as a tracker says. The storages are in random order.
    /// Asking makes nothing: a user whom nobody knows is not found, which is not remembered either.
    pub(crate) fn route(&self, owner: &Owner) -> Result<Route> {
        self.route_by(owner, |address, turn, user| self.find_at(address, turn, user))
    }

    /// The same for an upload: a new user is given a group, which the tracker records.
    pub(crate) fn route_for_upload(&self, owner: &Owner) -> Result<Route> {
        self.route_by(owner, |address, turn, user| {
            self.exchange(address, turn.to_find(), |conn| conn::addresses(conn, user))
        })
    }

    fn route_by(
        &self,
        owner: &Owner,
        ask: impl Fn(SocketAddr, Turn, &Addresses) -> Tried<Route>,
    ) -> Result<Route> {
        let mut route = match self.known_route(owner) {
            Some(route) => route,
            None => {
                let user = Addresses { appid: owner.0.clone(), userid: owner.1.clone() };
                let what = format!("find the storages of {}", user.userid);
                let route = self.ask_trackers(&what, |address, turn| ask(address, turn, &user))?;
                self.state().routes.insert(owner.clone(), route.clone());
                route
            }
        };
        route.addresses.shuffle(&mut rand::rng());
        Ok(route)
    }

    /// Asks one tracker for the storages of a user, without making it record a new one. An existing
    /// tracker lacks the command, refuses and closes: it can only be asked the way that records, as
    /// every existing client does.
    fn find_at(&self, address: SocketAddr, turn: Turn, user: &Addresses) -> Tried<Route> {
        let plain = || self.exchange(address, turn.to_find(), |conn| conn::addresses(conn, user));
        if self.is_plain(address) {
            return plain();
        }
        let failure = match self.exchange(address, turn.to_find(), |conn| conn::find_addresses(conn, user)) {
            Ok(route) => return Ok(route),
            Err(failure) => failure,
        };
        match failure.error.kind() {
            ErrorKind::Unsupported => {
                self.note_plain(address);
                plain()
            }
            // The refusal was lost, since the request was left unread, or has words that are not known
            // here. Neither is remembered: a tracker of ours that restarts looks the same, and would
            // then record for minutes whoever is asked for.
            ErrorKind::Unavailable if failure.at == At::Way => plain(),
            ErrorKind::Internal => plain(),
            _ => Err(failure),
        }
    }

    /// Asks the trackers in random order until one answers. Each is asked once: what one does not
    /// know another may, since storages join each of them by themselves, and a server that is no
    /// tracker at all should not hide one that is. Only what was asked wrongly is wrong for all.
    pub(crate) fn ask_trackers<T>(
        &self,
        what: &str,
        mut ask: impl FnMut(SocketAddr, Turn) -> Tried<T>,
    ) -> Result<T> {
        let mut trail = Trail::default();
        let addresses = self.order(self.tracker_addresses(&mut trail));
        for (index, &address) in addresses.iter().enumerate() {
            match ask(address, Turn::of(index, addresses.len())) {
                Ok(value) => {
                    self.note_success(address);
                    return Ok(value);
                }
                Err(failure) => {
                    log::debug!("{what}: tracker {address}: {}", failure.error);
                    trail.note(address, &failure);
                    // "Unavailable" is also how a tracker says that a group has no active storage.
                    self.note_failure(address, &failure);
                    // An unknown application or user, or a name that no tracker takes.
                    if matches!(failure.error.kind(), ErrorKind::Invalid | ErrorKind::NotFound) {
                        return Err(trail.error(what));
                    }
                }
            }
        }
        Err(trail.error(what))
    }

    fn tracker_addresses(&self, trail: &mut Trail) -> Vec<SocketAddr> {
        let mut trackers: Vec<&Tracker> = self.trackers.iter().collect();
        trackers.shuffle(&mut rand::rng());
        let mut addresses = Vec::new();
        for tracker in trackers {
            match tracker.addresses() {
                Ok(found) => addresses.extend(found),
                Err(error) => trail.note_error(&error),
            }
        }
        addresses
    }
}

impl Tracker {
    /// A name that cannot be looked up now may be later; one that is malformed never will be.
    fn new(name: &str) -> Result<Tracker> {
        let tracker = Tracker { name: name.to_owned(), found: Mutex::new(None) };
        match tracker.addresses() {
            Err(error) if error.kind() == ErrorKind::Invalid => Err(error.context("tracker")),
            _ => Ok(tracker),
        }
    }

    fn addresses(&self) -> Result<Vec<SocketAddr>> {
        let lock = || self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().clone();
        if let Some((addresses, since)) = &known
            && since.elapsed() < RESOLVE_TIMEOUT
        {
            return Ok(addresses.clone());
        }
        // Looking up may take long, so it holds no lock.
        match (resolve(&self.name, TRACKER_PORT), known) {
            (Ok(addresses), _) => {
                *lock() = Some((addresses.clone(), Instant::now()));
                Ok(addresses)
            }
            // A name server that is away does not take the tracker with it.
            (Err(error), Some((addresses, _))) => {
                log::info!("tracker {}: {error}; its last addresses are used", self.name);
                *lock() = Some((addresses.clone(), Instant::now()));
                Ok(addresses)
            }
            (Err(error), None) => Err(error),
        }
    }
}
