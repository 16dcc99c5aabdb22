//! The files of other crates that have threads, locks and waits of their own making, compiled a second time with
//! `shuttle` in the place of std's: its scheduler decides at each lock, wait and wake-up which thread goes on, by a
//! seed, so that a test tries thousands of interleavings and can repeat the one that failed. The tests are in
//! `tests/`; no server has any of this.
//!
//! What is compiled here takes its locks, threads and clock from [`sync`]. The rest of what it needs is the real one.

// Nothing is here for unit tests: those of these files run in their own crates, with real threads.

// Files of the storage and the ID server name `tnv_common`, and mean what is here.
#[cfg(not(test))]
extern crate self as tnv_common;

#[cfg(not(test))]
pub use common::{error, fail, limits, log_context, proto, text};

#[cfg(not(test))]
pub mod db;
#[cfg(not(test))]
pub mod file;
#[cfg(not(test))]
#[path = "../../idserver/src/globals.rs"]
pub mod globals;
#[cfg(not(test))]
pub mod net;
#[cfg(not(test))]
pub mod scenario;
#[cfg(not(test))]
pub mod sync;
#[cfg(not(test))]
pub mod volume;
