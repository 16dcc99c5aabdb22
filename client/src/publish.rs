//! Files that are whole or absent. Content goes into a file without a name where the file system has
//! such (so that nothing is left even after a kill), else into one with a temporary name in the same
//! directory, and gets its own name only when it is complete and on disk:
//!
//! 1. fsync of the file: the name must not come before the content;
//! 2. link to a temporary name, where it had none: only a rename replaces what is there;
//! 3. rename to its name;
//! 4. fsync of the directory: then the name lasts.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};
use tnv_common::error::{Context, Result};
use tnv_common::fail;

/// The names of temporary files that this process is writing. One for each download under way.
static TEMPORARIES: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Longest part of the file's own name in a temporary name: file systems hold names of 255 bytes.
const NAME_BYTES_MAX: usize = 200;

/// Where a process finds its open files.
const DESCRIPTORS: &str = "/proc/self/fd";

/// How often another temporary name is tried where one is taken.
const NAMES_TRIED_MAX: usize = 16;

/// Removes the temporary files of downloads under way, for a process that is about to end on a signal.
pub fn remove_temporaries() {
    for path in std::mem::take(&mut *temporaries()) {
        // It may have been published or removed just now.
        let _ = fs::remove_file(path);
    }
}

fn temporaries() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    TEMPORARIES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file in the making. Dropped, it leaves nothing.
pub(crate) struct Temporary {
    file: File,
    /// Its temporary name, where it has one.
    name: Option<Name>,
    path: PathBuf,
    directory: PathBuf,
}

impl Temporary {
    /// Begins a file that is to be `path`. What can be found wrong with that is found before any
    /// content is fetched.
    pub(crate) fn create(path: &Path) -> Result<Temporary> {
        let path = target(path)?;
        let directory = directory(&path);
        // Without /proc, as in a bare chroot, such a file could not be given a name later.
        if Path::new(DESCRIPTORS).exists() {
            let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
            if let Ok(fd) = openat(CWD, &directory, flags, mode()) {
                return Ok(Temporary { file: fd.into(), name: None, path, directory });
            }
            // Not on this file system; what else may be wrong the other way tells.
        }
        Temporary::create_named(path, directory)
    }

    fn create_named(path: PathBuf, directory: PathBuf) -> Result<Temporary> {
        let (file, name) =
            Name::make(&path, &directory, |name| OpenOptions::new().write(true).create_new(true).open(name))?;
        Ok(Temporary { file, name: Some(name), path, directory })
    }

    /// Where the content goes.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file its name.
    pub(crate) fn publish(mut self) -> Result<()> {
        let path = self.path.clone();
        if let Ok(before) = fs::metadata(&path) {
            self.file.set_permissions(before.permissions()).context(|| path.display())?;
        }
        self.file.sync_all().context(|| format!("fsync {}", path.display()))?;
        let name = match self.name.take() {
            Some(name) => name,
            None => self.link()?,
        };
        fs::rename(&name.path, &path).context(|| format!("rename to {}", path.display()))?;
        name.forget();
        let directory = File::open(&self.directory).and_then(|directory| directory.sync_all());
        directory.context(|| format!("fsync {}", self.directory.display()))
    }

    /// Gives a file without a name a temporary one.
    fn link(&self) -> Result<Name> {
        let fd = format!("{DESCRIPTORS}/{}", self.file.as_raw_fd());
        let linked = Name::make(&self.path, &self.directory, |name| {
            linkat(CWD, &fd, CWD, name, AtFlags::SYMLINK_FOLLOW).map_err(io::Error::from)
        });
        linked.map(|((), name)| name)
    }
}

/// A temporary name that is taken; dropped, it is removed.
struct Name {
    path: PathBuf,
}

