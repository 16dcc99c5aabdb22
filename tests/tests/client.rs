//! The command line: scripts parse what it prints, and rely on how it exits.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tnv_tests::bins::bin;
use tnv_tests::cluster::free_address;
use tnv_tests::{Builder, Cluster, Dir, Output, sample};

fn entries(cluster: &Cluster) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(cluster.path("run"))
        .expect("list")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn each_command_prints_exactly_what_scripts_parse() {
    let cluster = Builder::new("cli").start();
    let groups = cluster.tnv(&["groups"]);
    let list = groups.success();
    let wanted = tnv_tests::cluster::group_list(cluster.tracker());
    // The time of the last heartbeat may move between the two.
    let steady =
        |text: &str| text.lines().filter(|line| !line.contains("BEAT TIME")).collect::<Vec<_>>().join("\n");
    assert_eq!(steady(&list), steady(&wanted));
    assert!(list.ends_with('\n') && !list.ends_with("\n\n"), "{list:?}");

    let file = cluster.file("f", b"0123456789");
    let file = file.to_str().expect("UTF-8");
    let said = cluster.tnv(&["upload", "tnvideo", "tnv001", file]).success();
    let id =
        said.strip_prefix("Upload success: ").and_then(|rest| rest.strip_suffix('\n')).expect("the line");
    assert_eq!(id.len(), 36, "{id}");
    assert!(id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)), "{id}");
    let seconds = u64::from_str_radix(&id[..8], 16).expect("hex");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_secs();
    assert!(now - seconds < 60, "{id}");
    assert!(u32::from_str_radix(&id[8..14], 16).expect("hex") < 1_000_000, "{id}");
    assert!((1..=8000).contains(&id[30..34].parse::<u32>().expect("decimal")), "{id}");
    assert!(id[34..].parse::<u32>().is_ok(), "{id}");

    assert_eq!(cluster.tnv(&["filesize", "tnvideo", "tnv001", id]).success(), "Get filesize success: 10\n");
    // Without OUT the bytes are counted and dropped.
    let counted = cluster.tnv(&["download", "tnvideo", "tnv001", id, "0", "0"]);
    assert_eq!(counted.success(), "Download success: 10\n");
    let part = cluster.tnv(&["download", "tnvideo", "tnv001", id, "2", "5"]);
    assert_eq!(part.success(), "Download success: 5\n");
    // `-` is the bytes themselves; the line goes to standard error.
    let bytes = cluster.tnv(&["download", "tnvideo", "tnv001", id, "2", "5", "-"]);
    assert_eq!((bytes.code, bytes.stdout.as_slice()), (0, &b"23456"[..]));
    assert!(bytes.stderr.lines().any(|line| line == "Download success: 5"), "{}", bytes.stderr);
    let out = cluster.path("out");
    let said = cluster.tnv(&["download", "tnvideo", "tnv001", id, "7", "0", out.to_str().expect("UTF-8")]);
    assert_eq!(said.success(), "Download success: 3\n");
    assert_eq!(std::fs::read(&out).expect("OUT"), b"789");
    assert_eq!(
        cluster.tnv(&["delete", "tnvideo", "tnv001", id]).success(),
        format!("Delete success: {id}\n")
    );
    assert_eq!(cluster.tnv(&["delete", "tnvideo", "tnv001", id]).code, 1);
}

#[test]
fn failures_exit_1_with_a_reason_on_standard_error_and_nothing_on_standard_output() {
    let cluster = Builder::new("cli-fails").start();
    let id = cluster.upload("tnvideo", "tnv001", b"0123456789");
    for args in [
        &["filesize", "tnvideo", "tnv001", "absent"][..],
        &["delete", "tnvideo", "tnv001", "absent"],
        &["download", "tnvideo", "tnv001", "absent", "0", "0"],
        &["download", "tnvideo", "tnv001", &id, "11", "0"],
        &["download", "tnvideo", "tnv001", &id, "0", "11"],
        &["upload", "tnvideo", "tnv001", "/absent/file"],
        &["upload", "tnvideo", "tnv001", "/"],
        &["upload", "badapp", "tnv001", "/etc/hostname"],
        &["filesize", "tnvideo", "o'brien", &id],
        &["download", "tnvideo", "tnv001", &id, "0", "0", "/absent/dir/out"],
    ] {
        let out = cluster.tnv(args);
        assert_eq!(out.code, 1, "{args:?}: {out:?}");
        assert_eq!(out.text(), "", "{args:?}");
        assert!(!out.stderr.trim().is_empty(), "{args:?}");
        assert!(!out.stderr.contains("panicked"), "{}", out.stderr);
    }
}

