//! What is asked of a disk beside content, and what sort of failure a failing disk is.
//!
//! **A sync that failed is never tried again.** The kernel may have dropped what it could not write and
//! marked it clean, so that a second fsync succeeds and says nothing. What could not be synced is
//! given up, and its volume is bad until it has proven itself (see `health`).

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use rustix::io::Errno;
use tnv_common::error::{Error, ErrorKind};

/// Whether what is acknowledged is on stable storage: `tnv_fsync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// Files and directories are synced.
    Yes,
    /// The kernel writes them when it sees fit.
    No,
}

impl Fsync {
    /// Makes the content of a file durable, as far as that is wanted.
    pub fn data(self, file: &File) -> io::Result<()> {
        if self == Fsync::Yes { file.sync_data() } else { Ok(()) }
    }

    /// The same with all that the file system knows of the file.
    pub fn all(self, file: &File) -> io::Result<()> {
        if self == Fsync::Yes { file.sync_all() } else { Ok(()) }
    }

    /// Makes the names in a directory durable, as far as that is wanted; `what` is what failed otherwise.
    /// That it cannot be opened, for want of descriptors for example, says nothing about the disk.
    pub fn directory(self, what: &'static str, path: &Path) -> DiskResult<()> {
        if self == Fsync::No {
            return Ok(());
        }
        let directory = open_directory(path).map_err(|error| DiskError::of(what, error))?;
        directory.sync_all().map_err(|error| DiskError::of_sync(what, error))
    }
}

/// The health of a volume, for the code that meets failures of its disk: each is reported at once, on the thread that
/// meets it.
pub trait DiskHealth: Send + Sync {
    /// Notes a failure.
    fn failed(&self, failure: &DiskError);

    /// The error epoch: it rises with each failure that may have lost what was written. A caller keeps it from before
    /// it writes; where it is another one when all is synced, the syncs prove nothing.
    fn error_epoch(&self) -> u64;
}

/// The outcome of something that was asked of a disk.
pub type DiskResult<T> = std::result::Result<T, DiskError>;

/// A disk that failed, and whether at a sync: those are never repeated.
#[derive(Debug)]
pub struct DiskError {
    /// What was being done.
    pub what: &'static str,
    /// What came of it.
    pub error: io::Error,
    /// Something that was written may not be what the disk has.
    pub lost_writes: bool,
    /// The volume knows of it.
    pub reported: bool,
}

impl DiskError {
    /// Of anything but a sync. An I/O error may have lost what was written all the same.
    pub fn of(what: &'static str, error: io::Error) -> DiskError {
        let lost_writes = error.raw_os_error() == Some(Errno::IO.raw_os_error());
        DiskError { what, error, lost_writes, reported: false }
    }

    /// Of a sync.
    pub fn of_sync(what: &'static str, error: io::Error) -> DiskError {
        DiskError { what, error, lost_writes: true, reported: false }
    }

    /// The same failure for one more who waited for it.
    pub fn for_another_caller(&self) -> DiskError {
        let DiskError { what, error, lost_writes, reported } = self;
        DiskError { what, error: copy(error), lost_writes: *lost_writes, reported: *reported }
    }
}

/// The same error for one more.
pub fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(number) => io::Error::from_raw_os_error(number),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// Opened anew for each sync: an error of writing it that no caller has seen is then returned to this one, and
/// one that another caller has seen is not returned again.
fn open_directory(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// Makes the names in a directory durable, whatever `tnv_fsync` says: for what a storage keeps for itself.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    open_directory(path)?.sync_all()
}

/// Puts a new file in the place of one that may be there, durably and as a whole; `temporary` is beside it. What a
/// failure leaves of the new one is removed.
pub fn replace_file(path: &Path, temporary: &Path, bytes: &[u8]) -> io::Result<()> {
    let written = File::create(temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(temporary, path)).inspect_err(|_| drop(fs::remove_file(temporary)))?;
    sync_directory(above(path))
}

/// The directory that has a file's name.
pub fn above(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Makes a directory and what it lacks above it, durably; it may be there.
pub fn make_durably(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = above(path);
    make_durably(parent)?;
    let made = match fs::create_dir(path) {
        Err(error) if !(error.kind() == io::ErrorKind::AlreadyExists && path.is_dir()) => return Err(error),
        made => made.is_ok(),
    };
    let synced = sync_directory(parent);
    if synced.is_err() && made {
        // The next one who comes would find it and take it for durable.
        let _ = fs::remove_dir(path);
    }
    synced
}

/// A failing disk, for the client: another storage may do better.
pub fn error(what: impl Display, error: &io::Error) -> Error {
    let (kind, hint) = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (ErrorKind::NoSpace, ""),
        io::ErrorKind::FileTooLarge => (
            ErrorKind::NoSpace,
            "; raise the storage's limit of file sizes (ulimit -f, LimitFSIZE), or take another file system",
        ),
        _ => (ErrorKind::Unavailable, ""),
    };
    Error::new(kind, format!("{what}: {error}{hint}"))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A volume that counts its errors.
    #[derive(Default)]
    pub struct Counted(AtomicU64);

    impl DiskHealth for Counted {
        fn failed(&self, failure: &DiskError) {
            self.0.fetch_add(u64::from(failure.lost_writes), Ordering::SeqCst);
        }

        fn error_epoch(&self) -> u64 {
            self.0.load(Ordering::SeqCst)
        }
    }

    #[test]
    fn an_io_error_and_a_failed_sync_cost_the_trust_and_a_full_disk_does_not() {
        let of = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        assert!(DiskError::of("write", of(Errno::IO)).lost_writes);
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::MFILE] {
            assert!(!DiskError::of("write", of(errno)).lost_writes, "{errno}");
        }
        assert!(DiskError::of_sync("sync", of(Errno::NOSPC)).lost_writes);
        // What cannot be opened was not synced, which is no sync that failed.
        let absent = Scratch::new().path().join("absent");
        assert!(!Fsync::Yes.directory("sync", &absent).unwrap_err().lost_writes);
        assert!(Fsync::No.directory("sync", &absent).is_ok());
    }
}
