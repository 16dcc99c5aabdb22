//! The scripts as an operator runs them: the quickstart's round trip, and the init scripts with
//! LSB's exit codes and honest failures.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use tnv_tests::bins::{bin, workspace};
use tnv_tests::port::{free_address, free_addresses};
use tnv_tests::tools::this_test;
use tnv_tests::{Dir, Output, PATIENCE, http, patient, raw, skipped};

/// The quickstart with everything it makes in a directory of the test.
struct Quickstart {
    dir: Dir,
    port: u16,
}

impl Quickstart {
    fn new(name: &str) -> Quickstart {
        Quickstart { dir: Dir::new(name), port: free_addresses(4)[0].port() }
    }

    fn run(&self, args: &[&str]) -> Output {
        self.run_with(args, "info")
    }

    fn run_with(&self, args: &[&str], log_level: &str) -> Output {
        Output::of(
            Command::new(workspace().join("scripts/quickstart"))
                .args(args)
                .env("RUST_LOG", log_level)
                .env("TNV_BASE_PORT", self.port.to_string())
                .env("TNV_RUN_DIR", self.dir.join("run"))
                .env("TNV_BIN_DIR", bin("tnv").parent().expect("a directory"))
                .current_dir(self.dir.path()),
        )
    }

    fn httpd(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port + 3))
    }

    /// Fetches what a run printed as its URL.
    fn fetch(&self, out: &Output) -> http::Response {
        let said = out.success();
        let start = format!("http://{}", self.httpd());
        let url = said.split_whitespace().find(|word| word.starts_with(&start)).expect("a URL");
        http::get(self.httpd(), url.strip_prefix(&start).expect("a path"), &[])
    }

    fn pids(&self) -> Vec<String> {
        ["tracker", "idserver", "storage", "httpd"]
            .iter()
            .map(|name| {
                std::fs::read_to_string(self.dir.join(&format!("run/tnv-{name}.pid"))).expect("a pid")
            })
            .collect()
    }
}

impl Drop for Quickstart {
    fn drop(&mut self) {
        let out = self.run(&["stop"]);
        if !std::thread::panicking() {
            assert_eq!(out.code, 0, "{out:?}");
        }
    }
}

#[test]
fn quickstart_serves_the_clip_reuses_what_runs_and_stops_it() {
    let quickstart = Quickstart::new("quickstart");
    let first = quickstart.run(&[]);
    let response = quickstart.fetch(&first);
    assert_eq!((response.status, response.want("Content-Type")), (200, "video/mp4"));
    assert!(response.body == std::fs::read(workspace().join("scripts/sample.mp4")).expect("the clip"));
    let pids = quickstart.pids();

    // Again, with a file whose name needs care.
    let file = quickstart.dir.join("it's 100% \u{e4} & <b>.webm");
    std::fs::write(&file, raw_content()).expect("write");
    let response = quickstart.fetch(&quickstart.run(&[file.to_str().expect("UTF-8")]));
    assert_eq!((response.status, response.want("Content-Type")), (200, "video/webm"));
    assert_eq!(response.body, raw_content());
    assert_eq!(quickstart.pids(), pids, "it reuses what runs");

    // One of them is gone: it alone is started anew, and what was stored is still there.
    let storage: i32 = pids[2].trim().parse().expect("a pid");
    let pid = rustix::process::Pid::from_raw(storage).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kill");
    patient("the storage is gone", PATIENCE, || {
        TcpStream::connect(("127.0.0.1", quickstart.port + 2)).is_err()
    });
    assert_eq!(quickstart.fetch(&quickstart.run(&[])).status, 200);
    let now = quickstart.pids();
    assert_eq!((&now[0], &now[1], &now[3]), (&pids[0], &pids[1], &pids[3]));
    assert_ne!(now[2], pids[2]);
    assert_eq!(quickstart.fetch(&first).status, 200);

    // Each on its port.
    for (offset, command, reply) in [(0, 13, 100), (1, 99, 101), (2, 99, 102)] {
        let address = SocketAddr::from(([127, 0, 0, 1], quickstart.port + offset));
        assert_eq!(raw::ask(address, &raw::message(command, &[])).command, reply);
    }

    let stopped = quickstart.run(&["stop"]);
    assert_eq!(stopped.code, 0, "{stopped:?}");
    for offset in 0..4 {
        assert!(
            TcpStream::connect(("127.0.0.1", quickstart.port + offset)).is_err(),
            "port {offset} is open"
        );
    }
    assert_eq!(quickstart.run(&["stop"]).code, 0, "stopping what is stopped is no failure");
    assert_eq!(quickstart.fetch(&quickstart.run(&[])).status, 200, "and starting again works");
}

