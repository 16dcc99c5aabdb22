//! The storage, which keeps the files of its group, as a library: the binary `tnv-storage` is one call
//! of it, and what it reads from disks can be fuzzed. From the way in to the ground: `server`, then
//! `service`, which knows the commands, and `session`, who may upload and delete; then `file`, `db`, `cache`
//! and `id`, which do the work, then `globals`; beside them `tracker`, which keeps this storage joined, and
//! `scrub`, which reads all files again and again; and, instead of serving, `fsck`, which compares tables and
//! files, and `init`, which marks a store path's disk.

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
