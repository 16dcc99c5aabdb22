//! One measured row: what every generator of load gives, in the form that `tnv TRACKERS bench --json` prints it.

use std::time::Duration;

use serde_json::{Value, json};

/// What a run of one operation gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Row {
    /// The operation's name.
    pub op: String,
    /// Bytes of content an operation moves, 0 where it moves none.
    pub size_bytes: u64,
    /// How many threads, each with a connection of its own, ran it.
    pub threads: u64,
    /// How many operations were done, failed ones among them.
    pub count: u64,
    /// Operations a second, over all threads.
    pub ops_per_s: f64,
    /// Megabytes (10^6) of content a second.
    pub mb_per_s: f64,
    /// Half of the operations took at most this.
    pub p50_ms: f64,
    /// 95 of a hundred took at most this.
    pub p95_ms: f64,
    /// 99 of a hundred took at most this.
    pub p99_ms: f64,
    /// 999 of a thousand took at most this.
    pub p999_ms: f64,
    /// The slowest one.
    pub max_ms: f64,
    /// How many failed.
    pub errors: u64,
}

impl Row {
    /// The rows that `tnv bench --json` tells of; nothing where it is not that.
    pub(crate) fn all_of(told: &Value) -> Option<Vec<Row>> {
        told["rows"].as_array()?.iter().map(Row::from_json).collect()
    }

    fn from_json(row: &Value) -> Option<Row> {
        let whole = |name: &str| row[name].as_u64();
        let number = |name: &str| row[name].as_f64();
        Some(Row {
            op: row["op"].as_str()?.to_owned(),
            size_bytes: whole("size_bytes")?,
            threads: whole("threads")?,
            count: whole("count")?,
            ops_per_s: number("ops_per_s")?,
            mb_per_s: number("mb_per_s")?,
            p50_ms: number("p50_ms")?,
            p95_ms: number("p95_ms")?,
            p99_ms: number("p99_ms")?,
            p999_ms: number("p999_ms")?,
            max_ms: number("max_ms")?,
            errors: whole("errors")?,
        })
    }

    /// The same form.
    pub(crate) fn json(&self) -> Value {
        json!({
            "op": self.op,
            "size_bytes": self.size_bytes,
            "threads": self.threads,
            "count": self.count,
            "ops_per_s": self.ops_per_s,
            "mb_per_s": self.mb_per_s,
            "p50_ms": self.p50_ms,
            "p95_ms": self.p95_ms,
            "p99_ms": self.p99_ms,
            "p999_ms": self.p999_ms,
            "max_ms": self.max_ms,
            "errors": self.errors,
        })
    }

    /// A row from the latencies of all operations, successful and failed ones, in any order.
    pub(crate) fn of(
        op: &str,
        size_bytes: u64,
        threads: usize,
        wall: Duration,
        mut latencies: Vec<Duration>,
        errors: u64,
    ) -> Row {
        latencies.sort_unstable();
        let rank = |share: f64| {
            let last = latencies.len().saturating_sub(1);
            // The smallest one that so large a share is not above.
            let at = ((latencies.len() as f64 * share).ceil() as usize).saturating_sub(1).min(last);
            latencies.get(at).map_or(0.0, |latency| latency.as_secs_f64() * 1000.0)
        };
        let count = latencies.len() as u64;
        let done = count.saturating_sub(errors) as f64;
        let seconds = wall.as_secs_f64().max(1e-9);
        Row {
            op: op.to_owned(),
            size_bytes,
            threads: threads as u64,
            count,
            ops_per_s: done / seconds,
            mb_per_s: done * size_bytes as f64 / 1e6 / seconds,
            p50_ms: rank(0.5),
            p95_ms: rank(0.95),
            p99_ms: rank(0.99),
            p999_ms: rank(0.999),
            max_ms: rank(1.0),
            errors,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_tells_rates_of_what_succeeded_and_ranks_of_all() {
        let latencies = (1..=1000).rev().map(Duration::from_millis).collect();
        let row = Row::of("upload", 1_000_000, 8, Duration::from_secs(2), latencies, 100);
        assert_eq!((row.count, row.errors, row.threads), (1000, 100, 8));
        assert_eq!((row.ops_per_s, row.mb_per_s), (450.0, 450.0));
        assert_eq!((row.p50_ms, row.p95_ms, row.p99_ms), (500.0, 950.0, 990.0));
        assert_eq!((row.p999_ms, row.max_ms), (999.0, 1000.0));
        let told = json!({ "rows": [row.json()] });
        assert_eq!(Row::all_of(&told), Some(vec![row]));
        assert_eq!(Row::all_of(&json!({ "rows": [{ "op": "upload" }] })), None);
        let none = Row::of("upload", 1, 8, Duration::ZERO, Vec::new(), 0);
        assert_eq!((none.ops_per_s, none.max_ms), (0.0, 0.0));
    }
}
