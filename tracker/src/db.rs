//! The tracker's tables: which groups there are, and which group each user belongs to.
//!
//! Existing trackers make two routes for a new user who asks twice at once. Ours cannot refuse what
//! the table holds already, so the uniqueness of the rows we add is carried by a column beside them,
//! `route_key`, which theirs leave NULL. The loser of the race takes the winner's row.

use std::collections::HashSet;
use std::sync::Mutex;

use log::{info, warn};
use tnv_common::db::{Column, Database, DbSettings, Index, Row, Schema, Sql, Table};
use tnv_common::error::{Context, ErrorKind, Result};
use tnv_common::fail;
use tnv_common::net::stop::Stop;
use tnv_common::proto::GroupName;
use tnv_common::proto::tnv::tracker::Addresses;
use tnv_common::text::shown;

use crate::globals::AddGroups;
use crate::groups::{GROUPS_MAX, Groups};

const ID: Column = Column {
    name: "id",
    mysql: "int unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY",
    sqlite: "INTEGER PRIMARY KEY AUTOINCREMENT",
};

const GROUP_NAME: Column = Column { name: "group_name", mysql: "varchar(32)", sqlite: "TEXT" };

/// The tables.
pub static SCHEMA: Schema = Schema {
    database: "tnv_trackerdb",
    tables: &[
        Table { name: "t_groups_info", columns: &[ID, GROUP_NAME], added: &[], indexes: &[] },
        Table {
            name: "t_router",
            columns: &[
                ID,
                Column { name: "appid", mysql: "varchar(32)", sqlite: "TEXT" },
                Column { name: "userid", mysql: "varchar(128)", sqlite: "TEXT" },
                GROUP_NAME,
            ],
            // 128 characters have at most 512 bytes; the wire lets 255 through.
            added: &[Column { name: "route_key", mysql: "varbinary(255) NULL", sqlite: "BLOB" }],
            indexes: &[
                Index { name: "route_key", columns: "route_key", unique: true, sqlite_where: "" },
                // For the rows that existing trackers made; ours are found by their key.
                Index { name: "userid", columns: "userid", unique: false, sqlite_where: "route_key IS NULL" },
            ],
        },
    ],
};

/// Groups in the order of their making. More rows than this are other than group names.
static GROUPS: Sql = Sql::both("SELECT group_name FROM t_groups_info ORDER BY id LIMIT 10000");

/// The groups of the next 20,000 rows of t_router, each with its last row among these. The table has no index
/// of the groups, and one query that reads all of a large one takes longer than a server may be silent. So many rows
/// take some tens of milliseconds, and ten million of them are 500 queries.
static ROUTED: Sql = Sql {
    mysql: "SELECT CAST(group_name AS BINARY) AS routed, CAST(MAX(id) AS SIGNED) FROM (\
              SELECT id, group_name FROM t_router WHERE id > ? ORDER BY id LIMIT 20000\
            ) AS page GROUP BY routed",
    sqlite: "SELECT group_name AS routed, MAX(id) FROM (\
               SELECT id, group_name FROM t_router WHERE id > ? ORDER BY id LIMIT 20000\
             ) AS page GROUP BY routed",
};

/// Names of groups that are taken from t_router: more of them are other than group names.
const ROUTED_MAX: usize = 10_000;

/// Two trackers may do this at once: the second one waits for the first one's commit and then finds
/// the row. Compared byte by byte, since `group001` and `GROUP001` are two groups to us.
static ADD_GROUP: Sql = Sql {
    mysql: "INSERT INTO t_groups_info (group_name) SELECT ? FROM DUAL WHERE NOT EXISTS \
            (SELECT 1 FROM t_groups_info WHERE CAST(group_name AS BINARY) = CAST(? AS BINARY))",
    sqlite: "INSERT INTO t_groups_info (group_name) SELECT ? WHERE NOT EXISTS \
             (SELECT 1 FROM t_groups_info WHERE group_name = ?)",
};

