//! What a column of the table is at work: servers that were started for it, and how a row is run on them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tnv_tests::bins::bin;

use crate::row::Row;
use crate::table::{Spec, Work};
use crate::usage::Server;
use crate::{Failure, Result, exec};

/// How long a run of the client may take, and how long a row in it.
const CLIENT_BOUND: Duration = Duration::from_secs(400);
const ROW_SECONDS: &str = "120";

/// Rows of a time are as long as a count at this rate would take, and never shorter than that.
const COUNTED_PER_S: f64 = 50_000.0;
const TIME_MIN: Duration = Duration::from_millis(300);

/// One row of one round, of the size and the count that this run has them in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Task {
    pub spec: &'static Spec,
    pub size: u64,
    pub count: u64,
    /// How many files of this size a round's uploads make, which downloads go round.
    pub files: u64,
    pub round: u32,
}

impl Task {
    /// How long a row takes that has no count.
    pub(crate) fn time(&self) -> Duration {
        Duration::from_secs_f64(self.count as f64 / COUNTED_PER_S).max(TIME_MIN)
    }

    /// The uploads that make the files of a row where no row has made them.
    pub(crate) fn uploads(&self) -> Task {
        Task { count: self.files, ..*self }
    }

    /// The list of the files that were made for this size in this round.
    pub(crate) fn list(&self) -> String {
        format!("files-{}-{}", self.size, self.round)
    }
}

/// What came of it.
pub(crate) struct Outcome {
    pub row: Row,
    /// Seconds that the client had of the processors, where it is another program.
    pub client_cpu_s: Option<f64>,
}

/// A column's servers.
pub(crate) trait Contender {
    /// The servers, for the account of what they use.
    fn servers(&self) -> Vec<Server>;

    /// From its start until each server was ready.
    fn starts(&self) -> Vec<(&'static str, Duration)>;

    /// Brings about, while nothing is measured, what a row needs.
    fn prepare(&mut self, task: &Task) -> Result<()>;

    /// Runs a row.
    fn measure(&mut self, task: &Task) -> Result<Outcome>;

    /// Looks, while nothing is measured, whether what was made is what it should be.
    fn verify(&mut self, _task: &Task) -> Result<()> {
        Ok(())
    }

    /// Takes away, while nothing is measured, what would otherwise fill the disk.
    fn tidy(&mut self, _task: &Task) -> Result<()> {
        Ok(())
    }
}

/// `tnv TRACKERS bench`, on files: for TNV and for FastDFS.
pub(crate) struct Files<'a> {
    pub trackers: &'a str,
    /// What makes it speak another protocol.
    pub options: &'a [&'a str],
    /// Where the lists of files are.
    pub directory: &'a Path,
}

impl Files<'_> {
    /// Makes the files that a row needs and that no row has made.
    pub(crate) fn prepare(&self, task: &Task) -> Result<()> {
        let needed = matches!(task.spec.work, Work::Download | Work::Delete);
        match needed && !self.directory.join(task.list()).exists() {
            true => self.run(&task.uploads(), "upload", &["--keep"]).map(drop),
            false => Ok(()),
        }
    }

    pub(crate) fn measure(&self, task: &Task) -> Result<Outcome> {
        match task.spec.work {
            Work::Upload => self.run(task, "upload", &["--keep"]),
            Work::Download => self.run(task, "download", &["--keep"]),
            Work::Delete => self.run(task, "delete", &["--keep"]),
            other => Err(Failure::Failed(format!("there is no {other:?} of files"))),
        }
    }

    /// Fetches each file once and compares it.
    pub(crate) fn verify(&self, task: &Task) -> Result<()> {
        let list = self.directory.join(task.list());
        if !matches!(task.spec.work, Work::Upload | Work::Download) || !list.exists() {
            return Ok(());
        }
        let once = Task { count: 1, ..*task };
        self.client(&once, "download", &["--keep"]).map(drop)
    }

    /// Removes the large files.
    pub(crate) fn tidy(&self, task: &Task) -> Result<()> {
        match self.directory.join(task.list()).exists() {
            true => self.run(task, "delete", &[]).map(drop),
            false => Ok(()),
        }
    }

    fn run(&self, task: &Task, op: &str, more: &[&str]) -> Result<Outcome> {
        self.client(task, op, &[more, &["--no-verify"]].concat())
    }

    fn client(&self, task: &Task, op: &str, more: &[&str]) -> Result<Outcome> {
        let mut command = Command::new(bin("tnv"));
        command.args([self.trackers, "bench", "--op", op, "--size", &task.size.to_string(), "--files"]);
        command.arg(self.directory.join(task.list())).args(self.options).args(more);
        run_client(&mut command, task, self.directory)
    }
}

/// `tnv bench --get URL`: for our HTTP server and for others'.
pub(crate) fn get(task: &Task, url: &str, directory: &Path) -> Result<Outcome> {
    let mut command = Command::new(bin("tnv"));
    command.args(["bench", "--get", url]);
    run_client(&mut command, task, directory)
}

fn run_client(command: &mut Command, task: &Task, directory: &Path) -> Result<Outcome> {
    let (threads, count) = (task.spec.threads.to_string(), task.count.to_string());
    command.args(["--threads", &threads, "--count", &count, "--seconds", ROW_SECONDS, "--json"]);
    let ran = exec::run(command, directory, CLIENT_BOUND)?;
    let rows = serde_json::from_str::<Value>(&ran.stdout).ok().and_then(|told| Row::all_of(&told));
    match rows.as_deref() {
        Some([row]) => Ok(Outcome { row: row.clone(), client_cpu_s: Some(ran.cpu_s) }),
        _ => Err(Failure::Failed(format!("'tnv bench --json' said {:?}, want one row", ran.stdout))),
    }
}
