//! Remembers the kinds that first bytes gave, so that each upload is read for its kind once.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use tnv_common::proto::tnv::storage::VersionId;

use crate::download::media::Kind;

/// Most kinds that are remembered: about 8 MiB.
const KINDS_MAX: NonZeroUsize = NonZeroUsize::new(1 << 16).unwrap();

/// Kinds by the unique value of their upload.
pub struct KindCache(Mutex<LruCache<VersionId, Kind>>);

impl Default for KindCache {
    fn default() -> KindCache {
        KindCache(Mutex::new(LruCache::new(KINDS_MAX)))
    }
}

impl KindCache {
    /// The kind of this upload, if it is remembered.
    pub fn get(&self, unique: &VersionId) -> Option<Kind> {
        self.lock().get(unique).copied()
    }

    /// Remembers the kind of this upload.
    pub fn put(&self, unique: VersionId, kind: Kind) {
        self.lock().put(unique, kind);
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<VersionId, Kind>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::download::media::UNKNOWN;

    #[test]
    fn the_cache_is_bounded_and_keeps_the_latest() {
        let cache = KindCache::default();
        let unique = |n: u128| VersionId(n.to_be_bytes());
        (0..200_000).for_each(|n| cache.put(unique(n), UNKNOWN));
        assert_eq!(cache.lock().len(), KINDS_MAX.get());
        assert!(cache.get(&unique(199_999)).is_some() && cache.get(&unique(0)).is_none());
    }
}
