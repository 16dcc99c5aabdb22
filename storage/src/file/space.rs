//! The store paths: which of them has room, which has failed, and in what order to try them for a
//! new file.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::statvfs;
use tnv_common::config::kinds::Space;
use tnv_common::error::{Context, Result};
use tnv_common::wire::{HostName, IdKey};

use super::disk::make_durably;
use super::journal::{Journal, Open};

/// How old the answer about free space may be; the bytes that go by meanwhile are counted here.
const SPACE_LIFETIME: Duration = Duration::from_secs(1);

/// A store path that failed is tried last for so long.
const FAILED_TIMEOUT: Duration = Duration::from_secs(10);

/// All store paths of this storage.
pub struct Stores {
    stores: Vec<Arc<Store>>,
}

/// One of them.
pub struct Store {
    path: IdKey,
    reserve: Space,
    journal: Arc<Journal>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Bytes for the likes of us, and of the whole, less what was written since.
    free: u64,
    total: u64,
    read_at: Option<Instant>,
    /// Bytes of uploads under way that are not on the disk yet.
    promised: u64,
    failed_at: Option<Instant>,
}

/// Bytes that an upload under way will still need.
pub struct Promise {
    store: Arc<Store>,
    left: u64,
}

impl Stores {
    /// Opens each store path, made where it is missing, and collects what a predecessor left undone.
    pub fn open(
        store_paths: &[IdKey],
        reserve: Space,
        host: &HostName,
        address: SocketAddr,
    ) -> Result<(Stores, Vec<Open>)> {
        let mut stores = Vec::new();
        let mut left = Vec::new();
        for path in store_paths {
            let (store, mut found) =
                Store::open(path, reserve, host, address).context(|| format!("store path '{path}'"))?;
            stores.push(Arc::new(store));
            left.append(&mut found);
        }
        Ok((Stores { stores }, left))
    }

    /// The store paths with room for a file of this size, in the order in which to try them: the one
    /// with the most room first, those that have just failed last.
    pub fn candidates(&self, size: u64) -> Vec<Arc<Store>> {
        let mut candidates = Vec::new();
        for store in &self.stores {
            match store.room() {
                Ok(Some(room)) if room >= size => {
                    candidates.push((store.state().has_failed(), u64::MAX - room, store))
                }
                Ok(_) => {}
                Err(error) => store.failed("find its free space", &error),
            }
        }
        candidates.sort_by_key(|(failed, taken, _)| (*failed, *taken));
        candidates.into_iter().map(|(_, _, store)| Arc::clone(store)).collect()
    }

    /// The journal to note a change of this file in: that of its store path, or else any.
    pub fn journal_of(&self, path: &str) -> Option<&Arc<Journal>> {
        let own = self
            .stores
            .iter()
            .find(|store| path.strip_prefix(store.path.as_str()).is_some_and(|rest| rest.starts_with('/')));
        own.or(self.stores.first()).map(|store| &store.journal)
    }
}

impl Store {
    fn open(
        path: &IdKey,
        reserve: Space,
        host: &HostName,
        address: SocketAddr,
    ) -> Result<(Store, Vec<Open>)> {
        make_durably(Path::new(path.as_str())).context(|| "make the directory")?;
        let (journal, left) = Journal::open(path.as_str(), host, address)?;
        let store = Store { path: path.clone(), reserve, journal, state: Mutex::default() };
        Ok((store, left))
    }

    /// Its text, as configured.
    pub fn path(&self) -> &IdKey {
        &self.path
    }

    /// Its journal.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Notes that it does not work, so that others are tried first for a while.
    pub fn failed(&self, what: &str, error: &io::Error) {
        let mut state = self.state();
        let known = state.has_failed();
        state.failed_at = Some(Instant::now());
        state.read_at = None;
        drop(state);
        // While it fails on, each upload would say so again.
        let level = if known { log::Level::Debug } else { log::Level::Error };
        log::log!(
            level,
            "store path '{}': {what}: {error}; trying it last for {FAILED_TIMEOUT:?}",
            self.path
        );
    }

    /// Sets bytes aside for an upload, unless others have taken the room meanwhile.
    pub fn promise(self: &Arc<Store>, bytes: u64) -> Option<Promise> {
        let mut state = self.state();
        if state.room(self.reserve).is_none_or(|room| room < bytes) {
            return None;
        }
        state.promised += bytes;
        Some(Promise { store: Arc::clone(self), left: bytes })
    }

