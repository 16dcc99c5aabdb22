//! `tnv TRACKERS bench`: how fast a deployment is, measured by many threads at once. It warms up, does one
//! row after another, compares what was stored with what was sent, and removes whatever it made, also where
//! it is interrupted.
//!
//! The figures have nothing of this program's own in them: content is cut from a block that exists before
//! (`content`), the clock is read once an operation (`row`), and contents are compared byte by byte when no
//! clock runs. What the client library does is in them, since applications have it too.

mod content;
mod fdfs;
mod http;
mod list;
mod native;
mod plan;
mod report;
mod row;

use std::cell::Cell;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use tnv_client::{AppKeys, Client, Error, ErrorKind, Options, Result};
use tnv_common::error::Context;
use tnv_common::fail;
use tnv_common::text::one_line;

use super::Outcome;
use content::{Block, Closely};
use list::List;
pub(super) use plan::{Asked, Plan, parse};
use plan::{Op, Protocol};
use report::{Figures, Found, Progress};
use row::{Doing, Done, Door, ERRORS_MAX, File, Row};

/// The text of `tnv TRACKERS bench --help`.
pub(super) const HELP: &str = "\
Usage: tnv TRACKERS bench [OPTIONS]
       tnv bench --get URL [--threads N] [--count N] [--seconds N] [--warm-up N] [--json]

Measures a deployment: threads that do operations as fast as they are answered, a row for each of --op, one
table in the end. What it uploads it removes again, also when it is interrupted.

  --threads N    threads, each doing one operation at a time (8; 1 to 1024)
  --count N      operations a row (5000; 1 to 1000000)
  --size SIZE    bytes of a file, or 4k, 1m, 2g (powers of 1024), or a mix with weights, 4k:7,1m:3 (64k)
  --op LIST      the rows, of upload, download, mixed (three downloads to an upload) and delete
                 (upload,download,delete). Files that a row needs and that are not there are made before
                 it; downloads go round them
  --seconds N    longest time for a row, which then has fewer operations (300; 1 to 86400)
  --warm-up N    files of at most 1 MiB that are uploaded, fetched and removed before (two a thread)
  --no-verify    do not compare contents afterwards
  --keep         do not remove what was uploaded
  --files FILE   go on with the files that an earlier run has kept and named in FILE, if there is one; with
                 --keep those that there are in the end are named in it, else they are removed like all others
  --http URL     downloads are GETs from the HTTP server there, http://host[:port][/prefix]
  --fdfs         TRACKERS are those of a FastDFS, and its protocol is spoken (port 22122 by default)
  --get URL      measure GETs of one URL of any HTTP server, and nothing else; answers need a
                 Content-Length, and the length of the first one is what each must have
  --appid A, --userid U   whose files they are (tnvideo, tnvbench; the user's route stays)
  --key-file F   as for uploads
  --json         one JSON object instead of the table, and no progress

Figures: ops/s are the operations that succeeded, through the time from the first thread's beginning to the
last one's end. MB/s are their content, 1 MB = 1,000,000 bytes. Latencies are exact, of the operations that
succeeded. The client's own work for an upload or download (the tracker asked every 5 s, the checksum, one copy of the content) is in all of them, since every application has it. Making and comparing
contents is not: files are cut from random bytes made before; while the clock runs their length and the ends
of each piece are compared; and after the rows, or before a delete, each file is fetched once more and compared
byte by byte.

The first error of each kind is told. A row is given up after 1000. Exit codes: 0 done, 1 when there were any
errors or files that could not be removed, 2 wrong usage.";

/// Files that are made for downloads alone have together at most this, but for the first.
const MADE_BYTES_MAX: u64 = 1 << 30;

/// Files of the warm-up are no larger than this.
const WARM_UP_BYTES: u64 = 1 << 20;

/// When files are removed in the end, those that failed are tried again after a pause.
const CLEAN_UP_PAUSES: [Duration; 2] = [Duration::ZERO, Duration::from_secs(1)];

/// Files left behind that are named.
const NAMED_MAX: usize = 20;

/// Connections of a thread that a client keeps: to a few servers each.
const SERVERS_A_THREAD: usize = 8;

/// Measures.
pub(super) fn run(plan: &Plan, app_keys: AppKeys) -> std::result::Result<(), Outcome> {
    let halt = halt_on_signals()?;
    more_descriptors();
    let owner = (plan.appid.clone(), plan.userid.clone());
    let native = || -> std::result::Result<native::NativeDoor, Outcome> {
        let options = Options {
            app_keys: app_keys.clone(),
            idle_per_server_max: plan.threads,
            idle_max: plan.threads * SERVERS_A_THREAD,
            ..Options::default()
        };
        let client = Client::new(&plan.trackers, options).map_err(super::usage_or_failure)?;
        Ok(native::NativeDoor { client, owner: owner.clone() })
    };
    match &plan.protocol {
        Protocol::Tnv => measure(plan, halt, "tnv", &native()?, Vec::new()),
        Protocol::Http(url) => {
            let native = native()?;
            measure(plan, halt, "http", &http::HttpDoor::new(url, &native, owner.clone())?, Vec::new())
        }
        Protocol::Fdfs => measure(plan, halt, "fdfs", &fdfs::FdfsDoor::new(&plan.trackers)?, Vec::new()),
        Protocol::Get(url) => {
            let door = http::GetDoor::new(url)?;
            let file = File { id: "the answer".into(), number: 0, size: door.size()? };
            measure(plan, halt, "get", &door, vec![file])
        }
    }
}

/// The first signal ends the rows, and what was made is removed; a second one ends the process.
fn halt_on_signals() -> Result<Arc<AtomicBool>> {
    let halt = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag unset, and sets it.
        flag::register_conditional_shutdown(signal, 1, Arc::clone(&halt))
            .and_then(|_| flag::register(signal, Arc::clone(&halt)))
            .context(|| "handle signals")?;
    }
    Ok(halt)
}

