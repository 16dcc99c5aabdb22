//! What is compiled of `storage/src/volume`.

#[path = "../../storage/src/volume/disk.rs"]
pub mod disk;
