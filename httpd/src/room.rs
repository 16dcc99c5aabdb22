//! How much memory all connections together may take. While they wait for their clients they hold heads
//! that are not whole, and what is known of answers that were not taken: each alone is bounded, but there may
//! be twenty thousand of them. And while they are worked on, each takes pieces of its file, which are large
//! for a few and small for a crowd.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes that all of them may hold. Honest heads come whole and of answers little is held, so it takes
/// thousands who mean to fill it; and with it the server stays below 256 MiB.
const ROOM_BYTES: usize = 48 << 20;

/// What is read at once of a large file, where there is no crowd: a tenth faster than half of it; twice is no better.
pub const PIECE_BYTES: usize = 512 << 10;

/// So many answers at once are sent in large pieces.
const LARGE_MAX: usize = 32;

/// What a piece has at most where there are more of them: at most as many at once as threads.
pub const SMALL_PIECE_BYTES: usize = 16 << 10;

/// Buffers of large pieces that are kept for the next ones: 8 MiB, where all of them were filled.
const KEPT_MAX: usize = 16;

/// How large a piece may be, of `bytes` where there is no crowd, beside so many other answers.
pub fn piece_bytes(bytes: usize, others: usize) -> usize {
    if others < LARGE_MAX { bytes } else { bytes.min(SMALL_PIECE_BYTES) }
}

/// Buffers for pieces. Large ones are used again: making one costs more than a small file.
#[derive(Default)]
pub struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

/// A buffer for one piece; what is in it is left from before.
pub struct Buffer {
    bytes: Vec<u8>,
    count: usize,
    home: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Buffers {
    /// A buffer of so many bytes, at most [`PIECE_BYTES`].
    pub fn take(&self, bytes: usize) -> Buffer {
        let kept = if bytes > SMALL_PIECE_BYTES { lock(&self.0).pop() } else { None };
        let room = if bytes > SMALL_PIECE_BYTES { PIECE_BYTES } else { bytes };
        Buffer {
            bytes: kept.unwrap_or_else(|| vec![0; room]),
            count: bytes.min(room),
            home: Arc::clone(&self.0),
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.count]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.count]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.bytes.len() == PIECE_BYTES {
            let mut kept = lock(&self.home);
            if kept.len() < KEPT_MAX {
                kept.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn large_buffers_are_used_again_and_few_are_kept() {
        let buffers = Buffers::default();
        let taken: Vec<Buffer> = (0..2 * KEPT_MAX).map(|_| buffers.take(PIECE_BYTES)).collect();
        drop(taken);
        assert_eq!(lock(&buffers.0).len(), KEPT_MAX);
        let (large, small) = (buffers.take(SMALL_PIECE_BYTES + 1), buffers.take(10));
        assert_eq!((large.len(), small.len()), (SMALL_PIECE_BYTES + 1, 10));
        assert_eq!(lock(&buffers.0).len(), KEPT_MAX - 1);
        drop((large, small));
        assert_eq!(lock(&buffers.0).len(), KEPT_MAX);
    }

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
