//! The store paths: which of them work and have room, and in what order to try them for a new file.
//!
//! Each has a thread that asks its disk every second: whether it still is the disk that was opened,
//! and how much space it has. Nobody who has work to do asks it himself: a network file system whose
//! cable is cut answers after a minute, and all workers would wait for it. A store path without a fresh
//! and good answer is passed over; what it holds is served as far as the disk allows. Only where there is no
//! other with an answer is it waited for, and for some seconds.
//!
//! One that could not create or write a file is tried last for a while. One that failed with an I/O
//! error or at a sync is bad: passed over until it has proven itself (see `trust`).

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{StatVfsMountFlags, statvfs};
use tnv_common::config::kinds::Space;
use tnv_common::error::{Context, ErrorKind, Result};
use tnv_common::fail;
use tnv_common::stop::Stop;
use tnv_common::wire::{HostName, IdKey};

use super::disk::{DiskError, make_durably};
use super::journal::{Journal, Open};
use super::trust::{PROOFS, Proof, Trust, prove};

/// How often a disk is asked; the bytes that go by meanwhile are counted here.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// A disk without an answer for so long hangs: disks under load take seconds, too.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Where no disk answers, one that hangs is waited for until it has been silent for so long: there is
/// nothing else to turn to, and a mount of GlusterFS that has lost a member is silent for up to
/// twice the ping time-out (docs/glusterfs.md).
const LAST_SILENCE_MAX: Duration = Duration::from_secs(10);

/// How often whoever waits looks, and how long he waits in any case: rather than the disks it may be this
/// process that was stopped for a while, and the threads are about to ask.
const GRACE: Duration = Duration::from_millis(100);

/// A store path that failed is tried last for so long.
const FAILED_TIMEOUT: Duration = Duration::from_secs(10);

/// Takes what a predecessor left in a store path that could not be opened earlier.
pub type Add = Arc<dyn Fn(Open) + Send + Sync>;

/// All store paths of this storage.
pub struct Stores {
    stores: Vec<Arc<Store>>,
}

/// One of them.
pub struct Store {
    path: IdKey,
    reserve: Space,
    host: HostName,
    address: SocketAddr,
    state: Mutex<State>,
}

struct State {
    /// None as long as it could not be opened; then there are no new files.
    journal: Option<Arc<Journal>>,
    /// What was wrong when the disk was last asked.
    fault: Option<String>,
    asked_at: Instant,
    /// Whether the log was told that it hangs.
    silent: bool,
    /// Bytes for the likes of us, and of the whole, less what was written since.
    free: u64,
    total: u64,
    /// Bytes of uploads under way that are not on the disk yet.
    promised: u64,
    failed_at: Option<Instant>,
    trust: Trust,
}

/// What a store path has for a new file.
#[derive(Debug, PartialEq, Eq)]
enum Room {
    Bytes(u64),
    /// The reserve is touched already.
    Full,
    /// It does not work.
    Fault,
}

/// Bytes that an upload under way will still need.
pub struct Promise {
    store: Arc<Store>,
    left: u64,
}

impl Stores {
    /// Opens each store path, made where it is missing, and collects what a predecessor left undone.
    /// One that cannot be opened is tried again later, unless none can, or another storage has it.
    pub fn open(
        store_paths: &[IdKey],
        reserve: Space,
        host: &HostName,
        address: SocketAddr,
    ) -> Result<(Stores, Vec<Open>)> {
        let mut answers = Vec::new();
        let mut left = Vec::new();
        for path in store_paths {
            let store = Store::new(path, reserve, host, address);
            let asked = store.make(&mut left).context(|| format!("store path '{path}'"));
            if let Err(error) = &asked
                && error.kind() == ErrorKind::Busy
            {
                return Err(error.clone());
            }
            answers.push((Arc::new(store), asked));
        }
        let works = answers.iter().any(|(store, _)| store.journal().is_some());
        let mut stores = Vec::new();
        for (store, asked) in answers {
            if let (Err(error), false) = (&asked, works) {
                return Err(error.clone());
            }
            store.note(asked);
            stores.push(store);
        }
        Ok((Stores { stores }, left))
    }

