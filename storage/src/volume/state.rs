//! One volume: what is known of it, which of it counts for a new file, and the failures that are reported to it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tnv_common::config::kinds::Space;
use tnv_common::error::Error;
use tnv_common::proto::IdKey;
use tnv_common::proto::tnv::shares::Share;

use super::disk::{DiskError, DiskHealth};
use super::health::{Health, PROOFS};
use super::heartbeat::Watch;
use super::identity::{self, Evidence, Marker};
use super::journal::Journal;
use super::quarantine::Quarantine;
use crate::globals::MemberName;
use crate::path;

/// A disk without an answer for so long hangs: disks under load take seconds, too.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(5);

/// A store path that failed is tried last for so long.
const FAILED_TIMEOUT: Duration = Duration::from_secs(10);

/// What opening a store path takes.
#[derive(Clone)]
pub struct VolumeOptions {
    /// What stays free.
    pub reserve: Space,
    /// This storage.
    pub member: MemberName,
    /// Its group's name.
    pub group: String,
    /// Makes what shows whether a disk without a marker is the right one.
    pub evidence: Arc<dyn Fn() -> Box<dyn Evidence> + Send + Sync>,
    /// Where the lists of damaged files are kept.
    pub quarantine: Arc<Quarantine>,
}

/// One of them.
pub struct Volume {
    /// As configured, which is what its numbers are asked by.
    pub(super) key: IdKey,
    /// Its plain text, which is what its files' paths begin with.
    pub(super) path: String,
    pub(super) options: VolumeOptions,
    pub(super) state: Mutex<State>,
    /// What its thread knows; no other thread waits for it.
    pub(super) evidence: Mutex<Box<dyn Evidence>>,
    pub(super) watch: Mutex<Watch>,
}

pub(super) struct State {
    /// None as long as it could not be opened; then there are no new files.
    pub(super) journal: Option<Arc<Journal>>,
    /// The marker that was found, and which file it was. It stays: another disk is not this store path.
    pub(super) marker: Option<(Marker, identity::Stamp)>,
    /// How often in a row the journal was missing on its disk, and how often it was opened anew.
    pub(super) missed: u32,
    pub(super) reopened: u64,
    /// When journals and lists of others were last looked for, and whose journals there were.
    pub(super) adopted_at: Option<Instant>,
    pub(super) holders: Vec<[u8; 16]>,
    /// What was wrong when the disk was last asked.
    pub(super) fault: Option<String>,
    pub(super) asked_at: Instant,
    /// Whether the log has a line about its silence.
    pub(super) silent: bool,
    /// Bytes for the likes of us, and of the whole, less what was written since.
    pub(super) free: u64,
    pub(super) total: u64,
    /// Bytes of uploads under way that are not on the disk yet.
    pub(super) reserved: u64,
    pub(super) failed_at: Option<Instant>,
    pub(super) health: Health,
}

/// What a store path has for a new file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Room {
    Bytes(u64),
    /// The reserve is touched already.
    Full,
    /// It does not work.
    VolumeError,
}

/// What is wrong with a store path.
pub(super) struct VolumeError {
    pub(super) error: Error,
    /// Nothing has failed: the right disk is not there yet, or the journal may be another host's.
    pub(super) may_come: bool,
}

impl From<Error> for VolumeError {
    fn from(error: Error) -> VolumeError {
        VolumeError { may_come: false, error }
    }
}

impl Volume {
    /// One that has not been opened yet.
    pub(super) fn new(key: &IdKey, options: &VolumeOptions) -> Volume {
        let state = State {
            journal: None,
            marker: None,
            missed: 0,
            reopened: 0,
            adopted_at: None,
            holders: Vec::new(),
            fault: None,
            asked_at: Instant::now(),
            silent: false,
            free: 0,
            total: 0,
            reserved: 0,
            failed_at: None,
            health: Health::new(),
        };
        Volume {
            key: key.clone(),
            path: path::plain(key.as_str()).to_owned(),
            options: options.clone(),
            state: Mutex::new(state),
            evidence: Mutex::new((options.evidence)()),
            watch: Mutex::new(Watch::new()),
        }
    }

