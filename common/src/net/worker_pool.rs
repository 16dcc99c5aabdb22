//! Threads on demand: a bounded number of workers with small stacks that take jobs from one queue.
//! A job never waits while a worker is free or may still be made.
//!
//! A pool has its first thread before it has its first job, and keeps it. The system may refuse every further
//! one (a container's limit of processes, no memory): the jobs then wait for the threads there are, and the start
//! is tried again whenever a job comes, a job is taken, or the owner asks for it ([`Workers::retry`]).

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::error::{Context, Result};
use crate::limits::{STACK_BYTES, WORKER_IDLE_TIMEOUT};
use crate::sync::{Arc, Condvar, Instant, Mutex, MutexGuard, PoisonError, thread};

type Job = Box<dyn FnOnce() + Send>;

/// After a start that failed, the next one is tried so much later: each costs a few system calls under the pool's
/// lock, and what the system lacks does not come back within a millisecond.
const START_PAUSE: Duration = Duration::from_millis(100);

/// While starts go on failing, the log has a line of it so often.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// A pool of workers; clones share it. Its threads end when the last clone is dropped and no job is left.
#[derive(Clone)]
pub struct Workers {
    handle: Arc<Handle>,
}

struct Handle(Arc<Shared>);

struct Shared {
    name: String,
    max: usize,
    state: Mutex<State>,
    queued: Condvar,
}

/// Invariant, under the lock: each idle worker is waiting or has been notified, each coming one was started and has
/// not looked for a job yet; all of them take a job when they get the lock. So `idle + coming` workers suffice for
/// as many jobs.
#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    idle: usize,
    coming: usize,
    /// All threads, which is never 0 until the pool is closed.
    workers: usize,
    closed: bool,
    refused: Option<Refused>,
}

/// The system starts no threads at present.
struct Refused {
    /// Starts that failed since the log had a line of it.
    count: u64,
    retry_at: Instant,
    report_at: Instant,
}

impl Workers {
    /// A pool of at most `max` threads, the first of which is there when this returns. Without it the pool could
    /// do nothing, so that this fails.
    pub fn new(name: &str, max: usize) -> Result<Workers> {
        // Counted before it is started: it looks at once.
        let state = State { workers: 1, coming: 1, ..State::default() };
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            max: max.max(1),
            state: Mutex::new(state),
            queued: Condvar::new(),
        });
        shared.start().context(|| {
            format!(
                "start the first '{name}' thread; raise the limit of processes (ulimit -u, TasksMax, pids.max) or \
                 free memory"
            )
        })?;
        Ok(Workers { handle: Arc::new(Handle(shared)) })
    }

    /// Queues a job. The number of queued jobs is bounded by its callers: one for a connection.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        let shared = self.shared();
        let mut state = shared.lock();
        state.jobs.push_back(Box::new(job));
        if state.is_short() {
            return shared.grow(state);
        }
        let is_idle = state.idle > 0;
        // Who is woken wants the lock at once.
        drop(state);
        if is_idle {
            shared.queued.notify_one();
        }
    }

    /// Whether jobs wait because every worker is at work.
    pub fn is_pressed(&self) -> bool {
        let state = self.shared().lock();
        state.jobs.len() > state.idle
    }

    /// Tries again to start a worker where one was refused and a job still waits for it. For those who have a
    /// moment now and then: all workers may be at work for long, and no other job may come.
    pub fn retry(&self) {
        let state = self.shared().lock();
        if state.refused.is_some() && state.is_short() {
            self.shared().grow(state);
        }
    }

    /// Waits until no job is queued or under way, at most so long; tells whether that came.
    #[cfg(test)]
    fn wait_idle(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        loop {
            let state = self.shared().lock();
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

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.0
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.queued.notify_all();
    }
}

impl State {
    /// Whether a job waits that no worker will take at once.
    fn is_short(&self) -> bool {
        self.jobs.len() > self.idle + self.coming
    }

    /// Whether a start may succeed now.
    fn may_start(&self) -> bool {
        self.refused.as_ref().is_none_or(|refused| Instant::now() >= refused.retry_at)
    }

    /// Keeps what came of a start; gives what the log is to say of it.
    fn note(&mut self, started: io::Result<()>) -> Option<Report> {
        let Err(error) = started else {
            self.workers += 1;
            self.coming += 1;
            return self.refused.take().map(|_| Report::Works);
        };
        let now = Instant::now();
        let refused = self.refused.get_or_insert(Refused { count: 0, retry_at: now, report_at: now });
        refused.count += 1;
        refused.retry_at = now + START_PAUSE;
        if now < refused.report_at {
            return None;
        }
        refused.report_at = now + REPORT_INTERVAL;
        Some(Report::Refused(error, std::mem::take(&mut refused.count)))
    }
}

/// What the log is told of starts.
enum Report {
    /// They fail, so many since the last report.
    Refused(io::Error, u64),
    /// They succeed again.
    Works,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts one more worker for jobs that wait, as far as the pool may grow. Where that fails they wait for the
    /// workers there are, or for the next try.
    fn grow(self: &Arc<Shared>, mut state: MutexGuard<'_, State>) {
        if state.workers >= self.max || !state.may_start() {
            return;
        }
        let report = state.note(self.start());
        let (workers, jobs) = (state.workers, state.jobs.len());
        drop(state);
        let name = &self.name;
        match report {
            Some(Report::Refused(error, count)) => log::error!(
                "cannot start another '{name}' thread beside {workers} ({count} attempts failed): {error}; {jobs} \
                 jobs wait; raise the limit of processes (ulimit -u, TasksMax, pids.max) or free memory"
            ),
            Some(Report::Works) => log::info!("'{name}' threads can be started again, {workers} run"),
            None => {}
        }
    }

    fn start(self: &Arc<Shared>) -> io::Result<()> {
        let shared = Arc::clone(self);
        let thread = thread::Builder::new().name(self.name.clone()).stack_size(STACK_BYTES);
        thread.spawn(move || shared.work()).map(drop)
    }

    fn work(self: &Arc<Shared>) {
        let mut state = self.lock();
        state.coming -= 1;
        while let Some(job) = self.next_job(state) {
            // A job that fails takes only itself along; the panic hook has logged it.
            let _ = catch_unwind(AssertUnwindSafe(job));
            crate::log_context::set_peer(None);
            state = self.lock();
        }
    }

    /// The next job; `None` ends the worker: there was no job for a while and another worker is idle, or the pool is
    /// closed. The last idle one stays, since no other might be to be had when the next job comes.
    fn next_job(self: &Arc<Shared>, mut state: MutexGuard<'_, State>) -> Option<Job> {
        loop {
            if let Some(job) = state.jobs.pop_front() {
                if state.refused.is_some() && state.is_short() {
                    self.grow(state);
                }
                return Some(job);
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let (woken, timeout) =
                self.queued.wait_timeout(state, WORKER_IDLE_TIMEOUT).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if timeout.timed_out() && state.jobs.is_empty() && state.idle > 0 {
                break;
            }
        }
        state.workers -= 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn no_job_waits_while_a_worker_may_be_made() {
        // Each round needs all eight jobs running at once: one stranded behind another is a hang.
        let workers = Workers::new("test", 8).unwrap();
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
        let workers = Workers::new("test", 1).unwrap();
        for _ in 0..3 {
            workers.run(|| panic!("as asked"));
        }
        let (done, wait) = crossbeam_channel::bounded(1);
        workers.run(move || done.send(()).unwrap());
        assert!(wait.recv_timeout(Duration::from_secs(10)).is_ok());
    }
}
