//! The connection manager: gets a connection to a server, makes a request on it, and remembers for a while
//! which servers failed and which lack the commands that TNV added. It does not know which servers a user
//! has.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tnv_common::auth::app_key::{self, AppKeys};
use tnv_common::cache::Cache;
use tnv_common::error::{Error, ErrorKind, Result};
use tnv_common::proto::AppId;
use tnv_common::proto::tnv::auth::{Nonce, Proof};
use tnv_common::rpc::client::Conn;

use crate::attempt::{Attempt, Candidate, Failure, Stage};
use crate::conn;
use crate::options::Options;
use crate::pool::Pools;

/// How long a server that failed is tried last: enough for a restart, too short for a visible imbalance.
const FAILED_LIFETIME: Duration = Duration::from_secs(5);

/// The same for an unresponsive server. It is longer, since each further try costs a user seconds.
const UNRESPONSIVE_LIFETIME: Duration = Duration::from_secs(30);

/// How long a missing command is remembered. The server may be upgraded at any time.
const CAPABILITY_LIFETIME: Duration = Duration::from_secs(180);

/// Most servers remembered: more than any deployment has.
const SERVERS_MAX: usize = 1024;

struct State {
    pools: Pools,
    failed: Cache<SocketAddr, ()>,
    unresponsive: Cache<SocketAddr, ()>,
    /// Legacy servers, which lack all added commands.
    legacy: Cache<SocketAddr, ()>,
    /// Storages without `FETCH`.
    no_fetch: Cache<SocketAddr, ()>,
    /// Whether a storage has `UPLOAD_CHECKED`.
    checks: Cache<SocketAddr, bool>,
    /// Storages without `CHALLENGE`.
    keyless: Cache<SocketAddr, ()>,
}

/// The manager. Threads share it.
pub(crate) struct Manager {
    app_keys: AppKeys,
    state: Mutex<State>,
}

