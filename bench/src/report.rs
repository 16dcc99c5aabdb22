//! What came of a run: medians and spreads, the tables, and everything as JSON.

use std::time::Duration;

use serde_json::json;

use crate::host::Host;
use crate::options::Options;
use crate::row::Row;
use crate::table::{COLUMNS, Extent, Kind, LARGE, ROWS, Spec};
use crate::targets::{self, HTTPD_PEAK_BYTES, IDLE_BYTES, PEAK_BYTES, START_S, Target, Than};
use crate::{Failure, Result, tell};

/// What must be known to judge the figures.
const METHOD: &str = "\
All columns' servers run side by side on fresh directories of one disk and take turns in each row, each round in
another order. Before a row everything is on the disk; after an upload, while no clock runs, each file is fetched
and compared. The client is `tnv bench`, in TNV's protocol, in FastDFS's and over HTTP, with one loop for all.
FastDFS's tracker is asked before each operation, as its own clients do; TNV's answer is remembered for 5 s, as its
client does. Everything is on loopback and in the page cache.

- TNV: a tracker, an ID server, a storage and an HTTP server with default settings, but `idinc_max_step = 1000`, and
  `tnv_scrub_rate = 0`, since the scrub drops what it has read from the page cache. MariaDB has its default settings,
  which are durable ones.
- fsync + 1 ms: each fsync and fdatasync of the storage, and of the MariaDB, takes a millisecond more, added by
  strace, which stops a server at these calls alone.
- FastDFS: a tracker and a storage as shipped, but 1 GB of reserved space instead of a share of the disk. It never
  syncs a file and has no database, so it is compared with no fsync.
- nginx: a worker a processor, sendfile, open files remembered, no access log, connections kept. The proxies keep
  connections to it and write no temporary files; one has default buffers, the other none (`proxy_buffering off`,
  128 KiB at a time, its fastest setting here). It sends one file again and again, and so does `tnv-httpd`.
- machine, uploads: files are made and written by as many threads in directories of 512; with fsync each file and
  then its directory is synced; there is no database. The large one is `cat file > copy`.
- machine, downloads: sendfile of as many files' content as the other columns fetch, nothing asked in between, to a
  reader that takes 256 KiB at a time. HTTP: one file, asked for with 64 bytes through a relay that only copies, a
  thread a connection at each of the three. Addresses: round trips of 64 bytes. sync: fdatasync of a page written
  over.";

/// One row of one column in one round.
pub(crate) struct Measured {
    pub round: u32,
    pub row: &'static str,
    pub column: &'static str,
    pub figures: Row,
    pub client_cpu_s: f64,
    pub servers: Vec<Used>,
}

/// What a row took of a server.
pub(crate) struct Used {
    pub server: &'static str,
    pub cpu_s: f64,
    pub peak_bytes: u64,
}

/// What a server takes before it does anything.
pub(crate) struct Started {
    pub column: &'static str,
    pub server: &'static str,
    pub start: Option<Duration>,
    pub idle_bytes: u64,
}

/// The median of some values and how far they are apart.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<_> = values.collect();
        values.sort_unstable_by(f64::total_cmp);
        let (&min, &max) = values.first().zip(values.last())?;
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            0 => (values[middle - 1] + values[middle]) / 2.0,
            _ => values[middle],
        };
        Some(Spread { median, min, max })
    }

    fn show(&self, form: impl Fn(f64) -> String) -> String {
        match self.min == self.max {
            true => form(self.median),
            false => format!("{} ({}–{})", form(self.median), form(self.min), form(self.max)),
        }
    }
}

