//! Loads that the client makes none of: numbers, addresses, the heartbeats of a whole cloud, and connections
//! that idle. They speak the protocol in its bytes and know nothing of the servers, which may be anywhere; where
//! none is named they are started for the occasion.

mod addresses;
mod beats;
pub(crate) mod caller;
pub(crate) mod crowd;
pub(crate) mod figures;
pub(crate) mod idle;
mod ids;

use std::net::SocketAddr;
use std::time::Duration;

use lexopt::prelude::*;
use tnv_common::error::Error;
use tnv_common::net::resolve;
use tnv_common::proto::tnv::file_key::FileKey;
use tnv_common::proto::tnv::storage::Download;
use tnv_common::proto::tnv::{REPLY_STORAGE, command};
use tnv_common::proto::{AppId, FileId, UserId};
use tnv_tests::cluster::Part;
use tnv_tests::mariadb::MariaDb;
use tnv_tests::{Builder, Cluster, Db, sample};

use self::beats::Cloud;
use self::caller::{Caller, request, unexpected};
use self::crowd::Until;
use self::figures::Figures;
use self::idle::Rounds;
use crate::row::Row;
use crate::{Failure, Result, proc, tell};

const HELP: &str = "\
Usage: scripts/bench load KIND [OPTION]...
  ids        storages that take numbers from an ID server, each on one connection
  addresses  clients that ask a tracker where the files of users are whom it knows
  beats      a tracker with thousands of storages that beat, and clients meanwhile
  idle       a tracker and a storage with thousands of idle connections, and a few busy ones beside them

  --db embedded|mariadb   the database of the servers that are started (embedded)
  --server HOST:PORT      a server that runs, instead (ids, addresses)
  --connections N         busy connections (8)
  --count N               how many operations, instead of for so long (ids, addresses)
  --seconds N             how long is measured (10; beats 30; idle 3 each time)
  --step N                numbers in a segment (1000; ids)
  --appid NAME            whose users are asked for (tnvideo; addresses)
  --storages N, --groups N, --interval SECONDS    the cloud (10000, 500, 10; beats)
  --asks N, --list-every SECONDS                  questions for addresses a second, and for the list (1000, 2; beats)
  --idle N, --rounds N    idle connections, and how often it is compared (10000, 5; idle)
  --json                  the rows as JSON";

/// The application that servers serve by default.
const APPID: &str = "tnvideo";

/// Files that are read while others idle.
const FILES: usize = 64;
const FILE_BYTES: usize = 4096;

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Failed(error.to_string())
    }
}

/// Command 40: so many storages, each with one connection to the ID server, for so long.
pub(crate) fn ids(idserver: SocketAddr, connections: usize, time: Duration) -> Result<Row> {
    let figures = ids::run(idserver, connections, Until::Time(time))?;
    Ok(whole(figures)?.row("get ID", 0, connections))
}

/// Command 12: so many connections ask for the addresses of users whose routes are in the tracker's memory, for
/// so long.
pub(crate) fn addresses(tracker: SocketAddr, connections: usize, time: Duration) -> Result<Row> {
    let figures = addresses::run(tracker, &AppId::new(APPID)?, connections, Until::Time(time))?;
    Ok(whole(figures)?.row("addresses", 0, connections))
}

/// A run in which something failed measured something else.
fn whole(figures: Figures) -> Result<Figures> {
    match &figures.first_error {
        Some(first) => {
            Err(Failure::Failed(format!("{} operations failed, the first: {first}", figures.errors)))
        }
        None => Ok(figures),
    }
}

/// What is asked for.
struct Options {
    kind: String,
    server: Option<SocketAddr>,
    mariadb: bool,
    connections: usize,
    count: Option<u64>,
    seconds: Option<u64>,
    step: u32,
    cloud: Cloud,
    idle: usize,
    rounds: usize,
    json: bool,
}

/// `scripts/bench load`.
pub(crate) fn run(parser: lexopt::Parser) -> Result<()> {
    let Some(options) = parse(parser)? else {
        println!("{HELP}");
        return Ok(());
    };
    match options.kind.as_str() {
        "ids" => load_ids(&options),
        "addresses" => load_addresses(&options),
        "beats" => load_beats(&options),
        "idle" => load_idle(&options),
        other => Err(Failure::Usage(format!("unknown load '{other}'"))),
    }
}

