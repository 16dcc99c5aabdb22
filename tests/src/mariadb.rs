//! A private MariaDB server for a test: a real one, in a directory and on a port of its own, which
//! can be paused, killed and started again, and which is gone when the test is.
//!
//! It is as durable as a real one (`innodb_flush_log_at_trx_commit=1`), or the tests of what
//! survives would mean nothing; only what does not bear on that is made small for speed.

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;

use crate::bins::profile_dir;
use crate::process::wrapped;
use crate::tools::{skipped, this_test};

/// How long a start may take: recovery after a kill included, on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(180);

/// How long an orderly stop may take before it becomes a kill.
const STOP_TIMEOUT: Duration = Duration::from_secs(90);

/// What every start of the server is given beside its directory and port.
const OPTIONS: [&str; 16] = [
    "--no-defaults",
    "--bind-address=127.0.0.1",
    "--skip-name-resolve",
    "--skip-slave-start",
    "--socket=mariadb.sock",
    "--pid-file=mariadb.pid",
    "--init-file=init.sql",
    // A starting server removes the temporary tables in its directory for them, whoever made them.
    "--tmpdir=tmp",
    "--ignore-db-dirs=tmp",
    "--character-set-server=utf8mb4",
    "--performance-schema=OFF",
    "--innodb-flush-log-at-trx-commit=1",
    "--innodb-buffer-pool-size=32M",
    "--innodb-log-file-size=8M",
    "--innodb-data-file-path=ibdata1:8M:autoextend",
    "--innodb-buffer-pool-dump-at-shutdown=OFF",
];

/// A running server. Dropping it stops it and removes its directory.
pub struct MariaDb {
    directory: PathBuf,
    port: u16,
    password: String,
    /// Options of this server beside those of all.
    options: Vec<String>,
    /// What starts it, where it is not started as it is.
    wrapper: Vec<String>,
    process: Option<Child>,
    watcher: Option<Child>,
}

impl MariaDb {
    /// The account that everything is done with.
    pub const USER: &str = "root";

    /// An account without privileges over the server, on those of [`MariaDb::start_pair`].
    pub const PLAIN_USER: &str = "tnv";

    /// Starts a server. `None`, with a line that says SKIPPED, where MariaDB is not installed.
    pub fn start() -> Option<MariaDb> {
        MariaDb::start_with(&["--skip-log-bin"], format!("secret-{:016x}", rand::random::<u64>()))
    }

    /// Starts a server with these options beside those of all.
    pub fn start_having(options: &[&str]) -> Option<MariaDb> {
        let options = [&["--skip-log-bin"], options].concat();
        MariaDb::start_with(&options, format!("secret-{:016x}", rand::random::<u64>()))
    }

    /// Starts a server in a directory of its own in this one, with these options beside those of all, and by a
    /// command, if one is given, whose last arguments become the server's own; it must leave the server its
    /// process number.
    pub fn start_under(directory: &Path, options: &[&str], wrapper: &[&str]) -> Option<MariaDb> {
        let options = [&["--skip-log-bin"], options].concat();
        MariaDb::start_in(directory, &options, wrapper, format!("secret-{:016x}", rand::random::<u64>()))
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("a server that runs").id()
    }

    /// Starts a primary and a replica of it that acknowledges each commit before the client hears of it
    /// (semi-synchronously, AFTER_SYNC), as docs/mysql.md asks for. The replica is read-only. Both have an account
    /// [`MariaDb::PLAIN_USER`] with the same password, which may do what TNV needs and nothing more: an account
    /// with all privileges writes to a read-only server, too.
    pub fn start_pair() -> Option<(MariaDb, MariaDb)> {
        let password = format!("secret-{:016x}", rand::random::<u64>());
        let semi = ["--log-bin=bin", "--log-slave-updates", "--sync-binlog=1"];
        let waits = ["--rpl-semi-sync-master-enabled=ON", "--rpl-semi-sync-master-wait-point=AFTER_SYNC"];
        let for_long = "--rpl-semi-sync-master-timeout=600000";
        let primary = [&semi[..], &waits, &["--server-id=1", for_long]].concat();
        let replica = [&semi[..], &["--server-id=2", "--rpl-semi-sync-slave-enabled=ON"]].concat();
        let primary = MariaDb::start_with(&primary, password.clone())?;
        let replica = MariaDb::start_with(&replica, password)?;
        let user = MariaDb::PLAIN_USER;
        let account = |server: &MariaDb| {
            let password = server.password();
            // In no binary log: each has its own.
            server.run(&[
                "SET sql_log_bin = 0",
                &format!("CREATE USER {user}@'127.0.0.1' IDENTIFIED BY '{password}'"),
                &format!("GRANT ALL PRIVILEGES ON `tnv\\_%`.* TO {user}@'127.0.0.1'"),
            ]);
        };
        account(&primary);
        account(&replica);
        let at = primary.query("SHOW MASTER STATUS").remove(0);
        replica.run(&[
            &format!(
                "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={}, MASTER_USER='root', MASTER_PASSWORD='{}', \
                 MASTER_LOG_FILE='{}', MASTER_LOG_POS={}, MASTER_CONNECT_RETRY=1",
                primary.port, primary.password, at[0], at[1]
            ),
            "START SLAVE",
            "SET GLOBAL read_only = 1",
        ]);
        let deadline = Instant::now() + START_TIMEOUT;
        while primary.status("Rpl_semi_sync_master_clients") != "1" {
            assert!(Instant::now() < deadline, "{:?}", replica.query("SHOW SLAVE STATUS"));
            thread::sleep(Duration::from_millis(50));
        }
        Some((primary, replica))
    }

