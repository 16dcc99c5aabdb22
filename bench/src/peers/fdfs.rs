//! A FastDFS as a column: a tracker and a storage with what they have by default. It syncs no file and keeps no
//! database, so its rows stand beside those without fsync.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tnv_tests::port::free_address;

use crate::contender::{Contender, Files, Outcome, Task};
use crate::exec::{self, Running};
use crate::peers::find;
use crate::usage::Server;
use crate::{Failure, Result};

/// It refuses 127.0.0.1 for a storage.
const HOST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// What the files that it ships with set and its code does not have by default, and space to be left that is no
/// share of the disk.
const TRACKER_SHIPPED: &str = "\
max_connections = 1024
connect_timeout = 5
store_lookup = 2
check_active_interval = 120
reserved_storage_space = 1GB
use_connection_pool = true
min_buff_size = 8KB
max_buff_size = 128KB
";
const STORAGE_SHIPPED: &str = "\
max_connections = 1024
connect_timeout = 5
network_timeout = 60
thread_stack_size = 512KB
subdir_count_per_path = 256
disk_reader_threads = 2
disk_recovery_threads = 4
stat_report_interval = 60
sync_wait_msec = 10
sync_binlog_buff_interval = 1
use_connection_pool = true
compress_binlog = true
buff_size = 256KB
";

/// Ask a tracker for a storage to upload to, and its header: body length, command, status.
const QUERY_STORE: u8 = 101;
const HEADER_BYTES: usize = 10;

/// How long its tracker may be silent.
const SILENCE: Duration = Duration::from_secs(5);

/// Why it cannot be had.
pub(crate) fn missing() -> Option<String> {
    ["fdfs_trackerd", "fdfs_storaged"]
        .into_iter()
        .find(|program| find(program).is_none())
        .map(|program| format!("{program} is not installed (https://github.com/happyfish100/fastdfs)"))
}

/// A running FastDFS.
pub(crate) struct FastDfs {
    // It leaves its tracker before that one ends.
    storage: Running,
    tracker: Running,
    trackers: String,
    directory: PathBuf,
    ready: Duration,
}

impl FastDfs {
    /// Starts one in a directory.
    pub(crate) fn start(directory: &Path) -> Result<FastDfs> {
        let tracker = SocketAddr::from((HOST, free_address().port()));
        let storage = SocketAddr::from((HOST, free_address().port()));
        let base = |name: &str| directory.join(name).display().to_string();
        let common = |base: &str, at: SocketAddr| {
            format!("base_path = {base}\nbind_addr = {HOST}\nport = {}\n", at.port())
        };
        let storage_config = format!(
            "{}group_name = group1\nstore_path0 = {}\ntracker_server = {tracker}\n{STORAGE_SHIPPED}",
            common(&base("storage"), storage),
            base("storage")
        );
        let tracker_config = format!("{}{TRACKER_SHIPPED}", common(&base("tracker"), tracker));
        let mut tracker_process = start("fdfs_trackerd", &directory.join("tracker"), &tracker_config)?;
        let log = directory.join("storage/said");
        exec::wait_ready("fdfs_trackerd", &mut tracker_process, &directory.join("tracker/said"), || {
            TcpStream::connect(tracker).is_ok()
        })?;
        // One that cannot connect at first waits for five seconds.
        let mut storage_process = start("fdfs_storaged", &directory.join("storage"), &storage_config)?;
        let ready = exec::wait_ready("fdfs_storaged", &mut storage_process, &log, || has_storage(tracker))?;
        Ok(FastDfs {
            storage: storage_process,
            tracker: tracker_process,
            trackers: tracker.to_string(),
            directory: directory.to_owned(),
            ready,
        })
    }

    fn files(&self) -> Files<'_> {
        Files { trackers: &self.trackers, options: &["--fdfs"], directory: &self.directory }
    }
}

fn start(name: &'static str, directory: &Path, config: &str) -> Result<Running> {
    let program = find(name).ok_or(format!("{name} is not installed"))?;
    let failed =
        |error: std::io::Error| Failure::Failed(format!("start {name} in {}: {error}", directory.display()));
    fs::create_dir_all(directory).map_err(failed)?;
    let file = directory.join("conf");
    fs::write(&file, config).map_err(failed)?;
    let said = fs::File::create(directory.join("said")).map_err(failed)?;
    let child = Command::new(program)
        .arg("-N")
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(said.try_clone().map_err(failed)?)
        .stderr(said)
        .spawn()
        .map_err(failed)?;
    Ok(Running(child))
}

/// Whether a tracker knows where an upload may go.
fn has_storage(tracker: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(tracker)?;
        stream.set_read_timeout(Some(SILENCE))?;
        let mut header = [0; HEADER_BYTES];
        header[8] = QUERY_STORE;
        stream.write_all(&header)?;
        stream.read_exact(&mut header)?;
        Ok(header[9] == 0)
    };
    ask().unwrap_or(false)
}

impl Contender for FastDfs {
    fn servers(&self) -> Vec<Server> {
        vec![
            Server { name: "fdfs_trackerd", pid: self.tracker.0.id() },
            Server { name: "fdfs_storaged", pid: self.storage.0.id() },
        ]
    }

    fn starts(&self) -> Vec<(&'static str, Duration)> {
        vec![("fdfs_storaged", self.ready)]
    }

    fn prepare(&mut self, task: &Task) -> Result<()> {
        self.files().prepare(task)
    }

    fn measure(&mut self, task: &Task) -> Result<Outcome> {
        self.files().measure(task)
    }

    fn verify(&mut self, task: &Task) -> Result<()> {
        self.files().verify(task)
    }

    fn tidy(&mut self, task: &Task) -> Result<()> {
        self.files().tidy(task)
    }
}
