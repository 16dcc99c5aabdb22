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
//! A storage that is started on another address or port takes over what others of its host left (see
//! [`Journal::adopt`]). The open journal is also what a store path is known by: where it does not lie
//! at its path any more, the disk is not mounted (see [`Journal::check`]).
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

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use rustix::io::Errno;
use tnv_common::error::{Context, Result};
use tnv_common::fail;
use tnv_common::wire::field::Reader;
use tnv_common::wire::{FileId, HostName, UserId};

use super::paths;

/// Room for the longest of each text: 10 + 255 + 127 + 512 bytes.
pub const SLOT_BYTES: usize = 1024;

/// What the file begins with; the digits are the version of its form.
const MAGIC: &[u8; 16] = b"TNV-UPLOADS-0001";

/// Most slots in one file: more than there can be workers, with room for what waits to be resolved.
const SLOTS_MAX: u32 = 1 << 17;

/// So many slots have their space from the start, 1 MiB of it: a disk that fills up later then still
/// lets a delete be noted, and an upload fail in good order.
const ALLOCATED_SLOTS: u32 = 1024;

/// How long a lock that is held is waited for: another storage of this host may look just now whether
/// there is something to adopt, which is a matter of milliseconds.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

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
    /// The slot that says it.
    pub fn encode(&self) -> [u8; SLOT_BYTES] {
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
    pub fn decode(slot: &[u8]) -> Option<Record> {
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
    identity: Identity,
    free: Mutex<Free>,
}

/// Which file it is, whatever its name: device and inode.
type Identity = (u64, u64);

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
        let path = format!("{store_path}/{}{}-{}", prefix(host), address.ip(), address.port());
        let file = open_locked(&path)?;
        begin(&file, &path)?;
        let records = read(&file).context(|| format!("read {path}"))?;
        let next = records.iter().map(|(index, _)| index + 1).max().unwrap_or(1);
        allocate(&file, next.max(ALLOCATED_SLOTS)).context(|| format!("shorten {path}"))?;
        let indexes = (1..next).filter(|index| records.iter().all(|(taken, _)| taken != index)).collect();
        let identity = identity(&file.metadata().context(|| format!("look at {path}"))?);
        let journal = Arc::new(Journal { file, path, identity, free: Mutex::new(Free { indexes, next }) });
        tell(&journal.path, records.len());
        let left = records.into_iter().map(|(index, record)| {
            let slot = Slot { journal: Arc::clone(&journal), index };
            Open { slot: Some(slot), record }
        });
        let left = left.collect();
        Ok((journal, left))
    }

    /// Takes over what storages of this host left that had another address or port and do not run:
    /// their slots become slots of this journal, and their journals are removed.
    ///
    /// Only this host's: of others the lock need not tell that they run, since a network file system may
    /// keep locks to each host. And none where the host's name is one that many hosts have. What cannot
    /// be taken over stays as it is, for the next start.
    pub fn adopt(self: &Arc<Journal>, store_path: &str, host: &HostName) -> Vec<Open> {
        if host.as_str().starts_with("localhost") {
            return Vec::new();
        }
        let others = match others(Path::new(store_path), host) {
            Ok(others) => others,
            Err(error) => {
                log::warn!("look for journals in {store_path}: {error}");
                return Vec::new();
            }
        };
        let mut left = Vec::new();
        for path in others.iter().filter(|path| **path != self.path) {
            match self.adopt_one(path) {
                Ok(mut found) => left.append(&mut found),
                Err(error) => log::warn!("take over {path}: {error}"),
            }
        }
        left
    }

    /// The copies come first, so that a kill in between leaves a slot twice, which is harmless, and
    /// never not at all. Whoever opens the file in the meantime finds it locked or gone, and opens
    /// it anew.
    fn adopt_one(self: &Arc<Journal>, path: &str) -> io::Result<Vec<Open>> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result?,
        };
        if !try_lock(&file)? || !is_at(&file, path)? {
            return Ok(Vec::new());
        }
        let records = if has_head(&file)? { read(&file)? } else { Vec::new() };
        tell(path, records.len());
        let mut left = Vec::new();
        for (_, record) in records {
            match self.take(&record) {
                Ok(slot) => left.push(Open { slot: Some(slot), record }),
                Err(error) => {
                    left.into_iter().filter_map(|open: Open| open.slot).for_each(Slot::release);
                    return Err(error);
                }
            }
        }
        self.file.sync_data()?;
        if let Err(error) = fs::remove_file(path) {
            log::warn!("remove {path}, which was taken over: {error}");
        }
        Ok(left)
    }

    /// Whether the store path is still the one that was opened: a mount that went away leaves its mount
    /// point, an empty directory on another disk, where all of this would go on as if nothing had
    /// happened.
    pub fn check(&self) -> io::Result<()> {
        match fs::metadata(&self.path) {
            Ok(found) if identity(&found) == self.identity => Ok(()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Err(io::Error::other(format!(
                "{} is not the file that was opened at the start: a disk is not mounted, or the file was \
                 deleted; mount the disk, or restart this storage",
                self.path
            ))),
        }
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

/// What the names of all journals begin with.
const PREFIX: &str = ".uploads-";

/// How often the journals are read anew where one goes meanwhile, because it is adopted.
const LISTS_MAX: usize = 16;

/// Whether a storage has ever used this store path.
pub fn is_store(store_path: &str) -> io::Result<bool> {
    Ok(!journals(store_path)?.is_empty())
}

/// The paths in all taken slots of all journals in a store path, of this host's storages and of others',
/// which may be running. Files whose slots were taken before this was called and released after it
/// returned are among them.
pub fn open_paths(store_path: &str) -> io::Result<Vec<String>> {
    for _ in 0..LISTS_MAX {
        let read = journals(store_path)?.into_iter().map(|path| {
            let file = File::open(path)?;
            if has_head(&file)? { read(&file) } else { Ok(Vec::new()) }
        });
        match read.collect::<io::Result<Vec<_>>>() {
            // Its slots are now in another, which was perhaps read before; or it is being shortened.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => {}
            read => return Ok(read?.into_iter().flatten().map(|(_, record)| record.path).collect()),
        }
    }
    Err(io::Error::other("storages come and go too fast; try again later"))
}

fn journals(store_path: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(store_path)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn offset(index: u32) -> u64 {
    u64::from(index) * SLOT_BYTES as u64
}

/// What the names of this host's journals begin with.
fn prefix(host: &HostName) -> String {
    format!("{PREFIX}{host}-").replace('/', "_")
}

/// The journals of this host in a store path. The name of another host may begin like this one's, so
/// what follows must be an address and a port.
fn others(store_path: &Path, host: &HostName) -> io::Result<Vec<String>> {
    let prefix = prefix(host);
    let mut others = Vec::new();
    for entry in fs::read_dir(store_path)? {
        let name = entry?.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix(&prefix)?.rsplit_once('-'));
        if rest.is_some_and(|(ip, port)| ip.parse::<IpAddr>().is_ok() && port.parse::<u16>().is_ok()) {
            others.push(format!("{}/{}", store_path.display(), name.to_string_lossy()));
        }
    }
    Ok(others)
}

/// Opens the file and locks it. A predecessor that is still finishing its uploads has let go of the
/// port already: only the lock keeps its slots from being resolved under its hands, so there is no
/// going on without it. Between opening and locking another storage may have adopted and removed the
/// file; then there is a new one to be made.
fn open_locked(path: &str) -> Result<File> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.context(|| format!("open {path}"))?;
        if try_lock(&file)
            .and_then(|locked| Ok(locked && is_at(&file, path)?))
            .context(|| format!("lock {path}"))?
        {
            return Ok(file);
        }
        if Instant::now() >= deadline {
            return fail!(
                Busy,
                "{path} is locked: another storage of this host name, address and port is running or still \
                 stopping"
            );
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn try_lock(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn identity(metadata: &fs::Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

/// Whether this path still names this file.
fn is_at(file: &File, path: &str) -> io::Result<bool> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        found => Ok(identity(&found?) == identity(&file.metadata()?)),
    }
}

/// Whether the file begins as a journal; one that is new, or was lost in a power cut, does not.
fn has_head(file: &File) -> io::Result<bool> {
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
fn begin(file: &File, path: &str) -> Result<()> {
    if has_head(file).context(|| format!("read {path}"))? {
        return Ok(());
    }
    let mut head = [0; SLOT_BYTES];
    head[..MAGIC.len()].copy_from_slice(MAGIC);
    file.set_len(0).and_then(|()| file.write_all_at(&head, 0)).context(|| format!("write the head of {path}"))
}

fn tell(path: &str, records: usize) {
    if records > 0 {
        log::warn!("{path}: {records} uploads or deletes were cut off");
    }
}

/// The taken slots.
fn read(mut file: &File) -> io::Result<Vec<(u32, Record)>> {
    let mut records = Vec::new();
    let mut slot = [0; SLOT_BYTES];
    let slots = u32::try_from(file.metadata()?.len() / SLOT_BYTES as u64).unwrap_or(u32::MAX);
    file.seek(SeekFrom::Start(offset(1)))?;
    let mut reader = BufReader::with_capacity(SLOT_BYTES * 256, file);
    for index in 1..slots.min(SLOTS_MAX + 1) {
        reader.read_exact(&mut slot)?;
        records.extend(Record::decode(&slot).map(|record| (index, record)));
    }
    Ok(records)
}

/// Makes the file so many slots long, whatever the rush was that made it grow, and gets their space
/// where the file system can. Where it is full the slots may turn out to have none.
fn allocate(file: &File, slots: u32) -> io::Result<()> {
    if file.metadata()?.len() > offset(slots) {
        file.set_len(offset(slots))?;
    }
    if let Err(error) = fallocate(file, FallocateFlags::empty(), 0, offset(slots)) {
        log::debug!("allocate a journal's {slots} slots: {error}");
    }
    Ok(())
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
        assert_eq!(journal.free().next, 1);
    }

    #[test]
    fn slots_are_used_again() {
        let scratch = Scratch::new();
        let (journal, _) = open(&scratch).unwrap();
        for number in 0..100 {
            journal.take(&record(number)).unwrap().release();
        }
        assert_eq!(journal.free().next, 2);
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

    fn open_as(scratch: &Scratch, host: &str, port: u16) -> Arc<Journal> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Journal::open(scratch.path().to_str().unwrap(), &HostName::new(host).unwrap(), address).unwrap().0
    }

    fn adopt(scratch: &Scratch, journal: &Arc<Journal>, host: &str) -> Vec<Open> {
        journal.adopt(scratch.path().to_str().unwrap(), &HostName::new(host).unwrap())
    }

    /// A storage was killed in an upload and started on another port: nobody ever looked at what the
    /// first one's journal named.
    #[test]
    fn what_a_storage_of_this_host_left_under_another_address_is_taken_over() {
        let scratch = Scratch::new();
        for (host, port) in [("a", 1), ("a-b", 1), ("b", 1), ("localhost", 1)] {
            std::mem::forget(open_as(&scratch, host, port).take(&record(port.into())).unwrap());
        }
        // That leaked the slots and with them the journals; a kill lets go of the locks.
        let name = |host: &str, port: u16| scratch.path().join(format!(".uploads-{host}-127.0.0.1-{port}"));
        for host in ["a", "a-b", "b", "localhost"] {
            fs::copy(name(host, 1), name(host, 7)).unwrap();
        }
        let running = open_as(&scratch, "a", 2);
        let _slot = running.take(&record(2)).unwrap();
        let mut open = open_paths(scratch.path().to_str().unwrap()).unwrap();
        open.sort();
        assert_eq!(open.len(), 9, "each host's two, and the one of the storage that runs");
        assert_eq!((&open[0], &open[8]), (&record(1).path, &record(2).path));
        let journal = open_as(&scratch, "a", 3);
        let left = adopt(&scratch, &journal, "a");
        assert_eq!(left.iter().map(|open| open.record.clone()).collect::<Vec<_>>(), [record(1)]);
        assert!(!name("a", 7).exists());
        assert!(running.check().is_ok() && journal.check().is_ok());
        for host in ["a-b", "b", "localhost"] {
            assert!(name(host, 7).exists(), "another host's, or nobody knows whose");
        }
        let journal = open_as(&scratch, "localhost", 3);
        assert!(adopt(&scratch, &journal, "localhost").is_empty());
        // The copies are in the journal that took them over.
        fs::copy(name("a", 3), name("a", 8)).unwrap();
        let left = adopt(&scratch, &running, "a");
        assert_eq!(left.iter().map(|open| open.record.clone()).collect::<Vec<_>>(), [record(1)]);
    }

    #[test]
    fn storages_that_start_at_once_take_nothing_from_each_other_and_lose_nothing() {
        let scratch = Scratch::new();
        let template = open_as(&scratch, "x", 1);
        std::mem::forget(template.take(&record(9)).unwrap());
        for _ in 0..20 {
            fs::copy(&template.path, scratch.path().join(".uploads-a-127.0.0.1-99")).unwrap();
            let taken: Vec<_> = thread::scope(|scope| {
                let starts: Vec<_> = (1..5)
                    .map(|port| {
                        let scratch = &scratch;
                        scope.spawn(move || {
                            let journal = open_as(scratch, "a", port);
                            let left = adopt(scratch, &journal, "a");
                            journal.check().unwrap();
                            let count = left.len();
                            left.into_iter().filter_map(|open| open.slot).for_each(Slot::release);
                            (journal, count)
                        })
                    })
                    .collect();
                starts.into_iter().map(|start| start.join().unwrap()).collect()
            });
            assert_eq!(taken.iter().map(|(_, count)| count).sum::<usize>(), 1);
            assert!(taken.iter().all(|(journal, _)| journal.check().is_ok()));
        }
    }

    #[test]
    fn slots_have_their_space_before_they_are_needed() {
        let scratch = Scratch::new();
        let (journal, _) = open(&scratch).unwrap();
        let metadata = journal.file.metadata().unwrap();
        if metadata.blocks() * 512 < offset(ALLOCATED_SLOTS) {
            return; // This file system cannot.
        }
        let slots: Vec<_> =
            (0..ALLOCATED_SLOTS - 1).map(|number| journal.take(&record(number)).unwrap()).collect();
        assert_eq!(journal.file.metadata().unwrap().blocks(), metadata.blocks());
        slots.into_iter().for_each(Slot::release);
    }
}
