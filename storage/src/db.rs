//! The tables: which file IDs exist, whose they are, and where their files lie. All statements of
//! the storage are here. What a query returns is compared again byte by byte, since the tables'
//! collation takes `ABC` for `abc `.

use std::sync::Arc;

use tnv_common::db::{Column, Database, Row, Schema, Sql, Table, Value};
use tnv_common::error::{Context, ErrorKind, Result};
use tnv_common::fail;
use tnv_common::slots::Slots;
use tnv_common::wire::tnv::{Triple, file_table};
use tnv_common::wire::{FileId, UserId};

/// The status of a file that is served; any other is not.
const LIVE: i64 = 0;

/// The columns of existing deployments.
const COLUMNS: &[Column] = &[
    Column { name: "id", mysql: "varchar(256) NOT NULL PRIMARY KEY", sqlite: "TEXT NOT NULL PRIMARY KEY" },
    Column { name: "appid", mysql: "varchar(32)", sqlite: "TEXT" },
    Column { name: "userid", mysql: "varchar(128)", sqlite: "TEXT" },
    Column { name: "status", mysql: "tinyint", sqlite: "INTEGER" },
    Column { name: "file_path", mysql: "varchar(512)", sqlite: "TEXT" },
    Column { name: "file_size", mysql: "bigint", sqlite: "INTEGER" },
];

/// The CRC-32 of the content; files that existing storages stored have none.
const ADDED: &[Column] = &[Column { name: "checksum", mysql: "bigint NULL", sqlite: "INTEGER" }];

/// The statements of one of the three tables.
struct Statements {
    find: Sql,
    insert: Sql,
    delete: Sql,
    /// Asks whether an upload has its row, waiting for transactions that are still open.
    settle: Sql,
}

macro_rules! tables {
    ($($table:literal),+) => {
        /// What existing deployments have, and the checksum.
        pub static SCHEMA: Schema = Schema {
            database: "tnv_storagedb",
            tables: &[$(Table { name: $table, columns: COLUMNS, added: ADDED, indexes: &[] }),+],
        };

        static STATEMENTS: &[Statements] = &[$(Statements {
            find: Sql::both(concat!(
                "SELECT id, appid, userid, status, file_path, file_size, checksum FROM ", $table, " WHERE id = ?"
            )),
            insert: Sql::both(concat!(
                "INSERT INTO ", $table,
                " (id, appid, userid, status, file_path, file_size, checksum) VALUES (?, ?, ?, ?, ?, ?, ?)"
            )),
            delete: Sql::both(concat!("DELETE FROM ", $table, " WHERE id = ? AND file_path = ?")),
            settle: Sql {
                mysql: concat!("SELECT 1 FROM ", $table, " WHERE id = ? AND file_path = ? LOCK IN SHARE MODE"),
                sqlite: concat!("SELECT 1 FROM ", $table, " WHERE id = ? AND file_path = ?"),
            },
        }),+];
    };
}

tables!("t_file_01", "t_file_02", "t_file_03");

/// What a row says of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRow {
    /// Where its content lies.
    pub path: String,
    /// How many bytes it has.
    pub size: u64,
    /// The CRC-32 of its content, where it is known.
    pub crc32: Option<u32>,
}

/// The file tables.
#[derive(Clone)]
pub struct Db {
    database: Database,
    /// For the workers who ask: some are kept free for what the cache knows.
    slots: Arc<Slots>,
}

impl Db {
    /// On an open database with [`SCHEMA`], for so many workers.
    pub fn new(database: Database, threads: usize) -> Db {
        Db { database, slots: Arc::new(Slots::of(threads)) }
    }

    /// The row of a file, if there is one that is live and belongs to this appid and userid.
    pub fn find(&self, file: &Triple) -> Result<Option<FileRow>> {
        let _slot = self.slots.get()?;
        for row in self.rows(file)? {
            if is_of(&row, file)? {
                return file_row(&row)
                    .map(Some)
                    .context(|| format!("read the row of fileid: {}", file.fileid));
            }
        }
        Ok(None)
    }

    /// Refuses a file ID that cannot be given to a new file.
    pub fn check_free(&self, file: &Triple) -> Result<()> {
        let _slot = self.slots.get()?;
        self.find_free(file)
    }

    fn find_free(&self, file: &Triple) -> Result<()> {
        match self.rows(file)?.first() {
            None => Ok(()),
            Some(row) if row.opt_text(0)? == Some(file.fileid.as_str()) => {
                fail!(Exists, "file exists already, fileid: {}", file.fileid)
            }
            Some(_) => fail!(
                Exists,
                "the database takes this fileid for an existing one, it tells neither upper from lower case nor \
                 blanks at the end, fileid: {}",
                file.fileid
            ),
        }
    }

    /// Records a file. Its content must be durable: this makes it visible.
    pub fn insert(&self, file: &Triple, row: &FileRow) -> Result<()> {
        let params = vec![
            file.fileid.as_str().into(),
            file.appid.as_str().into(),
            file.userid.as_str().into(),
            LIVE.into(),
            row.path.as_str().into(),
            signed(row.size)?.into(),
            row.crc32.map_or(Value::Null, Value::from),
        ];
        let _slot = self.slots.get()?;
        match self.database.write(&statements(&file.userid).insert, params) {
            Ok(_) => Ok(()),
            // Another upload of the same ID was faster; which words fit, a look at its row tells.
            Err(error) if error.kind() == ErrorKind::Exists => self
                .find_free(file)
                .and_then(|()| fail!(Exists, "file exists already, fileid: {}", file.fileid)),
            Err(error) => Err(error.context(format_args!("insert database fail, fileid: {}", file.fileid))),
        }
    }