    /// Bytes that a new file may have; `None` where the reserve is touched already.
    fn room(&self) -> io::Result<Option<u64>> {
        // Not under the lock: a file system that hangs must not stop those who only count.
        if self.state().read_at.is_none_or(|at| at.elapsed() >= SPACE_LIFETIME) {
            let found = statvfs(self.path.as_str())?;
            let mut state = self.state();
            state.free = found.f_bavail.saturating_mul(found.f_frsize);
            state.total = found.f_blocks.saturating_mul(found.f_frsize);
            state.read_at = Some(Instant::now());
        }
        Ok(self.state().room(self.reserve))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has_failed(&self) -> bool {
        self.failed_at.is_some_and(|at| at.elapsed() < FAILED_TIMEOUT)
    }

    fn room(&self, reserve: Space) -> Option<u64> {
        self.free.checked_sub(self.promised)?.checked_sub(reserve.of(self.total))
    }
}

impl Promise {
    /// So many of the bytes are on the disk now.
    pub fn written(&mut self, bytes: u64) {
        let bytes = bytes.min(self.left);
        self.left -= bytes;
        let mut state = self.store.state();
        state.promised -= bytes;
        state.free = state.free.saturating_sub(bytes);
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.store.state().promised -= self.left;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn stores(scratch: &Scratch, names: &[&str]) -> Stores {
        let paths: Vec<_> = names
            .iter()
            .map(|name| IdKey::new(scratch.path().join(name).to_str().unwrap()).unwrap())
            .collect();
        let host = HostName::new("host").unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 23000));
        Stores::open(&paths, Space::Bytes(1000), &host, address).unwrap().0
    }

    fn set(store: &Store, free: u64) {
        let mut state = store.state();
        state.free = free;
        state.total = 1 << 40;
        state.read_at = Some(Instant::now() + Duration::from_secs(3600));
    }

    fn order(stores: &Stores, size: u64) -> Vec<String> {
        let candidates = stores.candidates(size);
        candidates.iter().map(|store| store.path.as_str().rsplit('/').next().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_most_free_store_path_comes_first_and_a_full_one_not_at_all() {
        let scratch = Scratch::new();
        let stores = stores(&scratch, &["a", "b", "c"]);
        set(&stores.stores[0], 5000);
        set(&stores.stores[1], 9000);
        set(&stores.stores[2], 999);
        assert_eq!(order(&stores, 0), ["b", "a"], "c is below the reserve");
        assert_eq!(order(&stores, 4000), ["b", "a"]);
        assert_eq!(order(&stores, 4001), ["b"]);
        assert_eq!(order(&stores, 8001), Vec::<String>::new());
    }

    #[test]
    fn what_uploads_under_way_will_need_is_not_given_away_twice() {
        let scratch = Scratch::new();
        let stores = stores(&scratch, &["a"]);
        set(&stores.stores[0], 9000);
        let mut promise = stores.stores[0].promise(6000).unwrap();
        assert_eq!(order(&stores, 2001), Vec::<String>::new());
        assert_eq!(order(&stores, 2000), ["a"]);
        promise.written(6000);
        assert_eq!(order(&stores, 2001), Vec::<String>::new(), "it is on the disk now");
        drop(promise);
        assert_eq!(order(&stores, 2000), ["a"]);
        assert!(stores.stores[0].promise(2001).is_none());
        drop(stores.stores[0].promise(2000));
        assert_eq!(order(&stores, 2000), ["a"], "an upload that failed gives it back");
    }

    #[test]
    fn a_store_path_that_failed_is_tried_last() {
        let scratch = Scratch::new();
        let stores = stores(&scratch, &["a", "b"]);
        set(&stores.stores[0], 9000);
        set(&stores.stores[1], 5000);
        stores.stores[0].failed("create a file", &io::Error::other("input/output error"));
        set(&stores.stores[0], 9000);
        assert_eq!(order(&stores, 100), ["b", "a"]);
        assert_eq!(order(&stores, 6000), ["a"]);
    }

    #[test]
    fn a_missing_store_path_is_made_and_one_that_cannot_be_is_named() {
        let scratch = Scratch::new();
        assert_eq!(order(&stores(&scratch, &["new/deep"]), 0).len(), 1);
        std::fs::write(scratch.path().join("file"), "").unwrap();
        let path = IdKey::new(scratch.path().join("file").to_str().unwrap()).unwrap();
        let host = HostName::new("host").unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 23000));
        let error = Stores::open(&[path], Space::Bytes(0), &host, address).err().unwrap();
        assert!(error.message().contains("/file'"), "{error}");
    }

    #[test]
    fn a_delete_is_noted_in_the_journal_of_its_store_path() {
        let scratch = Scratch::new();
        let stores = stores(&scratch, &["a", "aa"]);
        let path = format!("{}/000/000/000/1_000", stores.stores[1].path);
        assert!(Arc::ptr_eq(stores.journal_of(&path).unwrap(), &stores.stores[1].journal));
        assert!(Arc::ptr_eq(stores.journal_of("elsewhere/x").unwrap(), &stores.stores[0].journal));
    }
}
