//! What a kill may leave half done, noted in each store path so that the next start can undo it.
//!
//! A slot is taken before a file is created and released when its row is committed or the file is
//! gone again; a delete takes one before its row goes and releases it when the file has gone. So
//! whatever a killed storage leaves behind is named by a taken slot, and one rule resolves every
//! slot: **where the row is, the file stays; where the row certainly is not, the file goes.** A path
//! is made of a number that never repeats, so a slot speaks of one upload only, however late it is
//! resolved.
//!
//! The file is `.uploads-<host>-<address>-<port>`: storages that share a store path each have their
//! own, and a lock keeps two processes of the same name apart. It is not synced: a killed process's
//! writes are in the page cache and safe. A power loss may take a slot with it, and then a file that
//! never got its row can stay; what is acknowledged is safe regardless.
//!
//! Slots of [`SLOT_BYTES`], the first of which is the head: [`MAGIC`], zeros. The others, free where
//! their checksum is wrong or their mark is not 1:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | CRC-32 of the rest, big-endian |
//! | 4 | 1 | mark, 1: taken |
//! | 5 | 1 | bytes of the userid |
//! | 6 | 1 | bytes of the fileid |
//! | 7 | 1 | zero |
//! | 8 | 2 | bytes of the path, big-endian |
//! | 10 | | userid, fileid, path |

use std::fs::{File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tnv_common::error::{Context, Result};
use tnv_common::fail;
use tnv_common::wire::field::Reader;
use tnv_common::wire::{FileId, HostName, UserId};

use super::paths;

/// Room for the longest of each text: 10 + 255 + 127 + 512 bytes.
const SLOT_BYTES: usize = 1024;

/// What the file begins with; the digits are the version of its form.
const MAGIC: &[u8; 16] = b"TNV-UPLOADS-0001";

/// Most slots in one file: more than there can be workers, with room for what waits to be resolved.
const SLOTS_MAX: u32 = 1 << 17;

const TAKEN: u8 = 1;

/// What a slot names: which row to ask for, and which file it decides about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// With the file ID, the key of the row; the user decides the table.
    pub userid: UserId,
    /// The file ID.
    pub fileid: FileId,
    /// The file.
    pub path: String,
}

impl Record {
    fn encode(&self) -> [u8; SLOT_BYTES] {
        let mut slot = [0; SLOT_BYTES];
        let (userid, fileid) = (self.userid.as_str().as_bytes(), self.fileid.as_str().as_bytes());
        slot[4] = TAKEN;
        // The types hold both texts to a byte's range, and `Journal::take` the path to its width.
        slot[5] = userid.len() as u8;
        slot[6] = fileid.len() as u8;
        slot[8..10].copy_from_slice(&(self.path.len() as u16).to_be_bytes());
        let texts = [userid, fileid, self.path.as_bytes()].concat();
        slot[10..10 + texts.len()].copy_from_slice(&texts);
        let crc = crc32fast::hash(&slot[4..]);
        slot[..4].copy_from_slice(&crc.to_be_bytes());
        slot
    }

    /// What a slot says; `None` where it is free or makes no sense.
    fn decode(slot: &[u8]) -> Option<Record> {
        let mut reader = Reader::new(slot);
        let crc = reader.bytes("checksum", 4).ok()?;
        if crc != crc32fast::hash(slot.get(4..)?).to_be_bytes() || reader.u8("mark").ok()? != TAKEN {
            return None;
        }
        let userid_bytes = reader.u8("userid length").ok()?;
        let fileid_bytes = reader.u8("fileid length").ok()?;
        reader.u8("zero").ok()?;
        let path_bytes = reader.u16("path length").ok()?;
        let userid = UserId::new(reader.bytes("userid", userid_bytes.into()).ok()?).ok()?;
        let fileid = FileId::new(reader.bytes("fileid", fileid_bytes.into()).ok()?).ok()?;
        let path = String::from_utf8(reader.bytes("path", path_bytes.into()).ok()?.to_vec()).ok()?;
        paths::check(&path).ok()?;
        Some(Record { userid, fileid, path })
    }
}

