//! `tnv TRACKERS bench`: measures how fast a deployment is, with many threads. Here: its help, and the driver
//! that a plan needs. `run` does the rows; `row` measures one; `report` prints the figures.
//!
//! The figures contain the work of the client library, since each application has it, and next to nothing of
//! the benchmark itself: content exists before (`payload`), the clock is read once an operation (`row`), and
//! contents are compared byte by byte while no time is measured.

mod driver;
mod fdfs;
mod http;
mod list;
mod payload;
mod plan;
mod progress;
mod report;
mod row;
mod run;
mod socket;
mod tnv;
mod url;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tnv_client::{AppKeys, Client, Options};

use super::output::{Outcome, usage_or_failure};
use super::signals::halt_on_signals;
use driver::File;
use fdfs::FdfsDriver;
use http::{GetDriver, HttpDriver};
use plan::Protocol;
pub(super) use plan::{Action, Plan, parse};
use run::measure;
use tnv::TnvDriver;

/// The text of `tnv TRACKERS bench --help`.
pub(super) const HELP: &str = "\
Usage: tnv TRACKERS bench [OPTIONS]
       tnv bench --get URL [--threads N] [--count N] [--seconds N] [--warm-up N] [--json]

Measures a deployment. Threads make requests without a pause; each operation of --op has one row in the table.
Uploaded files are removed at the end and after an interrupt.

  --threads N    number of threads, each with one operation at a time (8; 1 to 1024)
  --count N      operations of each row (5000; 1 to 1000000)
  --size SIZE    file size in bytes, or 4k, 1m, 2g (powers of 1024), or a mix with weights, 4k:7,1m:3 (64k)
  --op LIST      rows: upload, download, mixed (three downloads to an upload) and delete
                 (upload,download,delete). Files that a row needs are uploaded before it if they are missing;
                 downloads repeat them in order
  --seconds N    time limit of each row, which then has fewer operations (300; 1 to 86400)
  --warm-up N    files of at most 1 MiB that are uploaded, fetched and removed first (two per thread)
  --no-verify    do not compare contents after the rows
  --keep         do not remove the uploaded files
  --files FILE   use the files that an earlier run kept and listed in FILE, if FILE exists; with --keep the
                 remaining files are listed in FILE, without it they are removed, too
  --http URL     download with GET from the HTTP server at http://host[:port][/prefix]
  --fdfs         TRACKERS are trackers of FastDFS; use its protocol (default port 22122)
  --get URL      only measure GETs of one URL of any HTTP server. Responses need a Content-Length, and all the
                 same one
  --appid A, --userid U   owner of the files (tnvideo, tnvbench; the user's route remains)
  --key-file F   application keys, as for uploads
  --json         print a JSON object instead of the table, and no progress

Figures: ops/s are the successful operations, divided by the time from the start of the first thread to the
end of the last one. MB/s are the bytes of their content, 1 MB = 1,000,000 bytes. Latencies are exact, of the
successful operations. They include the client's own work for an upload or download (one request to a tracker
every 5 s, the checksum, one copy of the content), since every application has it. They do not include making
and comparing contents: files are cut from random bytes that are made first; only the length and the ends of
each piece are compared while time is measured; after the rows, and before a delete, each file is fetched
again and compared byte by byte.

The first error of each kind is reported. A row ends after 1000 errors. Exit codes: 0 done, 1 for any error or
any file that could not be removed, 2 wrong usage.";

/// Idle connections of the client for each thread, which talks to a few servers.
const SERVERS_PER_THREAD: usize = 8;

/// Runs a plan.
pub(super) fn run(plan: &Plan, app_keys: AppKeys) -> std::result::Result<(), Outcome> {
    let halt = halt_on_signals()?;
    raise_descriptor_limit();
    let owner = (plan.appid.clone(), plan.userid.clone());
    let tnv = || -> std::result::Result<TnvDriver, Outcome> {
        let options = Options {
            app_keys: app_keys.clone(),
            idle_per_server_max: plan.threads,
            idle_max: plan.threads * SERVERS_PER_THREAD,
            ..Options::default()
        };
        let client = Client::new(&plan.trackers, options).map_err(usage_or_failure)?;
        Ok(TnvDriver { client, owner: owner.clone() })
    };
    match &plan.protocol {
        Protocol::Tnv => measure(plan, halt, "tnv", &tnv()?, Vec::new()),
        Protocol::Http(url) => {
            let tnv = tnv()?;
            measure(plan, halt, "http", &HttpDriver::new(url, &tnv, owner.clone())?, Vec::new())
        }
        Protocol::Fdfs => measure(plan, halt, "fdfs", &FdfsDriver::new(&plan.trackers)?, Vec::new()),
        Protocol::Get(url) => {
            let driver = GetDriver::new(url)?;
            let file = File { id: "the response".into(), number: 0, size: driver.size()? };
            measure(plan, halt, "get", &driver, vec![file])
        }
    }
}

/// Raises the limit of open files, which a thousand threads exceed. If that fails, connecting reports it.
fn raise_descriptor_limit() {
    let now = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum });
}
