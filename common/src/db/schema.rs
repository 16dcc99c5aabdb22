//! How a server declares its tables and statements: once, for both databases.
//!
//! A [`Table`] has two layers. `columns` is the table of an existing deployment, created when it is
//! missing and never changed. `added` and `indexes` are this server's additions: each is added when it
//! is missing, to a table that may be full of rows and that existing servers go on writing, so an
//! added column must be nullable, and a unique index may only stand on added columns.

use std::fmt::Write;

/// A database and its tables.
#[derive(Debug)]
pub struct Schema {
    /// Its name in MySQL; the embedded one is the file `NAME.db`.
    pub database: &'static str,
    /// Its tables, in the order in which they are made.
    pub tables: &'static [Table],
}

/// A table. Names and definitions are our own constants: they are put into SQL as they are.
#[derive(Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// The columns, with the primary key, which is `id`, except `create_time` and `update_time`, which every
    /// table has and which are put behind these.
    pub columns: &'static [Column],
    /// Columns that existing deployments lack.
    pub added: &'static [Column],
    /// Indexes that existing deployments lack.
    pub indexes: &'static [Index],
}

/// A column: its name, and what follows the name in either dialect.
#[derive(Debug)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// Type and attributes in MySQL, as in `varchar(64) NOT NULL PRIMARY KEY`.
    pub mysql: &'static str,
    /// Type and attributes in SQLite, as in `TEXT NOT NULL PRIMARY KEY`.
    pub sqlite: &'static str,
}

impl Column {
    /// Whether this is the primary key, in SQLite, and a text.
    fn is_text_key(&self) -> bool {
        self.sqlite.starts_with("TEXT") && self.sqlite.contains("PRIMARY KEY")
    }
}

/// An index.
#[derive(Debug)]
pub struct Index {
    /// Its name within the table; in SQLite, where names are the database's, `TABLE_NAME`.
    pub name: &'static str,
    /// The columns, separated by commas.
    pub columns: &'static str,
    /// Whether it refuses a second row with the same values (NULLs are never the same).
    pub unique: bool,
    /// The condition that a row must meet to be in it in SQLite, where a query with the same condition uses
    /// it; empty for none. MySQL has no such indexes: there all rows are in it.
    pub sqlite_where: &'static str,
}

/// A statement in both dialects, with `?` for each parameter, the same ones in the same order.
#[derive(Debug)]
pub struct Sql {
    /// What MySQL and MariaDB get.
    pub mysql: &'static str,
    /// What SQLite gets.
    pub sqlite: &'static str,
}

impl Sql {
    /// A statement that reads the same in both.
    pub const fn both(sql: &'static str) -> Sql {
        Sql { mysql: sql, sqlite: sql }
    }
}

/// The last two columns of every table.
const TIMES: [Column; 2] = [
    Column {
        name: "create_time",
        mysql: "timestamp NULL DEFAULT CURRENT_TIMESTAMP",
        sqlite: "TEXT DEFAULT CURRENT_TIMESTAMP",
    },
    Column {
        name: "update_time",
        mysql: "timestamp NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP",
        // The ON UPDATE is the trigger below.
        sqlite: "TEXT DEFAULT CURRENT_TIMESTAMP",
    },
];

/// The server's defaults may differ. Without transactions no acknowledged row is safe, and a key of 256
/// characters (1024 bytes) fits into no index of the row formats COMPACT and REDUNDANT (767 bytes).
const MYSQL_TABLE_OPTIONS: &str = "ENGINE=InnoDB DEFAULT CHARACTER SET=utf8mb4 ROW_FORMAT=DYNAMIC";

const SCRIPT_HEAD: &str = "\
-- What the server makes by itself where its account may; this script is for accounts that may not. It
-- leaves alone what is there. To tables that existing servers made the server adds its columns and
-- indexes when it starts; where its account may not, run the commented statements once.
";

