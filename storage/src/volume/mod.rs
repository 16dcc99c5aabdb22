//! Volumes: a store path and the disk that it leads to.
//!
//! - `placement`: which of them work and have room, and in what order to try them for a new file.
//! - `state`: what is known of one; `probe`: the thread that asks its disk; `reservation`: space for uploads under way.
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
mod probe;
pub mod quarantine;
pub mod reservation;
pub mod state;
#[cfg(test)]
mod tests;