#[test]
fn wrong_usage_exits_2() {
    let dir = Dir::new("cli-usage");
    for args in [
        &[][..],
        &["127.0.0.1:1"],
        &["127.0.0.1:1", "frobnicate"],
        &["127.0.0.1:1", "groups", "more"],
        &["127.0.0.1:1", "upload", "tnvideo", "tnv001"],
        &["127.0.0.1:1", "upload", "tnvideo", "tnv001", "file", "more"],
        &["127.0.0.1:1", "filesize", "tnvideo", "tnv001"],
        &["127.0.0.1:1", "download", "tnvideo", "tnv001", "id"],
        &["127.0.0.1:1", "download", "tnvideo", "tnv001", "id", "0"],
        &["127.0.0.1:1", "download", "tnvideo", "tnv001", "id", "x", "0"],
        &["127.0.0.1:1", "download", "tnvideo", "tnv001", "id", "-1", "0"],
        &["127.0.0.1:1", "download", "tnvideo", "tnv001", "id", "0", "0", "out", "more"],
        &["127.0.0.1:1", "delete", "tnvideo", "tnv001"],
        &["", "groups"],
        &["--nonsense"],
    ] {
        let out = Output::of(Command::new(bin("tnv")).args(args).current_dir(dir.path()));
        assert_eq!(out.code, 2, "{args:?}: {out:?}");
        assert_eq!(out.text(), "", "{args:?}");
        assert!(!out.stderr.is_empty(), "{args:?}");
    }
    let help = Output::of(Command::new(bin("tnv")).arg("--help").current_dir(dir.path()));
    assert_eq!(help.code, 0, "{help:?}");
    assert!(help.text().contains("download APPID USERID FILEID OFFSET SIZE"), "{}", help.text());
    assert!(
        Output::of(Command::new(bin("tnv")).arg("--version")).success().contains(env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn a_download_that_fails_leaves_nothing_under_its_name_nor_beside_it() {
    let mut cluster = Builder::new("cli-out").start();
    let content = sample(64 << 20, 2);
    let id = cluster.upload("tnvideo", "tnv001", &content);
    let before = entries(&cluster);
    let out = cluster.path("run/out");
    std::fs::write(&out, b"what was there").expect("write");
    let args =
        ["download", "tnvideo", "tnv001", &id, "0", "0", out.to_str().expect("UTF-8")].map(str::to_owned);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut child = cluster.tnv_command(&args).stderr(Stdio::null()).spawn().expect("run");
    std::thread::sleep(Duration::from_millis(25));
    // The only storage dies and nothing can be resumed.
    cluster.storages[0].kill();
    let status = child.wait().expect("wait");
    if status.success() {
        assert!(std::fs::read(&out).expect("OUT") == content, "it was quicker than the kill, and is whole");
    } else {
        assert_eq!(status.code(), Some(1));
        assert_eq!(std::fs::read(&out).expect("OUT"), b"what was there");
    }
    std::fs::remove_file(&out).expect("remove");
    assert_eq!(entries(&cluster), before, "something was left behind");
}

#[test]
fn several_trackers_are_tried_until_one_answers() {
    let cluster = Builder::new("cli-trackers").start();
    let id = cluster.upload("tnvideo", "tnv001", b"found");
    let list = format!("{};{};{}", free_address(), cluster.tracker_list(), free_address());
    for _ in 0..6 {
        let out = Output::of(Command::new(bin("tnv")).args([&list, "filesize", "tnvideo", "tnv001", &id]));
        assert_eq!(out.success(), "Get filesize success: 5\n");
    }
    let nobody = format!("{};{}", free_address(), free_address());
    let start = Instant::now();
    let out = Output::of(Command::new(bin("tnv")).args([&nobody, "groups"]));
    assert_eq!(out.code, 1);
    assert!(!out.stderr.is_empty());
    println!("given up after {:?}", start.elapsed());
}

#[test]
fn a_server_that_accepts_and_says_nothing_is_given_up() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = silent.local_addr().expect("an address").to_string();
    let start = Instant::now();
    let out = Output::of(Command::new(bin("tnv")).args([address.as_str(), "groups"]));
    println!("given up after {:?}", start.elapsed());
    assert_eq!(out.code, 1, "{out:?}");
}

#[test]
fn ids_of_many_uploads_at_once_differ() {
    let cluster = Builder::new("cli-ids").start();
    let file = cluster.file("f", b"x");
    let children: Vec<_> = (0..16)
        .map(|_| {
            cluster
                .tnv_command(&["upload", "tnvideo", "tnv001", file.to_str().expect("UTF-8")])
                .stdout(Stdio::piped())
                .spawn()
                .expect("run")
        })
        .collect();
    let ids: std::collections::BTreeSet<_> = children
        .into_iter()
        .map(|child| {
            let out = child.wait_with_output().expect("wait");
            assert!(out.status.success());
            String::from_utf8(out.stdout).expect("UTF-8")
        })
        .collect();
    assert_eq!(ids.len(), 16);
    assert_eq!(cluster.file_rows(), 16);
}

#[test]
fn a_closed_pipe_is_a_quiet_end() {
    let cluster = Builder::new("cli-pipe").start();
    let id = cluster.upload("tnvideo", "tnv001", &sample(16 << 20, 1));
    let script = format!(
        "'{}' '{}' download tnvideo tnv001 {id} 0 0 - | head -c 5 >/dev/null",
        bin("tnv").display(),
        cluster.tracker_list()
    );
    let out = Output::of(Command::new("sh").args(["-c", &script]));
    assert!(!out.stderr.contains("panicked"), "{}", out.stderr);
}

/// The story: `/proc/version` says that it has 0 bytes, and was uploaded as an empty file with "Upload success".
#[test]
fn standard_input_pipes_and_files_of_the_kernel_are_uploaded_to_their_end() {
    let cluster = Builder::new("cli-pipes").start();
    let content = sample(3 << 20, 5);
    let file = cluster.file("film", &content);
    let (tnv, film) = (bin("tnv"), file.display().to_string());
    let upload = format!("'{}' '{}' upload tnvideo tnv001", tnv.display(), cluster.tracker_list());
    let version = std::fs::read("/proc/version").expect("the kernel's version");
    for (script, want) in [
        (format!("{upload} - <'{film}'"), &content[..]),
        (format!("cat '{film}' | {upload} -"), &content),
        (format!("{{ sleep 0.2; cat '{film}'; }} | {upload} /dev/stdin"), &content),
        (format!("{{ head -c 1000 >/dev/null; {upload} -; }} <'{film}'"), &content[1000..]),
        (format!("printf short | {upload} -"), b"short"),
        (format!("{upload} - </dev/null"), b""),
        (format!("{upload} /proc/version"), &version),
    ] {
        let out = Output::of(Command::new("sh").args(["-c", &script]));
        if script.ends_with("/dev/null") {
            assert_eq!(out.code, 1, "a device, which may have no end: {out:?}");
            continue;
        }
        let said = out.success();
        let id = said.trim_end().strip_prefix("Upload success: ").expect("the line");
        let back = cluster.tnv(&["download", "tnvideo", "tnv001", id, "0", "0", "-"]);
        assert!(back.stdout == want, "{script}: {} bytes, want {}", back.stdout.len(), want.len());
    }
    let sum = format!("{:08x}", tnv_tests::raw::crc32(&content));
    for (sum, code) in [(sum.as_str(), 0), ("12345678", 1)] {
        let script = format!("cat '{film}' | {upload} - --crc32 {sum}");
        assert_eq!(Output::of(Command::new("sh").args(["-c", &script])).code, code);
    }
}
