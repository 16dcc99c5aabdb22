//! The client with legacy servers, whose replies are captured.

mod peer;

use std::time::Duration;

use peer::{Peer, Then, appid, captured, client, file, tracker, userid};
use tnv_client::{AppKeys, Client, ErrorKind, GroupName, Options, Route, Secret};
use tnv_common::proto::tnv::file_key::FileKey;
use tnv_common::proto::tnv::storage::{Download, Upload};
use tnv_common::proto::tnv::{REPLY_STORAGE, REPLY_TRACKER, command};

/// A server that sends one captured reply to every request, and closes after a failure as legacy servers do.
fn replaying(name: &'static str) -> Peer {
    Peer::new(move |request| {
        request.body();
        let reply = captured(&format!("{name}.response.hex"));
        request.raw(&reply);
        if reply[9] == 0 { Then::Keep } else { Then::Close }
    })
}

/// A legacy storage. It replies with captures, checks the layout of each request, and refuses other commands.
fn legacy_storage() -> Peer {
    Peer::new(|request| {
        let name = match request.header.command {
            command::UPLOAD => {
                let bytes = request.header.body_bytes;
                let head = request.read(408);
                let upload = Upload::decode(head.as_slice().try_into().unwrap(), bytes).unwrap();
                assert_eq!(request.read(usize::try_from(upload.size).unwrap()), CONTENT);
                "UPLOAD"
            }
            command::FILE_SIZE => {
                FileKey::decode(request.body().as_slice().try_into().unwrap()).unwrap();
                "FILESIZE"
            }
            command::DOWNLOAD => {
                let download = Download::decode(request.body().as_slice().try_into().unwrap()).unwrap();
                match (download.offset, download.size) {
                    (0, 0) => "DOWNLOAD",
                    (6, 9) => "DOWNLOAD_RANGE_6_9",
                    _ => "ERROR_DOWNLOAD_BAD_OFFSET",
                }
            }
            command::DELETE => {
                request.body();
                "DELETE"
            }
            _ => return request.unknown_command(),
        };
        let reply = captured(&format!("{name}.response.hex"));
        request.raw(&reply);
        if reply[9] == 0 { Then::Keep } else { Then::Close }
    })
}

const CONTENT: &[u8] = b"hello net-video 0123456789\n";

#[test]
fn every_command_works_on_an_legacy_storage() {
    let storage = legacy_storage();
    let tracker = tracker(&[&storage]);
    let client = client(&tracker);
    client.upload(&appid(), &userid(), &mut &*CONTENT, CONTENT.len() as u64).unwrap();
    let file = file("6b0236710");
    assert_eq!(client.file_size(&file), Ok(CONTENT.len() as u64));
    let mut out = Vec::new();
    assert_eq!(client.download(&file, 0, 0, &mut out), Ok(27));
    assert_eq!(out, CONTENT);
    out.clear();
    assert_eq!(client.download(&file, 6, 9, &mut out), Ok(9));
    assert_eq!(out, b"net-video");
    client.delete(&file).unwrap();
}

