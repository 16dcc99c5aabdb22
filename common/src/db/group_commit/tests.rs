use std::collections::VecDeque;

use super::*;
use std::thread;

static SQL: Sql = Sql::both("INSERT");

/// Far enough for a busy machine; nothing waits for so long.
const LATE: Duration = Duration::from_secs(60);

/// What an engine does at its next steps; with nothing left it succeeds.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<Steps>>);

#[derive(Default)]
struct Steps {
    begin: VecDeque<TransactionError>,
    execute: VecDeque<Option<TransactionError>>,
    rows: VecDeque<Option<TransactionError>>,
    rows_at_once: usize,
    together: Vec<usize>,
    commit: VecDeque<CommitError>,
    panics: bool,
    reset_panics: bool,
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
        let statements: Vec<Statement> = values.iter().map(|value| statement(*value).0).collect();
        write_group(&mut engine, &statements)
    }
}

fn statement(value: i64) -> (Statement, Arc<Answer>) {
    let answer = Answer::for_this_thread();
    (Statement::new(&SQL, vec![value.into()], &answer), answer)
}

impl Engine for Script {
    fn acquire_write_lock(&mut self) -> Result<()> {
        Ok(())
    }

    fn release_write_lock(&mut self) {}

    fn begin(&mut self) -> std::result::Result<(), TransactionError> {
        let mut steps = self.steps();
        assert!(steps.open.is_empty(), "a transaction was left open");
        thread::sleep(steps.delay);
        steps.begin.pop_front().map_or(Ok(()), Err)
    }

