//! The few things done to the disk beside content: directories made and synced, files created, and
//! what sort of failure a failing disk is.
//!
//! **A sync that failed is never tried again.** The kernel may have dropped what it could not write and
//! marked it clean, so that a second fsync succeeds and says nothing. What could not be synced is
//! given up, and its store path is not trusted until it has proven itself (see `space`).

use std::collections::HashMap;
use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use rustix::io::Errno;
use tnv_common::error::{Error, ErrorKind, Result};
use tnv_common::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::dirsync::DirectorySyncs;
use super::paths::Place;

/// What the sync of a directory is called that has a new directory in it, where it fails.
const WHAT: &str = "sync the directory above a new one";

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
    pub fn directory(self, what: &'static str, path: &Path) -> DiskResult<()> {
        if self == Fsync::No {
            return Ok(());
        }
        let directory = open_directory(path).map_err(|error| DiskError::of(what, error))?;
        directory.sync_all().map_err(|error| DiskError::of_sync(what, error))
    }
}

/// A store path, as those see it who meet the failures of its disk. They report each of them at once, on whatever
/// thread they are.
pub trait Volume: Send + Sync {
    /// Notes a failure.
    fn failed(&self, failure: &DiskError);

    /// How often it failed in a way that costs the trust. Who kept the number from before he wrote anything, and finds
    /// another one when all is synced, cannot rely on his syncs.
    fn losses(&self) -> u64;
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
    pub distrust: bool,
    /// The volume knows of it.
    pub reported: bool,
}

impl DiskError {
    /// Of anything but a sync. A disk that reports an I/O error is not trusted all the same.
    pub fn of(what: &'static str, error: io::Error) -> DiskError {
        let distrust = error.raw_os_error() == Some(Errno::IO.raw_os_error());
        DiskError { what, error, distrust, reported: false }
    }

    /// Of a sync.
    pub fn of_sync(what: &'static str, error: io::Error) -> DiskError {
        DiskError { what, error, distrust: true, reported: false }
    }

    /// The same failure for one more who waited for it.
    pub fn told_again(&self) -> DiskError {
        let DiskError { what, error, distrust, reported } = self;
        DiskError { what, error: copy(error), distrust: *distrust, reported: *reported }
    }
}

/// The same error for one more.
pub fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(number) => io::Error::from_raw_os_error(number),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// Directories that this process has seen on the disk durably: each with its name in its parent.
///
/// One that another thread or member has just made need not be durable yet, so what is not known
/// here is synced by whoever needs it, made by him or not. After a loss of its volume nothing that was
/// known of a directory counts any more.
pub struct Directories {
    /// Each with the number of losses of its volume when it was durable.
    known: Mutex<HashMap<String, u64>>,
    syncs: DirectorySyncs,
}

impl Directories {
    /// None is known to begin with. Syncs as far as this says.
    pub fn new(fsync: Fsync) -> Result<Directories> {
        Ok(Directories { known: Mutex::default(), syncs: DirectorySyncs::new(fsync)? })
    }

    /// What makes the names in them durable.
    pub fn syncs(&self) -> &DirectorySyncs {
        &self.syncs
    }

