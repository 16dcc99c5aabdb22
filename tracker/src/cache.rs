//! Users' groups, remembered for a while, so that most requests ask no database. Only what the
//! database answered gets in here: a failure is asked again at once.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tnv_common::proto::GroupName;
use tnv_common::proto::tnv::tracker::Addresses;

/// Entries of one generation, and there are two: some 40 MB at the most, where every userid is as
/// long as it may be.
const GENERATION_MAX: usize = 50_000;

/// The cache. It has two generations: when the younger one is full the older one is dropped whole,
/// which costs nothing for each entry and keeps at least the latest [`GENERATION_MAX`] of them.
pub struct RouteCache {
    lifetime: Duration,
    generation_max: usize,
    generations: Mutex<Generations>,
}

#[derive(Default)]
struct Generations {
    young: HashMap<Addresses, Entry>,
    old: HashMap<Addresses, Entry>,
}

struct Entry {
    group: GroupName,
    fresh_until: Instant,
}

impl RouteCache {
    /// An empty cache whose entries are good for so long; with none of it nothing is kept.
    pub fn new(lifetime: Duration) -> RouteCache {
        RouteCache { lifetime, generation_max: GENERATION_MAX, generations: Mutex::default() }
    }

    /// The user's group, where it is known and still fresh.
    pub fn get(&self, user: &Addresses, now: Instant) -> Option<GroupName> {
        let generations = self.lock();
        let entry = generations.young.get(user).or_else(|| generations.old.get(user))?;
        (now < entry.fresh_until).then(|| entry.group.clone())
    }

    /// Remembers what the database answered.
    pub fn put(&self, user: Addresses, group: GroupName, now: Instant) {
        if self.lifetime.is_zero() {
            return;
        }
        let mut generations = self.lock();
        if generations.young.len() >= self.generation_max && !generations.young.contains_key(&user) {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(user, Entry { group, fresh_until: now + self.lifetime });
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tnv_common::proto::{AppId, UserId};

    fn user(number: usize) -> Addresses {
        let userid = UserId::new(format!("user{number}")).unwrap();
        Addresses { appid: AppId::new("tnvideo").unwrap(), userid }
    }

    fn group() -> GroupName {
        GroupName::new("group001").unwrap()
    }

    #[test]
    fn an_entry_is_good_for_its_lifetime_and_for_its_application() {
        let cache = RouteCache::new(Duration::from_secs(60));
        let now = Instant::now();
        cache.put(user(1), group(), now);
        assert_eq!(cache.get(&user(1), now + Duration::from_secs(59)), Some(group()));
        assert_eq!(cache.get(&user(1), now + Duration::from_secs(60)), None);
        assert_eq!(cache.get(&user(2), now), None);
        let other = Addresses { appid: AppId::new("other").unwrap(), ..user(1) };
        assert_eq!(cache.get(&other, now), None);
    }

    #[test]
    fn a_cache_without_lifetime_keeps_nothing() {
        let cache = RouteCache::new(Duration::ZERO);
        let now = Instant::now();
        cache.put(user(1), group(), now);
        assert_eq!(cache.get(&user(1), now), None);
        assert!(cache.lock().young.is_empty());
    }

    #[test]
    fn the_cache_is_bounded_and_keeps_the_latest() {
        let cache = RouteCache { generation_max: 10, ..RouteCache::new(Duration::from_secs(60)) };
        let now = Instant::now();
        for number in 0..1000 {
            cache.put(user(number), group(), now);
            cache.put(user(number), group(), now);
        }
        let generations = cache.lock();
        assert!(generations.young.len() + generations.old.len() <= 20);
        drop(generations);
        assert!((990..1000).all(|number| cache.get(&user(number), now).is_some()));
        assert_eq!(cache.get(&user(0), now), None);
    }
}