    fn execute(
        &mut self,
        _: &'static Sql,
        params: &[Value],
    ) -> std::result::Result<Written, TransactionError> {
        let mut steps = self.steps();
        if std::mem::take(&mut steps.panics) {
            panic!("as the test asks");
        }
        match steps.execute.pop_front().flatten() {
            Some(error) => Err(error),
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

    fn insert_rows(
        &mut self,
        _: &'static Sql,
        rows: &[&[Value]],
    ) -> std::result::Result<(), TransactionError> {
        let mut steps = self.steps();
        match steps.rows.pop_front().flatten() {
            Some(error) => Err(error),
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

    fn commit(&mut self) -> std::result::Result<(), CommitError> {
        let mut steps = self.steps();
        match steps.commit.pop_front() {
            Some(error) => Err(error),
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
        assert!(!self.steps().reset_panics, "as the test asks");
        self.rollback();
    }
}

fn error(kind: ErrorKind) -> Error {
    Error::new(kind, "as the test asks")
}

fn kinds(results: Vec<Result<Written>>) -> Vec<Option<ErrorKind>> {
    results.into_iter().map(|result| result.err().map(|error| error.kind())).collect()
}

#[test]
fn a_refused_statement_fails_alone() {
    let script = Script::default();
    script.steps().execute =
        VecDeque::from([None, Some(TransactionError::Refused(error(ErrorKind::Exists)))]);
    assert_eq!(kinds(script.write(&[1, 2, 3])), [None, Some(ErrorKind::Exists), None]);
    assert_eq!(script.steps().committed, [1, 3]);
}

#[test]
fn rows_that_are_refused_together_are_tried_one_by_one() {
    let script = Script::default();
    script.steps().rows_at_once = 4;
    let refused = || Some(TransactionError::Refused(error(ErrorKind::Exists)));
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
fn rows_of_one_statement_go_together_and_an_abandoned_one_does_not() {
    static OTHER: Sql = Sql::both("DELETE");
    let script = Script::default();
    script.steps().rows_at_once = 2;
    let of = |sql, value: i64| Statement::new(sql, vec![value.into()], &Answer::for_this_thread());
    let (abandoned, answer) = statement(7);
    assert!(answer.abandon());
    let statements = [of(&SQL, 1), of(&OTHER, 2), of(&SQL, 3), of(&OTHER, 4), of(&SQL, 5), abandoned];
    let results = write_group(&mut script.clone(), &statements);
    assert_eq!(kinds(results), [None, None, None, None, None, Some(ErrorKind::Busy)]);
    script.steps().committed.sort_unstable();
    assert_eq!(script.steps().committed, [1, 2, 3, 4, 5]);
    assert_eq!(script.steps().together, [2, 2]);
}

#[test]
fn what_aborts_rows_that_go_together_fails_alone() {
    let script = Script::default();
    script.steps().rows_at_once = 4;
    script.steps().rows = VecDeque::from([Some(TransactionError::Conflict(error(ErrorKind::Busy)))]);
    assert_eq!(kinds(script.write(&[1, 2, 3])), [None, None, None]);
    assert_eq!(script.steps().committed, [1, 2, 3]);
    script.steps().rows =
        VecDeque::from([Some(TransactionError::ConnectionLost(error(ErrorKind::Unavailable)))]);
    assert_eq!(kinds(script.write(&[4, 5])), [None, None], "on another connection");
    assert_eq!(script.steps().committed, [1, 2, 3, 4, 5]);
}

#[test]
fn what_aborts_the_transaction_fails_alone_too() {
    let script = Script::default();
    let aborted = || Some(TransactionError::Aborted(error(ErrorKind::Invalid)));
    // Once in the group, and then alone.
    script.steps().execute = VecDeque::from([None, aborted(), None, aborted()]);
    assert_eq!(kinds(script.write(&[1, 2, 3])), [None, Some(ErrorKind::Invalid), None]);
    assert_eq!(script.steps().committed, [1, 3]);
}

#[test]
fn a_conflict_is_tried_again_one_by_one_and_not_for_ever() {
    let script = Script::default();
    let conflict = || Some(TransactionError::Conflict(error(ErrorKind::Busy)));
    script.steps().execute = VecDeque::from([conflict(), conflict(), conflict()]);
    assert_eq!(kinds(script.write(&[1, 2])), [None, None]);
    assert_eq!(script.steps().committed, [1, 2]);
    script.steps().execute = std::iter::repeat_with(conflict).take(1 + CONFLICT_ATTEMPTS as usize).collect();
    assert_eq!(kinds(script.write(&[3, 4])), [Some(ErrorKind::Busy), None]);
    assert_eq!(script.steps().committed, [1, 2, 4]);
}

#[test]
fn a_connection_lost_before_the_commit_costs_one_attempt_and_is_not_unknown() {
    let script = Script::default();
    script.steps().begin = VecDeque::from([TransactionError::ConnectionLost(error(ErrorKind::Unavailable))]);
    assert_eq!(kinds(script.write(&[1])), [None]);
    let lost = || Some(TransactionError::ConnectionLost(error(ErrorKind::Unavailable)));
    script.steps().execute = VecDeque::from([None, lost(), lost()]);
    let unavailable = Some(ErrorKind::Unavailable);
    assert_eq!(kinds(script.write(&[2, 3])), [unavailable, unavailable]);
    assert_eq!(script.steps().committed, [1]);
}

#[test]
fn a_commit_without_an_answer_is_unknown_only_to_what_it_held() {
    let script = Script::default();
    script.steps().execute =
        VecDeque::from([None, Some(TransactionError::Refused(error(ErrorKind::Exists)))]);
    script.steps().commit = VecDeque::from([CommitError::Unknown(error(ErrorKind::Unavailable))]);
    assert_eq!(kinds(script.write(&[1, 2])), [Some(ErrorKind::OutcomeUnknown), Some(ErrorKind::Exists)]);
    // And it is not sent again: that could apply it twice.
    assert!(script.steps().committed.is_empty());
}

#[test]
fn an_abandoned_statement_is_never_run() {
    let script = Script::default();
    let [(one, its_answer), (other, other_answer)] = [statement(1), statement(2)];
    assert!(its_answer.abandon());
    let results = write_group(&mut script.clone(), &[one, other]);
    assert!(results[0].is_err() && results[1].is_ok());
    assert_eq!(script.steps().committed, [2]);
    assert!(!other_answer.abandon(), "it was begun");
}

#[test]
fn a_panic_is_an_unknown_outcome_and_the_writer_continues() {
    let script = Script::default();
    let writer = Writer::start(script.clone()).unwrap();
    script.steps().panics = true;
    let result = writer.write(&SQL, vec![1.into()]);
    assert_eq!(result.map_err(|error| error.kind()), Err(ErrorKind::OutcomeUnknown));
    assert_eq!(writer.write(&SQL, vec![2.into()]).unwrap().last_id, 2);
    assert_eq!(script.steps().committed, [2]);
}

#[test]
fn waiting_for_begun_groups_ends_when_they_have_finished() {
    let script = Script::default();
    let writer = Writer::start(script.clone()).unwrap();
    writer.wait_for_begun(Duration::ZERO).unwrap();
    script.steps().delay = Duration::from_secs(2);
    let before = writer.groups.counts().begun;
    thread::scope(|scope| {
        let write = scope.spawn(|| writer.write(&SQL, vec![1.into()]));
        while writer.groups.counts().begun == before {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(writer.wait_for_begun(Duration::ZERO).map_err(|error| error.kind()), Err(ErrorKind::Busy));
        writer.wait_for_begun(Duration::from_secs(60)).unwrap();
        assert_eq!(script.steps().committed, [1]);
        write.join().unwrap().unwrap();
    });
}

#[test]
fn what_waits_together_is_committed_together() {
    let script = Script::default();
    let writer = Writer::start(script.clone()).unwrap();
    script.steps().delay = Duration::from_millis(20);
    let before = writer.groups.counts().begun;
    thread::scope(|scope| {
        for value in 0..100 {
            let writer = &writer;
            scope.spawn(move || writer.write(&SQL, vec![value.into()]).unwrap());
        }
    });
    let groups = writer.groups.counts().begun - before;
    assert!(groups < 50, "a hundred writes in {groups} groups");
    assert_eq!(script.steps().committed.len(), 100);
}

#[test]
fn a_full_queue_is_busy_after_a_while_and_takes_another_statement_when_one_has_left() {
    let (sender, receiver) = bounded(1);
    let push = |deadline| queue(&sender, statement(1).0, deadline);
    push(Instant::now()).unwrap();
    let soon = Instant::now() + Duration::from_millis(20);
    assert_eq!(push(soon).map_err(|error| error.kind()), Err(ErrorKind::Busy));
    thread::scope(|scope| {
        let pushed = scope.spawn(|| push(Instant::now() + LATE));
        thread::sleep(Duration::from_millis(20));
        drop(receiver.recv().unwrap());
        pushed.join().unwrap().unwrap();
    });
    assert_eq!(receiver.len(), 1);
}

#[test]
fn what_is_queued_at_the_end_is_written_and_the_end_is_waited_for() {
    let script = Script::default();
    let writer = Writer::start(script.clone()).unwrap();
    let answers = {
        // The engine waits for this lock.
        let _steps = script.steps();
        [1, 2, 3].map(|value| {
            let (statement, answer) = statement(value);
            queue(&writer.statements, statement, Instant::now() + LATE).unwrap();
            answer
        })
    };
    drop(writer);
    for answer in answers {
        assert!(answer.wait(Instant::now()).unwrap().is_ok());
    }
    assert_eq!(script.steps().committed, [1, 2, 3]);
}

/// A channel without a receiver keeps what is in it: callers would wait until their time-out.
#[test]
fn a_writer_that_ends_leaves_no_caller_waiting() {
    let script = Script::default();
    let writer = Writer::start(script.clone()).unwrap();
    let begun = Instant::now();
    let kinds = thread::scope(|scope| {
        let mut steps = script.steps();
        let write = |value: i64| writer.write(&SQL, vec![value.into()]);
        // The engine waits for the lock of the steps with the first one.
        let mut writes = vec![scope.spawn(move || write(0))];
        while writer.groups.counts().begun == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        writes.extend((1..8).map(|value| scope.spawn(move || write(value))));
        while writer.statements.len() < 7 {
            thread::sleep(Duration::from_millis(1));
        }
        (steps.panics, steps.reset_panics) = (true, true);
        drop(steps);
        kinds(writes.into_iter().map(|write| write.join().unwrap()).collect())
    });
    let (unavailable, unknown) = (Some(ErrorKind::Unavailable), Some(ErrorKind::OutcomeUnknown));
    assert!(kinds.iter().all(|kind| [unavailable, unknown].contains(kind)), "{kinds:?}");
    assert!(kinds.iter().filter(|kind| **kind == unknown).count() <= 1, "{kinds:?}");
    let result = writer.write(&SQL, vec![9.into()]);
    assert_eq!(result.map_err(|error| error.kind()), Err(ErrorKind::Unavailable));
    assert!(begun.elapsed() < QUEUE_TIMEOUT);
}

#[test]
fn answers_reach_callers_that_sleep() {
    let writer = Writer::start(Script::default()).unwrap();
    thread::scope(|scope| {
        for caller in 0..8 {
            let writer = &writer;
            scope.spawn(move || {
                for value in caller * 1000..caller * 1000 + 500_i64 {
                    let written = writer.write(&SQL, vec![value.into()]).unwrap();
                    assert_eq!(written.last_id, value.cast_unsigned());
                }
            });
        }
    });
}