#[test]
fn a_missing_stat_command_is_remembered_and_replaced_by_the_size() {
    let storage = legacy_storage();
    let tracker = tracker(&[&storage]);
    let client = client(&tracker);
    for _ in 0..3 {
        let info = client.stat(&file("f")).unwrap();
        assert_eq!((info.size, info.stat), (27, None));
    }
    assert_eq!(
        storage.commands(),
        [command::STAT, command::FILE_SIZE, command::FILE_SIZE, command::FILE_SIZE]
    );
    let info = client.stat(&file("f")).unwrap();
    let mut slice = [0; 9];
    client.read_slice(&file("f"), &info, 6, &mut slice).unwrap();
    assert_eq!(&slice, b"net-video");
    client.read_slice(&file("f"), &info, 6, &mut []).unwrap();
    let (info, count) = client.open(&file("f"), 6, &mut slice).unwrap();
    assert_eq!((info.size, info.stat, count), (27, None, 9));
    assert_eq!(&slice, b"net-video");
    assert_eq!(client.open(&file("f"), 28, &mut slice).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn a_storage_that_closes_at_stat_is_asked_for_the_size() {
    // A close with the request unread may reset the connection before the refusal is read.
    let storage = Peer::new(|request| match request.header.command {
        command::FILE_SIZE => {
            request.body();
            request.raw(&captured("FILESIZE.response.hex"));
            Then::Keep
        }
        _ => Then::Close,
    });
    let tracker = tracker(&[&storage]);
    let client = client(&tracker);
    assert_eq!(client.stat(&file("f")).unwrap().size, 27);
    assert_eq!(client.stat(&file("f")).unwrap().stat, None);
    assert_eq!(storage.commands().iter().filter(|&&command| command == command::STAT).count(), 1);
}

#[test]
fn the_table_of_groups_is_returned_as_it_is() {
    let groups = client(&replaying("GROUPS")).groups().unwrap();
    assert!(
        groups.starts_with("         COUNT OF GROUPS: 1\n               GROUPNAME: group001\n"),
        "{groups}"
    );
    assert!(groups.ends_with("STATUS: ACTIVE"), "{groups}");
}

#[test]
fn a_captured_route_is_decoded() {
    let route = client(&replaying("SADDRS")).route(&appid(), &userid()).unwrap();
    assert_eq!(route.group.as_str(), "group001");
    assert_eq!(route.addresses, ["127.0.0.1:23000".parse().unwrap()]);
}

#[test]
fn an_unknown_appid_fails_at_the_first_tracker() {
    let trackers = [replaying("ERROR_SADDRS_UNKNOWN_APPID"), replaying("ERROR_SADDRS_UNKNOWN_APPID")];
    let names = trackers.each_ref().map(|tracker| tracker.address.to_string());
    let client = Client::new(&names, Options::default()).unwrap();
    let error = client.file_size(&file("f")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(trackers.iter().map(|tracker| tracker.commands().len()).sum::<usize>(), 1);
}

#[test]
fn a_tracker_without_an_active_storage_fails_over_to_another() {
    let storage = legacy_storage();
    let knowing = tracker(&[&storage]);
    let ignorant = replaying("ERROR_SADDRS_NO_ACTIVE_STORAGE");
    let names = [ignorant.address.to_string(), knowing.address.to_string()];
    for _ in 0..8 {
        let client = Client::new(&names, Options::default()).unwrap();
        assert_eq!(client.file_size(&file("f")), Ok(27));
    }
    assert!(client(&ignorant).file_size(&file("f")).is_err());
}

#[test]
fn a_file_unknown_to_all_legacy_storages_is_not_found() {
    let storages = [replaying("ERROR"), replaying("ERROR")];
    let tracker = tracker(&[&storages[0], &storages[1]]);
    let error = client(&tracker).delete(&file("f")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    for storage in &storages {
        let said = format!("{}: [vm] read database fail, fileid: 6b023671", storage.address);
        assert!(error.message().contains(&said), "{error}");
        assert_eq!(storage.commands(), [command::DELETE], "one attempt each");
    }
}

#[test]
fn a_bad_offset_is_invalid() {
    let storages = [legacy_storage(), legacy_storage()];
    let tracker = tracker(&[&storages[0], &storages[1]]);
    let error = client(&tracker).download(&file("f"), 5, 1, &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[test]
fn a_second_failure_frame_does_not_reach_the_next_request() {
    let storage = Peer::new(|request| {
        let command = request.header.command;
        if matches!(command, command::STAT) {
            return request.unknown_command();
        }
        request.body();
        if command == command::UPLOAD {
            request.raw(&captured("ERROR_UPLOAD_DUPLICATE_TWO_FRAMES.response.hex"));
            return Then::Close;
        }
        request.raw(&captured("ERROR.response.hex"));
        Then::Close
    });
    let tracker = tracker(&[&storage]);
    let client = client(&tracker);
    for _ in 0..2 {
        let error = client.upload(&appid(), &userid(), &mut &b"w"[..], 1).unwrap_err();
        // The two frames have these texts.
        assert!(error.message().contains("insert database fail"), "{error}");
        assert!(!error.message().contains("save file fail"), "{error}");
    }
}

#[test]
fn a_failure_may_have_no_text_but_not_too_much() {
    let wordless = Peer::new(|request| {
        request.body();
        request.raw(&[0, 0, 0, 0, 0, 0, 0, 2, 102, 0xFD, 0xFF, 0xFF]);
        Then::Close
    });
    let error = client(&tracker(&[&wordless])).file_size(&file("f")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);

    let endless = Peer::new(|request| {
        request.body();
        request.raw(&[0, 0, 0, 0, 0, 0, 4, 3, 102, 0xFD]);
        request.raw(&[b'x'; 1027]);
        Then::Close
    });
    let error = client(&tracker(&[&endless])).file_size(&file("f")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
}

/// A legacy tracker: it has command 12, refuses others and closes.
fn legacy_tracker(storage: &Peer) -> Peer {
    let address = storage.address;
    Peer::new(move |request| match request.header.command {
        command::ADDRESSES => {
            request.body();
            let route = Route { group: GroupName::new("group001").unwrap(), addresses: vec![address] };
            request.reply(REPLY_TRACKER, &route.encode())
        }
        _ => request.unknown_command(),
    })
}

#[test]
fn a_missing_tracker_command_is_remembered_and_replaced() {
    let storage = legacy_storage();
    let tracker = legacy_tracker(&storage);
    let client = client(&tracker);
    for _ in 0..3 {
        assert_eq!(client.file_size(&file("f")), Ok(27));
    }
    let [find, ask] = [command::FIND_ADDRESSES, command::ADDRESSES];
    assert_eq!(tracker.commands(), [find, ask, ask, ask]);
    // The tracker closed the first connection; the second one is reused.
    assert_eq!(tracker.conns(), 2);
}

#[test]
fn a_tracker_that_closes_is_asked_with_the_legacy_command() {
    let storage = legacy_storage();
    let address = storage.address;
    let tracker = Peer::new(move |request| match request.header.command {
        command::ADDRESSES => {
            request.body();
            let route = Route { group: GroupName::new("group001").unwrap(), addresses: vec![address] };
            request.reply(REPLY_TRACKER, &route.encode())
        }
        _ => Then::Close,
    });
    let client = client(&tracker);
    for _ in 0..2 {
        assert_eq!(client.file_size(&file("f")), Ok(27));
    }
}

/// Regression: the HTTP server asked for the storages of any user in a URL, and the tracker recorded a route
/// for each, so requests could fill its table.
#[test]
fn only_an_upload_makes_the_tracker_record_a_user() {
    let storage = legacy_storage();
    let tracker = tracker(&[&storage]);
    let client = client(&tracker);
    client.route(&appid(), &userid()).unwrap();
    client.file_size(&file("f")).unwrap();
    let info = client.stat(&file("f")).unwrap();
    client.read_slice(&file("f"), &info, 6, &mut [0; 9]).unwrap();
    client.download(&file("f"), 0, 0, &mut Vec::new()).unwrap();
    client.delete(&file("f")).unwrap();
    assert!(tracker.commands().iter().all(|&command| command == command::FIND_ADDRESSES));
    client.upload(&appid(), &userid(), &mut &*CONTENT, CONTENT.len() as u64).unwrap();
    assert_eq!(tracker.commands().last(), Some(&command::ADDRESSES));
}

#[test]
fn an_unknown_user_is_not_cached_and_is_no_failure_of_the_tracker() {
    let storage = legacy_storage();
    let address = storage.address;
    // Another client makes the user's first upload after the first request.
    let tracker = Peer::new(move |request| {
        request.body();
        if request.nth == 0 {
            return request.refuse(ErrorKind::NotFound, "unknown user: tnv001");
        }
        let route = Route { group: GroupName::new("group001").unwrap(), addresses: vec![address] };
        request.reply(REPLY_TRACKER, &route.encode())
    });
    let options = Options { route_cache: Duration::from_secs(60), ..Options::default() };
    let client = Client::new(&[tracker.address.to_string()], options).unwrap();
    let error = client.file_size(&file("f")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(client.file_size(&file("f")), Ok(27));
    assert_eq!(tracker.commands(), [command::FIND_ADDRESSES; 2]);
}

/// A client with a key during a migration from legacy servers.
#[test]
fn a_legacy_storage_needs_no_proof() {
    let storage = legacy_storage();
    let tracker = tracker(&[&storage]);
    let mut app_keys = AppKeys::default();
    app_keys.insert(appid(), Secret::new("0123456789abcdef0123456789abcdef").unwrap());
    let options = Options { app_keys, ..Options::default() };
    let client = Client::new(&[tracker.address.to_string()], options).unwrap();
    for _ in 0..2 {
        client.upload(&appid(), &userid(), &mut &CONTENT[..], CONTENT.len() as u64).unwrap();
        client.delete(&file("f")).unwrap();
    }
    let asked = storage.commands().iter().filter(|&&asked| asked == command::CHALLENGE).count();
    assert!((1..=2).contains(&asked), "the missing command is remembered: {:?}", storage.commands());
}

#[test]
fn an_upload_to_a_legacy_storage_is_compared_afterwards() {
    use command::{DOWNLOAD, STAT, UPLOAD, UPLOAD_CHECKED};
    let storage = legacy_storage();
    let tracker = tracker(&[&storage]);
    let client = client(&tracker);
    let crc32 = crc32fast::hash(CONTENT);
    for _ in 0..2 {
        client.upload_checked(&appid(), &userid(), &mut &*CONTENT, 27, crc32).unwrap();
    }
    assert_eq!(storage.commands(), [UPLOAD_CHECKED, UPLOAD, STAT, DOWNLOAD, UPLOAD, DOWNLOAD]);
    // A wrong checksum is found before the content is sent.
    let error = client.upload_checked(&appid(), &userid(), &mut &*CONTENT, 27, !crc32).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(storage.commands().len(), 6);
}

#[test]
fn an_upload_that_a_legacy_storage_damaged_is_removed_again() {
    use command::{DELETE, DOWNLOAD, STAT, UPLOAD, UPLOAD_CHECKED};
    let storage = Peer::new(|request| match request.header.command {
        UPLOAD => {
            request.body();
            request.reply(REPLY_STORAGE, &[])
        }
        DOWNLOAD => {
            request.body();
            request.reply(REPLY_STORAGE, b"hello net-videa 0123456789\n")
        }
        DELETE => {
            request.body();
            request.reply(REPLY_STORAGE, &[])
        }
        _ => request.unknown_command(),
    });
    let tracker = tracker(&[&storage]);
    let crc32 = crc32fast::hash(CONTENT);
    let error = client(&tracker).upload_checked(&appid(), &userid(), &mut &*CONTENT, 27, crc32).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    assert_eq!(storage.commands(), [UPLOAD_CHECKED, UPLOAD, STAT, DOWNLOAD, DELETE]);
}

/// A legacy storage that keeps a part of an upload that was broken off, with a row or without.
fn keeping_parts(makes_row: bool) -> Peer {
    let kept = std::sync::atomic::AtomicBool::new(false);
    Peer::new(move |request| {
        use std::sync::atomic::Ordering;
        match request.header.command {
            command::UPLOAD => {
                let mut body = std::io::Read::take(&mut *request.stream, request.header.body_bytes);
                let _ = std::io::copy(&mut body, &mut std::io::sink());
                kept.store(makes_row, Ordering::Relaxed);
                Then::Close
            }
            command::DELETE => {
                request.body();
                match kept.swap(false, Ordering::Relaxed) {
                    true => request.reply(REPLY_STORAGE, &[]),
                    false => {
                        request.raw(&captured("ERROR.response.hex"));
                        Then::Close
                    }
                }
            }
            _ => request.unknown_command(),
        }
    })
}

/// Regression: the wrong checksum was found after most of the content had been sent. The client reported that
/// nothing was stored, but the legacy storage had kept a part.
#[test]
fn repeatable_content_with_a_wrong_checksum_is_not_sent_to_a_legacy_storage() {
    let storage = keeping_parts(true);
    let client = client(&tracker(&[&storage]));
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("film");
    let content = peer::content(1_000_000);
    std::fs::write(&path, &content).unwrap();
    let wrong = !crc32fast::hash(&content);
    let error = client.upload_file_checked(&appid(), &userid(), &path, wrong).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let error = client.upload_to_end(&appid(), &userid(), &mut &content[..], Some(wrong)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(!storage.commands().contains(&command::UPLOAD), "{:?}", storage.commands());
}

#[test]
fn a_part_on_a_legacy_storage_is_deleted_or_reported() {
    let content = peer::content(1_000_000);
    for makes_row in [true, false] {
        let storage = keeping_parts(makes_row);
        let client = client(&tracker(&[&storage]));
        let upload = |reader: &mut dyn std::io::Read, size, crc32| {
            client.upload_checked(&appid(), &userid(), reader, size, crc32).unwrap_err()
        };
        // The content is wrong, or ends too early.
        for error in [
            upload(&mut &content[..], 1_000_000, !crc32fast::hash(&content)),
            upload(&mut &content[..], 1_000_001, crc32fast::hash(&content)),
        ] {
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            assert!(error.message().contains(&storage.address.to_string()), "it names the storage: {error}");
        }
        assert!(storage.commands().contains(&command::DELETE));
    }
}
