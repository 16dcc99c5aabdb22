//! What every room of the ID server shares: the settings, and the numbers that are in memory.
//!
//! The database steps, memory counts. For each key a piece of the numbers, a [`IdBlock`], is taken
//! from the database, which knows of it before the first of its numbers is used; so a number is
//! never handed out twice, whatever is killed when, and at worst the rest of two blocks is never
//! used. When half of a block is used the next one is fetched in the background, so that no caller
//! waits for the database as long as it keeps up. When it does not, one caller fetches and the
//! others wait for it. A background fetch that no thread has begun holds up no caller: one that needs
//! the numbers takes it over.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use log::{info, warn};
use lru::LruCache;
use tnv_common::db::DbSettings;
use tnv_common::error::{Error, Result};
use tnv_common::fail;
use tnv_common::net::worker_pool::Workers;
use tnv_common::proto::IdKey;
use tnv_common::proto::tnv::ids::Ids;
use tnv_common::sync::{Arc, Condvar, Instant, Mutex, MutexGuard, PoisonError};

/// Most numbers that one request gets: a storage that is killed loses no more of them for each of its
/// workers.
const IDS_MAX: u32 = 64;

/// Keys in memory: a key is a store path, and a deployment has some dozens. The one that was not
/// asked for the longest time gives way, and only numbers that were not handed out are lost with it.
const KEYS_MAX: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// Segments fetched at once in the background: enough for the database to commit them in one group.
const PREFETCHES_MAX: usize = 16;

/// After a background fetch that failed, the next one for that key waits so long: the numbers at
/// hand may outlast the database's absence, and trying at every request would not shorten it.
const PREFETCH_PAUSE: Duration = Duration::from_secs(1);

/// How long a caller waits for the one who fetches. Storages wait a minute for their reply.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// What the ID server runs on.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many numbers are taken from the database at once.
    pub step: u32,
    /// Where the database is.
    pub database: DbSettings,
    /// Where this server keeps its own marks.
    pub state_directory: PathBuf,
}

/// Numbers that the database has given to this process: `next..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdBlock {
    next: i64,
    end: i64,
    /// From here on the next block should be fetched.
    half: i64,
}

impl IdBlock {
    /// No numbers.
    const EMPTY: IdBlock = IdBlock { next: 0, end: 0, half: 0 };

    /// The `step` numbers before `end`, where there are such, all of them 0 or more.
    pub fn before(end: i64, step: u32) -> Option<IdBlock> {
        let next = end.checked_sub(i64::from(step)).filter(|next| *next >= 0)?;
        Some(IdBlock { next, end, half: next + i64::from(step.div_ceil(2)) })
    }

    /// The first of them, before any was taken.
    pub fn start(self) -> i64 {
        self.next
    }

    /// The first one after them.
    pub fn end(self) -> i64 {
        self.end
    }

    /// All of them, for counting.
    #[cfg(test)]
    pub fn numbers(self) -> impl Iterator<Item = i64> {
        self.next..self.end
    }

    /// So many of them, or as many as there are; none is `None`.
    fn take(&mut self, count: u32) -> Option<Ids> {
        let left = u32::try_from(self.end - self.next).unwrap_or(u32::MAX);
        let ids = Ids { first: self.next, count: count.min(left) };
        self.next += i64::from(ids.count);
        (ids.count > 0).then_some(ids)
    }

    fn is_half_used(&self) -> bool {
        self.next >= self.half
    }
}

/// Where blocks come from.
pub trait BlockSource: Send + Sync + 'static {
    /// A fresh block of a key, which no other caller gets; durable before it is returned.
    fn fetch(&self, key: &IdKey) -> Result<IdBlock>;
}

/// The numbers of all keys.
pub struct Numbers<S> {
    shared: Arc<Shared<S>>,
    prefetchers: Workers,
}

struct Shared<S> {
    source: S,
    keys: Mutex<LruCache<IdKey, Arc<Counter>>>,
}

/// The numbers of one key, with a lock of their own: a key that waits holds up no other.
struct Counter {
    key: IdKey,
    state: Mutex<CounterState>,
    fetched: Condvar,
}

/// Invariant: `spare` was fetched after `present`, and at most one fetch is running.
struct CounterState {
    present: IdBlock,
    spare: Option<IdBlock>,
    fetch: Fetch,
    /// Counts fetches that ended, and how the last one failed, for those who waited for it.
    fetches: u64,
    failure: Option<Error>,
    /// No background fetch before this.
    paused_until: Option<Instant>,
}

