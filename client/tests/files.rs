//! The local files that the client reads and writes.

mod peer;

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::{Arc, Mutex};

use peer::{Peer, Then, appid, client, content, file, names, stat, tracker, userid};
use tempfile::tempdir;
use tnv_client::ErrorKind;
use tnv_common::proto::tnv::storage::Upload;
use tnv_common::proto::tnv::{REPLY_STORAGE, command};
use tnv_common::rpc::header::Header;

/// A storage that sends `given` bytes of its content and then closes.
fn giving(content: Vec<u8>, given: usize) -> Peer {
    Peer::new(move |request| {
        request.body();
        match request.header.command {
            command::STAT => request.reply(REPLY_STORAGE, &stat(&content, 1).encode()),
            command::FETCH => request.unknown_command(),
            _ => {
                request.raw(&Header::new(REPLY_STORAGE, content.len() as u64).encode());
                request.raw(&content[..given]);
                Then::Close
            }
        }
    })
}

#[test]
fn a_downloaded_file_is_complete_and_nothing_else_remains() {
    let scratch = tempdir().unwrap();
    let storage = giving(content(700_000), 700_000);
    let client = client(&tracker(&[&storage]));
    let path = scratch.path().join("film.mp4");
    assert_eq!(client.download_file(&file("f"), 0, 0, &path), Ok(700_000));
    assert!(fs::read(&path).unwrap() == content(700_000));
    assert_eq!(names(scratch.path()), ["film.mp4"]);

    fs::write(&path, "older").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    client.download_file(&file("f"), 0, 0, &path).unwrap();
    assert!(fs::read(&path).unwrap() == content(700_000));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(names(scratch.path()), ["film.mp4"]);
}

#[test]
fn a_failed_download_keeps_the_older_file() {
    let scratch = tempdir().unwrap();
    let path = scratch.path().join("film.mp4");
    // One storage closes after the first bytes, the other sends damaged content.
    let cut = giving(content(700_000), 1000);
    let damaged = Peer::new(|request| {
        request.body();
        match request.header.command {
            command::STAT => request.reply(REPLY_STORAGE, &stat(&content(500), 1).encode()),
            command::FETCH => request.unknown_command(),
            _ => request.reply(REPLY_STORAGE, &[0; 500]),
        }
    });
    for storage in [&cut, &damaged] {
        let client = client(&tracker(&[storage]));
        assert!(client.download_file(&file("f"), 0, 0, &path).is_err());
        assert!(names(scratch.path()).is_empty());
    }
    fs::write(&path, "older").unwrap();
    let client = client(&tracker(&[&cut]));
    assert!(client.download_file(&file("f"), 0, 0, &path).is_err());
    assert_eq!(fs::read(&path).unwrap(), b"older");
    assert_eq!(names(scratch.path()), ["film.mp4"]);
}

#[test]
fn a_download_follows_a_symbolic_link_and_replaces_only_regular_files() {
    let scratch = tempdir().unwrap();
    let storage = giving(content(100), 100);
    let client = client(&tracker(&[&storage]));
    fs::create_dir(scratch.path().join("real")).unwrap();
    fs::write(scratch.path().join("real/film"), "older").unwrap();
    symlink("real/film", scratch.path().join("link")).unwrap();
    client.download_file(&file("f"), 0, 0, &scratch.path().join("link")).unwrap();
    assert_eq!(fs::read(scratch.path().join("real/film")).unwrap(), content(100));
    assert!(fs::symlink_metadata(scratch.path().join("link")).unwrap().is_symlink());

    let before = storage.commands().len();
    for (path, kind) in [
        (scratch.path().join("real"), ErrorKind::Invalid),
        ("/dev/null".into(), ErrorKind::Invalid),
        (scratch.path().join("missing/film"), ErrorKind::NotFound),
        (scratch.path().join(".."), ErrorKind::Invalid),
    ] {
        let error = client.download_file(&file("f"), 0, 0, &path).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
    assert_eq!(storage.commands().len(), before, "the path is checked before content is fetched");
    // The temporary name of the longest possible name is not too long.
    client.download_file(&file("f"), 0, 0, &scratch.path().join("ü".repeat(127))).unwrap();
    assert_eq!(names(scratch.path()).len(), 3);
}

/// A TNV storage that collects the content of its uploads.
fn storing(stored: &Arc<Mutex<Vec<Vec<u8>>>>) -> Peer {
    let stored = Arc::clone(stored);
    Peer::new(move |request| match request.header.command {
        command::UPLOAD => {
            let content = request.body().split_off(408);
            stored.lock().unwrap().push(content);
            request.reply(REPLY_STORAGE, &[])
        }
        command::UPLOAD_CHECKED => request.unknown_command(),
        _ => {
            request.body();
            request.refuse(ErrorKind::NotFound, "no such file")
        }
    })
}

#[test]
fn directories_sockets_and_devices_are_not_uploaded() {
    let scratch = tempdir().unwrap();
    let storage = Peer::new(|_| panic!("a request"));
    let client = client(&tracker(&[&storage]));
    let socket = scratch.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for (path, kind) in [
        (scratch.path().to_owned(), ErrorKind::Invalid),
        (socket, ErrorKind::Internal),
        ("/dev/zero".into(), ErrorKind::Invalid),
        (scratch.path().join("missing"), ErrorKind::NotFound),
    ] {
        let error = client.upload_file(&appid(), &userid(), &path).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains(&path.display().to_string()), "{error}");
    }
}

