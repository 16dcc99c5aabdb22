//! The one signal that ends a server: set once, seen by every thread, whether it waits on a
//! condition, sleeps, or watches descriptors.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};

use crate::error::{Context, Result};

/// A handle on the signal; clones share it.
#[derive(Clone)]
pub struct Stop {
    shared: Arc<Shared>,
}

struct Shared {
    set: Mutex<bool>,
    changed: Condvar,
    /// Readable once the signal is set, for those who wait in epoll.
    event: OwnedFd,
}

impl Stop {
    /// A signal that is not set yet.
    pub fn new() -> Result<Stop> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(std::io::Error::from)
            .context(|| "make an eventfd")?;
        let shared = Shared { set: Mutex::new(false), changed: Condvar::new(), event };
        Ok(Stop { shared: Arc::new(shared) })
    }

    /// Tells every thread to come to an end.
    pub fn set(&self) {
        *self.shared.set.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.changed.notify_all();
        // It fails only when the counter is full, and then it is readable anyway.
        let _ = rustix::io::write(&self.shared.event, &1_u64.to_ne_bytes());
    }

    /// Whether the server is to end.
    pub fn is_set(&self) -> bool {
        *self.shared.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps for so long, or until the signal is set: then it returns true, at once.
    pub fn wait(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut set = self.shared.set.lock().unwrap_or_else(PoisonError::into_inner);
        while !*set {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let woken = self.shared.changed.wait_timeout(set, left);
            set = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.event.as_fd()
    }
}