fn raw_content() -> &'static [u8] {
    b"something that is no video"
}

#[test]
fn quickstart_needs_no_log() {
    let quickstart = Quickstart::new("quickstart-quiet");
    let first = quickstart.run_with(&[], "off");
    assert_eq!(quickstart.fetch(&first).status, 200);
}

#[test]
fn quickstart_fails_honestly() {
    let quickstart = Quickstart::new("quickstart-fails");
    let out = quickstart.run(&["/absent/file"]);
    assert_eq!(out.code, 1);
    assert!(out.stderr.contains("/absent/file"), "{out:?}");
    assert_eq!(quickstart.run(&["one", "two"]).code, 2);
    let _taken = TcpListener::bind(("127.0.0.1", quickstart.port + 2)).expect("bind");
    let out = quickstart.run(&[]);
    assert_eq!(out.code, 1, "{out:?}");
    assert!(
        out.stderr.contains("tnv-storage") && out.stderr.contains(&(quickstart.port + 2).to_string()),
        "{out:?}"
    );
}

#[test]
fn quickstart_fetches_without_curl_too() {
    let quickstart = Quickstart::new("quickstart-bare");
    // A PATH with what a minimal Debian has, by name.
    let tools = quickstart.dir.join("tools");
    std::fs::create_dir(&tools).expect("make");
    for tool in [
        "bash", "env", "sed", "grep", "cat", "dirname", "basename", "tr", "seq", "sleep", "tail", "rm",
        "mkdir", "cmp", "wc",
    ] {
        let found = std::env::split_paths(&std::env::var_os("PATH").expect("a PATH"))
            .map(|dir| dir.join(tool))
            .find(|path| path.is_file());
        let Some(found) = found else { return skipped(&this_test(), &format!("{tool} is not installed")) };
        std::os::unix::fs::symlink(found, tools.join(tool)).expect("link");
    }
    let out = Output::of(
        Command::new(workspace().join("scripts/quickstart"))
            .env("PATH", &tools)
            .env("TNV_BASE_PORT", quickstart.port.to_string())
            .env("TNV_RUN_DIR", quickstart.dir.join("run"))
            .env("TNV_BIN_DIR", bin("tnv").parent().expect("a directory")),
    );
    assert_eq!(quickstart.fetch(&out).status, 200);
}

/// The init scripts with every path in a directory of the test.
struct Init {
    dir: Dir,
    address: SocketAddr,
    name: &'static str,
}

impl Init {
    fn new(name: &'static str, file: &str, more: &[&str]) -> Init {
        let dir = Dir::new(name);
        let address = free_address();
        std::fs::create_dir_all(dir.join("etc")).expect("make");
        let text = format!("service x {{\n tnv_bind = {address}\n {}\n}}\n", more.join("\n "));
        std::fs::write(dir.join("etc").join(file), text).expect("write");
        Init { dir, address, name }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(workspace().join("scripts/init.d").join(self.name));
        command
            .args(args)
            .env("TNV_DEFAULTS", self.dir.join("defaults"))
            .env("TNV_BIN_DIR", bin(self.name).parent().expect("a directory"))
            .env("TNV_ETC_DIR", self.dir.join("etc"))
            .env("TNV_WORK_DIR", self.dir.join("work/run"))
            .env("TNV_RUN_DIR", self.dir.join("pids"))
            .env("TNV_LOG_DIR", self.dir.join("log"))
            .env_remove("TNV_USER");
        if is_root() {
            // The default is a user that this machine need not have.
            command.env("TNV_USER", "root");
        }
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        Output::of(&mut self.command(args))
    }

