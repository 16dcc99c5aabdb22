//! A statement on its way to the database's writer, and its answer on the way back.
//!
//! Exactly one side claims a statement: the writer just before it runs it, or the caller whose wait ended.
//! The caller sleeps until there is an answer, and only a caller that sleeps is woken: with small files a
//! wake-up is a good part of what a row costs.

use std::mem;

use super::schema::Sql;
use super::value::{Value, Written};
use crate::error::Result;
use crate::fail;
use crate::sync::thread::{self, Thread};
use crate::sync::{Arc, Instant, Mutex, MutexGuard, PoisonError};

/// A statement with its values. Dropped without an answer, it answers that the writer failed.
pub struct Statement {
    sql: &'static Sql,
    params: Vec<Value>,
    answer: Arc<Answer>,
}

impl Statement {
    /// A statement whose answer goes there.
    pub fn new(sql: &'static Sql, params: Vec<Value>, answer: &Arc<Answer>) -> Statement {
        Statement { sql, params, answer: Arc::clone(answer) }
    }

    /// Its SQL.
    pub fn sql(&self) -> &'static Sql {
        self.sql
    }

    /// Its values.
    pub fn params(&self) -> &[Value] {
        &self.params
    }

    /// Claims the statement for the writer; false where its caller has abandoned it. Once claimed, always so.
    pub fn claim(&self) -> bool {
        let mut state = self.answer.state();
        if let State::Queued = *state {
            *state = State::Claimed;
        }
        matches!(*state, State::Claimed)
    }

    /// Answers the caller. An abandoned statement has no caller any more.
    pub fn answer(&self, result: Result<Written>) {
        self.answer.set(|_| result);
    }
}

impl Drop for Statement {
    fn drop(&mut self) {
        self.answer.set(|is_claimed| match is_claimed {
            true => fail!(OutcomeUnknown, "the database's writer failed during the write"),
            false => fail!(Unavailable, "the database's writer failed before the write was begun"),
        });
    }
}

/// The answer to one statement, for one caller.
pub struct Answer {
    state: Mutex<State>,
    caller: Thread,
}

/// Who owns the statement. It leaves `Queued` once: the writer or the caller claims it.
enum State {
    Queued,
    /// By the writer.
    Claimed,
    /// By its caller: it is never run.
    Abandoned,
    Answered(Result<Written>),
    /// The caller has its answer.
    Taken,
}

impl Answer {
    /// An answer that this thread waits for, and no other.
    pub fn for_this_thread() -> Arc<Answer> {
        Arc::new(Answer { state: Mutex::new(State::Queued), caller: thread::current() })
    }

    /// Waits for the answer; `None` where it has not come by then.
    pub fn wait(&self, deadline: Instant) -> Option<Result<Written>> {
        loop {
            if let Some(result) = self.take() {
                return Some(result);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            // Returns at once if the answer has come since, and may return for no reason.
            thread::park_timeout(left);
        }
    }

    /// Claims the statement for its caller, so that it is never run; false where the writer was faster.
    pub fn abandon(&self) -> bool {
        let mut state = self.state();
        if let State::Queued = *state {
            *state = State::Abandoned;
        }
        matches!(*state, State::Abandoned)
    }

    fn take(&self) -> Option<Result<Written>> {
        let mut state = self.state();
        match mem::replace(&mut *state, State::Taken) {
            State::Answered(result) => Some(result),
            other => {
                *state = other;
                None
            }
        }
    }

    /// The first answer counts.
    fn set(&self, result: impl FnOnce(bool) -> Result<Written>) {
        let mut state = self.state();
        let is_claimed = match *state {
            State::Queued => false,
            State::Claimed => true,
            State::Abandoned | State::Answered(_) | State::Taken => return,
        };
        *state = State::Answered(result(is_claimed));
        drop(state);
        self.caller.unpark();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics under the lock, and the state is whole after every line.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use std::time::Duration;

    static SQL: Sql = Sql::both("INSERT");

    const SOON: Duration = Duration::from_millis(20);

    /// Far enough for a busy machine; nothing waits for so long.
    const LATE: Duration = Duration::from_secs(60);

    fn written(last_id: u64) -> Result<Written> {
        Ok(Written { affected: 1, last_id })
    }

    #[test]
    fn a_statement_is_the_writers_or_its_callers_and_never_both() {
        let answer = Answer::for_this_thread();
        let statement = Statement::new(&SQL, Vec::new(), &answer);
        assert!(answer.wait(Instant::now() + SOON).is_none());
        assert!(answer.abandon() && answer.abandon());
        assert!(!statement.claim());
        statement.answer(written(1));
        assert!(answer.wait(Instant::now()).is_none());

        let answer = Answer::for_this_thread();
        let statement = Statement::new(&SQL, Vec::new(), &answer);
        assert!(statement.claim() && statement.claim());
        assert!(!answer.abandon());
        statement.answer(written(2));
        drop(statement);
        assert_eq!(answer.wait(Instant::now() + LATE), Some(written(2)));
        assert_eq!(answer.wait(Instant::now()), None, "an answer is taken once");
    }

    #[test]
    fn a_statement_that_is_dropped_says_whether_it_was_claimed() {
        for (is_claimed, expected) in [(true, ErrorKind::OutcomeUnknown), (false, ErrorKind::Unavailable)] {
            let answer = Answer::for_this_thread();
            let statement = Statement::new(&SQL, Vec::new(), &answer);
            assert!(!is_claimed || statement.claim());
            drop(statement);
            let result = answer.wait(Instant::now() + LATE).unwrap();
            assert_eq!(result.map_err(|error| error.kind()), Err(expected));
        }
    }
}
