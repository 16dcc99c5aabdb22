//! The journal of this storage in a store path: its heartbeat, and its slots.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::entry::JournalEntry;
use super::file::{Identity, SLOTS_MAX, free_slot, identity, offset};
use crate::volume::heartbeat::{Heartbeat, LEASE};

/// How long a journal that is given up waits for those who are writing to it.
const WRITERS_PATIENCE: Duration = Duration::from_secs(1);

/// The journal of one store path.
pub struct Journal {
    pub(super) file: File,
    pub(super) path: String,
    pub(super) identity: Identity,
    /// Its lock holds for all who can reach the file system.
    pub(super) is_local: bool,
    pub(super) free: Mutex<Free>,
    pub(super) pulse: Mutex<Pulse>,
    /// It was given up, so that nothing more may be written: another one may have its slots. Held while a slot is
    /// written.
    pub(super) retired: RwLock<bool>,
}

/// This process as the holder.
pub(super) struct Pulse {
    pub(super) holder: [u8; 16],
    /// Heartbeats that were written.
    pub(super) count: u64,
    /// When the writing of the last one began; none when the journal was let go or may be another storage's.
    pub(super) since: Option<Instant>,
    /// It was let go, for good.
    pub(super) is_closed: bool,
}

/// Which slots can be taken.
pub(super) struct Free {
    /// Released ones.
    pub(super) indexes: Vec<u32>,
    /// The first one that was never used.
    pub(super) next: u32,
}

/// A taken slot. Dropped without [`Slot::release`] it stays taken on the disk, for the next start.
pub struct Slot {
    pub(super) journal: Arc<Journal>,
    pub(super) index: u32,
}

/// A file whose fate is open. A delete may have no slot: it must work on a full disk, too.
pub struct PendingOp {
    /// Released once it is decided.
    pub slot: Option<Slot>,
    /// Which row decides about which file.
    pub entry: JournalEntry,
}

impl PendingOp {
    /// It is decided, or nothing was done.
    pub fn release(self) {
        self.slot.into_iter().for_each(Slot::release);
    }
}

impl Journal {
    /// Whether this is the journal at its place, with the heartbeat of this process as the last one: no other storage
    /// has taken it over, which each does before it asks for the rows of what the journal names. On a local file system
    /// the lock that this process holds says so already.
    pub fn verify(&self) -> bool {
        if self.pulse().is_closed {
            return false;
        }
        if self.is_local {
            return true;
        }
        let holder = self.holder();
        let is_own = || Ok(Heartbeat::read(&self.file)?.is_some_and(|found| found.holder == holder));
        let verified = self.check().and_then(|()| is_own()).unwrap_or(false);
        if !verified {
            self.pulse().since = None;
        }
        verified
    }

    /// Shows that the holder lives. To be called every second. Fails where another process has written its
    /// own heartbeat, and for ever after.
    pub fn beat(&self) -> io::Result<()> {
        let begun = Instant::now();
        let (holder, count) = {
            let pulse = self.pulse();
            (pulse.holder, pulse.count)
        };
        if count > 0 && Heartbeat::read(&self.file)?.is_some_and(|found| found.holder != holder) {
            self.pulse().since = None;
            return Err(io::Error::other(format!(
                "{} was taken by another storage: are two running with one tnv_storage_id? give each its own and \
                 restart them",
                self.path
            )));
        }
        Heartbeat::new(count + 1, holder).write(&self.file)?;
        let mut pulse = self.pulse();
        (pulse.count, pulse.since) = (count + 1, Some(begun).filter(|_| !pulse.is_closed));
        Ok(())
    }

    /// Whether another storage has taken this journal over, as that of one that had ended.
    pub fn is_taken_over(&self) -> bool {
        let holder = self.holder();
        let found = Heartbeat::read(&self.file);
        found.is_ok_and(|found| found.is_some_and(|found| found.count == 0 && found.holder != holder))
    }

    /// Whether the last heartbeat is so fresh that the journal was certainly not taken over: only then may an
    /// upload that it names be acknowledged.
    pub fn is_held(&self) -> bool {
        self.pulse().since.is_some_and(|since| since.elapsed() < LEASE)
    }

    /// At the end, in good order: what is still in the journal can be taken over at once.
    pub fn let_go(&self) {
        let holder = {
            let mut pulse = self.pulse();
            pulse.is_closed = true;
            if pulse.since.take().is_none() {
                return;
            }
            pulse.holder
        };
        if let Err(error) = Heartbeat::new(0, holder).write(&self.file) {
            log::debug!("{}: note that it was let go: {error}", self.path);
        }
    }