/// Regression: `/proc/version` reports 0 bytes and was stored as an empty file.
#[test]
fn a_file_that_reports_a_wrong_size_is_stored_as_it_was_read() {
    let stored = Arc::default();
    let storage = storing(&stored);
    let client = client(&tracker(&[&storage]));
    // Each reports a wrong size: 0 for one line, 0 for more than one piece, and 4096 for a few bytes.
    for path in ["/proc/version", "/proc/kallsyms", "/sys/kernel/mm/transparent_hugepage/enabled"] {
        let path = std::path::Path::new(path);
        let Ok(content) = fs::read(path) else { continue };
        client.upload_file(&appid(), &userid(), path).unwrap();
        assert!(stored.lock().unwrap().pop().unwrap() == content, "{}", path.display());
    }
    assert_ne!(storage.commands().len(), 0);
}

#[test]
fn the_content_of_a_slow_pipe_is_stored_completely() {
    let scratch = tempdir().unwrap();
    let stored = Arc::default();
    let storage = storing(&stored);
    let client = client(&tracker(&[&storage]));
    let pipe = scratch.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for bytes in [0, 1, 262_144, 262_145, 3_000_000] {
        let (content, path) = (content(bytes), pipe.clone());
        let given = content.clone();
        let writer = std::thread::spawn(move || {
            // The reader waits for the writer and for each piece.
            std::thread::sleep(std::time::Duration::from_millis(50));
            let mut out = fs::OpenOptions::new().write(true).open(path).unwrap();
            let (early, late) = given.split_at(given.len() / 2);
            out.write_all(early).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(50));
            out.write_all(late).unwrap();
        });
        client.upload_file(&appid(), &userid(), &pipe).unwrap();
        writer.join().unwrap();
        assert!(stored.lock().unwrap().pop().unwrap() == content, "{bytes} bytes");
    }
    client.upload_to_end(&appid(), &userid(), &mut &content(300_000)[..], None).unwrap();
    assert!(stored.lock().unwrap().pop().unwrap() == content(300_000));
    let wrong = client.upload_to_end(&appid(), &userid(), &mut &content(300_000)[..], Some(7)).unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Invalid);
    assert!(stored.lock().unwrap().is_empty());
}

#[test]
fn the_rest_of_an_open_file_is_stored() {
    let scratch = tempdir().unwrap();
    let stored = Arc::default();
    let storage = storing(&stored);
    let client = client(&tracker(&[&storage]));
    let path = scratch.path().join("film");
    fs::write(&path, content(600_000)).unwrap();
    for start in [0, 10] {
        let mut file = fs::File::open(&path).unwrap();
        file.seek(SeekFrom::Start(start as u64)).unwrap();
        client.upload_open_file(&appid(), &userid(), file, &path, None).unwrap();
        assert!(stored.lock().unwrap().pop().unwrap() == content(600_000)[start..]);
    }
}

#[test]
fn a_file_that_changes_during_its_upload_is_not_stored() {
    let scratch = tempdir().unwrap();
    let path = scratch.path().join("film");
    for shrinks in [false, true] {
        fs::write(&path, content(8_000_000)).unwrap();
        let stored = Arc::new(Mutex::new(0));
        let (kept, changed) = (Arc::clone(&stored), path.clone());
        let storage = Peer::new(move |request| {
            if request.header.command == command::STAT {
                request.body();
                return request.refuse(ErrorKind::NotFound, "no such file");
            }
            // The socket buffers are much smaller than the file.
            request.read(408 + 100_000);
            let file = fs::OpenOptions::new().write(true).open(&changed).unwrap();
            file.set_len(if shrinks { 7_000_000 } else { 8_000_001 }).unwrap();
            let left = request.header.body_bytes - 408 - 100_000;
            let got =
                std::io::copy(&mut std::io::Read::take(&mut *request.stream, left), &mut std::io::sink());
            *kept.lock().unwrap() += usize::from(got.unwrap() == left);
            Then::Close
        });
        let error = client(&tracker(&[&storage])).upload_file(&appid(), &userid(), &path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert_eq!(*stored.lock().unwrap(), 0);
    }
}

#[test]
fn a_file_is_sent_again_after_a_storage_is_lost() {
    let scratch = tempdir().unwrap();
    let path = scratch.path().join("film");
    fs::write(&path, content(3_000_000)).unwrap();
    let stored = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&stored);
    let storage = Peer::new(move |request| {
        if request.header.command == command::STAT {
            // The client may have sent all of it into the socket buffers, so it looks the file up.
            request.body();
            return request.refuse(ErrorKind::NotFound, "no such file");
        }
        let head = request.read(408);
        let upload = Upload::decode(head.as_slice().try_into().unwrap(), request.header.body_bytes).unwrap();
        if request.nth == 0 {
            request.read(1_000_000);
            return Then::Close;
        }
        let content = request.read(3_000_000);
        kept.lock().unwrap().push((upload.file.fileid, content));
        request.reply(REPLY_STORAGE, &[])
    });
    let fileid = client(&tracker(&[&storage])).upload_file(&appid(), &userid(), &path).unwrap();
    let stored = stored.lock().unwrap();
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].0, fileid);
    assert!(stored[0].1 == content(3_000_000));
}