/// How far the fetch of the next block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fetch {
    None,
    /// Asked of the background. It may be long until a thread is there for it, so no caller waits for it.
    Queued,
    /// Under way in one thread, which ends it whatever happens (see [`FetchGuard`]).
    Running,
}

impl CounterState {
    fn take(&mut self, count: u32) -> Option<Ids> {
        if let Some(ids) = self.present.take(count) {
            return Some(ids);
        }
        self.present = self.spare.take()?;
        self.present.take(count)
    }

    fn wants_prefetch(&self, now: Instant) -> bool {
        let paused = self.paused_until.is_some_and(|until| now < until);
        self.present.is_half_used() && self.spare.is_none() && self.fetch == Fetch::None && !paused
    }
}

impl<S: BlockSource> Numbers<S> {
    /// No numbers yet: the first request of each key fetches some.
    pub fn new(source: S) -> Result<Numbers<S>> {
        let shared = Shared { source, keys: Mutex::new(LruCache::new(KEYS_MAX)) };
        Ok(Numbers {
            shared: Arc::new(shared),
            prefetchers: Workers::new("prefetch", PREFETCHES_MAX, KEYS_MAX.get())?,
        })
    }

    /// The next numbers of a key: at least one, and at most so many.
    pub fn next(&self, key: &IdKey, count: u32) -> Result<Ids> {
        let counter = self.shared.counter(key);
        let ids = counter.next(&self.shared.source, count.clamp(1, IDS_MAX))?;
        let mut state = counter.lock();
        if state.wants_prefetch(Instant::now()) {
            state.fetch = Fetch::Queued;
            drop(state);
            let shared = Arc::clone(&self.shared);
            self.prefetchers.run(move || counter.prefetch(&shared.source));
        }
        Ok(ids)
    }
}

impl<S> Shared<S> {
    /// The key's counter, made where it is not in memory.
    fn counter(&self, key: &IdKey) -> Arc<Counter> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counter) = keys.get(key) {
            return Arc::clone(counter);
        }
        let counter = Arc::new(Counter::new(key.clone()));
        // Requests that still use the counter go on with numbers that no other counter has.
        if let Some((oldest, _)) = keys.push(key.clone(), Arc::clone(&counter)) {
            info!("the key '{oldest}' gives way to '{key}' in memory");
        }
        counter
    }
}

impl Counter {
    fn new(key: IdKey) -> Counter {
        let state = CounterState {
            present: IdBlock::EMPTY,
            spare: None,
            fetch: Fetch::None,
            fetches: 0,
            failure: None,
            paused_until: None,
        };
        Counter { key, state: Mutex::new(state), fetched: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, CounterState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self, source: &impl BlockSource, count: u32) -> Result<Ids> {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        let mut state = self.lock();
        loop {
            if let Some(ids) = state.take(count) {
                return Ok(ids);
            }
            if state.fetch == Fetch::Running {
                state = self.wait(state, deadline)?;
            } else {
                self.fetch(source, state)?;
                state = self.lock();
            }
        }
    }

    /// Waits for the fetch that is under way; its failure is everyone's who waited for it.
    fn wait<'a>(
        &self,
        state: MutexGuard<'a, CounterState>,
        deadline: Instant,
    ) -> Result<MutexGuard<'a, CounterState>> {
        let fetches = state.fetches;
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.fetched.wait_timeout_while(state, left, |state| state.fetches == fetches);
        let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        match &state.failure {
            _ if timeout.timed_out() => {
                fail!(Timeout, "the numbers of '{}' are used up, and the database gives none", self.key)
            }
            Some(error) => Err(error.clone()),
            None => Ok(state),
        }
    }

    /// Fetches a block and wakes the callers that wait for it. No fetch is running.
    fn fetch(&self, source: &impl BlockSource, mut state: MutexGuard<'_, CounterState>) -> Result<()> {
        state.fetch = Fetch::Running;
        drop(state);
        // Unless it is told otherwise, whatever unwinds from here has failed.
        let mut turn =
            FetchGuard { counter: self, outcome: fail!(Internal, "fetching numbers failed; see the log") };
        turn.outcome = source.fetch(&self.key);
        turn.outcome.as_ref().map(drop).map_err(Error::clone)
    }

    fn prefetch(&self, source: &impl BlockSource) {
        let state = self.lock();
        if state.fetch != Fetch::Queued {
            return; // Somebody needed the numbers sooner and fetched them.
        }
        if let Err(error) = self.fetch(source, state) {
            warn!("fetch numbers of '{}' ahead of their use: {error}", self.key);
            self.lock().paused_until = Some(Instant::now() + PREFETCH_PAUSE);
        }
    }
}

