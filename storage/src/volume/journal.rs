//! What a kill may leave half done, noted in each store path so that the next start can undo it.
//!
//! A slot is taken before a file is created and released when its row is committed or the file is
//! gone again; a delete takes one before its row goes and releases it when the file has gone. So
//! whatever a killed storage leaves behind is named by a taken slot, and one rule resolves every
//! slot: **where the row is, the file stays; where the row certainly is not, the file goes.** A path
//! is made of a number that never repeats, so a slot speaks of one upload only, however late it is
//! resolved.
//!
//! The file is `.uploads-<member>` (see [`MemberName`]): storages that share a store path each have their
//! own, and a lock keeps two processes of the same name apart. It is not synced: a killed process's
//! writes are in the page cache and safe. A power loss may take a slot with it, and then a file that
//! never got its row can stay; what is acknowledged is safe regardless.
//!
//! What a storage left that has ended is taken over by any member that serves the store path, whatever the
//! name was (see [`Journal::adopt`]); that it has ended is shown by the rules in `heartbeat`. The open
//! journal is also what shows that a store path is still the disk that was opened: where it does not lie at
//! its path any more, the disk is not mounted (see [`Journal::check`]). Where the same volume is mounted anew the
//! journal is given up (see [`Journal::retire`]) and opened anew; who has a slot asks the journal that gave it.
//!
//! Slots of [`SLOT_BYTES`], the first of which is the head: [`MAGIC`], the holder's heartbeat, zeros. The
//! others, free where their checksum is wrong or their mark is not 1:
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
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use rustix::io::Errno;
use tnv_common::error::{Context, Result};
use tnv_common::fail;
use tnv_common::proto::field::Reader;

use crate::globals::MemberName;
use crate::path;
use crate::volume::heartbeat::{self, Heartbeat, Holder, LEASE, Watch};

/// Room for the longest of each text: 10 + 255 + 127 + 512 bytes.
pub const SLOT_BYTES: usize = 1024;

/// What the file begins with; the digits are the version of its form.
const MAGIC: &[u8; 16] = b"TNV-UPLOADS-0001";

/// Most slots in one file: more than there can be workers, with room for what waits to be resolved.
const SLOTS_MAX: u32 = 1 << 17;

/// So many slots have their space from the start, 1 MiB of it: a disk that fills up later then still
/// lets a delete be noted, and an upload fail in good order.
const ALLOCATED_SLOTS: u32 = 1024;

/// How long a lock that is held is waited for: another storage may look just now whether there is something
/// to adopt, which is a matter of milliseconds.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// How long it is waited for a heartbeat of the one who holds the lock, which shows that it is a storage of the same
/// name. Without one it may be another storage that takes much over; each entry is written and read.
const HOLDER_PATIENCE: Duration = Duration::from_secs(4);

/// How long a journal that is given up waits for those who are writing to it.
const WRITERS_PATIENCE: Duration = Duration::from_secs(1);

/// The longest owner and the longest name of an entry.
const OWNER_BYTES_MAX: usize = 255;
const NAME_BYTES_MAX: usize = 127;

const TAKEN: u8 = 1;

/// What a slot names: a file that is half done, and what refers to it where it is done. The journal knows nothing of
/// owner and name but their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalEntry {
    /// Whose file it is: 1 to 255 bytes.
    pub owner: String,
    /// Its name with the owner: 1 to 127 bytes.
    pub name: String,
    /// The file.
    pub path: String,
}

impl JournalEntry {
    /// The slot that says it. Texts that are too long for it are refused by [`Journal::take`].
    pub fn encode(&self) -> [u8; SLOT_BYTES] {
        let mut slot = [0; SLOT_BYTES];
        let (owner, name) = (self.owner.as_bytes(), self.name.as_bytes());
        slot[4] = TAKEN;
        slot[5] = owner.len() as u8;
        slot[6] = name.len() as u8;
        slot[8..10].copy_from_slice(&(self.path.len() as u16).to_be_bytes());
        let texts = [owner, name, self.path.as_bytes()].concat();
        slot[10..10 + texts.len()].copy_from_slice(&texts);
        let crc = crc32fast::hash(&slot[4..]);
        slot[..4].copy_from_slice(&crc.to_be_bytes());
        slot
    }

