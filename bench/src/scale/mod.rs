//! What an operation costs as the databases grow: `rows` measures, `subject` is a deployment with so many rows,
//! which `fill` puts in and `names` names.

mod fill;
mod names;
mod rows;
mod subject;

use std::path::PathBuf;

use lexopt::prelude::*;

use self::rows::{Plan, Series, Sized};
use crate::load::is_mariadb;
use crate::{Failure, Result, tell};

const HELP: &str = "\
Usage: scripts/bench scale [rows] [OPTION]...
  rows       the same operations on databases of different sizes

  --db embedded|mariadb   measure this kind of database alone, not both
  --sizes N,N,...         files and users in each, the smallest first (10k,1m,10m)
  --rounds N              how often each is measured, in turn (7)
  --count N               operations each time (20000)
  --connections N         connections that they go over (8)
  --fsync yes|no          whether each upload's file is synced (no: more of its cost is the database's)
  --dir DIR               where the databases are made, a few gigabytes (beside this program)
  --lock FILE             a lock to hold while something is measured, for others on this machine
  --json                  the figures as one JSON object";

/// Most rounds and operations: an hour.
const ROUNDS_MAX: usize = 100;
const COUNT_MAX: u64 = 1_000_000;

/// `scripts/bench scale`.
pub(crate) fn run(parser: lexopt::Parser) -> Result<()> {
    let Some((plan, databases, json)) = parse(parser)? else {
        println!("{HELP}");
        return Ok(());
    };
    tnv_tests::tools::more_descriptors();
    let mut all = Vec::new();
    for embedded in databases {
        let name = if embedded { "embedded" } else { "mariadb" };
        match rows::run(&plan, embedded, &|what| tell(format_args!("{name}: {what}")))? {
            Some(seen) if json => all.push(figures(name, &seen)),
            Some(seen) => show(name, &seen),
            None => tell(format_args!("{name}: SKIPPED, it is not installed")),
        }
    }
    if json {
        println!("{}", serde_json::json!({ "databases": all }));
    }
    Ok(())
}

/// What is to be measured, on which kinds of databases (embedded or not), and whether as JSON.
fn parse(mut parser: lexopt::Parser) -> Result<Option<(Plan, Vec<bool>, bool)>> {
    let mut plan = Plan {
        sizes: vec![10_000, 1_000_000, 10_000_000],
        rounds: 7,
        count: 20_000,
        connections: 8,
        fsync: false,
        directory: tnv_tests::bins::profile_dir().join("tmp"),
        lock: None,
    };
    let (mut databases, mut json) = (vec![true, false], false);
    while let Some(arg) = parser.next()? {
        match arg {
            Value(what) if what == "rows" => {}
            Long("help") | Short('h') => return Ok(None),
            Long("json") => json = true,
            Long("db") => databases = vec![!is_mariadb(&parser.value()?.string()?)?],
            Long("sizes") => plan.sizes = sizes(&parser.value()?.string()?)?,
            Long("rounds") => plan.rounds = parser.value()?.parse()?,
            Long("count") => plan.count = parser.value()?.parse()?,
            Long("connections") => plan.connections = parser.value()?.parse()?,
            Long("fsync") => plan.fsync = parser.value()?.string()? == "yes",
            Long("dir") => plan.directory = PathBuf::from(parser.value()?),
            Long("lock") => plan.lock = Some(PathBuf::from(parser.value()?)),
            other => return Err(other.unexpected().into()),
        }
    }
    let usage = |what: String| Err(Failure::Usage(what));
    match () {
        () if !(1..=ROUNDS_MAX).contains(&plan.rounds) => usage(format!("--rounds, want 1 to {ROUNDS_MAX}")),
        () if !(1..=COUNT_MAX).contains(&plan.count) => usage(format!("--count, want 1 to {COUNT_MAX}")),
        () if !(1..=1000).contains(&plan.connections) => usage("--connections, want 1 to 1000".to_owned()),
        () => Ok(Some((plan, databases, json))),
    }
}

/// Numbers as `10k,1m`.
fn sizes(text: &str) -> Result<Vec<u64>> {
    let size = |word: &str| {
        let (digits, unit) = match word.char_indices().last() {
            Some((at, 'k')) => (&word[..at], 1_000),
            Some((at, 'm')) => (&word[..at], 1_000_000),
            _ => (word, 1),
        };
        let size = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
        size.filter(|size| (1..=fill::ROWS_MAX).contains(size))
    };
    text.split(',').map(size).collect::<Option<Vec<u64>>>().ok_or_else(|| {
        Failure::Usage(format!("--sizes '{text}', want numbers of 1 to {} as 10k,1m", fill::ROWS_MAX))
    })
}

