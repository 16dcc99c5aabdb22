//! So many threads that do the same thing again and again until it was done so often, each on what
//! is its own, timed one by one and as a whole.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tnv_common::error::{Error, Result};
use tnv_common::fail;

use super::figures::{Figures, Latencies};

/// After so many failures a run is of no use, and is ended.
const ERRORS_MAX: u64 = 1000;

/// Most connections of a run, each with a thread of its own.
const CONNECTIONS_MAX: usize = 1024;

/// Most operations of a run: what is remembered of each, if anything, still fits the memory.
const COUNT_MAX: u64 = 50_000_000;

/// When a run ends.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// So many operations were begun.
    Count(u64),
    /// So much time has passed.
    Time(Duration),
}

/// Holds what a run is asked for against the bounds.
pub fn check(connections: usize, until: Until) -> Result<()> {
    let count = if let Until::Count(count) = until { count } else { 0 };
    match (1..=CONNECTIONS_MAX).contains(&connections) && count <= COUNT_MAX {
        true => Ok(()),
        false => fail!(
            Invalid,
            "{count} operations over {connections} connections, want at most {COUNT_MAX} over 1 to {CONNECTIONS_MAX}"
        ),
    }
}

/// One of the crowd.
struct Member<'a, C> {
    own: &'a mut C,
    latencies: Latencies,
    errors: u64,
    first_error: Option<Error>,
}

/// Has each thread of a crowd do `operation` on its own, which is told the operation's number.
pub fn run<C: Send>(
    crowd: &mut [C],
    until: Until,
    operation: impl Fn(&mut C, u64) -> Result<()> + Sync,
) -> Figures {
    let (next, errors) = (AtomicU64::new(0), AtomicU64::new(0));
    // The members and whoever takes the time.
    let start = Barrier::new(crowd.len() + 1);
    let total = Mutex::new((Latencies::default(), 0, None));
    let mut took = Duration::ZERO;
    thread::scope(|scope| {
        let threads: Vec<_> = crowd
            .iter_mut()
            .map(|own| {
                let (next, errors, start, total, operation) = (&next, &errors, &start, &total, &operation);
                scope.spawn(move || {
                    let mut member =
                        Member { own, latencies: Latencies::default(), errors: 0, first_error: None };
                    start.wait();
                    member.work(until, next, errors, operation);
                    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                    total.0.merge(&member.latencies);
                    total.1 += member.errors;
                    total.2 = total.2.take().or(member.first_error);
                })
            })
            .collect();
        start.wait();
        let begun = Instant::now();
        for thread in threads {
            // A panic in one is the run's.
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
        took = begun.elapsed();
    });
    let (latencies, errors, first_error) = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    Figures::new(&latencies, took, errors, first_error)
}

impl<C> Member<'_, C> {
    fn work(
        &mut self,
        until: Until,
        next: &AtomicU64,
        errors: &AtomicU64,
        operation: impl Fn(&mut C, u64) -> Result<()>,
    ) {
        let begun = Instant::now();
        // The end of one is the beginning of the next: the clock is read once for each.
        let mut last = begun;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let over = match until {
                Until::Count(count) => number >= count,
                Until::Time(time) => last - begun >= time || number >= COUNT_MAX,
            };
            if over || errors.load(Ordering::Relaxed) >= ERRORS_MAX {
                return;
            }
            let result = operation(self.own, number);
            let now = Instant::now();
            match result {
                Ok(()) => self.latencies.add(now - last),
                Err(error) => {
                    self.errors += 1;
                    errors.fetch_add(1, Ordering::Relaxed);
                    self.first_error.get_or_insert(error);
                }
            }
            last = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tnv_common::error::ErrorKind;

    #[test]
    fn every_operation_is_done_once_and_what_fails_is_counted_apart() {
        let mut crowd: Vec<Vec<u64>> = vec![Vec::new(); 4];
        let figures = run(&mut crowd, Until::Count(1000), |done, number| {
            done.push(number);
            match number % 100 {
                7 => Err(Error::new(ErrorKind::Internal, "as the test wants it")),
                _ => Ok(()),
            }
        });
        let mut done = crowd.concat();
        done.sort_unstable();
        assert_eq!(done, (0..1000).collect::<Vec<_>>());
        assert_eq!((figures.ops, figures.errors), (990, 10));
        assert_eq!(figures.first_error.as_deref(), Some("as the test wants it"));
    }

    #[test]
    fn a_run_in_which_everything_fails_is_given_up() {
        let figures = run(&mut [(), ()], Until::Time(Duration::from_secs(600)), |(), _| {
            Err(Error::new(ErrorKind::Internal, "as the test wants it"))
        });
        assert_eq!(figures.ops, 0);
        assert!((ERRORS_MAX..ERRORS_MAX + 2).contains(&figures.errors));
    }
}
