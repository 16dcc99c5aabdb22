//! Finding a file: the row, from the cache or the database, held against what is on the disk, so that
//! no answer is given from a row whose file another member has deleted or replaced.

use std::fs::{self, File, Metadata};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tnv_common::error::{Error, ErrorKind, Result};
use tnv_common::fail;
use tnv_common::proto::tnv::file_key::FileKey;
use tnv_common::proto::tnv::storage::{Stat, VersionId};

use super::{Catalog, no_such_file};
use crate::db::table_of;
use crate::file::read::{OpenFile, Unfit, check, is_of_disk};
use crate::file::{StoredFile, verify};
use crate::path;
use crate::volume::quarantine::At;

/// A file that is not as its row says is looked at again after these pauses, 1.55 s in all. At once,
/// since it may have been deleted or replaced between the row and the file. Then because it may have
/// come through another member just now: on a replicated file system it shows here a moment later,
/// and until then as absent, stale, or with another size. The client's deadline for an answer is
/// longer, so that it learns of a failure while it can still ask another member.
const LOOK_PAUSES: [Duration; 7] = [
    Duration::ZERO,
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
];

/// Most workers that wait for a file to show, so that rows whose files are lost cannot hold all of them.
const WAITERS_MAX: usize = 64;

/// How many workers wait for a file to show.
#[derive(Default)]
pub struct Waiters {
    count: AtomicUsize,
}

/// One of them, until it is dropped.
struct Waiter<'a>(&'a Waiters);

impl Waiters {
    /// One more, where there is room.
    fn join(&self) -> Option<Waiter<'_>> {
        // Made first: it takes back its count where there was no room.
        let (before, waiter) = (self.count.fetch_add(1, Ordering::Relaxed), Waiter(self));
        (before < WAITERS_MAX).then_some(waiter)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The value unique to an upload.
pub fn unique<T>(file: &OpenFile<T>) -> VersionId {
    path::unique(file.path())
}

/// All that is known of a file.
pub fn stat<T>(file: &OpenFile<T>) -> Stat {
    Stat {
        size: file.size(),
        time: path::time(file.path()).unwrap_or(file.modified()),
        crc32: file.crc32(),
        unique: unique(file),
    }
}

impl Catalog {
    /// Looks at a file without opening it.
    pub fn look(&self, file: &FileKey) -> Result<OpenFile<()>> {
        self.find(file, |path| Ok(((), fs::symlink_metadata(path)?)))
    }

    /// Opens a file for reading.
    pub fn open(&self, file: &FileKey) -> Result<OpenFile<File>> {
        self.find(file, |path| {
            let file = verify::open(path)?;
            let metadata = file.metadata()?;
            Ok((file, metadata))
        })
    }

    fn find<T>(
        &self,
        file: &FileKey,
        look: impl Fn(&str) -> io::Result<(T, Metadata)>,
    ) -> Result<OpenFile<T>> {
        if let Some(row) = self.cache.get(file) {
            self.check_disk(file, &row)?;
            let is_damaged = self.quarantine.has(&row.path);
            match check(row, &look) {
                Ok(found) if !is_damaged => return Ok(found),
                // Deleted or replaced by another member; the database knows.
                _ => self.cache.remove(file),
            }
        }
        let mut fault = String::new();
        let mut waits = None;
        for pause in LOOK_PAUSES {
            if !pause.is_zero() {
                // Where too many wait already this one does not: another member may see the file.
                if waits.get_or_insert_with(|| self.waiters.join()).is_none() {
                    break;
                }
                thread::sleep(pause);
            }
            let epoch = self.cache.epoch(file);
            let Some(row) = self.db.find(file)? else { return Err(no_such_file(file)) };
            path::check(&row.path)?;
            self.check_disk(file, &row)?;
            if self.quarantine.has(&row.path) {
                // As with a disk that does not answer: another member's copy may be sound.
                return fail!(
                    Unavailable,
                    "the file's content is damaged on this storage, fileid: {}",
                    file.fileid
                );
            }
            match check(row.clone(), &look) {
                Ok(found) => {
                    self.cache.put(epoch, file, &row);
                    return Ok(found);
                }
                Err(Unfit { error: Some(error), .. }) if is_of_disk(&error) => {
                    return Err(self.read_failed(file, &row.path, &error));
                }
                Err(unfit) => fault = unfit.text,
            }
        }
        log::error!("{fault}, fileid: {}", file.fileid);
        // The path is no business of the client's. Another member may see the file as it should be.
        fail!(
            Unavailable,
            "the file's content is missing or damaged on this storage, fileid: {}",
            file.fileid
        )
    }

    /// Notes that a file cannot be read here, and gives the failure for its reader, who asks another member. The
    /// file is out of service until the scrub has read it whole, and where the disk failed its store path takes no
    /// new files until it has proven itself: reads count like writes.
    pub fn read_failed(&self, file: &FileKey, path: &str, error: &io::Error) -> Error {
        let fileid = &file.fileid;
        if is_of_disk(error) || error.kind() == io::ErrorKind::UnexpectedEof {
            // Out of service at once, whatever the database does.
            let at = |id| At { table: table_of(&file.userid), id };
            let kept = self.quarantine.add(path, at(fileid.to_string()));
            // The scrub asks for the row by its key, which need not be the name that it was asked for by.
            match self.db.key_of(file, path) {
                Ok(key) if kept && key != fileid.as_str() => drop(self.quarantine.add(path, at(key))),
                Ok(_) => {}
                Err(error) => log::debug!("ask for the key of fileid: {fileid}: {error}"),
            }
            let what = if kept { "out of service here" } else { "still served, too many are damaged" };
            log::error!("unreadable, {what}: {path}: {error}, fileid: {fileid}, userid: {}", file.userid);
        } else {
            log::error!("read {path}: {error}, fileid: {fileid}");
        }
        if is_of_disk(error) {
            self.files.volumes().read_failed(path, error);
        }
        self.cache.remove(file);
        Error::new(
            ErrorKind::Unavailable,
            format!(
                "the file cannot be read on this storage, ask another one of its group, fileid: {fileid}"
            ),
        )
    }

    /// A disk that hangs would take one worker after the other, for a minute each.
    fn check_disk(&self, file: &FileKey, row: &StoredFile) -> Result<()> {
        match self.files.volumes().answers_soon(&row.path) {
            Ok(()) => Ok(()),
            Err(_) => {
                fail!(Unavailable, "the file's disk does not answer on this storage, fileid: {}", file.fileid)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_wait_for_files_to_show() {
        let waiters = Waiters::default();
        let waiting: Vec<_> = (0..WAITERS_MAX).map(|_| waiters.join().unwrap()).collect();
        assert!(waiters.join().is_none() && waiters.join().is_none());
        drop(waiting);
        assert!(waiters.join().is_some());
        assert_eq!(waiters.count.load(Ordering::Relaxed), 0);
    }
}