impl Manager {
    pub(crate) fn new(options: &Options) -> Manager {
        let state = State {
            pools: Pools::new(options),
            failed: Cache::new(FAILED_LIFETIME, SERVERS_MAX),
            unresponsive: Cache::new(UNRESPONSIVE_LIFETIME, SERVERS_MAX),
            legacy: Cache::new(CAPABILITY_LIFETIME, SERVERS_MAX),
            no_fetch: Cache::new(CAPABILITY_LIFETIME, SERVERS_MAX),
            checks: Cache::new(CAPABILITY_LIFETIME, SERVERS_MAX),
            keyless: Cache::new(CAPABILITY_LIFETIME, SERVERS_MAX),
        };
        Manager { app_keys: options.app_keys.clone(), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection.
    pub(crate) fn connect(&self, address: SocketAddr) -> Result<Conn> {
        Conn::connect(address, None)
    }

    /// An idle connection that the server has not closed yet.
    pub(crate) fn pooled(&self, address: SocketAddr) -> Option<Conn> {
        loop {
            let conn = self.state().pools.take(address)?;
            if !conn.is_stale() {
                return Some(conn);
            }
        }
    }

    /// Keeps a connection for the next request. A broken one is closed.
    pub(crate) fn put(&self, conn: Conn) {
        let dropped = self.state().pools.put(conn);
        drop(dropped); // Closing needs no lock.
    }

    /// Makes a request that is safe to repeat; `wait_max` is the longest wait for the server if it is shorter
    /// than the protocol's. A dead idle connection costs no attempt: the request is repeated on a new
    /// connection.
    pub(crate) fn exchange<T>(
        &self,
        address: SocketAddr,
        wait_max: Option<Duration>,
        mut request: impl FnMut(&mut Conn) -> Result<T>,
    ) -> Attempt<T> {
        if let Some(conn) = self.pooled(address) {
            match self.request(conn, wait_max, &mut request) {
                Err((false, error)) if error.kind() == ErrorKind::Unavailable => {
                    log::debug!("idle connection was closed: {error}; opening a new one");
                }
                outcome => return outcome.map_err(|(replied, error)| Failure::classify(replied, error)),
            }
        }
        let conn = self.connect(address).map_err(Failure::connect)?;
        let outcome = self.request(conn, wait_max, &mut request);
        outcome.map_err(|(replied, error)| Failure::classify(replied, error))
    }

    /// [`exchange`](Manager::exchange) for a lookup or a download.
    pub(crate) fn look_up<T>(
        &self,
        candidate: Candidate,
        request: impl FnMut(&mut Conn) -> Result<T>,
    ) -> Attempt<T> {
        self.exchange(candidate.address, candidate.lookup_timeout(), request)
    }

    /// [`exchange`](Manager::exchange) for a request that changes an application's files. It first proves the
    /// application's key on the connection if this client has one.
    pub(crate) fn exchange_proven<T>(
        &self,
        address: SocketAddr,
        wait_max: Option<Duration>,
        appid: &AppId,
        mut request: impl FnMut(&mut Conn) -> Result<T>,
    ) -> Attempt<T> {
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

    /// Proves an application's key once a connection, if this client has one. The storage decides whether it
    /// needs a proof.
    pub(crate) fn prove(&self, conn: &mut Conn, appid: &AppId) -> Result<()> {
        let Some(key) = self.app_keys.of(appid).first() else { return Ok(()) };
        let peer = conn.peer();
        let is_keyless = || self.is_legacy(peer) || self.state().keyless.get(&peer, Instant::now()).is_some();
        if conn.note() == Some(appid.as_str()) || is_keyless() {
            return Ok(());
        }
        if let Some(theirs) = conn::challenge(conn, appid)? {
            let nonce: Nonce = rand::random();
            let mac = app_key::prove(key, appid, &theirs, &nonce);
            conn::prove(conn, &Proof { appid: appid.clone(), nonce, mac })?;
            // Without a challenge nothing is noted: the storage may need a proof a minute later.
            conn.set_note(appid.as_str());
        }
        Ok(())
    }

    /// Whether a proof failed because the storage lacks the command. It then needs no proof, and the request
    /// is made without one. A legacy storage refuses and closes, so its refusal may be lost.
    pub(crate) fn lacks_proofs(&self, address: SocketAddr, failure: &Failure) -> bool {
        match failure.error.kind() {
            ErrorKind::Unsupported => {
                log::debug!("storage {address} has no application keys");
                self.state().keyless.put(address, (), Instant::now());
                true
            }
            ErrorKind::Unavailable => failure.stage == Stage::NoReply,
            ErrorKind::Internal => true,
            _ => false,
        }
    }

    /// One request on one connection. The error comes with whether the server replied.
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

    /// The servers in the given order, with those that failed lately last.
    pub(crate) fn order(&self, mut addresses: Vec<SocketAddr>) -> Vec<Candidate> {
        let state = self.state();
        addresses.sort_by_key(|address| {
            state.failed.get(address, Instant::now()).is_some()
                || state.unresponsive.get(address, Instant::now()).is_some()
        });
        let last = addresses.len().saturating_sub(1);
        let candidate = |(index, address)| Candidate { address, can_fail_over: index < last };
        addresses.into_iter().enumerate().map(candidate).collect()
    }

    /// Notes a success.
    pub(crate) fn note_success(&self, address: SocketAddr) {
        let mut state = self.state();
        state.failed.remove(&address);
        state.unresponsive.remove(&address);
    }

    /// Notes a failure. If only the request failed, the server is healthy.
    pub(crate) fn note_failure(&self, address: SocketAddr, failure: &Failure) {
        if !failure.is_of_server() {
            return self.note_success(address);
        }
        let mut state = self.state();
        state.failed.put(address, (), Instant::now());
        if failure.error.kind() == ErrorKind::Timeout && failure.stage != Stage::Reply {
            state.unresponsive.put(address, (), Instant::now());
        }
    }

    /// Whether a server is known to be a legacy one.
    pub(crate) fn is_legacy(&self, address: SocketAddr) -> bool {
        self.state().legacy.get(&address, Instant::now()).is_some()
    }

    /// Notes that a server is a legacy one.
    pub(crate) fn note_legacy(&self, address: SocketAddr) {
        log::debug!("{address} is a legacy server without the added commands");
        self.state().legacy.put(address, (), Instant::now());
    }

    /// Whether a storage may have `FETCH`.
    pub(crate) fn may_fetch(&self, address: SocketAddr) -> bool {
        let state = self.state();
        state.legacy.get(&address, Instant::now()).is_none()
            && state.no_fetch.get(&address, Instant::now()).is_none()
    }

    /// Notes that a storage lacks `FETCH`.
    pub(crate) fn note_no_fetch(&self, address: SocketAddr) {
        self.state().no_fetch.put(address, (), Instant::now());
    }

    /// Whether a storage has `UPLOAD_CHECKED`. The first call asks it with an empty body, which may cost the
    /// connection.
    pub(crate) fn checks_uploads(&self, candidate: Candidate) -> Attempt<bool> {
        if let Some(checks) = self.state().checks.get(&candidate.address, Instant::now()) {
            return Ok(*checks);
        }
        let checks = match self.look_up(candidate, conn::checks_uploads) {
            Ok(()) => true,
            Err(failure) => match failure.error.kind() {
                ErrorKind::Unsupported => false,
                // An unknown message is not remembered.
                ErrorKind::Internal => return Ok(false),
                _ => return Err(failure),
            },
        };
        self.state().checks.put(candidate.address, checks, Instant::now());
        Ok(checks)
    }
}
