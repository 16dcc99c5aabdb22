//! `scripts/bench table`: starts the columns' servers, lets them take turns in each row, and keeps account.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use tnv_tests::Dir;
use tnv_tests::tools::free_bytes;

use crate::contender::{Contender, Task};
use crate::host::Host;
use crate::machine::Machine;
use crate::options::{self, Asked, HELP, Options};
use crate::peers::{fdfs, nginx};
use crate::report::{Measured, Report, Started, Used, shown};
use crate::sources::Sources;
use crate::table::{COLUMNS, Column, Extent, Kind, LARGE, ROWS, Spec, Work};
use crate::tnv::{self, Tnv};
use crate::usage::state_and_cpu;
use crate::{Failure, Result, exec, remove, tell};

/// How long servers are left alone before it is looked what they take when idle.
const IDLE: Duration = Duration::from_secs(2);

/// Space that must be left on the disk.
const SPARE_BYTES: u64 = 2 << 30;

/// A column at work.
struct Active {
    column: &'static Column,
    contender: Box<dyn Contender>,
}

/// Runs the table.
pub(crate) fn run(parser: lexopt::Parser) -> Result<()> {
    match options::parse(parser)? {
        Asked::Help => println!("{HELP}"),
        Asked::List => list(),
        Asked::Run(options) => return table(&options),
    }
    Ok(())
}

fn list() {
    println!("rows:");
    ROWS.iter().for_each(|row| println!("  {}", row.name));
    println!("columns:");
    COLUMNS.iter().for_each(|column| println!("  {}", column.name));
}

