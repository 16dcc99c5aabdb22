//! What is done with files beside serving them.
//!
//! - `scrub`: a thread that reads all files again and again, and takes damaged ones out of service.
//! - `fsck`: compares rows and files, instead of serving.
//! - `init`: marks the disk of a store path, instead of serving.

pub mod fsck;
pub mod init;
pub mod scrub;
