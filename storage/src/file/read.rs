//! Files on their way out: held against what is known of them before anything is read.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::io::Errno;

use super::StoredFile;

/// A file that is there and has the size that is known of it.
pub struct OpenFile<T> {
    file: StoredFile,
    modified: i64,
    /// What was wanted of it beside what is known.
    pub what: T,
}

impl<T> OpenFile<T> {
    /// What was wanted of it, and what is known.
    pub fn into_parts(self) -> (T, StoredFile) {
        (self.what, self.file)
    }

    /// Where its content lies.
    pub fn path(&self) -> &str {
        &self.file.path
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.file.size
    }

    /// The CRC-32 of its content, where it is known.
    pub fn crc32(&self) -> Option<u32> {
        self.file.crc32
    }

    /// When its content was changed last, as its file system says, seconds since the epoch.
    pub fn modified(&self) -> i64 {
        self.modified
    }
}

/// Holds what is known of a file against the file.
pub fn check<T>(
    row: StoredFile,
    look: impl Fn(&str) -> io::Result<(T, Metadata)>,
) -> std::result::Result<OpenFile<T>, Unfit> {
    let unfit = |text| Unfit { text, error: None };
    match look(&row.path) {
        Ok((_, metadata)) if !metadata.is_file() => Err(unfit(format!("{} is no regular file", row.path))),
        Ok((what, metadata)) if metadata.len() == row.size => {
            Ok(OpenFile { file: row, modified: metadata.mtime(), what })
        }
        Ok((_, metadata)) => {
            Err(unfit(format!("{} has {} bytes, its row says {}", row.path, metadata.len(), row.size)))
        }
        Err(error) => Err(Unfit { text: format!("open {}: {error}", row.path), error: Some(error) }),
    }
}

/// A file that is not as its row says.
pub struct Unfit {
    /// In words.
    pub text: String,
    /// What the system said, where it is that.
    pub error: Option<io::Error>,
}

/// Whether an error of reading is the disk's: of its surface, of what the file system has on it, or of its link.
pub fn is_of_disk(error: &io::Error) -> bool {
    let disk = [Errno::IO, Errno::UCLEAN, Errno::BADMSG, Errno::NXIO, Errno::NODEV, Errno::REMOTEIO];
    disk.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