    /// Gives the journal up while the storage goes on, for another one to be opened in its place: nothing that it
    /// names is acknowledged from here on, nothing is written to it, and its lock is free. Nothing says in it that it
    /// was let go: where the file has two mounts that might be seen later than the first heartbeat through the other
    /// one. False where something is being written to it, which may hang.
    pub fn retire(&self) -> bool {
        {
            let mut pulse = self.pulse();
            (pulse.is_closed, pulse.since) = (true, None);
        }
        let deadline = Instant::now() + WRITERS_PATIENCE;
        loop {
            match self.retired.try_write() {
                Ok(mut retired) => {
                    *retired = true;
                    break;
                }
                Err(TryLockError::Poisoned(error)) => {
                    *error.into_inner() = true;
                    break;
                }
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return false,
                Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(10)),
            }
        }
        // What a client of a network file system still has of these writes must not come later than the other one's.
        // Where the mount is dead both fail, and the lock went with it.
        let let_go = self.file.sync_data().and_then(|()| Ok(flock(&self.file, FlockOperation::Unlock)?));
        if let Err(error) = let_go {
            log::debug!("{}: let go of it: {error}", self.path);
            let _ = flock(&self.file, FlockOperation::Unlock);
        }
        true
    }

    /// Writes to a slot, unless the journal was given up.
    pub(super) fn write(&self, write: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
        let retired = self.retired.read().unwrap_or_else(PoisonError::into_inner);
        if *retired {
            return Err(io::Error::other(format!("{} was given up, and is opened anew", self.path)));
        }
        write(&self.file)
    }

    /// Whether the descriptor leads nowhere any more though its file may be there: the mount through which it was
    /// opened is dead, or its network file system has lost it.
    pub fn is_cut_off(&self) -> bool {
        let lost = [Errno::NOTCONN, Errno::CONNABORTED, Errno::STALE, Errno::BADFD, Errno::NODEV];
        let failed = Heartbeat::read(&self.file).err().and_then(|error| error.raw_os_error());
        lost.iter().any(|errno| failed == Some(errno.raw_os_error()))
    }

    /// What stands for this process as the holder.
    pub fn holder(&self) -> [u8; 16] {
        self.pulse().holder
    }

    fn is_retired(&self) -> bool {
        *self.retired.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn pulse(&self) -> MutexGuard<'_, Pulse> {
        self.pulse.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the store path is still the one that was opened: a mount that went away leaves its mount
    /// point, an empty directory on another disk, where all of this would go on as if nothing had
    /// happened.
    pub fn check(&self) -> io::Result<()> {
        match fs::metadata(&self.path) {
            Ok(found) if identity(&found) == self.identity => Ok(()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Err(io::Error::other(format!(
                "{} is not the file that was opened: a disk is not mounted, or the file was deleted; mount the \
                 disk",
                self.path
            ))),
        }
    }

    /// Takes a slot for this entry.
    pub fn take(self: &Arc<Journal>, entry: &JournalEntry) -> io::Result<Slot> {
        if !entry.fits() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the path or a name is empty or too long",
            ));
        }
        let index = {
            let mut free = self.free();
            match free.indexes.pop() {
                Some(index) => index,
                None if free.next > SLOTS_MAX => {
                    return Err(io::Error::other(format!(
                        "{} is full, {SLOTS_MAX} slots are taken",
                        self.path
                    )));
                }
                None => {
                    free.next += 1;
                    free.next - 1
                }
            }
        };
        match self.write(|file| file.write_all_at(&entry.encode(), offset(index))) {
            Ok(()) => Ok(Slot { journal: Arc::clone(self), index }),
            Err(error) => {
                self.free().indexes.push(index);
                Err(error)
            }
        }
    }

    pub(super) fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Frees the slot. Where that fails it is resolved once more at the next start, to the same end; where the journal
    /// was given up, by the one in its place.
    pub fn release(self) {
        if let Err(error) = self.journal.write(|file| free_slot(file, self.index)) {
            let level = if self.journal.is_retired() { log::Level::Debug } else { log::Level::Error };
            log::log!(level, "{}: release slot {}: {error}", self.journal.path, self.index);
        }
        self.journal.free().indexes.push(self.index);
    }

    /// Whether the last heartbeat in its journal is fresh, and no other storage, nor another journal of this one, has
    /// the slot: what it names may be acknowledged.
    pub fn is_held(&self) -> bool {
        self.journal.is_held() && self.journal.verify()
    }

    /// The same after the commit, when the heartbeat does not matter any more (see `heartbeat`).
    pub fn verify(&self) -> bool {
        self.journal.verify()
    }
}
