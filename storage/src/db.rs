//! The tables: which file IDs exist, whose they are, and where their files lie. All statements of
//! the storage are here. What a query returns is compared again byte by byte, since the tables'
//! collation takes `ABC` for `abc `; but rows of existing storages are found as those find them.

use std::sync::Arc;

use tnv_common::db::semaphore::Semaphore;
use tnv_common::db::{Column, Database, Row, Schema, Sql, Table, Value};
use tnv_common::error::{Context, ErrorKind, Result};
use tnv_common::fail;
use tnv_common::proto::tnv::file_key::FileKey;
use tnv_common::proto::tnv::storage::file_table;
use tnv_common::proto::{FileId, GroupName, UserId};

use crate::file::StoredFile;

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

/// The CRC-32 of the content, and the group whose members have it; rows that existing storages wrote
/// have neither.
const ADDED: &[Column] = &[
    Column { name: "checksum", mysql: "bigint NULL", sqlite: "INTEGER" },
    Column { name: "group_name", mysql: "varchar(32) NULL", sqlite: "TEXT" },
];

/// The tables, as indexes of what is said of each.
pub const TABLES: usize = 3;

/// Rows of one page: a few MiB where all texts are as long as can be.
const PAGE_ROWS: i64 = 1000;

/// The statements of one of the three tables.
struct Statements {
    /// The row of a file ID (the last parameter), and whether an existing storage wrote it and would find it for
    /// this appid and userid. Existing storages know the collation alone.
    find: Sql,
    insert: Sql,
    delete: Sql,
    /// Asks whether an upload has its row, waiting for transactions that are still open.
    settle: Sql,
    /// The first rows in the order of the key, and those after one of them. The first page has no lower
    /// bound, since the collation may take an ID for equal to the empty text; and the order and the
    /// bound are by one collation under which the key is unique, so no row is passed over.
    first: Sql,
    after: Sql,
    /// The rows between two keys, from the lower one on.
    between: Sql,
    /// The last rows after a key, and the last ones between two, in the opposite order.
    last: Sql,
    last_between: Sql,
    /// The row of this key, of any user.
    look: Sql,
    /// The paths of the rows after a key, up to another where there is one, waiting for transactions
    /// that are still open.
    paths_to: Sql,
    paths_after: Sql,
}

/// What [`Db::entry`] reads.
macro_rules! entry {
    () => {
        "SELECT id, appid, userid, status, file_path, file_size, checksum, group_name FROM "
    };
}

macro_rules! tables {
    ($($table:literal),+) => {
        /// What existing deployments have, the checksum and the group.
        pub static SCHEMA: Schema = Schema {
            database: "tnv_storagedb",
            tables: &[$(Table { name: $table, columns: COLUMNS, added: ADDED, indexes: &[] }),+],
        };

        static STATEMENTS: &[Statements] = &[$(Statements {
            find: Sql::both(concat!(
                "SELECT id, appid, userid, status, file_path, file_size, checksum, ",
                "checksum IS NULL AND group_name IS NULL AND appid = ? AND userid = ? FROM ", $table, " WHERE id = ?"
            )),
            insert: Sql::both(concat!(
                "INSERT INTO ", $table,
                " (id, appid, userid, status, file_path, file_size, checksum, group_name) ",
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
            )),
            delete: Sql::both(concat!("DELETE FROM ", $table, " WHERE id = ? AND file_path = ?")),
            settle: Sql {
                mysql: concat!("SELECT 1 FROM ", $table, " WHERE id = ? AND file_path = ? LOCK IN SHARE MODE"),
                sqlite: concat!("SELECT 1 FROM ", $table, " WHERE id = ? AND file_path = ?"),
            },
            first: Sql::both(concat!(entry!(), $table, " ORDER BY id LIMIT ?")),
            after: Sql::both(concat!(entry!(), $table, " WHERE id > ? ORDER BY id LIMIT ?")),
            between: Sql::both(concat!(entry!(), $table, " WHERE id > ? AND id < ? ORDER BY id LIMIT ?")),
            last: Sql::both(concat!(entry!(), $table, " WHERE id > ? ORDER BY id DESC LIMIT ?")),
            last_between: Sql::both(concat!(
                entry!(), $table, " WHERE id > ? AND id < ? ORDER BY id DESC LIMIT ?"
            )),
            look: Sql::both(concat!(entry!(), $table, " WHERE id = ?")),
            paths_to: Sql {
                mysql: concat!(
                    "SELECT file_path FROM ", $table, " WHERE id >= ? AND id <= ? LOCK IN SHARE MODE"
                ),
                sqlite: concat!("SELECT file_path FROM ", $table, " WHERE id >= ? AND id <= ?"),
            },
            paths_after: Sql {
                mysql: concat!("SELECT file_path FROM ", $table, " WHERE id >= ? LOCK IN SHARE MODE"),
                sqlite: concat!("SELECT file_path FROM ", $table, " WHERE id >= ?"),
            },
        }),+];
    };
}

