//! The file of a journal: its lock, its head, its slots and its space.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use rustix::io::Errno;
use tnv_common::error::{Context, Result};
use tnv_common::fail;

use super::entry::{JournalEntry, SLOT_BYTES};
use crate::volume::heartbeat::Heartbeat;

/// What the file begins with; the digits are the version of its form.
pub(super) const MAGIC: &[u8; 16] = b"TNV-UPLOADS-0001";

/// Most slots in one file: more than there can be workers, with room for what waits to be resolved.
pub(super) const SLOTS_MAX: u32 = 1 << 17;

/// How long a lock that is held is waited for: another storage may look just now whether there is something
/// to adopt, which is a matter of milliseconds.
pub(super) const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// How long it is waited for a heartbeat of the one who holds the lock, which shows that it is a storage of the same
/// name. Without one it may be another storage that takes much over; each entry is written and read.
const HOLDER_PATIENCE: Duration = Duration::from_secs(4);

/// Which file it is, whatever its name: device and inode.
pub(super) type Identity = (u64, u64);

pub(super) fn offset(index: u32) -> u64 {
    u64::from(index) * SLOT_BYTES as u64
}

/// Opens the file and locks it. A predecessor that is still finishing its uploads has let go of the
/// port already: only the lock keeps its slots from being resolved under its hands, so there is no
/// going on without it. Between opening and locking another storage may have adopted and removed the
/// file; then there is a new one to be made.
pub(super) fn open_locked(path: &str) -> Result<File> {
    let begun = Instant::now();
    let mut first = None;
    loop {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.context(|| format!("open {path}"))?;
        if try_lock(&file, FlockOperation::NonBlockingLockExclusive)
            .and_then(|locked| Ok(locked && is_at(&file, path)?))
            .context(|| format!("lock {path}"))?
        {
            return Ok(file);
        }
        let found = Heartbeat::read(&file).context(|| format!("read {path}"))?;
        // A previous version writes none.
        let is_alive = found.as_ref().is_none_or(|found| {
            let first = first.get_or_insert_with(|| found.clone());
            found.count > 0 && found != first
        });
        if is_alive && begun.elapsed() >= LOCK_PATIENCE {
            return fail!(
                Busy,
                "{path} is locked: another storage of this name (host name, address and port, or tnv_storage_id) is \
                 running or still stopping"
            );
        }
        if begun.elapsed() >= HOLDER_PATIENCE {
            return fail!(
                Timeout,
                "{path} is locked by somebody who writes no heartbeat: another storage takes over what a storage of \
                 this name left, or one of this name hangs; waiting for the lock"
            );
        }
        thread::sleep(Duration::from_millis(20));
    }
}

pub(super) fn try_lock(file: &File, operation: FlockOperation) -> io::Result<bool> {
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn identity(metadata: &fs::Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

/// Whether this path still names this file.
pub(super) fn is_at(file: &File, path: &str) -> io::Result<bool> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        found => Ok(identity(&found?) == identity(&file.metadata()?)),
    }
}

/// Whether the file begins as a journal; one that is new, or was lost in a power cut, does not.
pub(super) fn has_head(file: &File) -> io::Result<bool> {
    let mut head = [0; SLOT_BYTES];
    if file.metadata()?.len() >= SLOT_BYTES as u64 {
        file.read_exact_at(&mut head, 0)?;
    }
    if !head.starts_with(MAGIC) && head.iter().any(|byte| *byte != 0) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is no journal of this version; move it away to go on without it",
        ));
    }
    Ok(head.starts_with(MAGIC))
}

/// Gives a file without a head one.
pub(super) fn begin(file: &File, path: &str) -> Result<()> {
    if has_head(file).context(|| format!("read {path}"))? {
        return Ok(());
    }
    let mut head = [0; SLOT_BYTES];
    head[..MAGIC.len()].copy_from_slice(MAGIC);
    file.set_len(0).and_then(|()| file.write_all_at(&head, 0)).context(|| format!("write the head of {path}"))
}

/// The taken slots.
pub(super) fn read(mut file: &File) -> io::Result<Vec<(u32, JournalEntry)>> {
    let mut entries = Vec::new();
    let mut slot = [0; SLOT_BYTES];
    let slots = u32::try_from(file.metadata()?.len() / SLOT_BYTES as u64).unwrap_or(u32::MAX);
    file.seek(SeekFrom::Start(offset(1)))?;
    let mut reader = BufReader::with_capacity(SLOT_BYTES * 256, file);
    for index in 1..slots.min(SLOTS_MAX + 1) {
        reader.read_exact(&mut slot)?;
        entries.extend(JournalEntry::decode(&slot).map(|entry| (index, entry)));
    }
    Ok(entries)
}

/// Makes the file so many slots long, whatever the rush was that made it grow, and gets their space
/// where the file system can. Where it is full the slots may turn out to have none.
pub(super) fn allocate(file: &File, slots: u32) -> io::Result<()> {
    if file.metadata()?.len() > offset(slots) {
        file.set_len(offset(slots))?;
    }
    if let Err(error) = fallocate(file, FallocateFlags::empty(), 0, offset(slots)) {
        log::debug!("allocate a journal's {slots} slots: {error}");
    }
    Ok(())
}

/// Clears the mark, by which the checksum is wrong, too.
pub(super) fn free_slot(file: &File, index: u32) -> io::Result<()> {
    file.write_all_at(&[0; 8], offset(index))
}

/// The slots below `next` that are not taken. The taken ones are in the order of the file.
pub(super) fn untaken(entries: &[(u32, JournalEntry)], next: u32) -> Vec<u32> {
    let mut taken = entries.iter().map(|(index, _)| *index).peekable();
    (1..next).filter(|index| taken.next_if_eq(index).is_none()).collect()
}
