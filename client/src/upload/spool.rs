//! Content of unknown size: pipes, standard input, and files that report a wrong size (`/proc`, some FUSE
//! file systems). An upload starts with its size, so such content is read to its end first: into memory if it
//! fits into one piece, else into an unnamed temporary file.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use tnv_common::error::{Context, Error, ErrorKind, Result};
use tnv_common::fail;
use tnv_common::limits::COPY_BYTES;

use super::content::FileContent;

/// Most bytes of a pipe: more than any film has, and no more than a disk.
const SPOOL_BYTES_MAX: u64 = 256 << 30;

/// How long a pipe may give nothing. Its writer may compute for long before the first byte.
const PIPE_TIMEOUT: Duration = Duration::from_secs(3600);

/// The directory of temporary files if TMPDIR is not set: `/tmp` is often in memory.
const SPOOL_DIRECTORY: &str = "/var/tmp";

/// Content that is ready for an upload.
pub(crate) enum Source {
    Memory(Vec<u8>),
    File(FileContent),
}

impl Source {
    /// Opens a file or a pipe.
    pub(crate) fn open(path: &Path) -> Result<Source> {
        // Without NONBLOCK, opening a pipe waits without limit for a writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let opened = open(path, flags, Mode::empty()).map_err(io::Error::from);
        let file = opened.context(|| format!("cannot open {}", path.display()))?;
        Source::of_file(file.into(), path)
    }

    /// The rest of an open file or pipe. `path` is its name in errors.
    pub(crate) fn of_file(mut file: File, path: &Path) -> Result<Source> {
        let shown = path.display();
        let metadata = file.metadata().context(|| format!("cannot read {shown}"))?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            return fail!(
                Invalid,
                "cannot upload '{shown}', it is a directory, want a regular file or a pipe"
            );
        }
        if kind.is_fifo() || kind.is_socket() {
            return Source::read(&mut Pipe(&file), path);
        }
        if !kind.is_file() {
            return fail!(Invalid, "cannot upload '{shown}', it is a device, want a regular file or a pipe");
        }
        // One piece is read at once in any case, so a small file is stored as it was read, whatever its size
        // says.
        let at_start = file.stream_position().is_ok_and(|position| position == 0);
        match metadata.len() > COPY_BYTES as u64 && at_start {
            true => Ok(Source::File(FileContent::new(file, path, metadata.len()))),
            false => Source::read(&mut file, path),
        }
    }

    /// Reads a reader to its end.
    pub(crate) fn read(reader: &mut dyn Read, path: &Path) -> Result<Source> {
        let mut piece = Vec::new();
        let read = (&mut *reader).take(COPY_BYTES as u64 + 1).read_to_end(&mut piece);
        read.map_err(|error| unreadable(path, error))?;
        if piece.len() <= COPY_BYTES {
            return Ok(Source::Memory(piece));
        }
        let directory = spool_directory();
        let unwritable = |error: io::Error| {
            let (shown, directory) = (path.display(), directory.display());
            Error::from(error)
                .context(format_args!("spool {shown} in {directory} (TMPDIR names another directory)"))
        };
        let mut file = tempfile::tempfile_in(&directory).map_err(unwritable)?;
        let mut size = 0;
        while !piece.is_empty() {
            size += piece.len() as u64;
            if size > SPOOL_BYTES_MAX {
                return fail!(Invalid, "{} has over {SPOOL_BYTES_MAX} bytes", path.display());
            }
            file.write_all(&piece).map_err(unwritable)?;
            piece.clear();
            let read = (&mut *reader).take(COPY_BYTES as u64).read_to_end(&mut piece);
            read.map_err(|error| unreadable(path, error))?;
        }
        Ok(Source::File(FileContent::new(file, path, size)))
    }
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::TimedOut => {
            let text = format!("{} gave nothing for {} s", path.display(), PIPE_TIMEOUT.as_secs());
            Error::new(ErrorKind::Timeout, text)
        }
        _ => Error::from(error).context(format_args!("read {}", path.display())),
    }
}

/// A pipe whose writer may come later, and may pause.
struct Pipe<'a>(&'a File);

impl Read for Pipe<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let timeout = Timespec { tv_sec: PIPE_TIMEOUT.as_secs().cast_signed(), tv_nsec: 0 };
        loop {
            // Without the poll, a pipe that no writer has opened yet reads as empty.
            match poll(&mut [PollFd::new(self.0, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            match (&mut &*self.0).read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return outcome,
            }
        }
    }
}

fn spool_directory() -> PathBuf {
    match std::env::var_os("TMPDIR").filter(|directory| !directory.is_empty()) {
        Some(directory) => directory.into(),
        None if Path::new(SPOOL_DIRECTORY).is_dir() => SPOOL_DIRECTORY.into(),
        None => std::env::temp_dir(),
    }
}