fn show(name: &str, seen: &[Sized]) {
    println!("\n{name}: cost of an operation beside that at {} rows\n", seen[0].rows);
    println!(
        "| operation | rows | ops/s | spread | p50 ms | p99 ms | cost | CPU µs | CPU cost | written | errors |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for index in 0..seen[0].series.len() {
        let first = &seen[0].series[index].1;
        for Sized { rows, series, .. } in seen {
            let (op, series) = &series[index];
            let (ops_per_s, cpu_us) = (Series::median(&series.ops_per_s), Series::median(&series.cpu_us));
            println!(
                "| {} | {rows} | {ops_per_s:.0} | {} | {:.3} | {:.3} | {:.2} | {cpu_us:.0} | {:.2} | {:.0} | {} |",
                op.name(),
                spread(&series.ops_per_s),
                Series::median(&series.p50_ms),
                Series::median(&series.p99_ms),
                Series::median(&first.ops_per_s) / ops_per_s,
                cpu_us / Series::median(&first.cpu_us),
                Series::median(&series.written),
                series.errors,
            );
            if let Some(error) = &series.first_error {
                tell(format_args!("{} at {rows} rows, the first error: {error}", op.name()));
            }
        }
    }
    println!(
        "\n| server | rows | start to ready, ms | MiB after it | MiB at the most |\n|---|---|---|---|---|"
    );
    for Sized { rows, starts, peaks, .. } in seen {
        for (start, (_, peak)) in starts.iter().zip(peaks) {
            let took: Vec<f64> = start.took.iter().map(|took| took.as_secs_f64() * 1e3).collect();
            let (rss, peak) = (start.rss_kib as f64 / 1024.0, *peak as f64 / 1024.0);
            let took = Series::median(&took);
            println!("| {} | {rows} | {took:.0} | {rss:.1} | {peak:.1} |", start.server);
        }
    }
    println!("\n| rows | bytes for a file | bytes for a user |\n|---|---|---|");
    for Sized { rows, database: (files, users), .. } in seen {
        println!("| {rows} | {:.0} | {:.0} |", *files as f64 / *rows as f64, *users as f64 / *rows as f64);
    }
}

/// The least and the most.
fn spread(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    format!("{least:.0}–{most:.0}")
}

fn figures(name: &str, seen: &[Sized]) -> serde_json::Value {
    let sized = |sized: &Sized| {
        let series = sized.series.iter().map(|(op, series)| {
            serde_json::json!({
                "op": op.name(), "ops_per_s": series.ops_per_s, "p50_ms": series.p50_ms, "p99_ms": series.p99_ms,
                "cpu_us": series.cpu_us, "written_bytes": series.written, "errors": series.errors,
            })
        });
        let starts = sized.starts.iter().zip(&sized.peaks).map(|(start, (_, peak_kib))| {
            let ms: Vec<f64> = start.took.iter().map(|took| took.as_secs_f64() * 1e3).collect();
            let rss_kib = start.rss_kib;
            serde_json::json!({ "server": start.server, "ready_ms": ms, "rss_kib": rss_kib, "peak_kib": peak_kib })
        });
        let (files, users) = sized.database;
        serde_json::json!({
            "rows": sized.rows, "files_bytes": files, "users_bytes": users,
            "ops": series.collect::<Vec<_>>(), "starts": starts.collect::<Vec<_>>(),
        })
    };
    serde_json::json!({ "database": name, "sizes": seen.iter().map(sized).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units_and_within_their_bounds() {
        assert_eq!(sizes("10k,1m,7").unwrap(), [10_000, 1_000_000, 7]);
        for bad in ["", "k", "0", "10k,", "51m", "99999999999999999999m", "10x", "-1"] {
            assert!(sizes(bad).is_err(), "{bad}");
        }
    }

    /// Every operation on both kinds of databases, each with a few rows.
    #[test]
    fn what_was_filled_in_is_found_by_the_servers() {
        for embedded in [true, false] {
            let directory = tnv_tests::Dir::new("scale");
            let plan = Plan {
                sizes: vec![50, 200],
                rounds: 1,
                count: 40,
                connections: 2,
                fsync: true,
                directory: directory.path().to_owned(),
                lock: Some(directory.join("lock")),
            };
            let Some(seen) = rows::run(&plan, embedded, &|_| ()).unwrap() else { continue };
            assert_eq!(seen.len(), 2);
            for Sized { rows, series, starts, peaks, database } in &seen {
                assert_eq!((series.len(), starts.len(), peaks.len()), (6, 4, 4));
                assert!(database.0 > *rows * 100 && database.1 > *rows * 50, "{database:?}");
                for (op, series) in series {
                    assert_eq!((series.errors, &series.first_error), (0, &None), "{op:?}");
                    assert_eq!(series.ops_per_s.len(), 1);
                }
            }
        }
    }
}
