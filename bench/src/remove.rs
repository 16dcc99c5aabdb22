//! Removing a large directory. On a file system that is mounted with `discard` each file that goes waits for its
//! disk, so many go at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// How many directories are emptied at once.
const THREADS: usize = 32;

/// Removes what is in a directory, as far as that is possible; its owner removes the rest.
pub(crate) fn empty(directory: &Path) {
    // Parents before their children, so that the last ones are removed first.
    let mut directories = vec![directory.to_owned()];
    let mut at = 0;
    while at < directories.len() {
        let entries = fs::read_dir(&directories[at]).into_iter().flatten().flatten();
        let inner = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let inner: Vec<PathBuf> = inner.map(|entry| entry.path()).collect();
        directories.extend(inner);
        at += 1;
    }
    let left = Mutex::new(directories.clone());
    at_once(&left, |directory| {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| !kind.is_dir()) {
                let _ = fs::remove_file(entry.path());
            }
        }
    });
    let depth = |path: &Path| path.components().count();
    let Some(deepest) = directories.iter().map(|path| depth(path)).max() else { return };
    for level in (depth(directory) + 1..=deepest).rev() {
        let left = directories.iter().filter(|path| depth(path) == level).cloned().collect();
        at_once(&Mutex::new(left), |directory| drop(fs::remove_dir(directory)));
    }
}

fn at_once(left: &Mutex<Vec<PathBuf>>, what: impl Fn(&Path) + Sync) {
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).pop();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(directory) = next() {
                    what(&directory);
                }
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use tnv_tests::Dir;

    use super::*;

    #[test]
    fn a_directory_is_emptied_and_links_are_not_followed() {
        let dir = Dir::new("remove");
        let kept = dir.join("kept");
        fs::create_dir(&kept).expect("make a directory");
        fs::write(kept.join("file"), "x").expect("write a file");
        let gone = dir.join("gone");
        for place in 0..40 {
            fs::create_dir_all(gone.join(format!("{place}/inner/most"))).expect("make directories");
            fs::write(gone.join(format!("{place}/inner/file")), "x").expect("write a file");
        }
        std::os::unix::fs::symlink(&kept, gone.join("link")).expect("make a link");
        empty(&gone);
        assert_eq!(fs::read_dir(&gone).expect("a directory").count(), 0);
        assert!(kept.join("file").exists());
    }
}
