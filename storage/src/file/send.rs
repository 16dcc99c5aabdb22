//! Finding a file: the row, from the cache or the database, held against what is on the disk, so that
//! no answer is given from a row whose file another member has deleted or replaced.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{Mode, OFlags};
use tnv_common::error::Result;
use tnv_common::fail;
use tnv_common::wire::tnv::{Stat, Triple, Unique};

use super::{Files, no_such_file, paths};
use crate::db::FileRow;

/// A file that is there and has the size that its row says.
pub struct Found<T> {
    row: FileRow,
    modified: i64,
    /// What was wanted of it beside what the row says.
    pub what: T,
}

impl<T> Found<T> {
    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.row.size
    }

    /// The value unique to this upload.
    pub fn unique(&self) -> Unique {
        paths::unique(&self.row.path)
    }

    /// All that is known of it.
    pub fn stat(&self) -> Stat {
        Stat {
            size: self.row.size,
            time: paths::time(&self.row.path).unwrap_or(self.modified),
            crc32: self.row.crc32,
            unique: self.unique(),
        }
    }
}

impl Files {
    /// Looks at a file without opening it.
    pub fn look(&self, file: &Triple) -> Result<Found<()>> {
        self.find(file, |path| Ok(((), fs::symlink_metadata(path)?)))
    }

    /// Opens a file for reading.
    pub fn open(&self, file: &Triple) -> Result<Found<File>> {
        self.find(file, |path| {
            // No link in its place is followed, and no pipe waited for.
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
            let metadata = file.metadata()?;
            Ok((file, metadata))
        })
    }

    fn find<T>(&self, file: &Triple, look: impl Fn(&str) -> io::Result<(T, Metadata)>) -> Result<Found<T>> {
        if let Some(row) = self.cache.get(file) {
            self.check_disk(file, &row)?;
            match check(row, &look) {
                Ok(found) => return Ok(found),
                // Deleted or replaced by another member; the database knows.
                Err(_) => self.cache.remove(file),
            }
        }
        let mut fault = String::new();
        // Twice, since it may be deleted or replaced between the row and the file; and on a replicated
        // file system the first look at what another member changed may be stale.
        for _ in 0..2 {
            let Some(row) = self.db.find(file)? else { return Err(no_such_file(file)) };
            paths::check(&row.path)?;
            self.check_disk(file, &row)?;
            match check(row.clone(), &look) {
                Ok(found) => {
                    self.cache.put(file, &row);
                    return Ok(found);
                }
                Err(error) => fault = error,
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

    /// A disk that hangs would take one worker after the other, for a minute each.
    fn check_disk(&self, file: &Triple, row: &FileRow) -> Result<()> {
        match self.stores.answers_soon(&row.path) {
            Ok(()) => Ok(()),
            Err(_) => {
                fail!(Unavailable, "the file's disk does not answer on this storage, fileid: {}", file.fileid)
            }
        }
    }
}

/// Holds a row against its file.
fn check<T>(
    row: FileRow,
    look: impl Fn(&str) -> io::Result<(T, Metadata)>,
) -> std::result::Result<Found<T>, String> {
    match look(&row.path) {
        Ok((_, metadata)) if !metadata.is_file() => Err(format!("{} is no regular file", row.path)),
        Ok((what, metadata)) if metadata.len() == row.size => {
            Ok(Found { row, modified: metadata.mtime(), what })
        }
        Ok((_, metadata)) => {
            Err(format!("{} has {} bytes, its row says {}", row.path, metadata.len(), row.size))
        }
        Err(error) => Err(format!("open {}: {error}", row.path)),
    }
}