    #[track_caller]
    fn expect(&self, action: &str, code: i32) -> Output {
        let out = self.run(&[action]);
        assert_eq!(out.code, code, "{} {action}: {out:?}", self.name);
        assert!(!(out.text() + &out.stderr).trim().is_empty(), "{action} says nothing");
        out
    }

    fn pid_file(&self) -> std::path::PathBuf {
        self.dir.join(&format!("pids/{}.pid", self.name))
    }

    fn pid(&self) -> String {
        std::fs::read_to_string(self.pid_file()).expect("a pid file").trim().to_owned()
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        self.run(&["stop"]);
    }
}

fn every_server() -> [Init; 4] {
    [
        Init::new("tnv-tracker", "tracker.cfg", &[]),
        Init::new("tnv-idserver", "id.cfg", &[]),
        Init::new("tnv-storage", "storage.cfg", &[]),
        Init::new("tnv-httpd", "http.cfg", &[]),
    ]
}

#[test]
fn init_scripts_start_stop_and_tell_the_status_with_lsb_codes() {
    for init in every_server() {
        init.expect("status", 3);
        init.expect("stop", 0);
        init.expect("try-restart", 0);
        init.expect("status", 3);
        init.expect("start", 0);
        assert!(TcpStream::connect(init.address).is_ok(), "started means that it answers");
        let pid = init.pid();
        init.expect("status", 0);
        init.expect("start", 0);
        assert_eq!(init.pid(), pid, "the start of one that runs starts none");
        init.expect("restart", 0);
        assert_ne!(init.pid(), pid);
        init.expect("try-restart", 0);
        init.expect("force-reload", 0);
        init.expect("reload", 3);
        init.expect("status", 0);
        init.expect("stop", 0);
        assert!(!init.pid_file().exists());
        assert!(TcpStream::connect(init.address).is_err());
        init.expect("status", 3);
        init.expect("frobnicate", 2);
        assert_eq!(init.run(&[]).code, 2);
    }
}

#[test]
fn init_scripts_tell_a_dead_server_from_one_that_never_ran() {
    for init in every_server() {
        init.expect("start", 0);
        let pid = rustix::process::Pid::from_raw(init.pid().parse().expect("a pid")).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kill");
        patient("it is gone", PATIENCE, || TcpStream::connect(init.address).is_err());
        init.expect("status", 1);
        init.expect("stop", 0);
        init.expect("status", 3);
        // A number that somebody else has now is not the server.
        std::fs::write(init.pid_file(), format!("{}\n", std::process::id())).expect("write");
        init.expect("status", 1);
        init.expect("start", 0);
        assert_ne!(init.pid(), std::process::id().to_string());
        init.expect("stop", 0);
    }
}

#[test]
fn init_scripts_fail_honestly() {
    for init in every_server() {
        let taken = TcpListener::bind(init.address).expect("bind");
        let out = init.expect("start", 1);
        assert!(out.stderr.contains(&init.address.to_string()), "the log's last line: {out:?}");
        init.expect("status", 3);
        drop(taken);

        let file = std::fs::read_dir(init.dir.join("etc"))
            .expect("list")
            .next()
            .expect("a file")
            .expect("an entry")
            .path();
        let good = std::fs::read_to_string(&file).expect("read");
        std::fs::write(&file, "service x {\n nonsense = 1\n}\n").expect("write");
        let out = init.expect("start", 1);
        assert!(out.stderr.contains("nonsense"), "{out:?}");
        std::fs::remove_file(&file).expect("remove");
        init.expect("start", 6);
        std::fs::write(&file, &good).expect("write");
        let out = Output::of(init.command(&["start"]).env("TNV_BIN_DIR", "/absent"));
        assert_eq!(out.code, 5, "{out:?}");
        let out = Output::of(init.command(&["start"]).env("TNV_USER", "no-such-user-of-this-host"));
        assert!(out.code == 6 || out.code == 4, "{out:?}");
        init.expect("start", 0);
        init.expect("stop", 0);
    }
}