/// A thousand threads have more connections than a shell's usual limit; where it cannot be raised connecting
/// says so.
fn more_descriptors() {
    let now = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum });
}

fn measure(
    plan: &Plan,
    halt: Arc<AtomicBool>,
    protocol: &str,
    door: &dyn Door,
    files: Vec<File>,
) -> std::result::Result<(), Outcome> {
    let is_ours = !matches!(plan.protocol, Protocol::Get(_));
    let list = match &plan.files {
        Some(path) => List::read(path)?,
        None => None,
    };
    let list = list.unwrap_or_else(|| List { seed: rand::random(), files });
    let (seed, number) = (list.seed, list.next_number());
    let mut bench = Bench {
        plan,
        door,
        halt,
        block: Block::new(seed),
        number: Cell::new(number),
        files: list.files,
        compared: 0,
        strays: Vec::new(),
        rows: Vec::new(),
        found: Found::default(),
        errors: 0,
    };
    let outcome = bench.all(is_ours);
    let mut left = if is_ours && !plan.keep { bench.clean_up() } else { Ok(()) };
    if let Some(path) = &plan.files {
        bench.files.append(&mut bench.strays);
        let listed = match bench.files.is_empty() {
            true => List::remove(path),
            false => List::write(path, seed, &bench.files),
        };
        left = left.and(listed);
    }
    if plan.json {
        super::print(&report::json(protocol, &bench.rows, bench.found))?;
    } else if !bench.rows.is_empty() {
        super::print(&report::table(&bench.rows))?;
    }
    outcome?;
    left?;
    let wrong = bench.errors + bench.found.wrong;
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
    door: &'a dyn Door,
    halt: Arc<AtomicBool>,
    block: Block,
    /// The next file's.
    number: Cell<u64>,
    /// What rows choose from; the first ones have been compared.
    files: Vec<File>,
    compared: usize,
    /// What is only to be removed.
    strays: Vec<File>,
    rows: Vec<Figures>,
    found: Found,
    errors: u64,
}