    /// Makes a replica whose primary is gone a primary, once it has applied all that it has received.
    pub fn promote(&self) {
        self.run(&["STOP SLAVE IO_THREAD"]);
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            // Columns 6 and 21: Read_Master_Log_Pos and Exec_Master_Log_Pos; 5 and 9 are the files.
            let row = self.query("SHOW SLAVE STATUS").remove(0);
            if row[5] == row[9] && row[6] == row[21] {
                break;
            }
            assert!(Instant::now() < deadline, "not all is applied: {row:?}");
            thread::sleep(Duration::from_millis(50));
        }
        self.run(&["STOP SLAVE", "RESET SLAVE ALL", "SET GLOBAL read_only = 0"]);
    }

    /// A status variable.
    pub fn status(&self, name: &str) -> String {
        let rows = self.query(&format!("SHOW GLOBAL STATUS LIKE '{name}'"));
        rows.into_iter().next().map_or_else(String::new, |row| row[1].clone())
    }

    /// Runs statements in one session.
    pub fn run(&self, statements: &[&str]) {
        let mut conn = mysql::Conn::new(self.options(&self.password)).expect("connect to MariaDB");
        for statement in statements {
            conn.query_drop(statement).unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
    }

    fn start_with(options: &[&str], password: String) -> Option<MariaDb> {
        MariaDb::start_in(&scratch(), options, &[], password)
    }

    fn start_in(place: &Path, options: &[&str], wrapper: &[&str], password: String) -> Option<MariaDb> {
        let Some(server) = find("mariadbd") else {
            skipped(&this_test(), "mariadbd is not installed (Debian: apt-get install mariadb-server-core)");
            return None;
        };
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = place.join(format!("mariadb-{}-{count}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        copy_directory(&template(), &directory).expect("copy the data directory");
        fs::create_dir(directory.join("tmp")).expect("make the directory for temporary tables");
        let mut mariadb = MariaDb {
            directory,
            port: crate::port::free_address().port(),
            password,
            options: options.iter().map(|&option| option.to_owned()).collect(),
            wrapper: wrapper.iter().map(|&word| word.to_owned()).collect(),
            process: None,
            watcher: None,
        };
        mariadb.launch(&server);
        Some(mariadb)
    }

    /// Where it makes temporary tables, its information schema's among them.
    pub fn tmpdir(&self) -> PathBuf {
        self.directory.join("tmp")
    }

    /// Where it listens, as `127.0.0.1:PORT`.
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The password of [`MariaDb::USER`].
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Runs SQL in no database, and returns the rows, each column as text or `NULL`.
    pub fn query(&self, sql: &str) -> Vec<Vec<String>> {
        let mut conn = mysql::Conn::new(self.options(&self.password)).expect("connect to MariaDB");
        let rows: Vec<mysql::Row> = conn.query(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        let text = |value: mysql::Value| match value {
            mysql::Value::NULL => "NULL".to_owned(),
            mysql::Value::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            other => other.as_sql(true),
        };
        rows.into_iter().map(|row| row.unwrap().into_iter().map(text).collect()).collect()
    }

    /// Stops every thread of the server where it is: connections hang, nothing is lost.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// Lets a paused server go on.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// Kills the server, as a crash would.
    pub fn kill(&mut self) {
        self.dismiss();
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Stops the server in good order.
    pub fn stop(&mut self) {
        if self.process.is_none() {
            return;
        }
        self.dismiss();
        self.resume();
        self.signal("TERM");
        let deadline = Instant::now() + STOP_TIMEOUT;
        while let Some(process) = &mut self.process {
            match process.try_wait() {
                Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
                Ok(None) | Err(_) => self.kill(),
                Ok(Some(_)) => self.process = None,
            }
        }
    }

    /// Starts a stopped or killed server again, on the same port.
    pub fn restart(&mut self) {
        self.stop();
        let server = find("mariadbd").expect("mariadbd was there a moment ago");
        self.launch(&server);
    }

    fn launch(&mut self, server: &Path) {
        let init = format!(
            "SET sql_log_bin = 0;\n\
             ALTER USER root@localhost IDENTIFIED BY '{0}';\n\
             CREATE USER IF NOT EXISTS root@'127.0.0.1';\n\
             ALTER USER root@'127.0.0.1' IDENTIFIED BY '{0}';\n\
             GRANT ALL PRIVILEGES ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;\n",
            self.password
        );
        fs::write(self.directory.join("init.sql"), init).expect("write init.sql");
        let log = File::options().create(true).append(true).open(self.log()).expect("open the log");
        let process = wrapped(&self.wrapper, server)
            .args(OPTIONS)
            .args(&self.options)
            .args(plugins())
            .arg(format!("--datadir={}", self.directory.display()))
            .arg(format!("--port={}", self.port))
            .args(as_root())
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("share the log"))
            .stderr(log)
            .spawn()
            .expect("start mariadbd");
        self.watcher = Some(watch(&process, &self.directory));
        self.process = Some(process);
        self.wait_until_ready();
    }

    /// Ends the watcher, while the server's process number is still the server's.
    fn dismiss(&mut self) {
        if let Some(mut watcher) = self.watcher.take() {
            let _ = watcher.kill();
            let _ = watcher.wait();
        }
    }

    /// Ready is: the password that the init file sets is accepted.
    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + START_TIMEOUT;
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        loop {
            if TcpStream::connect(address).is_ok() && mysql::Conn::new(self.options(&self.password)).is_ok() {
                return;
            }
            let ended = self.process.as_mut().is_none_or(|process| !matches!(process.try_wait(), Ok(None)));
            if ended || Instant::now() > deadline {
                let log = fs::read_to_string(self.log()).unwrap_or_default();
                panic!("MariaDB did not start; its log:\n{log}");
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn options(&self, password: &str) -> mysql::OptsBuilder {
        mysql::OptsBuilder::new()
            .ip_or_hostname(Some("127.0.0.1"))
            .tcp_port(self.port)
            .prefer_socket(false)
            .user(Some(MariaDb::USER))
            .pass(Some(password))
            .tcp_connect_timeout(Some(Duration::from_secs(60)))
            .read_timeout(Some(Duration::from_secs(120)))
            .write_timeout(Some(Duration::from_secs(120)))
    }

    fn log(&self) -> PathBuf {
        self.directory.join("mariadb.log")
    }

    fn signal(&self, name: &str) {
        if let Some(process) = &self.process {
            // The shell's own kill: a small machine may have no other.
            let sent = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", process.id())).status();
            assert!(sent.expect("run sh").success(), "kill -{name}");
        }
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A shell that waits for this process to end, at which the pipe between them closes, and then kills the
/// server: a test that is itself killed drops nothing.
///
/// Not a parent-death signal: that comes when the thread ends that started the server.
fn watch(server: &Child, directory: &Path) -> Child {
    let wait = "trap '' HUP INT TERM; read -r _; kill -KILL \"$1\"; rm -rf \"$2\"";
    Command::new("sh")
        .args(["-c", wait, "watch-mariadb", &server.id().to_string()])
        .arg(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("run sh")
}

/// A freshly installed data directory, made once and kept for the test runs to come.
fn template() -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();
    let template = scratch().join("mariadb-template");
    if template.is_dir() {
        return template;
    }
    let made = scratch().join(format!("mariadb-template-{}", std::process::id()));
    let _ = fs::remove_dir_all(&made);
    let tmp = made.join("tmp");
    fs::create_dir_all(&tmp).expect("make the data directory");
    let install = find("mariadb-install-db").expect("mariadbd is installed without mariadb-install-db");
    let output = Command::new(install)
        .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
        .args(["--innodb-log-file-size=8M", "--innodb-data-file-path=ibdata1:8M:autoextend"])
        .arg(format!("--datadir={}", made.display()))
        .arg(format!("--tmpdir={}", tmp.display()))
        .args(as_root())
        .stdin(Stdio::null())
        .output()
        .expect("run mariadb-install-db");
    assert!(output.status.success(), "mariadb-install-db: {}", String::from_utf8_lossy(&output.stdout));
    fs::remove_dir(tmp).expect("remove the directory for temporary tables");
    // Whole under its name, or absent. Another test process may have been faster.
    if fs::rename(&made, &template).is_err() {
        fs::remove_dir_all(&made).expect("remove the second template");
    }
    template
}

/// The build directory's place for what tests write.
fn scratch() -> PathBuf {
    let scratch = profile_dir().join("tmp");
    fs::create_dir_all(&scratch).expect("make the directory for tests");
    scratch
}

/// Where `scripts/test` puts the plugins that Debian's package of the server alone does not have.
fn plugins() -> Option<String> {
    let target = profile_dir().ancestors().nth(2)?.join("mariadb-plugins");
    target.is_dir().then(|| format!("--plugin-dir={}", target.display()))
}

/// MariaDB refuses to run as root unless it is told to.
fn as_root() -> Option<&'static str> {
    let root = fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| status.lines().any(|line| line.starts_with("Uid:\t0\t")));
    root.then_some("--user=root")
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|place| place.join(program)).find(|file| file.is_file())
}

fn copy_directory(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_directory(&entry.path(), &target)?,
            false => fs::copy(entry.path(), target).map(drop)?,
        }
    }
    Ok(())
}
