//! What the hand-made concurrency is made of: locks, channels, threads and the clock. Those files take them
//! from here and not from std, because the crate `model` compiles the same files with a scheduler in this
//! module's place, and tries thousands of interleavings of their threads.

pub use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
pub use std::time::Instant;

/// Threads.
pub mod thread {
    pub use std::thread::{Builder, Thread, current, park_timeout, sleep, yield_now};
}

/// Numbers that threads share.
pub mod atomic {
    pub use std::sync::atomic::{AtomicUsize, Ordering};
}

/// Bounded channels of many senders and many receivers.
pub mod channel {
    pub use crossbeam_channel::{
        Receiver, RecvTimeoutError, SendTimeoutError, Sender, TryRecvError, TrySendError, bounded,
    };
}
