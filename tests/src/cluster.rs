//! A whole deployment on loopback: any number of trackers and ID servers, groups of storages that
//! share a directory, HTTP servers, on the embedded database or on a real MariaDB.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use rustix::process::Signal;

use crate::bins::bin;
use crate::dir::Dir;
use crate::mariadb::MariaDb;
pub use crate::port::free_address;
use crate::process::Process;
use crate::raw::{self, Raw};
use crate::tools::{Output, PATIENCE, patient};

/// Where the tables are.
#[derive(Clone, Copy)]
pub enum Db<'a> {
    /// The embedded database of each cluster's own directory.
    Embedded,
    /// A server that the test holds.
    Maria(&'a MariaDb),
}

/// A server's kind, as settings are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The tracker.
    Tracker,
    /// The ID server.
    Id,
    /// The storage.
    Storage,
    /// The HTTP server.
    Httpd,
}

impl Part {
    fn binary(self) -> &'static str {
        match self {
            Part::Tracker => "tnv-tracker",
            Part::Id => "tnv-idserver",
            Part::Storage => "tnv-storage",
            Part::Httpd => "tnv-httpd",
        }
    }
}

/// What a cluster is to be.
pub struct Builder<'a> {
    name: String,
    trackers: usize,
    ids: usize,
    groups: Vec<String>,
    members: usize,
    httpds: usize,
    db: Db<'a>,
    settings: Vec<(Part, String, String)>,
    under: Option<PathBuf>,
    wrapped: Option<(Part, Vec<String>)>,
    env: Vec<(String, String)>,
    wait: bool,
}

impl<'a> Builder<'a> {
    /// One tracker, one ID server, one group of one storage, no HTTP server, embedded database.
    pub fn new(name: &str) -> Builder<'a> {
        Builder {
            name: name.to_owned(),
            trackers: 1,
            ids: 1,
            groups: vec!["group001".to_owned()],
            members: 1,
            httpds: 0,
            db: Db::Embedded,
            settings: Vec::new(),
            under: None,
            wrapped: None,
            env: Vec::new(),
            wait: true,
        }
    }

    /// So many trackers.
    pub fn trackers(mut self, count: usize) -> Self {
        self.trackers = count;
        self
    }

    /// So many ID servers.
    pub fn ids(mut self, count: usize) -> Self {
        self.ids = count;
        self
    }

    /// These groups, each of so many storages that share one store directory.
    pub fn groups(mut self, groups: &[&str], members: usize) -> Self {
        self.groups = groups.iter().map(|&group| group.to_owned()).collect();
        self.members = members;
        self
    }

    /// So many HTTP servers.
    pub fn httpds(mut self, count: usize) -> Self {
        self.httpds = count;
        self
    }

    /// The database.
    pub fn db(mut self, db: Db<'a>) -> Self {
        self.db = db;
        self
    }

    /// A line of the configuration of every server of a kind.
    pub fn set(mut self, part: Part, key: &str, value: impl ToString) -> Self {
        self.settings.push((part, key.to_owned(), value.to_string()));
        self
    }

    /// Its directory is to be in this one.
    pub fn under(mut self, directory: &Path) -> Self {
        self.under = Some(directory.to_owned());
        self
    }

    /// Every server of a kind is started by this command, whose last arguments become the server's own. It
    /// must leave the server its process number.
    pub fn wrap(mut self, part: Part, command: &[&str]) -> Self {
        self.wrapped = Some((part, command.iter().map(|&word| word.to_owned()).collect()));
        self
    }

    /// A variable in every server's environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Does not wait for the storages to be ACTIVE.
    pub fn no_wait(mut self) -> Self {
        self.wait = false;
        self
    }

    /// Starts it all.
    pub fn start(self) -> Cluster {
        let mut cluster = self.prepare();
        cluster.start_all();
        cluster
    }

    /// Writes every file and starts nothing.
    pub fn prepare(self) -> Cluster {
        let dir = match &self.under {
            Some(under) => Dir::under(under, &self.name),
            None => Dir::new(&self.name),
        };
        for sub in ["etc", "log", "run"] {
            std::fs::create_dir_all(dir.join(sub)).expect("make a directory");
        }
        let trackers: Vec<_> = (0..self.trackers).map(|_| free_address()).collect();
        let ids: Vec<_> = (0..self.ids).map(|_| free_address()).collect();
        let list = |addresses: &[SocketAddr]| {
            addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(";")
        };
        let make = |part: Part, index: usize, address: SocketAddr, cwd: &Path, more: &[(&str, String)]| {
            let mut keys = BTreeMap::new();
            keys.insert("tnv_bind".to_owned(), address.to_string());
            if part != Part::Httpd {
                match self.db {
                    Db::Embedded => {
                        keys.insert("tnv_db_path".to_owned(), dir.join("db").display().to_string());
                    }
                    Db::Maria(server) => {
                        keys.insert("mysql_addrs".to_owned(), server.addr().to_string());
                        keys.insert("mysql_user".to_owned(), "root".to_owned());
                        keys.insert("mysql_pass".to_owned(), server.password().to_owned());
                    }
                }
            }
            for (key, value) in more {
                keys.insert((*key).to_owned(), value.clone());
            }
            for (_, key, value) in self.settings.iter().filter(|(of, ..)| *of == part) {
                keys.insert(key.clone(), value.clone());
            }
            let name = format!("{}-{index}", part.binary());
            let config = dir.join(&format!("etc/{name}.cfg"));
            write_config(&config, part.binary(), &keys);
            let log = dir.join(&format!("log/{name}.log"));
            let process = Process::new(part.binary(), address, &config, cwd, &self.env, &log);
            match &self.wrapped {
                Some((wrapped, command)) if *wrapped == part => process.wrapped(command),
                _ => process,
            }
        };
        let run = dir.join("run");
        let groups_list = self.groups.join(";");
        let tracker_parts = (trackers.iter().enumerate())
            .map(|(index, &at)| make(Part::Tracker, index, at, &run, &[("tnv_groups", groups_list.clone())]))
            .collect();
        let id_parts =
            ids.iter().enumerate().map(|(index, &at)| make(Part::Id, index, at, &run, &[])).collect();
        let mut storages = Vec::new();
        for group in &self.groups {
            let cwd = dir.join(group).join("run");
            std::fs::create_dir_all(&cwd).expect("make a directory");
            for _ in 0..self.members {
                let more = [
                    ("tnv_group_name", group.clone()),
                    ("tnv_store_paths", "../data".to_owned()),
                    // The default is a share of the disk, and that of a test machine may be nearly full.
                    ("tnv_reserved_space", "64M".to_owned()),
                    ("tnv_tracker_addrs", list(&trackers)),
                    ("tnv_ids_addrs", list(&ids)),
                ];
                let index = storages.len();
                storages.push(make(Part::Storage, index, free_address(), &cwd, &more));
            }
        }
        let more = [("tnv_tracker_addrs", list(&trackers))];
        let httpds =
            (0..self.httpds).map(|index| make(Part::Httpd, index, free_address(), &run, &more)).collect();
        let mysql = match self.db {
            Db::Embedded => None,
            Db::Maria(server) => Some(connect_options(server)),
        };
        Cluster {
            trackers: tracker_parts,
            ids: id_parts,
            storages,
            httpds,
            groups: self.groups,
            members: self.members,
            wait: self.wait,
            mysql,
            dir,
        }
    }
}

