//! What is compiled of `common/src/net`.

#[path = "../../common/src/net/worker_pool.rs"]
pub mod worker_pool;
