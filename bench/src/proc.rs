//! What the kernel tells of a process.

use std::fs;
use std::time::Duration;

use crate::usage::state_and_cpu;

/// The time it was on a processor, in itself and in the kernel; zero once it has ended.
pub(crate) fn cpu_time(pid: u32) -> Duration {
    state_and_cpu(pid).map_or(Duration::ZERO, |(_, cpu_s)| Duration::from_secs_f64(cpu_s))
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
