//! Threads on demand: a bounded number of workers with small stacks that take jobs from one bounded channel.
//! A job never waits while a worker is free or may still be started.
//!
//! A pool has its first thread before it has its first job, and keeps it. The system may refuse every further
//! one (a container's limit of processes, no memory): the jobs then wait for the threads there are, and the start
//! is tried again when a job comes, when a job is taken, or when the owner asks for it ([`Workers::retry`]).

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::error::{Context, Result};
use crate::limits::{STACK_BYTES, WORKER_IDLE_TIMEOUT};
use crate::log_context;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use crate::sync::{Arc, Instant, Mutex, MutexGuard, PoisonError, thread};

type Job = Box<dyn FnOnce() + Send>;

/// After a start that failed, the next one is tried so much later: each costs a few system calls under the pool's
/// lock, and what the system lacks does not come back within a millisecond.
const START_PAUSE: Duration = Duration::from_millis(100);

/// While starts go on failing, the log has a line of it so often.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// A pool of workers; clones share it. Its threads end when the last clone is dropped and no job is left.
#[derive(Clone)]
pub struct Workers {
    /// The only senders: without them the channel is closed.
    jobs: Sender<Job>,
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    threads_max: usize,
    jobs: Receiver<Job>,
    /// Workers that wait for a job, or were started and have not looked for one yet. Each takes a job if there is
    /// one. So a caller that queues a job, and a worker that stops being idle, start a worker where more jobs are queued than
    /// workers are idle.
    idle: AtomicUsize,
    threads: Mutex<Threads>,
}