    /// Removes the row of this upload and of no other; false if it was gone already.
    pub fn delete(&self, file: &Triple, path: &str) -> Result<bool> {
        let params = vec![file.fileid.as_str().into(), path.into()];
        let _slot = self.slots.get()?;
        match self.database.write(&statements(&file.userid).delete, params) {
            Ok(written) => Ok(written.affected > 0),
            Err(error) => Err(error.context(format_args!("delete database fail, fileid: {}", file.fileid))),
        }
    }

    /// Whether this upload has no row and, for certain, will not get one. Only the settler asks, whom
    /// the bound on workers does not concern.
    pub fn is_absent(&self, userid: &UserId, fileid: &FileId, path: &str) -> Result<bool> {
        self.database.is_absent(&statements(userid).settle, &[fileid.as_str().into(), path.into()])
    }

    fn rows(&self, file: &Triple) -> Result<Vec<Row>> {
        self.database
            .read(&statements(&file.userid).find, &[file.fileid.as_str().into()])
            .context(|| format!("read database fail, fileid: {}", file.fileid))
    }
}

fn statements(userid: &UserId) -> &'static Statements {
    &STATEMENTS[usize::from(file_table(userid) - 1)]
}

/// Whether a row is that of a live file of this very triple.
fn is_of(row: &Row, file: &Triple) -> Result<bool> {
    Ok(row.opt_bytes(0)? == Some(file.fileid.as_str().as_bytes())
        && row.opt_bytes(1)? == Some(file.appid.as_str().as_bytes())
        && row.opt_bytes(2)? == Some(file.userid.as_str().as_bytes())
        && row.opt_int(3)? == Some(LIVE))
}

fn file_row(row: &Row) -> Result<FileRow> {
    let size = row.int(5)?;
    let Ok(size) = u64::try_from(size) else {
        return fail!(Internal, "its file_size is {size}, want 0 or more");
    };
    // A checksum that is none is as good as none.
    let crc32 = row.opt_int(6)?.and_then(|checksum| u32::try_from(checksum).ok());
    Ok(FileRow { path: row.text(4)?.to_owned(), size, crc32 })
}

fn signed(size: u64) -> Result<i64> {
    match i64::try_from(size) {
        Ok(size) => Ok(size),
        Err(_) => fail!(Invalid, "invalid file size, got {size}, want at most {}", i64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use tnv_common::db::{DbSettings, Password};
    use tnv_common::stop::Stop;
    use tnv_common::wire::AppId;

    use crate::scratch::Scratch;

    fn open(scratch: &Scratch) -> Db {
        let settings = DbSettings {
            addresses: Vec::new(),
            user: String::new(),
            password: Password::default(),
            rw_timeout: Duration::from_secs(5),
            directory: scratch.path().join("db"),
        };
        Db::new(Database::open(&settings, &SCHEMA, &Stop::new().unwrap()).unwrap(), 8)
    }

    fn triple(appid: &str, userid: &str, fileid: &str) -> Triple {
        Triple {
            appid: AppId::new(appid).unwrap(),
            userid: UserId::new(userid).unwrap(),
            fileid: FileId::new(fileid).unwrap(),
        }
    }

    fn row(path: &str) -> FileRow {
        FileRow { path: path.into(), size: 7, crc32: Some(0xFFFF_FFFF) }
    }

    #[test]
    fn a_file_belongs_to_its_appid_and_userid_and_to_no_other() {
        let scratch = Scratch::new();
        let db = open(&scratch);
        // `tnv001` and `tnv003` share a table.
        let file = triple("tnvideo", "tnv001", "o'brien");
        let neighbour = (0..)
            .map(|n| format!("u{n}"))
            .find(|userid| file_table(&UserId::new(userid).unwrap()) == file_table(&file.userid));
        let neighbour = neighbour.unwrap();
        db.insert(&file, &row("p1")).unwrap();
        assert_eq!(db.find(&file), Ok(Some(row("p1"))));
        assert_eq!(db.find(&triple("other", "tnv001", "o'brien")), Ok(None));
        assert_eq!(db.find(&triple("tnvideo", &neighbour, "o'brien")), Ok(None));
        assert_eq!(db.find(&triple("tnvideo", "tnv001", "O'Brien")), Ok(None));
        let error = db.insert(&triple("tnvideo", &neighbour, "o'brien"), &row("p2")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exists);
    }

    #[test]
    fn a_delete_takes_one_upload_and_not_the_next_of_that_name() {
        let scratch = Scratch::new();
        let db = open(&scratch);
        let file = triple("tnvideo", "tnv001", "a");
        db.insert(&file, &row("p1")).unwrap();
        assert_eq!(db.delete(&file, "p2"), Ok(false));
        assert_eq!(db.is_absent(&file.userid, &file.fileid, "p1"), Ok(false));
        assert_eq!(db.is_absent(&file.userid, &file.fileid, "p2"), Ok(true));
        assert_eq!(db.delete(&file, "p1"), Ok(true));
        assert_eq!(db.delete(&file, "p1"), Ok(false));
        assert_eq!(db.find(&file), Ok(None));
    }

    #[test]
    fn the_shipped_schema_is_this_one() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../etc/sql/tnv_storagedb.sql");
        let script = SCHEMA.mysql_script();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(file, &script).unwrap();
        }
        let shipped = std::fs::read_to_string(file).unwrap_or_default();
        assert!(shipped == script, "{file} is out of date: run the tests with UPDATE_DOCS=1");
    }
}
