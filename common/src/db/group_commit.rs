//! The one thread that writes, and how it commits the statements of many callers in few transactions.
//!
//! A commit costs a flush of a disk, whether it holds one row or two hundred. So a caller queues its
//! statement and waits; the writer takes all that are queued, runs them in one transaction, commits, and
//! only then answers each. No answer is `Ok` before its commit is durable (or as good as
//! [`DbSettings::durable`](super::settings::DbSettings::durable) asks for).
//!
//! What an answer means, always:
//! - `Ok`: committed.
//! - `OutcomeUnknown`: it may or may not be committed, and that no longer changes: once
//!   [`Writer::wait_for_begun`] has returned, the database shows which.
//! - any other error: not applied, and never will be.
//!
//! To keep that, a statement is claimed by exactly one side: by the writer just before it runs it, or by
//! a caller whose wait ended. An abandoned statement is never run.
//!
//! And every group, of one statement too, is BEGIN, statements, COMMIT: what fails before the COMMIT
//! is sent is rolled back, by the server or by the next opening of the file.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::engine::{CommitError, Engine, TransactionError};
use super::schema::Sql;
use super::statement::{Answer, Statement};
use super::value::{Value, Written};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::fail;
use crate::sync::channel::{Receiver, SendTimeoutError, Sender, TryRecvError, bounded};
use crate::sync::{Arc, Condvar, Instant, Mutex, MutexGuard, PoisonError, thread};

/// Statements that wait for the writer: more than there are workers by default.
const QUEUED_MAX: usize = 4096;

/// Statements in one transaction: enough to make the flush cheap, few enough to repeat one by one.
const GROUP_MAX: usize = 256;

/// How long a caller waits for the writer to begin with its statement. Shorter than the minute that
/// clients wait for a reply.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long one group may take, repeated parts included; what is not done then is not applied.
const GROUP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a caller waits for the answer once the writer has begun: a group, and time-outs of the
/// connection in it. After that the outcome is unknown.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// How often one statement is tried that deadlocks with others or waits for their locks.
const CONFLICT_ATTEMPTS: u32 = 5;

/// How long to wait for the writer to end when the database is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A handle on the writer thread of one database.
pub struct Writer {
    /// The only sender. Dropped first: without it the channel is closed, and the thread ends when it is
    /// empty.
    statements: Sender<Statement>,
    /// Dropped next, which waits for the thread.
    thread: Running,
    groups: Arc<GroupCounts>,
}

/// Shows that the writer's thread has ended: its sender is dropped then, and nothing is sent.
struct Running(Receiver<()>);

/// What the writer's thread drops last, however it ends.
struct End {
    /// What the thread has not taken, where it ends by a panic. The channel keeps it as long as it has a
    /// sender.
    queued: Receiver<Statement>,
    running: Option<Sender<()>>,
}

impl Writer {
    /// Starts the thread.
    pub fn start(engine: impl Engine) -> Result<Writer> {
        let (statements, queued) = bounded(QUEUED_MAX);
        let (running, ended) = bounded(1);
        let groups = Arc::<GroupCounts>::default();
        let writer = Writer { statements, thread: Running(ended), groups: Arc::clone(&groups) };
        thread::Builder::new()
            .name("db-writer".into())
            .spawn(move || {
                // Dropped after the engine with its connection.
                let end = End { queued, running: Some(running) };
                run(engine, &end.queued, &groups);
            })
            .context(|| "start the database's writer thread")?;
        Ok(writer)
    }

    /// Queues one statement and waits until it is committed or has failed.
    pub fn write(&self, sql: &'static Sql, params: Vec<Value>) -> Result<Written> {
        let answer = Answer::for_this_thread();
        let deadline = Instant::now() + QUEUE_TIMEOUT;
        queue(&self.statements, Statement::new(sql, params, &answer), deadline)?;
        // A thread that ended meanwhile has dropped what was queued until then, and this perhaps not.
        if self.thread.has_ended() && answer.abandon() {
            return ended();
        }
        match answer.wait(deadline) {
            Some(result) => return result,
            None if answer.abandon() => {
                return fail!(
                    Busy,
                    "the database has not taken the write for {QUEUE_TIMEOUT:?}; try again later"
                );
            }
            None => {}
        }
        match answer.wait(Instant::now() + ANSWER_TIMEOUT) {
            Some(result) => result,
            None => fail!(OutcomeUnknown, "the database has not finished the write for {ANSWER_TIMEOUT:?}"),
        }
    }

