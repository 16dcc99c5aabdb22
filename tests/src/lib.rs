//! The harness: starts the real binaries as an operator would, each with a configuration file of its
//! own in a fresh directory, and talks to them in raw bytes. It knows the protocol from its document
//! alone and shares no code with the house it tests: an encoder that is wrong at both ends must fail
//! here.

pub mod bins;
pub mod cluster;
pub mod dir;
pub mod fsck;
pub mod fuzz;
pub mod hosts;
pub mod http;
pub mod mariadb;
pub mod mount;
pub mod port;
pub mod power;
pub mod process;
pub mod raw;
pub mod strace;
pub mod tools;

pub use cluster::{Builder, Cluster, Db};
pub use dir::Dir;
pub use process::Process;
pub use raw::{Frame, Raw};
pub use tools::{Output, PATIENCE, patient, sample, skipped};