/// The journal of one store path.
pub struct Journal {
    file: File,
    path: String,
    free: Mutex<Free>,
}

/// Which slots can be taken.
struct Free {
    /// Released ones.
    indexes: Vec<u32>,
    /// The first one that was never used.
    next: u32,
}

/// A taken slot. Dropped without [`Slot::release`] it stays taken on the disk, for the next start.
pub struct Slot {
    journal: Arc<Journal>,
    index: u32,
}

/// A file whose fate is open. A delete may have no slot: it must work on a full disk, too.
pub struct Open {
    /// Released once it is decided.
    pub slot: Option<Slot>,
    /// Which row decides about which file.
    pub record: Record,
}

impl Journal {
    /// Opens the journal of this storage in a store path, and returns what a predecessor left.
    pub fn open(store_path: &str, host: &HostName, address: SocketAddr) -> Result<(Arc<Journal>, Vec<Open>)> {
        let name = format!("{host}-{}-{}", address.ip(), address.port()).replace('/', "_");
        let path = format!("{store_path}/.uploads-{name}");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.context(|| format!("open {path}"))?;
        lock(&file, &path)?;
        let records = read(&file, &path).context(|| format!("read {path}"))?;
        let next = records.iter().map(|(index, _)| index + 1).max().unwrap_or(1);
        let indexes = (1..next).filter(|index| records.iter().all(|(taken, _)| taken != index)).collect();
        let journal = Arc::new(Journal { file, path, free: Mutex::new(Free { indexes, next }) });
        let left = records.into_iter().map(|(index, record)| {
            let slot = Slot { journal: Arc::clone(&journal), index };
            Open { slot: Some(slot), record }
        });
        let left = left.collect();
        Ok((journal, left))
    }

    /// Takes a slot for this record.
    pub fn take(self: &Arc<Journal>, record: &Record) -> io::Result<Slot> {
        if record.path.len() > paths::PATH_CHARS_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path is too long"));
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
        match self.file.write_all_at(&record.encode(), offset(index)) {
            Ok(()) => Ok(Slot { journal: Arc::clone(self), index }),
            Err(error) => {
                self.free().indexes.push(index);
                Err(error)
            }
        }
    }

    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Frees the slot. Where that fails it is resolved once more at the next start, to the same end.
    pub fn release(self) {
        // The mark, and with it the checksum's truth.
        if let Err(error) = self.journal.file.write_all_at(&[0; 8], offset(self.index)) {
            log::error!("{}: release slot {}: {error}", self.journal.path, self.index);
        }
        self.journal.free().indexes.push(self.index);
    }
}

fn offset(index: u32) -> u64 {
    u64::from(index) * SLOT_BYTES as u64
}

/// A predecessor that is still finishing its uploads has let go of the port already: only the lock
/// keeps its slots from being resolved under its hands, so there is no going on without it.
fn lock(file: &File, path: &str) -> Result<()> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => fail!(
            Busy,
            "{path} is locked: another storage of this host name, address and port is running or still stopping"
        ),
        Err(error) => Err(io::Error::from(error)).context(|| format!("lock {path}")),
    }
}

