//! The storage, which keeps the files of its group, as a library: the binary `tnv-storage` is one call
//! of it, and what it reads from disks can be fuzzed. From the top down:
//!
//! - `server` puts it together; `service` knows the commands, `session` who may upload and delete.
//! - `catalog`: one TNV file as a whole; `maintenance`: the scrub, and what is run instead of serving.
//! - `db`, `cache`: rows; `cluster`: what is asked of trackers and ID servers.
//! - `file`: files on volumes, without rows; `volume`: a store path with its disk.
//! - `globals`: settings; `path`: the form of a file's path.

mod cache;
mod catalog;
mod cluster;
mod db;
mod file;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod globals;
mod maintenance;
mod path;
#[cfg(test)]
mod scratch;
mod server;
mod service;
mod session;
mod volume;

pub use server::Storage;
