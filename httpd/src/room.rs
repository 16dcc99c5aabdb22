//! How much memory all connections together may take. While they wait for their clients they hold heads
//! that are not whole, and small answers that were not taken: each alone is bounded, but there may be
//! twenty thousand of them. And while they are worked on, each takes pieces of its file, which are large
//! for a few and small for a crowd.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that all of them may hold. Honest heads come whole and small answers fit the kernel's buffers, so
/// it takes thousands who mean to fill it; and with it the server stays below 256 MiB.
const ROOM_BYTES: usize = 48 << 20;

/// So many answers at once are sent in large pieces, which take 0.4 MiB each.
const LARGE_MAX: usize = 64;

/// What a piece has at most where there are more of them. With its threads and buffers an answer then
/// takes 0.15 MiB, and there are at most as many at once as threads.
const SMALL_PIECE_BYTES: usize = 16 << 10;

/// How large a piece may be, of `bytes` where there is no crowd, beside so many other answers.
pub fn piece_bytes(bytes: usize, others: usize) -> usize {
    if others < LARGE_MAX { bytes } else { bytes.min(SMALL_PIECE_BYTES) }
}

/// The room for all.
pub struct Room(Arc<AtomicUsize>);

impl Default for Room {
    fn default() -> Room {
        Room(Arc::new(AtomicUsize::new(ROOM_BYTES)))
    }
}

/// What one connection takes of it, given back when this is dropped.
#[derive(Default)]
pub struct Held {
    bytes: usize,
    room: Option<Arc<AtomicUsize>>,
}

impl Room {
    /// Lets one hold so many bytes instead of what it held before; tells whether there was room.
    pub fn hold(&self, held: &mut Held, bytes: usize) -> bool {
        *held = Held::default();
        let left = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        if left.is_ok() {
            *held = Held { bytes, room: Some(Arc::clone(&self.0)) };
        }
        left.is_ok()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(room) = &self.room {
            room.fetch_add(self.bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_bounded_and_given_back() {
        let room = Room::default();
        let mut held: Vec<Held> = (0..3).map(|_| Held::default()).collect();
        assert!(room.hold(&mut held[0], ROOM_BYTES / 2));
        assert!(room.hold(&mut held[1], ROOM_BYTES / 2));
        assert!(!room.hold(&mut held[2], 1));
        assert!(room.hold(&mut held[1], 1000), "less than before");
        assert!(room.hold(&mut held[2], 1));
        drop(held);
        assert!(room.hold(&mut Held::default(), ROOM_BYTES));
        assert!(room.hold(&mut Held::default(), ROOM_BYTES));
    }
}