/// The row that decides: the user's own before those of users whom the table's collation takes for the same
/// (`Alice` for `alice`); of these the one of this application, else the oldest. Our rows are found by their
/// key, whose collation is none, and also those of existing trackers by the user ID.
///
/// In SQLite, which existing trackers cannot use, all comparisons are exact.
static ROUTE: Sql = Sql {
    mysql: "SELECT group_name, own, existing FROM (\
              SELECT id, appid, group_name, 1 AS own, 0 AS existing FROM t_router WHERE route_key = ? UNION ALL \
              SELECT id, appid, group_name, CAST(userid AS BINARY) = CAST(? AS BINARY), route_key IS NULL \
              FROM t_router WHERE userid = ?\
            ) AS routes ORDER BY own DESC, CAST(appid AS BINARY) = CAST(? AS BINARY) DESC, appid = ? DESC, id LIMIT 1",
    sqlite: "SELECT group_name, own, existing FROM (\
               SELECT id, appid, group_name, 1 AS own, 0 AS existing FROM t_router WHERE route_key = ?1 UNION ALL \
               SELECT id, appid, group_name, 1, 1 FROM t_router INDEXED BY t_router_userid \
               WHERE route_key IS NULL AND userid = ?3\
             ) ORDER BY appid = ?5 DESC, id LIMIT 1",
};

static ADD_ROUTE: Sql = Sql {
    mysql: "INSERT INTO t_router (appid, userid, group_name, route_key) VALUES (?, ?, ?, ?) \
            ON DUPLICATE KEY UPDATE id = id",
    sqlite: "INSERT INTO t_router (appid, userid, group_name, route_key) VALUES (?, ?, ?, ?) \
             ON CONFLICT (route_key) DO NOTHING",
};

/// Where a user's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRoute {
    /// The group.
    pub group: GroupName,
    /// Whose row says so.
    pub row: RouteRow,
}

/// Whose row was found for a user. Existing trackers know the table's collation alone: they gave one group to all
/// users whom it takes for one, and go on doing so beside ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteRow {
    /// The user's own.
    Own,
    /// One that an existing tracker wrote, of a user whom the table takes for this one: it is both users' row.
    Existing,
    /// One of ours, of a user whom the table takes for this one. The user is new; an existing tracker would give the
    /// same group.
    Alike,
}

/// The tracker's database.
pub struct TrackerDb {
    database: Database,
    /// Rows of t_groups_info that were complained about: once each, not at every reading.
    bad_groups: Mutex<HashSet<String>>,
}

impl TrackerDb {
    /// Opens the database and makes what is missing.
    pub fn open(settings: &DbSettings, stop: &Stop) -> Result<TrackerDb> {
        let database = Database::open(settings, &SCHEMA, stop)?;
        Ok(TrackerDb { database, bad_groups: Mutex::default() })
    }

    /// Which database it is.
    pub fn describe(&self) -> String {
        self.database.describe()
    }

    /// Adds the groups that the table lacks.
    pub fn add_groups(&self, names: &[GroupName], when: AddGroups) -> Result<()> {
        let rows = self.database.read(&GROUPS, &[]).context(|| "read t_groups_info")?;
        if when == AddGroups::IfNone && !rows.is_empty() {
            return Ok(());
        }
        let known = self.groups_of(&rows)?;
        for name in names.iter().filter(|name| !known.contains(name)) {
            let written = self.database.write(&ADD_GROUP, vec![name.as_str().into(), name.as_str().into()]);
            let written = written.context(|| format!("add the group {name} to t_groups_info"))?;
            if written.affected > 0 {
                info!("added the group {name} to t_groups_info: new users may get it from now on");
            }
        }
        Ok(())
    }

