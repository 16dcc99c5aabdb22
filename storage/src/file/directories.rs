//! Directories of files: made where they are missing, each durable in the one above, and remembered; and files that
//! are created in them.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;

use tnv_common::error::Result;
use tnv_common::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::file::directory_sync::DirectorySyncs;
use crate::path::Place;
use crate::volume::disk::{DiskError, DiskHealth, DiskResult, Fsync};

/// What the sync of a directory is called that has a new directory in it, where it fails.
const WHAT: &str = "sync the directory above a new one";

/// Directories remembered. Each takes 512 files of one pass, so even a few suffice.
const KNOWN_MAX: usize = 4096;

/// Directories that this process has seen on the disk durably: each with its name in its parent.
///
/// One that another thread or member has just made need not be durable yet, so what is not known
/// here is synced by the caller that needs it. When the error epoch of its volume rises, nothing that was
/// known of a directory counts any more.
pub struct Directories {
    /// Each with the error epoch of its volume when it was durable.
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
    /// the volume's error epoch before.
    pub fn create_file(
        &self,
        place: &Place,
        volume: &Arc<dyn DiskHealth>,
        error_epoch: u64,
    ) -> DiskResult<File> {
        if self.known().get(place.directory()) != Some(&error_epoch) {
            self.make(place, volume, error_epoch)?;
        }
        match create_new(&place.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Someone tidied up behind our back.
                self.known().remove(place.directory());
                self.make(place, volume, error_epoch)?;
                create_new(&place.path)
            }
            result => result,
        }
        .map_err(|error| DiskError::of("create a file", error))
    }

    fn make(&self, place: &Place, volume: &Arc<dyn DiskHealth>, error_epoch: u64) -> DiskResult<()> {
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
            if let Err(fault) = synced.and_then(|()| is_sound(&**volume, error_epoch)) {
                if made {
                    // The next caller then makes it anew, which is something to be synced; of one
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
        // Where the error epoch has risen since, this does not count for later callers.
        known.insert(place.directory().to_owned(), error_epoch);
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fails where the error epoch of the volume has risen since.
fn is_sound(volume: &dyn DiskHealth, error_epoch: u64) -> DiskResult<()> {
    if volume.error_epoch() == error_epoch {
        return Ok(());
    }
    let error = io::Error::other("a sync of this disk failed meanwhile");
    Err(DiskError { reported: true, ..DiskError::of_sync(WHAT, error) })
}

fn create_new(path: &str) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use crate::volume::disk::tests::Counted;
    use tnv_common::proto::IdKey;

    fn create(directories: &Directories, volume: &Arc<Counted>, place: &Place) -> DiskResult<File> {
        directories.create_file(place, &(Arc::clone(volume) as _), volume.error_epoch())
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
        assert!(!error.lost_writes);
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
        let before = volume.error_epoch();
        create(&directories, &volume, &place(0)).unwrap();
        assert_eq!(known(), Some(0));
        volume.failed(&DiskError::of_sync("sync", io::Error::other("lost")));
        // Who had begun before cannot rely on the syncs of the directories above, and nothing is learned from his.
        let fault = directories.create_file(&place(1), &(Arc::clone(&volume) as _), before);
        assert!(fault.is_ok(), "what it knew when it began still counts for it, and its end refuses it");
        directories.known().clear();
        let fault = directories.create_file(&place(2), &(Arc::clone(&volume) as _), before).unwrap_err();
        assert!(fault.lost_writes && fault.reported);
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
}
