//! Syncs a directory once for all who wait for it. Uploads that run at the same time mostly make their
//! names in the same directory, and one sync makes all names durable that were there when it began.
//!
//! It runs on a thread of its own, so that an upload syncs its file meanwhile. Who comes while a sync is under
//! way waits for the next one, since his name may have come too late for this one. The syncs of one directory
//! never overlap.
//!
//! **A sync that failed belongs to the volume before anyone learns of it**, because the next sync of the same
//! directory may succeed without having written what the failed one lost. The order, for a failed sync F:
//!
//! 1. F returns, and the thread that made it reports the failure to the volume, whose error epoch rises ([`DiskHealth::failed`]).
//! 2. F's round ends, with the failure for all who waited for it.
//! 3. The next sync of this directory begins.
//!
//! An upload keeps the volume's error epoch from before it made its name, and is refused where the epoch is
//! another one after its own sync S has succeeded. Where F lost its name, the name was there before F was over. Then
//! S cannot be F, which failed. If S was over before F began, the name was durable already. If S began after F was
//! over (3), the epoch had risen (1), and the upload finds that, since it kept the epoch before its name was
//! there. So no upload is acknowledged whose name a failed sync may have lost, however long it takes for other
//! reasons until those who waited for F go on.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use tnv_common::error::Result;
use tnv_common::net::worker_pool::Workers;
use tnv_common::sync::{Arc, Condvar, Instant, Mutex, MutexGuard, PoisonError};

use crate::volume::disk::{DiskError, DiskHealth, DiskResult, Fsync};

/// Directories that are synced at once: far more than uploads on working disks make names in, so that those of a
/// disk that hangs hold up no other's.
const THREADS_MAX: usize = 64;

/// Directories that wait for one of these threads. The upload that asks for one more syncs it itself.
const QUEUED_MAX: usize = 1024;

/// How long an upload waits for a sync that another thread makes, from when it asks for it: as long as clients wait
/// for its reply. A disk under load takes tens of seconds at worst; one that takes longer hangs. The upload has then
/// failed, and the volume is bad until it has proven itself: otherwise one upload after another would take a
/// worker for a minute, until none is left.
pub const SYNC_TIMEOUT: Duration = Duration::from_secs(60);

/// Makes names in directories durable.
pub struct DirectorySyncs {
    fsync: Fsync,
    workers: Workers,
    running: Arc<Running>,
}

/// The directories that are being synced, each with the round that comes after the present one, where somebody
/// waits for it.
#[derive(Default)]
struct Running(Mutex<HashMap<String, Option<Arc<Round>>>>);

/// One sync, for those who wait for it.
#[derive(Default)]
struct Round {
    outcome: Mutex<Option<DiskResult<()>>>,
    done: Condvar,
}

/// A sync that covers the names that were there when it was asked for.
#[must_use]
pub struct DirectorySync(Option<Asked>);

struct Asked {
    round: Arc<Round>,
    what: &'static str,
    deadline: Instant,
}

/// The rounds of one directory, of which one is under way. Dropped, it ends them, also where a panic dropped it or
/// its job is never run: no upload waits for a round that will not come, and the next one begins anew.
struct Rounds {
    running: Arc<Running>,
    directory: String,
    what: &'static str,
    present: Arc<Round>,
}

impl DirectorySyncs {
    /// Syncs as far as this says.
    pub fn new(fsync: Fsync) -> Result<DirectorySyncs> {
        Ok(DirectorySyncs {
            fsync,
            workers: Workers::new("dirsync", THREADS_MAX, QUEUED_MAX)?,
            running: Arc::default(),
        })
    }

    /// Has the names made durable that are in this directory of the volume now, as far as that is wanted; `what` is
    /// what failed otherwise.
    pub fn begin(&self, what: &'static str, directory: &str, volume: &Arc<dyn DiskHealth>) -> DirectorySync {
        let fsync = self.fsync;
        match fsync {
            Fsync::No => DirectorySync(None),
            Fsync::Yes => {
                self.begin_with(what, directory, volume, move |path| fsync.directory(what, Path::new(path)))
            }
        }
    }

