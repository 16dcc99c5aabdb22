//! `tnv-storage --fsck` as an operator runs it, and its report.

use std::path::Path;
use std::process::Command;

use crate::bins::bin;
use crate::cluster::Cluster;
use crate::tools::Output;

/// What it said and how it ended.
#[derive(Debug)]
pub struct Report {
    /// 0 where all agrees.
    pub code: i32,
    /// The fields of each line but the counts: kind, path, appid, userid, fileid, remark.
    pub lines: Vec<Vec<String>>,
    /// Its standard error.
    pub stderr: String,
    counts: Vec<(String, u64)>,
}

impl Report {
    fn of(output: &Output) -> Report {
        let (mut lines, mut counts) = (Vec::new(), Vec::new());
        for line in output.text().lines() {
            match line.split('\t').collect::<Vec<_>>()[..] {
                ["count", name, count] => counts.push((name.to_owned(), count.parse().expect("a count"))),
                ref fields => lines.push(fields.iter().map(|&field| field.to_owned()).collect()),
            }
        }
        Report { code: output.code, lines, stderr: output.stderr.clone(), counts }
    }

    /// One of the counts at the end.
    #[track_caller]
    pub fn count(&self, name: &str) -> u64 {
        match self.counts.iter().find(|(known, _)| known == name) {
            Some((_, count)) => *count,
            None => panic!("no count of {name} in {self:#?}"),
        }
    }

    /// The paths in the lines of a kind, in order.
    pub fn paths(&self, kind: &str) -> Vec<&str> {
        let mut paths: Vec<_> = self.of_kind(kind).map(|line| line[1].as_str()).collect();
        paths.sort_unstable();
        paths
    }

    /// The file IDs in the lines of a kind, in order.
    pub fn fileids(&self, kind: &str) -> Vec<&str> {
        let mut ids: Vec<_> = self.of_kind(kind).map(|line| line[4].as_str()).collect();
        ids.sort_unstable();
        ids
    }

    fn of_kind<'a>(&'a self, kind: &str) -> impl Iterator<Item = &'a Vec<String>> {
        self.lines.iter().filter(move |line| line[0] == kind)
    }

    /// Asserts that all agrees.
    #[track_caller]
    pub fn assert_agrees(&self) {
        assert!(self.code == 0 && self.lines.is_empty(), "{self:#?}");
    }
}

/// Runs it for one of the cluster's storages, whether that runs or not. With `--min-age 0` it also
/// judges files that were made just now.
pub fn fsck(cluster: &Cluster, storage: usize, options: &[&str]) -> Report {
    Report::of(&Output::of(&mut command(cluster, storage, options)))
}

/// Runs it with a configuration file, in the directory that the server runs in.
pub fn fsck_of(config: &Path, cwd: &Path, options: &[&str]) -> Report {
    Report::of(&Output::of(&mut command_of(config, cwd, options)))
}

/// The command, to be run.
pub fn command(cluster: &Cluster, storage: usize, options: &[&str]) -> Command {
    let storage = &cluster.storages[storage];
    command_of(storage.config(), storage.cwd(), options)
}

fn command_of(config: &Path, cwd: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(bin("tnv-storage"));
    command.arg("-c").arg(config).arg("--fsck").args(options).current_dir(cwd);
    command
}
