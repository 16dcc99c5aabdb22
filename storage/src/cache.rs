//! What the database said a short while ago. The cache is bounded, its entries live for
//! `redis_key_timeout`, and a hit is only a hint: another member may have deleted or replaced the
//! file since, so its user compares it with the file first (see `catalog::find`).
//!
//! A row is read from the database and put here a moment later. A delete on this member may come in
//! between: it removes the row, then the entry, which is not there yet. So a reader takes an [`Epoch`]
//! before it asks the database, a removal ends the epoch, and a row of an ended epoch is not kept.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tnv_common::cache;
use tnv_common::proto::tnv::file_key::FileKey;

use crate::file::StoredFile;

/// At most this many entries, of 400 bytes or so each: 12 MiB.
const ENTRIES_MAX: usize = 32_768;

/// Removals are counted in so many shards, 8 KiB in all. A removal keeps a row of another file out of the
/// cache only where both are in one shard and the removal comes while that row is read: once in a thousand.
const SHARDS: usize = 1024;

/// Rows by the key that was asked for. Misses are not kept: an upload elsewhere would stay hidden.
pub struct Cache {
    rows: Mutex<Rows>,
    removals: Removals,
}

/// How many removals there were in each shard of the files. A count changes only under the lock of the
/// rows, so that a `put` sees each removal either in the count or in what the removal leaves behind.
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
    fn shard(&self, file: &FileKey) -> usize {
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

type Rows = cache::Cache<FileKey, StoredFile>;

impl Cache {
    /// A cache whose entries live so long; 0 keeps none.
    pub fn new(lifetime: Duration) -> Cache {
        Cache { rows: Mutex::new(Rows::new(lifetime, ENTRIES_MAX)), removals: Removals::default() }
    }

    /// What the database said of this file, if that is not too long ago.
    pub fn get(&self, file: &FileKey) -> Option<StoredFile> {
        self.rows().get(file, Instant::now()).cloned()
    }

    /// The present epoch of a file. It must be taken before the database is asked, or the row written,
    /// that [`Cache::put`] is given.
    pub fn epoch(&self, file: &FileKey) -> Epoch {
        let shard = self.removals.shard(file);
        Epoch { shard, removals: self.removals.counts[shard].load(Ordering::Acquire) }
    }

    /// Keeps what the database said in this epoch, unless the epoch has ended.
    pub fn put(&self, epoch: Epoch, file: &FileKey, row: &StoredFile) {
        let mut rows = self.rows();
        if self.removals.counts[epoch.shard].load(Ordering::Acquire) == epoch.removals {
            rows.put(file.clone(), row.clone(), Instant::now());
        }
    }

    /// Forgets a file and ends its epoch. A delete calls this after its row is gone.
    pub fn remove(&self, file: &FileKey) {
        let shard = self.removals.shard(file);
        let mut rows = self.rows();
        self.removals.counts[shard].fetch_add(1, Ordering::AcqRel);
        rows.remove(file);
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tnv_common::proto::{AppId, FileId, UserId};

    fn file(name: usize) -> FileKey {
        FileKey {
            appid: AppId::new("tnvideo").unwrap(),
            userid: UserId::new("tnv001").unwrap(),
            fileid: FileId::new(name.to_string()).unwrap(),
        }
    }

    fn row(size: u64) -> StoredFile {
        StoredFile { path: "p".into(), size, crc32: None }
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
        assert!(cache.rows().len() > 980);
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
}