/// How a test reaches the tables of a MariaDB.
pub fn connect_options(server: &MariaDb) -> mysql::Opts {
    let address: SocketAddr = server.addr().to_string().parse().expect("an address");
    mysql::OptsBuilder::new()
        .ip_or_hostname(Some(address.ip().to_string()))
        .tcp_port(address.port())
        .user(Some("root"))
        .pass(Some(server.password()))
        .into()
}

/// Writes a configuration file in the existing form.
pub fn write_config(path: &Path, service: &str, keys: &BTreeMap<String, String>) {
    let mut text = format!("# written by a test\nservice {} {{\n", service.replace('-', "_"));
    for (key, value) in keys {
        text.push_str(&format!("    {key} = {value}\n"));
    }
    text.push_str("}\n");
    std::fs::write(path, text).expect("write a configuration file");
}

/// A deployment.
pub struct Cluster {
    /// The trackers.
    pub trackers: Vec<Process>,
    /// The ID servers.
    pub ids: Vec<Process>,
    /// The storages, group by group.
    pub storages: Vec<Process>,
    /// The HTTP servers.
    pub httpds: Vec<Process>,
    groups: Vec<String>,
    members: usize,
    wait: bool,
    mysql: Option<mysql::Opts>,
    dir: Dir,
}

impl Cluster {
    /// Starts what does not run, trackers and ID servers first.
    pub fn start_all(&mut self) {
        let start = |parts: &mut dyn Iterator<Item = &mut Process>| {
            let mut parts: Vec<_> = parts.collect();
            parts.iter_mut().for_each(|part| part.spawn());
            parts.iter_mut().for_each(|part| {
                part.wait_ready();
            });
        };
        start(&mut self.trackers.iter_mut().chain(&mut self.ids));
        start(&mut self.storages.iter_mut().chain(&mut self.httpds));
        if self.wait {
            self.wait_active(self.storages.len());
        }
    }

