//! `scripts/bench`: how fast TNV is, on the real binaries of a release.
//!
//! `table` runs the standard table: clusters on each database, the peers that are installed, and what this
//! machine does with nothing of either in between. `load` makes one kind of load alone, `scale` shows how costs
//! grow. None of it is installed.

mod contender;
mod exec;
mod host;
mod limits;
mod load;
mod machine;
mod options;
mod peers;
mod proc;
mod remove;
mod report;
mod row;
mod run;
mod scale;
mod sources;
mod table;
mod targets;
mod tnv;
mod usage;

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

const HELP: &str = "\
Usage: scripts/bench [table] [OPTION]...    the standard table; see scripts/bench table --help
       scripts/bench load    [OPTION]...    one kind of load; see scripts/bench load --help
       scripts/bench scale   [OPTION]...    what grows with rows, storages and connections; see scripts/bench scale --help";

/// Exit code of wrong usage.
const WRONG_USAGE: u8 = 2;

/// Why there is no result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What was typed cannot be meant.
    Usage(String),
    /// It could not be done.
    Failed(String),
}

/// What may fail here.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl From<lexopt::Error> for Failure {
    fn from(error: lexopt::Error) -> Failure {
        Failure::Usage(error.to_string())
    }
}

impl From<String> for Failure {
    fn from(what: String) -> Failure {
        Failure::Failed(what)
    }
}

/// Says on standard error how it goes. That nobody can be told stops nothing, the cleaning up least of all.
pub(crate) fn tell(what: impl Display) {
    let _ = writeln!(io::stderr(), "{what}");
}

fn main() -> ExitCode {
    match dispatch(std::env::args_os().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Failed(what)) => {
            tell(format_args!("tnv-bench: {what}"));
            ExitCode::FAILURE
        }
        Err(Failure::Usage(what)) => {
            tell(format_args!("tnv-bench: {what}\n{HELP}"));
            ExitCode::from(WRONG_USAGE)
        }
    }
}

/// The sub-command, `table` where none is named, has all other arguments for itself.
fn dispatch(mut args: Vec<OsString>) -> Result<()> {
    let named = args.first().and_then(|first| first.to_str()).filter(|first| !first.starts_with('-'));
    let command = named.unwrap_or("table").to_owned();
    if named.is_some() {
        args.remove(0);
    }
    let parser = lexopt::Parser::from_args(args);
    match command.as_str() {
        "table" => run::run(parser),
        "load" => load::run(parser),
        "scale" => scale::run(parser),
        "help" => {
            println!("{HELP}");
            Ok(())
        }
        other => Err(Failure::Usage(format!("unknown sub-command '{other}'"))),
    }
}