/// The processes of a server that run with the configuration of this test.
fn processes(init: &Init) -> Vec<u32> {
    let of = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.ok()?.path();
        let pid = path.file_name()?.to_str()?.parse().ok()?;
        let name = std::fs::read_to_string(path.join("comm")).ok()?;
        let words = std::fs::read(path.join("cmdline")).ok()?;
        let etc = init.dir.join("etc").display().to_string();
        (name.trim() == init.name && String::from_utf8_lossy(&words).contains(&etc)).then_some(pid)
    };
    std::fs::read_dir("/proc").expect("list").filter_map(of).collect()
}

/// The story: the script waited for an INFO line, which `RUST_LOG=warn` leaves out, and killed a healthy server.
#[test]
fn init_scripts_start_and_stop_servers_that_log_nothing() {
    for init in every_server() {
        std::fs::write(init.dir.join("defaults"), "export RUST_LOG=off\nTNV_START_WAIT=60\n").expect("write");
        init.expect("start", 0);
        assert!(TcpStream::connect(init.address).is_ok(), "started means that it answers");
        init.expect("status", 0);
        init.expect("restart", 0);
        init.expect("stop", 0);
        // What keeps it from starting is still said.
        let _taken = TcpListener::bind(init.address).expect("bind");
        let out = init.expect("start", 1);
        assert!(out.stderr.contains(&init.address.to_string()), "{out:?}");
    }
}

/// The story: configuration management started it beside the boot. Both said "started", the pid file was the
/// loser's, and "stop" said "does not run" of the one that ran.
#[test]
fn starts_stops_and_restarts_at_once_leave_one_server_or_none() {
    let init = Init::new("tnv-tracker", "tracker.cfg", &[]);
    let at_once = |actions: &[&str]| -> Vec<i32> {
        std::thread::scope(|scope| {
            let runs: Vec<_> =
                actions.iter().map(|&action| scope.spawn(|| init.run(&[action]).code)).collect();
            runs.into_iter().map(|run| run.join().expect("a run")).collect()
        })
    };
    assert_eq!(at_once(&["start"; 4]), [0; 4]);
    assert_eq!(processes(&init), [init.pid().parse::<u32>().expect("a pid")]);
    init.expect("status", 0);
    at_once(&["restart", "start", "stop", "restart", "start", "try-restart"]);
    let running = processes(&init);
    assert!(running.len() <= 1, "{running:?}");
    init.expect("status", if running.is_empty() { 3 } else { 0 });
    init.expect("start", 0);
    assert_eq!(processes(&init), [init.pid().parse::<u32>().expect("a pid")]);
    assert_eq!(at_once(&["stop"; 3]), [0; 3]);
    assert_eq!(processes(&init), [0; 0]);
    init.expect("status", 3);
}

#[test]
fn init_scripts_find_a_server_whose_pid_file_is_lost_or_wrong() {
    let init = Init::new("tnv-tracker", "tracker.cfg", &[]);
    for spoil in [
        |file: &Path| std::fs::remove_file(file).expect("remove"),
        |file: &Path| std::fs::write(file, "").expect("write"),
        |file: &Path| std::fs::write(file, "1\n").expect("write"),
        |file: &Path| std::fs::write(file, "nonsense\n").expect("write"),
    ] {
        init.expect("start", 0);
        let pid = init.pid();
        spoil(&init.pid_file());
        for action in ["status", "start"] {
            let out = init.expect(action, 0);
            assert!(out.text().contains(&format!("process {pid}")), "{out:?}");
        }
        assert_eq!(processes(&init).len(), 1);
        init.expect("stop", 0);
        assert_eq!(processes(&init), [0; 0]);
        init.expect("status", 3);
    }
}

/// A server that the scripts of the previous version started: no lock, and a number from the script.
#[test]
fn init_scripts_stop_a_server_that_earlier_ones_started() {
    let init = Init::new("tnv-tracker", "tracker.cfg", &[]);
    std::fs::create_dir_all(init.dir.join("work/run")).expect("make");
    std::fs::create_dir_all(init.dir.join("pids")).expect("make");
    let mut earlier = Command::new(bin(init.name))
        .arg("-c")
        .arg(init.dir.join("etc/tracker.cfg"))
        .current_dir(init.dir.join("work/run"))
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("start");
    std::fs::write(init.pid_file(), format!("{}\n", earlier.id())).expect("write");
    patient("it listens", PATIENCE, || TcpStream::connect(init.address).is_ok());
    init.expect("status", 0);
    init.expect("start", 0);
    let reaper = std::thread::spawn(move || earlier.wait().expect("wait"));
    init.expect("stop", 0);
    assert!(reaper.join().expect("its end").success());
    init.expect("status", 3);
}

