//! Opening a journal, and taking over those that storages left that have ended.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use rustix::fs::FlockOperation;
use tnv_common::error::{Context, Result};
use tnv_common::fail;

use super::file::{
    allocate, begin, free_slot, has_head, identity, is_at, open_locked, read, try_lock, untaken,
};
use super::scan::{PREFIX, holder_of, journals};
use super::slots::{Free, Journal, PendingOp, Pulse, Slot};
use crate::globals::MemberName;
use crate::volume::heartbeat::{self, Heartbeat, Holder, Watch};

/// So many slots have their space from the start, 1 MiB of it: a disk that fills up later then still
/// lets a delete be noted, and an upload fail in good order.
pub(super) const ALLOCATED_SLOTS: u32 = 1024;

/// A journal without a holder stays for so long where another host may come back to it, in case the storage is only
/// being repaired or its host upgraded.
const REMOVE_AFTER: Duration = Duration::from_secs(7 * 86_400);

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
        log_left(&journal.path, entries.len());
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
    /// come next, so that a kill in between leaves a slot twice, which is harmless, and never loses one. A process that
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
            log_left(path, entries.len());
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
}

/// Whether a journal without a holder is of no use to any other host: its holder ran under this kernel, or a previous
/// version left it here, or it has not changed for long.
fn is_only_ours(file: &File, judged: Option<&Heartbeat>) -> io::Result<bool> {
    let age = file.metadata()?.modified()?.elapsed().unwrap_or_default();
    Ok(age >= REMOVE_AFTER
        || judged.map_or_else(|| heartbeat::is_local(file), |found| heartbeat::is_here(found, file)))
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

fn log_left(path: &str, entries: usize) {
    if entries > 0 {
        log::warn!("{path}: {entries} uploads or deletes were cut off");
    }
}
