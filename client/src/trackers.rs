//! The trackers: their addresses, and the routes that they give. A route is a user's group and its storages.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::seq::SliceRandom;
use tnv_common::cache::Cache;
use tnv_common::error::{ErrorKind, Result};
use tnv_common::fail;
use tnv_common::net::resolve;
use tnv_common::proto::tnv::file_key::FileKey;
use tnv_common::proto::tnv::tracker::{Addresses, Route};
use tnv_common::proto::{AppId, UserId};

use crate::TRACKER_PORT;
use crate::attempt::{Attempt, AttemptLog, Candidate, Stage};
use crate::conn;
use crate::mngr::Manager;
use crate::options::Options;

/// Most trackers of a client.
const TRACKERS_MAX: usize = 64;

/// How long a resolved tracker name is used.
const RESOLVED_LIFETIME: Duration = Duration::from_secs(30);

/// The application and the user of a file.
pub(crate) type Owner = (AppId, UserId);

/// The owner of a file.
pub(crate) fn owner(file: &FileKey) -> Owner {
    (file.appid.clone(), file.userid.clone())
}

/// The trackers of a deployment.
pub(crate) struct Trackers {
    trackers: Vec<Tracker>,
    routes: Mutex<Cache<Owner, Route>>,
}

struct Tracker {
    /// `host[:port]`.
    name: String,
    resolved: Mutex<Option<(Vec<SocketAddr>, Instant)>>,
}

impl Trackers {
    /// The trackers of these names, `host[:port]` each.
    pub(crate) fn new(names: &[String], options: &Options) -> Result<Trackers> {
        if names.is_empty() || names.len() > TRACKERS_MAX {
            return fail!(Invalid, "invalid list of trackers, got {}, want 1 to {TRACKERS_MAX}", names.len());
        }
        let trackers = names.iter().map(|name| Tracker::new(name)).collect::<Result<_>>()?;
        let routes = Mutex::new(Cache::new(options.route_cache, options.routes_max));
        Ok(Trackers { trackers, routes })
    }

    fn routes(&self) -> MutexGuard<'_, Cache<Owner, Route>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a user's route, so that the next request asks a tracker.
    pub(crate) fn forget_route(&self, owner: &Owner) {
        self.routes().remove(owner);
    }

    /// A user's route, cached or from a tracker, with the storages in random order. The tracker records
    /// nothing. An unknown user is not found, which is not cached.
    pub(crate) fn route(&self, mngr: &Manager, owner: &Owner) -> Result<Route> {
        self.route_by(mngr, owner, |candidate, user| find_at(mngr, candidate, user))
    }

    /// The same for an upload: the tracker gives a new user a group and records it.
    pub(crate) fn route_for_upload(&self, mngr: &Manager, owner: &Owner) -> Result<Route> {
        self.route_by(mngr, owner, |candidate, user| {
            mngr.look_up(candidate, |conn| conn::addresses(conn, user))
        })
    }

    fn route_by(
        &self,
        mngr: &Manager,
        owner: &Owner,
        ask: impl Fn(Candidate, &Addresses) -> Attempt<Route>,
    ) -> Result<Route> {
        let cached = self.routes().get(owner, Instant::now()).cloned();
        let mut route = match cached {
            Some(route) => route,
            None => {
                let user = Addresses { appid: owner.0.clone(), userid: owner.1.clone() };
                let what = format!("find the storages of {}", user.userid);
                let route = self.ask(mngr, &what, |candidate| ask(candidate, &user))?;
                self.routes().put(owner.clone(), route.clone(), Instant::now());
                route
            }
        };
        route.addresses.shuffle(&mut rand::rng());
        Ok(route)
    }

    /// Asks the trackers in random order, each once, until one succeeds. Storages join each tracker
    /// separately, so one tracker may know what another does not. Only an invalid request ends the search
    /// early.
    pub(crate) fn ask<T>(
        &self,
        mngr: &Manager,
        what: &str,
        mut ask: impl FnMut(Candidate) -> Attempt<T>,
    ) -> Result<T> {
        let mut log = AttemptLog::default();
        for candidate in mngr.order(self.addresses(&mut log)) {
            let address = candidate.address;
            match ask(candidate) {
                Ok(value) => {
                    mngr.note_success(address);
                    return Ok(value);
                }
                Err(failure) => {
                    log::debug!("{what}: tracker {address}: {}", failure.error);
                    log.add(address, &failure);
                    // A tracker also says "unavailable" of a group without an active storage.
                    mngr.note_failure(address, &failure);
                    // An unknown application or user, or an invalid name.
                    if matches!(failure.error.kind(), ErrorKind::Invalid | ErrorKind::NotFound) {
                        return Err(log.error(what));
                    }
                }
            }
        }
        Err(log.error(what))
    }

    fn addresses(&self, log: &mut AttemptLog) -> Vec<SocketAddr> {
        let mut trackers: Vec<&Tracker> = self.trackers.iter().collect();
        trackers.shuffle(&mut rand::rng());
        let mut addresses = Vec::new();
        for tracker in trackers {
            match tracker.addresses() {
                Ok(resolved) => addresses.extend(resolved),
                Err(error) => log.add_error(&error),
            }
        }
        addresses
    }
}

/// Asks one tracker for a user's storages without recording a new user. A legacy tracker lacks the command,
/// refuses and closes. It has only the command that records, which every legacy client uses.
fn find_at(mngr: &Manager, candidate: Candidate, user: &Addresses) -> Attempt<Route> {
    let legacy = || mngr.look_up(candidate, |conn| conn::addresses(conn, user));
    if mngr.is_legacy(candidate.address) {
        return legacy();
    }
    let failure = match mngr.look_up(candidate, |conn| conn::find_addresses(conn, user)) {
        Ok(route) => return Ok(route),
        Err(failure) => failure,
    };
    match failure.error.kind() {
        ErrorKind::Unsupported => {
            mngr.note_legacy(candidate.address);
            legacy()
        }
        // The refusal was lost with the unread request, or has an unknown message. This is not remembered: a
        // restarting TNV tracker fails in the same way, and would then record users for minutes.
        ErrorKind::Unavailable if failure.stage == Stage::NoReply => legacy(),
        ErrorKind::Internal => legacy(),
        _ => Err(failure),
    }
}

impl Tracker {
    /// Refuses a malformed name. A name that does not resolve now may resolve later.
    fn new(name: &str) -> Result<Tracker> {
        let tracker = Tracker { name: name.to_owned(), resolved: Mutex::new(None) };
        match tracker.addresses() {
            Err(error) if error.kind() == ErrorKind::Invalid => Err(error.context("tracker")),
            _ => Ok(tracker),
        }
    }

    fn addresses(&self) -> Result<Vec<SocketAddr>> {
        let lock = || self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().clone();
        if let Some((addresses, since)) = &known
            && since.elapsed() < RESOLVED_LIFETIME
        {
            return Ok(addresses.clone());
        }
        // Resolving may take long, so no lock is held.
        let addresses = match (resolve(&self.name, TRACKER_PORT), known) {
            (Ok(addresses), _) => addresses,
            // The tracker may work while the name server does not.
            (Err(error), Some((addresses, _))) => {
                log::info!("tracker {}: {error}; using its last addresses", self.name);
                addresses
            }
            (Err(error), None) => return Err(error),
        };
        *lock() = Some((addresses.clone(), Instant::now()));
        Ok(addresses)
    }
}
