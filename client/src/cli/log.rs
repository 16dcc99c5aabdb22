//! The log of the command line: lines on standard error, at level `warn` or that of `RUST_LOG`. A command
//! runs for seconds, so a line has no time and no target.

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
            // A server's message must not contain escape sequences or line breaks.
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
    // It fails only if there is a logger already.
    let _ = log::set_logger(&Stderr);
}
