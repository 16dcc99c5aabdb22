//! A log that cannot be written, because its reader pauses: standard error is a pipe that nobody reads.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process};
use tnv_tests::bins::bin;
use tnv_tests::raw::{self, Raw};
use tnv_tests::{Builder, Cluster, PATIENCE, patient};

/// How long a server whose log hangs may take to end: what it waits for the log, and some seconds of a busy machine.
const END_BOUND: Duration = Duration::from_secs(30);

/// A pipe that has no room left.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let flags = fcntl_getfl(&writer).expect("flags");
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).expect("set flags");
    while writer.write(&[b'\n'; 4096]).is_ok() {}
    while writer.write(b"\n").is_ok() {}
    // The server's end is a plain one.
    fcntl_setfl(&writer, flags).expect("set flags");
    (reader, writer)
}

/// A server that runs until this is dropped.
struct Running(Child);

impl Running {
    fn start(cluster: &Cluster, stderr: impl Into<Stdio>) -> Running {
        let tracker = &cluster.trackers[0];
        let child = Command::new(bin(tracker.binary()))
            .arg("-c")
            .arg(tracker.config())
            .current_dir(tracker.cwd())
            .env("RUST_LOG", "debug")
            .stdin(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("start a server");
        let running = Running(child);
        patient("the server serves", PATIENCE, || Raw::try_connect(cluster.tracker()).is_ok());
        running
    }

    /// Asks it to stop; its exit code, where it ends in time.
    fn stop(&mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.0), Signal::TERM).expect("send a signal");
        let start = Instant::now();
        while start.elapsed() < END_BOUND {
            if let Some(status) = self.0.try_wait().expect("wait for a server") {
                return status.code();
            }
            thread::sleep(Duration::from_millis(10));
        }
        None
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Each of these is a line of DEBUG, which is not bounded in another way.
fn say_much(cluster: &Cluster) {
    let question = raw::message(122, &raw::triple("tnvideo", "unknown", ""));
    let mut raw = Raw::connect(cluster.tracker());
    for _ in 0..20_000 {
        raw.ask(&question).failure(100);
    }
}

/// Each thread stopped at its next line, the event loop's at the first that it refused: a terminal with Ctrl-S, a log
/// shipper that hung, and the server was gone.
#[test]
fn a_server_whose_log_nobody_reads_goes_on_serving_and_says_later_what_it_left_out() {
    let cluster = Builder::new("log-unread").no_wait().prepare();
    let (mut reader, writer) = full_pipe();
    let mut server = Running::start(&cluster, writer);
    say_much(&cluster);
    raw::ask(cluster.tracker(), &raw::message(13, &[])).success(100);
    // Its reader comes back.
    let reading = thread::spawn(move || {
        let mut log = String::new();
        reader.read_to_string(&mut log).expect("read the log");
        log
    });
    say_much(&cluster);
    assert_eq!(server.stop(), Some(0));
    let log = reading.join().expect("the log");
    let lines: Vec<_> = log.lines().filter(|line| !line.is_empty()).collect();
    let left_out: u64 = (lines.iter())
        .filter_map(|line| line.split_once(" lines were left out")?.0.rsplit_once(' ')?.1.parse::<u64>().ok())
        .sum();
    assert!(left_out > 1000, "{left_out} lines were left out");
    let refusals =
        lines.iter().filter(|line| line.contains(" DEBUG ") && line.contains("command 122")).count();
    assert_eq!(refusals as u64 + left_out, 40_000, "each is there or counted");
    assert!(lines[0].contains(" starts with "), "in order: {}", lines[0]);
    assert!(lines[lines.len() - 1].ends_with(" stopped"), "to the end: {}", lines[lines.len() - 1]);
}

#[test]
fn a_server_whose_log_nobody_reads_can_be_stopped() {
    let cluster = Builder::new("log-stop").no_wait().prepare();
    let (reader, writer) = full_pipe();
    let mut server = Running::start(&cluster, writer);
    say_much(&cluster);
    kill_process(Pid::from_child(&server.0), Signal::HUP).expect("send a signal");
    assert_eq!(server.stop(), Some(0));
    drop(reader);
}

/// With a log file, why a server does not start is on standard error too, behind the log.
#[test]
fn a_server_that_cannot_start_says_why_in_its_log_file_and_on_standard_error() {
    let cluster = Builder::new("log-start").no_wait().prepare();
    let tracker = &cluster.trackers[0];
    let _taken = std::net::TcpListener::bind(tracker.address()).expect("take its port");
    let log_file = cluster.path("log/own.log");
    let config = std::fs::read_to_string(tracker.config()).expect("read");
    let line = format!("    tnv_log_file = {}\n}}", log_file.display());
    std::fs::write(tracker.config(), config.replace('}', &line)).expect("write");
    let output = tnv_tests::Output::of(
        Command::new(bin(tracker.binary())).arg("-c").arg(tracker.config()).current_dir(tracker.cwd()),
    );
    assert_eq!(output.code, 1);
    let address = tracker.address().to_string();
    assert!(output.stderr.contains(&address), "{}", output.stderr);
    let log = std::fs::read_to_string(log_file).expect("a log");
    assert!(log.lines().any(|line| line.contains(" ERROR ") && line.contains(&address)), "{log}");
}
