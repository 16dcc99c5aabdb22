//! The interface for scripts: the lines on standard output, and the exit codes.

mod peer;

use std::fs;
use std::io::Read;
use std::process::{Command, Output, Stdio};

use peer::{Peer, Then, captured, content, names, stat, tracker, unused_address};
use tempfile::tempdir;
use tnv_client::ErrorKind;
use tnv_common::proto::tnv::storage::{Read as ReadRequest, Upload};
use tnv_common::proto::tnv::{REPLY_STORAGE, command};

fn tnv(trackers: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tnv"));
    command.arg(trackers).args(args).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap()
}

fn run(peer: &Peer, args: &[&str]) -> Output {
    tnv(&peer.address.to_string(), args).output().unwrap()
}

/// A TNV storage that has the content `film` under each ID except `x`, and accepts uploads and deletes.
fn storage(film: Vec<u8>) -> Peer {
    Peer::new(move |request| match request.header.command {
        command::UPLOAD => {
            let head = request.read(408);
            let upload = Upload::decode(head.as_slice().try_into().unwrap(), request.header.body_bytes);
            request.read(usize::try_from(upload.unwrap().size).unwrap());
            request.reply(REPLY_STORAGE, &[])
        }
        command::READ => {
            let read = ReadRequest::decode(request.body().as_slice().try_into().unwrap()).unwrap();
            let (offset, count) = read.download.check(film.len() as u64).unwrap();
            let (offset, count) = (usize::try_from(offset).unwrap(), usize::try_from(count).unwrap());
            request.reply(REPLY_STORAGE, &film[offset..offset + count])
        }
        command::FETCH => request.unknown_command(),
        other => {
            let body = request.body();
            match other {
                _ if text(&body[272..273]) == "x" => request.refuse(ErrorKind::NotFound, "no such file"),
                command::STAT => request.reply(REPLY_STORAGE, &stat(&film, 1).encode()),
                command::FILE_SIZE => request.reply(REPLY_STORAGE, &(film.len() as u64).to_be_bytes()),
                command::DELETE => request.reply(REPLY_STORAGE, &[]),
                other => panic!("command {other}"),
            }
        }
    })
}

#[test]
fn each_success_is_one_line_on_standard_output_and_exit_0() {
    let scratch = tempdir().unwrap();
    let storage = storage(content(1000));
    let tracker = tracker(&[&storage]);
    let film = scratch.path().join("film");
    fs::write(&film, content(1000)).unwrap();
    let out = scratch.path().join("out");
    let out = out.to_str().unwrap();
    for (args, line) in [
        (&["filesize", "tnvideo", "tnv001", "f"][..], "Get filesize success: 1000\n"),
        (&["download", "tnvideo", "tnv001", "f", "0", "0"], "Download success: 1000\n"),
        (&["download", "tnvideo", "tnv001", "f", "10", "20"], "Download success: 20\n"),
        (&["download", "tnvideo", "tnv001", "f", "0", "0", out], "Download success: 1000\n"),
        (&["delete", "tnvideo", "tnv001", "f"], "Delete success: f\n"),
    ] {
        let done = run(&tracker, args);
        assert_eq!((text(&done.stdout), text(&done.stderr)), (line, ""), "{args:?}");
        assert_eq!(done.status.code(), Some(0));
    }
    assert_eq!(fs::read(out).unwrap(), content(1000));

    let done = run(&tracker, &["upload", "tnvideo", "tnv001", film.to_str().unwrap()]);
    let fileid = text(&done.stdout).strip_prefix("Upload success: ").unwrap().strip_suffix('\n').unwrap();
    assert_eq!(fileid.len(), 36);
    assert_eq!(done.status.code(), Some(0));
}

#[test]
fn the_group_list_is_printed_as_it_is() {
    let tracker = Peer::new(|request| {
        request.raw(&captured("GROUPS.response.hex"));
        Then::Keep
    });
    let done = run(&tracker, &["groups"]);
    let list = captured("GROUPS.response.hex");
    assert_eq!(text(&done.stdout), format!("{}\n", text(&list[10..]).trim_end_matches('\0')));
    assert_eq!(done.status.code(), Some(0));
}

