//! Syncs a directory once for all who wait for it. Uploads that run at the same time mostly make their
//! names in the same directory, and one sync makes all names durable that were there when it began.
//!
//! Who comes while a sync is under way waits for the next one, since his name may have come too late for
//! this one. A sync that fails, fails for all who waited for it, and none of them repeats it.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::disk::{DiskError, Fsync};

/// Makes names in directories durable.
pub struct DirectorySyncs {
    fsync: Fsync,
    /// The directories that are being synced, each with the round that comes after the present one, where
    /// somebody waits for it.
    running: Mutex<HashMap<String, Option<Arc<Round>>>>,
}

/// One sync, and those who wait for it.
#[derive(Default)]
struct Round {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
enum State {
    /// The one before it is under way.
    #[default]
    Waiting,
    /// Whoever sees this first does it.
    Due,
    /// Somebody does.
    Begun,
    Done(Option<DiskError>),
}

impl DirectorySyncs {
    /// Syncs as far as this says.
    pub fn new(fsync: Fsync) -> DirectorySyncs {
        DirectorySyncs { fsync, running: Mutex::default() }
    }

    /// Makes the names durable that are in this directory now, as far as that is wanted.
    pub fn sync(&self, directory: &str) -> Result<(), DiskError> {
        if self.fsync == Fsync::No {
            return Ok(());
        }
        self.together(directory, || self.fsync.directory("sync the directory of the", Path::new(directory)))
    }

    fn together(
        &self,
        directory: &str,
        sync: impl FnOnce() -> Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        let Some(round) = self.join(directory) else {
            return self.run(directory, &Round::default(), sync);
        };
        let mut state = round.state();
        loop {
            match &*state {
                State::Waiting | State::Begun => {
                    state = round.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                State::Done(outcome) => {
                    return outcome.as_ref().map_or(Ok(()), |fault| Err(told_again(fault)));
                }
                State::Due => break,
            }
        }
        *state = State::Begun;
        drop(state);
        // Before the sync begins: whoever comes from here on waits for another round.
        self.running().insert(directory.to_owned(), None);
        self.run(directory, &round, sync)
    }

    /// The round to wait for; `None` where no sync is under way, and this is the first.
    fn join(&self, directory: &str) -> Option<Arc<Round>> {
        let mut running = self.running();
        match running.get_mut(directory) {
            Some(next) => Some(Arc::clone(next.get_or_insert_default())),
            None => {
                running.insert(directory.to_owned(), None);
                None
            }
        }
    }

    /// Does a round, and has the next one begin.
    fn run(
        &self,
        directory: &str,
        round: &Round,
        sync: impl FnOnce() -> Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        let outcome = sync();
        round.become_state(State::Done(outcome.as_ref().err().map(told_again)));
        let mut running = self.running();
        match running.get(directory) {
            Some(Some(next)) => next.become_state(State::Due),
            _ => {
                running.remove(directory);
            }
        }
        outcome
    }

    fn running(&self) -> MutexGuard<'_, HashMap<String, Option<Arc<Round>>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Round {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn become_state(&self, state: State) {
        *self.state() = state;
        self.changed.notify_all();
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
        let (begun, count) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let names = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let name = names.fetch_add(1, Ordering::SeqCst);
                        let sync = || {
                            assert_eq!(begun.fetch_add(1, Ordering::SeqCst), 0, "one at a time");
                            let seen = names.load(Ordering::SeqCst);
                            thread::sleep(Duration::from_micros(200));
                            begun.fetch_sub(1, Ordering::SeqCst);
                            count.fetch_max(seen, Ordering::SeqCst);
                            Ok(())
                        };
                        syncs.together("d", sync).unwrap();
                        assert!(count.load(Ordering::SeqCst) > name, "a sync began after the name was made");
                    }
                });
            }
        });
        assert!(syncs.running().is_empty());
    }

    #[test]
    fn a_failure_is_everybodys_who_waited_and_nobody_elses() {
        let syncs = DirectorySyncs::new(Fsync::Yes);
        let entered = std::sync::Barrier::new(2);
        let failed = || Err(DiskError::of_sync("sync", io::Error::from_raw_os_error(5)));
        thread::scope(|scope| {
            let first = scope.spawn(|| {
                syncs.together("d", || {
                    entered.wait();
                    while syncs.running()["d"].is_none() {
                        thread::yield_now();
                    }
                    thread::sleep(Duration::from_millis(100));
                    Ok(())
                })
            });
            entered.wait();
            let others: Vec<_> = (0..4).map(|_| scope.spawn(|| syncs.together("d", failed))).collect();
            assert!(first.join().unwrap().is_ok());
            for other in others {
                let fault = other.join().unwrap().unwrap_err();
                assert!(fault.distrust && fault.error.raw_os_error() == Some(5));
            }
        });
        assert!(syncs.together("d", || Ok(())).is_ok());
        assert!(syncs.running().is_empty());
    }
}
