//! One run: the warm-up, the rows, the comparison of contents, and the removal of what was uploaded.

use std::cell::Cell;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tnv_client::{Error, ErrorKind, Result};
use tnv_common::fail;
use tnv_common::text::one_line;

use super::driver::{Driver, File};
use super::list::List;
use super::payload::{Block, Thoroughness};
use super::plan::{Op, Plan, Protocol};
use super::progress::Progress;
use super::report::{self, Figures, Totals};
use super::row::{ERRORS_MAX, Row, RowResult, Workload};
use crate::cli::output::{Outcome, print};

/// Most bytes of the files that are uploaded for a row of downloads, except for the first file.
const PROVIDED_BYTES_MAX: u64 = 1 << 30;

/// The largest file of the warm-up.
const WARM_UP_BYTES: u64 = 1 << 20;

/// At the end files are removed after each of these pauses, until none is left.
const CLEAN_UP_PAUSES: [Duration; 2] = [Duration::ZERO, Duration::from_secs(1)];

/// Most files whose removal failed that are named.
const NAMED_MAX: usize = 20;

/// Runs a plan with a driver and prints the figures. `files` exist before.
pub(super) fn measure(
    plan: &Plan,
    halt: Arc<AtomicBool>,
    protocol: &str,
    driver: &dyn Driver,
    files: Vec<File>,
) -> std::result::Result<(), Outcome> {
    let owns_files = !matches!(plan.protocol, Protocol::Get(_));
    let list = match &plan.files {
        Some(path) => List::read(path)?,
        None => None,
    };
    let list = list.unwrap_or_else(|| List { seed: rand::random(), files });
    let (seed, number) = (list.seed, list.next_number());
    let mut bench = Bench {
        plan,
        driver,
        halt,
        block: Block::new(seed),
        number: Cell::new(number),
        files: list.files,
        compared: 0,
        leftovers: Vec::new(),
        rows: Vec::new(),
        totals: Totals::default(),
        errors: 0,
    };
    let outcome = bench.all(owns_files);
    let mut left = if owns_files && !plan.keep { bench.clean_up() } else { Ok(()) };
    if let Some(path) = &plan.files {
        bench.files.append(&mut bench.leftovers);
        let listed = match bench.files.is_empty() {
            true => List::remove(path),
            false => List::write(path, seed, &bench.files),
        };
        left = left.and(listed);
    }
    if plan.json {
        print(&report::json(protocol, &bench.rows, bench.totals))?;
    } else if !bench.rows.is_empty() {
        print(&report::table(&bench.rows))?;
    }
    outcome?;
    left?;
    let wrong = bench.errors + bench.totals.wrong;
    match bench.halt.load(Ordering::Relaxed) {
        true => Err(Error::new(ErrorKind::Unavailable, "interrupted").into()),
        false if wrong > 0 => {
            Err(Error::new(ErrorKind::Internal, format!("{wrong} operations failed")).into())
        }
        false => Ok(()),
    }
}

/// A run.
struct Bench<'a> {
    plan: &'a Plan,
    driver: &'a dyn Driver,
    halt: Arc<AtomicBool>,
    block: Block,
    /// The number of the next file.
    number: Cell<u64>,
    /// The files for the rows. The first `compared` ones have been compared.
    files: Vec<File>,
    compared: usize,
    /// Files that are only to be removed.
    leftovers: Vec<File>,
    rows: Vec<Figures>,
    totals: Totals,
    errors: u64,
}

