//! The one thread that writes, and how it groups what many ask for into few commits.
//!
//! A commit costs a flush of a disk, whether it holds one row or two hundred. So whoever wants to
//! write queues its statement and waits; the writer takes whatever is queued now, runs it in one
//! transaction, commits, and only then answers each. No answer is `Ok` before its commit is durable (or
//! as good as [`DbSettings::durable`](super::settings::DbSettings::durable) asks for).
//!
//! What an answer means, always:
//! - `Ok`: committed.
//! - `OutcomeUnknown`: it may or may not be committed, and will be neither later: once
//!   [`Writer::settle`] returned, the database tells the truth about it.
//! - any other error: not applied, and never will be.
//!
//! To keep that, a statement is claimed by exactly one side: by the writer just before it runs it, or by
//! a caller whose wait ended. What a caller abandoned is never run.
//!
//! And every group, of one statement too, is BEGIN, statements, COMMIT: what fails before the COMMIT
//! is sent is rolled back for certain, by the server or by the next opening of the file.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::schema::Sql;
use super::statement::{Answer, Statement};
use super::value::{Value, Written};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::fail;
use crate::sync::channel::{Receiver, SendTimeoutError, Sender, TryRecvError, bounded};
use crate::sync::{Arc, Condvar, Instant, Mutex, MutexGuard, PoisonError, thread};

/// Statements that wait for the writer: more than there are workers by default.
const QUEUED_MAX: usize = 4096;

/// Statements in one transaction: enough to make the flush cheap, few enough to redo one by one.
const GROUP_MAX: usize = 256;

/// How long a caller waits for the writer to begin with its statement. Shorter than the minute that
/// clients wait for a reply.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long one group may take, redone parts included; what is not done then is not applied.
const GROUP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a caller waits for the answer once the writer has begun: a group, and time-outs of the
/// connection in it. A disk that hangs longer leaves the outcome unknown.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// How often one statement is tried that deadlocks with others or waits for their locks.
const CONFLICT_ATTEMPTS: u32 = 5;

/// How long to wait for the writer to end when the database is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// One database as its writer sees it: a connection that is made when needed, and transactions.
pub trait Engine: Send + 'static {
    /// Takes the turn among the processes that write to this database.
    fn enter(&mut self) -> Result<()>;
    /// Ends the turn.
    fn leave(&mut self);
    /// Starts a transaction.
    fn begin(&mut self) -> std::result::Result<(), Fault>;
    /// Runs a statement in it.
    fn execute(&mut self, sql: &'static Sql, params: &[Value]) -> std::result::Result<Written, Fault>;
    /// How many of so many rows that one statement inserts, each by itself, [`Engine::insert_rows`] would
    /// take at once.
    fn rows_at_once(&self, _sql: &'static Sql, _rows: usize) -> usize {
        1
    }
    /// Inserts so many rows in one go, all of them or none.
    fn insert_rows(&mut self, _sql: &'static Sql, _rows: &[&[Value]]) -> std::result::Result<(), Fault> {
        Err(Fault::Refused(Error::new(ErrorKind::Internal, "rows are inserted one by one")))
    }
    /// Commits it.
    fn commit(&mut self) -> std::result::Result<(), CommitFault>;
    /// Gives it up, with the connection if that is what it takes.
    fn rollback(&mut self);
    /// Drops the connection, whatever state it is in.
    fn reset(&mut self);
    /// How many connections one transaction may be tried on while they break before the COMMIT.
    fn attempts_max(&self) -> usize {
        2
    }
}

/// How a transaction fails before its COMMIT is sent.
#[derive(Debug)]
pub enum Fault {
    /// The statement failed and nothing else: the transaction goes on.
    Refused(Error),
    /// The statement failed, and the transaction with it, or perhaps so.
    Spoilt(Error),
    /// It clashed with another transaction; once more may succeed.
    Conflict(Error),
    /// The connection broke; a fresh one may serve.
    Lost(Error),
    /// There is no connection to be had, or no time left.
    Down(Error),
}

/// How a COMMIT fails.
#[derive(Debug)]
pub enum CommitFault {
    /// Rolled back for certain, which is a failure like those before the COMMIT.
    RolledBack(Fault),
    /// It was sent, and whether it took effect is not known.
    Unknown(Error),
}

/// A handle on the writer thread of one database.
pub struct Writer {
    /// The only sender. Dropped first: without it the channel is closed, and the thread ends when it is empty.
    statements: Sender<Statement>,
    /// Dropped next, which waits for the thread.
    thread: Running,
    turns: Arc<Turns>,
}

/// Shows that the writer's thread has ended: its sender is dropped then, and nothing is sent.
struct Running(Receiver<()>);

/// What the writer's thread drops last, however it ends.
struct End {
    /// What the thread has not taken, where it ends by a panic. The channel keeps it as long as it has a sender.
    queued: Receiver<Statement>,
    running: Option<Sender<()>>,
}

