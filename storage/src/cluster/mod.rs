//! What this storage asks of other servers.
//!
//! - `connect`: connections to them, from the address that it serves on.
//! - `tracker`: a thread for each tracker keeps this storage joined.
//! - `ids`: numbers from the ID servers.

mod connect;
pub mod ids;
pub mod tracker;
