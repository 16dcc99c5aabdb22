//! The store paths: which of them work and have room, and in what order to try them for a new file.
//!
//! No worker asks a disk itself (see `probe`): a network file system whose cable is cut answers after a
//! minute, and all workers would wait for it. A store path without a fresh and good answer is passed over; what it holds
//! is served as far as the disk allows. Only where there is no other with an answer is it waited for, and for
//! some seconds.
//!
//! One that could not create or write a file is tried last for a while, and one that could not read one until it has
//! proven itself (see `health`). One that failed with an I/O error of a write, or at a sync, is bad: it is passed over
//! until then.

use std::fs;
use std::io;
use std::slice;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tnv_common::error::{Context, ErrorKind, Result};
use tnv_common::fail;
use tnv_common::net::stop::Stop;
use tnv_common::proto::IdKey;
use tnv_common::proto::tnv::shares::Share;

use super::journal::{Journal, PendingOp};
use super::probe::Asked;
use super::state::{Room, Volume, VolumeError, VolumeOptions};
use crate::path;

/// Where no disk answers, one that hangs is waited for until it has been silent for so long: there is
/// nothing else to turn to, and a mount of GlusterFS that has lost a member is silent for up to
/// twice the ping time-out (docs/glusterfs.md).
const LAST_SILENCE_MAX: Duration = Duration::from_secs(10);

/// How often a waiting caller looks, and how long it waits in any case: rather than the disks it may be this
/// process that was stopped for a while, and the threads are about to ask.
pub(super) const GRACE: Duration = Duration::from_millis(100);

/// So long the start may read rows to find whether the store paths without a marker are the right disks; the
/// rest is read beside the service.
const START_SEARCH_TIMEOUT: Duration = Duration::from_millis(100);

/// Takes what a predecessor left in a store path.
pub type Add = Arc<dyn Fn(PendingOp) + Send + Sync>;

/// All store paths of this storage.
pub struct Volumes {
    pub(super) volumes: Vec<Arc<Volume>>,
}

impl Volumes {
    /// Opens each store path, and collects what a predecessor left undone. One that cannot be opened is tried
    /// again later, unless none can, or another storage has it. One whose disk is not there or is not the
    /// right one is no failure: it may be mounted later.
    pub fn open(store_paths: &[IdKey], options: &VolumeOptions) -> Result<(Volumes, Vec<PendingOp>)> {
        let mut answers = Vec::new();
        let mut left = Vec::new();
        let deadline = Instant::now() + START_SEARCH_TIMEOUT;
        for path in store_paths {
            let store = Volume::new(path, options);
            let asked = store.ask(&mut left, deadline).map_err(|fault| store.named(fault));
            if let Err(VolumeError { error, .. }) = &asked
                && error.kind() == ErrorKind::Busy
            {
                return Err(error.clone());
            }
            answers.push((Arc::new(store), asked));
        }
        let may_work = |(store, asked): &(Arc<Volume>, Asked)| {
            store.journal().is_some() || matches!(asked, Err(VolumeError { may_come: true, .. }))
        };
        let works = answers.iter().any(may_work);
        let mut volumes = Vec::new();
        for (store, asked) in answers {
            if let (Err(VolumeError { error, .. }), false) = (&asked, works) {
                return Err(error.clone());
            }
            store.note(asked);
            volumes.push(store);
        }
        Ok((Volumes { volumes }, left))
    }

    /// Lets go of the journals: nothing more is acknowledged, and what they name may be taken over at once.
    pub fn close(&self) {
        self.volumes.iter().filter_map(|store| store.journal()).for_each(|journal| journal.let_go());
    }

    /// Starts the threads that ask the disks. They end when `stop` is set.
    pub fn watch(&self, stop: &Stop, add: &Add) -> Result<()> {
        for store in &self.volumes {
            let (store, stop, add) = (Arc::clone(store), stop.clone(), Arc::clone(add));
            thread::Builder::new()
                .name("store".into())
                .spawn(move || store.watch(&stop, &*add))
                .context(|| "start a store path's thread")?;
        }
        Ok(())
    }

