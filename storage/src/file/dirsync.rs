//! Syncs a directory once for all who wait for it. Uploads that run at the same time mostly make their
//! names in the same directory, and one sync makes all names durable that were there when it began.
//!
//! It runs on a thread of its own, so that an upload syncs its file meanwhile. Who comes while a sync is under
//! way waits for the next one, since his name may have come too late for this one. A sync that fails, fails
//! for all who wait for it, and none of them repeats it.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tnv_common::workers::Workers;

use super::disk::{DiskError, Fsync};

/// Directories that are synced at once: far more than uploads on working disks make names in, so that those of a
/// disk that hangs hold up no other's.
const THREADS_MAX: usize = 64;

/// What the sync of a directory that has a new name is called where it fails.
const WHAT: &str = "sync the directory of the";

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
    outcome: Mutex<Option<Result<(), DiskError>>>,
    done: Condvar,
}

/// A sync that covers the names that were there when it was asked for.
#[must_use]
pub struct DirectorySync(Option<Arc<Round>>);

impl DirectorySyncs {
    /// Syncs as far as this says.
    pub fn new(fsync: Fsync) -> DirectorySyncs {
        DirectorySyncs { fsync, workers: Workers::new("dirsync", THREADS_MAX), running: Arc::default() }
    }

    /// Has the names made durable that are in this directory now, as far as that is wanted.
    pub fn begin(&self, directory: &str) -> DirectorySync {
        let fsync = self.fsync;
        match fsync {
            Fsync::No => DirectorySync(None),
            Fsync::Yes => self.begin_with(directory, move |path| fsync.directory(WHAT, Path::new(path))),
        }
    }

    fn begin_with(
        &self,
        directory: &str,
        sync: impl Fn(&str) -> Result<(), DiskError> + Send + 'static,
    ) -> DirectorySync {
        let mut running = self.running.lock();
        let round = match running.get_mut(directory) {
            Some(next) => Arc::clone(next.get_or_insert_default()),
            None => {
                let (first, directory) = (Arc::new(Round::default()), directory.to_owned());
                running.insert(directory.clone(), None);
                let (round, shared) = (Arc::clone(&first), Arc::clone(&self.running));
                self.workers.run(move || shared.run(&directory, round, sync));
                first
            }
        };
        DirectorySync(Some(round))
    }
}

impl Running {
    /// Does this round, and those that are asked for meanwhile.
    fn run(&self, directory: &str, first: Arc<Round>, sync: impl Fn(&str) -> Result<(), DiskError>) {
        let mut round = first;
        loop {
            round.end(sync(directory));
            let mut running = self.lock();
            // Taken before its sync begins: whoever comes from here on waits for another one.
            match running.get_mut(directory).and_then(Option::take) {
                Some(next) => round = next,
                None => {
                    running.remove(directory);
                    return;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Option<Arc<Round>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Round {
    fn end(&self, outcome: Result<(), DiskError>) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        self.done.notify_all();
    }
}

impl DirectorySync {
    /// Waits until it is done.
    pub fn wait(self) -> Result<(), DiskError> {
        let Some(round) = self.0 else { return Ok(()) };
        let outcome = round.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = round.done.wait_while(outcome, |outcome| outcome.is_none());
        match &*outcome.unwrap_or_else(PoisonError::into_inner) {
            Some(Err(fault)) => Err(told_again(fault)),
            _ => Ok(()),
        }
    }
}

/// The same failure for one more.
fn told_again(fault: &DiskError) -> DiskError {
    let error = match fault.error.raw_os_error() {
        Some(number) => io::Error::from_raw_os_error(number),
        None => io::Error::new(fault.error.kind(), fault.error.to_string()),
    };
    DiskError { what: fault.what, error, distrust: fault.distrust }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    #[test]
    fn a_sync_that_was_under_way_counts_for_nobody_who_came_later_and_the_next_one_for_all_of_them() {
        let syncs = DirectorySyncs::new(Fsync::Yes);
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
                        syncs.begin_with("d", sync).wait().unwrap();
                        assert!(synced.load(Ordering::SeqCst) > name, "it began after the name was made");
                    }
                });
            }
        });
        assert!(count.load(Ordering::SeqCst) < 800, "one for several");
    }

    #[test]
    fn a_failure_is_everybodys_who_waited_and_nobody_elses() {
        let syncs = DirectorySyncs::new(Fsync::Yes);
        let (entered, go) = (Arc::new(std::sync::Barrier::new(2)), Arc::new(std::sync::Barrier::new(2)));
        let calls = AtomicUsize::new(0);
        let (first_entered, first_go) = (Arc::clone(&entered), Arc::clone(&go));
        // The first round succeeds, the second one fails.
        let sync = move |_: &str| match calls.fetch_add(1, Ordering::SeqCst) {
            0 => {
                first_entered.wait();
                first_go.wait();
                Ok(())
            }
            _ => Err(DiskError::of_sync("sync", io::Error::from_raw_os_error(5))),
        };
        let first = syncs.begin_with("d", sync);
        entered.wait();
        let others: Vec<_> = (0..4).map(|_| syncs.begin_with("d", |_| Ok(()))).collect();
        go.wait();
        assert!(first.wait().is_ok());
        for other in others {
            let fault = other.wait().unwrap_err();
            assert!(fault.distrust && fault.error.raw_os_error() == Some(5));
        }
        while syncs.running.lock().contains_key("d") {
            thread::yield_now();
        }
        assert!(syncs.begin_with("d", |_| Ok(())).wait().is_ok());
    }
}