impl Bench<'_> {
    /// Everything but the cleaning up.
    fn all(&mut self, is_ours: bool) -> Result<()> {
        match is_ours {
            true => self.warm_up()?,
            false => drop(self.go("warm-up", &self.warm(Doing::Download(Closely::Length)))?),
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

    /// Opens connections, makes directories, fills caches; and shows at once where nothing works.
    fn warm_up(&mut self) -> Result<()> {
        if self.plan.warm_up == 0 {
            return Ok(());
        }
        let done = self.go("warm-up", &self.warm(Doing::Upload))?;
        self.strays.extend(done.made);
        if self.is_halted() {
            return Ok(());
        }
        if let (true, Some((error, _))) = (self.strays.is_empty(), done.told.into_iter().next()) {
            return Err(error.context("the warm-up failed"));
        }
        for doing in [Doing::Download(Closely::Whole), Doing::Delete] {
            let row = Row { files: &self.strays, count: self.strays.len() as u64, ..self.warm(doing) };
            let done = self.go("warm-up", &row)?;
            if doing == Doing::Delete {
                let all = std::mem::take(&mut self.strays);
                self.strays = remaining(all, &done).0;
            }
        }
        Ok(())
    }

    /// One row of the table, and what it needs.
    fn row(&mut self, op: Op) -> Result<()> {
        let count = self.plan.count;
        let (doing, count) = match op {
            Op::Upload => (Doing::Upload, count),
            Op::Get => (Doing::Download(Closely::Length), count),
            Op::Download | Op::Mixed => {
                let size = self.plan.sizes.mean().max(1);
                let enough = count.min((MADE_BYTES_MAX / size).max(1));
                self.make_up_to(if self.files.is_empty() { enough } else { 0 })?;
                match op {
                    Op::Mixed => (Doing::Mixed(Closely::Edges), count),
                    _ => (Doing::Download(Closely::Edges), count),
                }
            }
            Op::Delete => {
                self.make_up_to(count)?;
                self.compare()?;
                (Doing::Delete, count.min(self.files.len() as u64))
            }
        };
        if self.is_halted() {
            return Ok(());
        }
        let size = match (op, self.files.first()) {
            (Op::Get, Some(file)) => file.size,
            _ => self.plan.sizes.mean(),
        };
        let done = self.go(op.name(), &Row { count, ..self.usual(doing) })?;
        let threads = self.plan.threads.min(usize::try_from(count).unwrap_or(usize::MAX));
        let figures = Figures::new(op, size, threads, &done);
        if done.begun < count && !self.is_halted() {
            self.say(&format!(
                "{}: ended after {:.1} s and {} of {count} operations",
                op.name(),
                done.wall.as_secs_f64(),
                done.begun
            ));
        }
        self.errors += done.errors;
        self.rows.push(figures);
        if doing == Doing::Delete {
            let all = std::mem::take(&mut self.files);
            let (failed, rest) = remaining(all, &done);
            self.strays.extend(failed);
            self.files = rest;
            self.compared = self.compared.saturating_sub(usize::try_from(done.begun).unwrap_or(usize::MAX));
        }
        self.files.extend(done.made);
        Ok(())
    }

    /// Makes files, while no clock runs, until there are so many.
    fn make_up_to(&mut self, count: u64) -> Result<()> {
        let missing = count.saturating_sub(self.files.len() as u64);
        if missing == 0 {
            return Ok(());
        }
        let done = self.go("making", &Row { count: missing, ..self.usual(Doing::Upload) })?;
        self.errors += done.errors;
        self.files.extend(done.made);
        match (self.files.is_empty() && !self.is_halted(), done.told.into_iter().next()) {
            (true, Some((error, _))) => Err(error.context("no file could be made")),
            _ => Ok(()),
        }
    }

    /// Fetches each file that was made and not looked at yet, and compares it byte by byte.
    fn compare(&mut self) -> Result<()> {
        let files = &self.files[self.compared..];
        let is_ours = !matches!(self.plan.protocol, Protocol::Get(_));
        if !self.plan.verify || !is_ours || files.is_empty() || self.is_halted() {
            return Ok(());
        }
        let row = Row { files, count: files.len() as u64, ..self.usual(Doing::Download(Closely::Whole)) };
        let count = row.count;
        let done = self.go("comparing", &row)?;
        if done.begun < count && !self.is_halted() {
            self.say(&format!("comparing: ended after {} of {count} files", done.begun));
        }
        self.found.verified += done.nanos.len() as u64 + done.errors;
        self.found.wrong += done.errors;
        self.compared = self.files.len();
        Ok(())
    }

    /// Removes everything that is still there, whatever happened before.
    fn clean_up(&mut self) -> Result<()> {
        let never = AtomicBool::new(false);
        let mut left = std::mem::take(&mut self.files);
        left.append(&mut self.strays);
        let mut told = Vec::new();
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
                // Each of them may have to wait for a minute.
                errors_max: 4 * self.plan.threads as u64,
                ..self.usual(Doing::Delete)
            };
            let done = match row.run(&self.progress("removing", row.count)) {
                Ok(done) => done,
                Err(error) => {
                    self.files = left;
                    return Err(error);
                }
            };
            let (mut failed, rest) = remaining(left, &done);
            failed.extend(rest);
            left = failed;
            told = done.told;
        }
        self.found.left = left.len() as u64;
        let Some(first) = left.first() else { return Ok(()) };
        let why = told.iter().find(|(error, _)| error.kind() != ErrorKind::NotFound);
        let why = why.map_or("there was no time".to_owned(), |(error, _)| one_line(error.message()));
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

    /// A row as the plan has it.
    fn usual(&self, doing: Doing) -> Row<'_> {
        Row {
            door: self.door,
            block: &self.block,
            sizes: &self.plan.sizes,
            size_max: u64::MAX,
            doing,
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
    fn warm(&self, doing: Doing) -> Row<'_> {
        Row { count: self.plan.warm_up, size_max: WARM_UP_BYTES, ..self.usual(doing) }
    }

    /// Does a row; files of the next one have other numbers.
    fn go(&self, what: &str, row: &Row<'_>) -> Result<Done> {
        let done = row.run(&self.progress(what, row.count))?;
        self.number.set(self.number.get() + row.count);
        self.tell(what, &done);
        Ok(done)
    }

    fn progress(&self, what: &str, count: u64) -> Progress {
        Progress::new(what, count, self.plan.json)
    }

    /// The first error of each kind.
    fn tell(&self, what: &str, done: &Done) {
        for (error, count) in &done.told {
            self.say(&format!("{what}: {count} × {}", one_line(error.message())));
        }
    }

    fn say(&self, line: &str) {
        // There is nowhere to tell that this failed.
        let _ = writeln!(io::stderr(), "tnv: bench: {line}");
    }
}

/// What a row that removes files has left: those that it could not remove, and those that it had no time for.
fn remaining(mut files: Vec<File>, done: &Done) -> (Vec<File>, Vec<File>) {
    let rest = files.split_off(usize::try_from(done.begun).unwrap_or(usize::MAX).min(files.len()));
    let failed = done.failed.iter().filter_map(|&index| files.get(index).cloned()).collect();
    (failed, rest)
}
