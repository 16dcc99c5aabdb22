//! What every part of TNV stands on. The floors from the bottom up; a module imports from its own floor and from
//! those below it:
//!
//! 1. [`error`], [`limits`], [`text`], [`sync`], [`cache`] and [`log_context`], which import nothing from above.
//! 2. [`net`]: sockets with deadlines, the event loop and its workers. It knows no protocol.
//! 3. [`proto`]: byte layouts, without sockets; [`auth`]: proofs; [`db`]: the databases; [`config`]: settings.
//! 4. [`rpc`]: messages on sockets, without commands; [`http`]: request and response heads; [`daemon`]: the life of a server process.

pub mod auth;
pub mod cache;
pub mod config;
pub mod daemon;
pub mod db;
pub mod error;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod http;
pub mod limits;
pub mod log_context;
pub mod net;
pub mod proto;
pub mod rpc;
pub mod sync;
pub mod text;