    /// Creates the file of this place, which must not be there, and what directories it lacks. The caller took
    /// the volume's number of losses before.
    pub fn create_file(&self, place: &Place, volume: &Arc<dyn Volume>, losses: u64) -> DiskResult<File> {
        if self.known().get(place.directory()) != Some(&losses) {
            self.make(place, volume, losses)?;
        }
        match create_new(&place.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Someone tidied up behind our back.
                self.known().remove(place.directory());
                self.make(place, volume, losses)?;
                create_new(&place.path)
            }
            result => result,
        }
        .map_err(|error| DiskError::of("create a file", error))
    }

    fn make(&self, place: &Place, volume: &Arc<dyn Volume>, losses: u64) -> DiskResult<()> {
        // The store path itself is not made: where it is gone, a disk is not mounted.
        for pair in place.directories.windows(2) {
            let made = match fs::create_dir(&pair[1]) {
                Ok(()) => true,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
                Err(error) => return Err(DiskError::of("make a directory", error)),
            };
            // One directory is synced by one thread at a time, as those of the files are: of two who made names in
            // it one may have lost both at a sync that failed, and the other's then succeeds.
            let synced = self.syncs.begin(WHAT, &pair[0], volume).wait();
            if let Err(fault) = synced.and_then(|()| is_sound(&**volume, losses)) {
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
        // Where the volume has had a loss since, this counts for nobody who comes later.
        known.insert(place.directory().to_owned(), losses);
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fails where the volume had a loss since it had so many.
fn is_sound(volume: &dyn Volume, losses: u64) -> DiskResult<()> {
    if volume.losses() == losses {
        return Ok(());
    }
    let error = io::Error::other("a sync of this disk failed meanwhile");
    Err(DiskError { reported: true, ..DiskError::of_sync(WHAT, error) })
}

fn create_new(path: &str) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// Opened anew for each sync: an error of writing it that nobody was told of is then told to this caller, and
/// one that somebody was told of is not taken for his.
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
    use tnv_common::proto::IdKey;

    /// A volume that counts its losses.
    #[derive(Default)]
    pub struct Counted(AtomicU64);

    impl Volume for Counted {
        fn failed(&self, failure: &DiskError) {
            self.0.fetch_add(u64::from(failure.distrust), Ordering::SeqCst);
        }

        fn losses(&self) -> u64 {
            self.0.load(Ordering::SeqCst)
        }
    }

    fn create(directories: &Directories, volume: &Arc<Counted>, place: &Place) -> DiskResult<File> {
        directories.create_file(place, &(Arc::clone(volume) as _), volume.losses())
    }

    #[test]
    fn directories_are_made_as_needed_and_again_when_they_vanish() {
        let scratch = Scratch::new();
        let store = IdKey::new(scratch.path().to_str().unwrap()).unwrap();
        let (directories, volume) = (Directories::new(Fsync::Yes).unwrap(), Arc::new(Counted::default()));
        create(&directories, &volume, &Place::new(&store, 0, 1)).unwrap();
        fs::remove_dir_all(scratch.path().join("000")).unwrap();
        create(&directories, &volume, &Place::new(&store, 1, 1)).unwrap();
        assert!(scratch.path().join("000/000/000/1_001").is_file());
        let error = create(&directories, &volume, &Place::new(&store, 1, 1)).unwrap_err();
        assert_eq!(error.error.kind(), io::ErrorKind::AlreadyExists);
        assert!(!error.distrust);
    }

    #[test]
    fn a_store_path_that_vanished_is_not_made_again() {
        let scratch = Scratch::new();
        let gone = scratch.path().join("gone");
        let store = IdKey::new(gone.to_str().unwrap()).unwrap();
        let directories = Directories::new(Fsync::Yes).unwrap();
        assert!(create(&directories, &Arc::default(), &Place::new(&store, 0, 1)).is_err());
        assert!(!gone.exists());
    }

    #[test]
    fn after_a_loss_nothing_that_was_known_of_the_volumes_directories_counts() {
        let scratch = Scratch::new();
        let directories = Directories::new(Fsync::Yes).unwrap();
        let volume = Arc::new(Counted::default());
        let store = IdKey::new(scratch.path().to_str().unwrap()).unwrap();
        let place = |number| Place::new(&store, number, 1);
        let known = || directories.known().get(place(0).directory()).copied();
        let before = volume.losses();
        create(&directories, &volume, &place(0)).unwrap();
        assert_eq!(known(), Some(0));
        volume.failed(&DiskError::of_sync("sync", io::Error::other("lost")));
        // Who had begun before cannot rely on the syncs of the directories above, and nothing is learned from his.
        let fault = directories.create_file(&place(1), &(Arc::clone(&volume) as _), before);
        assert!(fault.is_ok(), "what it knew when it began still counts for it, and its end refuses it");
        directories.known().clear();
        let fault = directories.create_file(&place(2), &(Arc::clone(&volume) as _), before).unwrap_err();
        assert!(fault.distrust && fault.reported);
        assert_eq!(known(), None);
        create(&directories, &volume, &place(3)).unwrap();
        assert_eq!(known(), Some(1), "it was synced anew");
    }

    /// A directory was made and its parent's sync failed for one upload. For another one, which had found the directory
    /// there, the parent's next sync succeeded.
    #[test]
    fn a_directory_whose_parent_could_not_be_synced_is_removed_again() {
        let scratch = Scratch::new();
        let directories = Directories::new(Fsync::Yes).unwrap();
        let volume = Arc::new(Counted::default());
        let place = Place::new(&IdKey::new(scratch.path().to_str().unwrap()).unwrap(), 0, 1);
        volume.failed(&DiskError::of_sync("sync", io::Error::other("lost")));
        assert!(directories.create_file(&place, &(Arc::clone(&volume) as _), 0).is_err());
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
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
