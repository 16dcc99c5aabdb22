//! What the database said a short while ago. The cache is bounded, its entries live for
//! `redis_key_timeout`, and a hit is only a hint: another member may have deleted or replaced the
//! file since, so whoever uses one holds it against the file first (see `file::send`).

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tnv_common::wire::tnv::Triple;

use crate::db::FileRow;

/// At most this many entries, of 400 bytes or so each: 12 MiB. The oldest makes room.
const ENTRIES_MAX: usize = 32_768;

/// Rows by the triple that was asked for. Misses are not kept: an upload elsewhere would stay hidden.
pub struct Cache {
    lifetime: Duration,
    entries_max: usize,
    state: Mutex<State>,
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
        Cache { lifetime, entries_max: ENTRIES_MAX, state: Mutex::default() }
    }

    /// What the database said of this file, if that is not too long ago.
    pub fn get(&self, file: &Triple) -> Option<FileRow> {
        if self.lifetime.is_zero() {
            return None;
        }
        let state = self.state();
        state.rows.get(file).filter(|entry| entry.until > Instant::now()).map(|entry| entry.row.clone())
    }

    /// Keeps what the database says now.
    pub fn put(&self, file: &Triple, row: &FileRow) {
        if self.lifetime.is_zero() {
            return;
        }
        let (now, file) = (Instant::now(), Arc::new(file.clone()));
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        let entry = Entry { number, until: now + self.lifetime, row: row.clone() };
        // Not over the old key: one triple serves both.
        state.rows.remove(&file);
        state.rows.insert(Arc::clone(&file), entry);
        state.order.push_back((number, file));
        state.shrink(now, self.entries_max);
    }

    /// Forgets a file.
    pub fn remove(&self, file: &Triple) {
        self.state().rows.remove(file);
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
    use tnv_common::wire::{AppId, FileId, UserId};

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

    #[test]
    fn a_new_upload_replaces_what_was_known_of_the_old_one() {
        let cache = Cache::new(Duration::from_secs(60));
        cache.put(&file(1), &row(1));
        cache.put(&file(1), &row(2));
        assert_eq!(cache.get(&file(1)), Some(row(2)));
        cache.remove(&file(1));
        assert_eq!(cache.get(&file(1)), None);
    }

    #[test]
    fn an_entry_ends_with_its_lifetime() {
        let cache = Cache::new(Duration::from_millis(30));
        cache.put(&file(1), &row(1));
        assert_eq!(cache.get(&file(1)), Some(row(1)));
        std::thread::sleep(Duration::from_millis(40));
        assert_eq!(cache.get(&file(1)), None);
        cache.put(&file(2), &row(2));
        assert_eq!(cache.state().rows.len(), 1);
        let off = Cache::new(Duration::ZERO);
        off.put(&file(1), &row(1));
        assert_eq!(off.get(&file(1)), None);
    }

    #[test]
    fn it_never_outgrows_its_bound() {
        let cache = Cache { lifetime: Duration::from_secs(60), entries_max: 10, state: Mutex::default() };
        for name in 0..1000 {
            cache.put(&file(name), &row(1));
            cache.put(&file(5), &row(2));
            let state = cache.state();
            assert!(state.rows.len() <= 10 && state.order.len() <= 10);
        }
        assert_eq!(cache.get(&file(999)), Some(row(1)));
        assert_eq!(cache.get(&file(1)), None);
    }
}
