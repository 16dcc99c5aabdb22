//! The HTTP server, the client's download wrapped for browsers and players, as a library: the binary
//! `tnv-httpd` is one call of it, and what strangers' bytes go through can be fuzzed.
//!
//! The way of a request: `gate` admits it from the network and reads its head (`head`); `service` finds the
//! file (`target`, `files`), judges conditions and ranges (`conditional`, `range`), says what it is (`kind`,
//! `media`), and answers (`status`); the gate relays the answer (`relay`) and its `content`, in `pieces` that
//! suit the crowd.

mod access_log;
mod conditional;
mod content;
mod files;
mod front_end;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod globals;
mod kind;
mod media;
mod pieces;
mod range;
mod response_writer;
mod server;
mod service;
mod status_code;
mod target;
#[cfg(test)]
mod tests;

pub use server::HttpServer;
