//! Our client with existing servers, as their captured bytes have it.

mod peer;

use std::time::Duration;

use peer::{Peer, Then, appid, captured, client, file, tracker, userid};
use tnv_client::{AppKeys, Client, ErrorKind, GroupName, Options, Route, Secret};
use tnv_common::proto::tnv::file_key::Triple;
use tnv_common::proto::tnv::storage::{Download, Upload};
use tnv_common::proto::tnv::{REPLY_STORAGE, REPLY_TRACKER, command};

/// A server that answers every request with a captured reply, and closes after a failure as existing
/// servers do.
fn replaying(name: &'static str) -> Peer {
    Peer::new(move |request| {
        request.body();
        let reply = captured(&format!("{name}.response.hex"));
        request.raw(&reply);
        if reply[9] == 0 { Then::Keep } else { Then::Close }
    })
}

/// An existing storage: it knows what captures know of, refuses the rest and closes. It is sent
/// only what a request of ours may be, which it holds against the layout.
fn existing_storage() -> Peer {
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
                Triple::decode(request.body().as_slice().try_into().unwrap()).unwrap();
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
fn every_command_works_on_an_existing_storage() {
    let storage = existing_storage();
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
fn an_existing_storage_is_asked_for_its_size_where_it_lacks_validators_and_this_is_remembered() {
    let storage = existing_storage();
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
fn a_storage_that_closes_without_a_word_on_stat_still_tells_the_size() {
    // Closing with the request unread may reset the connection before the refusal is read.
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
fn the_table_of_groups_is_told_as_the_tracker_prints_it() {
    let groups = client(&replaying("GROUPS")).groups().unwrap();
    assert!(
        groups.starts_with("         COUNT OF GROUPS: 1\n               GROUPNAME: group001\n"),
        "{groups}"
    );
    assert!(groups.ends_with("STATUS: ACTIVE"), "{groups}");
}

#[test]
fn a_captured_route_is_understood() {
    let route = client(&replaying("SADDRS")).route(&appid(), &userid()).unwrap();
    assert_eq!(route.group.as_str(), "group001");
    assert_eq!(route.addresses, ["127.0.0.1:23000".parse().unwrap()]);
}

#[test]
fn an_unknown_appid_is_told_at_once_and_no_other_tracker_asked() {
    let trackers = [replaying("ERROR_SADDRS_UNKNOWN_APPID"), replaying("ERROR_SADDRS_UNKNOWN_APPID")];
    let names = trackers.each_ref().map(|tracker| tracker.address.to_string());
    let client = Client::new(&names, Options::default()).unwrap();
    let error = client.file_size(&file("f")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.message().contains("unknown appid: badapp"), "{error}");
    assert_eq!(trackers.iter().map(|tracker| tracker.commands().len()).sum::<usize>(), 1);
}

#[test]
fn a_tracker_without_an_active_storage_is_passed_over_for_one_that_has() {
    let storage = existing_storage();
    let knowing = tracker(&[&storage]);
    let ignorant = replaying("ERROR_SADDRS_NO_ACTIVE_STORAGE");
    let names = [ignorant.address.to_string(), knowing.address.to_string()];
    for _ in 0..8 {
        let client = Client::new(&names, Options::default()).unwrap();
        assert_eq!(client.file_size(&file("f")), Ok(27));
    }
    let error = client(&ignorant).file_size(&file("f")).unwrap_err();
    assert!(error.message().contains("[vm] get storage address fail"), "{error}");
}

#[test]
fn an_unknown_file_of_existing_storages_is_an_unknown_file() {
    let storages = [replaying("ERROR"), replaying("ERROR")];
    let tracker = tracker(&[&storages[0], &storages[1]]);
    let error = client(&tracker).delete(&file("f")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    for storage in &storages {
        let said = format!("{}: [vm] read database fail, fileid: 6b023671", storage.address);
        assert!(error.message().contains(&said), "{error}");
        assert_eq!(storage.commands(), [command::DELETE], "once each: it will not pass");
    }
}

#[test]
fn a_bad_offset_is_told_at_once() {
    let storages = [existing_storage(), existing_storage()];
    let tracker = tracker(&[&storages[0], &storages[1]]);
    let error = client(&tracker).download(&file("f"), 5, 1, &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains("invalid offset, 5 is not between 0 and 4"), "{error}");
}

#[test]
fn two_failure_frames_for_one_upload_do_not_confuse_the_next_request() {
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
        assert!(error.message().contains("insert database fail"), "{error}");
        assert!(!error.message().contains("save file fail"), "{error}");
    }
}

#[test]
fn a_failure_without_text_is_accepted_and_one_with_too_much_is_not() {
    let wordless = Peer::new(|request| {
        request.body();
        request.raw(&[0, 0, 0, 0, 0, 0, 0, 2, 102, 0xFD, 0xFF, 0xFF]);
        Then::Close
    });
    let error = client(&tracker(&[&wordless])).file_size(&file("f")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert!(error.message().contains("gave no reason"), "{error}");

    let endless = Peer::new(|request| {
        request.body();
        request.raw(&[0, 0, 0, 0, 0, 0, 4, 3, 102, 0xFD]);
        request.raw(&[b'x'; 1027]);
        Then::Close
    });
    let error = client(&tracker(&[&endless])).file_size(&file("f")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
}

/// An existing tracker: it knows command 12, refuses the rest and closes.
fn existing_tracker(storage: &Peer) -> Peer {
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
fn an_existing_tracker_is_asked_the_way_it_knows_and_this_is_remembered() {
    let storage = existing_storage();
    let tracker = existing_tracker(&storage);
    let client = client(&tracker);
    for _ in 0..3 {
        assert_eq!(client.file_size(&file("f")), Ok(27));
    }
    let [find, ask] = [command::FIND_ADDRESSES, command::ADDRESSES];
    assert_eq!(tracker.commands(), [find, ask, ask, ask]);
    // The refused connection was closed, and the one after it is kept.
    assert_eq!(tracker.conns(), 2);
}

#[test]
fn a_tracker_that_closes_without_a_word_is_asked_the_way_it_knows() {
    let storage = existing_storage();
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

/// The story: the HTTP server asked for the storages of whatever user a URL named, the tracker
/// recorded a route for each, and a stranger could fill its table.
#[test]
fn only_an_upload_asks_in_the_way_that_records_a_user() {
    let storage = existing_storage();
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
fn that_a_user_is_unknown_is_not_remembered_and_is_no_failure_of_the_tracker() {
    let storage = existing_storage();
    let address = storage.address;
    // The user's first upload comes by another client, after the first question.
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
    assert!(error.message().contains("unknown user: tnv001"), "{error}");
    assert_eq!(client.file_size(&file("f")), Ok(27));
    assert_eq!(tracker.commands(), [command::FIND_ADDRESSES; 2]);
}

/// A client that knows a key, as its deployment is moved to ours server by server.
#[test]
fn a_key_that_an_existing_storage_knows_nothing_of_is_in_nobodys_way() {
    let storage = existing_storage();
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
    assert!((1..=2).contains(&asked), "it is remembered: {:?}", storage.commands());
}

#[test]
fn where_an_existing_storage_cannot_check_an_upload_it_is_compared_afterwards_and_this_is_remembered() {
    use command::{DOWNLOAD, STAT, UPLOAD, UPLOAD_CHECKED};
    let storage = existing_storage();
    let tracker = tracker(&[&storage]);
    let client = client(&tracker);
    let crc32 = crc32fast::hash(CONTENT);
    for _ in 0..2 {
        client.upload_checked(&appid(), &userid(), &mut &*CONTENT, 27, crc32).unwrap();
    }
    assert_eq!(storage.commands(), [UPLOAD_CHECKED, UPLOAD, STAT, DOWNLOAD, UPLOAD, DOWNLOAD]);
    // What is wrong here already never gets there.
    let error = client.upload_checked(&appid(), &userid(), &mut &*CONTENT, 27, !crc32).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains("the content has the CRC-32"), "{error}");
}

#[test]
fn what_an_existing_storage_stored_otherwise_than_it_was_sent_is_removed_again() {
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
    assert!(error.message().contains("and was removed again"), "{error}");
    assert_eq!(storage.commands(), [UPLOAD_CHECKED, UPLOAD, STAT, DOWNLOAD, DELETE]);
}

/// An existing storage that keeps what it has of an upload that is broken off, and makes a row of it or not.
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

/// The story: the checksum was known to be wrong when most of the content was there already, the client said
/// "nothing was stored", and the existing storage had kept it.
#[test]
fn content_with_another_checksum_never_gets_to_an_existing_storage_where_it_can_be_read_twice() {
    let storage = keeping_parts(true);
    let client = client(&tracker(&[&storage]));
    let scratch = peer::Scratch::new("wrong-sum");
    let path = scratch.0.join("film");
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
fn what_an_existing_storage_keeps_of_a_broken_upload_is_deleted_or_reported() {
    let content = peer::content(1_000_000);
    for (makes_row, says) in [(true, "which was removed again"), (false, "may keep a part of it")] {
        let storage = keeping_parts(makes_row);
        let client = client(&tracker(&[&storage]));
        let upload = |reader: &mut dyn std::io::Read, size, crc32| {
            client.upload_checked(&appid(), &userid(), reader, size, crc32).unwrap_err()
        };
        // It is wrong, or ends too early.
        for error in [
            upload(&mut &content[..], 1_000_000, !crc32fast::hash(&content)),
            upload(&mut &content[..], 1_000_001, crc32fast::hash(&content)),
        ] {
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            assert!(error.message().contains(says) && !error.message().contains("nothing was"), "{error}");
            assert!(error.message().contains(&storage.address.to_string()), "{error}");
        }
        assert!(storage.commands().contains(&command::DELETE));
    }
}
