//! What every part of TNV stands on. From the bottom up: [`error`] and [`limits`]; [`wire`], which
//! alone knows the layout of messages; [`net`], sockets with deadlines; [`conn`], the client's end
//! of a framed connection; [`allow`], who may connect; [`secret`], what is proven with a
//! key, [`link`], signed links, and
//! [`appkey`], keys of applications; [`server`], the accept loop and its workers, [`drain`], the polite end of
//! a connection, [`slots`], which keep some workers free of the database, and [`framed`], the
//! server's end of the protocol on it, with [`receive`], content on its way in at a [`pace`], and [`reply`], what is
//! on its way out; [`buffer_pool`] and [`memory_budget`], what these may hold; [`config`]; [`db`]; and [`daemon`], the life of a server
//! process.

pub mod allow;
pub mod appkey;
pub mod buffer_pool;
pub mod config;
pub mod conn;
pub mod daemon;
pub mod db;
pub mod drain;
pub mod error;
pub mod framed;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod limits;
pub mod link;
pub mod memory_budget;
pub mod net;
pub mod pace;
pub mod peer;
pub mod receive;
pub mod reply;
pub mod secret;
pub mod server;
pub mod slots;
pub mod stop;
pub mod sync;
pub mod text;
pub mod wire;
pub mod workers;
