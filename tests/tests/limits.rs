//! Limits that an operator's system sets on a server: of file sizes (`ulimit -f`, LimitFSIZE).

use std::time::Duration;

use tnv_tests::cluster::Part;
use tnv_tests::tools::installed;
use tnv_tests::{Builder, Output, PATIENCE, Raw, http, patient, raw, sample, skipped};

/// A command that starts another one under a limit of file sizes.
fn limited(bytes: u64) -> [String; 2] {
    ["prlimit".to_owned(), format!("--fsize={bytes}")]
}

fn has_prlimit(test: &str) -> bool {
    let is_there = installed("prlimit");
    if !is_there {
        skipped(test, "prlimit is not installed");
    }
    is_there
}

/// The story: the kernel answers a write beyond the limit with SIGXFSZ, whose default is death. One large upload ended
/// the service without a line.
#[test]
fn an_upload_beyond_the_limit_of_file_sizes_fails_alone() {
    if !has_prlimit("an_upload_beyond_the_limit_of_file_sizes_fails_alone") {
        return;
    }
    let command = limited(16 << 20);
    let mut cluster = Builder::new("fsize-storage")
        .wrap(Part::Storage, &[command[0].as_str(), command[1].as_str()])
        .start();
    let before = cluster.upload("tnvideo", "tnv001", &sample(1 << 20, 1));
    let large = cluster.file("large", &sample(20 << 20, 2));
    for _ in 0..2 {
        let out = cluster.tnv(&["upload", "tnvideo", "tnv001", large.to_str().expect("UTF-8")]);
        assert_eq!(out.code, 1, "{out:?}");
        assert!(out.stderr.contains("ulimit -f"), "{out:?}");
    }
    let frame =
        Raw::connect(cluster.storage()).ask(&raw::upload("tnvideo", "tnv001", "large", &sample(20 << 20, 2)));
    assert_eq!(frame.body[..2], (-28_i16).to_be_bytes(), "ENOSPC: {frame:?}");
    assert!(cluster.storages[0].runs());
    // The disk is blamed for nothing: the next ones go there at once.
    let after = cluster.upload("tnvideo", "tnv001", &sample(15 << 20, 3));
    for id in [&before, &after] {
        assert_eq!(cluster.tnv(&["filesize", "tnvideo", "tnv001", id]).code, 0);
    }
    patient("what was broken off is removed", PATIENCE, || cluster.content_files("group001").len() == 2);
    let log = cluster.storages[0].log();
    assert!(!log.contains("is bad") && !log.contains("trying it last"), "{log}");
}

#[test]
fn an_embedded_database_beyond_the_limit_of_file_sizes_refuses_and_its_server_lives() {
    if !has_prlimit("an_embedded_database_beyond_the_limit_of_file_sizes_refuses_and_its_server_lives") {
        return;
    }
    let command = limited(512 << 10);
    let mut cluster = Builder::new("fsize-database")
        .set(Part::Id, "idinc_max_step", 1)
        .wrap(Part::Id, &[command[0].as_str(), command[1].as_str()])
        .start();
    let mut conn = Raw::connect(cluster.id());
    let refused = (0..5_000).any(|number| {
        let frame = conn.ask(&raw::get_id(&format!("/key{}", number % 100)));
        if frame.status != 0 {
            assert!(frame.status < 0, "{frame:?}");
            return true;
        }
        false
    });
    // SQLite may keep its log below the limit, then nothing is refused; what counts is that it lives.
    println!("refused: {refused}");
    assert!(cluster.ids[0].runs());
    assert!(raw::ask(cluster.id(), &raw::message(99, &[])).status != 0, "and answers");
}

#[test]
fn a_log_file_beyond_the_limit_of_file_sizes_keeps_no_server_from_serving() {
    if !has_prlimit("a_log_file_beyond_the_limit_of_file_sizes_keeps_no_server_from_serving") {
        return;
    }
    let command = limited(4 << 10);
    let mut cluster = Builder::new("fsize-log")
        .httpds(1)
        .set(Part::Httpd, "tnv_log_file", "../http.log")
        .wrap(Part::Httpd, &[command[0].as_str(), command[1].as_str()])
        .env("RUST_LOG", "info")
        .no_wait()
        .prepare();
    // Its ready line is in the file that it names.
    for part in [&mut cluster.trackers[0], &mut cluster.ids[0], &mut cluster.storages[0]] {
        part.start();
    }
    cluster.wait_active(1);
    cluster.httpds[0].spawn();
    patient("it answers", PATIENCE, || http::try_get(cluster.httpd(), "/files/none").is_ok());
    let id = cluster.upload("tnvideo", "tnv001", b"content");
    for _ in 0..100 {
        assert_eq!(http::get(cluster.httpd(), &format!("/files/{id}"), &[]).status, 200);
    }
    let log = cluster.path("http.log").metadata().expect("a log").len();
    assert!((3 << 10..=4 << 10).contains(&log), "it is full: {log}");
    assert!(cluster.httpds[0].runs());
    assert!(cluster.httpds[0].stop(Duration::from_secs(10)).success());
}

/// The client keeps what comes of a pipe in a file; that this may not be so large is an error with its reason.
#[test]
fn a_client_under_a_limit_of_file_sizes_says_so() {
    if !has_prlimit("a_client_under_a_limit_of_file_sizes_says_so") {
        return;
    }
    let cluster = Builder::new("fsize-client").start();
    let script = format!(
        "head -c 3000000 /dev/zero | prlimit --fsize=1048576 '{}' '{}' upload tnvideo tnv001 -",
        tnv_tests::bins::bin("tnv").display(),
        cluster.tracker_list()
    );
    let out = Output::of(std::process::Command::new("sh").args(["-c", &script]));
    assert_eq!(out.code, 1, "{out:?}");
    assert!(out.stderr.contains("TMPDIR"), "{out:?}");
    assert_eq!(cluster.file_rows(), 0);
}
