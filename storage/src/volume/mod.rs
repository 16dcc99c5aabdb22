//! Volumes: a store path and the disk that it leads to.
//!
//! - `placement`: which of them work and have room, and in what order to try them for a new file.
//! - `identity`: which volume a store path leads to.
//! - `health`: whether a disk keeps what it is given.
//! - `journal`, `heartbeat`: what is half done on a volume, and which storage holds that list.
//! - `quarantine`: files that are out of service on this storage.
//! - `disk`: what is asked of a disk beside content, and what sort of failure a failing disk is.

pub mod disk;
pub mod health;
pub mod heartbeat;
pub mod identity;
pub mod journal;
pub mod placement;
pub mod quarantine;
