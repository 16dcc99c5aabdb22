//! Buffers for pieces of content: large for a few viewers and small for many, so that all of them together
//! stay within bounds.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is read at once of a large file for a few viewers: a tenth faster than half of it, and twice is no
/// better.
pub const PIECE_BYTES: usize = 512 << 10;

/// So many responses at once are sent in large pieces.
const LARGE_MAX: usize = 32;

/// A piece has at most this many bytes when there are more responses. At most one a thread is loaded.
pub const SMALL_PIECE_BYTES: usize = 16 << 10;

/// Most large buffers that are kept for reuse: 8 MiB if all of them were filled.
const KEPT_MAX: usize = 16;

/// The size of a piece beside so many other responses: `bytes` if they are few.
pub fn piece_bytes(bytes: usize, others: usize) -> usize {
    if others < LARGE_MAX { bytes } else { bytes.min(SMALL_PIECE_BYTES) }
}

/// Buffers for pieces. Large ones are reused: making one costs more than sending a small file.
#[derive(Default)]
pub struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

/// A buffer for one piece. Its content is undefined.
pub struct Buffer {
    bytes: Vec<u8>,
    count: usize,
    pool: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Buffers {
    /// A buffer of so many bytes, at most [`PIECE_BYTES`].
    pub fn take(&self, bytes: usize) -> Buffer {
        let kept = if bytes > SMALL_PIECE_BYTES { lock(&self.0).pop() } else { None };
        let room = if bytes > SMALL_PIECE_BYTES { PIECE_BYTES } else { bytes };
        Buffer {
            bytes: kept.unwrap_or_else(|| vec![0; room]),
            count: bytes.min(room),
            pool: Arc::clone(&self.0),
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
            let mut kept = lock(&self.pool);
            if kept.len() < KEPT_MAX {
                kept.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_buffers_are_reused_and_few_are_kept() {
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
}