    /// Waits until every tracker lists so many ACTIVE storages; tells how long that took.
    #[track_caller]
    pub fn wait_active(&self, count: usize) -> Duration {
        patient(&format!("{count} ACTIVE storages"), PATIENCE, || {
            self.trackers.iter().all(|tracker| active(tracker.address()) == count)
        })
    }

    /// The directory of it all.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes a file into it.
    pub fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.dir.join(name);
        std::fs::write(&path, content).expect("write a file");
        path
    }

    /// The trackers as the client takes them.
    pub fn tracker_list(&self) -> String {
        self.trackers.iter().map(Process::host_port).collect::<Vec<_>>().join(";")
    }

    /// The first tracker.
    pub fn tracker(&self) -> SocketAddr {
        self.trackers[0].address()
    }

    /// The first ID server.
    pub fn id(&self) -> SocketAddr {
        self.ids[0].address()
    }

    /// The first storage.
    pub fn storage(&self) -> SocketAddr {
        self.storages[0].address()
    }

    /// The first HTTP server.
    pub fn httpd(&self) -> SocketAddr {
        self.httpds[0].address()
    }

    /// The storages of a group.
    pub fn members(&self, group: &str) -> &[Process] {
        let index = self.groups.iter().position(|known| known == group).expect("a group of this cluster");
        &self.storages[index * self.members..][..self.members]
    }

    /// Runs the client's command line.
    pub fn tnv(&self, args: &[&str]) -> Output {
        Output::of(&mut self.tnv_command(args))
    }

    /// The client's command line, to be run.
    pub fn tnv_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(bin("tnv"));
        command.arg(self.tracker_list()).args(args).current_dir(self.dir.path());
        command
    }

    /// Uploads a file of content through the command line; gives its ID.
    #[track_caller]
    pub fn upload(&self, appid: &str, userid: &str, content: &[u8]) -> String {
        let file = self.file(&format!("up-{}", rand::random::<u64>()), content);
        let out = self.tnv(&["upload", appid, userid, file.to_str().expect("UTF-8")]).success();
        let _ = std::fs::remove_file(file);
        match out.strip_prefix("Upload success: ").and_then(|rest| rest.strip_suffix('\n')) {
            Some(id) => id.to_owned(),
            None => panic!("the client printed {out:?}"),
        }
    }

    /// Stores content under an ID of the test's choosing, on the first storage.
    #[track_caller]
    pub fn put(&self, userid: &str, fileid: &str, content: &[u8]) {
        // As every client does: it is what gives a new user a group. A storage that was just started may
        // not have joined yet.
        patient("a group for the user", PATIENCE, || {
            raw::ask(self.tracker(), &raw::addresses("tnvideo", userid)).status == 0
        });
        let frame = raw::ask(self.storage(), &raw::upload("tnvideo", userid, fileid, content));
        assert_eq!(frame.success(102), b"");
    }

    /// The rows of a statement on one of the databases (`tnv_storagedb` and so on), as text; NULL
    /// is `NULL`.
    #[track_caller]
    pub fn sql(&self, database: &str, statement: &str) -> Vec<Vec<String>> {
        match &self.mysql {
            None => self.sqlite(database, statement),
            Some(options) => {
                let mut conn = mysql::Conn::new(options.clone()).expect("connect to MariaDB");
                conn.query_drop(format!("USE {database}")).expect("use a database");
                let rows: Vec<mysql::Row> =
                    conn.query(statement).unwrap_or_else(|error| panic!("{statement}: {error}"));
                rows.into_iter().map(|row| row.unwrap_raw().into_iter().map(mysql_text).collect()).collect()
            }
        }
    }

    fn sqlite(&self, database: &str, statement: &str) -> Vec<Vec<String>> {
        let path = self.dir.join("db").join(format!("{database}.db"));
        let db = rusqlite::Connection::open_with_flags(&path, rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        db.busy_timeout(PATIENCE).expect("a timeout");
        let mut prepared = db.prepare(statement).unwrap_or_else(|error| panic!("{statement}: {error}"));
        let columns = prepared.column_count();
        let mut rows = prepared.query([]).expect("query");
        let mut all = Vec::new();
        while let Some(row) = rows.next().expect("a row") {
            all.push((0..columns).map(|at| sqlite_text(row.get_ref(at).expect("a column"))).collect());
        }
        all
    }

    /// How many rows the three file tables have.
    #[track_caller]
    pub fn file_rows(&self) -> usize {
        (1..=3)
            .map(|table| {
                let rows = self.sql("tnv_storagedb", &format!("SELECT COUNT(*) FROM t_file_0{table}"));
                rows[0][0].parse::<usize>().expect("a count")
            })
            .sum()
    }

    /// The row of a file: appid, userid, file_path, file_size.
    #[track_caller]
    pub fn file_row(&self, userid: &str, fileid: &str) -> Option<Vec<String>> {
        let quoted = fileid.replace('\'', "''");
        let statement = format!(
            "SELECT appid, userid, file_path, file_size FROM t_file_0{} WHERE id = '{quoted}'",
            raw::table_of(userid)
        );
        self.sql("tnv_storagedb", &statement).into_iter().next()
    }

    /// Every file of content under a group's store path. What a storage keeps there for itself begins
    /// with a dot.
    pub fn content_files(&self, group: &str) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut dirs = vec![self.dir.join(group).join("data")];
        while let Some(dir) = dirs.pop() {
            let Ok(entries) = std::fs::read_dir(&dir) else { continue };
            for entry in entries.map(|entry| entry.expect("an entry")) {
                let hidden = entry.file_name().to_string_lossy().starts_with('.');
                match entry.file_type().expect("a file type").is_dir() {
                    true => dirs.push(entry.path()),
                    false if hidden => {}
                    false => files.push(entry.path()),
                }
            }
        }
        files
    }

    /// Every server that runs.
    pub fn parts(&mut self) -> impl Iterator<Item = &mut Process> {
        self.trackers.iter_mut().chain(&mut self.ids).chain(&mut self.storages).chain(&mut self.httpds)
    }

    /// Asserts that no server was ever larger than a bound, and prints each peak.
    #[track_caller]
    pub fn assert_peaks_below(&mut self, bound_mib: u64) {
        let peaks: Vec<_> = self
            .parts()
            .filter_map(|part| {
                part.runs().then(|| (part.config().file_stem().expect("a name").to_owned(), part.peak_kib()))
            })
            .collect();
        for (name, kib) in &peaks {
            println!("peak resident of {}: {:.1} MiB", name.display(), *kib as f64 / 1024.0);
        }
        for (name, kib) in peaks {
            assert!(kib < bound_mib << 10, "{} had {kib} KiB resident, over {bound_mib} MiB", name.display());
        }
    }
}

