//! The write lock among the processes that share a database: an exclusive `flock` on `NAME.lock`.
//!
//! SQLite's own wait is a poll under which one of two busy processes can starve for seconds. This lock orders
//! the writers and guards nothing else: SQLite stays correct if a process writes without it.
//!
//! One lock alone is not fair: a process that releases it and locks again at once is faster than one that
//! must first wake up (five commits to one, measured). So a process first takes a second lock, on
//! `NAME.next`, and releases that when it has the first: after a release the waiting process is next.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::result::Result as StdResult;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{Context, Result};
use crate::fail;

/// The lock of one process.
pub struct WriteLock {
    path: PathBuf,
    lock: File,
    next: File,
}

impl WriteLock {
    /// Opens the two files, created where they are missing.
    pub fn open(path: &Path) -> Result<WriteLock> {
        let open = |path: &Path| {
            let opened = OpenOptions::new().create(true).truncate(false).write(true).open(path);
            opened.context(|| format!("open {}", path.display()))
        };
        Ok(WriteLock { path: path.to_owned(), lock: open(path)?, next: open(&path.with_extension("next"))? })
    }

    /// Waits in the kernel, until the holder releases the lock or its process ends. Callers bound their own
    /// wait.
    pub fn acquire(&self) -> Result<()> {
        self.acquire_by(|file| rustix::io::retry_on_intr(|| flock(file, FlockOperation::LockExclusive)))
    }

    /// The same until a deadline.
    pub fn acquire_within(&self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        self.acquire_by(|file| {
            loop {
                match flock(file, FlockOperation::NonBlockingLockExclusive) {
                    Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => {
                        thread::sleep(Duration::from_millis(2));
                    }
                    result => return result,
                }
            }
        })
    }

    fn acquire_by(&self, lock: impl Fn(&File) -> StdResult<(), Errno>) -> Result<()> {
        let locked = lock(&self.next).and_then(|()| lock(&self.lock));
        // Where the lock failed there is nothing to unlock.
        let _ = flock(&self.next, FlockOperation::Unlock);
        let path = self.path.display();
        match locked {
            Ok(()) => Ok(()),
            Err(Errno::WOULDBLOCK | Errno::INTR) => {
                fail!(Busy, "another process holds the lock {path} for too long; find it with lsof")
            }
            Err(error) => Err(io::Error::from(error)).context(|| format!("lock {path}")),
        }
    }

    /// Releases the lock.
    pub fn release(&self) {
        let _ = flock(&self.lock, FlockOperation::Unlock);
    }
}
