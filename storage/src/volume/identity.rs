//! Which volume a store path leads to: a marker file in it, and what shows that a path without one is the
//! right disk all the same.
//!
//! The mount point of a disk that is not mounted is an empty directory on another disk. What is stored there
//! is gone from sight as soon as the disk is mounted. So a store path takes no new file, and gets no
//! directory and no journal, until it is shown to be the right one:
//!
//! | the store path has | rows under it | it is |
//! |---|---|---|
//! | a marker of this store path and group | | the right one |
//! | no marker | none | new; the marker is made |
//! | no marker | some, one of which has its file here | of a previous version; the marker is made |
//! | no marker | some, none of which has its file here | not the right disk |
//! | a marker of another store path or group | none, or one has its file here | renamed; the marker stays as it is |
//! | a marker of another store path or group | some, none of which has its file here | another disk |
//!
//! `tnv-storage --init` makes the marker in any case: for a disk that was replaced by an empty one.
//!
//! The marker is [`NAME`], lines of a key and a value:
//!
//! ```text
//! tnv-volume 1
//! id 0123456789abcdef0123456789abcdef
//! store-path ../data
//! group group001
//! created 1764316800
//! ```
//!
//! It is written under a temporary name, synced, published by link(2), which has one winner among all
//! members, and its directory is synced. It never changes; `--init` replaces it as a whole.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use tnv_common::error::Result;

use crate::globals::now;
use crate::volume::disk;

/// The marker's name in the store path.
pub const NAME: &str = ".tnv-volume";

/// What the names of markers begin with that are being made.
const TEMPORARY: &str = ".tnv-volume-";

/// The first line; the number is the version of the form.
const HEAD: &str = "tnv-volume 1";

/// How often it is tried to make a marker: each member that starts at the same moment may spoil one.
const TRIES_MAX: usize = 64;

/// A longer file is no marker.
const BYTES_MAX: u64 = 4096;

/// What makes a volume itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    /// 32 hex digits, random.
    pub id: String,
    /// The store path that it was made for.
    pub store_path: String,
    /// The group that it was made for.
    pub group: String,
    /// Seconds since the epoch.
    pub created: u64,
}

impl Marker {
    /// Of a volume that is new.
    pub fn new(store_path: &str, group: &str) -> Marker {
        Marker {
            id: format!("{:032x}", rand::random::<u128>()),
            store_path: store_path.to_owned(),
            group: group.to_owned(),
            created: now(),
        }
    }

    /// Its ID as a number, as it goes over the wire.
    pub fn number(&self) -> [u8; 16] {
        u128::from_str_radix(&self.id, 16).unwrap_or_default().to_be_bytes()
    }

    /// Reads its text.
    pub fn parse(text: &str) -> Option<Marker> {
        let mut lines = text.lines();
        if lines.next()? != HEAD {
            return None;
        }
        let mut marker =
            Marker { id: String::new(), store_path: String::new(), group: String::new(), created: 0 };
        for line in lines {
            let (key, value) = line.split_once(' ')?;
            match key {
                "id" => marker.id = value.to_owned(),
                "store-path" => marker.store_path = value.to_owned(),
                "group" => marker.group = value.to_owned(),
                "created" => marker.created = value.parse().ok()?,
                // Of a later version.
                _ => {}
            }
        }
        let is_id = marker.id.len() == 32 && marker.id.bytes().all(|byte| byte.is_ascii_hexdigit());
        (is_id && text.ends_with('\n')).then_some(marker)
    }
}

impl fmt::Display for Marker {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Marker { id, store_path, group, created } = self;
        writeln!(out, "{HEAD}\nid {id}\nstore-path {store_path}\ngroup {group}\ncreated {created}")
    }
}

/// Which file a marker is, as long as it lies there: to be compared without opening it.
pub type Stamp = (u64, u64);

/// The stamp of the marker that is there now.
pub fn stamp(store_path: &str) -> io::Result<Stamp> {
    let found = fs::symlink_metadata(Path::new(store_path).join(NAME))?;
    Ok((found.dev(), found.ino()))
}

/// The marker of a store path, where there is one.
pub fn read(store_path: &str) -> io::Result<Option<Marker>> {
    let path = Path::new(store_path).join(NAME);
    let mut bytes = Vec::new();
    match File::open(&path) {
        Ok(file) => file.take(BYTES_MAX).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match std::str::from_utf8(&bytes).ok().and_then(Marker::parse) {
        Some(marker) => Ok(Some(marker)),
        None => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "{} is no marker of a volume; restore it, or have tnv-storage --init make a new one",
                path.display()
            ),
        )),
    }
}

