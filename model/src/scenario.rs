//! How a scenario is run: some thousands of times, by seeds, under two schedulers: one that chooses any thread at each
//! step, and one that gives threads priorities and changes few of them (PCT), which finds what takes rare orders.
//!
//! `MODEL_SEED` and `MODEL_ITERATIONS` make it others, or more. A failure prints the schedule that led to it.

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner};

use crate::sync::{self, Faults};

/// Executions of a scenario with each scheduler and each kind of faults.
const ITERATIONS: usize = 1000;

/// Changes of priority in one execution under PCT: most faults of this kind take one to three.
const PCT_DEPTH: usize = 3;

/// The stack of each thread of a scenario.
const STACK_BYTES: usize = 256 << 10;

/// Runs a scenario as it is; with time-outs; with threads that cannot be started; and with both. It sets its faults
/// with [`sync::set`] when all is there that a server has at its start.
pub fn check(scenario: impl Fn(Faults) + Send + Sync + Copy + 'static) {
    for (timeouts, refusals) in [(false, false), (true, false), (false, true), (true, true)] {
        let faults = Faults { timeouts, refusals };
        let (seed, iterations) = (knob("MODEL_SEED", 1), knob("MODEL_ITERATIONS", ITERATIONS as u64));
        let iterations = usize::try_from(iterations).unwrap_or(usize::MAX);
        println!("{faults:?}, seed {seed}, {iterations} executions with each scheduler");
        run(RandomScheduler::new_from_seed(seed, iterations), faults, scenario);
        run(PctScheduler::new_from_seed(seed, PCT_DEPTH, iterations), faults, scenario);
    }
}

fn run(
    scheduler: impl Scheduler + 'static,
    faults: Faults,
    scenario: impl Fn(Faults) + Send + Sync + Copy + 'static,
) {
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    config.silence_warnings = true;
    Runner::new(scheduler, config).run(move || {
        sync::reset();
        scenario(faults);
    });
}

fn knob(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is '{text}', want a whole number")),
        Err(_) => default,
    }
}
