//! Messages on sockets: a header of 10 bytes, then a body, either way. Nothing here knows a command.
//!
//! - `header`: the bytes that open every message.
//! - `dialect`: what a protocol says in its own way within these frames.
//! - `server`: the server's end, on the event loop; `message`: a message on its way in; `request`: what its handler
//!   sees.
//! - `receive`, `pace`: content on its way in, and how slow its sender may be.
//! - `reply`: a reply on its way out.
//! - `client`: the client's end of a TNV connection.

pub mod client;
pub mod dialect;
pub mod header;
mod message;
pub mod pace;
pub mod receive;
pub mod reply;
mod request;
pub mod server;
