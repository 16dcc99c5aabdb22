//! The embedded database: SQLite in WAL mode, one file a database, every commit flushed unless the
//! settings say that none need be. This module reads; `engine` writes.
//!
//! - `connection`: how a file is opened, statements, values both ways, errors.
//! - `write_lock`: the order among processes that write to one file, each with its one writer.

mod connection;
mod engine;
mod write_lock;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use rustix::fs::{Access, access};

use self::connection::{create, open_reader, query, read_with_commit, set_durable, to_error};
use self::engine::SqliteEngine;
use self::write_lock::WriteLock;
use super::pool::Pool;
use super::schema::{Schema, Sql};
use super::value::{Row, Value};
use crate::error::{Context, Result};
use crate::fail;

/// How long opening and confirmed reads wait for the write lock.
const WRITE_LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a reader waits for one of the connections.
const LEASE_TIMEOUT: Duration = Duration::from_secs(20);

/// Connections that read: more than processors read at once.
const READERS_MAX: usize = 8;

/// What every SQLite file begins with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// The reading half of an embedded database.
pub struct Sqlite {
    path: PathBuf,
    lock_path: PathBuf,
    readers: Pool<Connection>,
}

impl Sqlite {
    /// Creates the directory, the file and the tables where they are missing.
    pub fn open(directory: &Path, schema: &Schema, durable: bool) -> Result<(Sqlite, SqliteEngine)> {
        create_directory(directory).context(|| format!("make the directory {}", directory.display()))?;
        let path = file_of(directory, schema, "db");
        let lock_path = file_of(directory, schema, "lock");
        let write_lock = WriteLock::open(&lock_path)?;
        write_lock.acquire_within(WRITE_LOCK_TIMEOUT)?;
        let connection = create(&path, schema).map_err(|error| to_error(&path, &error))?;
        // A crash that loses the name of the file loses all rows.
        sync_directory(directory).context(|| format!("sync the directory {}", directory.display()))?;
        write_lock.release();
        set_durable(&connection, durable).map_err(|error| to_error(&path, &error))?;
        let engine = SqliteEngine::new(path.clone(), write_lock, durable, connection);
        Ok((Sqlite { path, lock_path, readers: Pool::new(READERS_MAX) }, engine))
    }

    /// For `--check`: can the file be opened? Nothing is created.
    pub fn probe(directory: &Path, schema: &Schema) -> Result<String> {
        let path = file_of(directory, schema, "db");
        match File::open(&path) {
            Ok(file) => probe_file(&path, file)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).context(|| format!("open {}", path.display())),
        }
        let found = nearest_existing(directory);
        if !found.is_dir() {
            return fail!(Invalid, "{} is not a directory, want one for the databases", found.display());
        }
        access(found, Access::WRITE_OK | Access::EXEC_OK)
            .map_err(io::Error::from)
            .context(|| format!("write in the directory {}", found.display()))?;
        let state = if path.exists() { "" } else { " (to be made)" };
        Ok(format!("embedded database {}{state}", path.display()))
    }

    /// Whether its file exists.
    pub fn exists(directory: &Path, schema: &Schema) -> bool {
        file_of(directory, schema, "db").exists()
    }

    /// The database, for the log.
    pub fn describe(&self) -> String {
        format!("embedded database {}", self.path.display())
    }

    /// The rows of a query.
    pub fn read(&self, sql: &'static Sql, params: &[Value]) -> Result<Vec<Row>> {
        let mut lease = self.readers.lease(LEASE_TIMEOUT)?;
        let connection = match lease.reused.take() {
            Some((connection, _)) => connection,
            None => open_reader(&self.path).map_err(|error| to_error(&self.path, &error))?,
        };
        let rows = query(&connection, sql.sqlite, params).map_err(|error| to_error(&self.path, &error))?;
        lease.give_back(connection);
        Ok(rows)
    }

    /// The rows of a query; no commit of unknown outcome can add another.
    ///
    /// A COMMIT that failed at the flush may have left its frames in the log, where the recovery
    /// after a crash would find them. So this commits a change of its own, which overwrites them.
    pub fn read_confirmed(&self, sql: &'static Sql, params: &[Value]) -> Result<Vec<Row>> {
        let write_lock = WriteLock::open(&self.lock_path)?;
        write_lock.acquire_within(WRITE_LOCK_TIMEOUT)?;
        let rows = read_with_commit(&self.path, sql, params);
        rows.map_err(|error| to_error(&self.path, &error))
    }
}

fn file_of(directory: &Path, schema: &Schema, extension: &str) -> PathBuf {
    directory.join(format!("{}.{extension}", schema.database))
}

fn probe_file(path: &Path, file: File) -> Result<()> {
    let mut head = Vec::new();
    file.take(MAGIC.len() as u64).read_to_end(&mut head).context(|| format!("read {}", path.display()))?;
    // A crash right after its creation leaves an empty file, which SQLite takes for a new one.
    if !head.is_empty() && head != MAGIC {
        return fail!(Invalid, "{} is not an SQLite database; move it away", path.display());
    }
    access(path, Access::READ_OK | Access::WRITE_OK)
        .map_err(io::Error::from)
        .context(|| format!("write {}", path.display()))
}

/// The directory, or the nearest parent that exists.
fn nearest_existing(directory: &Path) -> &Path {
    let mut ancestors = directory.ancestors().filter(|ancestor| !ancestor.as_os_str().is_empty());
    ancestors.find(|ancestor| ancestor.exists()).unwrap_or(Path::new("."))
}

/// Creates a directory and its parents, each with a sync of the one above.
fn create_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = match directory.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_directory(parent)?;
    match fs::create_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => Ok(()),
        made => made.and_then(|()| sync_directory(parent)),
    }
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
