//! How statements come to the writer, and answers to whoever waits for them.
//!
//! A queue under a lock, and a slot for each statement. Both sides sleep until there is something for
//! them, and are woken only if they sleep: with small files a wake-up is a good part of what a row costs.

use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

use super::schema::Sql;
use super::value::Value;
use super::writer::Written;
use crate::error::Result;
use crate::fail;
use crate::sync::thread::{self, Thread};
use crate::sync::{Arc, Condvar, Instant, Mutex, MutexGuard, PoisonError};

/// Statements waiting for the writer: more than there are workers by default.
const JOBS_MAX: usize = 4096;

/// One statement on its way. Dropped without an answer, it tells its caller so.
pub struct Job {
    sql: &'static Sql,
    params: Vec<Value>,
    slot: Arc<Slot>,
}

impl Job {
    /// A statement whose answer goes into this slot.
    pub fn new(sql: &'static Sql, params: Vec<Value>, slot: &Arc<Slot>) -> Job {
        Job { sql, params, slot: Arc::clone(slot) }
    }

    /// Its statement.
    pub fn sql(&self) -> &'static Sql {
        self.sql
    }

    /// Its values.
    pub fn params(&self) -> &[Value] {
        &self.params
    }

    /// Claims the job for the writer; false where its caller has given up. Once claimed, always so.
    pub fn begin(&self) -> bool {
        let mut state = self.slot.state();
        if let State::Queued = *state {
            *state = State::Begun;
        }
        matches!(*state, State::Begun)
    }

    /// Nobody listens to what was abandoned.
    pub fn answer(&self, result: Result<Written>) {
        self.slot.put(|_| result);
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.slot.put(|begun| match begun {
            true => fail!(OutcomeUnknown, "the database's writer failed during the write"),
            false => fail!(Unavailable, "the database's writer failed before the write was begun"),
        });
    }
}

/// Where one caller waits for one answer.
pub struct Slot {
    state: Mutex<State>,
    caller: Thread,
}

/// Whose a job is. It leaves `Queued` once: the writer or the caller claims it.
enum State {
    Queued,
    /// By the writer.
    Begun,
    /// By its caller: it is never run.
    Abandoned,
    Answered(Result<Written>),
    /// The caller has its answer.
    Heard,
}

impl Slot {
    /// A slot that this thread will wait at, and no other.
    pub fn of_this_thread() -> Arc<Slot> {
        Arc::new(Slot { state: Mutex::new(State::Queued), caller: thread::current() })
    }

