//! What a run measured: how many operations a second, how long they took, what failed.

use std::time::Duration;

use tnv_common::error::Error;

use crate::row::Row;

/// Every power of two of nanoseconds is cut into so many buckets: a latency is told to 1.6 %.
const STEPS_LOG2: u32 = 6;
const STEPS: usize = 1 << STEPS_LOG2;

/// All that 64 bits can say.
const BUCKETS: usize = (64 - STEPS_LOG2 as usize + 1) * STEPS;

/// How often each latency was seen, in a bounded amount of memory however long the run is.
#[derive(Clone)]
pub struct Latencies {
    counts: Vec<u64>,
    total: u64,
    max: Duration,
}

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies { counts: vec![0; BUCKETS], total: 0, max: Duration::ZERO }
    }
}

impl Latencies {
    /// Counts one.
    pub fn add(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
        self.max = self.max.max(latency);
    }

    /// Counts what another has counted.
    pub fn merge(&mut self, other: &Latencies) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        self.max
    }

    /// The latency that so large a share of all did not exceed, `share` between 0 and 1.
    pub fn at(&self, share: f64) -> Duration {
        let wanted = ((self.total as f64 * share).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Duration::from_nanos(upper(index)).min(self.max);
            }
        }
        self.max
    }
}

/// Which bucket a latency is counted in: its highest bits.
fn bucket(nanos: u64) -> usize {
    let Some(shift) = nanos.checked_ilog2().and_then(|log2| log2.checked_sub(STEPS_LOG2)) else {
        return nanos as usize;
    };
    (shift as usize + 1) * STEPS + (nanos >> shift) as usize - STEPS
}

/// The largest latency of a bucket.
fn upper(index: usize) -> u64 {
    if index < STEPS {
        return index as u64;
    }
    let (shift, step) = (index / STEPS - 1, index % STEPS + STEPS);
    ((step as u64 + 1) << shift).wrapping_sub(1)
}

/// The figures of a run.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Operations that succeeded.
    pub ops: u64,
    /// How long the run took.
    pub seconds: f64,
    /// Successes a second.
    pub ops_per_s: f64,
    /// Half of them took at most so long.
    pub p50_ms: f64,
    /// 95 of a hundred.
    pub p95_ms: f64,
    /// 99 of a hundred.
    pub p99_ms: f64,
    /// 999 of a thousand.
    pub p999_ms: f64,
    /// All of them.
    pub max_ms: f64,
    /// Operations that failed.
    pub errors: u64,
    /// The first failure, in words.
    pub first_error: Option<String>,
}

impl Figures {
    /// The figures of latencies that were seen within this time.
    pub fn new(latencies: &Latencies, took: Duration, errors: u64, first_error: Option<Error>) -> Figures {
        let ms = |latency: Duration| latency.as_secs_f64() * 1e3;
        let seconds = took.as_secs_f64();
        Figures {
            ops: latencies.count(),
            seconds,
            ops_per_s: if seconds > 0.0 { latencies.count() as f64 / seconds } else { 0.0 },
            p50_ms: ms(latencies.at(0.50)),
            p95_ms: ms(latencies.at(0.95)),
            p99_ms: ms(latencies.at(0.99)),
            p999_ms: ms(latencies.at(0.999)),
            max_ms: ms(latencies.max()),
            errors,
            first_error: first_error.map(|error| error.to_string()),
        }
    }

    /// The same as a row of the table.
    pub fn row(&self, op: &str, size_bytes: u64, threads: usize) -> Row {
        Row {
            op: op.to_owned(),
            size_bytes,
            threads: threads as u64,
            count: self.ops + self.errors,
            ops_per_s: self.ops_per_s,
            mb_per_s: self.ops_per_s * size_bytes as f64 / 1e6,
            p50_ms: self.p50_ms,
            p95_ms: self.p95_ms,
            p99_ms: self.p99_ms,
            p999_ms: self.p999_ms,
            max_ms: self.max_ms,
            errors: self.errors,
        }
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let Figures { ops, ops_per_s, p50_ms, p95_ms, p99_ms, max_ms, errors, .. } = self;
        let mut line = format!(
            "{ops} ops, {ops_per_s:.0}/s, p50 {p50_ms:.3} p95 {p95_ms:.3} p99 {p99_ms:.3} max {max_ms:.3} ms, {errors} errors"
        );
        if let Some(first) = &self.first_error {
            line.push_str(&format!(" (the first: {first})"));
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_latency_is_in_a_bucket_that_tells_it_to_two_in_a_hundred() {
        let mut last = 0;
        for nanos in (0..5000).chain((0..58).map(|log2| (1_u64 << log2) + 12_345)).chain([u64::MAX]) {
            let upper = upper(bucket(nanos));
            assert!(upper >= nanos && upper as f64 <= nanos as f64 * 1.02 + 1.0, "{nanos}: {upper}");
            last = last.max(bucket(nanos));
        }
        assert_eq!(last, BUCKETS - 1);
    }

    #[test]
    fn shares_are_those_of_a_sorted_list() {
        let (mut one, mut other) = (Latencies::default(), Latencies::default());
        for micros in 1..=1000 {
            let latencies = if micros % 2 == 0 { &mut one } else { &mut other };
            latencies.add(Duration::from_micros(micros));
        }
        one.merge(&other);
        assert_eq!(one.count(), 1000);
        for (share, want) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let got = one.at(share).as_secs_f64() * 1e6;
            assert!((got - want).abs() <= want * 0.02, "{share}: {got}");
        }
        assert_eq!(one.max(), Duration::from_millis(1));
        assert_eq!(Latencies::default().at(0.5), Duration::ZERO);
    }
}