    /// Waits until every group that was begun before this call has finished: a statement of unknown outcome
    /// can then no longer take effect from here.
    pub fn wait_for_begun(&self, timeout: Duration) -> Result<()> {
        self.groups.wait_for_begun(timeout)
    }
}

impl Running {
    fn has_ended(&self) -> bool {
        matches!(self.0.try_recv(), Err(TryRecvError::Disconnected))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // No caller waits for an answer any more: callers borrow the database. The wait lets the
        // connection be closed in good order.
        let _ = self.0.recv_timeout(CLOSE_TIMEOUT);
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // In this order: a caller that queues a statement too late to be dropped here sees that it is.
        drop(self.running.take());
        self.queued.try_iter().for_each(drop);
    }
}

/// Queues a statement, and waits for room.
fn queue(statements: &Sender<Statement>, statement: Statement, deadline: Instant) -> Result<()> {
    match statements.send_deadline(statement, deadline) {
        Ok(()) => Ok(()),
        Err(SendTimeoutError::Timeout(_)) => {
            fail!(Busy, "{QUEUED_MAX} writes wait for the database; try again later")
        }
        Err(SendTimeoutError::Disconnected(_)) => ended(),
    }
}

fn ended<T>() -> Result<T> {
    fail!(Unavailable, "the database's writer has ended; restart this server")
}

/// Counts groups begun and finished.
#[derive(Default)]
struct GroupCounts {
    counts: Mutex<Counts>,
    finished: Condvar,
}

#[derive(Default)]
struct Counts {
    begun: u64,
    finished: u64,
    /// Threads that wait for a group to finish. Without one there is no wake-up, which is a system call.
    waiting: usize,
}

impl GroupCounts {
    fn begin(&self) {
        self.counts().begun += 1;
    }

    fn finish(&self) {
        let mut counts = self.counts();
        counts.finished += 1;
        if counts.waiting > 0 {
            self.finished.notify_all();
        }
    }

