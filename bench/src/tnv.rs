//! A cluster of TNV as a column: a tracker, an ID server, a storage and an HTTP server, on either database.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tnv_tests::cluster::Part;
use tnv_tests::mariadb::MariaDb;
use tnv_tests::{Builder, Cluster, Db};

use crate::contender::{Contender, Files, Outcome, Task, get};
use crate::sources::Sources;
use crate::table::{Kind, Work};
use crate::usage::Server;
use crate::{Failure, Result, load};

/// What MariaDB has by default, where the tests have less.
const MARIADB_DEFAULTS: [&str; 2] = ["--innodb-buffer-pool-size=128M", "--innodb-log-file-size=96M"];

/// Adds a millisecond to each sync of a program that it starts, and leaves it its process number. Only these
/// calls stop for it; several may wait at once.
const SLOW_SYNCS: [&str; 11] = [
    "strace",
    "-DD",
    "-f",
    "--seccomp-bpf",
    "--quiet=all",
    "-o",
    "/dev/null",
    "-e",
    "trace=fsync,fdatasync",
    "-e",
    "inject=fsync,fdatasync:delay_exit=1000",
];

/// Whose files they are.
const APPID: &str = "tnvideo";
const USERID: &str = "tnvbench";

/// A cluster.
pub(crate) struct Tnv {
    // Before the database, so that it ends first.
    cluster: Cluster,
    maria: Option<MariaDb>,
    starts: Vec<(&'static str, Duration)>,
    sources: Sources,
    /// URLs of the files for GET, by their size.
    urls: Vec<(u64, String)>,
    lists: PathBuf,
}

/// Why a column of this kind cannot be had on this machine.
pub(crate) fn missing(maria: bool, slow: bool) -> Option<String> {
    if maria
        && !["/usr/sbin/mariadbd", "/usr/bin/mariadbd"].iter().any(|path| Path::new(path).exists())
        && !tnv_tests::tools::installed("mariadbd")
    {
        return Some("mariadbd is not installed (Debian: mariadb-server-core)".to_owned());
    }
    if slow {
        let tried = Command::new(SLOW_SYNCS[0]).args(&SLOW_SYNCS[1..]).arg("true").output();
        match tried {
            Err(error) => return Some(format!("strace cannot be started: {error}")),
            Ok(output) if !output.status.success() || !output.stderr.is_empty() => {
                return Some(format!(
                    "strace cannot trace here: {}",
                    String::from_utf8_lossy(&output.stderr).trim()
                ));
            }
            Ok(_) => {}
        }
    }
    None
}

impl Tnv {
    /// Starts one, each server after the other, so that each has the machine for its start.
    pub(crate) fn start(name: &str, kind: Kind, place: &Path, sources: &Sources) -> Result<Tnv> {
        let Kind::Tnv { maria, fsync, slow } = kind else {
            return Err(Failure::Failed(format!("{kind:?} is no cluster")));
        };
        let wrapper: &[&str] = if slow { &SLOW_SYNCS } else { &[] };
        let maria = match maria {
            true => Some(
                MariaDb::start_under(place, &MARIADB_DEFAULTS, wrapper)
                    .ok_or("mariadbd is not installed".to_owned())?,
            ),
            false => None,
        };
        let builder = Builder::new(name)
            .under(place)
            .httpds(1)
            .db(maria.as_ref().map_or(Db::Embedded, Db::Maria))
            .set(Part::Id, "idinc_max_step", 1000)
            // It would read what the rows have just written, and drop it from the cache.
            .set(Part::Storage, "tnv_scrub_rate", 0)
            .set(Part::Storage, "tnv_fsync", if fsync { "yes" } else { "no" });
        let builder = if slow { builder.wrap(Part::Storage, wrapper) } else { builder };
        let mut cluster = builder.prepare();
        let starts = cluster.parts().map(|part| (short(part.binary()), part.start())).collect();
        cluster.wait_active(1);
        let lists = cluster.path("lists");
        std::fs::create_dir(&lists).map_err(|error| format!("{}: {error}", lists.display()))?;
        Ok(Tnv { cluster, maria, starts, sources: sources.clone(), urls: Vec::new(), lists })
    }

    fn files<T>(&self, what: impl FnOnce(Files<'_>) -> Result<T>) -> Result<T> {
        let trackers = self.cluster.tracker_list();
        what(Files { trackers: &trackers, options: &["--userid", USERID], directory: &self.lists })
    }

    fn url(&self, size: u64) -> Option<&str> {
        self.urls.iter().find(|(known, _)| *known == size).map(|(_, url)| url.as_str())
    }
}

/// `tnv-tracker` is `tracker` where only TNV is talked of.
fn short(binary: &'static str) -> &'static str {
    binary.strip_prefix("tnv-").unwrap_or(binary)
}

impl Contender for Tnv {
    fn servers(&self) -> Vec<Server> {
        let cluster = &self.cluster;
        let parts =
            cluster.trackers.iter().chain(&cluster.ids).chain(&cluster.storages).chain(&cluster.httpds);
        let ours = parts.map(|part| Server { name: short(part.binary()), pid: part.pid() });
        ours.chain(self.maria.iter().map(|maria| Server { name: "mariadbd", pid: maria.pid() })).collect()
    }

    fn starts(&self) -> Vec<(&'static str, Duration)> {
        self.starts.clone()
    }

    fn prepare(&mut self, task: &Task) -> Result<()> {
        match task.spec.work {
            Work::Get if self.url(task.size).is_none() => {
                let source = self.sources.of(task.size)?;
                let output = self.cluster.tnv(&["upload", APPID, USERID, &source.display().to_string()]);
                let Some(id) = output.text().strip_prefix("Upload success: ").map(|id| id.trim().to_owned())
                else {
                    return Err(Failure::Failed(format!("upload {}: {}", source.display(), output.stderr)));
                };
                let url = format!("http://{}/files/{APPID}/{USERID}/{id}", self.cluster.httpd());
                self.urls.push((task.size, url));
                Ok(())
            }
            Work::Download | Work::Delete => self.files(|files| files.prepare(task)),
            _ => Ok(()),
        }
    }

    fn measure(&mut self, task: &Task) -> Result<Outcome> {
        let direct = |row| Outcome { row, client_cpu_s: None };
        match task.spec.work {
            Work::Get => {
                let url = self.url(task.size).ok_or("there is nothing to GET".to_owned())?;
                get(task, url, &self.lists)
            }
            Work::Ids => load::ids(self.cluster.id(), task.spec.threads, task.time()).map(direct),
            Work::Addresses => {
                load::addresses(self.cluster.tracker(), task.spec.threads, task.time()).map(direct)
            }
            _ => self.files(|files| files.measure(task)),
        }
    }

    fn verify(&mut self, task: &Task) -> Result<()> {
        self.files(|files| files.verify(task))
    }

    fn tidy(&mut self, task: &Task) -> Result<()> {
        self.files(|files| files.tidy(task))
    }
}