    /// Starts the threads that ask the disks. They end when `stop` is set.
    pub fn watch(&self, stop: &Stop, add: &Add) -> Result<()> {
        for store in &self.stores {
            let (store, stop, add) = (Arc::clone(store), stop.clone(), Arc::clone(add));
            thread::Builder::new()
                .name("store".into())
                .spawn(move || store.watch(&stop, &*add))
                .context(|| "start a store path's thread")?;
        }
        Ok(())
    }

    /// The store paths with room for a file of this size, in the order in which to try them: the one
    /// with the most room first, those that have just failed last. There is at least one.
    pub fn candidates(&self, size: u64) -> Result<Vec<Arc<Store>>> {
        self.wait_for_one_of(&self.stores);
        let mut candidates = Vec::new();
        let mut full = false;
        for store in &self.stores {
            match store.room() {
                Room::Bytes(room) if room >= size => {
                    candidates.push((store.state().has_failed(), u64::MAX - room, store))
                }
                Room::Bytes(_) | Room::Full => full = true,
                Room::Fault => {}
            }
        }
        if candidates.is_empty() {
            return match full {
                true => fail!(NoSpace, "no store path has room for {size} bytes"),
                // What is wrong with them is in the log.
                false => fail!(Unavailable, "no store path works"),
            };
        }
        candidates.sort_by_key(|(failed, taken, _)| (*failed, *taken));
        Ok(candidates.into_iter().map(|(_, _, store)| Arc::clone(store)).collect())
    }

    /// The journal to note a change of this file in: that of its store path, or else any, of those
    /// whose disks answer.
    pub fn journal_of(&self, path: &str) -> Option<Arc<Journal>> {
        let usable = |store: &Arc<Store>| store.journal().filter(|_| !store.state().hangs());
        self.store_of(path).and_then(usable).or_else(|| self.stores.iter().find_map(usable))
    }

    /// Removes a file; it may be gone already. That it is not there says nothing while its disk is not.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        match fs::remove_file(path) {
            // Of a store path that was taken out of the settings nothing more is known.
            Err(error) if error.kind() == io::ErrorKind::NotFound => match self.store_of(path) {
                Some(store) => store.check(),
                None => Ok(()),
            },
            result => result,
        }
    }

    /// Fails where the disk of this file hangs, for those who can wait for it.
    pub fn answers_soon(&self, path: &str) -> io::Result<()> {
        self.answers(path).or_else(|_| {
            if let Some(store) = self.store_of(path) {
                self.wait_for_one_of(slice::from_ref(store));
            }
            self.answers(path)
        })
    }

    /// Waits until one of these disks answers: only a moment, unless none at all does.
    fn wait_for_one_of(&self, wanted: &[Arc<Store>]) {
        let answers = |stores: &[Arc<Store>]| stores.iter().any(|store| !store.state().hangs());
        let is_lost = |store: &Arc<Store>| store.state().silence() > LAST_SILENCE_MAX;
        let mut was_in_vain = false;
        while !answers(wanted) {
            let is_in_vain = answers(&self.stores) || wanted.iter().all(is_lost);
            if is_in_vain && was_in_vain {
                return;
            }
            was_in_vain = is_in_vain;
            thread::sleep(GRACE);
        }
    }

    /// Fails where the disk of this file hangs.
    pub fn answers(&self, path: &str) -> io::Result<()> {
        match self.store_of(path) {
            Some(store) if store.state().hangs() => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }

    /// Notes that the disk of this file failed when it was read.
    pub fn read_failed(&self, path: &str, error: &io::Error) {
        if let Some(store) = self.store_of(path) {
            store.read_failed(error);
        }
    }

    /// Whether the disk of this file is there.
    pub fn is_mounted(&self, path: &str) -> bool {
        self.store_of(path).is_none_or(|store| store.check().is_ok())
    }

    /// Fails where the disk of the first store path is not there.
    pub fn first_is_mounted(&self) -> io::Result<()> {
        self.stores.first().map_or(Ok(()), |store| store.check())
    }

    fn store_of(&self, path: &str) -> Option<&Arc<Store>> {
        let holds = |store: &&Arc<Store>| {
            path.strip_prefix(store.path.as_str()).is_some_and(|rest| rest.starts_with('/'))
        };
        self.stores.iter().filter(holds).max_by_key(|store| store.path.as_str().len())
    }
}

