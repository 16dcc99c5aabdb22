//! strace on a server that runs: what it asks of the kernel, in order, as seen from outside; and faults
//! of its disks, injected into single system calls on single files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::process::Process;
use crate::tools::{Output, PATIENCE, installed, patient, skipped};

/// A strace that is attached to a server, with all of its threads; it lets go when this is dropped.
pub struct Strace {
    child: Child,
    output: PathBuf,
}

/// One system call.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its name.
    pub name: String,
    /// Its arguments as strace prints them, descriptors with what they are open on.
    pub args: String,
    /// What it returned.
    pub returned: i64,
    /// The line of the trace at which it was begun.
    pub begin: usize,
    /// The line at which it was over.
    pub end: usize,
}

impl Call {
    /// What its first argument, a descriptor, is open on: a path, or `TCP:[from->to]`.
    pub fn target(&self) -> &str {
        let (number, rest) = self.args.split_once('<').unwrap_or_default();
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return "";
        }
        // Of a socket the arrow is no end.
        let end = rest.find(">,").or_else(|| rest.rfind('>')).unwrap_or(0);
        &rest[..end]
    }
}

/// Whether servers can be traced on this machine; where they cannot, that is reported for this test.
pub fn can_trace(test: &str) -> bool {
    if !installed("strace") {
        skipped(test, "strace is not installed (Debian: apt-get install strace)");
        return false;
    }
    let probe = Output::of(Command::new("strace").args(["-f", "-o", "/dev/null", "true"]));
    if probe.code != 0 {
        skipped(test, probe.stderr.trim());
    }
    probe.code == 0
}

impl Strace {
    /// Attaches to a server. None where that cannot be done here, which it then says.
    pub fn attach(test: &str, server: &Process, args: &[&str], output: &Path) -> Option<Strace> {
        if !can_trace(test) {
            return None;
        }
        let said = output.with_extension("said");
        let child = Command::new("strace")
            .args(["-f", "-yy", "-s", "256", "-o"])
            .arg(output)
            .args(args)
            .args(["-p", &server.pid().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&said).expect("make a file"))
            .spawn()
            .expect("run strace");
        let mut strace = Strace { child, output: output.to_owned() };
        let mut ended = false;
        patient("strace to attach", PATIENCE, || {
            ended = strace.child.try_wait().expect("wait for strace").is_some();
            ended || strace.holds(server.pid())
        });
        if ended {
            skipped(test, fs::read_to_string(said).expect("what strace said").trim());
            return None;
        }
        Some(strace)
    }

    /// Whether every thread of a process is traced by it.
    fn holds(&self, pid: u32) -> bool {
        let tracer = format!("TracerPid:\t{}", self.child.id());
        let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("list threads");
        threads.map(|thread| thread.expect("an entry").path().join("status")).all(|status| {
            // A thread may just have ended.
            fs::read_to_string(status).map_or(true, |status| status.lines().any(|line| line == tracer))
        })
    }

    /// Lets go of the server, and gives what it did since it was attached.
    pub fn detach(mut self) -> Vec<Call> {
        self.end();
        parse(&fs::read_to_string(&self.output).expect("read a trace"))
    }

    fn end(&mut self) {
        // Not a kill: that could leave the server stopped.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.end();
        }
    }
}

/// The calls of a trace in the order of their ends. A call that another thread interrupts takes two lines.
pub fn parse(trace: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut begun: BTreeMap<&str, (usize, String)> = BTreeMap::new();
    for (number, line) in trace.lines().enumerate() {
        let Some((pid, text)) = line.split_once(' ') else { continue };
        let text = text.trim_start();
        if let Some(text) = text.strip_suffix(" <unfinished ...>") {
            begun.insert(pid, (number, text.to_owned()));
            continue;
        }
        let (begin, text) = match text.strip_prefix("<... ") {
            None => (number, text.to_owned()),
            Some(resumed) => {
                let Some((_, rest)) = resumed.split_once(" resumed>") else { continue };
                let Some((begin, first)) = begun.remove(pid) else { continue };
                (begin, first + rest)
            }
        };
        calls.extend(call(&text, begin, number));
    }
    calls
}

fn call(text: &str, begin: usize, end: usize) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let (args, returned) = rest.rsplit_once(" = ")?;
    let args = args.trim_end().strip_suffix(')')?;
    let number = returned.split(|c: char| c != '-' && !c.is_ascii_digit()).next()?;
    Some(Call { name: name.to_owned(), args: args.to_owned(), returned: number.parse().ok()?, begin, end })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_read_with_calls_that_were_interrupted() {
        let calls = parse(
            "7 openat(AT_FDCWD, \"../a b\", O_WRONLY|O_CREAT, 0666) = 9</d/a b>\n\
             7 fsync(9</d/a b> <unfinished ...>\n\
             8 sendto(5<TCP:[127.0.0.1:1->127.0.0.1:2]>, \"x\", 1, 0, NULL, 0) = 1\n\
             7 <... fsync resumed>)             = -1 EIO (Input/output error) (INJECTED)\n\
             8 restart_syscall(<... resuming interrupted read ...>) = ? ERESTART\n\
             7 +++ exited with 0 +++\n",
        );
        let told: Vec<_> =
            calls.iter().map(|call| (call.name.as_str(), call.target(), call.returned, call.begin)).collect();
        assert_eq!(
            told,
            [
                ("openat", "", 9, 0),
                ("sendto", "TCP:[127.0.0.1:1->127.0.0.1:2]", 1, 2),
                ("fsync", "/d/a b", -1, 1)
            ]
        );
        assert_eq!(calls[2].end, 3);
    }
}