    /// What a slot says; `None` where it is free or makes no sense.
    pub fn decode(slot: &[u8]) -> Option<JournalEntry> {
        let mut reader = Reader::new(slot);
        let crc = reader.bytes("checksum", 4).ok()?;
        if crc != crc32fast::hash(slot.get(4..)?).to_be_bytes() || reader.u8("mark").ok()? != TAKEN {
            return None;
        }
        let owner_bytes = reader.u8("owner length").ok()?;
        let name_bytes = reader.u8("name length").ok()?;
        reader.u8("zero").ok()?;
        let path_bytes = reader.u16("path length").ok()?;
        let mut text = |what, bytes: u16| -> Option<String> {
            String::from_utf8(reader.bytes(what, bytes.into()).ok()?.to_vec()).ok()
        };
        let owner = text("owner", owner_bytes.into())?;
        let name = text("name", name_bytes.into())?;
        let path = text("path", path_bytes)?;
        let entry = JournalEntry { owner, name, path };
        (entry.fits() && path::check(&entry.path).is_ok()).then_some(entry)
    }

    /// Whether a slot has room for it, and its texts are ones.
    fn fits(&self) -> bool {
        let is_text = |text: &str, bytes_max| (1..=bytes_max).contains(&text.len()) && !text.contains('\0');
        is_text(&self.owner, OWNER_BYTES_MAX)
            && is_text(&self.name, NAME_BYTES_MAX)
            && self.path.len() <= path::PATH_CHARS_MAX
    }
}

/// The journal of one store path.
pub struct Journal {
    file: File,
    path: String,
    identity: Identity,
    /// Its lock holds for all who can reach the file system.
    is_local: bool,
    free: Mutex<Free>,
    pulse: Mutex<Pulse>,
    /// It was given up, so that nothing more may be written: another one may have its slots. Held while a slot is
    /// written.
    retired: RwLock<bool>,
}

/// This process as the holder.
struct Pulse {
    holder: [u8; 16],
    /// Heartbeats that were written.
    count: u64,
    /// When the writing of the last one began; none when the journal was let go or may be another storage's.
    since: Option<Instant>,
    /// It was let go, for good.
    is_closed: bool,
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
    /// Opens the journal of this storage in a store path, and returns what a predecessor left.
    ///
    /// A storage with an ID may have moved here from another host, whose lock is perhaps not seen: then the
    /// kind of the failure is `Timeout` until the other one has stopped or has shown no heartbeat for long
    /// enough. It is `Timeout`, too, while the lock is held by somebody who shows no heartbeat: that is no storage of
    /// this name, and the lock will be free. It is `Busy` where a storage of this name runs.
    pub fn open(
        store_path: &str,
        member: &MemberName,
        watch: &mut Watch,
    ) -> Result<(Arc<Journal>, Vec<PendingOp>)> {
        let path = member.file_in(store_path, PREFIX);
        let file = open_locked(&path)?;
        if member.may_move() && !heartbeat::is_local(&file) {
            wait_for_holder(&path, &file, watch)?;
        }
        begin(&file, &path)?;
        let entries = read(&file).context(|| format!("read {path}"))?;
        let next = entries.iter().map(|(index, _)| index + 1).max().unwrap_or(1);
        allocate(&file, next.max(ALLOCATED_SLOTS)).context(|| format!("shorten {path}"))?;
        let free = Mutex::new(Free { indexes: untaken(&entries, next), next });
        let identity = identity(&file.metadata().context(|| format!("look at {path}"))?);
        let pulse = Mutex::new(Pulse { holder: rand::random(), count: 0, since: None, is_closed: false });
        let is_local = heartbeat::is_local(&file);
        let retired = RwLock::new(false);
        let journal = Arc::new(Journal { file, path, identity, is_local, free, pulse, retired });
        journal.beat().context(|| format!("write the heartbeat in {}", journal.path))?;
        tell(&journal.path, entries.len());
        let left = entries.into_iter().map(|(index, entry)| {
            let slot = Slot { journal: Arc::clone(&journal), index };
            PendingOp { slot: Some(slot), entry }
        });
        let left = left.collect();
        Ok((journal, left))
    }

