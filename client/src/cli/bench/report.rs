//! The figures of the rows, as a table or as a JSON object.

use std::fmt::Write;

use super::plan::Op;
use super::row::RowResult;

/// A megabyte, as for disks and networks.
const MEGABYTE: f64 = 1e6;

/// The figures of a row.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    op: Op,
    size_bytes: u64,
    threads: usize,
    count: u64,
    ops_per_s: f64,
    mb_per_s: f64,
    /// p50, p95, p99, p99.9 and the maximum.
    ms: [f64; 5],
    errors: u64,
}

/// The percentiles in thousandths.
const PERMILLE: [u64; 5] = [500, 950, 990, 999, 1000];

impl Figures {
    pub(super) fn new(op: Op, size_bytes: u64, threads: usize, result: &RowResult) -> Figures {
        let count = result.nanos.len() as u64;
        let seconds = result.wall.as_secs_f64();
        let rate = |amount: f64| if seconds > 0.0 { amount / seconds } else { 0.0 };
        Figures {
            op,
            size_bytes,
            threads,
            count: count + result.errors,
            ops_per_s: rate(count as f64),
            mb_per_s: rate(result.bytes as f64 / MEGABYTE),
            ms: PERMILLE.map(|permille| percentile(&result.nanos, permille) as f64 / MEGABYTE),
            errors: result.errors,
        }
    }
}

/// The latency that `permille` thousandths of the operations do not exceed.
fn percentile(sorted: &[u64], permille: u64) -> u64 {
    let rank = (sorted.len() as u64 * permille).div_ceil(1000).max(1);
    usize::try_from(rank - 1).ok().and_then(|index| sorted.get(index)).copied().unwrap_or(0)
}

/// The table.
pub(super) fn table(rows: &[Figures]) -> String {
    let head = ["op", "size", "threads", "count", "ops/s", "MB/s", "p50 ms", "p95 ms", "p99 ms", "p99.9 ms"]
        .into_iter()
        .chain(["max ms", "errors"]);
    let mut lines: Vec<Vec<String>> = vec![head.map(str::to_owned).collect()];
    for row in rows {
        let mut line = vec![
            row.op.name().to_owned(),
            row.size_bytes.to_string(),
            row.threads.to_string(),
            row.count.to_string(),
            format!("{:.1}", row.ops_per_s),
            format!("{:.1}", row.mb_per_s),
        ];
        line.extend(row.ms.iter().map(|ms| format!("{ms:.3}")));
        line.push(row.errors.to_string());
        lines.push(line);
    }
    let widths: Vec<usize> = (0..lines[0].len())
        .map(|column| lines.iter().map(|line| line[column].len()).max().unwrap_or(0))
        .collect();
    let mut text = Vec::new();
    for line in &lines {
        let mut shown = format!("{:<width$}", line[0], width = widths[0]);
        for (cell, width) in line.iter().zip(&widths).skip(1) {
            // Writing into a String does not fail.
            let _ = write!(shown, "  {cell:>width$}");
        }
        text.push(shown);
    }
    text.join("\n")
}

/// The counts of the run besides its figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// Files that were fetched and compared byte by byte.
    pub(super) verified: u64,
    /// Those that could not be fetched or had different content.
    pub(super) wrong: u64,
    /// Files that could not be removed.
    pub(super) left: u64,
}

/// The JSON object. None of its texts needs escaping.
pub(super) fn json(protocol: &str, rows: &[Figures], totals: Totals) -> String {
    let row = |row: &Figures| {
        let [p50, p95, p99, p999, max] = row.ms;
        format!(
            "{{\"op\":\"{}\",\"size_bytes\":{},\"threads\":{},\"count\":{},\"ops_per_s\":{:.1},\
             \"mb_per_s\":{:.3},\"p50_ms\":{p50:.4},\"p95_ms\":{p95:.4},\"p99_ms\":{p99:.4},\
             \"p999_ms\":{p999:.4},\"max_ms\":{max:.4},\"errors\":{}}}",
            row.op.name(),
            row.size_bytes,
            row.threads,
            row.count,
            row.ops_per_s,
            row.mb_per_s,
            row.errors
        )
    };
    let rows: Vec<_> = rows.iter().map(row).collect();
    format!(
        "{{\"protocol\":\"{protocol}\",\"verified\":{},\"wrong\":{},\"left\":{},\"rows\":[{}]}}",
        totals.verified,
        totals.wrong,
        totals.left,
        rows.join(",")
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn figures() -> Figures {
        let result = RowResult {
            nanos: (1..=1000).map(|number| number * 1000).collect(),
            bytes: 4_096_000,
            wall: Duration::from_millis(500),
            errors: 2,
            ..RowResult::default()
        };
        Figures::new(Op::Upload, 4096, 8, &result)
    }

    #[test]
    fn percentiles_are_measured_latencies() {
        let sorted: Vec<u64> = (1..=1000).collect();
        assert_eq!(PERMILLE.map(|permille| percentile(&sorted, permille)), [500, 950, 990, 999, 1000]);
        assert_eq!(PERMILLE.map(|permille| percentile(&[7, 9, 11], permille)), [9, 11, 11, 11, 11]);
        assert_eq!(percentile(&[7], 500), 7);
        assert_eq!(percentile(&[], 500), 0);
    }

    #[test]
    fn the_table_has_a_line_a_row() {
        let text = table(&[figures()]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].len(), lines[1].len());
        let cells: Vec<_> = lines[1].split_whitespace().collect();
        assert_eq!(cells[..6], ["upload", "4096", "8", "1002", "2000.0", "8.2"]);
        assert_eq!(cells[6..], ["0.500", "0.950", "0.990", "0.999", "1.000", "2"]);
    }

    #[test]
    fn json_is_one_object() {
        let text = json("tnv", &[figures(), figures()], Totals { verified: 3, wrong: 0, left: 1 });
        let row = "{\"op\":\"upload\",\"size_bytes\":4096,\"threads\":8,\"count\":1002,\"ops_per_s\":2000.0,\
                   \"mb_per_s\":8.192,\"p50_ms\":0.5000,\"p95_ms\":0.9500,\"p99_ms\":0.9900,\
                   \"p999_ms\":0.9990,\"max_ms\":1.0000,\"errors\":2}";
        let want =
            format!("{{\"protocol\":\"tnv\",\"verified\":3,\"wrong\":0,\"left\":1,\"rows\":[{row},{row}]}}");
        assert_eq!(text, want);
    }

    #[test]
    fn a_row_of_errors_has_figures() {
        let figures = Figures::new(Op::Delete, 1, 1, &RowResult { errors: 5, ..RowResult::default() });
        assert!(table(std::slice::from_ref(&figures)).lines().nth(1).unwrap().ends_with('5'));
        assert!(json("tnv", &[figures], Totals::default()).contains("\"ops_per_s\":0.0"));
    }
}
