//! What a server does to a MySQL database at its start: it creates what is missing, and warns of settings and
//! rows that harm. It changes nothing that exists.

use std::result::Result as StdResult;
use std::time::Duration;

use mysql::Conn;
use mysql::prelude::Queryable;

use super::connect::{ConnectError, Connection, Connector, Scope};
use super::errors::{ALREADY_EXISTS, Failure};
use super::rows::{command, query, row_of};
use crate::db::charset::Charset;
use crate::db::schema::{Schema, Table};
use crate::db::value::Value;
use crate::text::shown;

/// How long one statement may take that creates a table, or adds to one that is full.
const CREATE_TIMEOUT: Duration = Duration::from_secs(600);

/// Rows at each end of a table that are read when the server starts: about 1 MiB, in some 10 ms.
const SAMPLE_ROWS: usize = 5_000;

const HAS_DATABASE: &str = "SELECT 1 FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = ?";
const HAS_TABLE: &str = "SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?";
const HAS_COLUMN: &str = "SELECT 1 FROM information_schema.COLUMNS \
     WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND COLUMN_NAME = ?";
const ENGINES: &str = "SELECT TABLE_NAME, ENGINE FROM information_schema.TABLES WHERE TABLE_SCHEMA = ?";
const HAS_INDEX: &str = "SELECT 1 FROM information_schema.STATISTICS \
     WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND INDEX_NAME = ? LIMIT 1";

/// The statements that create what is missing.
#[derive(Default)]
struct Missing {
    database: Option<String>,
    tables: Vec<String>,
}

/// Connects, creates what of the schema is missing, and says what the server is.
pub fn connect_and_migrate(
    connector: &Connector,
    schema: &Schema,
) -> StdResult<(Connection, String), ConnectError> {
    let mut connection = connector.connect(Scope::Server)?;
    let (conn, peer) = (&mut connection.conn, &connection.peer);
    let migrated = find_missing(conn, schema).and_then(|missing| {
        if missing.database.is_some() || !missing.tables.is_empty() {
            // On a connection of its own with a longer time-out: a table may be large.
            let mut patient = connector.log_in(peer, Scope::Server, CREATE_TIMEOUT)?;
            create(&mut patient, schema.database, &missing)?;
        }
        conn.select_db(schema.database)?;
        check(conn, schema, connector.charset())?;
        version(conn)
    });
    connector.note(&mut connection, &migrated);
    let server = migrated.map_err(|failure| connector.connect_error(&connection.address, failure))?;
    let server = format!("{server} at {}, database {}", connection.address, schema.database);
    Ok((connection, server))
}

/// What the server is, and whether it has the database. Creates nothing.
pub fn probe(connector: &Connector, schema: &Schema) -> StdResult<String, ConnectError> {
    let mut connection = connector.connect(Scope::Server)?;
    let conn = &mut connection.conn;
    let found =
        version(conn).and_then(|server| Ok((server, exists(conn, HAS_DATABASE, &[schema.database.into()])?)));
    let (server, exists) = found.map_err(|failure| connector.connect_error(&connection.address, failure))?;
    let state = if exists { "" } else { " (to be made)" };
    Ok(format!("{server} at {}, database {}{state}", connection.address, schema.database))
}

/// An account that may create nothing serves where nothing is missing.
fn find_missing(conn: &mut Conn, schema: &Schema) -> StdResult<Missing, Failure> {
    let database = schema.database;
    let mut missing = Missing::default();
    if !exists(conn, HAS_DATABASE, &[database.into()])? {
        missing.database = Some(schema.mysql_create());
    }
    for table in schema.tables {
        if !exists(conn, HAS_TABLE, &[database.into(), table.name.into()])? {
            missing.tables.push(table.mysql_create());
        }
        for column in table.added {
            if !exists(conn, HAS_COLUMN, &[database.into(), table.name.into(), column.name.into()])? {
                missing.tables.push(table.mysql_add_column(column));
            }
        }
        for index in table.indexes {
            if !exists(conn, HAS_INDEX, &[database.into(), table.name.into(), index.name.into()])? {
                missing.tables.push(table.mysql_add_index(index));
            }
        }
    }
    Ok(missing)
}

/// Another server may have created the same meanwhile.
fn create(conn: &mut Conn, database: &str, missing: &Missing) -> StdResult<(), Failure> {
    let run = |conn: &mut Conn, sql: &str| {
        log::info!("database {database}: {}", sql.lines().next().unwrap_or(sql));
        match command(conn, sql) {
            Err(Failure::Server(code, _)) if ALREADY_EXISTS.contains(&code) => Ok(()),
            created => created,
        }
    };
    if let Some(sql) = &missing.database {
        run(conn, sql)?;
    }
    conn.select_db(database)?;
    missing.tables.iter().try_for_each(|sql| run(conn, sql))
}