    /// The same with another way to sync.
    pub fn begin_with(
        &self,
        what: &'static str,
        directory: &str,
        volume: &Arc<dyn DiskHealth>,
        sync: impl Fn(&str) -> DiskResult<()> + Send + 'static,
    ) -> DirectorySync {
        let deadline = Instant::now() + SYNC_TIMEOUT;
        let mut running = self.running.lock();
        if let Some(next) = running.get_mut(directory) {
            let round = Arc::clone(next.get_or_insert_default());
            return DirectorySync(Some(Asked { round, what, deadline }));
        }
        running.insert(directory.to_owned(), None);
        drop(running);
        let round = Arc::new(Round::default());
        let present = Arc::clone(&round);
        let running = Arc::clone(&self.running);
        let rounds = Rounds { running, directory: directory.to_owned(), what, present };
        let volume = Arc::clone(volume);
        self.workers.run(move || rounds.run(&*volume, sync));
        DirectorySync(Some(Asked { round, what, deadline }))
    }

    /// Whether a sync of this directory is under way.
    #[cfg(test)]
    fn is_running(&self, directory: &str) -> bool {
        self.running.lock().contains_key(directory)
    }
}

impl Running {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Option<Arc<Round>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rounds {
    /// Does the first round, and those that are asked for meanwhile.
    fn run(mut self, volume: &dyn DiskHealth, sync: impl Fn(&str) -> DiskResult<()>) {
        loop {
            let outcome = catch_unwind(AssertUnwindSafe(|| sync(&self.directory)));
            let mut outcome =
                outcome.unwrap_or_else(|_| Err(self.unknown("its thread panicked; see the log")));
            if let Err(fault) = &mut outcome {
                // First of all; the head of this file has the reason.
                volume.failed(fault);
                fault.reported = true;
            }
            self.present.end(outcome);
            let mut running = self.running.lock();
            // Taken before its sync begins: later callers wait for another one.
            match running.get_mut(&self.directory).and_then(Option::take) {
                Some(next) => self.present = next,
                None => {
                    running.remove(&self.directory);
                    return;
                }
            }
        }
    }

    /// A sync of which it is not known what it did.
    fn unknown(&self, why: &'static str) -> DiskError {
        DiskError::of_sync(self.what, io::Error::other(why))
    }
}

impl Drop for Rounds {
    fn drop(&mut self) {
        if self.present.is_over() {
            return; // After its last round.
        }
        let next = self.running.lock().remove(&self.directory).flatten();
        for round in [Some(Arc::clone(&self.present)), next].into_iter().flatten() {
            round.end(Err(self.unknown("it was given up; see the log")));
        }
    }
}

impl Round {
    fn end(&self, outcome: DiskResult<()>) {
        *self.outcome() = Some(outcome);
        self.done.notify_all();
    }

    fn is_over(&self) -> bool {
        self.outcome().is_some()
    }