impl Name {
    /// Finds a free name beside `path` and has it made. It is remembered before it exists, so that a
    /// signal in between finds it. GlusterFS places `.NAME.XXXXXX` where it places NAME.
    fn make<T>(
        path: &Path,
        directory: &Path,
        mut make: impl FnMut(&Path) -> io::Result<T>,
    ) -> Result<(T, Name)> {
        let own = path.file_name().unwrap_or_default().to_string_lossy();
        let own = &own[..own.floor_char_boundary(NAME_BYTES_MAX)];
        for _ in 0..NAMES_TRIED_MAX {
            let random: u32 = rand::random_range(0..=0xFF_FFFF);
            let name = directory.join(format!(".{own}.{random:06x}"));
            temporaries().insert(name.clone());
            match make(&name) {
                Ok(made) => return Ok((made, Name { path: name })),
                Err(error) => {
                    temporaries().remove(&name);
                    if error.kind() != io::ErrorKind::AlreadyExists {
                        return Err(error).context(|| format!("cannot write {}", path.display()));
                    }
                }
            }
        }
        fail!(Exists, "no free temporary name in {} for '{own}'", directory.display())
    }

    /// It has become the file.
    fn forget(self) {
        temporaries().remove(&self.path);
        std::mem::forget(self);
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            log::warn!("remove {}: {error}", self.path.display());
        }
        temporaries().remove(&self.path);
    }
}

/// What new files may be, less the umask.
fn mode() -> Mode {
    Mode::from_raw_mode(0o666)
}

/// Where a path leads. A link is followed, so that it stays a link; only a regular file is replaced.
fn target(path: &Path) -> Result<PathBuf> {
    let shown = path.display();
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match path.file_name() {
                Some(_) => Ok(path.to_owned()),
                None => fail!(Invalid, "cannot write '{shown}', want the name of a file"),
            };
        }
        Err(error) => return Err(error).context(|| format!("cannot write {shown}")),
    };
    let path = match found.is_symlink() {
        true => fs::canonicalize(path).context(|| format!("cannot follow the link {shown}"))?,
        false => path.to_owned(),
    };
    let kind = fs::metadata(&path).context(|| format!("cannot write {shown}"))?.file_type();
    if kind.is_file() {
        return Ok(path);
    }
    let what = match kind {
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    };
    fail!(Invalid, "cannot write '{shown}', it is {what}, want a regular file")
}

/// The directory that a file is in.
fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// As on a file system without nameless files.
    fn named(path: &Path) -> Temporary {
        Temporary::create_named(path.to_owned(), directory(path)).unwrap()
    }

    #[test]
    fn without_nameless_files_a_file_is_whole_or_absent_too() {
        let scratch = std::env::temp_dir().join(format!("tnv-publish-{}", std::process::id()));
        fs::create_dir_all(&scratch).unwrap();
        let names = || fs::read_dir(&scratch).unwrap().count();
        let path = scratch.join("film");

        let temporary = named(&path);
        temporary.file().write_all(b"half").unwrap();
        assert_eq!((names(), path.exists()), (1, false));
        drop(temporary);
        assert_eq!(names(), 0);

        let temporary = named(&path);
        temporary.file().write_all(b"whole").unwrap();
        temporary.publish().unwrap();
        assert_eq!((names(), fs::read(&path).unwrap().as_slice()), (1, &b"whole"[..]));

        // A signal in the middle.
        let temporary = named(&path);
        assert_eq!(names(), 2);
        remove_temporaries();
        assert_eq!((names(), path.exists()), (1, true));
        drop(temporary);
        fs::remove_dir_all(&scratch).unwrap();
    }

    #[test]
    fn temporary_names_lie_where_glusterfs_places_the_file() {
        let path = Path::new("/tmp/film.mp4");
        let made = Name::make(path, Path::new("/tmp"), |_| Ok(()));
        let ((), name) = made.unwrap();
        let text = name.path.to_str().unwrap().to_owned();
        assert!(text.starts_with("/tmp/.film.mp4.") && text.len() == "/tmp/.film.mp4.123456".len(), "{text}");
        name.forget();
    }
}
