//! A bound on how many workers wait for the database at once. A database that does not answer holds each
//! of them until its time-out; without a bound many clients would take them all: then a tracker would miss
//! heartbeats that came in time, and a storage would not even serve what is in its cache.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::Result;
use crate::fail;

/// One of so many workers never waits for the database.
const SHARE: usize = 8;

/// How long a worker waits for a permit: a burst on a database that works is served well within it, and
/// each worker without one is free again after it.
const ACQUIRE_TIMEOUT: Duration = Duration::from_millis(250);

/// Permits to wait for the database.
pub struct Semaphore {
    max: usize,
    counts: Mutex<Counts>,
    freed: Condvar,
}

#[derive(Default)]
struct Counts {
    taken: usize,
    /// Threads that wait for one. Without one there is no wake-up, which is a system call.
    waiting: usize,
}

/// One permit, until it is dropped.
pub struct Permit<'a>(&'a Semaphore);

impl Semaphore {
    /// The permits of a server with so many workers.
    pub fn for_workers(threads: usize) -> Semaphore {
        let max = (threads - threads.div_ceil(SHARE)).max(1);
        Semaphore { max, counts: Mutex::default(), freed: Condvar::new() }
    }

    /// Takes a permit; fails where none is free in time.
    pub fn acquire(&self) -> Result<Permit<'_>> {
        match self.wait() {
            Some(permit) => Ok(permit),
            None => fail!(Busy, "{} requests wait for the database already; try again later", self.max),
        }
    }

    fn wait(&self) -> Option<Permit<'_>> {
        let mut counts = self.counts();
        if counts.taken >= self.max {
            counts.waiting += 1;
            let waited =
                self.freed.wait_timeout_while(counts, ACQUIRE_TIMEOUT, |counts| counts.taken >= self.max);
            counts = waited.unwrap_or_else(PoisonError::into_inner).0;
            counts.waiting -= 1;
        }
        if counts.taken >= self.max {
            return None;
        }
        counts.taken += 1;
        Some(Permit(self))
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let mut counts = self.0.counts();
        counts.taken -= 1;
        let wanted = counts.waiting > 0;
        drop(counts);
        if wanted {
            self.0.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_eight_workers_is_kept_free() {
        for (threads, max) in [(1, 1), (2, 1), (8, 7), (9, 7), (1024, 896)] {
            assert_eq!(Semaphore::for_workers(threads).max, max);
        }
    }

    #[test]
    fn a_permit_is_acquired_and_released() {
        let permits = Semaphore::for_workers(3);
        let first = permits.wait();
        let second = permits.wait();
        assert!(first.is_some() && second.is_some());
        assert!(permits.wait().is_none());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| permits.wait().is_some());
            drop(first);
            assert!(waiting.join().unwrap());
        });
        assert!(permits.wait().is_some());
    }
}