    /// Takes over what storages left that have ended: their slots become slots of this journal, and their
    /// journals are removed. What cannot be taken over stays as it is, for the next time.
    pub fn adopt(
        self: &Arc<Journal>,
        store_path: &str,
        member: &MemberName,
        watch: &mut Watch,
    ) -> Vec<PendingOp> {
        let others = match journals(store_path) {
            Ok(others) => others,
            Err(error) => {
                log::debug!("look for journals in {store_path}: {error}");
                return Vec::new();
            }
        };
        let mut left = Vec::new();
        for path in others.iter().filter_map(|path| path.to_str()).filter(|path| *path != self.path) {
            match self.adopt_one(path, member, watch) {
                Ok(mut found) => left.append(&mut found),
                Err(error) => log::warn!("take over {path}: {error}; trying again"),
            }
        }
        left
    }

    /// First the journal gets a heartbeat of this one's holder: a former holder that lives after all finds it before
    /// it acknowledges anything (see [`Journal::verify`]), and only then is it asked which rows there are. The copies
    /// come next, so that a kill in between leaves a slot twice, which is harmless, and never not at all. Whoever
    /// opens the file in the meantime finds it locked or gone, and opens it anew.
    ///
    /// The file itself stays where another host may come back to it, and with it that storage's list of damaged files;
    /// until it has not changed for [`REMOVE_AFTER`].
    fn adopt_one(
        self: &Arc<Journal>,
        path: &str,
        member: &MemberName,
        watch: &mut Watch,
    ) -> io::Result<Vec<PendingOp>> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result?,
        };
        if !try_lock(&file, FlockOperation::NonBlockingLockExclusive)? || !is_at(&file, path)? {
            return Ok(Vec::new());
        }
        let judged = Heartbeat::read(&file)?;
        let has_head = has_head(&file)?;
        // Of a journal that may be held its head is enough, and one that was empty is not read again.
        let is_empty = !has_head || watch.is_known_empty(path, &file)?;
        let mut entries = is_empty.then(Vec::new);
        let holder = holder_of(path, &file, &mut entries, member, watch)?;
        if holder == Holder::MayLive {
            return Ok(Vec::new());
        }
        let entries = match entries {
            Some(entries) => entries,
            None => read(&file)?,
        };
        if entries.is_empty() && !is_empty {
            watch.note_empty(path, &file)?;
        }
        if holder == Holder::Still && entries.is_empty() {
            return Ok(Vec::new());
        }
        let is_removed = holder == Holder::Dead && is_only_ours(&file, judged.as_ref())?;
        let is_marked = judged.as_ref().is_some_and(|heartbeat| heartbeat.count == 0);
        if entries.is_empty() && is_marked && !is_removed {
            return Ok(Vec::new());
        }
        if let (Holder::Dead, Some(judged)) = (holder, judged) {
            let kernel = judged.kernel;
            if Heartbeat::read(&file)? != Some(judged) {
                return Ok(Vec::new()); // It lives.
            }
            // It stays that of the former holder's kernel, whose host may come back.
            Heartbeat { kernel, ..Heartbeat::new(0, self.holder()) }.write(&file)?;
            file.sync_data()?;
        }
        if is_removed || !entries.is_empty() {
            tell(path, entries.len());
        }
        let mut left = Vec::new();
        for (_, entry) in &entries {
            match self.take(entry) {
                Ok(slot) => left.push(PendingOp { slot: Some(slot), entry: entry.clone() }),
                Err(error) => {
                    left.into_iter().filter_map(|open: PendingOp| open.slot).for_each(Slot::release);
                    return Err(error);
                }
            }
        }
        let copied = self.file.sync_data();
        let freed = copied.and_then(|()| entries.iter().try_for_each(|(index, _)| free_slot(&file, *index)));
        if let Err(error) = freed {
            // What is named twice is settled by both, to the same end; but it would be taken again and again.
            left.into_iter().filter_map(|open: PendingOp| open.slot).for_each(Slot::release);
            return Err(error);
        }
        if is_removed && let Err(error) = fs::remove_file(path) {
            log::warn!("remove {path}, which was taken over: {error}");
        }
        Ok(left)
    }

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
    fn write(&self, write: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
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

    fn pulse(&self) -> MutexGuard<'_, Pulse> {
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

    fn free(&self) -> MutexGuard<'_, Free> {
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

/// Whether a journal without a holder is of no use to any other host: its holder ran under this kernel, or a previous
/// version left it here, or it has not changed for long.
fn is_only_ours(file: &File, judged: Option<&Heartbeat>) -> io::Result<bool> {
    let age = file.metadata()?.modified()?.elapsed().unwrap_or_default();
    Ok(age >= REMOVE_AFTER
        || judged.map_or_else(|| heartbeat::is_local(file), |found| heartbeat::is_here(found, file)))
}

/// Clears the mark, by which the checksum is wrong, too.
fn free_slot(file: &File, index: u32) -> io::Result<()> {
    file.write_all_at(&[0; 8], offset(index))
}

/// The slots below `next` that are not taken. The taken ones are in the order of the file.
fn untaken(entries: &[(u32, JournalEntry)], next: u32) -> Vec<u32> {
    let mut taken = entries.iter().map(|(index, _)| *index).peekable();
    (1..next).filter(|index| taken.next_if_eq(index).is_none()).collect()
}

/// A journal without a holder stays for so long where another host may come back to it, in case the storage is only
/// being repaired or its host upgraded.
const REMOVE_AFTER: Duration = Duration::from_secs(7 * 86_400);

/// What the names of all journals begin with.
pub const PREFIX: &str = ".uploads-";

/// How often the journals are read anew where one goes meanwhile, because it is adopted.
const LISTS_MAX: usize = 16;

/// Whether a storage has ever used this store path.
pub fn is_store(store_path: &str) -> io::Result<bool> {
    Ok(!journals(store_path)?.is_empty())
}

/// Whether the holder of a journal has ended: it let go in good order, or another storage has taken over.
pub fn has_ended(path: &Path) -> io::Result<bool> {
    Ok(Heartbeat::read(&File::open(path)?)?.is_some_and(|heartbeat| heartbeat.count == 0))
}

/// What the journals of a store path say, of this host's storages and of others', which may be running.
#[derive(Default)]
pub struct Journals {
    /// The paths in the taken slots of journals that are held or may be. Files whose slots were taken before
    /// this was read and released after it was, are among them.
    pub open: Vec<String>,
    /// The same of journals whose holder is perhaps dead: a later look may show it.
    pub doubtful: Vec<String>,
    /// Journals that have taken slots and no holder, and how many slots.
    pub left: Vec<(String, usize)>,
}

impl Journals {
    /// Reads them all.
    pub fn read(store_path: &str, member: &MemberName, watch: &mut Watch) -> io::Result<Journals> {
        for _ in 0..LISTS_MAX {
            match Journals::read_once(store_path, member, watch) {
                // Its slots are now in another, which was perhaps read before; or it is being shortened.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => {}
                read => return read,
            }
        }
        Err(io::Error::other("storages come and go too fast; try again later"))
    }

    fn read_once(store_path: &str, member: &MemberName, watch: &mut Watch) -> io::Result<Journals> {
        let mut all = Journals::default();
        for path in journals(store_path)? {
            let file = File::open(&path)?;
            if !has_head(&file)? {
                continue;
            }
            let path = path.to_string_lossy();
            // The lock is let go of with the file.
            let is_free = try_lock(&file, FlockOperation::NonBlockingLockShared)?;
            let entries = read(&file)?;
            let mut entries = Some(entries);
            let holder = match is_free && entries.as_ref().is_some_and(|entries| !entries.is_empty()) {
                true => holder_of(&path, &file, &mut entries, member, watch)?,
                false => Holder::MayLive,
            };
            let entries = entries.unwrap_or_default();
            let has_heartbeat = is_free && Heartbeat::read(&file)?.is_some();
            if holder == Holder::Dead {
                all.left.push((path.into_owned(), entries.len()));
            } else {
                let paths = entries.into_iter().map(|(_, entry)| entry.path);
                let doubtful = has_heartbeat && holder == Holder::MayLive;
                if doubtful { all.doubtful.extend(paths) } else { all.open.extend(paths) }
            }
        }
        Ok(all)
    }
}

/// The holders of the journals in a store path, this storage's own among them, so far as they can be read.
pub fn holders(store_path: &str) -> io::Result<Vec<[u8; 16]>> {
    let read = |path: PathBuf| Heartbeat::read(&File::open(path).ok()?).ok()?;
    Ok(journals(store_path)?.into_iter().filter_map(read).map(|heartbeat| heartbeat.holder).collect())
}

/// `entries`: those of the journal, where they are known; they are read where they matter.
fn holder_of(
    path: &str,
    file: &File,
    entries: &mut Option<Vec<(u32, JournalEntry)>>,
    member: &MemberName,
    watch: &mut Watch,
) -> io::Result<Holder> {
    let name = path.rsplit('/').next().and_then(|name| name.strip_prefix(PREFIX));
    let named_here = name.is_some_and(|name| member.is_of_this_host(name));
    watch.holder(path, file, named_here, &mut || {
        let entries = match entries {
            Some(entries) => entries,
            None => entries.insert(read(file)?),
        };
        Ok(entries.iter().map(|(_, entry)| entry.path.clone()).collect())
    })
}

/// Of a storage with this ID that ran on another host.
fn wait_for_holder(path: &str, file: &File, watch: &mut Watch) -> Result<()> {
    let holder = || -> io::Result<Holder> {
        match Heartbeat::read(file)? {
            Some(found) if found.kernel != heartbeat::this_kernel() => {
                watch.holder(path, file, false, &mut || Ok(Vec::new()))
            }
            _ => Ok(Holder::Dead),
        }
    };
    match { holder }().context(|| format!("read {path}"))? {
        Holder::MayLive => fail!(
            Timeout,
            "{path} was last held on another host, by a storage with the same tnv_storage_id; waiting until its \
             heartbeat has stood still for {} s",
            heartbeat::SILENCE.as_secs()
        ),
        Holder::Dead | Holder::Still => Ok(()),
    }
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

/// Opens the file and locks it. A predecessor that is still finishing its uploads has let go of the
/// port already: only the lock keeps its slots from being resolved under its hands, so there is no
/// going on without it. Between opening and locking another storage may have adopted and removed the
/// file; then there is a new one to be made.
fn open_locked(path: &str) -> Result<File> {
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

fn try_lock(file: &File, operation: FlockOperation) -> io::Result<bool> {
    match flock(file, operation) {
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

fn tell(path: &str, entries: usize) {
    if entries > 0 {
        log::warn!("{path}: {entries} uploads or deletes were cut off");
    }
}

/// The taken slots.
fn read(mut file: &File) -> io::Result<Vec<(u32, JournalEntry)>> {
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
    use std::net::SocketAddr;
    use tnv_common::error::ErrorKind;
    use tnv_common::proto::HostName;

    fn entry(number: u32) -> JournalEntry {
        JournalEntry {
            owner: "ü".repeat(127),
            name: "f".repeat(127),
            path: format!("{}/000/000/000/5F9E3FA7_{number:03X}", "d".repeat(480)),
        }
    }

    fn member(host: &str, port: u16) -> MemberName {
        MemberName::new(None, &HostName::new(host).unwrap(), SocketAddr::from(([127, 0, 0, 1], port)))
    }

    fn open(scratch: &Scratch) -> Result<(Arc<Journal>, Vec<PendingOp>)> {
        Journal::open(scratch.path().to_str().unwrap(), &member("a/host", 23000), &mut Watch::new())
    }

    #[test]
    fn what_a_kill_left_is_found_again_and_what_was_finished_is_not() {
        let scratch = Scratch::new();
        let (journal, left) = open(&scratch).unwrap();
        assert!(left.is_empty());
        let slots: Vec<_> = (0..5).map(|number| journal.take(&entry(number)).unwrap()).collect();
        for (index, slot) in slots.into_iter().enumerate() {
            if index != 1 && index != 3 {
                slot.release();
            }
        }
        drop(journal);
        let (journal, left) = open(&scratch).unwrap();
        assert_eq!(left.iter().map(|open| open.entry.clone()).collect::<Vec<_>>(), [entry(1), entry(3)]);
        // New ones do not disturb the old ones.
        let slots: Vec<_> = (10..14).map(|number| journal.take(&entry(number)).unwrap()).collect();
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
            journal.take(&entry(number)).unwrap().release();
        }
        assert_eq!(journal.free().next, 2);
    }

    #[test]
    fn two_storages_of_one_name_cannot_share_it() {
        let scratch = Scratch::new();
        let (first, _) = open(&scratch).unwrap();
        let error = thread::scope(|scope| {
            let second = scope.spawn(|| open(&scratch).err().unwrap());
            while !second.is_finished() {
                first.beat().unwrap();
                thread::sleep(Duration::from_millis(100));
            }
            second.join().unwrap()
        });
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(error.message().contains("another storage of this name"), "{error}");
    }

    /// A storage started while another one took its journal over, which took longer than 2 s: it did not start.
    #[test]
    fn a_lock_whose_holder_shows_no_heartbeat_is_waited_for() {
        let scratch = Scratch::new();
        let (first, _) = open(&scratch).unwrap();
        let path = first.path.clone();
        drop(first);
        let adopter = File::open(&path).unwrap();
        assert!(try_lock(&adopter, FlockOperation::NonBlockingLockExclusive).unwrap());
        assert_eq!(open(&scratch).err().unwrap().kind(), ErrorKind::Timeout);
        let marking = OpenOptions::new().write(true).open(&path).unwrap();
        thread::scope(|scope| {
            let second = scope.spawn(|| open(&scratch));
            thread::sleep(Duration::from_millis(500));
            Heartbeat::new(0, [7; 16]).write(&marking).unwrap();
            thread::sleep(LOCK_PATIENCE);
            assert!(!second.is_finished());
            drop(adopter);
            assert!(second.join().unwrap().is_ok());
        });
    }

    /// Bytes that this thread has read by system calls.
    fn bytes_read() -> u64 {
        let text = fs::read_to_string("/proc/thread-self/io").unwrap();
        text.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
    }

    /// Where locks do not reach other hosts all of their journals were read every 5 s, and those that had ended for
    /// 7 days.
    #[test]
    fn journals_that_may_be_held_and_those_that_are_known_to_be_empty_are_not_read() {
        let scratch = Scratch::new();
        let journal = open_as(&scratch, "a", 3);
        let mut watch = Watch::with(Duration::from_secs(3600), Duration::from_secs(3600));
        let mut adopt = || {
            let before = bytes_read();
            let left = entries(&adopt(&scratch, &journal, "a", &mut watch)).len();
            (left, bytes_read() - before > offset(ALLOCATED_SLOTS) / 2)
        };
        let held = leave(&scratch, "held", Some(5));
        assert_eq!(adopt(), (0, false));
        fs::remove_file(held).unwrap();
        let ended = leave(&scratch, "ended", Some(0));
        assert_eq!(adopt(), (1, true));
        assert_eq!(adopt(), (0, true), "it was changed just now");
        let file = OpenOptions::new().write(true).open(&ended).unwrap();
        let old = std::time::SystemTime::now() - Duration::from_secs(60);
        file.set_modified(old).unwrap();
        assert_eq!(adopt(), (0, true));
        assert_eq!(adopt(), (0, false));
        // A storage of that name came, and has ended.
        file.write_all_at(&entry(4).encode(), offset(7)).unwrap();
        Heartbeat { kernel: [7; 16], ..Heartbeat::new(0, [8; 16]) }.write(&file).unwrap();
        assert_eq!(adopt(), (1, true));
    }

    /// A storage that had lost its journal opened it anew. An upload from before was acknowledged by the new one, and
    /// when it failed it freed a slot that another upload had by then.
    #[test]
    fn a_journal_that_was_given_up_acknowledges_nothing_and_touches_no_slot_of_the_next_one() {
        let scratch = Scratch::new();
        let (first, _) = open(&scratch).unwrap();
        let slot = first.take(&entry(1)).unwrap();
        assert!(slot.is_held() && slot.verify());
        assert!(first.retire() && first.retire());
        assert!(!slot.is_held() && !slot.verify() && first.take(&entry(2)).is_err());
        let (second, left) = open(&scratch).unwrap();
        assert_eq!(entries(&left), [entry(1)]);
        left.into_iter().filter_map(|open| open.slot).for_each(Slot::release);
        let next = second.take(&entry(3)).unwrap();
        assert_eq!(next.index, slot.index);
        slot.release();
        first.let_go();
        assert!(next.is_held() && second.beat().is_ok());
        drop((next, second));
        assert_eq!(entries(&open(&scratch).unwrap().1), [entry(3)]);
    }

    #[test]
    fn damage_frees_a_slot_and_never_panics() {
        let slot = entry(1).encode();
        assert_eq!(JournalEntry::decode(&slot), Some(entry(1)));
        for byte in 0..SLOT_BYTES {
            let mut damaged = slot;
            damaged[byte] ^= 0x40;
            assert_eq!(JournalEntry::decode(&damaged), None);
        }
        for length in 0..SLOT_BYTES {
            assert_eq!(JournalEntry::decode(&slot[..length]), None);
        }
        let mut evil = JournalEntry { path: "/etc/passwd".into(), ..entry(1) }.encode();
        assert_eq!(JournalEntry::decode(&evil), None, "not a path of ours");
        evil[4] = 2;
        assert_eq!(JournalEntry::decode(&evil), None);
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

    /// At a start each slot was looked for among all that were taken: with a full journal minutes of work.
    #[test]
    fn a_full_journal_is_opened_as_fast_as_it_is_read() {
        let scratch = Scratch::new();
        let (journal, _) = open(&scratch).unwrap();
        let path = journal.path.clone();
        drop(journal);
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let mut writer = io::BufWriter::with_capacity(1 << 20, &file);
        writer.seek(SeekFrom::Start(offset(1))).unwrap();
        let slot = entry(1).encode();
        // All but every thousandth.
        let is_free = |index: u32| index.is_multiple_of(1000);
        for index in 1..=SLOTS_MAX {
            io::Write::write_all(&mut writer, if is_free(index) { &[0; SLOT_BYTES] } else { &slot }).unwrap();
        }
        io::Write::flush(&mut writer).unwrap();
        let start = Instant::now();
        let (journal, left) = open(&scratch).unwrap();
        let took = start.elapsed();
        assert_eq!(left.len() as u32, SLOTS_MAX - SLOTS_MAX / 1000);
        assert_eq!(
            journal.free().indexes,
            (1..SLOTS_MAX).filter(|index| is_free(*index)).collect::<Vec<_>>()
        );
        // 10^10 steps take a minute even where they are fast.
        assert!(took < Duration::from_secs(30), "{took:?}");
    }

    fn open_as(scratch: &Scratch, host: &str, port: u16) -> Arc<Journal> {
        let store_path = scratch.path().to_str().unwrap();
        Journal::open(store_path, &member(host, port), &mut Watch::new()).unwrap().0
    }

    fn adopt(scratch: &Scratch, journal: &Arc<Journal>, host: &str, watch: &mut Watch) -> Vec<PendingOp> {
        journal.adopt(scratch.path().to_str().unwrap(), &member(host, 1), watch)
    }

    fn entries(left: &[PendingOp]) -> Vec<JournalEntry> {
        left.iter().map(|open| open.entry.clone()).collect()
    }

    /// What a storage leaves that is killed: this one's journal, under another name, as if another kernel had
    /// run it or, without a heartbeat, a previous version.
    fn leave(scratch: &Scratch, name: &str, heartbeat: Option<u64>) -> PathBuf {
        let path = scratch.path().join(format!(".uploads-{name}"));
        let template = open_as(scratch, "template", 9);
        let slot = template.take(&entry(9)).unwrap();
        fs::copy(&template.path, &path).unwrap();
        slot.release();
        fs::remove_file(&template.path).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[0; 100], 16).unwrap();
        if let Some(count) = heartbeat {
            Heartbeat { kernel: [7; 16], ..Heartbeat::new(count, [7; 16]) }.write(&file).unwrap();
        }
        path
    }

    /// A storage was killed in an upload and started on another port, or in a container of another name: what
    /// the first one's journal named was never looked at again.
    #[test]
    fn what_a_storage_left_that_has_ended_is_taken_over_whatever_its_name_was() {
        let scratch = Scratch::new();
        let running = open_as(&scratch, "b", 2);
        let _slot = running.take(&entry(2)).unwrap();
        let journal = open_as(&scratch, "a", 3);
        let mut watch = Watch::with(Duration::from_millis(100), Duration::from_millis(400));
        // Of this host, and stopped in good order: at once.
        for (name, heartbeat) in [("a-127.0.0.1-7", None), ("b-127.0.0.1-7", Some(0)), ("an-id", Some(0))] {
            let path = leave(&scratch, name, heartbeat);
            assert_eq!(entries(&adopt(&scratch, &journal, "a", &mut watch)), [entry(9)], "{name}");
            // Another host may come back to its own, and finds that it was taken over.
            assert_eq!(path.exists(), heartbeat.is_some(), "{name}");
            assert!(adopt(&scratch, &journal, "a", &mut watch).is_empty(), "{name}");
            assert_eq!(path.exists().then(|| has_ended(&path).unwrap()), heartbeat.map(|_| true), "{name}");
        }
        // Of others, when they have shown nothing for some time.
        let path = leave(&scratch, "c-127.0.0.1-7", Some(5));
        assert!(adopt(&scratch, &journal, "a", &mut watch).is_empty());
        thread::sleep(Duration::from_millis(120));
        assert_eq!(entries(&adopt(&scratch, &journal, "a", &mut watch)), [entry(9)]);
        assert!(adopt(&scratch, &journal, "a", &mut watch).is_empty(), "its slots are free now");
        assert!(has_ended(&path).unwrap());
        // Of a previous version: what it names, and not the journal.
        let old = leave(&scratch, "d-127.0.0.1-7", None);
        for pause in [0, 120] {
            thread::sleep(Duration::from_millis(pause));
            assert!(adopt(&scratch, &journal, "a", &mut watch).is_empty());
        }
        thread::sleep(Duration::from_millis(320));
        assert_eq!(entries(&adopt(&scratch, &journal, "a", &mut watch)), [entry(9)]);
        assert!(old.exists());
        thread::sleep(Duration::from_millis(420));
        assert!(adopt(&scratch, &journal, "a", &mut watch).is_empty(), "its slots are free now");
        // A name that many hosts have says nothing of this one.
        leave(&scratch, "localhost-127.0.0.1-7", None);
        assert!(adopt(&scratch, &journal, "localhost", &mut watch).is_empty());
        assert!(running.check().is_ok() && journal.check().is_ok());
        let left =
            Journals::read(scratch.path().to_str().unwrap(), &member("a", 3), &mut Watch::new()).unwrap();
        assert!(left.open.contains(&entry(2).path) && left.left.is_empty() && left.doubtful.is_empty());
    }

    #[test]
    fn a_journal_protects_what_it_names_only_while_it_may_be_held() {
        let scratch = Scratch::new();
        let store_path = scratch.path().to_str().unwrap();
        let mut watch = Watch::with(Duration::from_millis(100), Duration::from_secs(3600));
        let mut read = || {
            let read = Journals::read(store_path, &member("a", 3), &mut watch).unwrap();
            (read.open.len(), read.doubtful.len(), read.left.len())
        };
        leave(&scratch, "stopped", Some(0));
        assert_eq!(read(), (0, 0, 1));
        leave(&scratch, "previous", None);
        assert_eq!(read(), (1, 0, 1));
        leave(&scratch, "elsewhere", Some(5));
        assert_eq!(read(), (1, 1, 1));
        let journal = open_as(&scratch, "running", 1);
        let _slot = journal.take(&entry(1)).unwrap();
        assert_eq!(read(), (2, 1, 1));
        thread::sleep(Duration::from_millis(120));
        assert_eq!(read(), (2, 0, 2));
    }

    /// Two storages were given one ID, or a host that was cut off came back.
    #[test]
    fn a_holder_that_is_not_alone_or_was_silent_for_long_acknowledges_nothing() {
        let scratch = Scratch::new();
        let journal = open_as(&scratch, "a", 1);
        assert!(journal.beat().is_ok() && journal.is_held());
        Heartbeat::new(1, [7; 16]).write(&journal.file).unwrap();
        assert!(journal.beat().is_err() && !journal.is_held());
        let journal = open_as(&scratch, "a", 2);
        journal.pulse().since = Instant::now().checked_sub(LEASE);
        assert!(!journal.is_held());
        assert!(journal.beat().is_ok() && journal.is_held(), "no other one has taken it");
        journal.let_go();
        assert!(!journal.is_held());
        assert_eq!(Heartbeat::read(&journal.file).unwrap().map(|heartbeat| heartbeat.count), Some(0));
    }

    #[test]
    fn storages_that_start_at_once_take_nothing_from_each_other_and_lose_nothing() {
        let scratch = Scratch::new();
        for _ in 0..20 {
            leave(&scratch, "x", Some(0));
            let taken: Vec<_> = thread::scope(|scope| {
                let starts: Vec<_> = (1..5)
                    .map(|port| {
                        let scratch = &scratch;
                        scope.spawn(move || {
                            let journal = open_as(scratch, "a", port);
                            let left = adopt(scratch, &journal, "a", &mut Watch::new());
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
            (0..ALLOCATED_SLOTS - 1).map(|number| journal.take(&entry(number)).unwrap()).collect();
        assert_eq!(journal.file.metadata().unwrap().blocks(), metadata.blocks());
        slots.into_iter().for_each(Slot::release);
    }
}
