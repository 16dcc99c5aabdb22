//! The command line of the TNV client.
//!
//! Standard output has only what scripts parse, one line a success. Everything else goes to standard error.
//! Exit codes: 0 done, 1 failed, 2 wrong usage.

mod cli;

use std::io::{self, Write};
use std::process::ExitCode;

use cli::Outcome;

/// Exit code of wrong usage.
const WRONG_USAGE: u8 = 2;

fn main() -> ExitCode {
    match cli::run(lexopt::Parser::from_env()) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has closed standard output. That needs no message, but scripts must see that output is
        // missing.
        Err(Outcome::BrokenPipe) => ExitCode::FAILURE,
        Err(Outcome::Failed(error)) => {
            report(&error.to_string());
            ExitCode::FAILURE
        }
        Err(Outcome::Usage(error)) => {
            report(&format!("{error}\n{}\nTry 'tnv --help'.", cli::USAGE));
            ExitCode::from(WRONG_USAGE)
        }
    }
}

/// If standard error fails, there is no other place to report.
fn report(text: &str) {
    let _ = writeln!(io::stderr(), "tnv: {text}");
}
