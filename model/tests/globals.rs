//! The ID server's numbers.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use shuttle::thread;
use tnv_model::error::{ErrorKind, Result};
use tnv_model::fail;
use tnv_model::globals::{BlockSource, IdBlock, Numbers};
use tnv_model::proto::IdKey;
use tnv_model::scenario::check;
use tnv_model::sync::{self, Arc, Mutex, chance};

const STEP: u32 = 4;

/// A database of one row that fails now and then.
struct Row {
    value: Mutex<i64>,
    is_failing: bool,
    /// Fetches under way; and whether there ever were two. Atomics of std: no thread is switched there.
    running: Arc<[AtomicUsize; 2]>,
}

/// A fetch under way.
struct Fetching<'a>(&'a Row);

impl<'a> Fetching<'a> {
    fn begin(row: &'a Row) -> Fetching<'a> {
        let others = row.running[0].fetch_add(1, Ordering::SeqCst);
        row.running[1].fetch_max(others, Ordering::SeqCst);
        Fetching(row)
    }
}

impl Drop for Fetching<'_> {
    fn drop(&mut self) {
        self.0.running[0].fetch_sub(1, Ordering::SeqCst);
    }
}

impl BlockSource for Row {
    fn fetch(&self, _: &IdKey) -> Result<IdBlock> {
        let _fetching = Fetching::begin(self);
        thread::yield_now();
        if self.is_failing && chance(4) {
            return fail!(Unavailable, "as the scenario wants it");
        }
        let mut value = self.value.lock().unwrap();
        *value += i64::from(STEP);
        match IdBlock::before(*value, STEP) {
            Some(segment) => Ok(segment),
            None => fail!(Internal, "no segment"),
        }
    }
}

fn run(faults: sync::Faults, is_failing: bool) {
    let running: Arc<[AtomicUsize; 2]> = Arc::default();
    let row = Row { value: Mutex::new(0), is_failing, running: Arc::clone(&running) };
    let numbers = Arc::new(Numbers::new(row).unwrap());
    sync::set(faults);
    let callers: Vec<_> = (0..3)
        .map(|caller| {
            let numbers = Arc::clone(&numbers);
            thread::spawn(move || {
                let key = IdKey::new("a").unwrap();
                let mut got = Vec::new();
                for round in 0..4 {
                    match numbers.next(&key, 1 + u32::from((caller + round) % 2 == 0)) {
                        Ok(ids) => got.extend(ids.first..ids.first + i64::from(ids.count)),
                        Err(error) if error.kind() == ErrorKind::Unavailable => assert!(is_failing),
                        Err(error) => {
                            assert!(faults.timeouts && error.kind() == ErrorKind::Timeout, "{error}")
                        }
                    }
                }
                got
            })
        })
        .collect();
    let got: Vec<_> = callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect();
    assert_eq!(got.iter().collect::<HashSet<_>>().len(), got.len(), "a number was handed out twice: {got:?}");
    assert_eq!(running[1].load(Ordering::SeqCst), 0, "two fetched at once");
}

#[test]
fn no_number_is_handed_out_twice_and_no_caller_is_forgotten() {
    check(|faults| run(faults, false));
}

#[test]
fn a_database_that_fails_costs_those_who_waited_and_no_number_comes_twice() {
    check(|faults| run(faults, true));
}
