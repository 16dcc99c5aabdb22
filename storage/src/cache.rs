//! What the database said a short while ago. The cache is bounded, its entries live for
//! `redis_key_timeout`, and a hit is only a hint: another member may have deleted or replaced the
//! file since, so its user compares it with the file first (see `file::send`).
//!
//! A row is read from the database and put here a moment later. A delete on this member may come in
//! between: it removes the row, then the entry, which is not there yet. So a reader takes an [`Epoch`]
//! before it asks the database, a removal ends the epoch, and a row of an ended epoch is not kept.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tnv_common::proto::tnv::file_key::Triple;

use crate::db::FileRow;

/// At most this many entries, of 400 bytes or so each: 12 MiB. The oldest makes room.
const ENTRIES_MAX: usize = 32_768;

/// Removals are counted in so many shards, 8 KiB in all. A removal keeps a row of another file out of the
/// cache only where both are in one shard and the removal comes while that row is read: once in a thousand.
const SHARDS: usize = 1024;

/// Rows by the triple that was asked for. Misses are not kept: an upload elsewhere would stay hidden.
pub struct Cache {
    lifetime: Duration,
    entries_max: usize,
    state: Mutex<State>,
    removals: Removals,
}

/// How many removals there were in each shard of the files. A count changes only under the lock of the
/// state, so that a `put` sees each removal either in the count or in what the removal leaves behind.
struct Removals {
    hasher: RandomState,
    counts: Box<[AtomicU64]>,
}

impl Default for Removals {
    fn default() -> Removals {
        let counts = (0..SHARDS).map(|_| AtomicU64::new(0)).collect();
        Removals { hasher: RandomState::new(), counts }
    }
}

impl Removals {
    fn shard(&self, file: &Triple) -> usize {
        // The remainder is less than the number of shards.
        (self.hasher.hash_one(file) % SHARDS as u64) as usize
    }
}

/// The time between two removals, as far as one file is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    shard: usize,
    removals: u64,
}

/// Invariant: each entry of `rows` has its number in `order` exactly once; `order` may also hold
/// numbers of entries that were removed or replaced, and is cut down as they come up.
#[derive(Default)]
struct State {
    rows: HashMap<Arc<Triple>, Entry>,
    /// All entries live equally long, so the oldest is also the first to end.
    order: VecDeque<(u64, Arc<Triple>)>,
    next: u64,
}

struct Entry {
    number: u64,
    until: Instant,
    row: FileRow,
}

impl Cache {
    /// A cache whose entries live so long; 0 keeps none.
    pub fn new(lifetime: Duration) -> Cache {
        Cache { lifetime, entries_max: ENTRIES_MAX, state: Mutex::default(), removals: Removals::default() }
    }

    /// What the database said of this file, if that is not too long ago.
    pub fn get(&self, file: &Triple) -> Option<FileRow> {
        if self.lifetime.is_zero() {
            return None;
        }
        let state = self.state();
        state.rows.get(file).filter(|entry| entry.until > Instant::now()).map(|entry| entry.row.clone())
    }

    /// The present epoch of a file. It must be taken before the database is asked, or the row written,
    /// that [`Cache::put`] is given.
    pub fn epoch(&self, file: &Triple) -> Epoch {
        let shard = self.removals.shard(file);
        Epoch { shard, removals: self.removals.counts[shard].load(Ordering::Acquire) }
    }

    /// Keeps what the database said in this epoch, unless the epoch has ended.
    pub fn put(&self, epoch: Epoch, file: &Triple, row: &FileRow) {
        if self.lifetime.is_zero() {
            return;
        }
        let (now, file) = (Instant::now(), Arc::new(file.clone()));
        let mut state = self.state();
        if self.removals.counts[epoch.shard].load(Ordering::Acquire) != epoch.removals {
            return;
        }
        let number = state.next;
        state.next += 1;
        let entry = Entry { number, until: now + self.lifetime, row: row.clone() };
        // Not over the old key: one triple serves both.
        state.rows.remove(&file);
        state.rows.insert(Arc::clone(&file), entry);
        state.order.push_back((number, file));
        state.shrink(now, self.entries_max);
    }

