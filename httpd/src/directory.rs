//! The directory of the private socket: open to this user alone, gone with the server, and those
//! that killed servers left are removed by the next one.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tnv_common::error::Result;
use tnv_common::fail;

const PREFIX: &str = "tnv-httpd-";

/// A unix socket's path has at most 107 bytes; our part of it, with the socket's name, takes 40.
const PARENT_BYTES_MAX: usize = 66;

/// A server listens well within this of making its directory.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A directory of mode 0700, removed when it is dropped.
pub struct PrivateDirectory {
    path: PathBuf,
}

impl PrivateDirectory {
    /// Makes one in the directory for temporary files, or, where there is none, in the working
    /// directory.
    pub fn make() -> Result<PrivateDirectory> {
        let temporary = std::env::temp_dir();
        let mut failures = Vec::new();
        for parent in [temporary.as_path(), Path::new(".")] {
            match make_in(parent) {
                Ok(path) => {
                    remove_stale(parent, &path);
                    return Ok(PrivateDirectory { path });
                }
                Err(error) => failures.push(format!("{}: {error}", parent.display())),
            }
        }
        fail!(
            Unavailable,
            "make a directory for the private socket: {}; TMPDIR may name another place",
            failures.join("; ")
        )
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, if it is still there.
    pub fn remove(&self) {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                log::warn!("remove {}: {error}", self.path.display());
            }
            _ => {}
        }
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        self.remove();
    }
}

fn make_in(parent: &Path) -> io::Result<PathBuf> {
    if parent.as_os_str().len() > PARENT_BYTES_MAX {
        return Err(io::Error::other(format!("its path is longer than {PARENT_BYTES_MAX} bytes")));
    }
    // The number keeps a stranger from taking the name first, to stop the server from starting.
    let path = parent.join(format!("{PREFIX}{}-{:08x}", std::process::id(), rand::random::<u32>()));
    DirBuilder::new().mode(0o700).create(&path)?;
    Ok(path)
}

/// Removes what killed servers of this user left beside `own`.
fn remove_stale(parent: &Path, own: &Path) {
    let (Ok(entries), Ok(metadata)) = (fs::read_dir(parent), fs::metadata(own)) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        // Not following links: what lies there must be a directory, and ours.
        let is_ours = entry.metadata().is_ok_and(|found| found.is_dir() && found.uid() == metadata.uid());
        let is_stale = path != own && is_ours && owner_of(&path).is_some_and(|pid| !is_alive(pid, &path));
        if is_stale {
            match fs::remove_dir_all(&path) {
                Ok(()) => log::info!("removed {}, which a killed server left", path.display()),
                Err(error) => log::warn!("remove {}: {error}", path.display()),
            }
        }
    }
}

/// The process that a directory is named for.
fn owner_of(path: &Path) -> Option<u32> {
    let (pid, _) = path.file_name()?.to_str()?.strip_prefix(PREFIX)?.split_once('-')?;
    pid.parse().ok()
}

/// Whether a server lives in there: somebody listens, or it is one that has just been started. The
/// process alone says too little: its number may be another's by now, or another container's.
fn is_alive(pid: u32, directory: &Path) -> bool {
    let Ok(mut entries) = fs::read_dir(directory) else { return true };
    let is_listening =
        entries.any(|entry| entry.is_ok_and(|entry| UnixStream::connect(entry.path()).is_ok()));
    let modified = fs::metadata(directory).and_then(|metadata| metadata.modified());
    let is_young = modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age < START_TIMEOUT));
    is_listening || (is_young && Path::new("/proc").join(pid.to_string()).exists())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_directory_is_private_and_goes_with_its_server() {
        let directory = PrivateDirectory::make().unwrap();
        let path = directory.path().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(path.join("0.sock"), "").unwrap();
        drop(directory);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_killed_server_left_is_removed_and_what_lives_stays() {
        let scratch = std::env::temp_dir().join(format!("tnv-test-{:08x}", rand::random::<u32>()));
        fs::create_dir(&scratch).unwrap();
        let dead = scratch.join(format!("{PREFIX}4194304-00000000"));
        let living = scratch.join(format!("{PREFIX}{}-00000000", std::process::id()));
        let reused = scratch.join(format!("{PREFIX}{}-11111111", std::process::id()));
        let listening = scratch.join(format!("{PREFIX}4194305-00000000"));
        let other = scratch.join(format!("{PREFIX}no-number"));
        for path in [&dead, &living, &reused, &listening, &other] {
            fs::create_dir(path).unwrap();
        }
        fs::write(dead.join("0.sock"), "").unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(listening.join("0.sock")).unwrap();
        let long_ago = std::time::SystemTime::now() - START_TIMEOUT;
        fs::File::open(&reused).unwrap().set_modified(long_ago).unwrap();
        let own = make_in(&scratch).unwrap();
        remove_stale(&scratch, &own);
        assert!(!dead.exists() && !reused.exists());
        assert!(living.exists() && listening.exists() && other.exists() && own.exists());
        fs::remove_dir_all(&scratch).unwrap();
    }
}
