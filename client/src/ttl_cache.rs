//! A bounded map whose entries expire.

use std::borrow::Borrow;
use std::hash::Hash;
use std::time::{Duration, Instant};

use lru::LruCache;

/// A map of at most `max` entries, each for `lifetime`; the oldest entry makes room for a new one.
pub(crate) struct TtlCache<K: Hash + Eq, V> {
    entries: LruCache<K, (V, Instant)>,
    lifetime: Duration,
    max: usize,
}

impl<K: Hash + Eq, V> TtlCache<K, V> {
    pub(crate) fn new(lifetime: Duration, max: usize) -> TtlCache<K, V> {
        // A bounded one would allocate room for `max` entries at once.
        TtlCache { entries: LruCache::unbounded(), lifetime, max }
    }

    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let (value, since) = self.entries.peek(key)?;
        (since.elapsed() < self.lifetime).then_some(value)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        if self.lifetime.is_zero() {
            return;
        }
        self.entries.put(key, (value, Instant::now()));
        if self.entries.len() > self.max {
            self.entries.pop_lru();
        }
    }

    pub(crate) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        self.entries.pop(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_entry_makes_room() {
        let mut cache = TtlCache::new(Duration::from_secs(60), 2);
        for key in 1..=3 {
            cache.insert(key, key * 10);
        }
        assert_eq!((cache.get(&1), cache.get(&2), cache.get(&3)), (None, Some(&20), Some(&30)));
        cache.insert(3, 31);
        assert_eq!((cache.get(&2), cache.get(&3)), (Some(&20), Some(&31)));
        cache.remove(&2);
        assert_eq!(cache.get(&2), None);
    }

    #[test]
    fn an_entry_expires() {
        let mut cache = TtlCache::new(Duration::from_millis(20), 8);
        cache.insert("a", 1);
        assert_eq!(cache.get("a"), Some(&1));
        std::thread::sleep(Duration::from_millis(40));
        assert_eq!(cache.get("a"), None);
        let mut off = TtlCache::new(Duration::ZERO, 8);
        off.insert("a", 1);
        assert_eq!(off.get("a"), None);
    }
}