    fn wait_for_begun(&self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        let mut counts = self.counts();
        let begun = counts.begun;
        while counts.finished < begun {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return fail!(Busy, "a write that was begun has not finished for {timeout:?}");
            }
            counts.waiting += 1;
            counts = self.finished.wait_timeout(counts, left).unwrap_or_else(PoisonError::into_inner).0;
            counts.waiting -= 1;
        }
        Ok(())
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread: until the channel is closed and empty.
fn run(mut engine: impl Engine, queued: &Receiver<Statement>, groups: &GroupCounts) {
    let mut group = Vec::with_capacity(GROUP_MAX);
    let mut is_shared = false;
    // Without a deadline: the writer has nothing else to do.
    while let Ok(first) = queued.recv() {
        group.push(first);
        if is_shared {
            // Lets the callers of the last group queue their next statements. Without it eight callers wrote about a
            // tenth less in most measurements.
            thread::yield_now();
        }
        group.extend(queued.try_iter().take(GROUP_MAX - 1));
        is_shared = group.len() > 1;
        groups.begin();
        let done = catch_unwind(AssertUnwindSafe(|| write_group(&mut engine, &group)));
        if done.is_err() {
            log::error!("the database's writer panicked; it continues on a new connection");
            engine.reset();
            engine.release_write_lock();
        }
        groups.finish();
        // After a panic there are no results: the statements are dropped unanswered, which their callers see.
        for (statement, result) in group.iter().zip(done.into_iter().flatten()) {
            statement.answer(result);
        }
        group.clear();
    }
}

/// One result for each statement, in order.
fn write_group(engine: &mut impl Engine, group: &[Statement]) -> Vec<Result<Written>> {
    if let Err(error) = engine.acquire_write_lock() {
        return all(group, &error);
    }
    let deadline = Instant::now() + GROUP_TIMEOUT;
    let results = match transact(engine, group, deadline) {
        Ok(results) => results,
        Err(
            TransactionError::Refused(error)
            | TransactionError::ConnectionLost(error)
            | TransactionError::Unavailable(error),
        ) => all(group, &error),
        Err(TransactionError::Aborted(error)) if group.len() == 1 => all(group, &error),
        Err(TransactionError::Aborted(_) | TransactionError::Conflict(_)) => {
            group.iter().map(|statement| write_alone(engine, statement, deadline)).collect()
        }
    };
    engine.release_write_lock();
    results
}

/// One statement in a transaction of its own, again where it clashes with others.
fn write_alone(engine: &mut impl Engine, statement: &Statement, deadline: Instant) -> Result<Written> {
    let group = std::slice::from_ref(statement);
    let mut attempt = 0;
    loop {
        attempt += 1;
        match transact(engine, group, deadline) {
            Ok(results) => return results.into_iter().next().unwrap_or_else(abandoned),
            Err(TransactionError::Conflict(_)) if attempt < CONFLICT_ATTEMPTS => {
                thread::sleep(Duration::from_millis(5 << attempt));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The group in one transaction; again on a fresh connection where the one before broke.
fn transact(
    engine: &mut impl Engine,
    group: &[Statement],
    deadline: Instant,
) -> std::result::Result<Vec<Result<Written>>, TransactionError> {
    let mut attempt = 1;
    let done = loop {
        match transact_once(engine, group, deadline) {
            Err(TransactionError::ConnectionLost(_))
                if attempt < engine.attempts_max() && Instant::now() < deadline =>
            {
                engine.reset();
                attempt += 1;
            }
            done => break done,
        }
    };
    done.inspect_err(|error| match error {
        TransactionError::ConnectionLost(_) | TransactionError::Unavailable(_) => engine.reset(),
        TransactionError::Refused(_) | TransactionError::Aborted(_) | TransactionError::Conflict(_) => {
            engine.rollback()
        }
    })
}

fn transact_once(
    engine: &mut impl Engine,
    group: &[Statement],
    deadline: Instant,
) -> std::result::Result<Vec<Result<Written>>, TransactionError> {
    engine.begin()?;
    let mut results: Vec<Result<Written>> = group.iter().map(|_| abandoned()).collect();
    // By statement. No caller sees another order: statements that wait together are of different callers.
    let mut order: Vec<usize> = (0..group.len()).collect();
    order.sort_by_key(|&index| std::ptr::from_ref(group[index].sql()).addr());
    for mut same in order.chunk_by(|&one, &other| std::ptr::eq(group[one].sql(), group[other].sql())) {
        while let Some(&first) = same.first() {
            let count = engine.rows_at_once(group[first].sql(), same.len()).clamp(1, same.len());
            let (now, later) = same.split_at(count);
            execute(engine, group, now, deadline, &mut results)?;
            same = later;
        }
    }
    if results.iter().all(Result::is_err) {
        engine.rollback();
        return Ok(results);
    }
    match engine.commit() {
        Ok(()) => Ok(results),
        Err(CommitError::RolledBack(error)) => Err(error),
        Err(CommitError::Unknown(error)) => {
            engine.reset();
            let unknown = Error::new(ErrorKind::OutcomeUnknown, error.message());
            // A statement that was refused had no part in the commit.
            Ok(results.into_iter().map(|result| result.and(Err(unknown.clone()))).collect())
        }
    }
}

/// Some statements of the same SQL, as many as the engine takes at once.
fn execute(
    engine: &mut impl Engine,
    group: &[Statement],
    indexes: &[usize],
    deadline: Instant,
    results: &mut [Result<Written>],
) -> std::result::Result<(), TransactionError> {
    let in_time = || match Instant::now() < deadline {
        true => Ok(()),
        false => {
            let slow = format!("the database has not begun the write within {GROUP_TIMEOUT:?}");
            Err(TransactionError::Unavailable(Error::new(ErrorKind::Busy, slow)))
        }
    };
    in_time()?;
    let claimed: Vec<usize> = indexes.iter().copied().filter(|&index| group[index].claim()).collect();
    // Without an abandoned one they are not as many as the engine takes.
    if claimed.len() > 1 && claimed.len() == indexes.len() {
        let rows: Vec<&[Value]> = claimed.iter().map(|&index| group[index].params()).collect();
        match engine.insert_rows(group[claimed[0]].sql(), &rows) {
            Ok(()) => {
                for index in claimed {
                    results[index] = Ok(Written { affected: 1, last_id: 0 });
                }
                return Ok(());
            }
            // None was inserted. Each is tried alone, so that only the failing one fails.
            Err(TransactionError::Refused(_)) => {}
            Err(error) => return Err(error),
        }
    }
    for index in claimed {
        in_time()?;
        results[index] = match engine.execute(group[index].sql(), group[index].params()) {
            Ok(written) => Ok(written),
            Err(TransactionError::Refused(error)) => Err(error),
            Err(error) => return Err(error),
        };
    }
    Ok(())
}

fn all(group: &[Statement], error: &Error) -> Vec<Result<Written>> {
    group.iter().map(|_| Err(error.clone())).collect()
}

/// The result of a statement whose caller has gone.
fn abandoned() -> Result<Written> {
    fail!(Busy, "the write was abandoned before it was begun")
}

#[cfg(test)]
#[path = "group_commit/tests.rs"]
mod tests;