impl Writer {
    /// Starts the thread.
    pub fn start(engine: impl Engine) -> Result<Writer> {
        let (statements, queued) = bounded(QUEUED_MAX);
        let (running, ended) = bounded(1);
        let turns = Arc::<Turns>::default();
        let writer = Writer { statements, thread: Running(ended), turns: Arc::clone(&turns) };
        thread::Builder::new()
            .name("db-writer".into())
            .spawn(move || {
                // Dropped after the engine with its connection.
                let end = End { queued, running: Some(running) };
                run(engine, &end.queued, &turns);
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

    /// Waits until every statement the writer had begun before this call is done with, so that one
    /// whose outcome is unknown can no longer take effect from here.
    pub fn settle(&self, timeout: Duration) -> Result<()> {
        self.turns.wait_for_begun(timeout)
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
struct Turns {
    counts: Mutex<Counts>,
    finished: Condvar,
}

#[derive(Default)]
struct Counts {
    begun: u64,
    finished: u64,
    /// Who waits for a group to finish: waking nobody costs a system call too.
    waiting: usize,
}

impl Turns {
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
fn run(mut engine: impl Engine, queued: &Receiver<Statement>, turns: &Turns) {
    let mut group = Vec::with_capacity(GROUP_MAX);
    // Without a deadline: the writer has nothing else to do.
    while let Ok(first) = queued.recv() {
        group.push(first);
        group.extend(queued.try_iter().take(GROUP_MAX - 1));
        turns.begin();
        let done = catch_unwind(AssertUnwindSafe(|| write_group(&mut engine, &group)));
        if done.is_err() {
            log::error!("the database's writer panicked; it goes on with a new connection");
            engine.reset();
            engine.leave();
        }
        turns.finish();
        // After a panic there are no results: the statements are dropped unanswered, which their callers see.
        for (statement, result) in group.iter().zip(done.into_iter().flatten()) {
            statement.answer(result);
        }
        group.clear();
    }
}

/// One result for each statement, in order.
fn write_group(engine: &mut impl Engine, group: &[Statement]) -> Vec<Result<Written>> {
    if let Err(error) = engine.enter() {
        return all(group, &error);
    }
    let deadline = Instant::now() + GROUP_TIMEOUT;
    let results = match transact(engine, group, deadline) {
        Ok(results) => results,
        Err(Fault::Refused(error) | Fault::Lost(error) | Fault::Down(error)) => all(group, &error),
        Err(Fault::Spoilt(error)) if group.len() == 1 => all(group, &error),
        Err(Fault::Spoilt(_) | Fault::Conflict(_)) => {
            group.iter().map(|statement| write_alone(engine, statement, deadline)).collect()
        }
    };
    engine.leave();
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
            Err(Fault::Conflict(_)) if attempt < CONFLICT_ATTEMPTS => {
                thread::sleep(Duration::from_millis(5 << attempt));
            }
            Err(
                Fault::Refused(error)
                | Fault::Spoilt(error)
                | Fault::Conflict(error)
                | Fault::Lost(error)
                | Fault::Down(error),
            ) => return Err(error),
        }
    }
}

/// The group in one transaction; again on a fresh connection where the one before broke.
fn transact(
    engine: &mut impl Engine,
    group: &[Statement],
    deadline: Instant,
) -> std::result::Result<Vec<Result<Written>>, Fault> {
    let mut attempt = 1;
    let done = loop {
        match transact_once(engine, group, deadline) {
            Err(Fault::Lost(_)) if attempt < engine.attempts_max() && Instant::now() < deadline => {
                engine.reset();
                attempt += 1;
            }
            done => break done,
        }
    };
    done.inspect_err(|fault| match fault {
        Fault::Lost(_) | Fault::Down(_) => engine.reset(),
        Fault::Refused(_) | Fault::Spoilt(_) | Fault::Conflict(_) => engine.rollback(),
    })
}

fn transact_once(
    engine: &mut impl Engine,
    group: &[Statement],
    deadline: Instant,
) -> std::result::Result<Vec<Result<Written>>, Fault> {
    engine.begin()?;
    let mut results: Vec<Result<Written>> = group.iter().map(|_| abandoned()).collect();
    // By statement. That changes nobody's order: what waits together is of different callers.
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
        Err(CommitFault::RolledBack(fault)) => Err(fault),
        Err(CommitFault::Unknown(error)) => {
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
) -> std::result::Result<(), Fault> {
    let in_time = || match Instant::now() < deadline {
        true => Ok(()),
        false => {
            let slow = format!("the database has not got to the write within {GROUP_TIMEOUT:?}");
            Err(Fault::Down(Error::new(ErrorKind::Busy, slow)))
        }
    };
    in_time()?;
    let claimed: Vec<usize> = indexes.iter().copied().filter(|&index| group[index].claim()).collect();
    // Less one that was given up they are not as many as the engine takes.
    if claimed.len() > 1 && claimed.len() == indexes.len() {
        let rows: Vec<&[Value]> = claimed.iter().map(|&index| group[index].params()).collect();
        match engine.insert_rows(group[claimed[0]].sql(), &rows) {
            Ok(()) => {
                for index in claimed {
                    results[index] = Ok(Written { affected: 1, last_id: 0 });
                }
                return Ok(());
            }
            // None was inserted. Which of them it is that fails, each alone will tell.
            Err(Fault::Refused(_)) => {}
            Err(fault) => return Err(fault),
        }
    }
    for index in claimed {
        in_time()?;
        results[index] = match engine.execute(group[index].sql(), group[index].params()) {
            Ok(written) => Ok(written),
            Err(Fault::Refused(error)) => Err(error),
            Err(fault) => return Err(fault),
        };
    }
    Ok(())
}

fn all(group: &[Statement], error: &Error) -> Vec<Result<Written>> {
    group.iter().map(|_| Err(error.clone())).collect()
}

/// What nobody hears: the caller has gone.
fn abandoned() -> Result<Written> {
    fail!(Busy, "the write was given up before it was begun")
}

#[cfg(test)]
#[path = "group_commit/tests.rs"]
mod tests;
