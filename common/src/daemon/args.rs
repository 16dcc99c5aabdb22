//! The arguments that every server takes, and those of the jobs that a server may do beside serving.

use std::path::PathBuf;

use lexopt::prelude::*;

use crate::config::{DIRECTORIES, Part};

/// What is asked of the process.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    Run,
    Check,
    Version,
    Help,
    /// The job of this name.
    Job(&'static str),
}

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Args {
    pub action: Action,
    pub file: Option<PathBuf>,
    /// The file with the process number, where one is wanted.
    pub pid_file: Option<PathBuf>,
    /// Options of the job.
    pub given: Given,
}

/// A job that a server's binary does instead of serving, also beside the server that runs.
#[derive(Debug)]
pub struct Job {
    /// The option that asks for it, without its dashes.
    pub name: &'static str,
    /// Options that take nothing.
    pub switches: &'static [&'static str],
    /// Options that take a number.
    pub numbers: &'static [&'static str],
    /// Options that take a text.
    pub texts: &'static [&'static str],
    /// What it does and how it is asked for: the lines for `--help`.
    pub help: &'static str,
}

/// The options of a job that were given; of one that is given twice the last counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given(Vec<(&'static str, Value)>);

/// What was given with an option.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Nothing,
    Number(u64),
    Text(String),
}

impl Given {
    /// Whether this option was given.
    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// The number that was given with it.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.find(name).and_then(|value| if let Value::Number(number) = value { Some(*number) } else { None })
    }

    /// The text that was given with it.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.find(name)
            .and_then(|value| if let Value::Text(text) = value { Some(text.as_str()) } else { None })
    }

    fn find(&self, name: &str) -> Option<&Value> {
        self.0.iter().rev().find(|(given, _)| *given == name).map(|(_, value)| value)
    }
}

pub(super) fn parse(
    mut parser: lexopt::Parser,
    jobs: &'static [&'static Job],
) -> Result<Args, lexopt::Error> {
    let mut args = Args { action: Action::Run, file: None, pid_file: None, given: Given::default() };
    let known = |list: fn(&Job) -> &'static [&'static str], typed: &str| {
        jobs.iter().flat_map(|job| list(job)).copied().find(|name| *name == typed)
    };
    while let Some(arg) = parser.next()? {
        match arg {
            Short('c') if args.file.is_none() => args.file = Some(parser.value()?.into()),
            Short('c') => return Err("-c is given twice".into()),
            Long("pid-file") if args.pid_file.is_none() => args.pid_file = Some(parser.value()?.into()),
            Long("pid-file") => return Err("--pid-file is given twice".into()),
            Long("check") => args.action = Action::Check,
            Long("version") => return Ok(Args { action: Action::Version, ..args }),
            Long("help") => return Ok(Args { action: Action::Help, ..args }),
            Long(typed) => {
                if let Some(job) = jobs.iter().find(|job| job.name == typed) {
                    args.action = Action::Job(job.name);
                } else if let Some(name) = known(|job| job.switches, typed) {
                    args.given.0.push((name, Value::Nothing));
                } else if let Some(name) = known(|job| job.numbers, typed) {
                    args.given.0.push((name, Value::Number(parser.value()?.parse()?)));
                } else if let Some(name) = known(|job| job.texts, typed) {
                    args.given.0.push((name, Value::Text(parser.value()?.string()?)));
                } else {
                    return Err(arg.unexpected());
                }
            }
            other => return Err(other.unexpected()),
        }
    }
    if args.pid_file.is_some() && matches!(args.action, Action::Job(_)) {
        return Err("--pid-file belongs to the server, which may run beside this".into());
    }
    for (option, _) in &args.given.0 {
        let owner = jobs.iter().find(|job| [job.switches, job.numbers, job.texts].concat().contains(option));
        if let Some(owner) = owner.filter(|owner| args.action != Action::Job(owner.name)) {
            return Err(format!("--{option} belongs to --{}", owner.name).into());
        }
    }
    Ok(args)
}

/// The line of `--version`.
pub(super) fn version(part: Part) -> String {
    format!("{part} {}", env!("CARGO_PKG_VERSION"))
}