/// Everything that is known of a run.
pub(crate) struct Report {
    host: Host,
    command: String,
    rounds: u32,
    extent: Extent,
    pub measured: Vec<Measured>,
    pub started: Vec<Started>,
    left_out: Vec<(&'static str, String)>,
    failures: Vec<String>,
}

impl Report {
    pub(crate) fn new(host: Host, options: &Options) -> Report {
        let args = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
        Report {
            host,
            command: format!("scripts/bench {args}").trim().to_owned(),
            rounds: options.rounds,
            extent: options.extent,
            measured: Vec::new(),
            started: Vec::new(),
            left_out: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// A column cannot be had here.
    pub(crate) fn left_out(&mut self, column: &'static str, why: &str) {
        tell(format_args!("left out: {column}: {why}"));
        self.left_out.push((column, why.to_owned()));
    }

    /// Something did not work.
    pub(crate) fn failed(&mut self, what: String) {
        self.failures.push(what);
    }

    /// Success is that nothing failed.
    pub(crate) fn outcome(&self) -> Result<()> {
        match self.failures.len() {
            0 => Ok(()),
            count => Err(Failure::Failed(format!("{count} failures: {}", self.failures.join("; ")))),
        }
    }

    fn of(&self, row: &str, column: &str) -> impl Iterator<Item = &Measured> {
        self.measured.iter().filter(move |measured| measured.row == row && measured.column == column)
    }

    fn rate(&self, row: &str, column: &str) -> Option<Spread> {
        Spread::of(self.of(row, column).map(rate))
    }

    /// The ratios of rates of the same round.
    fn ratio(&self, target: &Target) -> Option<Spread> {
        let ratio = |ours: &Measured| match target.than {
            Than::Rate(wanted) => Some(rate(ours) / wanted),
            Than::Column(_, than) => {
                let theirs = self.of(target.row, than).find(|theirs| theirs.round == ours.round)?;
                Some(rate(ours) / rate(theirs))
            }
        };
        Spread::of(self.of(target.row, target.column).filter_map(ratio))
    }

    /// Rows and columns that were measured.
    fn rows(&self) -> impl Iterator<Item = &'static Spec> {
        ROWS.iter().filter(|row| self.measured.iter().any(|measured| measured.row == row.name))
    }

    fn columns(&self) -> Vec<&'static str> {
        let has = |name| self.measured.iter().any(|measured| measured.column == name);
        // Ours first, and each peer beside what it is compared with.
        let mut columns: Vec<_> = COLUMNS.iter().filter(|column| has(column.name)).collect();
        columns.sort_by_key(|column| match column.kind {
            Kind::Tnv { maria, fsync, slow } => (usize::from(maria), usize::from(fsync), usize::from(slow)),
            Kind::FastDfs => (2, 0, 0),
            Kind::Nginx => (3, 0, 0),
            Kind::NginxProxy { buffered } => (3, 1, usize::from(!buffered)),
            Kind::Machine { fsync } => (4, usize::from(fsync), 0),
        });
        columns.into_iter().map(|column| column.name).collect()
    }

    /// The tables, as docs/performance.md has them.
    pub(crate) fn markdown(&self) -> String {
        let mut text = self.head();
        let mut part = |title: &str, said: &str, table: Vec<Vec<String>>| match table.len() {
            0 => text.push_str(&format!("\n### {title}\n\n{said}\n")),
            1 => {}
            _ => text.push_str(&format!("\n### {title}\n\n{said}\n\n{}", aligned(&table))),
        };
        let rounds = match self.rounds {
            1 => "one round".to_owned(),
            rounds => format!("medians of {rounds} rounds, (least–most)"),
        };
        part("How it was measured", METHOD, Vec::new());
        part(
            "Rates",
            &format!("Operations a second, MB/s (10^6 bytes) of the large file; {rounds}."),
            self.rates(),
        );
        part("Targets", "The ratio is that of the same round.", self.targets());
        part("Memory and start", "Resident MB (10^6 bytes); the peak is that of all rows.", self.memory());
        part(
            "Latencies",
            "Milliseconds: half of the operations / 99 of a hundred / the slowest.",
            self.latencies(),
        );
        part(
            "Processor time",
            "Seconds of each server and of the client in one round, and how long the row took.",
            self.processor(),
        );
        text
    }

