//! The database's writer, the statements that it takes, and what it needs of an engine.

pub use common::db::{DbSettings, Sql, Value, Written};

#[path = "../../common/src/db/engine.rs"]
pub mod engine;
#[path = "../../common/src/db/group_commit.rs"]
pub mod group_commit;
#[path = "../../common/src/db/statement.rs"]
pub mod statement;

mod schema {
    pub use common::db::Sql;
}

mod value {
    pub use common::db::{Value, Written};
}
