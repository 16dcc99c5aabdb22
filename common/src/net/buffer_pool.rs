//! Buffers for content on its way: to make and clear one anew costs as much as what it is filled with. They are
//! large for a few at a time and small for a crowd, so that all of them together stay within bounds.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::limits::COPY_BYTES;

/// So many at once have a buffer of [`COPY_BYTES`] each.
const LARGE_BUFFERS_MAX: usize = 64;

/// The buffer of each where there are more: a thousand that are filled at once then hold 64 MiB and not 256.
const SMALL_BUFFER_BYTES: usize = 64 << 10;

/// Buffers that are kept for later: 4 MiB in all.
const IDLE_BUFFERS_MAX: usize = 16;

/// A buffer of no more than this is made anew.
const KEPT_BYTES_MIN: usize = 16 << 10;

/// The buffers.
#[derive(Default)]
pub struct BufferPool {
    taken: AtomicUsize,
    idle: Mutex<Vec<Vec<u8>>>,
}

/// One of them, given back when this is dropped. What is in it is left from before.
pub struct Buffer<'a> {
    pool: &'a BufferPool,
    bytes: Vec<u8>,
}

impl BufferPool {
    /// A buffer that suits so many bytes of content; it has room for one byte at least.
    pub fn take(&self, size: u64) -> Buffer<'_> {
        let others = self.taken.fetch_add(1, Ordering::Relaxed);
        let most = if others < LARGE_BUFFERS_MAX { COPY_BYTES } else { SMALL_BUFFER_BYTES };
        let bytes = usize::try_from(size).unwrap_or(most).clamp(1, most);
        let idle = if bytes > KEPT_BYTES_MIN { self.idle().pop() } else { None };
        let bytes = idle.unwrap_or_else(|| vec![0; if bytes > KEPT_BYTES_MIN { most } else { bytes }]);
        Buffer { pool: self, bytes }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for Buffer<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        self.pool.taken.fetch_sub(1, Ordering::Relaxed);
        if self.bytes.len() == COPY_BYTES {
            let mut idle = self.pool.idle();
            if idle.len() < IDLE_BUFFERS_MAX {
                idle.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_large_for_a_few_small_for_a_crowd_and_few_are_kept() {
        let pool = BufferPool::default();
        let taken: Vec<_> = (0..LARGE_BUFFERS_MAX + 1).map(|_| pool.take(u64::MAX)).collect();
        assert!(taken[..LARGE_BUFFERS_MAX].iter().all(|buffer| buffer.len() == COPY_BYTES));
        assert_eq!(taken[LARGE_BUFFERS_MAX].len(), SMALL_BUFFER_BYTES);
        drop(taken);
        assert_eq!((pool.idle().len(), pool.taken.load(Ordering::Relaxed)), (IDLE_BUFFERS_MAX, 0));
        assert_eq!((pool.take(0).len(), pool.take(4096).len()), (1, 4096));
        assert_eq!(pool.idle().len(), IDLE_BUFFERS_MAX);
    }
}