#[test]
fn init_scripts_report_a_pid_file_that_another_process_has_locked_and_leave_that_process_alone() {
    let init = Init::new("tnv-tracker", "tracker.cfg", &[]);
    std::fs::create_dir_all(init.dir.join("pids")).expect("make");
    let held = std::fs::File::create(init.pid_file()).expect("make");
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).expect("lock");
    init.expect("status", 4);
    init.expect("start", 1);
    init.expect("stop", 1);
    drop(held);
    init.expect("start", 0);
    init.expect("stop", 0);
}

#[test]
fn a_server_locks_its_pid_file_says_when_it_is_ready_and_runs_alone_with_it() {
    let dir = Dir::new("pid-file");
    let (pid_file, socket) = (dir.join("it.pid"), dir.join("notify"));
    let notified = std::os::unix::net::UnixDatagram::bind(&socket).expect("bind");
    notified.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    let next = || {
        let mut message = [0; 100];
        let count = notified.recv(&mut message).expect("a message");
        String::from_utf8_lossy(&message[..count]).into_owned()
    };
    let server = |name: &str| {
        let config = dir.join(&format!("{name}.cfg"));
        let text = format!("service x {{\n tnv_bind = {}\n tnv_db_path = db\n}}\n", free_address());
        std::fs::write(&config, text).expect("write");
        let mut command = Command::new(bin("tnv-tracker"));
        command.arg("-c").arg(config).arg("--pid-file").arg(&pid_file).current_dir(dir.path());
        command.env("RUST_LOG", "off").env("NOTIFY_SOCKET", &socket);
        command
    };
    std::fs::write(&pid_file, "1\n").expect("write");
    let mut first = server("first").spawn().expect("start");
    assert_eq!(next(), "READY=1");
    assert_eq!(std::fs::read_to_string(&pid_file).expect("read"), format!("{}\n", first.id()));
    let second = Output::of(&mut server("second"));
    assert_eq!(second.code, 1, "{second:?}");
    assert!(second.stderr.contains(&format!("process {}", first.id())), "{second:?}");
    let pid = rustix::process::Pid::from_child(&first);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("stop");
    assert_eq!(next(), "STOPPING=1");
    assert!(first.wait().expect("wait").success());
    assert!(!pid_file.exists());
}

#[test]
fn init_scripts_wait_on_a_log_file_too_and_take_settings_from_their_file() {
    let init = Init::new("tnv-tracker", "tracker.cfg", &["tnv_log_file = ../tracker.log"]);
    init.expect("start", 0);
    let log = std::fs::read_to_string(init.dir.join("work/tracker.log")).expect("the log");
    assert!(log.contains("tnv-tracker ready on"), "{log}");
    init.expect("stop", 0);
    let elsewhere = init.dir.join("elsewhere");
    std::fs::write(init.dir.join("defaults"), format!("TNV_RUN_DIR='{}'\n", elsewhere.display()))
        .expect("write");
    init.expect("start", 0);
    assert!(elsewhere.join("tnv-tracker.pid").exists());
    init.expect("stop", 0);
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn init_scripts_run_the_server_as_its_own_user_without_privileges() {
    let name = "init_scripts_run_the_server_as_its_own_user_without_privileges";
    if !is_root() {
        return skipped(name, "only root can");
    }
    let init = Init::new("tnv-tracker", "tracker.cfg", &[]);
    // The build's directory may be closed to others.
    let bins = init.dir.join("bin");
    std::fs::create_dir(&bins).expect("make");
    std::fs::copy(bin(init.name), bins.join(init.name)).expect("copy");
    let reached = Output::of(
        Command::new("setpriv")
            .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"])
            .arg(bins.join(init.name))
            .arg("--version"),
    );
    if reached.code != 0 {
        return skipped(name, "nobody cannot reach the directory of temporary files");
    }
    for dir in ["work", "work/run", "work/db"] {
        std::fs::create_dir_all(init.dir.join(dir)).expect("make");
        chown(&init.dir.join(dir));
    }
    let start =
        |user: &str| Output::of(init.command(&["start"]).env("TNV_USER", user).env("TNV_BIN_DIR", &bins));
    let out = start("nobody");
    assert_eq!(out.code, 0, "{out:?}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", init.pid())).expect("its status");
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .unwrap_or_else(|| panic!("{name}"))
            .trim()
    };
    for ids in [field("Uid"), field("Gid")] {
        assert!(!ids.split_whitespace().any(|id| id == "0"), "{ids}");
    }
    assert_eq!((field("NoNewPrivs"), field("Umask")), ("1", "0027"));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set).trim_start_matches('0'), "", "{set}: {}", field(set));
    }
    // Root signals what this file says, so it must not be the user's to write.
    assert_eq!(owner(&init.pid_file()), 0);
    assert_eq!(owner(init.pid_file().parent().expect("a directory")), 0);
    assert_ne!(owner(&init.dir.join("log/tnv-tracker.log")), 0);
    init.expect("stop", 0);

    // The user that is meant where none is named.
    if Output::of(Command::new("id").args(["-u", "tnv"])).code != 0 {
        let out = start("");
        assert_eq!(out.code, 6, "{out:?}");
        assert!(out.stderr.contains("useradd --system tnv"), "{out:?}");
    }
}