/// The text of `--help`.
pub(super) fn help(part: Part, jobs: &[&Job]) -> String {
    let places = DIRECTORIES.map(|directory| format!("{directory}/{}", part.file_name()));
    let jobs: String = jobs.iter().map(|job| format!("{}\n\n", job.help)).collect();
    format!(
        "\
{summary}

Usage: {part} [-c FILE] [--pid-file FILE] [--check] [--version] [--help]

  -c FILE     the configuration; without it, the first of these that is there:
              {places}
  --pid-file FILE
              hold FILE locked (flock) as long as it runs, so that no second one does with the same FILE, and
              write the process number into it as soon as it can be reached
  --check     read the configuration, open what it refers to, report every error, and exit
  --version   print the version and exit
  --help      print this and exit

{jobs}It runs in the foreground and logs to standard error, or to the file that tnv_log_file names;
RUST_LOG sets how much (error, warn, info, debug, trace; info by default).

Service managers: NOTIFY_SOCKET is sent READY=1 and STOPPING=1, as systemd's Type=notify has it.

Signals: SIGTERM and SIGINT stop it when what is under way is done, within tnv_stop_timeout; the
second one stops it at once. SIGHUP opens the log file anew.

Exit codes: 0 done, 1 failed or at fault, 2 wrong usage.",
        summary = part.summary(),
        places = places.join(", "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Args, String> {
        parse(lexopt::Parser::from_args(args), &[]).map_err(|error| error.to_string())
    }

    static FSCK: Job =
        Job { name: "fsck", switches: &["repair"], numbers: &["min-age"], texts: &[], help: "the job" };
    static INIT: Job = Job { name: "init", switches: &[], numbers: &[], texts: &["path"], help: "another" };
    static JOBS: &[&Job] = &[&FSCK, &INIT];

    #[test]
    fn the_contract_of_the_command_line() {
        let args = |action, file: Option<&str>| {
            Ok(Args { action, file: file.map(PathBuf::from), pid_file: None, given: Given::default() })
        };
        assert_eq!(parsed(&[]), args(Action::Run, None));
        assert_eq!(parsed(&["-c", "x.cfg"]), args(Action::Run, Some("x.cfg")));
        assert_eq!(parsed(&["--check", "-cx.cfg"]), args(Action::Check, Some("x.cfg")));
        assert_eq!(parsed(&["--version", "nonsense"]), args(Action::Version, None));
        assert_eq!(parsed(&["--help"]), args(Action::Help, None));
        let with_pid_file = parsed(&["--pid-file", "/run/x.pid", "-c", "x.cfg"]).unwrap();
        assert_eq!(with_pid_file.pid_file, Some(PathBuf::from("/run/x.pid")));
        for wrong in [
            &["x"][..],
            &["--chekc"],
            &["-c"],
            &["-c", "a", "-c", "b"],
            &["--check=1"],
            &["--pid-file"],
            &["--pid-file", "a", "--pid-file", "b"],
        ] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_job_has_options_that_nobody_else_takes() {
        let parsed = |args: &[&str]| parse(lexopt::Parser::from_args(args), JOBS);
        let args = parsed(&["--fsck", "-c", "x", "--min-age", "7", "--repair"]).unwrap();
        assert_eq!(args.action, Action::Job("fsck"));
        assert!(args.given.has("repair"));
        assert_eq!(args.given.number("min-age"), Some(7));
        assert!(!parsed(&["--fsck"]).unwrap().given.has("repair"));
        assert_eq!(parsed(&["--init", "--path", "../data"]).unwrap().given.text("path"), Some("../data"));
        for wrong in [
            &["--repair"][..],
            &["--min-age=3"],
            &["--fsck", "--min-age"],
            &["--fsck", "--min-age", "1h"],
            &["--fsck", "--pid-file", "p"],
            &["--init", "--repair"],
            &["--fsck", "--path", "x"],
        ] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
        assert!(parse(lexopt::Parser::from_args(["--fsck"]), &[]).is_err());
        assert!(help(Part::Storage, JOBS).contains("\n\nthe job\n\nanother\n\n"));
    }

    #[test]
    fn help_says_where_the_configuration_is_searched() {
        let help = help(Part::IdServer, &[]);
        assert!(help.contains("./etc/id.cfg, ../etc/id.cfg, /etc/tnv/id.cfg"), "{help}");
        assert!(help.contains("Usage: tnv-idserver [-c FILE] [--pid-file FILE]"), "{help}");
    }
}
