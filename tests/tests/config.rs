//! Starting, stopping and being configured: what an operator meets before anything else.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use tnv_tests::bins::bin;
use tnv_tests::cluster::{Part, active, free_address, write_config};
use tnv_tests::process::Process;
use tnv_tests::{Builder, Dir, Output, PATIENCE, http, patient, raw};

/// Each server with the name of its file.
const SERVERS: [(&str, &str); 4] = [
    ("tnv-tracker", "tracker.cfg"),
    ("tnv-idserver", "id.cfg"),
    ("tnv-storage", "storage.cfg"),
    ("tnv-httpd", "http.cfg"),
];

fn run(binary: &str, dir: &Path, args: &[&str]) -> Output {
    Output::of(Command::new(bin(binary)).args(args).current_dir(dir))
}

/// A file that a server runs with, made of lines inside the braces.
fn config(dir: &Dir, name: &str, lines: &[&str]) -> String {
    let path = dir.join(name);
    std::fs::write(&path, format!("service x {{\n{}\n}}\n", lines.join("\n"))).expect("write");
    path.display().to_string()
}

#[test]
fn version_and_help_are_told_and_wrong_usage_exits_2() {
    let dir = Dir::new("usage");
    for (binary, _) in SERVERS {
        let version = run(binary, dir.path(), &["--version"]).success();
        assert!(version.contains(binary) && version.contains(env!("CARGO_PKG_VERSION")), "{version}");
        let help = run(binary, dir.path(), &["--help"]).success();
        assert!(help.contains("--check") && help.contains("-c"), "{help}");
        let wrong = run(binary, dir.path(), &["--nonsense"]);
        assert!(wrong.code != 0 && wrong.stderr.contains("--nonsense"), "{wrong:?}");
    }
}

#[test]
fn without_a_file_the_error_names_the_places() {
    let dir = Dir::new("places");
    let cwd = dir.join("empty");
    std::fs::create_dir(&cwd).expect("make");
    for (binary, file) in SERVERS {
        let out = run(binary, &cwd, &[]);
        assert_eq!(out.code, 1, "{out:?}");
        for place in ["./etc/", "../etc/", "/etc/tnv/"] {
            assert!(out.stderr.contains(&format!("{place}{file}")), "{place}{file} is not in {}", out.stderr);
        }
        let out = run(binary, &cwd, &["-c", "absent.cfg"]);
        assert_eq!(out.code, 1);
        assert!(out.stderr.contains("absent.cfg"), "{}", out.stderr);
    }
}

#[test]
fn the_first_of_the_places_that_has_the_file_is_taken() {
    let dir = Dir::new("first-place");
    let cwd = dir.join("cwd");
    std::fs::create_dir_all(cwd.join("etc")).expect("make");
    std::fs::create_dir_all(dir.join("etc")).expect("make");
    std::fs::write(dir.join("etc/tracker.cfg"), "service x {\n bad1 = 1\n}\n").expect("write");
    let check = || {
        let out = run("tnv-tracker", &cwd, &["--check"]);
        out.text() + &out.stderr
    };
    assert!(check().contains("../etc/tracker.cfg") && check().contains("bad1"), "{}", check());
    std::fs::write(cwd.join("etc/tracker.cfg"), "service x {\n bad2 = 1\n}\n").expect("write");
    assert!(check().contains("bad2") && !check().contains("bad1"), "{}", check());
}

#[test]
fn check_prints_each_fault_with_file_and_line_and_exits_1() {
    let dir = Dir::new("check");
    let file = config(
        &dir,
        "storage.cfg",
        &[
            "# a comment",
            "tnv_group_name = group 001",
            "tnv_storage_port = 0",
            "tnv_heart_beat_interval = soon",
            "tnv_tracker_adrs = 127.0.0.1:1",
            "tnv_db_path = ./db",
            "tnv_store_paths = ./data",
        ],
    );
    let out = run("tnv-storage", dir.path(), &["-c", &file, "--check"]);
    assert_eq!(out.code, 1, "{out:?}");
    let said = out.text() + &out.stderr;
    // The first line of the file is `service x {`.
    for (line, words) in [(3, "group 001"), (4, "0"), (5, "soon"), (6, "tnv_tracker_adrs")] {
        let start = format!("{file}:{line}: ");
        let fault = said.lines().find(|fault| fault.starts_with(&start));
        let fault = fault.unwrap_or_else(|| panic!("no fault at line {line}: {said}"));
        assert!(fault.contains(words), "{fault}");
        assert!(fault.contains(", got ") && fault.contains(", want "), "{fault}");
    }
    assert!(said.contains("tnv_tracker_addrs"), "the nearest known key: {said}");
    assert_eq!(said.lines().filter(|line| line.contains(", want ")).count(), 4, "{said}");
}

