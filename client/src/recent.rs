//! What is worth remembering for a while: a map whose entries expire and whose number is bounded.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// A bounded map of what was learnt lately.
pub(crate) struct Recent<K, V> {
    entries: HashMap<K, (V, Instant)>,
    lifetime: Duration,
    max: usize,
}

impl<K: Hash + Eq + Clone, V> Recent<K, V> {
    /// Remembers at most `max` entries, each for `lifetime`.
    pub(crate) fn new(lifetime: Duration, max: usize) -> Recent<K, V> {
        Recent { entries: HashMap::new(), lifetime, max }
    }

    /// What is remembered of `key`.
    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let (value, since) = self.entries.get(key)?;
        (since.elapsed() < self.lifetime).then_some(value)
    }

    /// Remembers; what is oldest gives way where there is no room.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        if self.lifetime.is_zero() || self.max == 0 {
            return;
        }
        if self.entries.len() >= self.max && !self.entries.contains_key(&key) {
            let lifetime = self.lifetime;
            self.entries.retain(|_, (_, since)| since.elapsed() < lifetime);
            while self.entries.len() >= self.max
                && let Some(oldest) = self.entries.iter().min_by_key(|(_, (_, since))| *since)
            {
                let oldest = oldest.0.clone();
                self.entries.remove(&oldest);
            }
        }
        self.entries.insert(key, (value, Instant::now()));
    }

    /// Forgets.
    pub(crate) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        self.entries.remove(key);
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
