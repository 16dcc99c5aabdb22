//! The storage's syncing of directories.

#[path = "../../storage/src/file/directory_sync.rs"]
pub mod directory_sync;
#[path = "../../storage/src/file/disk.rs"]
pub mod disk;
#[path = "../../storage/src/file/paths.rs"]
pub mod paths;
