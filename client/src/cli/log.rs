//! The log of the command line: lines on standard error, warnings and errors unless `RUST_LOG` names
//! another level. A command that runs for seconds needs no times and no targets.

use std::io::{self, Write};

use log::{LevelFilter, Log, Metadata, Record};
use tnv_common::text::one_line;

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let level = record.level().as_str().to_ascii_lowercase();
            // What a server said must not move the cursor or forge a line.
            let text = one_line(&record.args().to_string());
            let _ = writeln!(io::stderr(), "tnv: {level}: {text}");
        }
    }

    fn flush(&self) {}
}

/// Starts the log.
pub(super) fn start() {
    let level = std::env::var("RUST_LOG").ok().and_then(|level| level.trim().parse().ok());
    log::set_max_level(level.unwrap_or(LevelFilter::Warn));
    // It fails only when there is a log already.
    let _ = log::set_logger(&Stderr);
}