/// The turn to fetch: it ends with its outcome known to everyone, also when the fetch panics.
struct FetchGuard<'a> {
    counter: &'a Counter,
    outcome: Result<IdBlock>,
}

impl Drop for FetchGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.counter.lock();
        state.failure = match &self.outcome {
            Ok(segment) => {
                state.spare = Some(*segment);
                None
            }
            Err(error) => Some(error.clone()),
        };
        state.fetch = Fetch::None;
        state.fetches += 1;
        drop(state);
        self.counter.fetched.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
    use std::thread;

    /// A database of one row, which can be slow and can fail.
    #[derive(Default)]
    struct Row {
        value: AtomicI64,
        fetches: AtomicUsize,
        delay: Duration,
        failing: AtomicBool,
    }

    const STEP: u32 = 100;

    impl BlockSource for Arc<Row> {
        fn fetch(&self, _: &IdKey) -> Result<IdBlock> {
            self.fetches.fetch_add(1, Ordering::SeqCst);
            thread::sleep(self.delay);
            if self.failing.load(Ordering::SeqCst) {
                return fail!(Unavailable, "the database is away");
            }
            let end = self.value.fetch_add(STEP.into(), Ordering::SeqCst) + i64::from(STEP);
            Ok(IdBlock::before(end, STEP).unwrap())
        }
    }

    fn one<S: BlockSource>(numbers: &Numbers<S>, name: &str) -> Result<i64> {
        numbers.next(&key(name), 1).map(|ids| ids.first)
    }

    fn key(key: &str) -> IdKey {
        IdKey::new(key).unwrap()
    }

    fn eventually(what: &str, check: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !check() {
            assert!(Instant::now() < deadline, "{what}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_segment_is_the_numbers_before_its_end() {
        let mut segment = IdBlock::before(103, 3).unwrap();
        let ids = |first, count| Some(Ids { first, count });
        assert!(!segment.is_half_used());
        assert_eq!(segment.take(1), ids(100, 1));
        assert!(!segment.is_half_used());
        assert_eq!(segment.take(1), ids(101, 1));
        assert!(segment.is_half_used());
        assert_eq!((segment.take(9), segment.take(9)), (ids(102, 1), None));
        assert_eq!(IdBlock::before(2, 3), None);
        assert_eq!(IdBlock::before(i64::MIN, 3), None);
        assert!(IdBlock::EMPTY.is_half_used());
    }

    #[test]
    fn numbers_count_from_zero_and_the_next_segment_comes_before_it_is_needed() {
        let row = Arc::new(Row::default());
        let numbers = Numbers::new(Arc::clone(&row)).unwrap();
        for want in 0..49 {
            assert_eq!(one(&numbers, "a"), Ok(want));
        }
        assert_eq!(row.value.load(Ordering::SeqCst), 100, "half of it is not used yet");
        assert_eq!(one(&numbers, "a"), Ok(49));
        eventually("a prefetch", || row.value.load(Ordering::SeqCst) == 200);
        for want in 50..149 {
            assert_eq!(one(&numbers, "a"), Ok(want));
        }
        assert_eq!(row.value.load(Ordering::SeqCst), 200);
    }

    #[test]
    fn many_callers_get_many_numbers_and_none_twice() {
        let row = Arc::new(Row { delay: Duration::from_millis(1), ..Row::default() });
        let numbers = Arc::new(Numbers::new(Arc::clone(&row)).unwrap());
        let callers: Vec<_> = (0..16)
            .map(|_| {
                let numbers = Arc::clone(&numbers);
                thread::spawn(move || {
                    let some = |count| numbers.next(&key("a"), count).unwrap();
                    (0..1000).map(|turn| some(1 + turn % 4)).collect::<Vec<_>>()
                })
            })
            .collect();
        let got: Vec<Ids> = callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect();
        let numbers = got.iter().flat_map(|ids| ids.first..ids.first + i64::from(ids.count));
        let all: Vec<i64> = numbers.collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
        assert!(all.len() > 38_000, "most got as many as they asked for");
        assert!(row.fetches.load(Ordering::SeqCst) <= 402, "one fetches for all");
    }

    #[test]
    fn a_failure_is_told_to_all_who_wait_and_the_next_one_asks_again() {
        let row = Arc::new(Row {
            delay: Duration::from_millis(200),
            failing: AtomicBool::new(true),
            ..Row::default()
        });
        let numbers = Arc::new(Numbers::new(Arc::clone(&row)).unwrap());
        let callers: Vec<_> = (0..8)
            .map(|_| {
                let numbers = Arc::clone(&numbers);
                thread::spawn(move || one(&numbers, "a"))
            })
            .collect();
        for caller in callers {
            assert_eq!(caller.join().unwrap().unwrap_err().message(), "the database is away");
        }
        // Not all of them may have come in time to wait for the first one.
        assert!(row.fetches.load(Ordering::SeqCst) < 8, "they waited for one another");
        row.failing.store(false, Ordering::SeqCst);
        assert_eq!(one(&numbers, "a"), Ok(0));
    }

    #[test]
    fn numbers_at_hand_outlast_an_absence_of_the_database() {
        let row = Arc::new(Row::default());
        let numbers = Numbers::new(Arc::clone(&row)).unwrap();
        assert_eq!(one(&numbers, "a"), Ok(0));
        row.failing.store(true, Ordering::SeqCst);
        for want in 1..100 {
            assert_eq!(one(&numbers, "a"), Ok(want));
        }
        eventually("the end of the prefetch", || {
            numbers.shared.counter(&key("a")).lock().fetch == Fetch::None
        });
        assert!(row.fetches.load(Ordering::SeqCst) < 10, "it is not asked at every request");
        assert!(one(&numbers, "a").is_err());
        row.failing.store(false, Ordering::SeqCst);
        assert_eq!(one(&numbers, "a"), Ok(100));
    }

    #[test]
    fn the_keys_in_memory_are_bounded_and_lose_only_unused_numbers() {
        let row = Arc::new(Row::default());
        let numbers = Numbers::new(Arc::clone(&row)).unwrap();
        numbers.shared.keys.lock().unwrap().resize(NonZeroUsize::new(2).unwrap());
        assert_eq!(one(&numbers, "a"), Ok(0));
        assert_eq!(one(&numbers, "b"), Ok(100));
        assert_eq!(one(&numbers, "a"), Ok(1));
        assert_eq!(one(&numbers, "c"), Ok(200), "b gave way");
        assert_eq!(one(&numbers, "a"), Ok(2));
        assert_eq!(one(&numbers, "b"), Ok(300));
        assert_eq!(numbers.shared.keys.lock().unwrap().len(), 2);
    }

    #[test]
    fn a_fetch_that_panics_holds_nobody_up() {
        struct Panics;
        impl BlockSource for Panics {
            fn fetch(&self, _: &IdKey) -> Result<IdBlock> {
                panic!("as asked")
            }
        }
        let numbers = Arc::new(Numbers::new(Panics).unwrap());
        let other = Arc::clone(&numbers);
        assert!(thread::spawn(move || one(&other, "a")).join().is_err());
        assert_eq!(numbers.shared.counter(&key("a")).lock().fetch, Fetch::None);
    }

    /// No thread could be started for the fetch in the background, and every request of its key waited for it and
    /// failed, until the end of the server.
    #[test]
    fn a_background_fetch_that_no_thread_begins_holds_nobody_up() {
        let row = Arc::new(Row::default());
        let numbers = Numbers::new(Arc::clone(&row)).unwrap();
        // Every thread of the background is at work elsewhere.
        let door = Arc::new(Mutex::new(()));
        let closed = door.lock().unwrap();
        for _ in 0..PREFETCHES_MAX {
            let door = Arc::clone(&door);
            numbers.prefetchers.run(move || drop(door.lock()));
        }
        for want in 0..i64::from(STEP) * 3 {
            assert_eq!(one(&numbers, "a"), Ok(want));
        }
        // What was queued finds that its work is done.
        drop(closed);
        eventually("the end of what was queued", || {
            numbers.shared.counter(&key("a")).lock().fetch == Fetch::None
        });
        assert_eq!(one(&numbers, "a"), Ok(i64::from(STEP) * 3));
    }
}
