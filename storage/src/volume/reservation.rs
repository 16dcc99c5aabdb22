//! Space on a volume that is set aside for an upload under way.

use std::sync::Arc;

use super::disk::{DiskError, DiskHealth};
use super::state::Volume;

/// Bytes that an upload under way will still need.
pub struct SpaceReservation {
    store: Arc<Volume>,
    left: u64,
    error_epoch: u64,
    reopened: u64,
}

impl Volume {
    /// Sets bytes aside for an upload, unless others have taken the room meanwhile.
    pub fn reserve(self: &Arc<Volume>, bytes: u64) -> Option<SpaceReservation> {
        let mut state = self.state();
        if state.health.is_bad() || state.room(self.options.reserve).is_none_or(|room| room < bytes) {
            return None;
        }
        state.reserved += bytes;
        // Read under the same lock that found it healthy: a failure from here on is found at the end of the upload.
        let (error_epoch, reopened) = (state.error_epoch(), state.reopened);
        Some(SpaceReservation { store: Arc::clone(self), left: bytes, error_epoch, reopened })
    }
}

impl SpaceReservation {
    /// How often the store path had failed when this was given.
    pub fn error_epoch(&self) -> u64 {
        self.error_epoch
    }

    /// Whether the journal was opened anew since then. What failed was perhaps on another mount.
    pub fn is_outlived(&self) -> bool {
        self.store.state().reopened != self.reopened
    }

    /// The store path as it is mounted now: a failure that comes when it has been mounted anew is not counted.
    pub fn volume(&self) -> Arc<dyn DiskHealth> {
        Arc::new(Mounted { store: Arc::clone(&self.store), reopened: self.reopened })
    }

    /// So many of the bytes are on the disk now.
    pub fn written(&mut self, bytes: u64) {
        let bytes = bytes.min(self.left);
        self.left -= bytes;
        let mut state = self.store.state();
        state.reserved -= bytes;
        state.free = state.free.saturating_sub(bytes);
    }
}

impl Drop for SpaceReservation {
    fn drop(&mut self) {
        self.store.state().reserved -= self.left;
    }
}

/// A store path for as long as its journal stays open.
struct Mounted {
    store: Arc<Volume>,
    reopened: u64,
}

impl DiskHealth for Mounted {
    fn failed(&self, failure: &DiskError) {
        if self.store.state().reopened == self.reopened {
            self.store.failed(failure);
        }
    }

    fn error_epoch(&self) -> u64 {
        self.store.error_epoch()
    }
}
