//! File systems of a test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tools::{Output, skipped};

/// A mounted file system, taken away when this is dropped, even from under servers that hold it.
pub struct Mount(PathBuf);

impl Mount {
    /// Mounts with these arguments of mount(8). None where this machine does not let us, which it then
    /// says.
    pub fn new(test: &str, args: &[&str], target: &Path) -> Option<Mount> {
        if !rustix::process::geteuid().is_root() {
            skipped(test, "only root can mount");
            return None;
        }
        fs::create_dir_all(target).expect("make a mount point");
        let mounted = Output::of(Command::new("mount").args(args).arg(target));
        if mounted.code != 0 {
            skipped(test, mounted.stderr.trim());
            return None;
        }
        Some(Mount(target.to_owned()))
    }

    /// A file system in memory with so many MiB.
    pub fn memory(test: &str, mib: u64, target: &Path) -> Option<Mount> {
        Mount::new(test, &["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"], target)
    }

    /// The same directory once more, at another place.
    pub fn bind(test: &str, from: &Path, target: &Path) -> Option<Mount> {
        Mount::new(test, &["--bind", from.to_str().expect("UTF-8")], target)
    }

    /// Lets nobody write through it.
    pub fn make_read_only(&self) {
        let mounted = Output::of(Command::new("mount").args(["-o", "remount,bind,ro"]).arg(&self.0));
        assert_eq!(mounted.code, 0, "{}", mounted.stderr);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        Output::of(Command::new("umount").arg("-l").arg(&self.0));
    }
}