/// Makes the marker of a store path, unless another member was faster; gives the one that is there then.
pub fn create(store_path: &str, marker: &Marker) -> io::Result<Marker> {
    for _ in 0..TRIES_MAX {
        publish(Path::new(store_path), marker)?;
        if let Some(found) = read(store_path)? {
            return Ok(found);
        }
        // Another member tidied up what was being made here, and has not made its own yet.
    }
    Err(io::ErrorKind::NotFound.into())
}

fn publish(directory: &Path, marker: &Marker) -> io::Result<()> {
    let path = directory.join(NAME);
    tidy(directory)?;
    let temporary = write_temporary(directory, marker)?;
    let linked = match fs::hard_link(&temporary, &path) {
        Err(error) if !has_links(&error) => write_directly(&path, marker),
        linked => linked,
    };
    let removed = fs::remove_file(&temporary);
    match linked {
        Err(error) if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => {}
        linked => {
            linked?;
            if let Err(error) = removed
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error);
            }
        }
    }
    // Also after another one's: its name need not be durable yet.
    disk::sync_directory(directory)
}

/// Puts a marker in the place of whatever is there.
pub fn replace(store_path: &str, marker: &Marker) -> io::Result<()> {
    let directory = Path::new(store_path);
    disk::replace_file(&directory.join(NAME), &temporary_in(directory), marker.to_string().as_bytes())
}

fn temporary_in(directory: &Path) -> std::path::PathBuf {
    directory.join(format!("{TEMPORARY}{:016x}", rand::random::<u64>()))
}

fn write_temporary(directory: &Path, marker: &Marker) -> io::Result<std::path::PathBuf> {
    let temporary = temporary_in(directory);
    write_directly(&temporary, marker).inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })?;
    Ok(temporary)
}

fn write_directly(path: &Path, marker: &Marker) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(marker.to_string().as_bytes())?;
    file.sync_all()
}

/// Whether a file system that answered so has links at all.
fn has_links(error: &io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied)
        && error.raw_os_error() != Some(rustix::io::Errno::OPNOTSUPP.raw_os_error())
}

/// Removes what a kill left of markers that were being made.
fn tidy(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(TEMPORARY.as_bytes()) {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// What the rows say of a store path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// None names a file under it.
    NoRows,
    /// One does whose file is here.
    Right,
    /// So many were looked at, and none has its file here.
    Wrong {
        /// All of them.
        rows: usize,
        /// Those that say that they are this group's.
        own: usize,
    },
    /// More rows are to be read.
    Unfinished,
}

/// What shows whose disk it is where no marker does.
pub trait Evidence: Send {
    /// Looks for files under this store path that are known to be somewhere. Goes on until it knows, or until
    /// `deadline`; the next call goes on from there.
    fn look(&mut self, store_path: &str, deadline: Instant) -> Result<Finding>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use std::collections::HashSet;
    use std::thread;

    fn text(scratch: &Scratch) -> &str {
        scratch.path().to_str().unwrap()
    }

    #[test]
    fn of_members_that_start_at_once_one_makes_the_marker_and_all_have_it() {
        for _ in 0..20 {
            let scratch = Scratch::new();
            let ids: HashSet<String> = thread::scope(|scope| {
                let members: Vec<_> = (0..8)
                    .map(|_| {
                        scope
                            .spawn(|| create(text(&scratch), &Marker::new("../data", "group001")).unwrap().id)
                    })
                    .collect();
                members.into_iter().map(|member| member.join().unwrap()).collect()
            });
            assert_eq!(ids.len(), 1);
            assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1, "nothing else is left");
        }
    }

    #[test]
    fn a_marker_is_read_back_and_what_is_none_is_not_believed() {
        let scratch = Scratch::new();
        assert_eq!(read(text(&scratch)).unwrap(), None);
        let marker = Marker::new("../data", "group001");
        fs::write(scratch.path().join(".tnv-volume-kill"), "tnv-vol").unwrap();
        assert_eq!(create(text(&scratch), &marker).unwrap(), marker);
        assert_eq!(create(text(&scratch), &Marker::new("x", "y")).unwrap(), marker, "the first one stays");
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
        let whole = marker.to_string();
        assert_eq!(Marker::parse(&format!("{whole}later field\n")), Some(marker.clone()));
        for end in [0, 5, 13, 40, whole.len() - 1] {
            assert_eq!(Marker::parse(&whole[..end]), None, "{end}");
        }
        fs::write(scratch.path().join(NAME), "").unwrap();
        assert_eq!(read(text(&scratch)).unwrap_err().kind(), io::ErrorKind::InvalidData);
        replace(text(&scratch), &marker).unwrap();
        assert_eq!(read(text(&scratch)).unwrap(), Some(marker));
    }
}