#[test]
fn check_opens_what_the_file_refers_to() {
    let dir = Dir::new("check-opens");
    std::fs::write(dir.join("a-file"), b"").expect("write");
    let file = config(
        &dir,
        "storage.cfg",
        &["tnv_db_path = ./db", "tnv_store_paths = ./a-file/below", "tnv_log_file = ./absent-dir/log"],
    );
    let out = run("tnv-storage", dir.path(), &["-c", &file, "--check"]);
    assert_eq!(out.code, 1, "{out:?}");
    let said = out.text() + &out.stderr;
    assert!(said.contains(&format!("{file}:3: ")), "the store path cannot be: {said}");
    assert!(said.contains(&format!("{file}:4: ")), "the log cannot be: {said}");
    let file = config(&dir, "id.cfg", &["mysql_addrs = 127.0.0.1:1", "mysql_pass_file = ./no-pass"]);
    let out = run("tnv-idserver", dir.path(), &["-c", &file, "--check"]);
    assert_eq!(out.code, 1, "{out:?}");
    assert!((out.text() + &out.stderr).contains("no-pass"), "{out:?}");
}

#[test]
fn check_of_a_file_without_fault_exits_0() {
    let cluster = Builder::new("check-good").httpds(1).prepare();
    let mut cluster = cluster;
    for part in cluster.parts() {
        let config = part.config().to_str().expect("UTF-8");
        let out = run(part.binary(), part.cwd(), &["-c", config, "--check"]);
        assert_eq!(out.code, 0, "{out:?}");
    }
}

/// Files of existing deployments, keys for Redis and ioctl included.
#[test]
fn existing_files_are_taken_as_they_are() {
    let dir = Dir::new("existing-files");
    let redis = [
        "redis_addrs = 127.0.0.1:6379",
        "redis_max_conn_num = 10",
        "redis_conn_timeout = 5",
        "redis_rw_timeout = 5",
        "redis_key_timeout = 30",
        "ioctl_max_threads = 250",
        "ioctl_use_limit = 100",
        "ioctl_idle_timeout = 60",
        "ioctl_rw_timeout = 30",
    ];
    let with = |lines: &[&'static str]| {
        let mut all = vec!["", "    # what this is", "# mysql_rw_timeout = nonsense in a comment"];
        all.extend_from_slice(lines);
        all.extend_from_slice(&redis);
        all
    };
    let cases = [
        (
            "tnv-tracker",
            with(&["  tnv_apps_id = tnvideo;other;", "\tcheck_active_interval=120", "mysql_rw_timeout = 30"]),
        ),
        ("tnv-idserver", with(&["idinc_max_step = 100", "mysql_rw_timeout = 30", "mysql_addrs ="])),
        (
            "tnv-storage",
            with(&[
                "tnv_group_name = group001",
                "tnv_store_paths = ./data;./more#2",
                "tnv_tracker_addrs = 127.0.0.1:21000;",
                "tnv_ids_addrs = 127.0.0.1:22000",
                "tnv_storage_port = 23000",
                "tnv_heart_beat_interval = 10",
            ]),
        ),
        ("tnv-httpd", with(&["tnv_tracker_addrs = 127.0.0.1:21000", "use_redis_session = no"])),
    ];
    for (binary, mut lines) in cases {
        if binary != "tnv-httpd" {
            lines.push("tnv_db_path = ./db");
        }
        let file = config(&dir, &format!("{binary}.cfg"), &lines);
        let out = run(binary, dir.path(), &["-c", &file, "--check"]);
        assert_eq!(out.code, 0, "{binary}: {out:?}");
    }
}

#[test]
fn a_port_that_is_taken_is_one_clear_line_and_exit_1() {
    let cluster = Builder::new("port-taken").httpds(1).prepare();
    let mut cluster = cluster;
    for part in cluster.parts() {
        let _taken = TcpListener::bind(part.address()).expect("bind");
        let out = run(part.binary(), part.cwd(), &["-c", part.config().to_str().expect("UTF-8")]);
        assert_eq!(out.code, 1, "{out:?}");
        let last = out.stderr.lines().last().expect("a line");
        assert!(last.contains(&part.host_port()), "{}", out.stderr);
        assert!(!out.stderr.contains("ready on"), "{}", out.stderr);
        let errors: Vec<_> = out.stderr.lines().filter(|line| line.contains("ERROR")).collect();
        assert_eq!(errors, [last], "one clear line");
    }
}

