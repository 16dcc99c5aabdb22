//! Gets a large file onto the disk while it is still being received. Otherwise the kernel would let
//! gigabytes pile up, and the one sync at the end would outlast the client's patience.
//!
//! A flush that failed fails the file for good, however often it is asked for afterwards: the kernel
//! reports a failed write once, and a later fsync would succeed without it. The volume knows of it at once,
//! however long its upload still takes.

use std::fs::File;
use std::io;

use tnv_common::net::worker_pool::Workers;
use tnv_common::sync::{Arc, Condvar, Instant, Mutex, MutexGuard, PoisonError};

use crate::file::directory_sync::{SYNC_TIMEOUT, timed_out};
use crate::volume::disk::{DiskError, DiskHealth, DiskResult, Fsync, copy};

/// So many bytes are worth a flush.
const STEP_BYTES: u64 = 32 << 20;

/// An upload that is so far ahead of the disk waits for it.
const AHEAD_BYTES_MAX: u64 = 256 << 20;

/// Files flushed at once; the others are flushed by their own workers when they get far ahead.
pub const FLUSHERS_MAX: usize = 8;

/// Files that wait for one of these flushers. The upload of one more flushes it itself.
pub const FLUSHES_QUEUED_MAX: usize = 1024;

/// A file being written, and its flush in the background.
pub struct Writeback {
    workers: Workers,
    shared: Arc<Shared>,
    /// Bytes written since the last flush was begun.
    unflushed: u64,
}

struct Shared {
    file: File,
    fsync: Fsync,
    volume: Arc<dyn DiskHealth>,
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

impl Writeback {
    /// For a file with no other writer.
    pub fn new(file: File, fsync: Fsync, workers: &Workers, volume: Arc<dyn DiskHealth>) -> Writeback {
        let shared = Shared { file, fsync, volume, state: Mutex::default(), idle: Condvar::new() };
        Writeback { workers: workers.clone(), shared: Arc::new(shared), unflushed: 0 }
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.shared.file
    }

    /// So many bytes have been written to the file. Fails where a flush has failed.
    pub fn wrote(&mut self, bytes: u64) -> DiskResult<()> {
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
    pub fn finish(self) -> DiskResult<()> {
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
        let _turn = RunGuard(self);
        // Kept before it is idle, so that a waiting caller sees it.
        let _ = self.keep(self.fsync.data(&self.file));
    }

    /// Calls off a flush that has not begun, waits for one that has, for so long as for any sync, and returns any
    /// that failed.
    fn settle(&self) -> DiskResult<()> {
        let deadline = Instant::now() + SYNC_TIMEOUT;
        let mut state = self.state();
        if state.phase == Phase::Queued {
            state.phase = Phase::Idle;
        }
        while state.phase == Phase::Running {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(state);
                return self.keep(Err(timed_out()));
            }
            state = self.idle.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.failed()
    }

    /// Remembers a sync that failed. The first one is reported to the volume before the upload learns of it.
    fn keep(&self, synced: io::Result<()>) -> DiskResult<()> {
        if let Err(error) = synced {
            self.volume.failed(&fault(copy(&error)));
            self.state().failure.get_or_insert(error);
        }
        self.state().failed()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn failed(&self) -> DiskResult<()> {
        match &self.failure {
            None => Ok(()),
            Some(error) => Err(DiskError { reported: true, ..fault(copy(error)) }),
        }
    }
}

fn fault(error: io::Error) -> DiskError {
    DiskError::of_sync("sync", error)
}

/// A flush that is running, which ends whatever happens.
struct RunGuard<'a>(&'a Shared);

impl Drop for RunGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        if std::thread::panicking() {
            state.failure.get_or_insert(io::Error::other("its thread panicked; see the log"));
        }
        state.phase = Phase::Idle;
        drop(state);
        self.0.idle.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use crate::volume::disk::tests::Counted;

    fn flush(file: File, fsync: Fsync, workers: &Workers) -> (Writeback, Arc<Counted>) {
        let volume = Arc::new(Counted::default());
        (Writeback::new(file, fsync, workers, Arc::clone(&volume) as _), volume)
    }

    #[test]
    fn a_file_is_durable_at_the_end_however_busy_the_flushers_are() {
        let scratch = Scratch::new();
        let workers = Workers::new("flush", 1, 100).unwrap();
        let (free, block) = crossbeam_channel::bounded::<()>(0);
        workers.run(move || {
            let _ = block.recv();
        });
        for name in ["a", "b"] {
            let (mut flush, _) =
                flush(File::create(scratch.path().join(name)).unwrap(), Fsync::Yes, &workers);
            for _ in 0..20 {
                flush.wrote(STEP_BYTES).unwrap();
            }
            flush.finish().unwrap();
        }
        drop(free);
        let (mut flush, _) = flush(File::create(scratch.path().join("c")).unwrap(), Fsync::Yes, &workers);
        for _ in 0..20 {
            flush.wrote(STEP_BYTES).unwrap();
        }
        flush.finish().unwrap();
    }

    #[test]
    fn a_flush_that_failed_in_the_background_fails_the_upload() {
        let workers = Workers::new("flush", 1, 100).unwrap();
        // A pipe or a device cannot be synced: the error stands for a disk's.
        let (mut flush, volume) = flush(File::open("/dev/null").unwrap(), Fsync::Yes, &workers);
        flush.wrote(STEP_BYTES).unwrap();
        while flush.shared.state().phase != Phase::Idle {
            std::thread::yield_now();
        }
        assert_eq!(volume.error_epoch(), 1, "the volume knows, though the upload has not asked yet");
        // However often it is asked, and though no further sync takes place.
        for _ in 0..3 {
            assert!(flush.wrote(STEP_BYTES).is_err());
        }
        assert!(flush.finish().unwrap_err().reported);
        assert_eq!(volume.error_epoch(), 1);
    }

    #[test]
    fn where_no_sync_is_wanted_there_is_none() {
        let workers = Workers::new("flush", 1, 100).unwrap();
        let (mut flush, _) = flush(File::open("/dev/null").unwrap(), Fsync::No, &workers);
        flush.wrote(AHEAD_BYTES_MAX).unwrap();
        flush.finish().unwrap();
    }
}
