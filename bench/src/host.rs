//! The machine that is measured on, and the versions of what is measured.

use std::fs;
use std::path::Path;
use std::process::Command;

use tnv_tests::bins::bin;

use crate::peers::find;

/// What it is, in words.
#[derive(Clone, Debug)]
pub(crate) struct Host(pub Vec<(&'static str, String)>);

impl Host {
    /// Looks at this machine, and at the file system of a directory.
    pub(crate) fn look(dir: &Path) -> Host {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let after = |text: &str, field: &str| {
            let line = text.lines().find(|line| line.starts_with(field));
            line.and_then(|line| line.split_once(':'))
                .map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
        };
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let processor = after(&read("/proc/cpuinfo"), "model name");
        let memory_kib = after(&read("/proc/meminfo"), "MemTotal");
        let memory_mib = memory_kib.trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1024;
        let mut facts = vec![
            ("processors", format!("{cores} × {processor}")),
            ("memory", format!("{memory_mib} MiB")),
            ("kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()),
            (
                "file system",
                said(Command::new("df").args(["--output=fstype,source"]).arg(dir))
                    .lines()
                    .last()
                    .unwrap_or("unknown")
                    .split_whitespace()
                    .collect::<Vec<_>>()
                    .join(" on "),
            ),
            ("load before", read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ")),
            ("TNV", said(Command::new(bin("tnv")).arg("--version"))),
        ];
        for (name, program, option) in [
            ("MariaDB", "mariadbd", "--version"),
            ("nginx", "nginx", "-v"),
            ("FastDFS", "fdfs_storaged", "--version"),
        ] {
            if let Some(program) = find(program) {
                facts.push((name, version(&said(Command::new(program).arg(option)))));
            }
        }
        Host(facts)
    }
}

/// Everything that a program says.
fn said(command: &mut Command) -> String {
    let Ok(output) = command.output() else { return "unknown".to_owned() };
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).trim().to_owned()
}

/// The first word with a digit and a point in it, without what is before the digit.
fn version(said: &str) -> String {
    let is_version =
        |word: &&str| word.contains('.') && word.contains(|letter: char| letter.is_ascii_digit());
    let word = said.split_whitespace().find(is_version).unwrap_or("unknown");
    word[word.find(|letter: char| letter.is_ascii_digit()).unwrap_or(0)..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        assert_eq!(version("nginx version: nginx/1.22.1"), "1.22.1");
        assert_eq!(
            version("/usr/sbin/mariadbd  Ver 10.11.6-MariaDB-0+deb12u1 for debian-linux-gnu"),
            "10.11.6-MariaDB-0+deb12u1"
        );
        assert_eq!(version("FastDFS v6.16.0"), "6.16.0");
        assert_eq!(version(""), "unknown");
    }
}
