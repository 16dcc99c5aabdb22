//! The command line of the TNV client.
//!
//! Standard output has exactly what scripts parse, a line for each success; everything else goes to
//! standard error. Exit codes: 0 done, 1 failed, 2 wrong usage.

mod cli;

use std::io::{self, Write};
use std::process::ExitCode;

use cli::Outcome;

/// Exit code of wrong usage.
const WRONG_USAGE: u8 = 2;

fn main() -> ExitCode {
    match cli::run(lexopt::Parser::from_env()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has enough. Scripts see that not everything was written.
        Err(Outcome::Unread) => ExitCode::FAILURE,
        Err(Outcome::Failed(error)) => {
            complain(&error.to_string());
            ExitCode::FAILURE
        }
        Err(Outcome::Usage(error)) => {
            complain(&format!("{error}\n{}\nTry 'tnv --help'.", cli::USAGE));
            ExitCode::from(WRONG_USAGE)
        }
    }
}

/// There is nowhere to tell that this failed.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "tnv: {text}");
}