fn parse(mut parser: lexopt::Parser) -> Result<Option<Options>> {
    let cloud = Cloud {
        storages: 10_000,
        groups: 500,
        interval: Duration::from_secs(10),
        time: Duration::from_secs(30),
        appid: AppId::new(APPID)?,
        asks_per_s: 1000,
        list_interval: Duration::from_secs(2),
    };
    let mut options = Options {
        kind: String::new(),
        server: None,
        mariadb: false,
        connections: 8,
        count: None,
        seconds: None,
        step: 1000,
        cloud,
        idle: 10_000,
        rounds: 5,
        json: false,
    };
    while let Some(arg) = parser.next()? {
        match arg {
            Value(kind) if options.kind.is_empty() => options.kind = kind.string()?,
            Long("help") | Short('h') => return Ok(None),
            Long("json") => options.json = true,
            Long("db") => options.mariadb = is_mariadb(&parser.value()?.string()?)?,
            Long("server") => {
                let found = resolve(&parser.value()?.string()?, 0)?;
                options.server = found.first().copied();
            }
            Long("connections") => options.connections = parser.value()?.parse()?,
            Long("count") => options.count = Some(parser.value()?.parse()?),
            Long("seconds") => options.seconds = Some(parser.value()?.parse()?),
            Long("step") => options.step = parser.value()?.parse()?,
            Long("appid") => options.cloud.appid = AppId::new(parser.value()?.string()?)?,
            Long("storages") => options.cloud.storages = parser.value()?.parse()?,
            Long("groups") => options.cloud.groups = parser.value()?.parse()?,
            Long("interval") => options.cloud.interval = Duration::from_secs(parser.value()?.parse()?),
            Long("asks") => options.cloud.asks_per_s = parser.value()?.parse()?,
            Long("list-every") => options.cloud.list_interval = Duration::from_secs(parser.value()?.parse()?),
            Long("idle") => options.idle = parser.value()?.parse()?,
            Long("rounds") => options.rounds = parser.value()?.parse()?,
            other => return Err(other.unexpected().into()),
        }
    }
    match options.kind.is_empty() {
        true => Err(Failure::Usage("which load? ids, addresses, beats or idle".to_owned())),
        false => Ok(Some(options)),
    }
}

pub(crate) fn is_mariadb(name: &str) -> Result<bool> {
    match name {
        "embedded" => Ok(false),
        "mariadb" => Ok(true),
        other => Err(Failure::Usage(format!("unknown database '{other}', want embedded or mariadb"))),
    }
}

impl Options {
    fn until(&self, default_seconds: u64) -> Until {
        self.count.map_or_else(|| Until::Time(self.seconds(default_seconds)), Until::Count)
    }

    fn seconds(&self, default: u64) -> Duration {
        Duration::from_secs(self.seconds.unwrap_or(default))
    }

    fn print(&self, figures: &Figures, op: &str, size_bytes: u64) {
        let row = figures.row(op, size_bytes, self.connections);
        let text = match self.json {
            true => json(&row),
            false => format!("{op}: {}", figures.line()),
        };
        println!("{text}");
    }
}

/// A row as `tnv TRACKERS bench --json` has it.
fn json(row: &Row) -> String {
    let Row { op, size_bytes, threads, count, ops_per_s, mb_per_s, errors, .. } = row;
    let Row { p50_ms, p95_ms, p99_ms, p999_ms, max_ms, .. } = row;
    serde_json::json!({
        "op": op, "size_bytes": size_bytes, "threads": threads, "count": count,
        "ops_per_s": ops_per_s, "mb_per_s": mb_per_s, "p50_ms": p50_ms, "p95_ms": p95_ms, "p99_ms": p99_ms,
        "p999_ms": p999_ms, "max_ms": max_ms, "errors": errors,
    })
    .to_string()
}

/// Servers started for the occasion.
struct Servers {
    /// Ended before its database is.
    cluster: Cluster,
    _maria: Option<MariaDb>,
}

