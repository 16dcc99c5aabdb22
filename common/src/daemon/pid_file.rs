//! The file with the process number: `--pid-file FILE`.
//!
//! - The server holds it locked (flock) from its start to its end. So no two servers run with one file, and
//!   whether one runs is what the lock says, whatever the text says: the kernel lets go of it with the process.
//! - The number is written when the server can be reached. So a file that has the number of its server says that
//!   this one is ready, however little is logged.
//! - Where it ends in order the file is emptied, and removed where the directory lets it.

use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use log::error;
use rustix::fs::{FlockOperation, Mode, OFlags, fchmod, flock, open};

use crate::error::{Context, Result};
use crate::fail;

/// How often the lock is tried, and the pause between: what asks whether a server runs holds it for a moment.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// Not for all users: a user who can open the file can lock it, and so keep a server from starting.
const MODE: Mode = Mode::from_raw_mode(0o640);

/// The file of this process.
static PID_FILE: Mutex<Option<PidFile>> = Mutex::new(None);

/// Takes the file for this process; fails where a process that runs has it.
pub(super) fn take(path: &Path) -> Result<()> {
    *pid_file() = Some(PidFile::lock(path)?);
    Ok(())
}

/// Writes the number, where there is a file.
pub(super) fn write() {
    if let Some(pid_file) = pid_file().as_ref() {
        pid_file.write();
    }
}

/// Empties the file and lets go of it.
pub(super) fn release() {
    drop(pid_file().take());
}

fn pid_file() -> MutexGuard<'static, Option<PidFile>> {
    PID_FILE.lock().unwrap_or_else(PoisonError::into_inner)
}

struct PidFile {
    path: PathBuf,
    file: File,
}

impl PidFile {
    fn lock(path: &Path) -> Result<PidFile> {
        let shown = path.display();
        for _ in 0..TRIES {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
            let opened = open(path, flags, MODE).map_err(io::Error::from);
            let file = File::from(opened.context(|| format!("cannot open the pid file {shown}"))?);
            let found = file.metadata().context(|| format!("cannot read the pid file {shown}"))?;
            if !found.is_file() {
                return fail!(Invalid, "the pid file {shown} is no regular file");
            }
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    thread::sleep(PAUSE);
                    continue;
                }
                Err(error) => {
                    return Err(io::Error::from(error))
                        .context(|| format!("cannot lock the pid file {shown}"));
                }
            }
            // Who had it before may have removed it meanwhile: then the lock is of a file without a name.
            if is_named(path, &found) {
                // One that an operator made is kept from other users like ours. That of another user's stays as it
                // is: who made it decides.
                let mode = Mode::from_raw_mode(found.mode()) & MODE;
                let _ = fchmod(&file, mode);
                // A full disk is found now, and not when a start script waits for the number.
                let emptied =
                    file.set_len(0).and_then(|()| (&file).write_all(b"\n")).and_then(|()| file.set_len(0));
                emptied.context(|| format!("cannot write the pid file {shown}"))?;
                return Ok(PidFile { path: path.to_owned(), file });
            }
        }
        let holder = fs::read_to_string(path).unwrap_or_default();
        let holder = match holder.trim().parse::<u32>() {
            Ok(pid) => format!("process {pid}"),
            Err(_) => "a process that is not ready yet".to_owned(),
        };
        fail!(Busy, "the pid file {shown} is locked: {holder} runs with it; stop that one first")
    }

    fn write(&self) {
        let written = self.file.write_all_at(format!("{}\n", process::id()).as_bytes(), 0);
        if let Err(error) = written {
            error!("cannot write the process number to {}: {error}", self.path.display());
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // The name goes before the lock does. In a directory of another user's it stays, without a number. Where an
        // operator removed it, another server may have it now.
        let _ = self.file.set_len(0);
        if self.file.metadata().is_ok_and(|own| is_named(&self.path, &own)) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether the path names this very file.
fn is_named(path: &Path, file: &Metadata) -> bool {
    fs::symlink_metadata(path).is_ok_and(|named| (named.dev(), named.ino()) == (file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn one_process_has_the_file_and_leaves_none() {
        let path = std::env::temp_dir().join(format!("tnv-pid-file-{}", process::id()));
        // Of a server that was killed: longer than the number that replaces it.
        fs::write(&path, "12345678901234567890\n").unwrap();
        let first = PidFile::lock(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "", "it is not ready");
        assert_eq!(PidFile::lock(&path).err().unwrap().kind(), ErrorKind::Busy);
        first.write();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", process::id()));
        let error = PidFile::lock(&path).err().unwrap();
        assert!(error.message().contains(&format!("process {}", process::id())), "{error}");
        drop(first);
        assert!(!path.exists());
        drop(PidFile::lock(&path).unwrap());
        let error = PidFile::lock(Path::new("/dev/null")).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }

    /// An operator removed the file of a server that ran, and the next server made its own. The first one removed that
    /// when it ended, so that a third one could start beside the second.
    #[test]
    fn one_process_does_not_remove_the_file_of_another() {
        let path = std::env::temp_dir().join(format!("tnv-pid-file-other-{}", process::id()));
        let first = PidFile::lock(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let second = PidFile::lock(&path).unwrap();
        second.write();
        drop(first);
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", process::id()));
        assert_eq!(PidFile::lock(&path).err().unwrap().kind(), ErrorKind::Busy);
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_all_users_may_open_is_closed_to_them() {
        let path = std::env::temp_dir().join(format!("tnv-pid-file-mode-{}", process::id()));
        for (before, after) in [(0o644, 0o640), (0o666, 0o640), (0o600, 0o600), (0o640, 0o640)] {
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(before)).unwrap();
            let held = PidFile::lock(&path).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, after, "{before:o}");
            drop(held);
        }
    }
}
