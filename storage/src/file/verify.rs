//! Holds a file against what its row says: that it is there, its kind, its size, and its content's
//! checksum. It changes nothing, and follows no path that has not the known form.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{Advice, Mode, OFlags, fadvise};
use tnv_common::limits::COPY_BYTES;

use crate::file::StoredFile;
use crate::path;

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Defect {
    /// Its row's path has not the form that is followed.
    Path,
    /// It is not there.
    Missing,
    /// It is not a regular file.
    NotAFile,
    /// So many bytes are there.
    Size(u64),
    /// This is the CRC-32 of what is there.
    Checksum(u32),
    /// Its disk does not give it.
    Unreadable(String),
}

impl Defect {
    /// In one word.
    pub fn kind(&self) -> &'static str {
        match self {
            Defect::Path => "path",
            Defect::Missing | Defect::NotAFile => "missing",
            Defect::Size(_) => "size",
            Defect::Checksum(_) => "checksum",
            Defect::Unreadable(_) => "unreadable",
        }
    }

    /// In words, beside the row.
    pub fn describe<'a>(&'a self, row: &'a StoredFile) -> impl fmt::Display + 'a {
        fmt::from_fn(move |out| match self {
            Defect::Path => write!(out, "its path is not of the form STORE/000/000/000/TIME_000"),
            Defect::Missing => write!(out, "there is no file"),
            Defect::NotAFile => write!(out, "it is no regular file"),
            Defect::Size(bytes) => write!(out, "it has {bytes} bytes, its row says {}", row.size),
            Defect::Checksum(got) => {
                write!(out, "its checksum is {got:08x}, its row says {:08x}", row.crc32.unwrap_or(0))
            }
            Defect::Unreadable(error) => write!(out, "it cannot be read: {error}"),
        })
    }
}

impl From<io::Error> for Defect {
    fn from(error: io::Error) -> Defect {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Defect::Missing,
            _ => Defect::Unreadable(error.to_string()),
        }
    }
}

/// Opens a file for reading. No link in its place is followed, and no pipe waited for.
pub fn open(path: &str) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// Holds all but the content against the row.
pub fn look(row: &StoredFile) -> Result<(), Defect> {
    if path::check(&row.path).is_err() {
        return Err(Defect::Path);
    }
    fits(&fs::symlink_metadata(&row.path)?, row)
}

fn fits(metadata: &fs::Metadata, row: &StoredFile) -> Result<(), Defect> {
    match metadata {
        metadata if !metadata.is_file() => Err(Defect::NotAFile),
        metadata if metadata.len() != row.size => Err(Defect::Size(metadata.len())),
        _ => Ok(()),
    }
}

/// Holds all of it against the row, the content where its checksum is known. `pace` is told of each
/// piece before it is read, and ends it by saying false: then nothing was found. `anew`: from the disk,
/// as far as the system can be brought to that, and not from memory.
pub fn read(row: &StoredFile, anew: bool, pace: impl FnMut(u64) -> bool) -> Result<(), Defect> {
    match row.crc32 {
        Some(_) => read_whole(row, anew, pace),
        None => open_fitting(row).map(drop),
    }
}

fn open_fitting(row: &StoredFile) -> Result<File, Defect> {
    if path::check(&row.path).is_err() {
        return Err(Defect::Path);
    }
    let file = match open(&row.path) {
        // A link in its place, which is not followed.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Err(Defect::NotAFile);
        }
        opened => opened?,
    };
    fits(&file.metadata()?, row)?;
    Ok(file)
}

/// The same, with the content also where its checksum is not known: whether it can be read at all.
pub fn read_whole(row: &StoredFile, anew: bool, mut pace: impl FnMut(u64) -> bool) -> Result<(), Defect> {
    let file = open_fitting(row)?;
    if anew {
        // Where it fails memory has to do.
        let _ = fadvise(&file, 0, None, Advice::DontNeed);
    }
    let _ = fadvise(&file, 0, None, Advice::Sequential);
    let mut buffer = vec![0; COPY_BYTES.min(usize::try_from(row.size).unwrap_or(COPY_BYTES)).max(1)];
    let (mut hasher, mut at) = (crc32fast::Hasher::new(), 0);
    while at < row.size {
        let piece = usize::try_from(row.size - at).unwrap_or(usize::MAX).min(buffer.len());
        if !pace(piece as u64) {
            return Ok(());
        }
        match file.read_at(&mut buffer[..piece], at) {
            Ok(0) => return Err(Defect::Size(at)),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                at += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Defect::Unreadable(error.to_string())),
        }
    }
    if anew {
        // No client has asked for it, so it need not stay in memory.
        let _ = fadvise(&file, 0, None, Advice::DontNeed);
    }
    match (hasher.finalize(), row.crc32) {
        (got, Some(want)) if got != want => Err(Defect::Checksum(got)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn every_way_in_which_a_file_can_be_wrong_has_its_name() {
        let scratch = Scratch::new();
        let directory = scratch.path().join("000/000/000");
        fs::create_dir_all(&directory).unwrap();
        let row = |name: &str| StoredFile {
            path: directory.join(name).to_str().unwrap().to_owned(),
            size: 5,
            crc32: Some(crc32fast::hash(b"hello")),
        };
        let both = |row: &StoredFile, want: Result<(), Defect>| {
            assert_eq!(look(row), want);
            assert_eq!(read(row, false, |_| true), want);
        };
        fs::write(directory.join("1_000"), "hello").unwrap();
        both(&row("1_000"), Ok(()));
        both(&row("2_000"), Err(Defect::Missing));
        fs::write(directory.join("3_000"), "hell").unwrap();
        both(&row("3_000"), Err(Defect::Size(4)));
        fs::write(directory.join("4_000"), "hullo").unwrap();
        assert_eq!(look(&row("4_000")), Ok(()));
        assert_eq!(read(&row("4_000"), true, |_| true), Err(Defect::Checksum(crc32fast::hash(b"hullo"))));
        assert_eq!(read(&StoredFile { crc32: None, ..row("4_000") }, false, |_| true), Ok(()));
        assert_eq!(read(&row("4_000"), false, |_| false), Ok(()), "called off");
        std::os::unix::fs::symlink(directory.join("1_000"), directory.join("5_000")).unwrap();
        fs::create_dir(directory.join("6_000")).unwrap();
        both(&row("5_000"), Err(Defect::NotAFile));
        both(&row("6_000"), Err(Defect::NotAFile));
        both(&StoredFile { path: "/etc/passwd".into(), ..row("1_000") }, Err(Defect::Path));
    }
}