    /// Forgets a file and ends its epoch. A delete calls this after its row is gone.
    pub fn remove(&self, file: &Triple) {
        let shard = self.removals.shard(file);
        let mut state = self.state();
        self.removals.counts[shard].fetch_add(1, Ordering::AcqRel);
        state.rows.remove(file);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Drops from the old end what has ended, and what is too much. The order has one number more
    /// for each `put`, so it is held to the bound too.
    fn shrink(&mut self, now: Instant, entries_max: usize) {
        while let Some((number, file)) = self.order.front() {
            let entry = self.rows.get(file).filter(|entry| entry.number == *number);
            let over = self.order.len() > entries_max;
            if entry.is_some_and(|entry| entry.until > now && !over) {
                return;
            }
            if entry.is_some() {
                self.rows.remove(file);
            }
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tnv_common::proto::{AppId, FileId, UserId};

    fn file(name: usize) -> Triple {
        Triple {
            appid: AppId::new("tnvideo").unwrap(),
            userid: UserId::new("tnv001").unwrap(),
            fileid: FileId::new(name.to_string()).unwrap(),
        }
    }

    fn row(size: u64) -> FileRow {
        FileRow { path: "p".into(), size, crc32: None }
    }

    fn put(cache: &Cache, name: usize, size: u64) {
        cache.put(cache.epoch(&file(name)), &file(name), &row(size));
    }

    /// A reader had the row from the database. Before it put the row here, a delete removed the row and what
    /// the cache had, which was nothing. The entry then served a file that was deleted, until its content was
    /// unlinked, which a read-only disk delays for as long as it likes.
    #[test]
    fn a_row_that_was_read_before_a_delete_is_not_kept_after_it() {
        let cache = Cache::new(Duration::from_secs(60));
        let reader = cache.epoch(&file(1));
        cache.remove(&file(1));
        cache.put(reader, &file(1), &row(1));
        assert_eq!(cache.get(&file(1)), None);
        // A row that is read after the delete, of a new upload, is kept.
        put(&cache, 1, 2);
        assert_eq!(cache.get(&file(1)), Some(row(2)));
        // The other order: the delete removes what the reader had put.
        let reader = cache.epoch(&file(1));
        cache.put(reader, &file(1), &row(2));
        cache.remove(&file(1));
        assert_eq!(cache.get(&file(1)), None);
    }

    #[test]
    fn a_delete_keeps_rows_of_few_other_files_out_of_the_cache() {
        let cache = Cache::new(Duration::from_secs(60));
        let readers: Vec<_> = (1..=1000).map(|name| (name, cache.epoch(&file(name)))).collect();
        cache.remove(&file(0));
        readers.into_iter().for_each(|(name, epoch)| cache.put(epoch, &file(name), &row(1)));
        // About one in a thousand is in the shard of file 0; twenty are out of the question.
        assert!(cache.state().rows.len() > 980);
    }

    #[test]
    fn a_new_upload_replaces_what_was_known_of_the_old_one() {
        let cache = Cache::new(Duration::from_secs(60));
        put(&cache, 1, 1);
        put(&cache, 1, 2);
        assert_eq!(cache.get(&file(1)), Some(row(2)));
        cache.remove(&file(1));
        assert_eq!(cache.get(&file(1)), None);
    }

    #[test]
    fn an_entry_ends_with_its_lifetime() {
        let cache = Cache::new(Duration::from_millis(30));
        put(&cache, 1, 1);
        assert_eq!(cache.get(&file(1)), Some(row(1)));
        std::thread::sleep(Duration::from_millis(40));
        assert_eq!(cache.get(&file(1)), None);
        put(&cache, 2, 2);
        assert_eq!(cache.state().rows.len(), 1);
        let off = Cache::new(Duration::ZERO);
        put(&off, 1, 1);
        assert_eq!(off.get(&file(1)), None);
    }

    #[test]
    fn it_never_outgrows_its_bound() {
        let cache = Cache { entries_max: 10, ..Cache::new(Duration::from_secs(60)) };
        for name in 0..1000 {
            put(&cache, name, 1);
            put(&cache, 5, 2);
            let state = cache.state();
            assert!(state.rows.len() <= 10 && state.order.len() <= 10);
        }
        assert_eq!(cache.get(&file(999)), Some(row(1)));
        assert_eq!(cache.get(&file(1)), None);
    }
}
