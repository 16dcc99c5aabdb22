//! The few things done to the disk beside content: directories made and synced, files created, and
//! what sort of failure a failing disk is.

use std::collections::HashSet;
use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tnv_common::error::{Error, ErrorKind};

use super::paths::Place;

/// Directories remembered. Each takes 512 files of one pass, so even a few suffice.
const KNOWN_MAX: usize = 4096;

/// Directories that this process has seen on the disk durably: each with its name in its parent.
///
/// One that another thread or member has just made need not be durable yet, so what is not known
/// here is synced by whoever needs it, made by him or not.
#[derive(Default)]
pub struct Directories {
    known: Mutex<HashSet<String>>,
}

impl Directories {
    /// Creates the file of this place, which must not be there, and what directories it lacks.
    pub fn create_file(&self, place: &Place) -> io::Result<File> {
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
    }

    fn make(&self, place: &Place) -> io::Result<()> {
        // The store path itself is not made: where it is gone, a disk is not mounted.
        for pair in place.directories.windows(2) {
            match fs::create_dir(&pair[1]) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => sync_directory(Path::new(&pair[0]))?,
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

/// Makes the names in a directory durable.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
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
        _ => sync_directory(parent),
    }
}

/// A failing disk, for the client: another storage may do better.
pub fn error(what: impl Display, error: &io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, format!("{what}: {error}"))
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
        let directories = Directories::default();
        directories.create_file(&Place::new(&store, 0, 1)).unwrap();
        fs::remove_dir_all(scratch.path().join("000")).unwrap();
        directories.create_file(&Place::new(&store, 1, 1)).unwrap();
        assert!(scratch.path().join("000/000/000/1_001").is_file());
        let error = directories.create_file(&Place::new(&store, 1, 1)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_store_path_that_vanished_is_not_made_again() {
        let scratch = Scratch::new();
        let gone = scratch.path().join("gone");
        let store = IdKey::new(gone.to_str().unwrap()).unwrap();
        assert!(Directories::default().create_file(&Place::new(&store, 0, 1)).is_err());
        assert!(!gone.exists());
    }
}