fn mysql_text(value: Option<mysql::Value>) -> String {
    match value {
        None | Some(mysql::Value::NULL) => "NULL".to_owned(),
        Some(mysql::Value::Bytes(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
        Some(value) => value.as_sql(true).trim_matches('\'').to_owned(),
    }
}

fn sqlite_text(value: rusqlite::types::ValueRef<'_>) -> String {
    use rusqlite::types::ValueRef;
    match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(text) | ValueRef::Blob(text) => String::from_utf8_lossy(text).into_owned(),
    }
}

/// A tracker's group list, as it came and without its NUL; empty where it does not answer.
pub fn group_list(tracker: SocketAddr) -> String {
    let Ok(mut raw) = Raw::try_connect(tracker) else { return String::new() };
    if raw.try_send(&raw::message(13, &[])).is_err() {
        return String::new();
    }
    match raw.try_frame() {
        Ok(Some(frame)) => {
            let body = frame.success(100);
            String::from_utf8(body).expect("UTF-8").strip_suffix('\0').expect("a NUL").to_owned()
        }
        _ => String::new(),
    }
}

/// The status of each storage that a tracker knows, by its address.
pub fn statuses(tracker: SocketAddr) -> BTreeMap<String, String> {
    let list = group_list(tracker);
    let values = |name: &str| {
        let start = format!("{name}: ");
        list.lines()
            .filter_map(|line| line.trim_start().strip_prefix(&start).map(str::to_owned))
            .collect::<Vec<_>>()
    };
    values("ADDRESS").into_iter().zip(values("STATUS")).collect()
}

/// How many ACTIVE storages a tracker knows.
pub fn active(tracker: SocketAddr) -> usize {
    statuses(tracker).values().filter(|status| *status == "ACTIVE").count()
}

/// Whether a line of a log tells of a panic: in the words of the servers' log, or of Rust before that
/// is started.
fn has_panicked(line: &str) -> bool {
    line.contains("] panic at ") || line.contains("panicked at")
}

impl Drop for Cluster {
    /// Stops everything, and fails the test where a server panicked: none may, whatever was sent.
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        let mut said = Vec::new();
        for part in self.parts() {
            if failed {
                said.push((part.config().to_owned(), part.log()));
            } else if let Some(line) = part.log().lines().find(|line| has_panicked(line)) {
                said.push((part.config().to_owned(), line.to_owned()));
            }
            if part.runs() {
                part.signal(Signal::CONT);
                part.signal(Signal::TERM);
            }
        }
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(2) && self.parts().any(Process::runs) {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.parts().for_each(Process::kill);
        for (config, log) in &said {
            println!("--- {}", config.display());
            let lines: Vec<_> = log.lines().collect();
            lines[lines.len().saturating_sub(60)..].iter().for_each(|line| println!("{line}"));
        }
        assert!(failed || said.is_empty(), "a server panicked");
    }
}