#[test]
fn a_path_that_cannot_be_written_is_one_clear_line_and_exit_1() {
    let dir = Dir::new("unwritable");
    std::fs::write(dir.join("file"), b"").expect("write");
    for (binary, lines) in [
        ("tnv-tracker", ["tnv_db_path = ./file/db", ""]),
        ("tnv-idserver", ["tnv_db_path = ./file/db", ""]),
        ("tnv-storage", ["tnv_db_path = ./db", "tnv_store_paths = ./file/data"]),
        ("tnv-httpd", ["tnv_log_file = ./file/log", ""]),
    ] {
        let bind = format!("tnv_bind = {}", free_address());
        let file = config(&dir, &format!("{binary}.cfg"), &[&bind, lines[0], lines[1]]);
        let out = run(binary, dir.path(), &["-c", &file]);
        assert_eq!(out.code, 1, "{out:?}");
        assert!(out.stderr.contains("./file/"), "{out:?}");
    }
}

#[test]
fn sighup_opens_the_log_anew_after_it_was_renamed() {
    let mut cluster = Builder::new("sighup")
        .httpds(1)
        .set(Part::Tracker, "tnv_log_file", "./tracker.log")
        .set(Part::Id, "tnv_log_file", "./id.log")
        .set(Part::Storage, "tnv_log_file", "./storage.log")
        .set(Part::Httpd, "tnv_log_file", "./httpd.log")
        .no_wait()
        .prepare();
    cluster.parts().for_each(|part| part.spawn());
    let cases: Vec<_> = cluster
        .parts()
        .zip(["tracker", "id", "storage", "httpd"])
        .map(|(part, name)| part.cwd().join(format!("{name}.log")))
        .collect();
    for log in &cases {
        patient("ready in the log file", PATIENCE, || {
            std::fs::read_to_string(log).is_ok_and(|text| text.contains(" ready on "))
        });
    }
    for (part, log) in cluster.parts().zip(&cases) {
        let old = log.with_extension("old");
        std::fs::rename(log, &old).expect("rename");
        part.signal(Signal::HUP);
        patient("a new log", PATIENCE, || {
            std::fs::read_to_string(log).is_ok_and(|text| text.contains("SIGHUP"))
        });
        let before = std::fs::read_to_string(&old).expect("the old log");
        assert!(before.contains(" ready on "));
        // Something that is logged: it stops.
        let opened = std::fs::read_to_string(log).expect("the new log");
        assert_eq!(part.stop(PATIENCE).code(), Some(0));
        let stopped = std::fs::read_to_string(log).expect("the new log");
        assert!(stopped.len() > opened.len(), "nothing more in the new log");
        assert_eq!(
            std::fs::read_to_string(&old).expect("the old log"),
            before,
            "the old one is still written to"
        );
    }
}

#[test]
fn the_log_has_time_level_thread_and_peer() {
    let cluster = Builder::new("log").start();
    let mut raw = raw::Raw::connect(cluster.tracker());
    let peer = raw.stream().local_addr().expect("an address").to_string();
    raw.ask(&raw::message(12, &[b'x'; 400])).failure(100);
    cluster.trackers[0].wait_log(&peer, PATIENCE);
    let log = cluster.trackers[0].log();
    let line = log.lines().find(|line| line.contains(&peer)).expect("a line of that peer");
    assert!(line.contains("WARN") || line.contains("INFO") || line.contains("ERROR"), "{line}");
    assert!(line.contains(':') && line.chars().take(40).any(|c| c == '-'), "a time: {line}");
}

#[test]
fn rust_log_is_honoured() {
    let cluster = Builder::new("rust-log").no_wait().prepare();
    let mut part = Process::new(
        "tnv-tracker",
        cluster.tracker(),
        cluster.trackers[0].config(),
        cluster.trackers[0].cwd(),
        &[("RUST_LOG".to_owned(), "error".to_owned())],
        &cluster.path("log/quiet.log"),
    );
    part.spawn();
    patient("it listens", PATIENCE, || raw::Raw::try_connect(cluster.tracker()).is_ok());
    assert_eq!(part.stop(PATIENCE).code(), Some(0));
    assert_eq!(part.log(), "");
}

#[test]
fn tnv_storage_port_sets_the_port() {
    let address = free_address();
    let mut cluster = Builder::new("storage-port")
        .set(Part::Storage, "tnv_bind", "127.0.0.5:1")
        .set(Part::Storage, "tnv_storage_port", address.port())
        .prepare();
    cluster.start_all();
    // It is dialled from the address it is bound to, since trackers take it from the connection.
    let list = tnv_tests::cluster::statuses(cluster.tracker());
    assert_eq!(list.keys().collect::<Vec<_>>(), [&format!("127.0.0.5:{}", address.port())]);
    let id = cluster.upload("tnvideo", "tnv001", b"over there");
    assert_eq!(cluster.tnv(&["filesize", "tnvideo", "tnv001", &id]).success(), "Get filesize success: 10\n");
}