impl Schema {
    /// The database and its tables as an SQL script for MySQL: what `etc/sql` ships. It may be run
    /// again. What a table of an existing deployment lacks stands in it as comments, since MySQL has no
    /// way to say "unless it is there" of a column.
    pub fn mysql_script(&self) -> String {
        let mut script = format!("{SCRIPT_HEAD}{};\nUSE `{}`;\n", self.mysql_create(), self.database);
        for table in self.tables {
            let _ = write!(script, "\n{};\n", table.mysql_create_whole());
            let columns = table.added.iter().map(|column| table.mysql_add_column(column));
            let indexes = table.indexes.iter().map(|index| table.mysql_add_index(index));
            for statement in columns.chain(indexes) {
                let _ = writeln!(script, "-- {statement};");
            }
        }
        script
    }

    /// Makes the database where it is missing.
    pub(super) fn mysql_create(&self) -> String {
        format!("CREATE DATABASE IF NOT EXISTS `{}` DEFAULT CHARACTER SET utf8mb4", self.database)
    }
}

impl Table {
    /// Makes the table as existing deployments have it, where it is missing.
    pub(super) fn mysql_create(&self) -> String {
        self.mysql_create_of(&self.mysql_body(&[]))
    }

    /// Makes it with the additions.
    fn mysql_create_whole(&self) -> String {
        let mut body = self.mysql_body(self.added);
        for index in self.indexes {
            let kind = if index.unique { "UNIQUE KEY" } else { "KEY" };
            let _ = write!(body, ",\n  {kind} `{}` ({})", index.name, index.columns);
        }
        self.mysql_create_of(&body)
    }

    fn mysql_create_of(&self, body: &str) -> String {
        format!("CREATE TABLE IF NOT EXISTS `{}` (\n{body}\n) {MYSQL_TABLE_OPTIONS}", self.name)
    }

    /// The columns that hold names, which may be beyond ASCII.
    pub(super) fn mysql_names(&self) -> Vec<&'static str> {
        let texts = self.columns.iter().filter(|column| column.mysql.starts_with("varchar"));
        texts.map(|column| column.name).collect()
    }

    fn mysql_body(&self, added: &[Column]) -> String {
        self.body(added, |column| (format!("`{}`", column.name), column.mysql))
    }

    pub(super) fn mysql_add_column(&self, column: &Column) -> String {
        format!("ALTER TABLE `{}` ADD COLUMN `{}` {}", self.name, column.name, column.mysql)
    }

    pub(super) fn mysql_add_index(&self, index: &Index) -> String {
        let kind = if index.unique { "UNIQUE INDEX" } else { "INDEX" };
        format!("ALTER TABLE `{}` ADD {kind} `{}` ({})", self.name, index.name, index.columns)
    }

    /// Makes the table and what keeps its `update_time`, where they are missing.
    pub(super) fn sqlite_create(&self) -> String {
        let table = self.name;
        let body = self.body(&[], |column| (column.name.to_owned(), column.sqlite));
        // Where the key is not a number, the rows lie in its order: one tree to go down and to change, not
        // two.
        let layout = if self.columns.iter().any(Column::is_text_key) { " WITHOUT ROWID" } else { "" };
        format!(
            "CREATE TABLE IF NOT EXISTS {table} (\n{body}\n){layout};\n\
             CREATE TRIGGER IF NOT EXISTS {table}_update_time AFTER UPDATE ON {table} \
             WHEN NEW.update_time IS OLD.update_time BEGIN \
             UPDATE {table} SET update_time = CURRENT_TIMESTAMP WHERE id = NEW.id; END;"
        )
    }

    pub(super) fn sqlite_add_column(&self, column: &Column) -> String {
        format!("ALTER TABLE {} ADD COLUMN {} {}", self.name, column.name, column.sqlite)
    }

    pub(super) fn sqlite_add_index(&self, index: &Index) -> String {
        let kind = if index.unique { "UNIQUE INDEX" } else { "INDEX" };
        let (table, name, columns) = (self.name, index.name, index.columns);
        let mut sql = format!("CREATE {kind} IF NOT EXISTS {table}_{name} ON {table} ({columns})");
        if !index.sqlite_where.is_empty() {
            let _ = write!(sql, " WHERE {}", index.sqlite_where);
        }
        sql
    }

    fn body(&self, added: &[Column], text: impl Fn(&Column) -> (String, &'static str)) -> String {
        let columns = self.columns.iter().chain(&TIMES).chain(added);
        let lines = columns.map(|column| {
            let (name, definition) = text(column);
            format!("  {name} {definition}")
        });
        lines.collect::<Vec<_>>().join(",\n")
    }
}
