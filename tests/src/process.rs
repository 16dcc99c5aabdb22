//! One server as a process: started with its own file, watched through its log, killed in the end.

use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::bins::bin;
use crate::tools::{PATIENCE, patient};

/// A server.
pub struct Process {
    binary: &'static str,
    address: SocketAddr,
    config: PathBuf,
    cwd: PathBuf,
    env: Vec<(String, String)>,
    log: PathBuf,
    /// What starts it, where it is not started as it is.
    wrapper: Vec<String>,
    child: Option<Child>,
    /// Where in the log the present run begins.
    log_start: u64,
}

impl Process {
    /// A server that is not yet started. `log` is appended to by each run.
    pub fn new(
        binary: &'static str,
        address: SocketAddr,
        config: &Path,
        cwd: &Path,
        env: &[(String, String)],
        log: &Path,
    ) -> Process {
        Process {
            binary,
            address,
            config: config.to_owned(),
            cwd: cwd.to_owned(),
            env: env.to_vec(),
            log: log.to_owned(),
            wrapper: Vec::new(),
            child: None,
            log_start: 0,
        }
    }

    /// Started by a command, whose last arguments become this server's own. It must leave the server its
    /// process number.
    pub fn wrapped(mut self, command: &[String]) -> Process {
        self.wrapper = command.to_vec();
        self
    }

    /// The same for its next starts.
    pub fn wrap(&mut self, command: &[&str]) {
        self.wrapper = command.iter().map(|&word| word.to_owned()).collect();
    }

    /// Starts it; returns at once.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.binary);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("open a log");
        self.log_start = log.metadata().expect("the log's size").len();
        let child = wrapped(&self.wrapper, &bin(self.binary))
            .arg("-c")
            .arg(&self.config)
            .current_dir(&self.cwd)
            .env("RUST_LOG", "info")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::from(log.try_clone().expect("share the log")))
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap_or_else(|error| panic!("start {}: {error}", self.binary));
        self.child = Some(child);
    }

    /// Waits for the line that says it is ready; tells how long that took.
    pub fn wait_ready(&mut self) -> Duration {
        let line = format!("{} ready on ", self.binary);
        let start = Instant::now();
        loop {
            if self.log_of_run().contains(&line) {
                return start.elapsed();
            }
            if let Some(status) = self.exited() {
                panic!("{} ended with {status} before it was ready:\n{}", self.binary, self.log_of_run());
            }
            if start.elapsed() > PATIENCE {
                panic!("{} is not ready after {PATIENCE:?}:\n{}", self.binary, self.log_of_run());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts it and waits until it is ready.
    pub fn start(&mut self) -> Duration {
        self.spawn();
        self.wait_ready()
    }

    /// The exit status, where it has ended by itself.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().expect("wait for a server")
    }

    /// Whether it runs.
    pub fn runs(&mut self) -> bool {
        self.child.is_some() && self.exited().is_none()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("a server that runs");
        let pid = Pid::from_child(child);
        kill_process(pid, signal).expect("send a signal");
    }

    /// Kills it as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks it to stop and waits, bounded; tells how it ended.
    pub fn stop(&mut self, bound: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_exit(bound)
    }

    /// Waits, bounded, until it has ended; tells how. A second signal would end it at once.
    pub fn wait_exit(&mut self, bound: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.exited() {
                self.child = None;
                return status;
            }
            if start.elapsed() > bound {
                let log = self.log_of_run();
                self.kill();
                panic!("{} does not stop within {bound:?}:\n{log}", self.binary);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills it and starts it again on the same port.
    pub fn restart(&mut self) {
        self.kill();
        self.start();
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `ip:port`.
    pub fn host_port(&self) -> String {
        self.address.to_string()
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a server that runs").id()
    }

    /// What its binary is called.
    pub fn binary(&self) -> &'static str {
        self.binary
    }

    /// Its configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The directory it runs in.
    pub fn cwd(&self) -> &Path {
        &self.cwd
    }

    /// What it has logged in all its runs.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
    }

    /// What it has logged since it was last started.
    pub fn log_of_run(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let start = usize::try_from(self.log_start).expect("a small log").min(log.len());
        String::from_utf8_lossy(&log[start..]).into_owned()
    }

    /// Waits until the log of this run has a text.
    #[track_caller]
    pub fn wait_log(&self, text: &str, bound: Duration) {
        patient(&format!("'{text}' in the log of {}", self.binary), bound, || {
            self.log_of_run().contains(text)
        });
    }

    /// The most memory it ever had resident, in KiB.
    pub fn peak_kib(&self) -> u64 {
        status_kib(self.pid(), "VmHWM:").expect("the memory of a server that runs")
    }

    /// The time that it was on a processor, in itself and in the kernel.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("a server that runs");
        // The name, in parentheses, may have blanks; utime and stime are the 12th and 13th after it.
        let (_, rest) = stat.rsplit_once(')').expect("a name");
        let ticks: u64 =
            rest.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().expect("ticks")).sum();
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }

    /// The state of each of its threads of this name, as in `/proc/PID/status`.
    pub fn thread_states(&self, name: &str) -> Vec<String> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("list threads");
        let statuses = threads.filter_map(|thread| {
            // A thread may just have ended.
            std::fs::read_to_string(thread.expect("an entry").path().join("status")).ok()
        });
        let field = |status: &str, name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            value.split_whitespace().next().map(str::to_owned)
        };
        statuses
            .filter(|status| field(status, "Name").is_some_and(|named| named == name))
            .filter_map(|status| field(&status, "State"))
            .collect()
    }

    /// How many descriptors it has open.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("list descriptors").count()
    }

    /// Truncates nothing, but tells the file behind the log, for tests that rename it.
    pub fn log_file(&self) -> File {
        File::open(&self.log).expect("open a log")
    }
}

/// A command for a program, or for what starts it.
pub(crate) fn wrapped(wrapper: &[String], program: &Path) -> Command {
    let Some((first, args)) = wrapper.split_first() else { return Command::new(program) };
    let mut command = Command::new(first);
    command.args(args).arg(program);
    command
}

/// A figure of `/proc/PID/status`, in KiB; none once the process has ended.
pub fn status_kib(pid: u32, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(field))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
