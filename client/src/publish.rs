//! Files that appear complete or not at all. Content goes into an unnamed file (`O_TMPFILE`), of which even a
//! kill leaves nothing. A file system without it gets a temporary name in the same directory. Then, in this
//! order:
//!
//! 1. fsync of the file: the name must not appear before the content is durable;
//! 2. link of an unnamed file to a temporary name: only a rename replaces an older file;
//! 3. rename to the final name;
//! 4. fsync of the directory, which makes the name durable.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};
use tempfile::TempPath;
use tnv_common::error::{Context, Result};
use tnv_common::fail;

/// The temporary files of this process, one for each download in progress.
static TEMPORARIES: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Most bytes of the final name in a temporary name: file systems limit names to 255 bytes.
const NAME_BYTES_MAX: usize = 200;

/// Links to the open files of this process.
const DESCRIPTORS: &str = "/proc/self/fd";

/// Removes the temporary files of all downloads in progress. Call it before the process ends on a signal.
pub fn remove_temporaries() {
    for path in std::mem::take(&mut *temporaries()) {
        // It may have been published or removed in the meantime.
        let _ = fs::remove_file(path);
    }
}

fn temporaries() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    TEMPORARIES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file that is being written. Dropping it removes it.
pub(crate) struct TemporaryFile {
    file: File,
    /// Its temporary name; an unnamed file has none.
    name: Option<Name>,
    path: PathBuf,
    directory: PathBuf,
}

impl TemporaryFile {
    /// Starts the file that becomes `path`. A path that cannot be written fails here, before any content is
    /// fetched.
    pub(crate) fn create(path: &Path) -> Result<TemporaryFile> {
        let path = target(path)?;
        let directory = directory(&path);
        // Without /proc, as in a bare chroot, an unnamed file cannot be linked.
        if Path::new(DESCRIPTORS).exists() {
            let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
            if let Ok(fd) = openat(CWD, &directory, flags, mode()) {
                return Ok(TemporaryFile { file: fd.into(), name: None, path, directory });
            }
            // The file system may lack O_TMPFILE. A named file reports any other error.
        }
        TemporaryFile::create_named(path, directory)
    }

    fn create_named(path: PathBuf, directory: PathBuf) -> Result<TemporaryFile> {
        let (file, name) = Name::create(&path, &directory, |name| {
            OpenOptions::new().write(true).create_new(true).open(name)
        })?;
        Ok(TemporaryFile { file, name: Some(name), path, directory })
    }

    /// The file to write to.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file its final name.
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
        let renamed = name.path.persist(&path).map_err(|error| error.error);
        renamed.context(|| format!("rename to {}", path.display()))?;
        let directory = File::open(&self.directory).and_then(|directory| directory.sync_all());
        directory.context(|| format!("fsync {}", self.directory.display()))
    }

    /// Links an unnamed file to a temporary name.
    fn link(&self) -> Result<Name> {
        let fd = format!("{DESCRIPTORS}/{}", self.file.as_raw_fd());
        let linked = Name::create(&self.path, &self.directory, |name| {
            linkat(CWD, &fd, CWD, name, AtFlags::SYMLINK_FOLLOW).map_err(io::Error::from)
        });
        linked.map(|((), name)| name)
    }
}

/// A temporary name in the file system. Dropping it removes it.
struct Name {
    path: TempPath,
    // After the path, so that it is dropped after the file is removed.
    _registered: Registered,
}

impl Name {
    /// Creates a free name next to `path`. GlusterFS stores `.NAME.XXXXXX` on the same brick as NAME.
    fn create<T>(
        path: &Path,
        directory: &Path,
        mut create: impl FnMut(&Path) -> io::Result<T>,
    ) -> Result<(T, Name)> {
        let own = path.file_name().unwrap_or_default().to_string_lossy();
        let own = &own[..own.floor_char_boundary(NAME_BYTES_MAX)];
        let created = tempfile::Builder::new().prefix(&format!(".{own}.")).make_in(directory, |name| {
            let registered = Registered::new(name);
            Ok((create(name)?, registered))
        });
        let created = created.context(|| format!("cannot write {}", path.display()))?;
        let ((value, registered), path) = created.into_parts();
        Ok((value, Name { path, _registered: registered }))
    }
}

/// A temporary name that a signal handler removes. It is registered before the file exists.
struct Registered(PathBuf);

impl Registered {
    fn new(path: &Path) -> Registered {
        temporaries().insert(path.to_owned());
        Registered(path.to_owned())
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        temporaries().remove(&self.0);
    }
}

/// The permissions of a new file, before the umask.
fn mode() -> Mode {
    Mode::from_raw_mode(0o666)
}

/// The file that a path means. A symbolic link is followed and stays; only a regular file is replaced.
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
        true => fs::canonicalize(path).context(|| format!("cannot follow the symbolic link {shown}"))?,
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

/// The directory of a file.
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

    /// As on a file system without `O_TMPFILE`.
    fn named(path: &Path) -> TemporaryFile {
        TemporaryFile::create_named(path.to_owned(), directory(path)).unwrap()
    }

    #[test]
    fn a_file_with_a_temporary_name_appears_complete_or_not_at_all() {
        let scratch = tempfile::tempdir().unwrap();
        let names = || fs::read_dir(&scratch).unwrap().count();
        let path = scratch.path().join("film");

        let temporary = named(&path);
        temporary.file().write_all(b"half").unwrap();
        assert_eq!((names(), path.exists()), (1, false));
        drop(temporary);
        assert_eq!(names(), 0);

        let temporary = named(&path);
        temporary.file().write_all(b"whole").unwrap();
        temporary.publish().unwrap();
        assert_eq!((names(), fs::read(&path).unwrap().as_slice()), (1, &b"whole"[..]));

        // A signal during the download.
        let temporary = named(&path);
        assert_eq!(names(), 2);
        remove_temporaries();
        assert_eq!((names(), path.exists()), (1, true));
        drop(temporary);
    }

    #[test]
    fn a_temporary_name_has_the_form_that_glusterfs_expects() {
        let path = Path::new("/tmp/film.mp4");
        let ((), name) = Name::create(path, Path::new("/tmp"), |_| Ok(())).unwrap();
        let text = name.path.to_str().unwrap().to_owned();
        assert!(text.starts_with("/tmp/.film.mp4.") && text.len() == "/tmp/.film.mp4.123456".len(), "{text}");
    }
}
