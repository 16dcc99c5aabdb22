//! How a server declares its tables and statements: once, for both databases.
//!
//! A [`Table`] has two layers. `columns` is the table of an existing deployment, made when it is
//! missing and never changed. `added` and `indexes` are what ours put on top: each is added when it
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
    /// The columns, keys included, except `create_time` and `update_time`, which every table has
    /// and which are put behind these.
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

/// An index.
#[derive(Debug)]
pub struct Index {
    /// Its name within the table; in SQLite, where names are the database's, `TABLE_NAME`.
    pub name: &'static str,
    /// The columns, separated by commas.
    pub columns: &'static str,
    /// Whether it refuses a second row with the same values (NULLs are never the same).
    pub unique: bool,
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

impl Schema {
    /// The database and its tables as an SQL script for MySQL: what `etc/sql` ships.
    pub fn mysql_script(&self) -> String {
        let mut script = format!("{};\nUSE `{}`;\n", self.mysql_create(), self.database);
        for table in self.tables {
            let _ = write!(script, "\n{};\n", table.mysql_create());
            for column in table.added {
                let _ = writeln!(script, "{};", table.mysql_add_column(column));
            }
            for index in table.indexes {
                let _ = writeln!(script, "{};", table.mysql_add_index(index));
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
        let body = self.body(|column| (format!("`{}`", column.name), column.mysql));
        format!(
            "CREATE TABLE IF NOT EXISTS `{}` (\n{body}\n) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
            self.name
        )
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
        let body = self.body(|column| (column.name.to_owned(), column.sqlite));
        format!(
            "CREATE TABLE IF NOT EXISTS {table} (\n{body}\n);\n\
             CREATE TRIGGER IF NOT EXISTS {table}_update_time AFTER UPDATE ON {table} \
             WHEN NEW.update_time IS OLD.update_time BEGIN \
             UPDATE {table} SET update_time = CURRENT_TIMESTAMP WHERE rowid = NEW.rowid; END;"
        )
    }

    pub(super) fn sqlite_add_column(&self, column: &Column) -> String {
        format!("ALTER TABLE {} ADD COLUMN {} {}", self.name, column.name, column.sqlite)
    }

    pub(super) fn sqlite_add_index(&self, index: &Index) -> String {
        let kind = if index.unique { "UNIQUE INDEX" } else { "INDEX" };
        let (table, name, columns) = (self.name, index.name, index.columns);
        format!("CREATE {kind} IF NOT EXISTS {table}_{name} ON {table} ({columns})")
    }

    fn body(&self, text: impl Fn(&Column) -> (String, &'static str)) -> String {
        let columns = self.columns.iter().chain(&TIMES);
        let lines = columns.map(|column| {
            let (name, definition) = text(column);
            format!("  {name} {definition}")
        });
        lines.collect::<Vec<_>>().join(",\n")
    }
}