    /// The groups that users belong to, whether t_groups_info has them or not, at most [`ROUTED_MAX`]. It reads all of
    /// t_router, in pieces: so it is asked seldom.
    pub fn routed(&self) -> Result<Vec<GroupName>> {
        let mut names = HashSet::new();
        let mut read_to = 0;
        loop {
            let rows = self.database.read(&ROUTED, &[read_to.into()]);
            let rows = rows.context(|| format!("read the groups of t_router after row {read_to}"))?;
            if rows.is_empty() {
                return Ok(names.into_iter().collect());
            }
            for row in &rows {
                read_to = read_to.max(row.int(1)?);
                let name = row.opt_bytes(0).ok().flatten().and_then(|name| GroupName::new(name).ok());
                if names.len() < ROUTED_MAX {
                    names.extend(name);
                }
            }
        }
    }

    /// Brings the table of groups up to what the database has.
    pub fn refresh(&self, groups: &Groups) -> Result<()> {
        groups.set_listed(&self.groups()?);
        Ok(())
    }

    /// The groups there are, each once; rows that name none are passed over.
    fn groups(&self) -> Result<Vec<GroupName>> {
        self.groups_of(&self.database.read(&GROUPS, &[]).context(|| "read t_groups_info")?)
    }

    fn groups_of(&self, rows: &[Row]) -> Result<Vec<GroupName>> {
        let mut names: Vec<GroupName> = Vec::new();
        let mut seen = HashSet::new();
        for row in rows {
            match GroupName::new(row.opt_bytes(0)?.unwrap_or_default()) {
                Ok(name) if !seen.insert(name.clone()) => {}
                Ok(_) if names.len() >= GROUPS_MAX => {
                    self.complain(row, &format!("it is beyond the first {GROUPS_MAX}"));
                }
                Ok(name) => names.push(name),
                Err(error) => self.complain(row, error.message()),
            }
        }
        Ok(names)
    }

    fn complain(&self, row: &Row, why: &str) {
        let name = row.opt_bytes(0).ok().flatten().map_or_else(|| "NULL".to_owned(), shown);
        let mut bad = self.bad_groups.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if bad.len() < GROUPS_MAX && bad.insert(name.clone()) {
            warn!("group '{name}' of t_groups_info is not used: {why}");
        }
    }

    /// The group of a user who has one.
    pub fn route(&self, user: &Addresses) -> Result<Option<UserRoute>> {
        let (userid, appid) = (user.userid.as_str(), user.appid.as_str());
        let params = [userid.as_bytes().into(), userid.into(), userid.into(), appid.into(), appid.into()];
        let rows = self.database.read(&ROUTE, &params).context(|| "read t_router")?;
        let Some(row) = rows.first() else { return Ok(None) };
        let row_of = match (row.opt_int(1)?, row.opt_int(2)?) {
            (Some(1), _) => RouteRow::Own,
            (_, Some(1)) => RouteRow::Existing,
            _ => RouteRow::Alike,
        };
        match GroupName::new(row.opt_bytes(0)?.unwrap_or_default()) {
            Ok(group) => Ok(Some(UserRoute { group, row: row_of })),
            Err(error) => fail!(Unavailable, "the row of user {userid} in t_router names no group: {error}"),
        }
    }

