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
//! To keep that, a job is claimed by exactly one side: by the writer just before it runs it, or by
//! a caller whose patience ended. What a caller abandoned is never run.
//!
//! And every group, of one statement too, is BEGIN, statements, COMMIT: what fails before the COMMIT
//! is sent is rolled back for certain, by the server or by the next opening of the file.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::queue::{Job, Queue, Slot};
use super::schema::Sql;
use super::value::Value;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::fail;
use crate::sync::{Arc, Condvar, Instant, Mutex, MutexGuard, PoisonError, thread};

/// Statements in one transaction: enough to make the flush cheap, few enough to redo one by one.
const GROUP_JOBS_MAX: usize = 256;

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

/// What a statement that was committed did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Rows inserted, changed or deleted. MySQL does not count a row that an UPDATE leaves as it
    /// was (and counts 2 for an ON DUPLICATE KEY UPDATE that changes one); SQLite counts it.
    pub affected: u64,
    /// What the statement gave LAST_INSERT_ID in MySQL; in SQLite the first column of what it is
    /// RETURNING; or 0. What an AUTO_INCREMENT column gave is not told.
    pub last_id: u64,
}

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
    queue: Arc<Queue>,
    turns: Arc<Turns>,
}

impl Writer {
    /// Starts the thread.
    pub fn start(engine: impl Engine) -> Result<Writer> {
        let writer = Writer { queue: Arc::default(), turns: Arc::default() };
        let (queue, turns) = (Arc::clone(&writer.queue), Arc::clone(&writer.turns));
        thread::Builder::new()
            .name("db-writer".into())
            .spawn(move || {
                // Dropped last, which tells `Writer::drop` that the connection is closed.
                let _ended = queue.ends_with_this();
                run(engine, &queue, &turns);
            })
            .context(|| "start the database's writer thread")?;
        Ok(writer)
    }