    fn head(&self) -> String {
        let mut text = format!("`{}`", self.command);
        if self.extent != Extent::Full {
            text.push_str(" (too few operations to go by)");
        }
        text.push_str("\n\n");
        for (name, value) in &self.host.0 {
            text.push_str(&format!("- {name}: {value}\n"));
        }
        for (column, why) in &self.left_out {
            text.push_str(&format!("- left out: {column}: {why}\n"));
        }
        for failure in &self.failures {
            text.push_str(&format!("- **failed**: {failure}\n"));
        }
        text
    }

    fn rates(&self) -> Vec<Vec<String>> {
        let columns = self.columns();
        let mut table = vec![head("row", &columns)];
        for row in self.rows() {
            let cell = |column: &&str| {
                self.rate(row.name, column).map_or_else(String::new, |rate| rate.show(number))
            };
            table.push(line(row.name, columns.iter().map(cell)));
        }
        table
    }

    fn latencies(&self) -> Vec<Vec<String>> {
        let columns = self.columns();
        let mut table = vec![head("row", &columns)];
        for row in self.rows() {
            let cell = |column: &&str| {
                let of = |what: fn(&Row) -> f64| {
                    Spread::of(self.of(row.name, column).map(|measured| what(&measured.figures)))
                };
                let all = [of(|row| row.p50_ms), of(|row| row.p99_ms), of(|row| row.max_ms)];
                let shown: Vec<_> = all.iter().flatten().map(|spread| number(spread.median)).collect();
                shown.join(" / ")
            };
            table.push(line(row.name, columns.iter().map(cell)));
        }
        table
    }

    fn targets(&self) -> Vec<Vec<String>> {
        let mut table = vec![head("target", &["figure", "against", "ratio", "met"])];
        for target in targets::all() {
            let (Some(ours), Some(ratio)) = (self.rate(target.row, target.column), self.ratio(&target))
            else {
                continue;
            };
            let (wanted, against) = match target.than {
                Than::Rate(rate) => (1.0, number(rate)),
                Than::Column(factor, than) => {
                    (factor, self.rate(target.row, than).map_or_else(String::new, |rate| rate.show(number)))
                }
            };
            let what = match target.than {
                Than::Rate(rate) => format!("{}, {}: ≥ {}/s", target.row, target.column, number(rate)),
                Than::Column(factor, than) => {
                    format!("{}, {}: ≥ {factor} × {than}", target.row, target.column)
                }
            };
            table.push(vec![
                what,
                ours.show(number),
                against,
                ratio.show(|ratio| format!("{ratio:.2}")),
                yes(ratio.median >= wanted),
            ]);
        }
        table
    }

    fn memory(&self) -> Vec<Vec<String>> {
        let mut table = vec![head("server", &["start ms", "idle MB", "peak MB", "met"])];
        for started in &self.started {
            let uses = self.measured.iter().filter(|measured| measured.column == started.column);
            let peak = uses
                .flat_map(|measured| &measured.servers)
                .filter(|used| used.server == started.server)
                .map(|used| used.peak_bytes)
                .max();
            let is_ours = COLUMNS
                .iter()
                .any(|column| column.name == started.column && matches!(column.kind, Kind::Tnv { .. }));
            let met = match is_ours && started.server != "mariadbd" {
                false => String::new(),
                true => {
                    let most = if started.server == "httpd" { HTTPD_PEAK_BYTES } else { PEAK_BYTES };
                    let in_time = started.start.is_none_or(|start| start.as_secs_f64() <= START_S);
                    yes(in_time && started.idle_bytes <= IDLE_BYTES && peak.is_none_or(|peak| peak <= most))
                }
            };
            let mb = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
            table.push(vec![
                format!("{}, {}", started.column, started.server),
                started
                    .start
                    .map_or_else(String::new, |start| format!("{:.0}", start.as_secs_f64() * 1000.0)),
                mb(started.idle_bytes),
                peak.map_or_else(String::new, mb),
                met,
            ]);
        }
        table
    }

