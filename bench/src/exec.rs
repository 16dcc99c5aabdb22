//! Programs that are run to their end, and servers of others: each with a bound, and none outlives us.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::usage::state_and_cpu;
use crate::{Failure, Result};

/// How often it is looked whether a program has ended, which is no part of what is measured, and whether a
/// server is ready, which is.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const READY_EVERY: Duration = Duration::from_millis(1);

/// How long a program that was asked to end may take for it.
const END_BOUND: Duration = Duration::from_secs(10);

/// Set by the signals that end us.
fn stopped() -> &'static Arc<AtomicBool> {
    static STOPPED: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    STOPPED.get_or_init(Arc::default)
}

/// From here on a signal lets what is under way end in good order, and a second one ends it at once.
pub(crate) fn stop_on_signals() -> Result<()> {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, stopped().clone())
            .and_then(|_| signal_hook::flag::register(signal, stopped().clone()))
            .map_err(|error| Failure::Failed(format!("watch for signals: {error}")))?;
    }
    Ok(())
}

/// Fails once we were told to stop.
pub(crate) fn go_on() -> Result<()> {
    match stopped().load(Ordering::Relaxed) {
        true => Err(Failure::Failed("interrupted".to_owned())),
        false => Ok(()),
    }
}

/// What a program said and used.
pub(crate) struct Ran {
    pub stdout: String,
    pub cpu_s: f64,
}

/// Runs a program to its end. What it says goes through files in a directory, so that nobody's reading is part
/// of what it takes.
pub(crate) fn run(command: &mut Command, directory: &Path, bound: Duration) -> Result<Ran> {
    let name = program(command);
    let failed = |what: &str| Failure::Failed(format!("{name} {what}"));
    let (out, err) = (directory.join("stdout"), directory.join("stderr"));
    let file = |path: &Path| {
        File::create(path).map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))
    };
    command.stdin(Stdio::null()).stdout(file(&out)?).stderr(file(&err)?);
    let child = command.spawn().map_err(|error| failed(&format!("cannot be started: {error}")))?;
    let mut child = Running(child);
    let start = Instant::now();
    let cpu_s = loop {
        match state_and_cpu(child.0.id()) {
            Some(('Z', cpu_s)) => break cpu_s,
            Some(_) => {}
            None => return Err(failed("cannot be watched")),
        }
        go_on()?;
        if start.elapsed() > bound {
            return Err(failed(&format!("does not end within {bound:?}; it said: {}", tail(&err))));
        }
        thread::sleep(LOOK_EVERY);
    };
    let status = child.0.wait().map_err(|error| failed(&error.to_string()))?;
    if !status.success() {
        return Err(failed(&format!("ended with {status} and said: {} {}", tail(&out), tail(&err))));
    }
    let stdout =
        fs::read_to_string(&out).map_err(|error| failed(&format!("said what cannot be read: {error}")))?;
    Ok(Ran { stdout, cpu_s })
}

/// The end of what a program has said.
pub(crate) fn tail(path: &Path) -> String {
    let said = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&said[said.len().saturating_sub(2000)..]).trim().to_owned()
}

fn program(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// A process that is ended when this is dropped.
pub(crate) struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let start = Instant::now();
        if let Ok(None) = self.0.try_wait() {
            let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        }
        while let Ok(None) = self.0.try_wait() {
            if start.elapsed() > END_BOUND {
                let _ = self.0.kill();
                let _ = self.0.wait();
                return;
            }
            thread::sleep(LOOK_EVERY);
        }
    }
}

/// Waits for what a server does once it is ready; tells how long that took.
pub(crate) fn wait_ready(
    what: &str,
    server: &mut Running,
    log: &Path,
    mut ready: impl FnMut() -> bool,
) -> Result<Duration> {
    const READY_BOUND: Duration = Duration::from_secs(120);
    let start = Instant::now();
    loop {
        if ready() {
            return Ok(start.elapsed());
        }
        go_on()?;
        if let Ok(Some(status)) = server.0.try_wait() {
            return Err(Failure::Failed(format!("{what} ended with {status}: {}", tail(log))));
        }
        if start.elapsed() > READY_BOUND {
            return Err(Failure::Failed(format!("{what} is not ready after {READY_BOUND:?}: {}", tail(log))));
        }
        thread::sleep(READY_EVERY);
    }
}