    /// Records the group of a user without a row, unless another tracker was first; returns the group that
    /// the user has now.
    pub fn add_route(&self, user: &Addresses, group: &GroupName) -> Result<GroupName> {
        let userid = user.userid.as_str();
        let key = userid.as_bytes().to_vec();
        let params = vec![user.appid.as_str().into(), userid.into(), group.as_str().into(), key.into()];
        match self.database.write(&ADD_ROUTE, params) {
            Ok(_) => {}
            // Whether it was committed shows in what is read next.
            Err(error) if error.kind() == ErrorKind::OutcomeUnknown => warn!("user {userid}: {error}"),
            Err(error) => return Err(error.context("write t_router")),
        }
        match self.route(user)? {
            Some(route) => Ok(route.group),
            None => fail!(Unavailable, "the group of user {userid} could not be recorded; ask again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;
    use tnv_common::db::Value;
    use tnv_common::proto::{AppId, UserId};

    /// The embedded database in a directory of its own, removed at the end.
    struct Bench {
        db: Arc<TrackerDb>,
        directory: PathBuf,
    }

    impl Bench {
        fn new(name: &str) -> Bench {
            let directory = std::env::temp_dir().join(format!("tnv-tracker-{name}-{}", std::process::id()));
            let db = Arc::new(TrackerDb::open(&settings(&directory), &Stop::new().unwrap()).unwrap());
            Bench { db, directory }
        }

        fn insert(&self, appid: Option<&str>, userid: &str, group: Option<&str>) {
            static OLD: Sql = Sql::both("INSERT INTO t_router (appid, userid, group_name) VALUES (?, ?, ?)");
            self.db.database.write(&OLD, vec![appid.into(), userid.into(), group.into()]).unwrap();
        }

        fn insert_group(&self, name: Option<&str>) {
            static GROUP: Sql = Sql::both("INSERT INTO t_groups_info (group_name) VALUES (?)");
            self.db.database.write(&GROUP, vec![name.into()]).unwrap();
        }

        fn rows(&self) -> i64 {
            static COUNT: Sql = Sql::both("SELECT count(*) FROM t_router");
            self.db.database.read(&COUNT, &[]).unwrap()[0].int(0).unwrap()
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }

    fn settings(directory: &Path) -> DbSettings {
        DbSettings::embedded(directory.to_owned())
    }

    fn user(appid: &str, userid: &str) -> Addresses {
        Addresses { appid: AppId::new(appid).unwrap(), userid: UserId::new(userid).unwrap() }
    }

    /// The group of a row of the user's own.
    fn own(name: &str) -> Result<Option<UserRoute>> {
        Ok(Some(UserRoute { group: group(name), row: RouteRow::Own }))
    }

    fn group(name: &str) -> GroupName {
        GroupName::new(name).unwrap()
    }

    #[test]
    fn groups_are_added_once_and_read_once() {
        let bench = Bench::new("groups");
        let names = [group("group001"), group("GROUP001")];
        bench.db.add_groups(&names, AddGroups::Missing).unwrap();
        bench.db.add_groups(&names, AddGroups::Missing).unwrap();
        for name in [Some("group001"), Some("not a name"), Some("seventeenlettersx"), Some(""), None] {
            bench.insert_group(name);
        }
        assert_eq!(bench.db.groups().unwrap(), names);
    }

    /// Trackers of the existing system then gave new users that group, which had no storage.
    #[test]
    fn the_default_group_is_added_to_an_empty_table_and_to_no_other() {
        let bench = Bench::new("default-group");
        bench.db.add_groups(&[group("group001")], AddGroups::IfNone).unwrap();
        assert_eq!(bench.db.groups().unwrap(), [group("group001")]);
        let other = Bench::new("default-group-other");
        other.insert_group(Some("group-x"));
        other.db.add_groups(&[group("group001")], AddGroups::IfNone).unwrap();
        assert_eq!(other.db.groups().unwrap(), []);
    }

    #[test]
    fn the_groups_of_users_are_each_told_once_and_names_that_are_none_are_left_out() {
        let bench = Bench::new("routed");
        for (user, group) in [("a", "g1"), ("b", "G1"), ("c", "g1"), ("d", "no group"), ("e", "g2")] {
            bench.insert(Some("tnvideo"), user, Some(group));
        }
        bench.insert(None, "f", None);
        let mut routed = bench.db.routed().unwrap();
        routed.sort();
        assert_eq!(routed, [group("G1"), group("g1"), group("g2")]);
    }

    /// One query read the whole table: with tens of millions of rows it ran into the time-out, and the tracker left its
    /// MySQL server.
    #[test]
    fn the_groups_of_users_are_read_in_pieces() {
        static MANY: Sql = Sql::both(
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 50000) \
             INSERT INTO t_router (id, appid, userid, group_name) \
             SELECT 3 * n, 'tnvideo', 'user' || n, 'g' || (n / 10000) FROM numbers",
        );
        let bench = Bench::new("routed-pieces");
        bench.db.database.write(&MANY, Vec::new()).unwrap();
        let first = bench.db.database.read(&ROUTED, &[0.into()]).unwrap();
        let last = first.iter().map(|row| row.int(1).unwrap()).max();
        assert_eq!(last, Some(60_000), "the last one of 20,000 rows");
        let mut routed = bench.db.routed().unwrap();
        routed.sort();
        assert_eq!(routed, ["g0", "g1", "g2", "g3", "g4", "g5"].map(group));
    }

    #[test]
    fn an_existing_row_of_the_application_decides_else_the_oldest() {
        let bench = Bench::new("routes");
        assert_eq!(bench.db.route(&user("a", "u")), Ok(None));
        bench.insert(Some("b"), "u", Some("g1"));
        bench.insert(Some("a"), "u", Some("g2"));
        bench.insert(Some("a"), "u", Some("g3"));
        bench.insert(None, "v", Some("g4"));
        assert_eq!(bench.db.route(&user("a", "u")), own("g2"));
        assert_eq!(bench.db.route(&user("c", "u")), own("g1"));
        assert_eq!(bench.db.route(&user("a", "v")), own("g4"));
        for other in ["U", "u ", "o'brien", "u' OR '1'='1"] {
            assert_eq!(bench.db.route(&user("a", other)), Ok(None), "{other}");
        }
    }

    #[test]
    fn a_row_without_a_group_is_an_error_and_not_a_new_user() {
        let bench = Bench::new("bad-rows");
        bench.insert(Some("a"), "u", None);
        bench.insert(Some("a"), "v", Some("a group"));
        for userid in ["u", "v"] {
            assert_eq!(bench.db.route(&user("a", userid)).unwrap_err().kind(), ErrorKind::Unavailable);
        }
    }

    #[test]
    fn one_new_user_gets_one_row_however_many_ask_at_once() {
        let bench = Bench::new("race");
        let other = Arc::new(TrackerDb::open(&settings(&bench.directory), &Stop::new().unwrap()).unwrap());
        let askers: Vec<_> = (0..16)
            .map(|number| {
                let db = if number % 2 == 0 { Arc::clone(&bench.db) } else { Arc::clone(&other) };
                let choice = group(&format!("g{number}"));
                std::thread::spawn(move || db.add_route(&user("a", "o'brien"), &choice).unwrap())
            })
            .collect();
        let answers: HashSet<_> = askers.into_iter().map(|asker| asker.join().unwrap()).collect();
        assert_eq!(answers.len(), 1);
        assert_eq!(bench.rows(), 1);
        // Another application of the same user: the same group, and no row of its own.
        assert!(answers.contains(&bench.db.add_route(&user("b", "o'brien"), &group("g99")).unwrap()));
        assert_eq!(bench.rows(), 1);
    }

    #[test]
    fn the_shipped_schema_is_this_one() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../etc/sql/tnv_trackerdb.sql");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, SCHEMA.mysql_script()).unwrap();
        }
        let shipped = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(shipped, SCHEMA.mysql_script(), "UPDATE_DOCS=1 cargo test writes {}", path.display());
    }

    #[test]
    fn a_table_of_an_existing_deployment_is_taken_over() {
        // Made as existing deployments have it, with two routes for one user.
        let bench = Bench::new("existing");
        bench.insert(Some("tnvideo"), "tnv001", Some("group001"));
        bench.insert(Some("tnvideo"), "tnv001", Some("group002"));
        let found = bench.db.add_route(&user("tnvideo", "tnv001"), &group("group003"));
        assert_eq!(found, Ok(group("group001")), "the oldest row goes on deciding");
        let params: [Value; 0] = [];
        static KEYS: Sql = Sql::both("SELECT id FROM t_router WHERE route_key IS NULL");
        assert_eq!(bench.db.database.read(&KEYS, &params).unwrap().len(), 2);
    }
}