impl Bench<'_> {
    /// Everything except the cleanup.
    fn all(&mut self, owns_files: bool) -> Result<()> {
        match owns_files {
            true => self.warm_up()?,
            false => {
                drop(self.run_row("warm-up", &self.warm_up_row(Workload::Download(Thoroughness::Length)))?)
            }
        }
        for &op in &self.plan.ops {
            if self.is_halted() {
                return Ok(());
            }
            self.row(op)?;
        }
        self.compare()
    }

    fn is_halted(&self) -> bool {
        self.halt.load(Ordering::Relaxed)
    }

    /// Opens connections, makes directories and fills caches. A deployment that does not work fails here.
    fn warm_up(&mut self) -> Result<()> {
        if self.plan.warm_up == 0 {
            return Ok(());
        }
        let result = self.run_row("warm-up", &self.warm_up_row(Workload::Upload))?;
        self.leftovers.extend(result.uploaded);
        if self.is_halted() {
            return Ok(());
        }
        if let (true, Some((error, _))) = (self.leftovers.is_empty(), result.first_errors.into_iter().next())
        {
            return Err(error.context("the warm-up failed"));
        }
        for workload in [Workload::Download(Thoroughness::Full), Workload::Delete] {
            let row = Row {
                files: &self.leftovers,
                count: self.leftovers.len() as u64,
                ..self.warm_up_row(workload)
            };
            let result = self.run_row("warm-up", &row)?;
            if workload == Workload::Delete {
                let all = std::mem::take(&mut self.leftovers);
                self.leftovers = remaining(all, &result).0;
            }
        }
        Ok(())
    }

    /// One row of the table, with the files that it needs.
    fn row(&mut self, op: Op) -> Result<()> {
        let count = self.plan.count;
        let (workload, count) = match op {
            Op::Upload => (Workload::Upload, count),
            Op::Get => (Workload::Download(Thoroughness::Length), count),
            Op::Download | Op::Mixed => {
                let size = self.plan.sizes.mean().max(1);
                let enough = count.min((PROVIDED_BYTES_MAX / size).max(1));
                self.provide_files(if self.files.is_empty() { enough } else { 0 })?;
                match op {
                    Op::Mixed => (Workload::Mixed(Thoroughness::Edges), count),
                    _ => (Workload::Download(Thoroughness::Edges), count),
                }
            }
            Op::Delete => {
                self.provide_files(count)?;
                self.compare()?;
                (Workload::Delete, count.min(self.files.len() as u64))
            }
        };
        if self.is_halted() {
            return Ok(());
        }
        let size = match (op, self.files.first()) {
            (Op::Get, Some(file)) => file.size,
            _ => self.plan.sizes.mean(),
        };
        let result = self.run_row(op.name(), &Row { count, ..self.planned(workload) })?;
        let threads = self.plan.threads.min(usize::try_from(count).unwrap_or(usize::MAX));
        let figures = Figures::new(op, size, threads, &result);
        if result.started < count && !self.is_halted() {
            self.message(&format!(
                "{}: ended after {:.1} s and {} of {count} operations",
                op.name(),
                result.wall.as_secs_f64(),
                result.started
            ));
        }
        self.errors += result.errors;
        self.rows.push(figures);
        if workload == Workload::Delete {
            let all = std::mem::take(&mut self.files);
            let (failed, rest) = remaining(all, &result);
            self.leftovers.extend(failed);
            self.files = rest;
            self.compared =
                self.compared.saturating_sub(usize::try_from(result.started).unwrap_or(usize::MAX));
        }
        self.files.extend(result.uploaded);
        Ok(())
    }

    /// Uploads files until there are `count`. The time is not measured.
    fn provide_files(&mut self, count: u64) -> Result<()> {
        let missing = count.saturating_sub(self.files.len() as u64);
        if missing == 0 {
            return Ok(());
        }
        let result = self.run_row("preparing", &Row { count: missing, ..self.planned(Workload::Upload) })?;
        self.errors += result.errors;
        self.files.extend(result.uploaded);
        match (self.files.is_empty() && !self.is_halted(), result.first_errors.into_iter().next()) {
            (true, Some((error, _))) => Err(error.context("no file could be uploaded")),
            _ => Ok(()),
        }
    }

    /// Fetches each file that has not been compared yet, and compares it byte by byte.
    fn compare(&mut self) -> Result<()> {
        let files = &self.files[self.compared..];
        let owns_files = !matches!(self.plan.protocol, Protocol::Get(_));
        if !self.plan.verify || !owns_files || files.is_empty() || self.is_halted() {
            return Ok(());
        }
        let row =
            Row { files, count: files.len() as u64, ..self.planned(Workload::Download(Thoroughness::Full)) };
        let count = row.count;
        let result = self.run_row("comparing", &row)?;
        if result.started < count && !self.is_halted() {
            self.message(&format!("comparing: ended after {} of {count} files", result.started));
        }
        self.totals.verified += result.nanos.len() as u64 + result.errors;
        self.totals.wrong += result.errors;
        self.compared = self.files.len();
        Ok(())
    }

    /// Removes all remaining files, after an error, too.
    fn clean_up(&mut self) -> Result<()> {
        let never = AtomicBool::new(false);
        let mut left = std::mem::take(&mut self.files);
        left.append(&mut self.leftovers);
        let mut errors = Vec::new();
        for pause in CLEAN_UP_PAUSES {
            if left.is_empty() {
                return Ok(());
            }
            thread::sleep(pause);
            let row = Row {
                files: &left,
                count: left.len() as u64,
                halt: &never,
                time_max: Duration::MAX,
                // Each error may take a minute.
                errors_max: 4 * self.plan.threads as u64,
                ..self.planned(Workload::Delete)
            };
            let result = match row.run(&self.progress("removing", row.count)) {
                Ok(result) => result,
                Err(error) => {
                    self.files = left;
                    return Err(error);
                }
            };
            let (mut failed, rest) = remaining(left, &result);
            failed.extend(rest);
            left = failed;
            errors = result.first_errors;
        }
        self.totals.left = left.len() as u64;
        let Some(first) = left.first() else { return Ok(()) };
        let why = errors.iter().find(|(error, _)| error.kind() != ErrorKind::NotFound);
        let why = why.map_or("not tried".to_owned(), |(error, _)| one_line(error.message()));
        let mut names = first.id.to_string();
        for file in left.iter().take(NAMED_MAX).skip(1) {
            names.push_str(", ");
            names.push_str(&file.id);
        }
        if left.len() > NAMED_MAX {
            names.push_str(", and others");
        }
        let (count, appid, userid) = (left.len(), &self.plan.appid, &self.plan.userid);
        self.files = left;
        fail!(
            Unavailable,
            "{count} files of {appid} {userid} could not be removed, remove them with 'tnv TRACKERS delete': {names}: {why}"
        )
    }

    /// A row with the settings of the plan.
    fn planned(&self, workload: Workload) -> Row<'_> {
        Row {
            driver: self.driver,
            block: &self.block,
            sizes: &self.plan.sizes,
            size_max: u64::MAX,
            workload,
            threads: self.plan.threads,
            count: self.plan.count,
            files: &self.files,
            number: self.number.get(),
            halt: &self.halt,
            time_max: self.plan.time_max,
            errors_max: ERRORS_MAX,
        }
    }

    /// A row of the warm-up.
    fn warm_up_row(&self, workload: Workload) -> Row<'_> {
        Row { count: self.plan.warm_up, size_max: WARM_UP_BYTES, ..self.planned(workload) }
    }

    /// Runs a row and reports its errors. The files of the next row have other numbers.
    fn run_row(&self, what: &str, row: &Row<'_>) -> Result<RowResult> {
        let result = row.run(&self.progress(what, row.count))?;
        self.number.set(self.number.get() + row.count);
        self.report_errors(what, &result);
        Ok(result)
    }

    fn progress(&self, what: &str, count: u64) -> Progress {
        Progress::new(what, count, self.plan.json)
    }

    /// Reports the first error of each kind.
    fn report_errors(&self, what: &str, result: &RowResult) {
        for (error, count) in &result.first_errors {
            self.message(&format!("{what}: {count} × {}", one_line(error.message())));
        }
    }

    fn message(&self, line: &str) {
        // If standard error fails, there is no other place to report.
        let _ = writeln!(io::stderr(), "tnv: bench: {line}");
    }
}

/// The files that a row of deletes could not remove, and those that it did not reach.
fn remaining(mut files: Vec<File>, result: &RowResult) -> (Vec<File>, Vec<File>) {
    let rest = files.split_off(usize::try_from(result.started).unwrap_or(usize::MAX).min(files.len()));
    let failed = result.failed.iter().filter_map(|&index| files.get(index).cloned()).collect();
    (failed, rest)
}
