//! A small deployment whose databases hold so many files and users.

use std::path::Path;
use std::time::Duration;

use tnv_tests::cluster::{Part, connect_options};
use tnv_tests::mariadb::MariaDb;
use tnv_tests::process::Process;
use tnv_tests::{Builder, Cluster, Db};

use super::fill::{self, GROUP};
use crate::Result;
use crate::proc;

/// Bytes of MariaDB's own memory for each file with its user: all of it fits, as an operator sees to.
const POOL_BYTES_EACH: u64 = 600;

/// And the least of it, which is its default.
const POOL_BYTES_MIN: u64 = 128 << 20;

/// Its log, large enough that filling does not wait for it.
const REDO_BYTES: u64 = 1 << 30;

/// How long a server may take to stop.
const STOP_BOUND: Duration = Duration::from_secs(60);

/// The deployment: a tracker, an ID server, a storage and an HTTP server.
pub(super) struct Subject {
    /// How many files and users were filled in.
    pub(super) rows: u64,
    /// The row of the last user that was filled in.
    last_user: i64,
    /// Ended before its database is.
    pub(super) cluster: Cluster,
    maria: Option<MariaDb>,
}

/// How a server starts.
pub(super) struct Start {
    /// Which one.
    pub(super) server: &'static str,
    /// From the command to its being ready.
    pub(super) took: Vec<Duration>,
    /// The memory it then has.
    pub(super) rss_kib: u64,
}

impl Subject {
    /// Makes one in a directory of its own in this one, and fills it; none where MariaDB is wanted and not installed.
    /// Caches are off: what is measured is the tables.
    pub(super) fn new(directory: &Path, embedded: bool, rows: u64, fsync: bool) -> Result<Option<Subject>> {
        let maria = match embedded {
            true => None,
            false => {
                let pool = POOL_BYTES_MIN.max(rows * POOL_BYTES_EACH);
                let options = [
                    format!("--innodb-buffer-pool-size={pool}"),
                    format!("--innodb-log-file-size={REDO_BYTES}"),
                ];
                let options: Vec<&str> = options.iter().map(String::as_str).collect();
                let Some(maria) = MariaDb::start_under(directory, &options, &[]) else { return Ok(None) };
                Some(maria)
            }
        };
        let builder = Builder::new(&format!("scale-{rows}"))
            .under(directory)
            .groups(&[GROUP], 1)
            .httpds(1)
            .db(maria.as_ref().map_or(Db::Embedded, Db::Maria))
            .set(Part::Tracker, "redis_key_timeout", 0)
            .set(Part::Storage, "redis_key_timeout", 0)
            .set(Part::Storage, "tnv_fsync", if fsync { "yes" } else { "no" });
        let mut subject = Subject { rows, last_user: 0, cluster: builder.start(), maria };
        subject.processes().for_each(stop);
        fill::make_files(subject.cluster.storages[0].cwd())?;
        match &subject.maria {
            None => fill::sqlite(&subject.cluster.path("db"), 0..rows)?,
            Some(maria) => fill::mariadb(connect_options(maria), subject.cluster.dir(), 0..rows)?,
        }
        let last = subject.cluster.sql("tnv_trackerdb", "SELECT MAX(id) FROM t_router");
        subject.last_user = last[0][0].parse().unwrap_or(i64::MAX);
        // The tracker is the first: it makes its indexes.
        subject.processes().for_each(|process| {
            process.start();
        });
        subject.cluster.wait_active(1);
        Ok(Some(subject))
    }

    fn processes(&mut self) -> impl Iterator<Item = &mut Process> {
        let Cluster { trackers, ids, storages, httpds, .. } = &mut self.cluster;
        trackers.iter_mut().chain(ids).chain(storages).chain(httpds)
    }

    /// Stops and starts each server a few times.
    pub(super) fn starts(&mut self, times: usize) -> Vec<Start> {
        let starts = self.processes().map(|process| {
            let took = (0..times)
                .map(|_| {
                    stop(process);
                    process.start()
                })
                .collect();
            let rss_kib = proc::memory_kib(process.pid(), "VmRSS:");
            Start { server: process.binary(), took, rss_kib }
        });
        let starts = starts.collect();
        self.cluster.wait_active(1);
        starts
    }

    /// Processor time of all servers and the database's.
    pub(super) fn cpu_time(&mut self) -> Duration {
        self.pids().into_iter().map(proc::cpu_time).sum()
    }

    /// What they all have had written to the disk.
    pub(super) fn written_bytes(&mut self) -> u64 {
        self.pids().into_iter().map(proc::written_bytes).sum()
    }

    /// The most memory that each server ever had.
    pub(super) fn peaks(&mut self) -> Vec<(&'static str, u64)> {
        self.processes().map(|process| (process.binary(), process.peak_kib())).collect()
    }

    fn pids(&mut self) -> Vec<u32> {
        let maria = self.maria.as_ref().map(MariaDb::pid);
        self.processes().map(|process| process.pid()).chain(maria).collect()
    }

    /// Takes users out again that were made since, so that the next round meets as many as this one.
    pub(super) fn forget_new_users(&self) {
        self.cluster.sql("tnv_trackerdb", &format!("DELETE FROM t_router WHERE id > {}", self.last_user));
    }

    /// Bytes of the tables of files and of users on the disk.
    pub(super) fn database_bytes(&self) -> (u64, u64) {
        let of = |database: &str| match self.maria {
            None => {
                // What is still in the log would be missing.
                self.cluster.sql(database, "PRAGMA wal_checkpoint(TRUNCATE)");
                let file = self.cluster.path("db").join(format!("{database}.db"));
                file.metadata().map_or(0, |metadata| metadata.len())
            }
            Some(_) => {
                let sql = format!(
                    "SELECT CAST(SUM(FILE_SIZE) AS CHAR) FROM information_schema.INNODB_SYS_TABLESPACES \
                     WHERE NAME LIKE '{database}/%'"
                );
                self.cluster.sql(database, &sql)[0][0].parse().unwrap_or(0)
            }
        };
        (of("tnv_storagedb"), of("tnv_trackerdb"))
    }
}

fn stop(process: &mut Process) {
    process.stop(STOP_BOUND);
}
