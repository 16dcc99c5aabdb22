//! What a server costs, by the kernel's own account: processor time and resident memory, from `/proc`.

use std::fs;

use tnv_tests::process::status_kib;

/// Most processes that one server is taken to consist of.
const PROCESSES_MAX: usize = 1024;

/// One server, with the processes that it has started.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub name: &'static str,
    pub pid: u32,
}

/// What a server has used up to now.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Seconds on a processor, in itself and in the kernel.
    pub cpu_s: f64,
    /// Bytes resident now.
    pub resident: u64,
    /// The most bytes that were resident since [`Server::reset_peak`].
    pub peak: u64,
}

impl Server {
    /// What it has used; nothing once it has ended.
    pub(crate) fn usage(&self) -> Usage {
        let kib = |pid, field| status_kib(pid, field).unwrap_or(0) * 1024;
        self.processes().into_iter().fold(Usage::default(), |sum, pid| Usage {
            cpu_s: sum.cpu_s + cpu_s(pid).unwrap_or(0.0),
            resident: sum.resident + kib(pid, "VmRSS:"),
            // An upper bound where there are several: each may have had its peak at another time.
            peak: sum.peak + kib(pid, "VmHWM:"),
        })
    }

    /// Lets the peak begin anew at what is resident now.
    pub(crate) fn reset_peak(&self) {
        for pid in self.processes() {
            // What cannot be reset stays too high, which is no harm.
            let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
    }

    fn processes(&self) -> Vec<u32> {
        let mut found = vec![self.pid];
        let mut at = 0;
        while at < found.len() && found.len() < PROCESSES_MAX {
            found.extend(children(found[at]));
            at += 1;
        }
        found
    }
}

/// The processes that any thread of a process has started and that still are.
fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// The state of a process and what it has used, from one look: `Z` is one that has ended and was not yet
/// waited for.
pub(crate) fn state_and_cpu(pid: u32) -> Option<(char, f64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may have blanks.
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<_> = rest.split_whitespace().collect();
    // proc(5): the state is the 3rd field, utime and stime are the 14th and 15th.
    let ticks = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let used = ticks(14)? + ticks(15)?;
    Some((fields[0].chars().next()?, used as f64 / rustix::param::clock_ticks_per_second() as f64))
}

fn cpu_s(pid: u32) -> Option<f64> {
    state_and_cpu(pid).map(|(_, cpu_s)| cpu_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_tells_what_it_and_its_children_use() {
        let shell = std::process::Command::new("sh").args(["-c", "sleep 60; :"]).spawn();
        let mut shell = shell.expect("run sh");
        let me = Server { name: "me", pid: std::process::id() };
        let mut waited = 0;
        while !me.processes().contains(&shell.id()) && waited < 1000 {
            std::thread::sleep(std::time::Duration::from_millis(10));
            waited += 1;
        }
        assert!(me.processes().contains(&shell.id()));
        let usage = me.usage();
        assert!(usage.resident > 100_000 && usage.peak >= usage.resident, "{usage:?}");
        assert!(state_and_cpu(std::process::id()).is_some());
        // The sleep goes with its shell.
        for pid in (Server { name: "sh", pid: shell.id() }).processes() {
            let pid = rustix::process::Pid::from_raw(pid as i32).expect("a process number");
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        shell.wait().expect("wait for sh");
        assert_eq!(Server { name: "none", pid: u32::MAX }.usage().resident, 0);
    }
}
