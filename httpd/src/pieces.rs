//! The pieces that content is sent in: large for a few viewers and small for a crowd, so that all of them together
//! stay within bounds.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
}