    fn outcome(&self) -> MutexGuard<'_, Option<DiskResult<()>>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DirectorySync {
    /// Waits until it is done, until [`SYNC_TIMEOUT`] after it was asked for at most.
    pub fn wait(self) -> DiskResult<()> {
        let Some(Asked { round, what, deadline }) = self.0 else { return Ok(()) };
        let mut outcome = round.outcome();
        loop {
            match &*outcome {
                Some(Ok(())) => return Ok(()),
                Some(Err(fault)) => return Err(fault.for_another_caller()),
                None => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(DiskError::of_sync(what, timed_out()));
            }
            outcome = round.done.wait_timeout(outcome, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The failure of a sync that does not end.
pub fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("the disk has not finished it for {SYNC_TIMEOUT:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::disk::tests::Counted;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    const WHAT: &str = "sync";

    fn volume() -> (Arc<Counted>, Arc<dyn DiskHealth>) {
        let counted = Arc::new(Counted::default());
        (Arc::clone(&counted), counted)
    }

    fn eio() -> DiskError {
        DiskError::of_sync(WHAT, io::Error::from_raw_os_error(5))
    }

    #[test]
    fn late_callers_share_the_next_sync() {
        let syncs = DirectorySyncs::new(Fsync::Yes).unwrap();
        let (_, volume) = volume();
        let (under_way, names) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (synced, count) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let name = names.fetch_add(1, Ordering::SeqCst);
                        let (under_way, names) = (Arc::clone(&under_way), Arc::clone(&names));
                        let (seen, syncs_done) = (Arc::clone(&synced), Arc::clone(&count));
                        let sync = move |_: &str| {
                            assert_eq!(under_way.fetch_add(1, Ordering::SeqCst), 0, "one at a time");
                            let there = names.load(Ordering::SeqCst);
                            thread::sleep(Duration::from_micros(200));
                            under_way.fetch_sub(1, Ordering::SeqCst);
                            seen.fetch_max(there, Ordering::SeqCst);
                            syncs_done.fetch_add(1, Ordering::SeqCst);
                            Ok(())
                        };
                        syncs.begin_with(WHAT, "d", &volume, sync).wait().unwrap();
                        assert!(synced.load(Ordering::SeqCst) > name, "it began after the name was made");
                    }
                });
            }
        });
        assert!(count.load(Ordering::SeqCst) < 800, "one for several");
    }

    /// An upload's directory sync failed while the sync of its file still took seconds, and only then was the store
    /// path marked. An upload that had made its name before, and asked for another sync of that directory, was
    /// acknowledged meanwhile: that sync succeeded, though the kernel had dropped its name.
    #[test]
    fn a_failed_sync_is_the_volumes_before_the_next_one_begins() {
        let syncs = DirectorySyncs::new(Fsync::Yes).unwrap();
        let (counted, volume) = volume();
        let (entered, go) = (Arc::new(std::sync::Barrier::new(2)), Arc::new(std::sync::Barrier::new(2)));
        let calls = AtomicUsize::new(0);
        let (first_entered, first_go) = (Arc::clone(&entered), Arc::clone(&go));
        let seen = Arc::clone(&counted);
        // The first sync fails, and the second one succeeds as the kernel's does.
        let sync = move |_: &str| match calls.fetch_add(1, Ordering::SeqCst) {
            0 => {
                first_entered.wait();
                first_go.wait();
                Err(eio())
            }
            _ => {
                assert_eq!(seen.error_epoch(), 1, "the failure is counted before another sync begins");
                Ok(())
            }
        };
        let error_epoch = volume.error_epoch();
        // No caller waits for this one yet: its upload still syncs its file.
        let first = syncs.begin_with(WHAT, "d", &volume, sync);
        entered.wait();
        let others: Vec<_> = (0..4).map(|_| syncs.begin_with(WHAT, "d", &volume, |_| Ok(()))).collect();
        go.wait();
        for other in others {
            assert!(other.wait().is_ok());
            assert_ne!(volume.error_epoch(), error_epoch, "whoever had begun before is refused");
        }
        let fault = first.wait().unwrap_err();
        assert!(fault.lost_writes && fault.reported && fault.error.raw_os_error() == Some(5));
        assert_eq!(volume.error_epoch(), 1, "it is counted once");
    }

    #[test]
    fn a_directory_can_be_synced_again_after_a_sync_that_panicked() {
        let syncs = DirectorySyncs::new(Fsync::Yes).unwrap();
        let (counted, volume) = volume();
        for error_epoch in 1..4 {
            let fault = syncs.begin_with(WHAT, "d", &volume, |_| panic!("as asked")).wait().unwrap_err();
            assert!(fault.lost_writes, "what it did is not known");
            assert_eq!(counted.error_epoch(), error_epoch);
        }
        while syncs.is_running("d") {
            thread::yield_now();
        }
        assert!(syncs.begin_with(WHAT, "d", &volume, |_| Ok(())).wait().is_ok());
    }

    /// No thread could be started for a sync, and every later upload into that directory waited for ever.
    #[test]
    fn a_sync_that_is_never_made_ends_for_all_who_wait_and_leaves_the_directory_free() {
        let syncs = DirectorySyncs::new(Fsync::Yes).unwrap();
        let (_, volume) = volume();
        syncs.running.lock().insert("d".to_owned(), None);
        let present = Arc::new(Round::default());
        let rounds = Rounds {
            running: Arc::clone(&syncs.running),
            directory: "d".to_owned(),
            what: WHAT,
            present: Arc::clone(&present),
        };
        let next = syncs.begin_with(WHAT, "d", &volume, |_| Ok(()));
        drop(rounds);
        assert!(present.is_over());
        assert!(next.wait().unwrap_err().lost_writes);
        assert!(!syncs.is_running("d"));
    }

    #[test]
    fn a_wait_for_a_sync_ends() {
        let syncs = DirectorySyncs::new(Fsync::Yes).unwrap();
        let (_, volume) = volume();
        let (go, wait) = crossbeam_channel::bounded::<()>(0);
        let mut hangs = syncs.begin_with(WHAT, "d", &volume, move |_| {
            let _ = wait.recv();
            Ok(())
        });
        hangs.0.as_mut().unwrap().deadline = Instant::now() + Duration::from_millis(20);
        let fault = hangs.wait().unwrap_err();
        assert!(fault.lost_writes && !fault.reported);
        assert_eq!(fault.error.kind(), io::ErrorKind::TimedOut);
        drop(go);
    }
}