impl Store {
    /// One that has not been opened yet.
    fn new(path: &IdKey, reserve: Space, host: &HostName, address: SocketAddr) -> Store {
        let state = State {
            journal: None,
            fault: None,
            asked_at: Instant::now(),
            silent: false,
            free: 0,
            total: 0,
            promised: 0,
            failed_at: None,
            trust: Trust::new(),
        };
        Store { path: path.clone(), reserve, host: host.clone(), address, state: Mutex::new(state) }
    }

    /// At the start: makes the directory, and asks for the first time. Later a directory that is missing
    /// is not made: its disk is.
    fn make(&self, left: &mut Vec<Open>) -> Result<(u64, u64)> {
        make_durably(Path::new(self.path.as_str())).context(|| "make the directory")?;
        self.ask(left)
    }

    /// The thread.
    fn watch(&self, stop: &Stop, add: &dyn Fn(Open)) {
        while !stop.wait(ASK_INTERVAL) {
            let mut left = Vec::new();
            let asked = self.ask(&mut left).context(|| format!("store path '{}'", self.path));
            let works = asked.is_ok();
            self.note(asked);
            left.into_iter().for_each(add);
            if works && self.state().trust.is_due(Instant::now()) {
                self.prove();
            }
        }
    }

    /// Lets a store path that is not trusted make a proof, and tells what came of it.
    fn prove(&self) {
        let losses = self.losses();
        let proven = prove(&self.proof());
        let now = self.state().trust.tried(Instant::now(), proven.is_ok(), losses);
        match (now, proven) {
            (Some(Proof::Regained(took)), _) => log::warn!(
                "store path '{}' has proven itself {PROOFS} times and is trusted again after {} s; it takes \
                 new files",
                self.path,
                took.as_secs()
            ),
            (Some(Proof::Next(pause)), Err(error)) => log::warn!(
                "store path '{}' is still bad: {error}; trying again in {} s",
                self.path,
                pause.as_secs()
            ),
            _ => {}
        }
    }

    /// The file that proofs are made with, told apart among the members as their journals are.
    fn proof(&self) -> PathBuf {
        let name = format!(".proof-{}-{}-{}", self.host, self.address.ip(), self.address.port());
        Path::new(self.path.as_str()).join(name.replace('/', "_"))
    }

