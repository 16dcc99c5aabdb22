//! Millions of rows put into databases that the servers have made and that nobody serves meanwhile: straight
//! into the tables, in bulk. The files are real ones, but few: many rows name the same.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::Path;

use mysql::prelude::Queryable;
use rusqlite::Connection;

use super::names::{APPID, file_id, table, user};
use crate::{Failure, Result};

/// The group of all users.
pub(super) const GROUP: &str = "group001";

/// What is in each file that a row names.
pub(super) const CONTENT_BYTES: usize = 4096;

/// How many files there are: a directory full.
const FILES: u64 = 512;

/// Most rows of each kind: a few gigabytes.
pub(super) const ROWS_MAX: u64 = 50_000_000;

/// Rows in one go.
const CHUNK: u64 = 500_000;

/// The file of a row, as its path says: below a storage that runs in `run` beside `data`.
fn path(number: u64) -> String {
    format!("../data/000/000/000/67000000_{:03X}", number % FILES)
}

/// Makes the files for a storage that runs in this directory.
pub(super) fn make_files(run: &Path) -> Result<()> {
    let content = content();
    for number in 0..FILES {
        let file = run.join(path(number));
        let made = file.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&file, &content));
        made.map_err(|error| format!("write {}: {error}", file.display()))?;
    }
    Ok(())
}

/// What is in them.
pub(super) fn content() -> Vec<u8> {
    tnv_tests::sample(CONTENT_BYTES, 4)
}

/// The three tables of files.
const TABLES: [&str; 3] = ["t_file_01", "t_file_02", "t_file_03"];

/// Fills embedded databases, the files of which are in this directory, with the files and users of these numbers.
/// What is found by an index is put in before the index is: the next start of a tracker makes it.
pub(super) fn sqlite(directory: &Path, numbers: Range<u64>) -> Result<()> {
    let failed = |error: rusqlite::Error| Failure::Failed(format!("fill {}: {error}", directory.display()));
    let fill = |database: &str, rows: &dyn Fn(&Connection) -> rusqlite::Result<()>| {
        let connection = Connection::open(directory.join(database)).map_err(failed)?;
        // Whoever loses its power now starts anew; and a log of all of it would be as long again.
        let open = "PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF; PRAGMA cache_size = -500000; BEGIN";
        connection.execute_batch(open).map_err(failed)?;
        rows(&connection).map_err(failed)?;
        connection.execute_batch("COMMIT; PRAGMA journal_mode = WAL").map_err(failed)
    };
    fill("tnv_storagedb.db", &|connection| {
        let crc32 = i64::from(tnv_tests::raw::crc32(&content()));
        for number in numbers.clone() {
            let table = TABLES[table(number).map_err(|error| told(&error))?];
            let sql = format!(
                "INSERT INTO {table} (id, appid, userid, status, file_path, file_size, checksum, group_name) \
                 VALUES (?, ?, ?, 0, ?, ?, ?, ?)"
            );
            let size = CONTENT_BYTES as i64;
            let row = (file_id(number), APPID, user(number), path(number), size, crc32, GROUP);
            connection.prepare_cached(&sql)?.execute(row)?;
        }
        Ok(())
    })?;
    fill("tnv_trackerdb.db", &|connection| {
        connection.execute_batch("DROP INDEX t_router_userid; DROP INDEX t_router_route_key")?;
        let sql = "INSERT INTO t_router (appid, userid, group_name, route_key) VALUES (?, ?, ?, ?)";
        let mut insert = connection.prepare(sql)?;
        for number in numbers.clone() {
            let user = user(number);
            insert.execute((APPID, &user, GROUP, user.as_bytes()))?;
        }
        Ok(())
    })
}

fn told(error: &tnv_common::error::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(error.to_string().into())
}

/// Fills a MariaDB in the same way, through a file in this directory, which its server reads.
pub(super) fn mariadb(options: mysql::Opts, directory: &Path, numbers: Range<u64>) -> Result<()> {
    let failed = |error: mysql::Error| Failure::Failed(format!("fill MariaDB: {error}"));
    let mut conn = mysql::Conn::new(options).map_err(failed)?;
    conn.query_drop("SET SESSION unique_checks = 0").map_err(failed)?;
    let drop = "ALTER TABLE tnv_trackerdb.t_router DROP INDEX userid, DROP INDEX route_key";
    conn.query_drop(drop).map_err(failed)?;
    let file = directory.join("rows.txt");
    let mut load = |into: &str, columns: &str, rows: &mut dyn Iterator<Item = String>| {
        write_rows(&file, rows).map_err(|error| format!("write {}: {error}", file.display()))?;
        let file = file.display();
        let sql = format!("LOAD DATA INFILE '{file}' INTO TABLE {into} CHARACTER SET utf8mb4 ({columns})");
        conn.query_drop(sql).map_err(failed)
    };
    let crc32 = tnv_tests::raw::crc32(&content());
    let mut first = numbers.start;
    while first < numbers.end {
        let chunk = first..numbers.end.min(first + CHUNK);
        for (index, name) in TABLES.iter().enumerate() {
            let mut rows = chunk.clone().filter(|number| table(*number) == Ok(index)).map(|number| {
                let (id, user, path) = (file_id(number), user(number), path(number));
                format!("{id}\t{APPID}\t{user}\t0\t{path}\t{CONTENT_BYTES}\t{crc32}\t{GROUP}\n")
            });
            let columns = "id, appid, userid, status, file_path, file_size, checksum, group_name";
            load(&format!("tnv_storagedb.{name}"), columns, &mut rows)?;
        }
        let mut rows = chunk.clone().map(user).map(|user| format!("{APPID}\t{user}\t{GROUP}\t{user}\n"));
        load("tnv_trackerdb.t_router", "appid, userid, group_name, route_key", &mut rows)?;
        first = chunk.end;
    }
    let _ = fs::remove_file(&file);
    Ok(())
}

fn write_rows(file: &Path, rows: &mut dyn Iterator<Item = String>) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(file)?);
    for row in rows {
        file.write_all(row.as_bytes())?;
    }
    file.flush()
}