    /// The store paths with room for a file of this size, in the order in which to try them: the one
    /// with the most room first, those that have just failed last. There is at least one.
    pub fn candidates(&self, size: u64) -> Result<Vec<Arc<Volume>>> {
        self.wait_for_one_of(&self.volumes);
        let mut candidates = Vec::new();
        let mut full = false;
        for store in &self.volumes {
            match store.room() {
                Room::Bytes(room) if room >= size => {
                    candidates.push((store.state().is_last_resort(), u64::MAX - room, store))
                }
                Room::Bytes(_) | Room::Full => full = true,
                Room::VolumeError => {}
            }
        }
        if candidates.is_empty() {
            return match full {
                true => fail!(NoSpace, "no store path has room for {size} bytes"),
                // What is wrong with them is in the log.
                false => fail!(Unavailable, "no store path works"),
            };
        }
        candidates.sort_by_key(|(failed, taken, _)| (*failed, *taken));
        Ok(candidates.into_iter().map(|(_, _, store)| Arc::clone(store)).collect())
    }

    /// The journal to note a change of this file in: that of its store path, or else any, of those
    /// whose disks answer.
    pub fn journal_of(&self, path: &str) -> Option<Arc<Journal>> {
        let usable = |store: &Arc<Volume>| store.journal().filter(|_| !store.state().hangs());
        self.store_of(path).and_then(usable).or_else(|| self.volumes.iter().find_map(usable))
    }

    /// Removes a file; it may be gone already. That it is not there says nothing while its disk is not.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        match fs::remove_file(path) {
            // Of a store path that was taken out of the settings nothing more is known.
            Err(error) if error.kind() == io::ErrorKind::NotFound => match self.store_of(path) {
                Some(store) => store.check(),
                None => Ok(()),
            },
            result => result,
        }
    }

    /// Fails where the disk of this file hangs, for those who can wait for it.
    pub fn answers_soon(&self, path: &str) -> io::Result<()> {
        self.answers(path).or_else(|_| {
            if let Some(store) = self.store_of(path) {
                self.wait_for_one_of(slice::from_ref(store));
            }
            self.answers(path)
        })
    }

    /// Waits until one of these disks answers: only a moment, unless none at all does.
    fn wait_for_one_of(&self, wanted: &[Arc<Volume>]) {
        let answers = |volumes: &[Arc<Volume>]| volumes.iter().any(|store| !store.state().hangs());
        let is_lost = |store: &Arc<Volume>| store.state().silence() > LAST_SILENCE_MAX;
        let mut was_in_vain = false;
        while !answers(wanted) {
            let is_in_vain = answers(&self.volumes) || wanted.iter().all(is_lost);
            if is_in_vain && was_in_vain {
                return;
            }
            was_in_vain = is_in_vain;
            thread::sleep(GRACE);
        }
    }

    /// Fails where the disk of this file hangs.
    pub fn answers(&self, path: &str) -> io::Result<()> {
        match self.store_of(path) {
            Some(store) if store.state().hangs() => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }

    /// Notes that the disk of this file failed when it was read.
    pub fn read_failed(&self, path: &str, error: &io::Error) {
        if let Some(store) = self.store_of(path) {
            store.read_failed(error);
        }
    }

    /// Whether the disk of this file is there.
    pub fn is_mounted(&self, path: &str) -> bool {
        self.store_of(path).is_none_or(|store| store.check().is_ok())
    }

    /// What shows whether other members share the files of these store paths: those whose disks are there.
    pub fn shares(&self) -> Vec<Share> {
        self.volumes.iter().filter_map(|store| store.share()).collect()
    }

    /// Has it looked soon whose journals are there: another member's was missing.
    pub fn look_for_others(&self) {
        self.volumes.iter().for_each(|store| store.state().adopted_at = None);
    }

    /// Fails where the disk of a store path is not there.
    pub fn is_there(&self, store_path: &str) -> io::Result<()> {
        let store = self.volumes.iter().find(|store| store.path == store_path);
        store.map_or(Ok(()), |store| store.check())
    }

    pub(super) fn store_of(&self, path: &str) -> Option<&Arc<Volume>> {
        let holds = |store: &&Arc<Volume>| path::is_below(&store.path, path);
        self.volumes.iter().filter(holds).max_by_key(|store| store.path.len())
    }
}

/// For tests, which have no threads that ask.
#[cfg(test)]
impl Volumes {
    /// As if no disk had answered for so long that none is waited for.
    pub fn silence(&self) {
        for store in &self.volumes {
            store.state().asked_at = Instant::now() - LAST_SILENCE_MAX - GRACE;
        }
    }

    /// As if a sync had failed on each disk.
    pub fn lose(&self) {
        for store in &self.volumes {
            store.failed(&super::disk::DiskError::of_sync("sync", io::Error::other("lost")));
        }
    }

    /// Asks all disks.
    pub fn ask(&self) {
        self.volumes.iter().for_each(|store| store.note(store.ask(&mut Vec::new(), Instant::now())));
    }
}
