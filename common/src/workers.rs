//! Threads on demand: a bounded number of workers with small stacks that take jobs from one queue.
//! A job never waits while a worker is free or may still be made.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::limits::{STACK_BYTES, WORKER_IDLE_TIMEOUT};

type Job = Box<dyn FnOnce() + Send>;

/// A pool of workers; clones share it.
#[derive(Clone)]
pub struct Workers {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    max: usize,
    state: Mutex<State>,
    queued: Condvar,
}

/// Invariant, under the lock: each idle worker is waiting or has been notified and takes a job when
/// it gets the lock, so `idle` workers suffice for `jobs.len() <= idle` jobs.
#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    idle: usize,
    workers: usize,
}

impl Workers {
    /// A pool of at most `max` threads, none of them made yet.
    pub fn new(name: &str, max: usize) -> Workers {
        let shared = Shared { name: name.to_owned(), max, state: Mutex::default(), queued: Condvar::new() };
        Workers { shared: Arc::new(shared) }
    }

    /// Queues a job. The number of queued jobs is bounded by its callers: one for a connection.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.shared.lock();
        state.jobs.push_back(Box::new(job));
        if state.jobs.len() <= state.idle {
            // Who is woken wants the lock at once.
            drop(state);
            self.shared.queued.notify_one();
        } else if state.workers < self.shared.max {
            self.spawn(&mut state);
        }
    }

    /// Whether jobs wait because every worker is at work.
    pub fn is_pressed(&self) -> bool {
        let state = self.shared.lock();
        state.jobs.len() > state.idle
    }

    /// Waits until no job is queued or under way, at most so long; tells whether that came.
    pub fn wait_idle(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        loop {
            let state = self.shared.lock();
            if state.jobs.is_empty() && state.workers == state.idle {
                return true;
            }
            drop(state);
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn spawn(&self, state: &mut State) {
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new().name(self.shared.name.clone()).stack_size(STACK_BYTES);
        match thread.spawn(move || shared.work()) {
            Ok(_) => state.workers += 1,
            // The job stays queued for the workers there are.
            Err(error) => log::error!("start a worker beside {} others: {error}", state.workers),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some(job) = self.next_job() {
            // A job that fails takes only itself along; the panic hook has logged it.
            let _ = catch_unwind(AssertUnwindSafe(job));
            crate::peer::set(None);
        }
    }

    /// The next job; `None` when there was none for a while, and the worker ends.
    fn next_job(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            state.idle += 1;
            let (woken, timeout) =
                self.queued.wait_timeout(state, WORKER_IDLE_TIMEOUT).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if timeout.timed_out() && state.jobs.is_empty() {
                state.workers -= 1;
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn no_job_waits_while_a_worker_may_be_made() {
        // Each round needs all eight jobs running at once: one stranded behind another is a hang.
        let workers = Workers::new("test", 8);
        for _ in 0..200 {
            let barrier = Arc::new(Barrier::new(9));
            for _ in 0..8 {
                let barrier = Arc::clone(&barrier);
                workers.run(move || {
                    barrier.wait();
                });
            }
            barrier.wait();
            assert!(workers.wait_idle(Duration::from_secs(10)));
        }
    }

    #[test]
    fn a_job_that_panics_costs_no_worker() {
        let workers = Workers::new("test", 1);
        for _ in 0..3 {
            workers.run(|| panic!("as asked"));
        }
        let (done, wait) = crossbeam_channel::bounded(1);
        workers.run(move || done.send(()).unwrap());
        assert!(wait.recv_timeout(Duration::from_secs(10)).is_ok());
    }
}
