//! What is worth remembering for a while: a map whose entries expire and whose number is bounded.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// A bounded map of what was learnt lately. It has two generations: when the younger one is full the older one
/// is dropped whole, so that a crowd of new keys costs each no more than its own place.
pub(crate) struct Recent<K, V> {
    young: HashMap<K, (V, Instant)>,
    old: HashMap<K, (V, Instant)>,
    lifetime: Duration,
    max: usize,
}

impl<K: Hash + Eq, V> Recent<K, V> {
    /// Remembers at most `max` entries, the latest half of them for sure, each for `lifetime`.
    pub(crate) fn new(lifetime: Duration, max: usize) -> Recent<K, V> {
        Recent { young: HashMap::new(), old: HashMap::new(), lifetime, max }
    }

    /// What is remembered of `key`.
    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let (value, since) = self.young.get(key).or_else(|| self.old.get(key))?;
        (since.elapsed() < self.lifetime).then_some(value)
    }

    /// Remembers; where there is no room, what is oldest gives way.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        if self.lifetime.is_zero() || self.max == 0 {
            return;
        }
        if self.young.len() >= (self.max / 2).max(1) && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, (value, Instant::now()));
    }

    /// Forgets.
    pub(crate) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        self.young.remove(key);
        self.old.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_gives_way_to_the_newest() {
        let mut recent = Recent::new(Duration::from_secs(60), 2);
        for key in 1..=3 {
            recent.insert(key, key * 10);
        }
        assert_eq!((recent.get(&1), recent.get(&2), recent.get(&3)), (None, Some(&20), Some(&30)));
        recent.insert(3, 31);
        assert_eq!((recent.get(&2), recent.get(&3)), (Some(&20), Some(&31)));
        recent.remove(&2);
        assert_eq!(recent.get(&2), None);
    }

    #[test]
    fn nothing_is_remembered_beyond_its_lifetime() {
        let mut recent = Recent::new(Duration::from_millis(20), 8);
        recent.insert("a", 1);
        assert_eq!(recent.get("a"), Some(&1));
        std::thread::sleep(Duration::from_millis(40));
        assert_eq!(recent.get("a"), None);
        let mut never = Recent::new(Duration::ZERO, 8);
        never.insert("a", 1);
        assert_eq!(never.get("a"), None);
    }
}
