//! A bound on how many workers wait for the database at once. A database that hangs holds each of
//! them for as long as its time-out says; without a bound a crowd of clients would take them all:
//! then a tracker would find storages dead that beat in time, and a storage would not even serve
//! what it knows.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::Result;
use crate::fail;

/// Of so many workers one is kept free of the database.
const SHARE: usize = 8;

/// How long one more waits for a slot: a burst on a database that works is served well within it,
/// and the workers that are kept free turn over four times a second when it hangs.
const PATIENCE: Duration = Duration::from_millis(250);

/// The slots.
pub struct Slots {
    max: usize,
    counts: Mutex<Counts>,
    freed: Condvar,
}

#[derive(Default)]
struct Counts {
    taken: usize,
    /// Who waits for one: waking nobody costs a system call too.
    waiting: usize,
}

/// One of them, until it is dropped.
pub struct Slot<'a>(&'a Slots);

impl Slots {
    /// The slots of a server with so many workers.
    pub fn of(threads: usize) -> Slots {
        let max = (threads - threads.div_ceil(SHARE)).max(1);
        Slots { max, counts: Mutex::default(), freed: Condvar::new() }
    }

    /// Takes a slot; fails when none gets free in time.
    pub fn get(&self) -> Result<Slot<'_>> {
        match self.take() {
            Some(slot) => Ok(slot),
            None => fail!(Busy, "{} requests wait for the database already; try again later", self.max),
        }
    }

    fn take(&self) -> Option<Slot<'_>> {
        let mut counts = self.counts();
        if counts.taken >= self.max {
            counts.waiting += 1;
            let waited = self.freed.wait_timeout_while(counts, PATIENCE, |counts| counts.taken >= self.max);
            counts = waited.unwrap_or_else(PoisonError::into_inner).0;
            counts.waiting -= 1;
        }
        if counts.taken >= self.max {
            return None;
        }
        counts.taken += 1;
        Some(Slot(self))
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot<'_> {
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
    fn some_workers_are_always_kept_free_where_there_are_several() {
        for (threads, max) in [(1, 1), (2, 1), (8, 7), (9, 7), (1024, 896)] {
            assert_eq!(Slots::of(threads).max, max);
        }
    }

    #[test]
    fn a_slot_is_taken_and_given_back() {
        let slots = Slots::of(3);
        let first = slots.take();
        let second = slots.take();
        assert!(first.is_some() && second.is_some());
        assert!(slots.take().is_none());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| slots.take().is_some());
            drop(first);
            assert!(waiting.join().unwrap());
        });
        assert!(slots.take().is_some());
    }
}
