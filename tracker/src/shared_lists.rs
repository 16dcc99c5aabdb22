//! The group list as a whole reply, built once for many who ask. A list of thousands of storages has megabytes, and
//! a client that does not read keeps it for seconds: it keeps one that others have, too.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tnv_common::rpc::reply::SharedReply;

/// Lists that are kept at the same time, where slow clients have older ones: each has at most
/// `GROUP_LIST_BYTES_MAX`, and one of a thousand storages 300 KiB. Where all of them are kept, the latest is given
/// until a slow client has read its own or is given up, which is ten seconds at most.
const LISTS_MAX: usize = 4;

/// The lists that are kept, each with when its building began.
#[derive(Default)]
pub struct SharedLists(Mutex<Vec<(Instant, SharedReply)>>);

impl SharedLists {
    /// A list that `build` makes now, or one whose building began after this was called: all who ask while one is
    /// built share the next one. So a list never lacks what was answered before it was asked for.
    pub fn get(&self, build: impl FnOnce() -> SharedReply) -> SharedReply {
        let asked = Instant::now();
        let mut lists = self.lock();
        if let Some((begun, list)) = lists.last()
            && *begun >= asked
        {
            return list.clone();
        }
        // An older one that only this has is forgotten.
        lists.retain(|(_, list)| list.count() > 1);
        match lists.last() {
            Some((_, list)) if lists.len() >= LISTS_MAX => list.clone(),
            _ => {
                let begun = Instant::now();
                let list = build();
                lists.push((begun, list.clone()));
                list
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Instant, SharedReply)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
