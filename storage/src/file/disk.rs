//! The few things done to the disk beside content: directories made and synced, files created, and
//! what sort of failure a failing disk is.
//!
//! **A sync that failed is never tried again.** The kernel may have dropped what it could not write and
//! marked it clean, so that a second fsync succeeds and says nothing. What could not be synced is
//! given up, and its store path is not trusted until it has proven itself (see `space`).

use std::collections::HashSet;
use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use tnv_common::error::{Error, ErrorKind};

use super::paths::Place;

/// Directories remembered. Each takes 512 files of one pass, so even a few suffice.
const KNOWN_MAX: usize = 4096;

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
    pub fn directory(self, what: &'static str, path: &Path) -> Result<(), DiskError> {
        if self == Fsync::No {
            return Ok(());
        }
        let directory = open_directory(path).map_err(|error| DiskError::of(what, error))?;
        directory.sync_all().map_err(|error| DiskError::of_sync(what, error))
    }
}

/// A disk that failed, and whether at a sync: those are never repeated.
#[derive(Debug)]
pub struct DiskError {
    /// What was being done.
    pub what: &'static str,
    /// What came of it.
    pub error: io::Error,
    /// Something that was written may not be what the disk has.
    pub distrust: bool,
}

impl DiskError {
    /// Of anything but a sync. A disk that reports an I/O error is not trusted all the same.
    pub fn of(what: &'static str, error: io::Error) -> DiskError {
        let distrust = error.raw_os_error() == Some(Errno::IO.raw_os_error());
        DiskError { what, error, distrust }
    }

    /// Of a sync.
    pub fn of_sync(what: &'static str, error: io::Error) -> DiskError {
        DiskError { what, error, distrust: true }
    }
}

/// Directories that this process has seen on the disk durably: each with its name in its parent.
///
/// One that another thread or member has just made need not be durable yet, so what is not known
/// here is synced by whoever needs it, made by him or not.
pub struct Directories {
    known: Mutex<HashSet<String>>,
    fsync: Fsync,
}

impl Directories {
    /// None is known to begin with.
    pub fn new(fsync: Fsync) -> Directories {
        Directories { known: Mutex::default(), fsync }
    }

    /// Creates the file of this place, which must not be there, and what directories it lacks.
    pub fn create_file(&self, place: &Place) -> Result<File, DiskError> {
        if !self.known().contains(place.directory()) {
            self.make(place)?;
        }
        match create_new(&place.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Someone tidied up behind our back.
                self.known().remove(place.directory());
                self.make(place)?;
                create_new(&place.path)
            }
            result => result,
        }
        .map_err(|error| DiskError::of("create a file", error))
    }

    /// Forgets what was known of a store path that is not trusted any more.
    pub fn forget(&self, store_path: &str) {
        self.known().retain(|path| !path.strip_prefix(store_path).is_some_and(|rest| rest.starts_with('/')));
    }

    fn make(&self, place: &Place) -> Result<(), DiskError> {
        // The store path itself is not made: where it is gone, a disk is not mounted.
        for pair in place.directories.windows(2) {
            let made = match fs::create_dir(&pair[1]) {
                Ok(()) => true,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
                Err(error) => return Err(DiskError::of("make a directory", error)),
            };
            let what = "sync the directory above a new one";
            if let Err(fault) = self.fsync.directory(what, Path::new(&pair[0])) {
                if made {
                    // Whoever needs it next then makes it anew, which is something to be synced; of one
                    // that is there a second sync might succeed without having written anything.
                    let _ = fs::remove_dir(&pair[1]);
                }
                return Err(fault);
            }
        }
        let mut known = self.known();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(place.directory().to_owned());
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, HashSet<String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn create_new(path: &str) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// Opened anew for each sync: an error of writing it that nobody was told of is then told to this caller, and
/// one that somebody was told of is not taken for his.
fn open_directory(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// Makes a directory and what it lacks above it, durably; it may be there.
pub fn make_durably(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    make_durably(parent)?;
    match fs::create_dir(path) {
        Err(error) if !(error.kind() == io::ErrorKind::AlreadyExists && path.is_dir()) => Err(error),
        _ => open_directory(parent)?.sync_all(),
    }
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
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use tnv_common::wire::IdKey;

    #[test]
    fn directories_are_made_as_needed_and_again_when_they_vanish() {
        let scratch = Scratch::new();
        let store = IdKey::new(scratch.path().to_str().unwrap()).unwrap();
        let directories = Directories::new(Fsync::Yes);
        directories.create_file(&Place::new(&store, 0, 1)).unwrap();
        fs::remove_dir_all(scratch.path().join("000")).unwrap();
        directories.create_file(&Place::new(&store, 1, 1)).unwrap();
        assert!(scratch.path().join("000/000/000/1_001").is_file());
        let error = directories.create_file(&Place::new(&store, 1, 1)).unwrap_err();
        assert_eq!(error.error.kind(), io::ErrorKind::AlreadyExists);
        assert!(!error.distrust);
    }

    #[test]
    fn a_store_path_that_vanished_is_not_made_again() {
        let scratch = Scratch::new();
        let gone = scratch.path().join("gone");
        let store = IdKey::new(gone.to_str().unwrap()).unwrap();
        assert!(Directories::new(Fsync::Yes).create_file(&Place::new(&store, 0, 1)).is_err());
        assert!(!gone.exists());
    }

    #[test]
    fn the_directories_of_a_store_path_that_is_not_trusted_are_forgotten_and_no_others() {
        let scratch = Scratch::new();
        let directories = Directories::new(Fsync::No);
        let stores = ["a", "ab"].map(|name| scratch.path().join(name).to_str().unwrap().to_owned());
        for store in &stores {
            fs::create_dir(store).unwrap();
            directories.create_file(&Place::new(&IdKey::new(store.as_str()).unwrap(), 0, 1)).unwrap();
        }
        directories.forget(&stores[0]);
        let known: Vec<_> = directories.known().iter().cloned().collect();
        assert_eq!(known, [format!("{}/000/000/000", stores[1])]);
    }

    #[test]
    fn an_io_error_and_a_failed_sync_cost_the_trust_and_a_full_disk_does_not() {
        let of = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        assert!(DiskError::of("write", of(Errno::IO)).distrust);
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::MFILE] {
            assert!(!DiskError::of("write", of(errno)).distrust, "{errno}");
        }
        assert!(DiskError::of_sync("sync", of(Errno::NOSPC)).distrust);
        // What cannot be opened was not synced, which is no sync that failed.
        let absent = Scratch::new().path().join("absent");
        assert!(!Fsync::Yes.directory("sync", &absent).unwrap_err().distrust);
        assert!(Fsync::No.directory("sync", &absent).is_ok());
    }
}
