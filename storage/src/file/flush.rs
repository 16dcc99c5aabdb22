//! Gets a large file onto the disk while it is still being received. Otherwise the kernel would let
//! gigabytes pile up, and the one sync at the end would outlast the client's patience.
//!
//! A flush that failed fails the file for good, however often it is asked for afterwards: the kernel
//! tells of a failed write once, and a later fsync would succeed without it.

use std::fs::File;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tnv_common::workers::Workers;

use super::disk::Fsync;

/// So many bytes are worth a flush.
const STEP_BYTES: u64 = 32 << 20;

/// An upload that is so far ahead of the disk waits for it.
const AHEAD_BYTES_MAX: u64 = 256 << 20;

/// Files flushed at once; the others are flushed by their own workers when they get far ahead.
pub const FLUSHERS_MAX: usize = 8;

/// A file being written, and its flush in the background.
pub struct Flush {
    workers: Workers,
    shared: Arc<Shared>,
    /// Bytes written since the last flush was begun.
    unflushed: u64,
}

struct Shared {
    file: File,
    fsync: Fsync,
    state: Mutex<State>,
    idle: Condvar,
}

#[derive(Default)]
struct State {
    phase: Phase,
    /// The first sync that failed; it stays.
    failure: Option<io::Error>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Idle,
    /// No worker has begun with it, and none may yet.
    Queued,
    Running,
}

impl Flush {
    /// For a file that nobody else writes to.
    pub fn new(file: File, fsync: Fsync, workers: &Workers) -> Flush {
        let shared = Shared { file, fsync, state: Mutex::default(), idle: Condvar::new() };
        Flush { workers: workers.clone(), shared: Arc::new(shared), unflushed: 0 }
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.shared.file
    }

    /// So many bytes have been written to the file. Fails where a flush has failed.
    pub fn wrote(&mut self, bytes: u64) -> io::Result<()> {
        self.unflushed += bytes;
        if self.unflushed < STEP_BYTES || self.shared.fsync == Fsync::No {
            return Ok(());
        }
        if self.unflushed >= AHEAD_BYTES_MAX {
            self.unflushed = 0;
            self.shared.settle()?;
            return self.shared.keep(self.shared.fsync.data(&self.shared.file));
        }
        let mut state = self.shared.state();
        state.failed()?;
        if state.phase == Phase::Idle {
            state.phase = Phase::Queued;
            drop(state);
            self.unflushed = 0;
            let shared = Arc::clone(&self.shared);
            self.workers.run(move || shared.run());
        }
        Ok(())
    }

    /// Waits until all of it is durable.
    pub fn finish(self) -> io::Result<()> {
        self.shared.settle()?;
        self.shared.keep(self.shared.fsync.all(&self.shared.file))
    }
}

impl Shared {
    /// On a worker.
    fn run(&self) {
        let mut state = self.state();
        if state.phase != Phase::Queued {
            return; // The upload needed it sooner and did it itself.
        }
        state.phase = Phase::Running;
        drop(state);
        // Kept before it is idle: whoever waits for that then sees it.
        let _ = self.keep(self.fsync.data(&self.file));
        self.state().phase = Phase::Idle;
        self.idle.notify_all();
    }

    /// Calls off a flush that has not begun, waits for one that has, and tells of any that failed.
    fn settle(&self) -> io::Result<()> {
        let mut state = self.state();
        if state.phase == Phase::Queued {
            state.phase = Phase::Idle;
        }
        while state.phase == Phase::Running {
            state = self.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.failed()
    }

    /// Remembers a sync that failed.
    fn keep(&self, synced: io::Result<()>) -> io::Result<()> {
        let mut state = self.state();
        if let Err(error) = synced {
            state.failure.get_or_insert(error);
        }
        state.failed()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn failed(&self) -> io::Result<()> {
        match &self.failure {
            None => Ok(()),
            Some(error) => Err(match error.raw_os_error() {
                Some(number) => io::Error::from_raw_os_error(number),
                None => io::Error::new(error.kind(), error.to_string()),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_file_is_durable_at_the_end_however_busy_the_flushers_are() {
        let scratch = Scratch::new();
        let workers = Workers::new("flush", 1);
        let (free, block) = crossbeam_channel::bounded::<()>(0);
        workers.run(move || {
            let _ = block.recv();
        });
        for name in ["a", "b"] {
            let mut flush =
                Flush::new(File::create(scratch.path().join(name)).unwrap(), Fsync::Yes, &workers);
            for _ in 0..20 {
                flush.wrote(STEP_BYTES).unwrap();
            }
            flush.finish().unwrap();
        }
        drop(free);
        let mut flush = Flush::new(File::create(scratch.path().join("c")).unwrap(), Fsync::Yes, &workers);
        for _ in 0..20 {
            flush.wrote(STEP_BYTES).unwrap();
        }
        flush.finish().unwrap();
    }

    #[test]
    fn a_flush_that_failed_in_the_background_fails_the_upload() {
        let workers = Workers::new("flush", 1);
        // A pipe or a device cannot be synced: the error stands for a disk's.
        let mut flush = Flush::new(File::open("/dev/null").unwrap(), Fsync::Yes, &workers);
        flush.wrote(STEP_BYTES).unwrap();
        while flush.shared.state().phase != Phase::Idle {
            std::thread::yield_now();
        }
        // However often it is asked, and though no further sync takes place.
        for _ in 0..3 {
            assert!(flush.wrote(STEP_BYTES).is_err());
        }
        assert!(flush.finish().is_err());
    }

    #[test]
    fn where_no_sync_is_wanted_there_is_none() {
        let workers = Workers::new("flush", 1);
        let mut flush = Flush::new(File::open("/dev/null").unwrap(), Fsync::No, &workers);
        flush.wrote(AHEAD_BYTES_MAX).unwrap();
        flush.finish().unwrap();
    }
}