tables!("t_file_01", "t_file_02", "t_file_03");

/// A row as a walk through a whole table meets it: of any user, and of any status. IDs are as the table
/// has them (see [`Db::name`]), so that a walk can go on from each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub id: String,
    /// Whose it is.
    pub appid: String,
    /// Whose it is.
    pub userid: String,
    /// Whether it is served.
    pub live: bool,
    /// Whose members have its content; `None` where an existing storage wrote the row.
    pub group: Option<String>,
    /// The file; its path may be anything.
    pub file: StoredFile,
}

/// Which rows of a table come next, where it is read from both ends. The database compares the keys: it alone
/// knows their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// The first ones.
    First,
    /// The first ones after this key, and before the other one where there is one.
    After(&'a str, Option<&'a str>),
    /// The last ones after this key, and before the other one where there is one; the last one comes first.
    Last(&'a str, Option<&'a str>),
}

/// The file tables.
#[derive(Clone)]
pub struct Db {
    database: Database,
    /// What new rows are marked with.
    group: GroupName,
    /// For the workers who ask: some are kept free for what the cache knows.
    permits: Arc<Semaphore>,
}

impl Db {
    /// On an open database with [`SCHEMA`], for so many workers of a storage of this group.
    pub fn new(database: Database, group: &GroupName, threads: usize) -> Db {
        Db { database, group: group.clone(), permits: Arc::new(Semaphore::for_workers(threads)) }
    }

