//! The databases: MySQL or MariaDB where addresses are given, else the embedded one, behind one
//! [`Database`] that the servers use without knowing which.
//!
//! - `schema`: how a server declares its tables and statements.
//! - `value`: parameters, rows, and what a write did.
//! - `charset`: how names beyond ASCII stand in the tables.
//! - `group_commit`: the one thread that writes, in groups, what its callers ask for.
//! - `statement`: what it takes from a caller, and the caller's answer.
//! - `engine`: what it needs of a database.
//! - `semaphore`: how many workers may wait for the database at once.
//! - `pool`, `mysql`, `sqlite`: connections, and the two databases.
//!
//! All statements are prepared; values reach the database as parameters and never as SQL.

mod charset;
mod engine;
mod group_commit;
mod mysql;
mod pool;
mod schema;
pub mod semaphore;
mod settings;
mod sqlite;
mod statement;
mod value;

use std::sync::Arc;
use std::time::Duration;

pub use charset::Charset;
pub use schema::{Column, Index, Schema, Sql, Table};
pub use settings::{DbSettings, Password, Tls, TlsMode};
pub use value::{Row, Value, Written};

use self::group_commit::Writer;
use self::mysql::Mysql;
use self::sqlite::Sqlite;
use crate::error::Result;
use crate::net::stop::Stop;

/// How long a confirmed read waits for the groups that the writer has begun.
const BEGUN_TIMEOUT: Duration = Duration::from_secs(60);

/// An open database. Clones share it.
#[derive(Clone)]
pub struct Database {
    shared: Arc<Shared>,
}

struct Shared {
    /// Closed before `reader`.
    writer: Writer,
    reader: Reader,
}

enum Reader {
    Mysql(Mysql),
    Sqlite(Sqlite),
}

impl Database {
    /// Opens the database and creates what is missing: the database, its tables, and the columns and indexes
    /// that an existing deployment's tables lack.
    ///
    /// Waits for a MySQL server that cannot be reached, two minutes at most or until `stop` is set; one
    /// that refuses is an error at once.
    pub fn open(settings: &DbSettings, schema: &'static Schema, stop: &Stop) -> Result<Database> {
        let (writer, reader) = if settings.is_embedded() {
            let (sqlite, engine) = Sqlite::open(&settings.directory, schema, settings.durable)?;
            (Writer::start(engine)?, Reader::Sqlite(sqlite))
        } else {
            let (mysql, engine) = Mysql::open(settings, schema, stop)?;
            (Writer::start(engine)?, Reader::Mysql(mysql))
        };
        Ok(Database { shared: Arc::new(Shared { writer, reader }) })
    }

    /// Whether the database can be opened, and what it is. Creates and changes nothing, and tries each
    /// address once.
    pub fn probe(settings: &DbSettings, schema: &'static Schema) -> Result<String> {
        match settings.is_embedded() {
            true => Sqlite::probe(&settings.directory, schema),
            false => Mysql::probe(settings, schema),
        }
    }

    /// Whether the database may exist. It does not connect, since opening an embedded database creates it.
    pub fn may_exist(settings: &DbSettings, schema: &'static Schema) -> bool {
        !settings.is_embedded() || Sqlite::exists(&settings.directory, schema)
    }

    /// Which database this is, for the log line of the start.
    pub fn describe(&self) -> String {
        match &self.shared.reader {
            Reader::Mysql(mysql) => mysql.describe(),
            Reader::Sqlite(sqlite) => sqlite.describe(),
        }
    }

    /// The rows of a query.
    pub fn read(&self, sql: &'static Sql, params: &[Value]) -> Result<Vec<Row>> {
        match &self.shared.reader {
            Reader::Mysql(mysql) => mysql.read(sql, params),
            Reader::Sqlite(sqlite) => sqlite.read(sql, params),
        }
    }

    /// The rows of a query, with names as they stand in the table, in the parameters too: for walks through a
    /// table in the order of its key, which must meet each row whatever the character set of its name.
    /// [`Database::name`] decodes one.
    pub fn read_stored(&self, sql: &'static Sql, params: &[Value]) -> Result<Vec<Row>> {
        match &self.shared.reader {
            Reader::Mysql(mysql) => mysql.read_stored(sql, params),
            Reader::Sqlite(sqlite) => sqlite.read(sql, params),
        }
    }

    /// The name that a text of [`Database::read_stored`] stands for.
    pub fn name(&self, stored: &str) -> String {
        match &self.shared.reader {
            Reader::Mysql(mysql) => mysql.name(stored),
            Reader::Sqlite(_) => stored.to_owned(),
        }
    }

    /// A name as it stands in the table: the opposite of [`Database::name`].
    pub fn stored(&self, name: &str) -> String {
        match &self.shared.reader {
            Reader::Mysql(mysql) => mysql.stored(name),
            Reader::Sqlite(_) => name.to_owned(),
        }
    }

    /// Runs one INSERT, UPDATE or DELETE and returns when it is committed, and durable as far as
    /// [`DbSettings::durable`] says.
    ///
    /// Errors: `Exists`, a unique key is taken; `Invalid`, the database refused the statement;
    /// `OutcomeUnknown`, it may or may not be committed (ask [`Database::is_absent`]). Those and
    /// all others but `OutcomeUnknown` (`Unavailable`, `Busy`): not applied, and never will be.
    pub fn write(&self, sql: &'static Sql, params: Vec<Value>) -> Result<Written> {
        self.shared.writer.write(sql, params)
    }

    /// Whether the query finds no row, as a confirmed read: no write of unknown outcome, of this process or
    /// of one that was killed, can make the row appear after `Ok(true)`. In MySQL the query must be a
    /// locking read (`LOCK IN SHARE MODE`), which waits for transactions that are still open. Where
    /// a server cannot be asked: an error.
    pub fn is_absent(&self, sql: &'static Sql, params: &[Value]) -> Result<bool> {
        Ok(self.confirmed(sql, params, true)?.is_empty())
    }

    /// The rows of a confirmed read: a row that is not among them is absent, in the sense and under the
    /// conditions of [`Database::is_absent`]. It gives the rows of all servers. Names are as in
    /// [`Database::read_stored`].
    pub fn read_confirmed(&self, sql: &'static Sql, params: &[Value]) -> Result<Vec<Row>> {
        self.confirmed(sql, params, false)
    }

    /// `any`: the rows of one server are enough, and names are not those of the table.
    fn confirmed(&self, sql: &'static Sql, params: &[Value], any: bool) -> Result<Vec<Row>> {
        self.shared.writer.wait_for_begun(BEGUN_TIMEOUT)?;
        match &self.shared.reader {
            Reader::Mysql(mysql) => mysql.read_confirmed(sql, params, any),
            Reader::Sqlite(sqlite) => sqlite.read_confirmed(sql, params),
        }
    }
}
