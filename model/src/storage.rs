//! The storage's syncing of directories.

#[path = "../../storage/src/file/dirsync.rs"]
pub mod dirsync;
#[path = "../../storage/src/file/disk.rs"]
pub mod disk;
#[path = "../../storage/src/file/paths.rs"]
pub mod paths;
