//! A fresh directory for one test, gone with it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::bins::profile_dir;

/// A directory that is removed when this is dropped.
pub struct Dir(PathBuf);

impl Dir {
    /// Makes one under `target/tmp`, on the disk of the build: a temporary file system may be too
    /// small for the large files.
    pub fn new(name: &str) -> Dir {
        let profile = profile_dir();
        let target = profile.ancestors().nth(2).map_or_else(std::env::temp_dir, Path::to_owned);
        Dir::under(&target.join("tmp"), name)
    }

    /// Makes one in a directory, which is made where it is missing, and stays.
    pub fn under(base: &Path, name: &str) -> Dir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("tnv-{name}-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&path).expect("make the test's directory");
        Dir(path)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A path in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if std::env::var_os("TNV_TESTS_KEEP").is_none() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}