    fn processor(&self) -> Vec<Vec<String>> {
        let mut table = vec![head("row", &["took s", "client", "servers"])];
        for row in self.rows() {
            for column in self.columns() {
                let median = |what: &dyn Fn(&Measured) -> f64| {
                    Spread::of(self.of(row.name, column).map(what)).map(|spread| spread.median)
                };
                let Some(first) = self.of(row.name, column).next() else { continue };
                let of_server = |server: &str| {
                    median(&|measured| {
                        measured
                            .servers
                            .iter()
                            .filter(|used| used.server == server)
                            .map(|used| used.cpu_s)
                            .sum()
                    })
                };
                let servers = first.servers.iter().filter_map(|used| {
                    let cpu_s = of_server(used.server)?;
                    (cpu_s >= 0.005).then(|| format!("{} {cpu_s:.2}", used.server))
                });
                let seconds =
                    |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.2}"));
                table.push(vec![
                    format!("{}, {column}", row.name),
                    seconds(median(&wall_s)),
                    seconds(median(&|measured| measured.client_cpu_s)),
                    servers.collect::<Vec<_>>().join(", "),
                ]);
            }
        }
        table
    }

    /// Everything.
    pub(crate) fn json(&self) -> String {
        let measured = self.measured.iter().map(|measured| {
            let Measured { round, row, column, figures, client_cpu_s, servers } = measured;
            let servers = servers.iter().map(
                |used| json!({ "server": used.server, "cpu_s": used.cpu_s, "peak_bytes": used.peak_bytes }),
            );
            let mut value = figures.json();
            value["round"] = json!(round + 1);
            value["row"] = json!(row);
            value["column"] = json!(column);
            value["client_cpu_s"] = json!(client_cpu_s);
            value["servers"] = servers.collect();
            value
        });
        let started = self.started.iter().map(|started| {
            json!({
                "column": started.column,
                "server": started.server,
                "start_ms": started.start.map(|start| start.as_secs_f64() * 1000.0),
                "idle_bytes": started.idle_bytes,
            })
        });
        let all = json!({
            "command": self.command,
            "machine": self.host.0.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect::<Vec<_>>(),
            "rounds": self.rounds,
            "left_out": self.left_out.iter().map(|(column, why)| json!({ "column": column, "why": why })).collect::<Vec<_>>(),
            "failures": self.failures,
            "started": started.collect::<Vec<_>>(),
            "measured": measured.collect::<Vec<_>>(),
        });
        format!("{all:#}\n")
    }
}

/// What a row is told in: MB/s of the large file, operations a second of all else.
fn rate(measured: &Measured) -> f64 {
    let is_large = ROWS.iter().any(|row| row.name == measured.row && row.size == LARGE);
    if is_large { measured.figures.mb_per_s } else { measured.figures.ops_per_s }
}

/// How long a row took, from the finer one of its rates.
fn wall_s(measured: &Measured) -> f64 {
    let row = &measured.figures;
    match row.mb_per_s > 0.0 {
        true => (row.count * row.size_bytes) as f64 / 1e6 / row.mb_per_s,
        false => row.count as f64 / row.ops_per_s.max(1e-9),
    }
}

/// One measurement in a line.
pub(crate) fn shown(measured: &Measured) -> String {
    let row = &measured.figures;
    let cpu_s = measured.servers.iter().fold(0.0, |sum, used| sum + used.cpu_s);
    let large =
        if row.mb_per_s > 0.0 { format!("  {:>8} MB/s", number(row.mb_per_s)) } else { String::new() };
    format!(
        "{:>9}/s{large}  p50 {} p99 {} max {} ms  cpu {cpu_s:.2} + {:.2} s",
        number(row.ops_per_s),
        number(row.p50_ms),
        number(row.p99_ms),
        number(row.max_ms),
        measured.client_cpu_s
    )
}