#[test]
fn with_out_dash_standard_output_has_only_the_content() {
    let storage = storage(content(700_000));
    let tracker = tracker(&[&storage]);
    let done = run(&tracker, &["download", "tnvideo", "tnv001", "f", "0", "0", "-"]);
    assert!(done.stdout == content(700_000));
    assert_eq!(text(&done.stderr), "Download success: 700000\n");
    assert_eq!(done.status.code(), Some(0));
}

#[test]
fn a_broken_pipe_ends_silently_with_exit_1() {
    let storage = storage(content(9_000_000));
    let tracker = tracker(&[&storage]);
    let mut child = tnv(&tracker.address.to_string(), &["download", "tnvideo", "tnv001", "f", "0", "0", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 1000]).unwrap();
    drop(stdout);
    let done = child.wait_with_output().unwrap();
    assert_eq!((text(&done.stderr), done.status.code()), ("", Some(1)));
}

#[test]
fn a_failure_is_one_line_on_standard_error_and_exit_1() {
    let scratch = tempdir().unwrap();
    let storage = storage(content(10));
    let peer = tracker(&[&storage]);
    let out = scratch.path().join("out");
    for args in [
        &["filesize", "tnvideo", "tnv001", "x"][..],
        &["delete", "tnvideo", "tnv001", "x"],
        &["download", "tnvideo", "tnv001", "x", "0", "0", out.to_str().unwrap()],
        &["download", "tnvideo", "tnv001", "x", "0", "0", "-"],
    ] {
        let done = run(&peer, args);
        assert_eq!((text(&done.stdout), done.status.code()), ("", Some(1)), "{args:?}");
        let error = text(&done.stderr);
        assert!(
            error.starts_with("tnv: ") && error.contains("no such file"),
            "the storage's message: {error}"
        );
        assert_eq!(error.lines().count(), 1);
    }
    let done = run(&peer, &["download", "tnvideo", "tnv001", "f", "11", "0"]);
    assert_eq!((text(&done.stderr).lines().count(), done.status.code()), (1, Some(1)));
    let done = tnv(&unused_address().to_string(), &["groups"]).output().unwrap();
    assert_eq!(done.status.code(), Some(1));
    assert!(names(scratch.path()).is_empty());
}

#[test]
fn wrong_usage_prints_the_usage_with_exit_2() {
    for (trackers, args, name) in [
        ("a", &["frobnicate"][..], "'frobnicate'"),
        ("a:b:c", &["groups"], "'a:b:c'"),
        ("a", &["download", "tnvideo", "u", "f", "0"], "SIZE"),
    ] {
        let done = tnv(trackers, args).output().unwrap();
        assert_eq!((text(&done.stdout), done.status.code()), ("", Some(2)));
        let (error, usage) = text(&done.stderr).split_once('\n').unwrap();
        assert!(error.contains(name), "{error}");
        assert!(usage.starts_with("Usage: tnv TRACKERS groups"), "{usage}");
    }
    let done = Command::new(env!("CARGO_BIN_EXE_tnv")).output().unwrap();
    assert_eq!(done.status.code(), Some(2));
}

#[test]
fn help_and_version_go_to_standard_output() {
    let done = tnv("--help", &[]).output().unwrap();
    assert!(text(&done.stdout).contains("Exit codes: 0 done, 1 failed, 2 wrong usage."));
    assert_eq!(done.status.code(), Some(0));
    let done = tnv("--version", &[]).output().unwrap();
    assert_eq!(text(&done.stdout), concat!("tnv ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn standard_output_that_cannot_be_written_is_a_failure() {
    let done = tnv("--help", &[]).stdout(fs::File::create("/dev/full").unwrap()).output().unwrap();
    assert_eq!((text(&done.stderr).lines().count(), done.status.code()), (1, Some(1)));
}
