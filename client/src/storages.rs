//! Requests to the storages of a user's group: one storage after another until one succeeds, within the
//! bounds of the options. Uploads, downloads and deletes build on it.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use tnv_common::error::{ErrorKind, Result};
use tnv_common::fail;
use tnv_common::proto::tnv::file_key::FileKey;
use tnv_common::proto::tnv::storage::Stat;
use tnv_common::proto::tnv::tracker::Route;
use tnv_common::rpc::client::Conn;

use crate::attempt::{Attempt, AttemptLog, Candidate, Progress, Stage};
use crate::conn;
use crate::mngr::Manager;
use crate::options::Options;
use crate::trackers::{Owner, Trackers, owner};

/// The pause before a tracker is asked for new storages, which gives a restarting server a moment.
const REFRESH_PAUSE: Duration = Duration::from_millis(200);

/// What is known of a file, and the storages that have it.
#[derive(Clone, Debug)]
pub struct FileInfo {
    /// Bytes of the file.
    pub size: u64,
    /// Time, checksum and version of this upload; `None` from a legacy storage, which has no such command.
    pub stat: Option<Stat>,
    /// The storages of its group. The first one is the one that replied.
    members: Vec<SocketAddr>,
}

impl FileInfo {
    /// What the storage at `address`, one of the route's, replied.
    pub(crate) fn new(size: u64, stat: Option<Stat>, address: SocketAddr, route: &[SocketAddr]) -> FileInfo {
        let others = route.iter().copied().filter(|&other| other != address);
        FileInfo { size, stat, members: std::iter::once(address).chain(others).collect() }
    }

    /// The storages of its group, in the order in which to ask them for content.
    pub(crate) fn members(&self) -> &[SocketAddr] {
        &self.members
    }
}

/// The storages of a deployment.
pub(crate) struct Storages {
    pub(crate) mngr: Manager,
    pub(crate) trackers: Trackers,
    pub(crate) options: Options,
}

impl Storages {
    /// A user's route; see [`Trackers::route`].
    pub(crate) fn route(&self, owner: &Owner) -> Result<Route> {
        self.trackers.route(&self.mngr, owner)
    }

    /// Makes a small request that is safe to repeat to any storage of a file's group.
    pub(crate) fn ask<T>(
        &self,
        file: &FileKey,
        what: &str,
        mut request: impl FnMut(&mut Conn) -> Result<T>,
    ) -> Result<T> {
        let owner = owner(file);
        let route = self.route(&owner)?.addresses;
        self.try_each(what, &owner, route, |candidate| self.mngr.look_up(candidate, &mut request))
    }

    /// Asks one storage for the stat of a file; `None` if it lacks the command. A legacy storage refuses and
    /// closes with the request unread, so its refusal may be lost.
    pub(crate) fn stat_at(&self, candidate: Candidate, file: &FileKey) -> Attempt<Option<Stat>> {
        if self.mngr.is_legacy(candidate.address) {
            return Ok(None);
        }
        let failure = match self.mngr.look_up(candidate, |conn| conn::stat(conn, file)) {
            Ok(stat) => return Ok(Some(stat)),
            Err(failure) => failure,
        };
        match failure.error.kind() {
            ErrorKind::Unsupported => {
                self.mngr.note_legacy(candidate.address);
                Ok(None)
            }
            // Closed without a reply: a storage that knows the size lacks the command.
            ErrorKind::Unavailable if failure.stage == Stage::NoReply => {
                self.size_at(candidate, file)?;
                self.mngr.note_legacy(candidate.address);
                Ok(None)
            }
            // An unknown message is not remembered, but the legacy command may work.
            ErrorKind::Internal => Ok(None),
            _ => Err(failure),
        }
    }

    /// Asks one storage of this route for all it can say of a file without its content.
    pub(crate) fn info_at(
        &self,
        candidate: Candidate,
        file: &FileKey,
        route: &[SocketAddr],
    ) -> Attempt<FileInfo> {
        let (size, stat) = match self.stat_at(candidate, file)? {
            Some(stat) => (stat.size, Some(stat)),
            None => (self.size_at(candidate, file)?, None),
        };
        Ok(FileInfo::new(size, stat, candidate.address, route))
    }

    /// Asks one storage for the size of a file.
    pub(crate) fn size_at(&self, candidate: Candidate, file: &FileKey) -> Attempt<u64> {
        self.mngr.look_up(candidate, |conn| conn::file_size(conn, file))
    }

    /// Removes a file; see [`Client::delete`](crate::Client::delete).
    pub(crate) fn delete(&self, file: &FileKey) -> Result<()> {
        let owner = owner(file);
        let route = self.route(&owner)?.addresses;
        // An earlier attempt may have removed it although its reply was lost.
        let mut reply_lost = false;
        let what = format!("delete {}", file.fileid);
        let outcome = self.try_each(&what, &owner, route, |candidate| {
            let wait_max = candidate.change_timeout(Duration::ZERO);
            let deleted = self.mngr.exchange_proven(candidate.address, wait_max, &file.appid, |conn| {
                let outcome = conn::delete(conn, file);
                if let Err(error) = &outcome {
                    reply_lost |= !conn.replied() || error.kind() == ErrorKind::OutcomeUnknown;
                }
                outcome
            });
            match deleted {
                Err(failure) if reply_lost && failure.error.kind() == ErrorKind::NotFound => Ok(()),
                deleted => deleted,
            }
        });
        match outcome {
            Err(error) if reply_lost && error.kind() != ErrorKind::OutcomeUnknown => {
                fail!(OutcomeUnknown, "{}; it may have been removed", error.message())
            }
            outcome => outcome,
        }
    }

    /// Tries one storage after another until one succeeds, a failure is final, or the bounds are reached. If
    /// all failed and a later attempt may succeed, a tracker is asked for new storages, once.
    pub(crate) fn try_each<T>(
        &self,
        what: &str,
        owner: &Owner,
        mut addresses: Vec<SocketAddr>,
        mut attempt: impl FnMut(Candidate) -> Attempt<T>,
    ) -> Result<T> {
        let mut log = AttemptLog::default();
        let mut deadline = Instant::now() + self.options.deadline;
        let mut refreshed = false;
        loop {
            for candidate in self.mngr.order(addresses) {
                let address = candidate.address;
                if log.count() >= self.options.attempts || Instant::now() >= deadline {
                    return Err(log.error(what));
                }
                let failure = match attempt(candidate) {
                    Ok(value) => {
                        self.mngr.note_success(address);
                        return Ok(value);
                    }
                    Err(failure) => failure,
                };
                if failure.stage == Stage::Local {
                    return Err(failure.error.context(what));
                }
                log::debug!("{what}: storage {address}: {}", failure.error);
                if failure.progress != Progress::None {
                    deadline = Instant::now() + self.options.deadline;
                }
                if failure.progress == Progress::Resumable {
                    log.clear();
                    refreshed = false;
                }
                log.add(address, &failure);
                if failure.is_of_server() {
                    self.mngr.note_failure(address, &failure);
                    self.trackers.forget_route(owner);
                }
                if failure.is_final {
                    return Err(log.error(what));
                }
            }
            if refreshed || !log.is_transient() || log.count() >= self.options.attempts {
                return Err(log.error(what));
            }
            refreshed = true;
            thread::sleep(REFRESH_PAUSE);
            // This records nothing: an upload's first route has recorded the user.
            match self.route(owner) {
                Ok(route) => addresses = route.addresses,
                Err(error) => {
                    log.add_error(&error);
                    return Err(log.error(what));
                }
            }
        }
    }
}