fn yes(met: bool) -> String {
    if met { "yes" } else { "**no**" }.to_owned()
}

/// Three digits or more, with thousands set apart.
fn number(value: f64) -> String {
    if value < 10.0 {
        return format!("{value:.2}");
    }
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn head(first: &str, columns: &[&str]) -> Vec<String> {
    line(first, columns.iter().map(|&name| name.to_owned()))
}

fn line(first: &str, cells: impl Iterator<Item = String>) -> Vec<String> {
    std::iter::once(first.to_owned()).chain(cells).collect()
}

/// A table of Markdown that reads well as it is.
fn aligned(table: &[Vec<String>]) -> String {
    let columns = table.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |line: &Vec<String>, at: usize| line.get(at).map_or(0, |cell| cell.chars().count());
    let widths: Vec<_> =
        (0..columns).map(|at| table.iter().map(|line| cell(line, at)).max().unwrap_or(0).max(3)).collect();
    let mut text = String::new();
    for (number, line) in table.iter().enumerate() {
        for (at, width) in widths.iter().enumerate() {
            let cell = line.get(at).map_or("", String::as_str);
            text.push_str(&format!("| {cell:<width$} "));
        }
        text.push_str("|\n");
        if number == 0 {
            for width in &widths {
                text.push_str(&format!("|{}", "-".repeat(width + 2)));
            }
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_a_median_with_its_ends() {
        let spread = Spread::of([3.0, 1.0, 2.0].into_iter()).expect("values");
        assert_eq!(spread, Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(spread.show(number), "2.00 (1.00–3.00)");
        assert_eq!(Spread::of([4.0, 2.0].into_iter()).expect("values").median, 3.0);
        assert_eq!(Spread::of([5.0].into_iter()).expect("a value").show(number), "5.00");
        assert_eq!(Spread::of(std::iter::empty()), None);
    }

    #[test]
    fn numbers_have_three_digits_or_more() {
        for (value, text) in [
            (0.0, "0.00"),
            (9.994, "9.99"),
            (12.34, "12.3"),
            (999.4, "999"),
            (1234.0, "1,234"),
            (1_234_567.0, "1,234,567"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    fn measured(round: u32, column: &'static str, ops_per_s: f64) -> Measured {
        let figures = Row { ops_per_s, count: 100, ..Row::default() };
        let servers = vec![Used { server: "storage", cpu_s: 0.5, peak_bytes: 9_000_000 }];
        Measured { round, row: "upload 64k", column, figures, client_cpu_s: 0.1, servers }
    }

    #[test]
    fn ratios_are_those_of_the_same_round() {
        let options = match crate::options::parse(lexopt::Parser::from_args(["--rounds", "3"])) {
            Ok(crate::options::Asked::Run(options)) => options,
            other => panic!("{other:?}"),
        };
        let mut report = Report::new(Host(vec![("memory", "1 MiB".to_owned())]), &options);
        for (round, ours, theirs) in [(0, 100.0, 100.0), (1, 300.0, 100.0), (2, 500.0, 200.0)] {
            report.measured.push(measured(round, "embedded, no fsync", ours));
            report.measured.push(measured(round, "fastdfs", theirs));
        }
        let text = report.markdown();
        assert!(text.contains("| upload 64k, embedded, no fsync: ≥ 2 × fastdfs | 300 (100–500) | 100 (100–200) | 2.50 (1.00–3.00) | yes |"), "{text}");
        assert!(
            text.contains("| upload 64k, fastdfs            | 1.00   | 0.10   | storage 0.50 |"),
            "{text}"
        );
        let json: serde_json::Value = serde_json::from_str(&report.json()).expect("JSON");
        assert_eq!(json["measured"][1]["column"], "fastdfs");
        assert!(report.outcome().is_ok());
        report.failed("x".to_owned());
        assert!(report.outcome().is_err());
    }
}