/// The threads of a pool, of which there is always one until the channel is closed.
struct Threads {
    count: usize,
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
    /// A pool of at most `threads_max` threads, the first of which is there when this returns, and at most
    /// `queued_max` jobs that wait. Without the first thread the pool could do nothing, so that this fails.
    pub fn new(name: &str, threads_max: usize, queued_max: usize) -> Result<Workers> {
        let (sender, jobs) = bounded(queued_max.max(1));
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            threads_max: threads_max.max(1),
            jobs,
            // Counted before it is started: it looks at once.
            idle: AtomicUsize::new(1),
            threads: Mutex::new(Threads { count: 1, refused: None }),
        });
        shared.start().context(|| {
            format!(
                "start the first '{name}' thread; raise the limit of processes (ulimit -u, TasksMax, pids.max) or \
                 free memory"
            )
        })?;
        Ok(Workers { jobs: sender, shared })
    }

    /// Queues a job. Where too many are queued already, the caller does it.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        match self.jobs.try_send(Box::new(job)) {
            Ok(()) => self.shared.grow_if_short(),
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => job(),
        }
    }

    /// Whether jobs wait because every worker is at work.
    pub fn is_pressed(&self) -> bool {
        self.shared.is_short()
    }

    /// Tries again to start a worker where one was refused and a job still waits for it. For callers that run at
    /// intervals: all workers may be at work for long, and no other job may come.
    pub fn retry(&self) {
        self.shared.grow_if_short();
    }

    /// Waits until no job is queued or under way, at most so long; returns whether that is so.
    #[cfg(test)]
    fn wait_idle(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        loop {
            let threads = self.shared.lock().count;
            if self.jobs.is_empty() && threads == self.shared.idle.load(Ordering::SeqCst) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Threads {
    /// Whether a start may succeed now.
    fn may_start(&self) -> bool {
        self.refused.as_ref().is_none_or(|refused| Instant::now() >= refused.retry_at)
    }

    /// Keeps what came of a start; gives what the log is to say of it.
    fn note(&mut self, started: io::Result<()>) -> Option<Report> {
        let Err(error) = started else {
            self.count += 1;
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

/// What the log says of starts.
enum Report {
    /// They fail, so many since the last report.
    Refused(io::Error, u64),
    /// They succeed again.
    Works,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a job waits that no worker will take at once.
    fn is_short(&self) -> bool {
        self.jobs.len() > self.idle.load(Ordering::SeqCst)
    }

    fn grow_if_short(self: &Arc<Shared>) {
        if self.is_short() {
            self.grow();
        }
    }

    /// Starts one more worker for jobs that wait, as far as the pool may grow. Where that fails they wait for the
    /// workers there are, or for the next try.
    fn grow(self: &Arc<Shared>) {
        let mut threads = self.lock();
        // Another caller may have started one meanwhile.
        if threads.count >= self.threads_max || !self.is_short() || !threads.may_start() {
            return;
        }
        self.idle.fetch_add(1, Ordering::SeqCst);
        let started = self.start();
        if started.is_err() {
            self.idle.fetch_sub(1, Ordering::SeqCst);
        }
        let report = threads.note(started);
        let count = threads.count;
        drop(threads);
        let (name, jobs) = (&self.name, self.jobs.len());
        match report {
            Some(Report::Refused(error, failed)) => log::error!(
                "cannot start another '{name}' thread beside {count} ({failed} attempts failed): {error}; {jobs} \
                 jobs wait; raise the limit of processes (ulimit -u, TasksMax, pids.max) or free memory"
            ),
            Some(Report::Works) => log::info!("'{name}' threads can be started again, {count} run"),
            None => {}
        }
    }

    fn start(self: &Arc<Shared>) -> io::Result<()> {
        let shared = Arc::clone(self);
        let thread = thread::Builder::new().name(self.name.clone()).stack_size(STACK_BYTES);
        thread.spawn(move || shared.work()).map(drop)
    }

    fn work(self: &Arc<Shared>) {
        while let Some(job) = self.next_job() {
            // A job that panics ends alone; the panic hook has logged it.
            let _ = catch_unwind(AssertUnwindSafe(job));
            log_context::set_peer(None);
            self.idle.fetch_add(1, Ordering::SeqCst);
        }
        self.lock().count -= 1;
        // A job that came meanwhile found the pool as large as it may be.
        self.grow_if_short();
    }

    /// The next job of a worker that is idle, which it then is no more. `None` ends the worker: there was no job for a
    /// while and another worker is idle, or the channel is closed. The last idle one stays, since the system might
    /// refuse to start another when the next job comes.
    fn next_job(self: &Arc<Shared>) -> Option<Job> {
        loop {
            match self.jobs.recv_timeout(WORKER_IDLE_TIMEOUT) {
                Ok(job) => {
                    self.idle.fetch_sub(1, Ordering::SeqCst);
                    self.grow_if_short();
                    return Some(job);
                }
                Err(RecvTimeoutError::Timeout) => {
                    let others = |idle: usize| (idle > 1).then(|| idle - 1);
                    if self.idle.fetch_update(Ordering::SeqCst, Ordering::SeqCst, others).is_ok() {
                        // A job that was queued just now may count on this worker.
                        let job = self.jobs.try_recv().ok();
                        self.grow_if_short();
                        return job;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.idle.fetch_sub(1, Ordering::SeqCst);
                    return None;
                }
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
        let workers = Workers::new("test", 8, 100).unwrap();
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
        let workers = Workers::new("test", 1, 100).unwrap();
        for _ in 0..3 {
            workers.run(|| panic!("as asked"));
        }
        let (done, wait) = crossbeam_channel::bounded(1);
        workers.run(move || done.send(()).unwrap());
        assert!(wait.recv_timeout(Duration::from_secs(10)).is_ok());
    }

    #[test]
    fn the_caller_does_what_the_channel_has_no_room_for() {
        let workers = Workers::new("test", 1, 1).unwrap();
        let (release, wait) = crossbeam_channel::bounded::<()>(0);
        let (begun, has_begun) = crossbeam_channel::bounded(1);
        workers.run(move || {
            begun.send(()).unwrap();
            let _ = wait.recv_timeout(Duration::from_secs(60));
        });
        has_begun.recv_timeout(Duration::from_secs(60)).unwrap();
        let (done, outcome) = crossbeam_channel::bounded(2);
        for _ in 0..2 {
            let done = done.clone();
            workers.run(move || done.send(std::thread::current().id()).unwrap());
        }
        let caller = std::thread::current().id();
        assert_eq!(outcome.recv_timeout(Duration::from_secs(60)), Ok(caller), "the second one has no room");
        drop(release);
        assert_ne!(outcome.recv_timeout(Duration::from_secs(60)), Ok(caller));
    }
}