/// Warns of what makes a server unsafe or its rows hard to find. Each of it is right for some deployment, so
/// none of it keeps a server from starting.
fn check(conn: &mut Conn, schema: &Schema, charset: Charset) -> StdResult<(), Failure> {
    check_engines(conn, schema)?;
    check_durability(conn)?;
    for table in schema.tables {
        match foreign_names(conn, table, charset) {
            Ok(None) => {}
            Ok(Some(found)) => log::warn!("database {}, {found}", schema.database),
            Err(Failure::Server(code, text)) => {
                log::info!("the names in {} were not checked: error {code}: {text}", table.name);
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

fn check_engines(conn: &mut Conn, schema: &Schema) -> StdResult<(), Failure> {
    let engines = query(conn, Charset::Utf8mb4, ENGINES, &[schema.database.into()])?;
    for (table, engine) in engines.iter().filter_map(|row| Some((row.text(0).ok()?, row.text(1).ok()?))) {
        let is_ours = schema.tables.iter().any(|known| known.name == table);
        if is_ours && engine.eq_ignore_ascii_case("MyISAM") {
            log::warn!(
                "table {}.{table} has the engine {engine}, which has no transactions: a crash of MySQL loses or \
                 damages acknowledged rows; run: ALTER TABLE {}.{table} ENGINE=InnoDB ROW_FORMAT=DYNAMIC",
                schema.database,
                schema.database
            );
        }
    }
    Ok(())
}

fn check_durability(conn: &mut Conn) -> StdResult<(), Failure> {
    match query(conn, Charset::Utf8mb4, "SELECT @@GLOBAL.innodb_flush_log_at_trx_commit", &[]) {
        Ok(rows) => {
            if let Some(value) = rows.first().and_then(|row| row.int(0).ok()).filter(|value| *value != 1) {
                log::warn!(
                    "MySQL has innodb_flush_log_at_trx_commit = {value}: a power cut or crash of its host loses \
                     acknowledged rows; set it to 1"
                );
            }
            Ok(())
        }
        // Other servers with this protocol may not have it.
        Err(Failure::Server(..)) => Ok(()),
        Err(failure) => Err(failure),
    }
}

/// A warning of names that were written in another character set than the configured one, judged by the rows
/// at both ends of a table.
fn foreign_names(conn: &mut Conn, table: &Table, charset: Charset) -> StdResult<Option<String>, Failure> {
    let names = table.mysql_names();
    if names.is_empty() {
        return Ok(None);
    }
    let columns = names.join(", ");
    let (mut checked, mut foreign, mut example) = (0, 0, None);
    for order in ["id", "id DESC"] {
        let sample = format!("SELECT {columns} FROM `{}` ORDER BY {order} LIMIT {SAMPLE_ROWS}", table.name);
        for row in conn.query_iter(sample)? {
            let row = row_of(row?, Charset::Utf8mb4)?;
            checked += 1;
            let mut texts = (0..row.len()).filter_map(|column| row.opt_text(column).ok().flatten());
            if let Some(text) = texts.find(|text| charset.is_foreign(text)) {
                foreign += 1;
                example.get_or_insert_with(|| shown(text.as_bytes()));
            }
        }
    }
    Ok(example.map(|example| {
        let other = charset.other();
        format!(
            "table {}: {foreign} of {checked} rows have names that were written in {other} and not in {charset}, as \
             '{example}': they are not found. Set mysql_charset = {other} in the files of all servers where existing \
             servers write so, or rewrite the rows; docs/mysql.md says how (\"Names beyond ASCII\")",
            table.name,
        )
    }))
}

fn exists(conn: &mut Conn, sql: &'static str, params: &[Value]) -> StdResult<bool, Failure> {
    Ok(!query(conn, Charset::Utf8mb4, sql, params)?.is_empty())
}

/// The kind of server and its version: "MariaDB 10.11.6".
fn version(conn: &mut Conn) -> StdResult<String, Failure> {
    let rows = query(conn, Charset::Utf8mb4, "SELECT VERSION()", &[])?;
    let text = rows.first().and_then(|row| row.text(0).ok()).unwrap_or("of unknown version");
    let number = text.split('-').next().unwrap_or(text);
    let kind = if text.contains("MariaDB") { "MariaDB" } else { "MySQL" };
    Ok(format!("{kind} {number}"))
}
