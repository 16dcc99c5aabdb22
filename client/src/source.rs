//! Content whose size is not known before it was read: pipes, standard input, and files whose size is not what
//! they give (`/proc`, some FUSE file systems). It is read to its end first and kept, since an upload begins with
//! its size: in memory where it fits into one piece, else in a file without a name.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use tnv_common::error::{Context, Error, ErrorKind, Result};
use tnv_common::fail;
use tnv_common::limits::COPY_BYTES;

use crate::upload::FileContent;

/// What is kept of a pipe at most: longer than any film, and no more than a disk has.
const SPOOL_BYTES_MAX: u64 = 256 << 30;

/// How long a pipe may give nothing: whatever makes the content may have to work for long before the first of it.
const PIPE_TIMEOUT: Duration = Duration::from_secs(3600);

/// Where such files are kept, unless TMPDIR names a directory: `/tmp` is often in memory.
const SPOOL_DIRECTORY: &str = "/var/tmp";

/// How often another name is tried where one is taken.
const NAMES_TRIED_MAX: usize = 16;

/// Content that is ready to be uploaded.
pub(crate) enum Source {
    /// All of it.
    Memory(Vec<u8>),
    /// A file that has it.
    File(FileContent),
}

impl Source {
    /// Opens a file or a pipe.
    pub(crate) fn open(path: &Path) -> Result<Source> {
        // Opening a pipe without a writer would wait for one without end, but for this flag.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let opened = open(path, flags, Mode::empty()).map_err(io::Error::from);
        let file = opened.context(|| format!("cannot open {}", path.display()))?;
        Source::of_file(file.into(), path)
    }

    /// What follows in a file or pipe that is open. `path` is what it is called in errors.
    pub(crate) fn of_file(mut file: File, path: &Path) -> Result<Source> {
        let shown = path.display();
        let found = file.metadata().context(|| format!("cannot read {shown}"))?;
        let kind = found.file_type();
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
        // One piece is read at once in any case, so that a small file is what was read, whatever size it has.
        let at_start = file.stream_position().is_ok_and(|position| position == 0);
        match found.len() > COPY_BYTES as u64 && at_start {
            true => Ok(Source::File(FileContent::new(file, path, found.len()))),
            false => Source::read(&mut file, path),
        }
    }

    /// Reads all that comes.
    pub(crate) fn read(reader: &mut dyn Read, path: &Path) -> Result<Source> {
        let mut first = Vec::new();
        let read = (&mut *reader).take(COPY_BYTES as u64 + 1).read_to_end(&mut first);
        read.map_err(|error| unreadable(path, error))?;
        if first.len() <= COPY_BYTES {
            return Ok(Source::Memory(first));
        }
        let directory = spool_directory();
        let unwritable = |error: io::Error| {
            let shown = directory.display();
            Error::from(error).context(format_args!(
                "keep {} in {shown} until all of it is here (TMPDIR names another directory)",
                path.display()
            ))
        };
        let mut file = nameless(&directory).map_err(unwritable)?;
        let mut size = 0;
        let mut piece = first;
        while !piece.is_empty() {
            size += piece.len() as u64;
            if size > SPOOL_BYTES_MAX {
                return fail!(Invalid, "{} goes on after {SPOOL_BYTES_MAX} bytes", path.display());
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
            // Without this, a pipe that no writer has opened yet would be an empty one.
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

/// A file that is gone with its descriptor, whatever becomes of this process.
fn nameless(directory: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    if let Ok(file) = open(directory, flags, Mode::RUSR | Mode::WUSR) {
        return Ok(file.into());
    }
    // Not on this file system; what else may be wrong the other way shows.
    for _ in 0..NAMES_TRIED_MAX {
        let path = directory.join(format!(".tnv-upload.{:016x}", rand::random::<u64>()));
        match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            opened => {
                let file = opened?;
                std::fs::remove_file(&path)?;
                return Ok(file);
            }
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}
