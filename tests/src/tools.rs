//! Small things that every test needs: content that shows where it is wrong, bounded waiting, and
//! running a program to its end.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How long a test waits for what must happen: far longer than it takes, since the machine may stand
/// still for many seconds where others build and write. Nothing is shown by this bound: where a wrong
/// server would merely be slower, the test is such that it never gets there.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// How long a program may run, the client with a file of over 4 GiB included.
const PROGRAM_BOUND: Duration = Duration::from_secs(900);

/// What a program said and how it ended.
#[derive(Debug)]
pub struct Output {
    /// Its exit code, -1 where a signal ended it.
    pub code: i32,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error, as text.
    pub stderr: String,
}

impl Output {
    /// Runs a program to its end; where that takes over a quarter of an hour, to a violent one.
    pub fn of(command: &mut Command) -> Output {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("run {command:?}: {error}"));
        let _watched = watch(&child);
        let output = child.wait_with_output().expect("wait for a program");
        Output {
            code: output.status.code().unwrap_or(-1),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard output, where the program succeeded.
    #[track_caller]
    pub fn success(&self) -> String {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.text(), self.stderr);
        self.text()
    }
}

/// Kills a program that runs for too long, until what this gives is dropped.
fn watch(child: &Child) -> Sender<()> {
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).expect("a handle of a process");
    let (ended, watched) = mpsc::channel();
    std::thread::spawn(move || {
        if watched.recv_timeout(PROGRAM_BOUND) == Err(RecvTimeoutError::Timeout) {
            let _ = pidfd_send_signal(&process, Signal::KILL);
        }
    });
    ended
}

/// Content of a size in which no two places look alike, from a seed.
pub fn sample(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut content = Vec::with_capacity(bytes + 8);
    while content.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend_from_slice(&state.to_le_bytes());
    }
    content.truncate(bytes);
    content
}

/// Waits until something holds, asking every 20 ms; tells how long it took. Fails the test after
/// the bound.
#[track_caller]
pub fn patient(what: &str, bound: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    loop {
        if holds() {
            return start.elapsed();
        }
        assert!(start.elapsed() < bound, "{what}: not within {bound:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Looks at something that is true for a while only, such as what a heartbeat brings about, until a
/// look took less than that: what a machine saw that stood still in between says nothing.
#[track_caller]
pub fn promptly<T>(while_: Duration, mut look: impl FnMut() -> T) -> T {
    let first = Instant::now();
    loop {
        let start = Instant::now();
        let seen = look();
        if start.elapsed() < while_ {
            return seen;
        }
        assert!(first.elapsed() < PATIENCE, "this machine is too slow to see what lasts for {while_:?}");
    }
}

/// Lets one of a program's heavy tests run at a time, until what this gives is dropped: two crowds of
/// a thousand connections would show less than each of them alone.
pub fn heavy() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number that the environment may set, for runs that are longer, or others, than the usual one.
pub fn knob(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is '{text}', want a whole number")),
        Err(_) => default,
    }
}

/// Reports that a test cannot run on this machine, and why. A test that checks nothing must not look like one
/// that passed: with `CI=true` this fails the test. Elsewhere it writes a line that starts with SKIPPED to
/// standard error, past the capture of test output, and to the file that `TNV_SKIPPED` names, from which
/// `scripts/test` prints the number and the names at the end.
#[track_caller]
pub fn skipped(test: &str, why: &str) {
    let line = format!("SKIPPED {test}: {why}\n");
    assert!(!in_ci(), "{line}In CI every test runs: add what is missing to scripts/test, or to the machine");
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(list) = std::env::var_os("TNV_SKIPPED") {
        let opened = OpenOptions::new().create(true).append(true).open(list);
        opened
            .and_then(|mut list| list.write_all(line.as_bytes()))
            .expect("add a line to the file of TNV_SKIPPED");
    }
}

/// The test that runs in this thread, as its program and its name: what [`skipped`] is called with where the
/// caller has no name. The harness of Rust names each thread after its test.
pub fn this_test() -> String {
    let program = std::env::current_exe().ok();
    let program =
        program.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    // Cargo appends a hash to the name.
    let program = program.as_deref().and_then(|name| name.rsplit_once('-')).map_or("", |(name, _)| name);
    format!("{program}: {}", std::thread::current().name().unwrap_or("a thread of a test"))
}

/// Whether this is a run of CI, which skips nothing.
fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}

/// Whether a program is installed, also where only root's PATH has it.
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).any(|dir| dir.join(program).is_file())
}

/// Bytes free on the file system of a directory, as `df` tells.
pub fn free_bytes(dir: &Path) -> u64 {
    let df = Output::of(Command::new("df").args(["--output=avail", "-B1"]).arg(dir));
    df.text().lines().nth(1).and_then(|line| line.trim().parse().ok()).unwrap_or(0)
}

/// Raises this process's limit of descriptors as far as it may be; tells how many that are.
pub fn more_descriptors() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum });
    usize::try_from(getrlimit(Resource::Nofile).current.unwrap_or(1024)).unwrap_or(1024).saturating_sub(100)
}
