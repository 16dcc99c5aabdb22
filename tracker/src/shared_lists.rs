//! The group list as a whole reply, built once for many who ask. A list of thousands of storages has megabytes, and
//! a client that does not read keeps it for seconds: it keeps one that others have, too.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tnv_common::reply::SharedReply;

/// A list is given again for so long: a hundred storages that a script looks for one by one then cost a few lists.
const LIFETIME: Duration = Duration::from_millis(20);

/// Lists that are kept at the same time, where slow clients have older ones: each has at most
/// `GROUP_LIST_BYTES_MAX`, and one of a thousand storages 300 KiB. Where all of them are kept, the latest is given
/// until a slow client has read its own or is given up, which is ten seconds at most.
const LISTS_MAX: usize = 4;

/// The lists that are kept.
#[derive(Default)]
pub struct SharedLists(Mutex<Vec<(Instant, SharedReply)>>);

impl SharedLists {
    /// The latest list, or one that `build` makes now. Those who ask meanwhile wait for it and share it.
    pub fn get(&self, build: impl FnOnce() -> SharedReply) -> SharedReply {
        let mut lists = self.lock();
        if let Some((built, list)) = lists.last()
            && built.elapsed() < LIFETIME
        {
            return list.clone();
        }
        // An older one that only this has is forgotten.
        lists.retain(|(_, list)| list.count() > 1);
        match lists.last() {
            Some((_, list)) if lists.len() >= LISTS_MAX => list.clone(),
            _ => {
                let list = build();
                lists.push((Instant::now(), list.clone()));
                list
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Instant, SharedReply)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::sleep;

    #[test]
    fn a_list_is_built_once_for_many_and_few_are_kept() {
        let lists = SharedLists::default();
        let mut built = 0;
        let mut get = |keep: bool| {
            let mut kept = Vec::new();
            for _ in 0..3 {
                let list = lists.get(|| {
                    built += 1;
                    SharedReply::success(100, format!("{built}").as_bytes())
                });
                if keep {
                    kept.push(list);
                }
            }
            (kept, built)
        };
        let (first, _) = get(true);
        // How often it is built for three who ask at once depends on the time alone: once, or little more.
        let mut slow = vec![first];
        for _ in 0..4 * LISTS_MAX {
            sleep(LIFETIME);
            slow.push(get(true).0);
        }
        let (_, after) = get(false);
        assert!(after <= LISTS_MAX, "{after} were built while all of them are kept");
        assert_eq!(lists.lock().len(), LISTS_MAX);
        drop(slow);
        sleep(LIFETIME);
        get(false);
        assert_eq!(lists.lock().len(), 1, "what no client reads is forgotten");
    }
}
