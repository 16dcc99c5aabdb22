//! Users' groups, remembered for a while, so that most requests ask no database. Only what the
//! database answered gets in here: a failure is asked again at once.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tnv_common::cache::Cache;
use tnv_common::proto::GroupName;
use tnv_common::proto::tnv::tracker::Addresses;

/// Entries: some 40 MB at the most, where every userid is as long as it may be.
const ENTRIES_MAX: usize = 100_000;

/// The groups of users.
pub struct RouteCache(Mutex<Cache<Addresses, GroupName>>);

impl RouteCache {
    /// An empty cache whose entries live so long; with a lifetime of 0 nothing is kept.
    pub fn new(lifetime: Duration) -> RouteCache {
        RouteCache(Mutex::new(Cache::new(lifetime, ENTRIES_MAX)))
    }

    /// The user's group, where it is known.
    pub fn get(&self, user: &Addresses, now: Instant) -> Option<GroupName> {
        self.lock().get(user, now).cloned()
    }

    /// Keeps what the database answered.
    pub fn put(&self, user: Addresses, group: GroupName, now: Instant) {
        self.lock().put(user, group, now);
    }

    fn lock(&self) -> MutexGuard<'_, Cache<Addresses, GroupName>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
}