    /// The row of a file, if there is one that is live and belongs to this appid and userid.
    pub fn find(&self, file: &FileKey) -> Result<Option<StoredFile>> {
        let _permit = self.permits.acquire()?;
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
    pub fn check_free(&self, file: &FileKey) -> Result<()> {
        let _permit = self.permits.acquire()?;
        self.find_free(file)
    }

    fn find_free(&self, file: &FileKey) -> Result<()> {
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
    pub fn insert(&self, file: &FileKey, row: &StoredFile) -> Result<()> {
        let params = vec![
            file.fileid.as_str().into(),
            file.appid.as_str().into(),
            file.userid.as_str().into(),
            LIVE.into(),
            row.path.as_str().into(),
            signed(row.size)?.into(),
            row.crc32.map_or(Value::Null, Value::from),
            self.group.as_str().into(),
        ];
        let _permit = self.permits.acquire()?;
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
    pub fn delete(&self, file: &FileKey, path: &str) -> Result<bool> {
        let params = vec![file.fileid.as_str().into(), path.into()];
        let _permit = self.permits.acquire()?;
        match self.database.write(&statements(&file.userid).delete, params) {
            Ok(written) => Ok(written.affected > 0),
            Err(error) => Err(error.context(format_args!("delete database fail, fileid: {}", file.fileid))),
        }
    }

    /// Whether this upload has no row and, for certain, will not get one. Only recovery asks, which
    /// the bound on workers does not concern.
    pub fn is_absent(&self, userid: &UserId, fileid: &FileId, path: &str) -> Result<bool> {
        self.database.is_absent(&statements(userid).settle, &[fileid.as_str().into(), path.into()])
    }

    /// The next rows of a table in the order of its key, after this one where there is one; none at the
    /// end. A row that is there throughout a walk is met exactly once. No worker asks, so that the bound on
    /// workers does not concern this and what follows.
    pub fn page(&self, table: usize, after: Option<&str>) -> Result<Vec<Entry>> {
        self.next(table, after.map_or(Next::First, |after| Next::After(after, None)))
    }

    /// The next rows of a table that is read from both ends; none where the two have met.
    pub fn next(&self, table: usize, next: Next<'_>) -> Result<Vec<Entry>> {
        let statements = &STATEMENTS[table];
        let (sql, keys) = match next {
            Next::First => (&statements.first, [None, None]),
            Next::After(after, None) => (&statements.after, [Some(after), None]),
            Next::After(after, before) => (&statements.between, [Some(after), before]),
            Next::Last(after, None) => (&statements.last, [Some(after), None]),
            Next::Last(after, before) => (&statements.last_between, [Some(after), before]),
        };
        let keys = keys.into_iter().flatten().map(Value::from);
        let params: Vec<Value> = keys.chain([PAGE_ROWS.into()]).collect();
        let rows = self.database.read_stored(sql, &params);
        rows?.iter().map(|row| self.entry(row)).collect::<Result<_>>().context(|| SCHEMA.tables[table].name)
    }

    /// The name that a text of an [`Entry`] stands for.
    pub fn name(&self, stored: &str) -> String {
        self.database.name(stored)
    }

    /// The key of the row that this file has, as the table has it: the database may take other names for equal to it,
    /// and existing storages were served by these. Of a row that is gone, the key that it would have.
    pub fn key_of(&self, file: &FileKey, path: &str) -> Result<String> {
        let texts = [file.appid.as_str(), file.userid.as_str(), file.fileid.as_str()];
        let params = texts.map(|text| Value::Text(self.database.stored(text)));
        for row in self.database.read_stored(&statements(&file.userid).find, &params)? {
            if self.name(row.opt_text(4)?.unwrap_or_default()) == path {
                return Ok(row.text(0)?.to_owned());
            }
        }
        Ok(self.database.stored(file.fileid.as_str()))
    }

    /// The row with this very key as it is now.
    pub fn look(&self, table: usize, id: &str) -> Result<Option<Entry>> {
        let rows = self.database.read_stored(&STATEMENTS[table].look, &[id.into()])?;
        let entries = rows.iter().map(|row| self.entry(row)).collect::<Result<Vec<_>>>()?;
        Ok(entries.into_iter().find(|entry| entry.id == id))
    }

    /// The paths of all rows with keys from `from` to `to`, for certain: of a path that is not among them
    /// no transaction that is open now can add a row. The bounds belong in it.
    pub fn paths_for_certain(&self, table: usize, from: &str, to: Option<&str>) -> Result<Vec<String>> {
        let statements = &STATEMENTS[table];
        let rows = match to {
            Some(to) => self.database.read_confirmed(&statements.paths_to, &[from.into(), to.into()]),
            None => self.database.read_confirmed(&statements.paths_after, &[from.into()]),
        };
        rows?.iter().map(|row| Ok(self.name(row.opt_text(0)?.unwrap_or_default()))).collect()
    }

    fn entry(&self, row: &Row) -> Result<Entry> {
        let id = row.text(0)?.to_owned();
        let text = |column| -> Result<String> { Ok(row.opt_text(column)?.unwrap_or_default().to_owned()) };
        let size = row.opt_int(5)?.and_then(|size| u64::try_from(size).ok());
        let path = self.name(&text(4)?);
        Ok(Entry {
            appid: text(1)?,
            userid: text(2)?,
            live: row.opt_int(3)? == Some(LIVE),
            group: row.opt_text(7)?.map(str::to_owned),
            // No file has the size of a row that names none.
            file: StoredFile { path, size: size.unwrap_or(u64::MAX), crc32: checksum(row)? },
            id,
        })
    }

    fn rows(&self, file: &FileKey) -> Result<Vec<Row>> {
        self.database
            .read(
                &statements(&file.userid).find,
                &[file.appid.as_str().into(), file.userid.as_str().into(), file.fileid.as_str().into()],
            )
            .context(|| format!("read database fail, fileid: {}", file.fileid))
    }
}

fn statements(userid: &UserId) -> &'static Statements {
    &STATEMENTS[table_of(userid)]
}

/// The table of a user's files, as an index.
pub fn table_of(userid: &UserId) -> usize {
    usize::from(file_table(userid) - 1)
}

/// Whether a row is that of a live file of exactly this key, or one of an existing storage that takes it for
/// this one.
fn is_of(row: &Row, file: &FileKey) -> Result<bool> {
    let exact = row.opt_bytes(0)? == Some(file.fileid.as_str().as_bytes())
        && row.opt_bytes(1)? == Some(file.appid.as_str().as_bytes())
        && row.opt_bytes(2)? == Some(file.userid.as_str().as_bytes());
    Ok((exact || row.opt_int(7)? == Some(1)) && row.opt_int(3)? == Some(LIVE))
}

/// A checksum that is none is as good as none.
fn checksum(row: &Row) -> Result<Option<u32>> {
    Ok(row.opt_int(6)?.and_then(|checksum| u32::try_from(checksum).ok()))
}

fn file_row(row: &Row) -> Result<StoredFile> {
    let size = row.int(5)?;
    let Ok(size) = u64::try_from(size) else {
        return fail!(Internal, "its file_size is {size}, want 0 or more");
    };
    Ok(StoredFile { path: row.text(4)?.to_owned(), size, crc32: checksum(row)? })
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

    use tnv_common::db::DbSettings;
    use tnv_common::net::stop::Stop;
    use tnv_common::proto::AppId;

    use crate::scratch::Scratch;

    fn open(scratch: &Scratch) -> Db {
        let settings = DbSettings::embedded(scratch.path().join("db"));
        let database = Database::open(&settings, &SCHEMA, &Stop::new().unwrap()).unwrap();
        Db::new(database, &GroupName::new("group001").unwrap(), 8)
    }

    fn triple(appid: &str, userid: &str, fileid: &str) -> FileKey {
        FileKey {
            appid: AppId::new(appid).unwrap(),
            userid: UserId::new(userid).unwrap(),
            fileid: FileId::new(fileid).unwrap(),
        }
    }

    fn row(path: &str) -> StoredFile {
        StoredFile { path: path.into(), size: 7, crc32: Some(0xFFFF_FFFF) }
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
    fn a_walk_through_a_table_meets_each_row_once_and_a_certain_look_all_paths() {
        let scratch = Scratch::new();
        let db = open(&scratch);
        let rows = 2 * PAGE_ROWS + 7;
        let table = usize::from(file_table(&UserId::new("tnv001").unwrap()) - 1);
        std::thread::scope(|scope| {
            for start in 0..8 {
                let db = &db;
                scope.spawn(move || {
                    for number in (start..rows).step_by(8) {
                        let id = if number == 0 { " ".to_owned() } else { format!("{number:04}") };
                        db.insert(&triple("tnvideo", "tnv001", &id), &row(&format!("p{number}"))).unwrap();
                    }
                });
            }
        });
        let (mut met, mut after) = (Vec::new(), None);
        loop {
            let page = db.page(table, after.as_deref()).unwrap();
            let Some(last) = page.last() else { break };
            let first = after.replace(last.id.clone()).unwrap_or_default();
            let paths = db.paths_for_certain(table, &first, Some(&last.id)).unwrap();
            assert!(page.iter().all(|entry| paths.contains(&entry.file.path)));
            met.extend(page);
        }
        assert_eq!(met.len() as i64, rows);
        assert!(met.is_sorted_by(|one, next| one.id < next.id));
        assert!(met.iter().all(|entry| entry.live && entry.group.as_deref() == Some("group001")));
        assert_eq!(db.paths_for_certain(table, "", None).unwrap().len() as i64, rows);
        assert_eq!(db.look(table, "0005"), Ok(Some(met[5].clone())));
        assert_eq!(db.look(table, "005"), Ok(None));
    }

    #[test]
    fn a_table_that_is_read_from_both_ends_is_met_once_and_its_last_rows_come_first() {
        let scratch = Scratch::new();
        let db = open(&scratch);
        let table = table_of(&UserId::new("tnv001").unwrap());
        assert_eq!(db.next(table, Next::First), Ok(Vec::new()));
        let rows = 3 * PAGE_ROWS + 7;
        std::thread::scope(|scope| {
            for start in 0..8 {
                let db = &db;
                scope.spawn(move || {
                    for number in (start..rows).step_by(8) {
                        let id = format!("{number:04}");
                        db.insert(&triple("tnvideo", "tnv001", &id), &row(&format!("p{number}"))).unwrap();
                    }
                });
            }
        });
        let ids = |page: Vec<Entry>| page.into_iter().map(|entry| entry.id).collect::<Vec<_>>();
        let next = |next| ids(db.next(table, next).unwrap());
        let mut met = next(Next::First);
        let after = met.last().unwrap().clone();
        let last = next(Next::Last(&after, None));
        assert_eq!((last[0].as_str(), last.len() as i64), ("3006", PAGE_ROWS));
        let before = last.last().unwrap().clone();
        met.extend(last);
        let page = next(Next::After(&after, Some(&before)));
        assert_eq!((page[0].as_str(), page.len() as i64), ("1000", PAGE_ROWS));
        let after = page.last().unwrap().clone();
        met.extend(page);
        met.extend(next(Next::Last(&after, Some(&before))));
        assert_eq!(next(Next::Last(&after, Some("2000"))), Vec::<String>::new());
        met.sort();
        assert_eq!(met, (0..rows).map(|number| format!("{number:04}")).collect::<Vec<_>>());
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