impl Servers {
    fn start(mariadb: bool, prepare: impl FnOnce(Builder<'_>) -> Builder<'_>) -> Result<Servers> {
        let maria = match mariadb {
            true => {
                Some(MariaDb::start().ok_or_else(|| Failure::Failed("MariaDB is not installed".to_owned()))?)
            }
            false => None,
        };
        let builder = Builder::new("load").db(maria.as_ref().map_or(Db::Embedded, Db::Maria));
        let cluster = prepare(builder).start();
        Ok(Servers { cluster, _maria: maria })
    }
}

fn load_ids(options: &Options) -> Result<()> {
    let run = |server| ids::run(server, options.connections, options.until(10));
    let figures = match options.server {
        Some(server) => run(server)?,
        None => {
            let step = options.step;
            let servers =
                Servers::start(options.mariadb, |builder| builder.set(Part::Id, "idinc_max_step", step))?;
            run(servers.cluster.id())?
        }
    };
    options.print(&whole(figures)?, "get ID", 0);
    Ok(())
}

fn load_addresses(options: &Options) -> Result<()> {
    let run = |server| addresses::run(server, &options.cloud.appid, options.connections, options.until(10));
    let figures = match options.server {
        Some(server) => run(server)?,
        None => run(Servers::start(options.mariadb, |builder| builder)?.cluster.tracker())?,
    };
    options.print(&whole(figures)?, "addresses", 0);
    Ok(())
}

fn load_beats(options: &Options) -> Result<()> {
    let cloud = Cloud { time: options.seconds(30), ..options.cloud.clone() };
    tnv_tests::tools::more_descriptors();
    let groups: Vec<String> = (0..cloud.groups).map(beats::group).collect();
    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    let servers = Servers::start(options.mariadb, |builder| builder.ids(0).groups(&groups, 0))?;
    let tracker = &servers.cluster.trackers[0];
    let mut cpu = [Duration::ZERO; 2];
    let seen = beats::run(tracker.address(), &cloud, |ended| {
        cpu[usize::from(ended)] = proc::cpu_time(tracker.pid());
    })?;
    options.print(&seen.beats, "beat", 0);
    options.print(&seen.addresses, "addresses", 0);
    options.print(&seen.lists, "group list", seen.list_bytes as u64);
    let share = (cpu[1] - cpu[0]).as_secs_f64() / seen.beats.seconds;
    tell(format_args!(
        "tracker: {:.1} % of a processor, {:.1} MiB resident, {:.1} MiB at the most; beats sent at most {:.1} ms late",
        share * 100.0,
        proc::memory_kib(tracker.pid(), "VmRSS:") as f64 / 1024.0,
        proc::memory_kib(tracker.pid(), "VmHWM:") as f64 / 1024.0,
        seen.late_max.as_secs_f64() * 1e3,
    ));
    Ok(())
}

fn load_idle(options: &Options) -> Result<()> {
    tnv_tests::tools::more_descriptors();
    let servers = Servers::start(options.mariadb, |builder| builder)?;
    let rounds = Rounds { idle: options.idle, rounds: options.rounds, time: options.seconds(3) };
    let tracker = &servers.cluster.trackers[0];
    compare("addresses", tracker.address(), tracker.pid(), rounds, |until| {
        addresses::run(tracker.address(), &options.cloud.appid, options.connections, until)
    })?;
    let storage = &servers.cluster.storages[0];
    let files = put_files(&servers.cluster)?;
    compare("download 4k", storage.address(), storage.pid(), rounds, |until| {
        downloads(storage.address(), &files, options.connections, until)
    })
}

fn compare(
    op: &str,
    server: SocketAddr,
    pid: u32,
    rounds: Rounds,
    busy: impl FnMut(Until) -> tnv_common::error::Result<Figures>,
) -> Result<()> {
    let (alone_kib, mut idling_kib) = (proc::memory_kib(pid, "VmRSS:"), 0);
    let compared = idle::run(server, rounds, busy, || idling_kib = proc::memory_kib(pid, "VmRSS:"))?;
    println!(
        "{op}: {:.0}/s alone, {:.0}/s beside {} idle connections ({:.3}), {} errors; {:.1} MiB before, {:.1} with them",
        compared.median_alone(),
        compared.median_beside(),
        rounds.idle,
        compared.ratio(),
        compared.errors,
        alone_kib as f64 / 1024.0,
        idling_kib as f64 / 1024.0,
    );
    Ok(())
}

/// Stores files to be read, and gives the requests that read them.
fn put_files(cluster: &Cluster) -> Result<Vec<Vec<u8>>> {
    let file = |number: usize| -> Result<Vec<u8>> {
        let fileid = format!("idle{number:06}");
        cluster.put("bench", &fileid, &sample(FILE_BYTES, number as u64));
        let file = FileKey {
            appid: AppId::new(APPID)?,
            userid: UserId::new("bench")?,
            fileid: FileId::new(fileid)?,
        };
        Ok(request(command::DOWNLOAD, &Download { file, offset: 0, size: 0 }.encode()))
    };
    (0..FILES).map(file).collect()
}

/// Reads these files again and again.
fn downloads(
    storage: SocketAddr,
    files: &[Vec<u8>],
    connections: usize,
    until: Until,
) -> tnv_common::error::Result<Figures> {
    let mut callers: Vec<Caller> =
        (0..connections).map(|_| Caller::connect(storage)).collect::<tnv_common::error::Result<_>>()?;
    Ok(crowd::run(&mut callers, until, |caller, turn| {
        let content = caller.call(&files[turn as usize % files.len()], REPLY_STORAGE)?;
        match content.len() {
            FILE_BYTES => Ok(()),
            bytes => Err(unexpected(format_args!("{bytes} bytes, want {FILE_BYTES}"))),
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEW: Duration = Duration::from_millis(200);

    #[test]
    fn numbers_and_addresses_are_taken_over_several_connections() {
        let servers = Servers::start(false, |builder| builder).unwrap();
        let figures = ids::run(servers.cluster.id(), 3, Until::Count(1000)).unwrap();
        assert_eq!((figures.ops, figures.errors), (1000, 0));
        let appid = AppId::new(APPID).unwrap();
        let figures = addresses::run(servers.cluster.tracker(), &appid, 3, Until::Count(1000)).unwrap();
        assert_eq!((figures.ops, figures.errors), (1000, 0));
        let row = addresses(servers.cluster.tracker(), 2, FEW).unwrap();
        assert_eq!((row.op.as_str(), row.threads, row.errors), ("addresses", 2, 0));
        let unknown = AppId::new("unknown").unwrap();
        assert!(addresses::run(servers.cluster.tracker(), &unknown, 1, Until::Count(1)).is_err());
        assert!(ids(servers.cluster.id(), 0, FEW).is_err());
    }

    #[test]
    fn a_small_cloud_beats_and_is_in_the_list() {
        let groups: Vec<String> = (0..5).map(beats::group).collect();
        let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
        let servers = Servers::start(false, |builder| builder.ids(0).groups(&groups, 0)).unwrap();
        let cloud = Cloud {
            storages: 40,
            groups: 5,
            interval: Duration::from_secs(1),
            time: Duration::from_secs(2),
            appid: AppId::new(APPID).unwrap(),
            asks_per_s: 100,
            list_interval: Duration::from_millis(500),
        };
        let mut marks = Vec::new();
        let seen = beats::run(servers.cluster.tracker(), &cloud, |ended| marks.push(ended)).unwrap();
        assert_eq!(marks, [false, true]);
        for figures in [&seen.beats, &seen.addresses, &seen.lists] {
            assert_eq!(figures.errors, 0, "{figures:?}");
            assert!(figures.ops > 0);
        }
        assert!(seen.list_bytes > 40 * 200);
        let none = Cloud { storages: 0, ..cloud };
        assert!(beats::run(servers.cluster.tracker(), &none, |_| ()).is_err());
    }

    #[test]
    fn busy_connections_are_compared_without_and_with_idle_ones() {
        let servers =
            Servers::start(false, |builder| builder.set(Part::Storage, "tnv_max_conns", 100)).unwrap();
        let files = put_files(&servers.cluster).unwrap();
        let storage = servers.cluster.storage();
        let busy = |until| downloads(storage, &files, 2, until);
        let rounds = Rounds { idle: 50, rounds: 2, time: FEW };
        let mut idling = 0;
        let compared = idle::run(storage, rounds, busy, || idling += 1).unwrap();
        assert_eq!((compared.alone.len(), compared.beside.len(), compared.errors, idling), (2, 2, 0, 2));
        assert!(compared.ratio() > 0.0);
        // Over the limit the server refuses, and what is measured would be something else.
        let rounds = Rounds { idle: 120, rounds: 1, time: FEW };
        assert!(idle::run(storage, rounds, busy, || ()).is_err());
    }
}