    /// Asks the disk for the free bytes and for all; opens the journal where it is not open yet. Not
    /// under the lock: a disk that hangs must not stop those who only count.
    fn ask(&self, left: &mut Vec<Open>) -> Result<(u64, u64)> {
        match self.journal() {
            Some(journal) => journal.check()?,
            None => {
                let (journal, mut found) = Journal::open(self.path.as_str(), &self.host, self.address)?;
                left.append(&mut found);
                left.append(&mut journal.adopt(self.path.as_str(), &self.host));
                self.state().journal = Some(journal);
                // What a kill left of a proof.
                let _ = fs::remove_file(self.proof());
            }
        }
        let found = statvfs(self.path.as_str()).map_err(io::Error::from).context(|| "find its free space")?;
        if found.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return fail!(Unavailable, "it is mounted read-only");
        }
        Ok((found.f_bavail.saturating_mul(found.f_frsize), found.f_blocks.saturating_mul(found.f_frsize)))
    }

    /// Keeps the answer, and tells what has changed.
    fn note(&self, asked: Result<(u64, u64)>) {
        let mut state = self.state();
        state.asked_at = Instant::now();
        let silent = std::mem::take(&mut state.silent);
        let fault = match asked {
            Ok((free, total)) => {
                (state.free, state.total) = (free, total);
                None
            }
            Err(error) => Some(error.to_string()),
        };
        let before = std::mem::replace(&mut state.fault, fault.clone());
        drop(state);
        match fault {
            Some(fault) if before.as_ref() != Some(&fault) => {
                log::error!("{fault}; no new files there until it works again")
            }
            None if silent || before.is_some() => log::info!("store path '{}' works again", self.path),
            _ => {}
        }
    }

    /// Its text, as configured.
    pub fn path(&self) -> &IdKey {
        &self.path
    }

    /// Its journal, if it could be opened.
    pub fn journal(&self) -> Option<Arc<Journal>> {
        self.state().journal.clone()
    }

    /// Whether its disk is there.
    fn check(&self) -> io::Result<()> {
        match self.journal() {
            Some(journal) => journal.check(),
            None => Err(io::Error::other(format!("store path '{}' does not work", self.path))),
        }
    }

    /// How often it failed in a way that costs the trust.
    pub fn losses(&self) -> u64 {
        self.state().trust.losses()
    }

    /// Notes that it does not work: others are tried first for a while, or until it has proven itself.
    pub fn failed(&self, failure: &DiskError) {
        let DiskError { what, error, distrust } = failure;
        let mut state = self.state();
        let now = Instant::now();
        let bad = state.trust.is_lost();
        let told = if *distrust { !state.trust.lose(now) } else { bad || state.has_failed() };
        state.failed_at = Some(now);
        drop(state);
        // While it fails on, each upload would say so again.
        let level = if told { log::Level::Debug } else { log::Level::Error };
        let path = &self.path;
        match distrust {
            true => log::log!(
                level,
                "store path '{path}' is bad: {what}: {error}; no new files there until it has proven itself: \
                 {PROOFS} times a file written, synced and read back"
            ),
            false => log::log!(
                level,
                "store path '{path}': {what}: {error}; trying it last for {FAILED_TIMEOUT:?}"
            ),
        }
    }

    /// Notes that it failed when a file was read: no new files until it has proven itself. What is under way is not
    /// in doubt, since nothing that was written is lost by a read.
    fn read_failed(&self, error: &io::Error) {
        let mut state = self.state();
        let is_new = state.trust.suspect(Instant::now());
        state.failed_at = Some(Instant::now());
        drop(state);
        if is_new {
            log::error!(
                "store path '{}' is bad: read: {error}; no new files there until it has proven itself: {PROOFS} \
                 times a file written, synced and read back",
                self.path
            );
        }
    }

    /// Sets bytes aside for an upload, unless others have taken the room meanwhile.
    pub fn promise(self: &Arc<Store>, bytes: u64) -> Option<Promise> {
        let mut state = self.state();
        if state.trust.is_lost() || state.room(self.reserve).is_none_or(|room| room < bytes) {
            return None;
        }
        state.promised += bytes;
        Some(Promise { store: Arc::clone(self), left: bytes })
    }

    /// What a new file may have. Whoever finds first that the disk hangs says so, since its thread cannot.
    fn room(&self) -> Room {
        let mut state = self.state();
        if state.hangs() {
            let told = std::mem::replace(&mut state.silent, true);
            let seconds = state.silence().as_secs();
            drop(state);
            if !told {
                let path = &self.path;
                log::error!(
                    "store path '{path}' has not answered for {seconds} s; no new files there until it does"
                );
            }
            return Room::Fault;
        }
        match (&state.fault, state.room(self.reserve)) {
            (Some(_), _) => Room::Fault,
            _ if state.trust.is_lost() => Room::Fault,
            (None, Some(room)) => Room::Bytes(room),
            (None, None) => Room::Full,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn silence(&self) -> Duration {
        self.asked_at.elapsed()
    }

    fn hangs(&self) -> bool {
        self.silence() > SILENCE_MAX
    }

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

/// For tests, which have no threads that ask.
#[cfg(test)]
impl Stores {
    /// As if no disk had answered for so long that none is waited for.
    pub fn silence(&self) {
        for store in &self.stores {
            store.state().asked_at = Instant::now() - LAST_SILENCE_MAX - GRACE;
        }
    }

    /// As if a sync had failed on each disk.
    pub fn lose(&self) {
        for store in &self.stores {
            store.failed(&DiskError::of_sync("sync", io::Error::other("lost")));
        }
    }

    /// Asks all disks.
    pub fn ask(&self) {
        self.stores.iter().for_each(|store| store.note(store.ask(&mut Vec::new())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::journal::Record;
    use crate::scratch::Scratch;
    use tnv_common::wire::{FileId, UserId};

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
        state.asked_at = Instant::now() + Duration::from_secs(3600);
    }

    /// Two, the first of which has more room and so comes first.
    fn two_stores(scratch: &Scratch) -> Stores {
        let stores = stores(scratch, &["a", "b"]);
        set(&stores.stores[0], 9000);
        set(&stores.stores[1], 5000);
        stores
    }

    /// What the store path's thread does every second.
    fn look(store: &Store) -> Vec<Open> {
        let mut left = Vec::new();
        let asked = store.ask(&mut left);
        store.note(asked);
        left
    }

    fn order(stores: &Stores, size: u64) -> Vec<String> {
        let candidates = stores.candidates(size).unwrap_or_default();
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
        let stores = two_stores(&scratch);
        stores.stores[0].failed(&DiskError::of("create a file", io::Error::other("too many links")));
        set(&stores.stores[0], 9000);
        assert_eq!(order(&stores, 100), ["b", "a"]);
        assert_eq!(order(&stores, 6000), ["a"]);
    }

    #[test]
    fn a_store_path_that_is_bad_takes_no_files_until_it_has_proven_itself() {
        let scratch = Scratch::new();
        let stores = two_stores(&scratch);
        let bad = &stores.stores[0];
        bad.failed(&DiskError::of_sync("sync", io::Error::other("lost")));
        assert_eq!(order(&stores, 100), ["b"]);
        assert!(bad.promise(1).is_none(), "nor from whoever chose it before");
        for _ in 0..PROOFS {
            assert_eq!(order(&stores, 100), ["b"]);
            bad.prove();
        }
        assert_eq!(fs::read_dir(bad.path.as_str()).unwrap().count(), 1, "the journal");
        assert!(bad.promise(1).is_some());
        assert_eq!(bad.losses(), 1);
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
        assert!(Arc::ptr_eq(&stores.journal_of(&path).unwrap(), &stores.stores[1].journal().unwrap()));
        assert!(Arc::ptr_eq(
            &stores.journal_of("elsewhere/x").unwrap(),
            &stores.stores[0].journal().unwrap()
        ));
    }

    /// A network file system whose cable was cut hung for a minute, and with it the workers of all
    /// uploads, whatever other disks there were.
    #[test]
    fn a_disk_that_hangs_is_passed_over_without_asking_it() {
        let scratch = Scratch::new();
        let stores = two_stores(&scratch);
        stores.silence();
        assert_eq!(stores.candidates(100).err().unwrap().kind(), ErrorKind::Unavailable);
        look(&stores.stores[1]);
        assert_eq!(order(&stores, 100), ["b"]);
        let path = format!("{}/x", stores.stores[0].path);
        assert!(stores.answers_soon(&path).is_err());
        assert!(Arc::ptr_eq(&stores.journal_of(&path).unwrap(), &stores.stores[1].journal().unwrap()));
        look(&stores.stores[0]);
        assert_eq!(order(&stores, 100).len(), 2);
        assert!(stores.answers(&path).is_ok());
    }

    /// The host of another member was cut off, and for the second in which GlusterFS was silent for longer than
    /// 5 s the member that was left refused uploads and reads, with nobody else to do them.
    #[test]
    fn a_disk_that_hangs_is_waited_for_where_no_other_one_answers() {
        let scratch = Scratch::new();
        let stores = two_stores(&scratch);
        let path = format!("{}/x", stores.stores[0].path);
        let hang = |store: &Store| store.state().asked_at = Instant::now() - SILENCE_MAX - GRACE;
        hang(&stores.stores[0]);
        assert!(stores.answers_soon(&path).is_err(), "the other one answers");
        hang(&stores.stores[1]);
        thread::scope(|scope| {
            let reader = scope.spawn(|| stores.answers_soon(&path));
            let uploader = scope.spawn(|| stores.candidates(100).map(|candidates| candidates.len()));
            thread::sleep(GRACE * 3);
            assert!(!reader.is_finished() && !uploader.is_finished(), "they wait");
            look(&stores.stores[0]);
            assert!(reader.join().unwrap().is_ok());
            assert_eq!(uploader.join().unwrap().unwrap(), 1, "the other one still hangs");
        });
    }

    /// A disk was unmounted under a running storage, and uploads were acknowledged into the empty mount
    /// point, on another disk.
    #[test]
    fn a_store_path_whose_journal_is_not_in_its_place_is_passed_over_until_it_is_back() {
        let scratch = Scratch::new();
        let stores = stores(&scratch, &["a"]);
        let (path, away) = (scratch.path().join("a"), scratch.path().join("away"));
        let file = format!("{}/000/000/000/1_000", stores.stores[0].path);
        fs::rename(&path, &away).unwrap();
        for mount_point in [false, true] {
            if mount_point {
                fs::create_dir(&path).unwrap();
            }
            look(&stores.stores[0]);
            assert_eq!(stores.candidates(0).err().unwrap().kind(), ErrorKind::Unavailable);
            assert!(stores.remove(&file).is_err(), "it may be there on the other disk");
        }
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        fs::remove_dir(&path).unwrap();
        fs::rename(&away, &path).unwrap();
        look(&stores.stores[0]);
        assert_eq!(order(&stores, 0), ["a"]);
        assert!(stores.remove(&file).is_ok());
    }

    /// One disk that was full or read-only kept a storage of twelve from starting.
    #[test]
    fn a_store_path_that_cannot_be_opened_is_opened_later_with_what_was_left_in_it() {
        let scratch = Scratch::new();
        let record = Record {
            userid: UserId::new("u").unwrap(),
            fileid: FileId::new("f").unwrap(),
            path: format!("{}/b/000/000/000/1_000", scratch.path().display()),
        };
        drop(stores(&scratch, &["b"]).stores[0].journal().unwrap().take(&record).unwrap());
        fs::rename(scratch.path().join("b"), scratch.path().join("away")).unwrap();
        fs::write(scratch.path().join("b"), "").unwrap();
        let stores = stores(&scratch, &["a", "b"]);
        assert_eq!(order(&stores, 0), ["a"]);
        assert!(stores.remove(&record.path).is_err());
        assert!(stores.journal_of(&record.path).is_some(), "a delete is noted elsewhere meanwhile");
        fs::remove_file(scratch.path().join("b")).unwrap();
        fs::rename(scratch.path().join("away"), scratch.path().join("b")).unwrap();
        let left = look(&stores.stores[1]);
        assert_eq!(left.iter().map(|open| &open.record).collect::<Vec<_>>(), [&record]);
        assert_eq!(order(&stores, 0).len(), 2);
    }

    #[test]
    fn a_store_path_that_another_storage_has_is_no_matter_to_go_on_without() {
        let scratch = Scratch::new();
        let _first = stores(&scratch, &["b"]);
        let paths = ["a", "b"].map(|name| IdKey::new(scratch.path().join(name).to_str().unwrap()).unwrap());
        let host = HostName::new("host").unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 23000));
        let error = Stores::open(&paths, Space::Bytes(0), &host, address).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Busy);
    }
}
