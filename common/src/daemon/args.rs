//! The arguments that every server takes.

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
}

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Args {
    pub action: Action,
    pub file: Option<PathBuf>,
}

pub(super) fn parse(mut parser: lexopt::Parser) -> Result<Args, lexopt::Error> {
    let mut args = Args { action: Action::Run, file: None };
    while let Some(arg) = parser.next()? {
        match arg {
            Short('c') if args.file.is_none() => args.file = Some(parser.value()?.into()),
            Short('c') => return Err("-c is given twice".into()),
            Long("check") => args.action = Action::Check,
            Long("version") => return Ok(Args { action: Action::Version, ..args }),
            Long("help") => return Ok(Args { action: Action::Help, ..args }),
            other => return Err(other.unexpected()),
        }
    }
    Ok(args)
}

/// The line of `--version`.
pub(super) fn version(part: Part) -> String {
    format!("{part} {}", env!("CARGO_PKG_VERSION"))
}

/// The text of `--help`.
pub(super) fn help(part: Part) -> String {
    let places = DIRECTORIES.map(|directory| format!("{directory}/{}", part.file_name()));
    format!(
        "\
{summary}

Usage: {part} [-c FILE] [--check] [--version] [--help]

  -c FILE     the configuration; without it, the first of these that is there:
              {places}
  --check     read the configuration, open what it refers to, tell every fault, and exit
  --version   tell the version and exit
  --help      tell this and exit

It runs in the foreground and logs to standard error, or to the file that tnv_log_file names;
RUST_LOG sets how much (error, warn, info, debug, trace; info by default).

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
        parse(lexopt::Parser::from_args(args)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_contract_of_the_command_line() {
        let args = |action, file: Option<&str>| Ok(Args { action, file: file.map(PathBuf::from) });
        assert_eq!(parsed(&[]), args(Action::Run, None));
        assert_eq!(parsed(&["-c", "x.cfg"]), args(Action::Run, Some("x.cfg")));
        assert_eq!(parsed(&["--check", "-cx.cfg"]), args(Action::Check, Some("x.cfg")));
        assert_eq!(parsed(&["--version", "nonsense"]), args(Action::Version, None));
        assert_eq!(parsed(&["--help"]), args(Action::Help, None));
        for wrong in [&["x"][..], &["--chekc"], &["-c"], &["-c", "a", "-c", "b"], &["--check=1"]] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn help_says_where_the_configuration_is_searched() {
        let help = help(Part::IdServer);
        assert!(help.contains("./etc/id.cfg, ../etc/id.cfg, /etc/tnv/id.cfg"), "{help}");
        assert!(help.contains("Usage: tnv-idserver [-c FILE]"), "{help}");
    }
}