#[test]
fn host_names_are_taken_wherever_addresses_are() {
    let tracker = free_address();
    let id = free_address();
    let cluster = Builder::new("host-names")
        .httpds(1)
        .set(Part::Tracker, "tnv_bind", format!("localhost:{}", tracker.port()))
        .set(Part::Id, "tnv_bind", format!("localhost:{}", id.port()))
        .set(Part::Storage, "tnv_tracker_addrs", format!("localhost:{}", tracker.port()))
        .set(Part::Storage, "tnv_ids_addrs", format!("localhost:{}", id.port()))
        .set(Part::Httpd, "tnv_tracker_addrs", format!("localhost:{}", tracker.port()))
        .no_wait()
        .start();
    patient("ACTIVE", PATIENCE, || active(tracker) == 1);
    raw::ask(tracker, &raw::addresses("tnvideo", "tnv001")).success(100);
    let stored = raw::ask(cluster.storage(), &raw::upload("tnvideo", "tnv001", "f", b"named"));
    assert_eq!(stored.success(102), b"");
    assert_eq!(http::get(cluster.httpd(), "/files/f", &[]).body, b"named");
    let trackers = format!("localhost:{}", tracker.port());
    let out = Output::of(Command::new(bin("tnv")).args([&trackers, "filesize", "tnvideo", "tnv001", "f"]));
    assert_eq!(out.success(), "Get filesize success: 5\n");
}

/// The files that are shipped run as they are.
#[test]
fn the_shipped_files_have_no_fault_and_name_every_key() {
    let dir = Dir::new("shipped");
    let cwd = dir.join("run");
    std::fs::create_dir(&cwd).expect("make");
    let etc = tnv_tests::bins::workspace().join("etc");
    for (binary, file) in SERVERS {
        let path = etc.join(file);
        let out = run(binary, &cwd, &["-c", path.to_str().expect("UTF-8"), "--check"]);
        assert_eq!(out.code, 0, "{binary}: {out:?}");
        let text = std::fs::read_to_string(&path).expect("a shipped file");
        for key in ["tnv_bind", "tnv_threads", "tnv_max_conns", "tnv_stop_timeout", "tnv_log_file"] {
            assert!(text.contains(key), "{file} does not mention {key}");
        }
    }
    for database in ["tnv_trackerdb", "tnv_idsdb", "tnv_storagedb"] {
        let found = std::fs::read_dir(etc.join("sql")).expect("etc/sql").any(|entry| {
            std::fs::read_to_string(entry.expect("an entry").path()).is_ok_and(|text| text.contains(database))
        });
        assert!(found, "{database} is in no file of etc/sql");
    }
}

#[test]
fn the_database_password_may_stand_in_a_file_and_reaches_no_log() {
    let Some(server) = tnv_tests::mariadb::MariaDb::start() else { return };
    let dir = Dir::new("pass-file");
    std::fs::write(dir.join("pass"), format!("{}\n", server.password())).expect("write");
    let mut keys = BTreeMap::new();
    let address = free_address();
    for (key, value) in [
        ("tnv_bind", address.to_string()),
        ("mysql_addrs", format!("127.0.0.1:1;{}", server.addr())),
        ("mysql_user", "root".to_owned()),
        ("mysql_pass_file", dir.join("pass").display().to_string()),
    ] {
        keys.insert(key.to_owned(), value);
    }
    let file = dir.join("id.cfg");
    write_config(&file, "tnv_id", &keys);
    let env = [("RUST_LOG".to_owned(), "trace".to_owned())];
    let mut part = Process::new("tnv-idserver", address, &file, dir.path(), &env, &dir.join("log"));
    part.start();
    assert_eq!(raw::ask(address, &raw::get_id("k")).success(101), 0_i64.to_be_bytes());
    assert_eq!(part.stop(PATIENCE).code(), Some(0));
    assert!(!part.log().contains(server.password()), "the password is in the log");
    // A wrong one is one clear line, without the password.
    keys.insert("mysql_pass".to_owned(), "wrong-password-xyz".to_owned());
    keys.remove("mysql_pass_file");
    write_config(&file, "tnv_id", &keys);
    let out = run("tnv-idserver", dir.path(), &["-c", file.to_str().expect("UTF-8"), "--check"]);
    assert_eq!(out.code, 1, "{out:?}");
    assert!(
        !out.stderr.contains("wrong-password-xyz") && !out.text().contains("wrong-password-xyz"),
        "{out:?}"
    );
}
