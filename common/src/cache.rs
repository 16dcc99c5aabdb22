//! A cache: entries that live for a fixed time, bounded in number. Where there is no room the oldest one makes
//! room.

use std::borrow::Borrow;
use std::hash::Hash;
use std::time::{Duration, Instant};

use lru::LruCache;

/// A cache of values by their keys.
pub struct Cache<K: Hash + Eq, V> {
    /// Each value with the end of its life. Bounded here: a bound of its own would take its memory at once.
    entries: LruCache<K, (V, Instant)>,
    lifetime: Duration,
    entries_max: usize,
}

impl<K: Hash + Eq, V> Cache<K, V> {
    /// A cache of at most `entries_max` entries that live for `lifetime`. With a lifetime of 0 it keeps none.
    pub fn new(lifetime: Duration, entries_max: usize) -> Cache<K, V> {
        Cache { entries: LruCache::unbounded(), lifetime, entries_max }
    }

    /// The value of a key, where it is kept and alive.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q, now: Instant) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        // A read does not make an entry younger, so the oldest entry is also the first to end.
        let (value, until) = self.entries.peek(key)?;
        (now < *until).then_some(value)
    }

    /// Keeps a value, in the place of an older one of this key.
    pub fn put(&mut self, key: K, value: V, now: Instant) {
        if self.lifetime.is_zero() || self.entries_max == 0 {
            return;
        }
        self.entries.put(key, (value, now + self.lifetime));
        while self.entries.len() > self.entries_max
            || self.entries.peek_lru().is_some_and(|(_, (_, until))| *until <= now)
        {
            self.entries.pop_lru();
        }
    }

    /// Forgets a key.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        self.entries.pop(key);
    }

    /// How many entries it keeps.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it keeps none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: Duration = Duration::from_secs(60);

    #[test]
    fn an_entry_ends_with_its_lifetime() {
        let (mut cache, now) = (Cache::new(LIFETIME, 10), Instant::now());
        cache.put("a", 1, now);
        cache.put("b", 2, now + LIFETIME / 2);
        assert_eq!(cache.get("a", now + LIFETIME - Duration::from_nanos(1)), Some(&1));
        assert_eq!(cache.get("a", now + LIFETIME), None);
        assert_eq!(cache.get("b", now + LIFETIME), Some(&2));
        cache.put("c", 3, now + LIFETIME * 2);
        assert_eq!(cache.len(), 1, "what has ended does not stay");
        cache.remove("c");
        assert!(cache.is_empty());
    }

    #[test]
    fn it_never_outgrows_its_bound_and_keeps_the_latest() {
        let (mut cache, now) = (Cache::new(LIFETIME, 10), Instant::now());
        for key in 0..1000 {
            cache.put(key, key, now);
            cache.put(5, 5, now);
            assert!(cache.len() <= 10);
        }
        assert_eq!([5, 999, 6].map(|key| cache.get(&key, now)), [Some(&5), Some(&999), None]);
    }

    #[test]
    fn without_lifetime_or_room_it_keeps_nothing() {
        for (lifetime, entries_max) in [(Duration::ZERO, 10), (LIFETIME, 0)] {
            let mut cache = Cache::new(lifetime, entries_max);
            cache.put("a", 1, Instant::now());
            assert_eq!(cache.get("a", Instant::now()), None);
        }
    }
}
