//! What is compiled of `storage/src/file`.

#[path = "../../storage/src/file/directory_sync.rs"]
pub mod directory_sync;
