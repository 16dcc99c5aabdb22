//! The database's queue and its writer.

pub use common::db::{DbSettings, Sql, Value};

#[path = "../../common/src/db/queue.rs"]
pub mod queue;
#[path = "../../common/src/db/writer.rs"]
pub mod writer;

mod schema {
    pub use common::db::Sql;
}

mod value {
    pub use common::db::Value;
}
