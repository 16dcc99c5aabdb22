//! Sockets and the threads that serve them; nothing here knows a protocol.
//!
//! - `stream`: sockets with deadlines; listening, and looking up addresses.
//! - `allow`: which networks may connect.
//! - `event_loop`: accepts, waits in epoll for all connections, and hands those that have work to a worker.
//! - `worker_pool`: the threads that do the work.
//! - `lingering_close`: what is done with a connection that is to be closed, so that its peer reads the last reply.
//! - `memory_budget`, `buffer_pool`: what connections may hold in memory together.
//! - `stop`: the signal that ends a server.

pub mod allow;
pub mod buffer_pool;
pub mod event_loop;
pub mod lingering_close;
pub mod memory_budget;
pub mod stop;
mod stream;
pub mod worker_pool;

pub use stream::{SendFileError, Stream, host_name, listen, resolve};
