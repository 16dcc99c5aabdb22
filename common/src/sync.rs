//! What the hand-made concurrency is made of: locks, threads and the clock. Those files take them from here and
//! not from std, because the crate `model` compiles the same files with a scheduler in this module's place, and
//! tries thousands of interleavings of their threads.

pub use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
pub use std::time::Instant;

/// Threads.
pub mod thread {
    pub use std::thread::{Builder, Thread, current, park_timeout, sleep};
}
