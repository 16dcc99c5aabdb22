//! What the client promises of the files it reads and writes.

mod peer;

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::{Arc, Mutex};

use peer::{Peer, Scratch, Then, appid, client, content, file, stat, tracker, userid};
use tnv_client::ErrorKind;
use tnv_common::proto::tnv::storage::Upload;
use tnv_common::proto::tnv::{REPLY_STORAGE, command};
use tnv_common::rpc::header::Header;

/// A storage that holds one file; it gives `given` bytes of it, and then closes if that is not all.
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
fn a_downloaded_file_is_whole_and_nothing_else_is_left() {
    let scratch = Scratch::new("whole");
    let storage = giving(content(700_000), 700_000);
    let client = client(&tracker(&[&storage]));
    let path = scratch.0.join("film.mp4");
    assert_eq!(client.download_file(&file("f"), 0, 0, &path), Ok(700_000));
    assert!(fs::read(&path).unwrap() == content(700_000));
    assert_eq!(scratch.names(), ["film.mp4"]);

    fs::write(&path, "older").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    client.download_file(&file("f"), 0, 0, &path).unwrap();
    assert!(fs::read(&path).unwrap() == content(700_000));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(scratch.names(), ["film.mp4"]);
}

#[test]
fn a_download_that_fails_leaves_what_was_there() {
    let scratch = Scratch::new("failed");
    let path = scratch.0.join("film.mp4");
    // Nothing after the first bytes, and bytes that are not what was stored.
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
        assert!(scratch.names().is_empty());
    }
    fs::write(&path, "older").unwrap();
    let client = client(&tracker(&[&cut]));
    assert!(client.download_file(&file("f"), 0, 0, &path).is_err());
    assert_eq!(fs::read(&path).unwrap(), b"older");
    assert_eq!(scratch.names(), ["film.mp4"]);
}

#[test]
fn a_download_goes_through_a_link_and_not_over_what_is_no_file() {
    let scratch = Scratch::new("target");
    let storage = giving(content(100), 100);
    let client = client(&tracker(&[&storage]));
    fs::create_dir(scratch.0.join("real")).unwrap();
    fs::write(scratch.0.join("real/film"), "older").unwrap();
    symlink("real/film", scratch.0.join("link")).unwrap();
    client.download_file(&file("f"), 0, 0, &scratch.0.join("link")).unwrap();
    assert_eq!(fs::read(scratch.0.join("real/film")).unwrap(), content(100));
    assert!(fs::symlink_metadata(scratch.0.join("link")).unwrap().is_symlink());

    let before = storage.commands().len();
    for (path, says) in [
        (scratch.0.join("real"), "it is a directory"),
        ("/dev/null".into(), "it is a device"),
        (scratch.0.join("missing/film"), "No such file or directory"),
        (scratch.0.join(".."), "it is a directory"),
    ] {
        let error = client.download_file(&file("f"), 0, 0, &path).unwrap_err();
        assert!(error.message().contains(says), "{error}");
    }
    assert_eq!(storage.commands().len(), before, "what cannot be written is not fetched");
    // The longest name that a file may have leaves room for a temporary one.
    client.download_file(&file("f"), 0, 0, &scratch.0.join("ü".repeat(127))).unwrap();
    assert_eq!(scratch.names().len(), 3);
}

/// A storage of ours: what it was sent, by upload.
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
    let scratch = Scratch::new("regular");
    let storage = Peer::new(|_| panic!("nothing is to be sent"));
    let client = client(&tracker(&[&storage]));
    let socket = scratch.0.join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for (path, says) in [
        (scratch.0.clone(), "it is a directory"),
        (socket, "cannot open"),
        ("/dev/zero".into(), "it is a device"),
        (scratch.0.join("missing"), "cannot open"),
    ] {
        let error = client.upload_file(&appid(), &userid(), &path).unwrap_err();
        assert!(error.message().contains(says), "{error}");
        assert!(error.message().contains(&path.display().to_string()), "{error}");
    }
}

/// The story: `/proc/version` says that it has 0 bytes, and was stored as an empty file, with success.
#[test]
fn a_file_that_has_another_size_than_it_gives_is_stored_as_it_was_read() {
    let stored = Arc::default();
    let storage = storing(&stored);
    let client = client(&tracker(&[&storage]));
    // A line, more than a piece where the kernel is of usual size, and 4096 bytes that are only some.
    for path in ["/proc/version", "/proc/kallsyms", "/sys/kernel/mm/transparent_hugepage/enabled"] {
        let path = std::path::Path::new(path);
        let Ok(content) = fs::read(path) else { continue };
        client.upload_file(&appid(), &userid(), path).unwrap();
        assert!(stored.lock().unwrap().pop().unwrap() == content, "{}", path.display());
    }
    assert_ne!(storage.commands().len(), 0);
}

#[test]
fn all_that_comes_of_a_pipe_is_stored_however_slow_its_writer_is() {
    let scratch = Scratch::new("pipe");
    let stored = Arc::default();
    let storage = storing(&stored);
    let client = client(&tracker(&[&storage]));
    let pipe = scratch.0.join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for bytes in [0, 1, 262_144, 262_145, 3_000_000] {
        let (content, path) = (content(bytes), pipe.clone());
        let given = content.clone();
        let writer = std::thread::spawn(move || {
            // The reader waits for a writer, and for what this gives piece by piece.
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
fn what_is_left_of_an_open_file_is_stored() {
    let scratch = Scratch::new("open");
    let stored = Arc::default();
    let storage = storing(&stored);
    let client = client(&tracker(&[&storage]));
    let path = scratch.0.join("film");
    fs::write(&path, content(600_000)).unwrap();
    for start in [0, 10] {
        let mut file = fs::File::open(&path).unwrap();
        file.seek(SeekFrom::Start(start as u64)).unwrap();
        client.upload_open_file(&appid(), &userid(), file, &path, None).unwrap();
        assert!(stored.lock().unwrap().pop().unwrap() == content(600_000)[start..]);
    }
}

#[test]
fn a_file_whose_size_changes_while_it_is_read_is_not_stored() {
    let scratch = Scratch::new("changing");
    let path = scratch.0.join("film");
    for shrinks in [false, true] {
        fs::write(&path, content(8_000_000)).unwrap();
        let stored = Arc::new(Mutex::new(0));
        let (kept, changed) = (Arc::clone(&stored), path.clone());
        let storage = Peer::new(move |request| {
            if request.header.command == command::STAT {
                request.body();
                return request.refuse(ErrorKind::NotFound, "no such file");
            }
            // What is in the socket's buffers is far less than the file.
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
        assert!(error.message().contains("changed while it was read: it had 8000000 bytes"), "{error}");
        assert!(error.message().contains("nothing was stored"), "{error}");
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert_eq!(*stored.lock().unwrap(), 0);
    }
}

#[test]
fn a_file_is_sent_again_when_a_storage_is_lost_in_the_middle() {
    let scratch = Scratch::new("again");
    let path = scratch.0.join("film");
    fs::write(&path, content(3_000_000)).unwrap();
    let stored = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&stored);
    let storage = Peer::new(move |request| {
        if request.header.command == command::STAT {
            // All of it may have been in the socket's buffers, so it is asked for.
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