    pub(super) fn lock<'a, T>(&self, what: &'a Mutex<T>) -> MutexGuard<'a, T> {
        what.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn share(&self) -> Option<Share> {
        let state = self.state();
        let (Some(journal), None, Some((marker, _))) = (&state.journal, &state.fault, &state.marker) else {
            return None;
        };
        let holder = journal.holder();
        let others = state.holders.iter().copied().filter(|other| *other != holder).collect();
        Some(Share { store_path: IdKey::new(&self.path).ok()?, volume: marker.number(), holder, others })
    }

    /// Its text, as configured.
    pub fn path(&self) -> &IdKey {
        &self.key
    }

    /// Its journal, if it could be opened.
    pub fn journal(&self) -> Option<Arc<Journal>> {
        self.state().journal.clone()
    }

    /// Whether its disk is there.
    pub(super) fn check(&self) -> io::Result<()> {
        match self.journal() {
            Some(journal) => journal.check(),
            None => Err(io::Error::other(format!("store path '{}' does not work", self.path))),
        }
    }

    /// The error epoch: how often it failed in a way that may have lost what was written, or lost its journal.
    pub fn error_epoch(&self) -> u64 {
        self.state().error_epoch()
    }

    /// Notes that it does not work: others are tried first for a while, or until it has proven itself.
    pub fn failed(&self, failure: &DiskError) {
        let DiskError { what, error, lost_writes, .. } = failure;
        let mut state = self.state();
        let now = Instant::now();
        let bad = state.health.is_bad();
        let is_known = if *lost_writes { !state.health.fail(now) } else { bad || state.has_failed() };
        state.failed_at = Some(now);
        drop(state);
        // While it fails on, each upload would say so again.
        let level = if is_known { log::Level::Debug } else { log::Level::Error };
        let path = &self.path;
        match lost_writes {
            true => log::log!(
                level,
                "store path '{path}' is bad: {what}: {error}; no new files there until it has proven itself: \
                 {PROOFS} times a file written, synced and read back"
            ),
            false => log::log!(
                level,
                "store path '{path}': {what}: {error}; trying it last for {FAILED_TIMEOUT:?}"
            ),
        }
    }

    /// Notes that it failed when a file was read: it is tried last until it has proven itself. Neither what is under way
    /// nor what comes is in doubt, since nothing that is written is lost by a read; and one file that cannot be read
    /// must not stop all uploads of a group.
    pub(super) fn read_failed(&self, error: &io::Error) {
        let mut state = self.state();
        let is_new = state.health.suspect(Instant::now());
        state.failed_at = Some(Instant::now());
        drop(state);
        if is_new {
            log::error!(
                "store path '{}': read: {error}; trying it last until it has proven itself: {PROOFS} times a file \
                 written, synced and read back",
                self.path
            );
        }
    }

    /// What a new file may have. The first caller that finds the disk unresponsive logs it, since its thread cannot.
    pub(super) fn room(&self) -> Room {
        let mut state = self.state();
        if state.hangs() {
            let is_known = std::mem::replace(&mut state.silent, true);
            let seconds = state.silence().as_secs();
            drop(state);
            if !is_known {
                let path = &self.path;
                log::error!(
                    "store path '{path}' has not answered for {seconds} s; no new files there until it does"
                );
            }
            return Room::VolumeError;
        }
        match (&state.fault, state.room(self.options.reserve)) {
            (Some(_), _) => Room::VolumeError,
            _ if state.health.is_bad() => Room::VolumeError,
            (None, Some(room)) => Room::Bytes(room),
            (None, None) => Room::Full,
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    pub(super) fn error_epoch(&self) -> u64 {
        self.health.error_epoch() + self.reopened
    }

    pub(super) fn silence(&self) -> Duration {
        self.asked_at.elapsed()
    }

    pub(super) fn hangs(&self) -> bool {
        self.silence() > SILENCE_MAX
    }

    fn has_failed(&self) -> bool {
        self.failed_at.is_some_and(|at| at.elapsed() < FAILED_TIMEOUT)
    }

    /// Whether others are tried first.
    pub(super) fn is_last_resort(&self) -> bool {
        self.has_failed() || self.health.is_suspected()
    }

    pub(super) fn room(&self, reserve: Space) -> Option<u64> {
        self.free.checked_sub(self.reserved)?.checked_sub(reserve.of(self.total))
    }
}

impl DiskHealth for Volume {
    fn failed(&self, failure: &DiskError) {
        Volume::failed(self, failure);
    }

    fn error_epoch(&self) -> u64 {
        Volume::error_epoch(self)
    }
}
