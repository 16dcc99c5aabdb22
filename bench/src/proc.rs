//! What the kernel tells of a process.

use std::fs;
use std::time::Duration;

/// The time it was on a processor, in itself and in the kernel; zero once it has ended.
pub(crate) fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may have blanks; utime and stime are the 12th and 13th after it.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 =
        rest.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

/// A figure of its memory, as `VmRSS:` or `VmHWM:`.
pub(crate) fn memory_kib(pid: u32, field: &str) -> u64 {
    tnv_tests::process::status_kib(pid, field).unwrap_or(0)
}

/// Bytes that it has had written to disks.
pub(crate) fn written_bytes(pid: u32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0)
}
