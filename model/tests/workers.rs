//! The pool of workers.

use shuttle::thread;
use tnv_model::net::worker_pool::Workers;
use tnv_model::scenario::check;
use tnv_model::sync::{self, Arc, Condvar, Faults, Mutex, chance};

/// Counts jobs, and lets one wait for them.
#[derive(Default)]
struct Count {
    jobs: Mutex<usize>,
    changed: Condvar,
}

impl Count {
    fn add(&self) {
        *self.jobs.lock().unwrap() += 1;
        self.changed.notify_all();
    }

    /// Waits for ever: a job that is not run is a deadlock, which fails the scenario.
    fn wait(&self, wanted: usize) {
        let mut jobs = self.jobs.lock().unwrap();
        while *jobs < wanted {
            jobs = self.changed.wait(jobs).unwrap();
        }
    }
}

#[test]
fn no_job_waits_while_a_worker_may_be_made() {
    check(|faults| {
        const JOBS: usize = 3;
        // Where threads may be refused, jobs do wait for one another.
        let faults = Faults { refusals: false, ..faults };
        let workers = Workers::new("test", JOBS, 10).unwrap();
        sync::set(faults);
        for _ in 0..2 {
            let (came, done) = (Arc::new(Count::default()), Arc::new(Count::default()));
            let submit = |jobs: usize, workers: Workers| {
                let (came, done) = (Arc::clone(&came), Arc::clone(&done));
                thread::spawn(move || {
                    for _ in 0..jobs {
                        let (came, done) = (Arc::clone(&came), Arc::clone(&done));
                        workers.run(move || {
                            // Each goes on when all of them run.
                            came.add();
                            came.wait(JOBS);
                            done.add();
                        });
                    }
                })
            };
            let submitters = [submit(1, workers.clone()), submit(JOBS - 1, workers.clone())];
            done.wait(JOBS);
            submitters.into_iter().for_each(|submitter| submitter.join().unwrap());
        }
    });
}

#[test]
fn every_job_is_run_though_threads_cannot_be_started() {
    check(|faults| {
        let workers = Workers::new("test", 3, 10).unwrap();
        sync::set(faults);
        let done = Arc::new(Count::default());
        let submitters: Vec<_> = (0..2)
            .map(|_| {
                let (workers, done) = (workers.clone(), Arc::clone(&done));
                thread::spawn(move || {
                    for _ in 0..3 {
                        let done = Arc::clone(&done);
                        workers.run(move || {
                            thread::yield_now();
                            done.add();
                        });
                        if chance(2) {
                            workers.retry();
                        }
                    }
                })
            })
            .collect();
        done.wait(6);
        submitters.into_iter().for_each(|submitter| submitter.join().unwrap());
        assert!((1..=3).contains(&sync::threads()), "{} threads", sync::threads());
    });
}

#[test]
fn a_pool_that_is_dropped_runs_what_is_queued_and_its_threads_end() {
    check(|faults| {
        let workers = Workers::new("test", 2, 10).unwrap();
        sync::set(faults);
        let done = Arc::new(Count::default());
        for _ in 0..3 {
            let done = Arc::clone(&done);
            workers.run(move || done.add());
        }
        drop(workers);
        done.wait(3);
        while sync::threads() > 0 {
            thread::yield_now();
        }
    });
}