/// The taken slots. A file that is new, or was lost in a power cut, gets its head.
fn read(file: &File, path: &str) -> io::Result<Vec<(u32, Record)>> {
    let mut slot = [0; SLOT_BYTES];
    let bytes = file.metadata()?.len();
    if bytes >= SLOT_BYTES as u64 {
        file.read_exact_at(&mut slot, 0)?;
    }
    if !slot.starts_with(MAGIC) {
        if slot.iter().any(|byte| *byte != 0) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it is no journal of this version; move it away to start without it",
            ));
        }
        let mut head = [0; SLOT_BYTES];
        head[..MAGIC.len()].copy_from_slice(MAGIC);
        file.set_len(0)?;
        file.write_all_at(&head, 0)?;
        return Ok(Vec::new());
    }
    let mut records = Vec::new();
    let slots = u32::try_from(bytes / SLOT_BYTES as u64).unwrap_or(u32::MAX).min(SLOTS_MAX + 1);
    for index in 1..slots {
        file.read_exact_at(&mut slot, offset(index))?;
        records.extend(Record::decode(&slot).map(|record| (index, record)));
    }
    if !records.is_empty() {
        log::warn!("{path}: {} uploads or deletes were cut off", records.len());
    }
    // It begins small again, whatever the rush was that made it grow.
    let end = records.last().map_or(1, |(index, _)| index + 1);
    file.set_len(offset(end))?;
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn record(number: u32) -> Record {
        Record {
            userid: UserId::new("ü".repeat(127)).unwrap(),
            fileid: FileId::new("f".repeat(127)).unwrap(),
            path: format!("{}/000/000/000/5F9E3FA7_{number:03X}", "d".repeat(480)),
        }
    }

    fn open(scratch: &Scratch) -> Result<(Arc<Journal>, Vec<Open>)> {
        let host = HostName::new("a/host").unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 23000));
        Journal::open(scratch.path().to_str().unwrap(), &host, address)
    }

    #[test]
    fn what_a_kill_left_is_found_again_and_what_was_finished_is_not() {
        let scratch = Scratch::new();
        let (journal, left) = open(&scratch).unwrap();
        assert!(left.is_empty());
        let slots: Vec<_> = (0..5).map(|number| journal.take(&record(number)).unwrap()).collect();
        for (index, slot) in slots.into_iter().enumerate() {
            if index != 1 && index != 3 {
                slot.release();
            }
        }
        drop(journal);
        let (journal, left) = open(&scratch).unwrap();
        assert_eq!(left.iter().map(|open| open.record.clone()).collect::<Vec<_>>(), [record(1), record(3)]);
        // New ones do not disturb the old ones.
        let slots: Vec<_> = (10..14).map(|number| journal.take(&record(number)).unwrap()).collect();
        slots.into_iter().for_each(Slot::release);
        left.into_iter().filter_map(|open| open.slot).for_each(Slot::release);
        drop(journal);
        let (journal, left) = open(&scratch).unwrap();
        assert!(left.is_empty());
        assert_eq!(journal.file.metadata().unwrap().len(), SLOT_BYTES as u64);
    }

    #[test]
    fn slots_are_used_again() {
        let scratch = Scratch::new();
        let (journal, _) = open(&scratch).unwrap();
        for number in 0..100 {
            journal.take(&record(number)).unwrap().release();
        }
        assert_eq!(journal.file.metadata().unwrap().len(), 2 * SLOT_BYTES as u64);
    }

    #[test]
    fn two_storages_of_one_name_cannot_share_it() {
        let scratch = Scratch::new();
        let _first = open(&scratch).unwrap();
        let error = open(&scratch).err().unwrap();
        assert!(error.message().contains("another storage"), "{error}");
    }

    #[test]
    fn damage_frees_a_slot_and_never_panics() {
        let slot = record(1).encode();
        assert_eq!(Record::decode(&slot), Some(record(1)));
        for byte in 0..SLOT_BYTES {
            let mut damaged = slot;
            damaged[byte] ^= 0x40;
            assert_eq!(Record::decode(&damaged), None);
        }
        for length in 0..SLOT_BYTES {
            assert_eq!(Record::decode(&slot[..length]), None);
        }
        let mut evil = Record { path: "/etc/passwd".into(), ..record(1) }.encode();
        assert_eq!(Record::decode(&evil), None, "not a path of ours");
        evil[4] = 2;
        assert_eq!(Record::decode(&evil), None);
    }

    #[test]
    fn what_is_no_journal_is_left_alone() {
        let scratch = Scratch::new();
        let name = scratch.path().join(".uploads-a_host-127.0.0.1-23000");
        std::fs::write(&name, vec![b'x'; 3000]).unwrap();
        assert!(open(&scratch).err().unwrap().message().contains("no journal"));
        assert_eq!(std::fs::metadata(&name).unwrap().len(), 3000);
        // A journal that a power cut left as zeros or cut short is begun anew.
        std::fs::write(&name, vec![0; 5000]).unwrap();
        assert!(open(&scratch).is_ok());
        std::fs::write(&name, "TN").unwrap();
        assert!(open(&scratch).is_ok());
    }
}