fn table(options: &Options) -> Result<()> {
    exec::stop_on_signals()?;
    let rows: Vec<_> = ROWS.iter().filter(|row| options.only.fits(row.name)).collect();
    let columns: Vec<_> = COLUMNS
        .iter()
        .filter(|column| options.with.fits(column.name) && rows.iter().any(|row| column.has(row)))
        .collect();
    if columns.is_empty() {
        return Err(Failure::Usage("there is no such row and column, see scripts/bench --list".to_owned()));
    }
    let dir = Emptied(Dir::under(&options.dir, "bench"));
    let dir = &dir.0;
    room(options, &rows, &columns, dir.path())?;
    let mut report = Report::new(Host::look(dir.path()), options);
    let sources = Sources::new(&dir.join("sources"))?;
    let mut active = Vec::new();
    for column in columns {
        match missing(column.kind) {
            Some(why) => report.left_out(column.name, &why),
            None => active.extend(start(column, dir, &sources, &mut report)?),
        }
    }
    idle(&active, &mut report);
    rounds(options, &rows, &mut active, dir.path(), &mut report)?;
    // Nothing is to be written by servers while the last figures are, and all of it goes with the directory.
    drop(active);
    let text = report.markdown();
    let printed = writeln!(io::stdout(), "{text}");
    for (path, content) in [(&options.json, report.json()), (&options.markdown, text)] {
        if let Some(path) = path {
            std::fs::write(path, content).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    printed.map_err(|error| format!("write to standard output: {error}"))?;
    report.outcome()
}

/// A directory that is gone with this, soon.
struct Emptied(Dir);

impl Drop for Emptied {
    fn drop(&mut self) {
        if std::env::var_os("TNV_TESTS_KEEP").is_none() {
            tell(format_args!("removing {}", self.0.path().display()));
            remove::empty(self.0.path());
        }
    }
}

/// What all files of these rows take: they are there until the end, but for the large ones, which go after each
/// round. Downloads and deletes have what the uploads of their size make, measured or not.
fn needed(options: &Options, rows: &[&Spec], columns: &[&Column]) -> u64 {
    let mut bytes = SPARE_BYTES;
    for column in columns {
        for uploads in ROWS.iter().filter(|row| row.work == Work::Upload && column.has(row)) {
            let is_of_files = |row: &&Spec| matches!(row.work, Work::Upload | Work::Download | Work::Delete);
            let mut of_files = rows.iter().filter(|row| column.has(row) && is_of_files(row));
            if of_files.any(|row| row.size == uploads.size) {
                let rounds = if uploads.size == LARGE { 1 } else { u64::from(options.rounds) };
                bytes += options.extent.count(uploads, column) * options.extent.size(uploads) * rounds;
            }
        }
    }
    bytes
}

fn room(options: &Options, rows: &[&Spec], columns: &[&Column], dir: &Path) -> Result<()> {
    let bytes = needed(options, rows, columns);
    let free = free_bytes(dir);
    match free >= bytes || options.extent == Extent::Smoke {
        true => Ok(()),
        false => Err(Failure::Failed(format!(
            "{} has {} MB free, want {} MB: name another disk with --dir, or measure less",
            dir.display(),
            free / 1_000_000,
            bytes / 1_000_000
        ))),
    }
}

fn missing(kind: Kind) -> Option<String> {
    match kind {
        Kind::Tnv { maria, slow, .. } => tnv::missing(maria, slow),
        Kind::FastDfs => fdfs::missing(),
        Kind::Nginx | Kind::NginxProxy { .. } => nginx::missing(),
        Kind::Machine { .. } => None,
    }
}

/// Starts a column's servers. That a peer cannot be started costs its column alone.
fn start(
    column: &'static Column,
    dir: &Dir,
    sources: &Sources,
    report: &mut Report,
) -> Result<Option<Active>> {
    exec::go_on()?;
    let name = column.name.replace([',', '+'], "").replace(' ', "-");
    let place = dir.join(&name);
    std::fs::create_dir(&place).map_err(|error| format!("{}: {error}", place.display()))?;
    let nginx = |asked| {
        let started = nginx::Nginx::start(&place, sources, asked);
        started.map(|peer| Box::new(peer) as Box<dyn Contender>)
    };
    let started: Result<Box<dyn Contender>> = match column.kind {
        Kind::Tnv { .. } => Ok(Box::new(Tnv::start("cluster", column.kind, &place, sources)?)),
        Kind::Machine { fsync } => Ok(Box::new(Machine::new(place.clone(), sources, fsync))),
        Kind::FastDfs => fdfs::FastDfs::start(&place).map(|peer| Box::new(peer) as Box<dyn Contender>),
        Kind::Nginx => nginx(nginx::Asked::Files),
        Kind::NginxProxy { buffered: true } => nginx(nginx::Asked::Proxy),
        Kind::NginxProxy { buffered: false } => nginx(nginx::Asked::Unbuffered),
    };
    exec::go_on()?;
    match started {
        Ok(contender) => {
            tell(format_args!("started: {}", column.name));
            Ok(Some(Active { column, contender }))
        }
        Err(Failure::Failed(why)) => {
            report.failed(format!("{} could not be started: {why}", column.name));
            Ok(None)
        }
        Err(usage) => Err(usage),
    }
}

/// What each server takes before anybody asks it for anything.
fn idle(active: &[Active], report: &mut Report) {
    thread::sleep(IDLE);
    for Active { column, contender } in active {
        let starts = contender.starts();
        for server in contender.servers() {
            let start = starts.iter().find(|(name, _)| *name == server.name).map(|&(_, start)| start);
            let idle_bytes = server.usage().resident;
            report.started.push(Started { column: column.name, server: server.name, start, idle_bytes });
        }
    }
}

fn rounds(
    options: &Options,
    rows: &[&'static Spec],
    active: &mut [Active],
    dir: &Path,
    report: &mut Report,
) -> Result<()> {
    let task = |column: &Column, spec: &'static Spec, round| {
        let uploads = ROWS.iter().find(|row| row.work == Work::Upload && row.size == spec.size);
        Task {
            spec,
            size: options.extent.size(spec),
            count: options.extent.count(spec, column),
            files: uploads.map_or(1, |uploads| options.extent.count(uploads, column)),
            round,
        }
    };
    let mut row = |spec: &'static Spec, round: u32, active: &mut [Active]| -> Result<()> {
        // Whoever is first in one round is not so in the next.
        let first = round as usize % active.len().max(1);
        for at in (first..active.len()).chain(0..first) {
            let Active { column, contender } = &mut active[at];
            if !column.has(spec) {
                continue;
            }
            exec::go_on()?;
            let begin =
                format!("round {}/{}  {:14} {:24}", round + 1, options.rounds, spec.name, column.name);
            match measure(column, contender.as_mut(), &task(column, spec, round), dir) {
                Ok(measured) => {
                    tell(format_args!("{begin} {}", shown(&measured)));
                    report.measured.push(measured);
                }
                Err(Failure::Failed(why)) => {
                    exec::go_on()?;
                    tell(format_args!("{begin} FAILED: {why}"));
                    report.failed(format!("{} of {}: {why}", spec.name, column.name));
                }
                Err(usage) => return Err(usage),
            }
        }
        Ok(())
    };
    let is_delete = |spec: &&&'static Spec| spec.work == Work::Delete;
    for round in 0..options.rounds {
        for spec in rows.iter().filter(|spec| !is_delete(spec)) {
            row(spec, round, active)?;
        }
        let large = ROWS.iter().find(|spec| spec.work == Work::Upload && spec.size == LARGE);
        for (Active { column, contender }, spec) in
            active.iter_mut().flat_map(|active| large.map(|large| (active, large)))
        {
            exec::go_on()?;
            contender.tidy(&task(column, spec, round))?;
        }
    }
    for round in 0..options.rounds {
        for spec in rows.iter().filter(is_delete) {
            row(spec, round, active)?;
        }
    }
    Ok(())
}

/// Runs a row on one column. Before it nothing waits to be written, whatever ran last.
fn measure(column: &Column, contender: &mut dyn Contender, task: &Task, dir: &Path) -> Result<Measured> {
    contender.prepare(task)?;
    settle(dir)?;
    let servers = contender.servers();
    servers.iter().for_each(|server| server.reset_peak());
    let before: Vec<_> = servers.iter().map(|server| server.usage()).collect();
    let own_cpu_s = || state_and_cpu(std::process::id()).map_or(0.0, |(_, cpu_s)| cpu_s);
    let own_before = own_cpu_s();
    let outcome = contender.measure(task)?;
    let client_cpu_s = outcome.client_cpu_s.unwrap_or_else(|| own_cpu_s() - own_before);
    let used = servers.iter().zip(before).map(|(server, before)| {
        let after = server.usage();
        Used { server: server.name, cpu_s: after.cpu_s - before.cpu_s, peak_bytes: after.peak }
    });
    let measured = Measured {
        round: task.round,
        row: task.spec.name,
        column: column.name,
        figures: outcome.row,
        client_cpu_s,
        servers: used.collect(),
    };
    if task.spec.work == Work::Upload {
        contender.verify(task)?;
    }
    match measured.figures.errors {
        0 => Ok(measured),
        errors => Err(Failure::Failed(format!("{errors} of {} operations failed", measured.figures.count))),
    }
}

fn settle(dir: &Path) -> Result<()> {
    let synced = File::open(dir).and_then(|open| Ok(rustix::fs::syncfs(open)?));
    synced.map_err(|error| Failure::Failed(format!("sync {}: {error}", dir.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Downloads that were measured without their uploads made as many files as are fetched, 8 GB a round and
    /// column, of which nobody had asked whether there is room.
    #[test]
    fn downloads_alone_need_the_room_of_their_uploads_and_no_more() {
        let column = COLUMNS.iter().find(|column| column.kind == Kind::FastDfs).expect("FastDFS");
        let needed = |only: &str| {
            let args = ["--rounds", "9", "--only", only];
            let Asked::Run(options) = options::parse(lexopt::Parser::from_args(args)).expect("options")
            else {
                panic!("a run");
            };
            let rows: Vec<_> = ROWS.iter().filter(|row| options.only.fits(row.name)).collect();
            needed(&options, &rows, &[column])
        };
        assert_eq!(needed("upload 1m"), SPARE_BYTES + 9 * (320 << 20));
        assert_eq!(needed("download 1m"), needed("upload 1m"));
        assert_eq!(needed("load 1m"), needed("upload 1m"), "both have the same");
        assert_eq!(needed("500m"), SPARE_BYTES + 2 * LARGE);
        assert_eq!(needed("http"), SPARE_BYTES);
        let spec = ROWS.iter().find(|row| row.name == "download 1m").expect("a row");
        let task = Task { spec, size: spec.size, count: spec.count, files: 320, round: 0 };
        assert_eq!(task.uploads().count, 320);
    }
}