    /// Queues one statement and waits until it is committed or has failed.
    pub fn write(&self, sql: &'static Sql, params: Vec<Value>) -> Result<Written> {
        let slot = Slot::of_this_thread();
        let deadline = Instant::now() + QUEUE_TIMEOUT;
        self.queue.push(Job::new(sql, params, &slot), deadline)?;
        match slot.wait(deadline) {
            Some(result) => return result,
            None if slot.abandon() => {
                return fail!(
                    Busy,
                    "the database has not taken the write for {QUEUE_TIMEOUT:?}; try again later"
                );
            }
            None => {}
        }
        match slot.wait(Instant::now() + ANSWER_TIMEOUT) {
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

impl Drop for Writer {
    fn drop(&mut self) {
        // Nobody waits for an answer any more: callers borrow the database. This only lets the
        // connection say goodbye.
        self.queue.close(CLOSE_TIMEOUT);
    }
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

/// The thread: until the queue is closed and empty.
fn run(mut engine: impl Engine, queue: &Queue, turns: &Turns) {
    let mut group = Vec::with_capacity(GROUP_JOBS_MAX);
    while queue.take(&mut group, GROUP_JOBS_MAX) {
        turns.begin();
        let done = catch_unwind(AssertUnwindSafe(|| write_group(&mut engine, &group)));
        if done.is_err() {
            log::error!("the database's writer panicked; it goes on with a new connection");
            engine.reset();
            engine.leave();
        }
        turns.finish();
        // After a panic there are no results: the jobs are dropped unanswered, which their callers see.
        for (job, result) in group.iter().zip(done.into_iter().flatten()) {
            job.answer(result);
        }
        group.clear();
    }
}

/// One result for each job, in order.
fn write_group(engine: &mut impl Engine, group: &[Job]) -> Vec<Result<Written>> {
    if let Err(error) = engine.enter() {
        return all(group, &error);
    }
    let deadline = Instant::now() + GROUP_TIMEOUT;
    let results = match transact(engine, group, deadline) {
        Ok(results) => results,
        Err(Fault::Refused(error) | Fault::Lost(error) | Fault::Down(error)) => all(group, &error),
        Err(Fault::Spoilt(error)) if group.len() == 1 => all(group, &error),
        Err(Fault::Spoilt(_) | Fault::Conflict(_)) => {
            group.iter().map(|job| write_alone(engine, job, deadline)).collect()
        }
    };
    engine.leave();
    results
}

/// One job in a transaction of its own, again where it clashes with others.
fn write_alone(engine: &mut impl Engine, job: &Job, deadline: Instant) -> Result<Written> {
    let group = std::slice::from_ref(job);
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
    group: &[Job],
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
    group: &[Job],
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

/// Some jobs of one statement, as many as the engine takes at once.
fn execute(
    engine: &mut impl Engine,
    group: &[Job],
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
    let claimed: Vec<usize> = indexes.iter().copied().filter(|&index| group[index].begin()).collect();
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

fn all(group: &[Job], error: &Error) -> Vec<Result<Written>> {
    group.iter().map(|_| Err(error.clone())).collect()
}

/// What nobody hears: the caller has gone.
fn abandoned() -> Result<Written> {
    fail!(Busy, "the write was given up before it was begun")
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use std::thread;

    static SQL: Sql = Sql::both("INSERT");

    /// What an engine does at its next steps; with nothing left it succeeds.
    #[derive(Clone, Default)]
    struct Script(Arc<Mutex<Steps>>);

    #[derive(Default)]
    struct Steps {
        begin: VecDeque<Fault>,
        execute: VecDeque<Option<Fault>>,
        rows: VecDeque<Option<Fault>>,
        rows_at_once: usize,
        together: Vec<usize>,
        commit: VecDeque<CommitFault>,
        panics: bool,
        open: Vec<i64>,
        committed: Vec<i64>,
        delay: Duration,
    }

    impl Script {
        fn steps(&self) -> MutexGuard<'_, Steps> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }

        fn write(&self, values: &[i64]) -> Vec<Result<Written>> {
            let mut engine = self.clone();
            let jobs: Vec<Job> = values.iter().map(|value| job(*value).0).collect();
            write_group(&mut engine, &jobs)
        }
    }

    fn job(value: i64) -> (Job, Arc<Slot>) {
        let slot = Slot::of_this_thread();
        (Job::new(&SQL, vec![value.into()], &slot), slot)
    }

    impl Engine for Script {
        fn enter(&mut self) -> Result<()> {
            Ok(())
        }

        fn leave(&mut self) {}

        fn begin(&mut self) -> std::result::Result<(), Fault> {
            let mut steps = self.steps();
            assert!(steps.open.is_empty(), "a transaction was left open");
            thread::sleep(steps.delay);
            steps.begin.pop_front().map_or(Ok(()), Err)
        }

        fn execute(&mut self, _: &'static Sql, params: &[Value]) -> std::result::Result<Written, Fault> {
            let mut steps = self.steps();
            if std::mem::take(&mut steps.panics) {
                panic!("as the test wants it");
            }
            match steps.execute.pop_front().flatten() {
                Some(fault) => Err(fault),
                None => {
                    let Value::Int(value) = params[0] else { panic!("an integer") };
                    steps.open.push(value);
                    Ok(Written { affected: 1, last_id: value.cast_unsigned() })
                }
            }
        }

        fn rows_at_once(&self, _: &'static Sql, rows: usize) -> usize {
            rows.min(self.steps().rows_at_once)
        }

        fn insert_rows(&mut self, _: &'static Sql, rows: &[&[Value]]) -> std::result::Result<(), Fault> {
            let mut steps = self.steps();
            match steps.rows.pop_front().flatten() {
                Some(fault) => Err(fault),
                None => {
                    steps.together.push(rows.len());
                    for row in rows {
                        let Value::Int(value) = row[0] else { panic!("an integer") };
                        steps.open.push(value);
                    }
                    Ok(())
                }
            }
        }

        fn commit(&mut self) -> std::result::Result<(), CommitFault> {
            let mut steps = self.steps();
            match steps.commit.pop_front() {
                Some(fault) => Err(fault),
                None => {
                    let open = std::mem::take(&mut steps.open);
                    steps.committed.extend(open);
                    Ok(())
                }
            }
        }

        fn rollback(&mut self) {
            self.steps().open.clear();
        }

        fn reset(&mut self) {
            self.rollback();
        }
    }

    fn error(kind: ErrorKind) -> Error {
        Error::new(kind, "as the test wants it")
    }

    fn kinds(results: Vec<Result<Written>>) -> Vec<Option<ErrorKind>> {
        results.into_iter().map(|result| result.err().map(|error| error.kind())).collect()
    }

    #[test]
    fn a_refused_statement_fails_alone() {
        let script = Script::default();
        script.steps().execute = VecDeque::from([None, Some(Fault::Refused(error(ErrorKind::Exists)))]);
        assert_eq!(kinds(script.write(&[1, 2, 3])), [None, Some(ErrorKind::Exists), None]);
        assert_eq!(script.steps().committed, [1, 3]);
    }

    #[test]
    fn rows_that_are_refused_together_are_tried_one_by_one() {
        let script = Script::default();
        script.steps().rows_at_once = 4;
        let refused = || Some(Fault::Refused(error(ErrorKind::Exists)));
        script.steps().rows = VecDeque::from([None, refused()]);
        script.steps().execute = VecDeque::from([None, refused()]);
        let results = script.write(&[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let mut expected = [None; 9];
        expected[5] = Some(ErrorKind::Exists);
        assert_eq!(kinds(results), expected);
        assert_eq!(script.steps().committed, [1, 2, 3, 4, 5, 7, 8, 9]);
        assert_eq!(script.steps().together, [4]);
    }

    #[test]
    fn rows_of_one_statement_go_together_whatever_lies_between_them_and_what_was_given_up_does_not() {
        static OTHER: Sql = Sql::both("DELETE");
        let script = Script::default();
        script.steps().rows_at_once = 2;
        let of = |sql, value: i64| Job::new(sql, vec![value.into()], &Slot::of_this_thread());
        let (given_up, slot) = job(7);
        assert!(slot.abandon());
        let jobs = [of(&SQL, 1), of(&OTHER, 2), of(&SQL, 3), of(&OTHER, 4), of(&SQL, 5), given_up];
        let results = write_group(&mut script.clone(), &jobs);
        assert_eq!(kinds(results), [None, None, None, None, None, Some(ErrorKind::Busy)]);
        script.steps().committed.sort_unstable();
        assert_eq!(script.steps().committed, [1, 2, 3, 4, 5]);
        assert_eq!(script.steps().together, [2, 2]);
    }

    #[test]
    fn what_spoils_rows_that_go_together_fails_alone() {
        let script = Script::default();
        script.steps().rows_at_once = 4;
        script.steps().rows = VecDeque::from([Some(Fault::Conflict(error(ErrorKind::Busy)))]);
        assert_eq!(kinds(script.write(&[1, 2, 3])), [None, None, None]);
        assert_eq!(script.steps().committed, [1, 2, 3]);
        script.steps().rows = VecDeque::from([Some(Fault::Lost(error(ErrorKind::Unavailable)))]);
        assert_eq!(kinds(script.write(&[4, 5])), [None, None], "on another connection");
        assert_eq!(script.steps().committed, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn what_spoils_the_transaction_fails_alone_too() {
        let script = Script::default();
        let spoilt = || Some(Fault::Spoilt(error(ErrorKind::Invalid)));
        // Once in the group, and then alone.
        script.steps().execute = VecDeque::from([None, spoilt(), None, spoilt()]);
        assert_eq!(kinds(script.write(&[1, 2, 3])), [None, Some(ErrorKind::Invalid), None]);
        assert_eq!(script.steps().committed, [1, 3]);
    }

    #[test]
    fn a_conflict_is_tried_again_one_by_one_and_not_for_ever() {
        let script = Script::default();
        let conflict = || Some(Fault::Conflict(error(ErrorKind::Busy)));
        script.steps().execute = VecDeque::from([conflict(), conflict(), conflict()]);
        assert_eq!(kinds(script.write(&[1, 2])), [None, None]);
        assert_eq!(script.steps().committed, [1, 2]);
        script.steps().execute =
            std::iter::repeat_with(conflict).take(1 + CONFLICT_ATTEMPTS as usize).collect();
        assert_eq!(kinds(script.write(&[3, 4])), [Some(ErrorKind::Busy), None]);
        assert_eq!(script.steps().committed, [1, 2, 4]);
    }

    #[test]
    fn a_connection_lost_before_the_commit_costs_one_more_attempt_and_is_not_unknown() {
        let script = Script::default();
        script.steps().begin = VecDeque::from([Fault::Lost(error(ErrorKind::Unavailable))]);
        assert_eq!(kinds(script.write(&[1])), [None]);
        let lost = || Some(Fault::Lost(error(ErrorKind::Unavailable)));
        script.steps().execute = VecDeque::from([None, lost(), lost()]);
        let unavailable = Some(ErrorKind::Unavailable);
        assert_eq!(kinds(script.write(&[2, 3])), [unavailable, unavailable]);
        assert_eq!(script.steps().committed, [1]);
    }

    #[test]
    fn a_commit_without_an_answer_is_unknown_only_to_what_it_held() {
        let script = Script::default();
        script.steps().execute = VecDeque::from([None, Some(Fault::Refused(error(ErrorKind::Exists)))]);
        script.steps().commit = VecDeque::from([CommitFault::Unknown(error(ErrorKind::Unavailable))]);
        assert_eq!(kinds(script.write(&[1, 2])), [Some(ErrorKind::OutcomeUnknown), Some(ErrorKind::Exists)]);
        // And it is not sent again: that could apply it twice.
        assert!(script.steps().committed.is_empty());
    }

    #[test]
    fn what_its_caller_abandoned_is_never_run() {
        let script = Script::default();
        let [(one, its_slot), (other, other_slot)] = [job(1), job(2)];
        assert!(its_slot.abandon());
        let results = write_group(&mut script.clone(), &[one, other]);
        assert!(results[0].is_err() && results[1].is_ok());
        assert_eq!(script.steps().committed, [2]);
        assert!(!other_slot.abandon(), "it was begun");
    }

    #[test]
    fn a_panic_is_an_unknown_outcome_and_the_writer_goes_on() {
        let script = Script::default();
        let writer = Writer::start(script.clone()).unwrap();
        script.steps().panics = true;
        let result = writer.write(&SQL, vec![1.into()]);
        assert_eq!(result.map_err(|error| error.kind()), Err(ErrorKind::OutcomeUnknown));
        assert_eq!(writer.write(&SQL, vec![2.into()]).unwrap().last_id, 2);
        assert_eq!(script.steps().committed, [2]);
    }

    #[test]
    fn settling_waits_for_what_is_begun() {
        let script = Script::default();
        let writer = Writer::start(script.clone()).unwrap();
        writer.settle(Duration::ZERO).unwrap();
        script.steps().delay = Duration::from_secs(2);
        let before = writer.turns.counts().begun;
        thread::scope(|scope| {
            let write = scope.spawn(|| writer.write(&SQL, vec![1.into()]));
            while writer.turns.counts().begun == before {
                thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(writer.settle(Duration::ZERO).map_err(|error| error.kind()), Err(ErrorKind::Busy));
            writer.settle(Duration::from_secs(60)).unwrap();
            assert_eq!(script.steps().committed, [1]);
            write.join().unwrap().unwrap();
        });
    }

    #[test]
    fn what_waits_together_is_committed_together() {
        let script = Script::default();
        let writer = Writer::start(script.clone()).unwrap();
        script.steps().delay = Duration::from_millis(20);
        let before = writer.turns.counts().begun;
        thread::scope(|scope| {
            for value in 0..100 {
                let writer = &writer;
                scope.spawn(move || writer.write(&SQL, vec![value.into()]).unwrap());
            }
        });
        let groups = writer.turns.counts().begun - before;
        assert!(groups < 50, "a hundred writes in {groups} groups");
        assert_eq!(script.steps().committed.len(), 100);
    }
}