    /// Waits for the answer; `None` where it has not come by then.
    pub fn wait(&self, deadline: Instant) -> Option<Result<Written>> {
        loop {
            if let Some(result) = self.hear() {
                return Some(result);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            // Ends at once if the answer has come since, and now and then for no reason.
            thread::park_timeout(left);
        }
    }

    /// Claims the job for its caller, so that it is never run; false where the writer was faster.
    pub fn abandon(&self) -> bool {
        let mut state = self.state();
        if let State::Queued = *state {
            *state = State::Abandoned;
        }
        matches!(*state, State::Abandoned)
    }

    fn hear(&self) -> Option<Result<Written>> {
        let mut state = self.state();
        match mem::replace(&mut *state, State::Heard) {
            State::Answered(result) => Some(result),
            other => {
                *state = other;
                None
            }
        }
    }

    /// The first answer counts.
    fn put(&self, result: impl FnOnce(bool) -> Result<Written>) {
        let mut state = self.state();
        let begun = match *state {
            State::Queued => false,
            State::Begun => true,
            State::Abandoned | State::Answered(_) | State::Heard => return,
        };
        *state = State::Answered(result(begun));
        drop(state);
        self.caller.unpark();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics under the lock, and the state is whole after every line.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The statements that wait for the writer.
#[derive(Default)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    /// The writer waits for jobs here.
    came: Condvar,
    /// Callers wait for room here.
    left: Condvar,
    /// And who closes the queue for the writer's end.
    ended: Condvar,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    /// The writer sleeps, and nobody has woken it yet.
    asleep: bool,
    /// Callers that wait for room.
    crowd: usize,
    closed: bool,
    ended: bool,
}

/// Dropped at the writer's end, however it ends.
pub struct End<'a>(&'a Queue);

impl Queue {
    /// Queues a job, waiting for room.
    pub fn push(&self, job: Job, deadline: Instant) -> Result<()> {
        let mut waiting = self.waiting();
        while waiting.jobs.len() >= JOBS_MAX && !waiting.ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return fail!(Busy, "{JOBS_MAX} writes wait for the database; try again later");
            }
            waiting.crowd += 1;
            waiting = self.left.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
            waiting.crowd -= 1;
        }
        if waiting.ended {
            return fail!(Unavailable, "the database's writer has ended; restart this server");
        }
        waiting.jobs.push_back(job);
        let wake = mem::take(&mut waiting.asleep);
        drop(waiting);
        if wake {
            self.came.notify_one();
        }
        Ok(())
    }

    /// Waits for jobs, and moves so many at most to an empty group; false at the end, when the queue is
    /// closed and empty.
    pub fn take(&self, group: &mut Vec<Job>, jobs_max: usize) -> bool {
        let mut waiting = self.waiting();
        while waiting.jobs.is_empty() && !waiting.closed {
            waiting.asleep = true;
            // Without a deadline: the writer has nothing else to do, and nobody waits for it meanwhile.
            waiting = self.came.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            waiting.asleep = false;
        }
        let count = waiting.jobs.len().min(jobs_max);
        group.extend(waiting.jobs.drain(..count));
        let crowded = waiting.crowd > 0;
        drop(waiting);
        if crowded {
            self.left.notify_all();
        }
        !group.is_empty()
    }

    /// Lets the writer end, and waits until it has, for so long at most.
    pub fn close(&self, timeout: Duration) {
        let mut waiting = self.waiting();
        waiting.closed = true;
        self.came.notify_one();
        let _ = self.ended.wait_timeout_while(waiting, timeout, |waiting| !waiting.ended);
    }

    /// What the writer's thread holds on to for as long as it serves this queue.
    pub fn ends_with_this(&self) -> End<'_> {
        End(self)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics under the lock, and the state is whole after every line.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting();
        waiting.ended = true;
        let jobs = mem::take(&mut waiting.jobs);
        drop(waiting);
        self.0.ended.notify_all();
        self.0.left.notify_all();
        // What nobody will run: their callers are told.
        drop(jobs);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use std::thread;

    static SQL: Sql = Sql::both("INSERT");

    const SOON: Duration = Duration::from_millis(20);

    /// Far enough for a busy machine; nothing waits for so long.
    const LATE: Duration = Duration::from_secs(60);

    fn job() -> Job {
        Job::new(&SQL, Vec::new(), &Slot::of_this_thread())
    }

    fn written(last_id: u64) -> Result<Written> {
        Ok(Written { affected: 1, last_id })
    }

    fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
        result.err().map(|error| error.kind())
    }

    #[test]
    fn a_full_queue_is_busy_after_a_while_and_has_room_again_when_the_writer_takes_some() {
        let queue = Queue::default();
        for _ in 0..JOBS_MAX {
            queue.push(job(), Instant::now()).unwrap();
        }
        assert_eq!(kind(queue.push(job(), Instant::now() + SOON)), Some(ErrorKind::Busy));
        thread::scope(|scope| {
            let pushed = scope.spawn(|| queue.push(job(), Instant::now() + LATE));
            while queue.waiting().crowd == 0 {
                thread::sleep(Duration::from_millis(1));
            }
            let mut group = Vec::new();
            assert!(queue.take(&mut group, 2));
            assert_eq!(group.len(), 2);
            pushed.join().unwrap().unwrap();
        });
        assert_eq!(queue.waiting().jobs.len(), JOBS_MAX - 1);
    }

    #[test]
    fn what_is_queued_when_the_queue_is_closed_is_taken_still_and_that_is_the_end() {
        let queue = Queue::default();
        queue.push(job(), Instant::now()).unwrap();
        queue.close(Duration::ZERO);
        let mut group = Vec::new();
        assert!(queue.take(&mut group, 256));
        group.clear();
        assert!(!queue.take(&mut group, 256));
    }

    #[test]
    fn a_writer_that_ends_leaves_nobody_waiting() {
        let queue = Queue::default();
        let slot = Slot::of_this_thread();
        queue.push(Job::new(&SQL, Vec::new(), &slot), Instant::now()).unwrap();
        drop(queue.ends_with_this());
        let answer = slot.wait(Instant::now() + LATE).unwrap();
        assert_eq!(kind(answer), Some(ErrorKind::Unavailable));
        assert_eq!(kind(queue.push(job(), Instant::now() + LATE)), Some(ErrorKind::Unavailable));
    }

    #[test]
    fn a_job_is_the_writers_or_its_callers_and_never_both() {
        let slot = Slot::of_this_thread();
        let job = Job::new(&SQL, Vec::new(), &slot);
        assert!(slot.wait(Instant::now() + SOON).is_none());
        assert!(slot.abandon() && slot.abandon());
        assert!(!job.begin());
        job.answer(written(1));
        assert!(slot.wait(Instant::now()).is_none());

        let slot = Slot::of_this_thread();
        let job = Job::new(&SQL, Vec::new(), &slot);
        assert!(job.begin() && job.begin());
        assert!(!slot.abandon());
        job.answer(written(2));
        drop(job);
        assert_eq!(slot.wait(Instant::now() + LATE), Some(written(2)));
        assert_eq!(slot.wait(Instant::now()), None, "an answer is heard once");
    }

    #[test]
    fn a_job_that_is_dropped_says_whether_it_was_begun() {
        for (begun, expected) in [(true, ErrorKind::OutcomeUnknown), (false, ErrorKind::Unavailable)] {
            let slot = Slot::of_this_thread();
            let job = Job::new(&SQL, Vec::new(), &slot);
            assert!(!begun || job.begin());
            drop(job);
            assert_eq!(kind(slot.wait(Instant::now() + LATE).unwrap()), Some(expected));
        }
    }

    #[test]
    fn answers_reach_callers_that_sleep() {
        let queue = Queue::default();
        thread::scope(|scope| {
            scope.spawn(|| {
                let _end = queue.ends_with_this();
                let mut group = Vec::new();
                while queue.take(&mut group, 3) {
                    for job in group.drain(..) {
                        assert!(job.begin());
                        let Value::Int(value) = job.params()[0] else { panic!("an integer") };
                        job.answer(written(value.cast_unsigned()));
                    }
                }
            });
            let callers: Vec<_> = (0..8)
                .map(|caller: i64| {
                    let queue = &queue;
                    scope.spawn(move || {
                        for value in caller * 1000..caller * 1000 + 500 {
                            let slot = Slot::of_this_thread();
                            queue
                                .push(Job::new(&SQL, vec![value.into()], &slot), Instant::now() + LATE)
                                .unwrap();
                            let answer = slot.wait(Instant::now() + LATE).unwrap();
                            assert_eq!(answer, written(value.cast_unsigned()));
                        }
                    })
                })
                .collect();
            callers.into_iter().for_each(|caller| caller.join().unwrap());
            queue.close(LATE);
            assert!(queue.waiting().ended);
        });
    }
}