/// The story: root opened the user's log, to see whether the server was ready, and showed the end of it. A
/// link there led root to whatever file the user chose.
#[test]
fn a_link_that_the_user_planted_leads_init_scripts_nowhere() {
    let name = "a_link_that_the_user_planted_leads_init_scripts_nowhere";
    if !is_root() {
        return skipped(name, "only root can");
    }
    let init = Init::new("tnv-tracker", "tracker.cfg", &[]);
    std::fs::create_dir_all(init.dir.join("log")).expect("make");
    chown(&init.dir.join("log"));
    let secret = init.dir.join("roots");
    std::fs::write(&secret, "tnv-tracker ready on a secret of root's\n").expect("write");
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("chmod");
    std::os::unix::fs::symlink(&secret, init.dir.join("log/tnv-tracker.log")).expect("link");
    let out = Output::of(init.command(&["start"]).env("TNV_USER", "nobody"));
    assert_eq!(out.code, 4, "{out:?}");
    assert!(!(out.text() + &out.stderr).contains("secret"), "{out:?}");
    assert_eq!(owner(&secret), 0);
    let left = std::fs::read_to_string(&secret).expect("read");
    assert_eq!(left, "tnv-tracker ready on a secret of root's\n");
}

fn owner(path: &Path) -> u32 {
    path.metadata().unwrap_or_else(|error| panic!("{}: {error}", path.display())).uid()
}

fn chown(path: &Path) {
    assert_eq!(Output::of(Command::new("chown").arg("nobody").arg(path)).code, 0);
}

#[test]
fn systemd_takes_the_units_and_finds_them_hardened() {
    let name = "systemd_takes_the_units_and_finds_them_hardened";
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return skipped(name, "there is no systemd-analyze");
    }
    let dir = Dir::new("units");
    for init in every_server() {
        let unit = format!("{}.service", init.name);
        let text = std::fs::read_to_string(workspace().join("scripts/systemd").join(&unit)).expect("read");
        // It must be there to be run: the build's stands for the installed one.
        let program = format!("/usr/local/bin/{}", init.name);
        assert!(text.contains(&format!("ExecStart={program} ")), "{text}");
        let text = text.replace(&program, bin(init.name).to_str().expect("UTF-8"));
        let file = dir.join(&unit);
        std::fs::write(&file, text).expect("write");
        let out = Output::of(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&file));
        assert!(out.code == 0 && out.stderr.is_empty(), "{out:?}");
        // 0 is the best and 10 the worst.
        let security = ["security", "--offline=true", "--threshold=15", "--no-pager"];
        let out = Output::of(Command::new("systemd-analyze").args(security).arg(&file));
        assert_eq!(out.code, 0, "{out:?}");
    }
}
