//! The database's writer: its channel, its callers and its group commits.

use std::sync::Mutex as Seen;

use shuttle::thread;
use tnv_model::db::engine::{CommitError, Engine, TransactionError};
use tnv_model::db::group_commit::Writer;
use tnv_model::db::{Sql, Value, Written};
use tnv_model::error::{Error, ErrorKind, Result};
use tnv_model::scenario::check;
use tnv_model::sync::{self, Arc, chance};

static SQL: Sql = Sql::both("INSERT");

/// What the disk has. A lock of std: no thread is switched under it.
type Disk = Arc<Seen<Vec<i64>>>;

/// A database that fails now and then, in each way there is.
struct Unreliable {
    disk: Disk,
    open: Vec<i64>,
}

fn error() -> Error {
    Error::new(ErrorKind::Unavailable, "as the scenario asks")
}

fn integer(params: &[Value]) -> i64 {
    match params[0] {
        Value::Int(value) => value,
        _ => unreachable!("an integer"),
    }
}

impl Engine for Unreliable {
    fn acquire_write_lock(&mut self) -> Result<()> {
        if chance(16) { Err(error()) } else { Ok(()) }
    }

    fn release_write_lock(&mut self) {}

    fn begin(&mut self) -> std::result::Result<(), TransactionError> {
        assert!(self.open.is_empty(), "a transaction was left open");
        if chance(16) { Err(TransactionError::ConnectionLost(error())) } else { Ok(()) }
    }

    fn execute(
        &mut self,
        _: &'static Sql,
        params: &[Value],
    ) -> std::result::Result<Written, TransactionError> {
        thread::yield_now();
        if chance(8) {
            return Err(match chance(2) {
                true => TransactionError::Refused(Error::new(ErrorKind::Exists, "as the scenario asks")),
                false => TransactionError::Conflict(error()),
            });
        }
        self.open.push(integer(params));
        Ok(Written { affected: 1, last_id: 0 })
    }

    fn rows_at_once(&self, _: &'static Sql, rows: usize) -> usize {
        rows.min(2)
    }

    fn insert_rows(
        &mut self,
        _: &'static Sql,
        rows: &[&[Value]],
    ) -> std::result::Result<(), TransactionError> {
        if chance(8) {
            return Err(TransactionError::Refused(error()));
        }
        self.open.extend(rows.iter().map(|row| integer(row)));
        Ok(())
    }

    fn commit(&mut self) -> std::result::Result<(), CommitError> {
        thread::yield_now();
        let open = std::mem::take(&mut self.open);
        if chance(8) {
            return Err(CommitError::RolledBack(TransactionError::ConnectionLost(error())));
        }
        let is_unknown = chance(8);
        // Where its outcome is unknown it has taken effect, or not.
        if !is_unknown || chance(2) {
            self.disk.lock().unwrap().extend(open);
        }
        if is_unknown { Err(CommitError::Unknown(error())) } else { Ok(()) }
    }

    fn rollback(&mut self) {
        self.open.clear();
    }

    fn reset(&mut self) {
        self.rollback();
    }
}

#[test]
fn an_answer_is_true_and_stays_true() {
    check(|faults| {
        let disk = Disk::default();
        let writer =
            Arc::new(Writer::start(Unreliable { disk: Arc::clone(&disk), open: Vec::new() }).unwrap());
        sync::set(faults);
        let callers: Vec<_> = (0..3)
            .map(|caller| {
                let (writer, disk) = (Arc::clone(&writer), Arc::clone(&disk));
                thread::spawn(move || {
                    let mut answers = Vec::new();
                    for value in [caller * 10, caller * 10 + 1] {
                        let answer = writer.write(&SQL, vec![value.into()]);
                        let has = || disk.lock().unwrap().contains(&value);
                        let is_there = match &answer {
                            Ok(_) => true,
                            Err(error) if error.kind() != ErrorKind::OutcomeUnknown => false,
                            // Once the writer has finished what it had begun, the database shows which.
                            Err(_) => {
                                if writer.wait_for_begun(std::time::Duration::from_secs(60)).is_err() {
                                    continue;
                                }
                                has()
                            }
                        };
                        assert_eq!(has(), is_there, "{value}: {answer:?}");
                        answers.push((value, is_there));
                    }
                    answers
                })
            })
            .collect();
        let answers: Vec<_> = callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect();
        drop(writer);
        while sync::threads() > 0 {
            thread::yield_now();
        }
        let disk = disk.lock().unwrap();
        for (value, is_there) in answers {
            let count = disk.iter().filter(|row| **row == value).count();
            assert_eq!(count, usize::from(is_there), "{value} in the end");
        }
    });
}
