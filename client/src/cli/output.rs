//! Standard output, and how a run fails.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use tnv_client::{Error, ErrorKind, Result};
use tnv_common::error::Context;

/// How a run fails.
pub(crate) enum Outcome {
    /// The arguments are wrong.
    Usage(String),
    /// The command failed.
    Failed(Error),
    /// The reader of standard output has closed it.
    BrokenPipe,
}

impl From<Error> for Outcome {
    fn from(error: Error) -> Outcome {
        Outcome::Failed(error)
    }
}

/// An invalid setting of a client comes from the arguments.
pub(super) fn usage_or_failure(error: Error) -> Outcome {
    match error.kind() {
        ErrorKind::Invalid => Outcome::Usage(error.to_string()),
        _ => Outcome::Failed(error),
    }
}

/// Writes a line to standard output.
pub(super) fn print(line: &str) -> std::result::Result<(), Outcome> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Outcome::BrokenPipe),
        Err(error) => Err(Error::from(error).context("write to standard output").into()),
    }
}

/// Standard output without std's buffer. It remembers that its reader has closed it.
pub(super) struct Stdout {
    file: File,
    broken_pipe: Cell<bool>,
}

impl Stdout {
    pub(super) fn open() -> Result<Stdout> {
        let fd = io::stdout().as_fd().try_clone_to_owned().context(|| "open standard output")?;
        Ok(Stdout { file: File::from(fd), broken_pipe: Cell::new(false) })
    }

    pub(super) fn is_broken_pipe(&self) -> bool {
        self.broken_pipe.get()
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes).inspect_err(|error| {
            if error.kind() == io::ErrorKind::BrokenPipe {
                self.broken_pipe.set(true);
            }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
