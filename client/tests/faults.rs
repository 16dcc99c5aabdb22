//! The client when servers and connections fail.

mod peer;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use peer::{
    Peer, Request, Then, appid, client, content, file, stat, tracker, tracker_of, unused_address, userid,
};
use tnv_client::{Client, ErrorKind, FileId, FileKey, Options, Result};
use tnv_common::proto::tnv::storage::{Download, Read as ReadRequest, Stat, Upload};
use tnv_common::proto::tnv::{REPLY_STORAGE, command};
use tnv_common::rpc::header::Header;

fn upload(client: &Client, bytes: &[u8]) -> Result<FileId> {
    client.upload(&appid(), &userid(), &mut &*bytes, bytes.len() as u64)
}

/// The uploads of a storage.
type Stored = Arc<Mutex<Vec<(FileKey, Vec<u8>)>>>;

/// Reads a whole upload and returns its file and content.
fn take_upload(request: &mut Request<'_>) -> (FileKey, Vec<u8>) {
    let bytes = request.header.body_bytes;
    let head = request.read(408);
    let upload = Upload::decode(head.as_slice().try_into().unwrap(), bytes).unwrap();
    let content = request.read(usize::try_from(upload.size).unwrap());
    (upload.file, content)
}

/// A TNV storage that has one content under every ID.
fn holding(content: Vec<u8>, unique: u8) -> Peer {
    Peer::new(move |request| match request.header.command {
        command::STAT => {
            request.body();
            request.reply(REPLY_STORAGE, &stat(&content, unique).encode())
        }
        command::READ => {
            let read = ReadRequest::decode(request.body().as_slice().try_into().unwrap()).unwrap();
            if read.unique.0 != [unique; 16] {
                return request.refuse(ErrorKind::NotFound, "another upload");
            }
            let (offset, count) = read.download.check(content.len() as u64).unwrap();
            let (offset, count) = (usize::try_from(offset).unwrap(), usize::try_from(count).unwrap());
            request.reply(REPLY_STORAGE, &content[offset..offset + count])
        }
        command::FETCH => {
            let download = Download::decode(request.body().as_slice().try_into().unwrap()).unwrap();
            let Ok((offset, count)) = download.clip(content.len() as u64) else {
                return request.refuse(ErrorKind::Invalid, "invalid offset");
            };
            let (offset, count) = (usize::try_from(offset).unwrap(), usize::try_from(count).unwrap());
            let stat = stat(&content, unique).encode();
            request.reply(REPLY_STORAGE, &[&stat, &content[offset..offset + count]].concat())
        }
        other => panic!("command {other}"),
    })
}

/// A TNV storage that stores uploads and finds no file.
fn storing(stored: Stored) -> Peer {
    Peer::new(move |request| match request.header.command {
        command::UPLOAD => {
            let taken = take_upload(request);
            stored.lock().unwrap().push(taken);
            request.reply(REPLY_STORAGE, &[])
        }
        _ => {
            request.body();
            request.refuse(ErrorKind::NotFound, "no such file")
        }
    })
}

/// A storage that reads an upload and closes without a reply.
fn losing_the_reply(kept: Stored) -> Peer {
    Peer::new(move |request| match request.header.command {
        command::UPLOAD => {
            let taken = take_upload(request);
            kept.lock().unwrap().push(taken);
            Then::Close
        }
        _ => Then::Close,
    })
}

/// A tracker whose first route is `first` and whose later ones are `second`. The client shuffles a route, so
/// a test that needs an order has one storage a route.
fn first_then(first: &Peer, second: &Peer) -> Peer {
    let (first, second) = (first.address, second.address);
    Peer::new(move |request| {
        request.body();
        let addresses = if request.nth == 0 { vec![first] } else { vec![second] };
        let group = tnv_client::GroupName::new("group001").unwrap();
        request.reply(100, &tnv_client::Route { group, addresses }.encode())
    })
}

// Uploads.

#[test]
fn a_stored_upload_without_a_reply_is_found_and_not_sent_again() {
    let bytes = content(300_000);
    let kept = Arc::new(Mutex::new(Vec::new()));
    let storage = losing_the_reply(Arc::clone(&kept));
    let other = holding(bytes.clone(), 1);
    let tracker = first_then(&storage, &other);
    let error = upload(&client(&tracker), &bytes[..200_000]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal, "the stored file has another size");

    let kept = Arc::new(Mutex::new(Vec::new()));
    let storage = losing_the_reply(Arc::clone(&kept));
    let bytes = content(200_000);
    let other = holding(bytes.clone(), 1);
    let tracker = first_then(&storage, &other);
    let fileid = upload(&client(&tracker), &bytes).unwrap();
    assert_eq!(kept.lock().unwrap()[0].0.fileid, fileid);
    assert_eq!(other.commands(), [command::STAT]);
}

#[test]
fn a_lost_upload_is_sent_again_under_the_same_id() {
    let (lost, stored) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
    let (storage, other) = (losing_the_reply(Arc::clone(&lost)), storing(Arc::clone(&stored)));
    let tracker = first_then(&storage, &other);
    let bytes = content(200_000);
    let fileid = upload(&client(&tracker), &bytes).unwrap();
    let (lost, stored) = (lost.lock().unwrap(), stored.lock().unwrap());
    assert_eq!((lost.len(), stored.len()), (1, 1));
    assert_eq!(lost[0], stored[0]);
    assert_eq!(stored[0].0.fileid, fileid);
    assert_eq!(stored[0].1, bytes);
}

#[test]
fn exists_after_a_lost_reply_is_a_success() {
    // The first attempt stores the file after the lookup, during the second attempt.
    let bytes = content(1000);
    let stored = bytes.clone();
    let storage = losing_the_reply(Arc::default());
    let asked = AtomicU64::new(0);
    let other = Peer::new(move |request| match request.header.command {
        command::UPLOAD => {
            take_upload(request);
            request.refuse(ErrorKind::Exists, "exists already")
        }
        command::STAT => {
            request.body();
            match asked.fetch_add(1, Ordering::Relaxed) {
                0 => request.refuse(ErrorKind::NotFound, "no such file"),
                _ => request.reply(REPLY_STORAGE, &stat(&stored, 1).encode()),
            }
        }
        other => panic!("command {other}"),
    });
    let tracker = first_then(&storage, &other);
    upload(&client(&tracker), &bytes).unwrap();
    assert_eq!(other.commands(), [command::STAT, command::UPLOAD, command::STAT]);
}

#[test]
fn exists_on_a_first_attempt_is_an_error() {
    let storage = Peer::new(|request| {
        take_upload(request);
        request.refuse(ErrorKind::Exists, "exists already")
    });
    let error = upload(&client(&tracker(&[&storage])), b"x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exists);
    assert_eq!(storage.commands(), [command::UPLOAD]);
}

#[test]
fn on_legacy_storages_an_upload_is_looked_up_by_size() {
    let legacy = Peer::new(|request| match request.header.command {
        command::FILE_SIZE => {
            request.body();
            request.reply(REPLY_STORAGE, &1000_u64.to_be_bytes())
        }
        _ => request.unknown_command(),
    });
    let storage = losing_the_reply(Arc::default());
    let tracker = first_then(&storage, &legacy);
    upload(&client(&tracker), &content(1000)).unwrap();
    assert!(!legacy.commands().contains(&command::UPLOAD));
}

#[test]
fn an_unknown_outcome_names_the_file_id() {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let storage = losing_the_reply(Arc::clone(&kept));
    let client = client(&tracker(&[&storage]));
    // A reader of more than one piece cannot be sent again.
    let error = upload(&client, &content(600_000)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
    let kept = kept.lock().unwrap();
    assert_eq!(kept.len(), 1, "it was not sent twice");
    assert!(error.message().contains(kept[0].0.fileid.as_str()), "{error}");
    assert!(error.message().contains(&storage.address.to_string()), "{error}");
}

#[test]
fn a_refusal_stops_the_transfer() {
    let storage = Peer::new(|request| {
        request.read(408);
        request.refuse(ErrorKind::NoSpace, "no store path has room");
        // Servers read on for a while before they close.
        let mut buffer = [0; 64 << 10];
        while request.stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
        Then::Close
    });
    let client = client(&tracker(&[&storage]));
    let start = Instant::now();
    let terabyte = 1 << 40;
    let error =
        client.upload(&appid(), &userid(), &mut std::io::repeat(7).take(terabyte), terabyte).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_full_storage_fails_over_to_another() {
    let full = Peer::new(|request| {
        take_upload(request);
        request.refuse(ErrorKind::NoSpace, "full")
    });
    let stored = Arc::new(Mutex::new(Vec::new()));
    let roomy = storing(Arc::clone(&stored));
    let tracker = tracker(&[&full, &roomy]);
    for _ in 0..8 {
        upload(&client(&tracker), b"x").unwrap();
    }
    assert_eq!(stored.lock().unwrap().len(), 8);
}

#[test]
fn a_reader_of_another_size_stores_nothing() {
    let stored = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&stored);
    // Accepts a partial upload, and stores only a whole one.
    let storage = Peer::new(move |request| {
        if request.header.command == command::STAT {
            request.body();
            return request.refuse(ErrorKind::NotFound, "no such file");
        }
        request.read(408);
        let mut content = Vec::new();
        let size = request.header.body_bytes - 408;
        request.stream.take(size).read_to_end(&mut content).unwrap();
        if content.len() as u64 == size {
            kept.lock().unwrap().push(size);
            request.reply(REPLY_STORAGE, &[]);
        }
        Then::Close
    });
    let client = client(&tracker(&[&storage]));
    for (bytes, size) in [(10, 11), (11, 10), (1, 0), (600_000, 600_001), (600_001, 600_000)] {
        let error = client.upload(&appid(), &userid(), &mut &*content(bytes), size).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
    std::thread::sleep(Duration::from_millis(100));
    assert!(stored.lock().unwrap().is_empty());
}

// Connections.

#[test]
fn connections_are_reused_and_a_closed_one_costs_no_attempt() {
    // It closes each connection at the third request, which the client cannot know before.
    let count = Mutex::new(std::collections::HashMap::new());
    let storage = Peer::new(move |request| {
        let mut count = count.lock().unwrap();
        let count = count.entry(request.conn).or_insert(0);
        *count += 1;
        if *count == 3 {
            return Then::Close;
        }
        request.body();
        request.reply(REPLY_STORAGE, &27_u64.to_be_bytes())
    });
    let tracker = tracker(&[&storage]);
    let options = Options { attempts: 1, ..Options::default() };
    let client = Client::new(&[tracker.address.to_string()], options).unwrap();
    for _ in 0..8 {
        assert_eq!(client.file_size(&file("f")), Ok(27));
    }
    assert_eq!(storage.conns(), 4);
    assert_eq!(tracker.conns(), 1);
}

#[test]
fn a_connection_with_unexpected_bytes_is_not_reused() {
    let storage = Peer::new(|request| {
        request.body();
        request.reply(REPLY_STORAGE, &27_u64.to_be_bytes());
        request.raw(b"junk");
        Then::Keep
    });
    let client = client(&tracker(&[&storage]));
    for _ in 0..3 {
        assert_eq!(client.file_size(&file("f")), Ok(27));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(storage.conns(), 3);
}

#[test]
fn a_storage_that_failed_is_tried_last_for_a_while() {
    let dead = Peer::new(|_| Then::Close);
    let alive = holding(content(10), 1);
    let tracker = tracker(&[&dead, &alive]);
    let client = client(&tracker);
    for _ in 0..20 {
        assert_eq!(client.stat(&file("f")).unwrap().size, 10);
    }
    // One attempt takes two connections, since a storage that closes at STAT may be a legacy one.
    assert!(dead.conns() <= 2, "{}", dead.conns());
}

#[test]
fn an_unreachable_tracker_fails_over_to_another() {
    let storage = holding(content(10), 1);
    let tracker = tracker(&[&storage]);
    let names = [unused_address().to_string(), tracker.address.to_string(), unused_address().to_string()];
    for _ in 0..8 {
        let client = Client::new(&names, Options::default()).unwrap();
        assert_eq!(client.stat(&file("f")).unwrap().size, 10);
    }
}

#[test]
fn the_error_names_each_server() {
    let (one, two) = (unused_address(), unused_address());
    let tracker = tracker_of(vec![one, two]);
    let error = client(&tracker).file_size(&file("f1")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    for name in ["f1".to_owned(), one.to_string(), two.to_string()] {
        assert!(error.message().contains(&name), "{error}");
    }
    assert_eq!(tracker.commands().len(), 2, "the tracker is asked again once");
}

#[test]
fn a_route_is_cached_until_its_storages_fail() {
    let storage = holding(content(10), 1);
    let gone = unused_address();
    let address = storage.address;
    let tracker = Peer::new(move |request| {
        request.body();
        let addresses = if request.nth == 0 { vec![gone] } else { vec![address] };
        let group = tnv_client::GroupName::new("group001").unwrap();
        request.reply(100, &tnv_client::Route { group, addresses }.encode())
    });
    let options = Options { route_cache: Duration::from_secs(60), ..Options::default() };
    let client = Client::new(&[tracker.address.to_string()], options).unwrap();
    for _ in 0..5 {
        assert_eq!(client.stat(&file("f")).unwrap().size, 10);
    }
    assert_eq!(tracker.commands().len(), 2);
}

#[test]
fn a_malformed_tracker_is_refused_and_an_unknown_host_is_not() {
    for names in [vec![], vec!["a:b:c".to_owned()], vec!["host:port".to_owned()], vec![":1".to_owned()]] {
        assert_eq!(Client::new(&names, Options::default()).err().unwrap().kind(), ErrorKind::Invalid);
    }
    let client = Client::new(&["no-such-host.invalid".to_owned()], Options::default()).unwrap();
    let error = client.groups().unwrap_err();
    assert!(error.message().contains("no-such-host.invalid"), "{error}");
}

// Deletes.

#[test]
fn a_delete_without_a_reply_succeeds_if_the_file_is_gone() {
    let storage = Peer::new(|request| {
        request.body();
        match request.nth {
            0 => Then::Close,
            _ => request.refuse(ErrorKind::NotFound, "no such file"),
        }
    });
    client(&tracker(&[&storage])).delete(&file("f")).unwrap();

    let storage = Peer::new(|request| {
        request.body();
        request.refuse(ErrorKind::NotFound, "no such file")
    });
    for _ in 0..4 {
        // A failed connect is no lost reply.
        let tracker = tracker_of(vec![unused_address(), storage.address]);
        let error = client(&tracker).delete(&file("f")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}

// Downloads.

/// A storage that sends only the first bytes of each content.
fn cutting(content: Vec<u8>, unique: u8, after: usize) -> Peer {
    Peer::new(move |request| match request.header.command {
        command::STAT => {
            request.body();
            request.reply(REPLY_STORAGE, &stat(&content, unique).encode())
        }
        _ => {
            let read = ReadRequest::decode(request.body().as_slice().try_into().unwrap()).unwrap();
            let (offset, count) = read.download.check(content.len() as u64).unwrap();
            request.raw(&Header::new(REPLY_STORAGE, count).encode());
            let offset = usize::try_from(offset).unwrap();
            request.raw(&content[offset..(offset + after).min(content.len())]);
            Then::Close
        }
    })
}

#[test]
fn a_download_continues_at_another_storage() {
    let bytes = content(3_000_000);
    let broken = cutting(bytes.clone(), 1, 1_000_000);
    let whole = holding(bytes.clone(), 1);
    let tracker = tracker(&[&broken, &whole]);
    let (mut met, mut out) = (0, Vec::new());
    for _ in 0..12 {
        let client = client(&tracker);
        out.clear();
        assert_eq!(client.download(&file("f"), 0, 0, &mut out), Ok(3_000_000));
        assert!(out == bytes);
        out.clear();
        assert_eq!(client.download(&file("f"), 500_000, 2_000_000, &mut out), Ok(2_000_000));
        assert!(out == bytes[500_000..2_500_000]);
        met = broken.commands().len();
    }
    assert!(met > 0);
}

#[test]
fn a_download_continues_at_the_same_storage_while_it_progresses() {
    // Ten connections for one download: more than the attempts without progress.
    let bytes = content(5_000_000);
    let broken = cutting(bytes.clone(), 1, 500_000);
    let mut out = Vec::new();
    client(&tracker(&[&broken])).download(&file("f"), 0, 0, &mut out).unwrap();
    assert!(out == bytes);
}

#[test]
fn a_download_of_a_few_bytes_an_attempt_ends() {
    let broken = cutting(content(5_000_000), 1, 10);
    let error = client(&tracker(&[&broken])).download(&file("f"), 0, 0, &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(broken.commands().len() < 10);
}

#[test]
fn bytes_of_two_uploads_are_never_mixed() {
    let broken = cutting(content(3_000_000), 1, 1_000_000);
    let mut other = content(3_000_000);
    other.reverse();
    let other = holding(other, 2);
    let tracker = first_then(&broken, &other);
    let mut out = Vec::new();
    let error = client(&tracker).download(&file("f"), 0, 0, &mut out).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(out == content(1_000_000));
}

#[test]
fn a_lost_legacy_storage_ends_a_download() {
    let storage = Peer::new(|request| match request.header.command {
        command::DOWNLOAD => {
            request.body();
            request.raw(&Header::new(REPLY_STORAGE, 1000).encode());
            request.raw(&[7; 400]);
            Then::Close
        }
        _ => request.unknown_command(),
    });
    let mut out = Vec::new();
    let error = client(&tracker(&[&storage])).download(&file("f"), 0, 0, &mut out).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(out.len(), 400);
}

#[test]
fn damaged_content_is_an_error() {
    let bytes = content(1000);
    let storage = Peer::new(move |request| {
        request.body();
        match request.header.command {
            command::FETCH => {
                request.reply(REPLY_STORAGE, &[&stat(&bytes, 1).encode()[..], &[0; 1000]].concat())
            }
            other => panic!("command {other}"),
        }
    });
    let error = client(&tracker(&[&storage])).download(&file("f"), 0, 0, &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
}

#[test]
fn a_failed_writer_is_no_failure_of_the_storage() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let storage = holding(content(1000), 1);
    let error = client(&tracker(&[&storage])).download(&file("f"), 0, 0, &mut Full).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(!error.message().contains(&storage.address.to_string()), "{error}");
    assert_eq!(storage.commands(), [command::FETCH]);
}

#[test]
fn an_empty_file_is_downloaded_with_one_request() {
    let storage = holding(Vec::new(), 1);
    assert_eq!(client(&tracker(&[&storage])).download(&file("f"), 0, 0, &mut Vec::new()), Ok(0));
    assert_eq!(storage.commands(), [command::FETCH]);
}

#[test]
fn open_reads_what_fits_with_one_request() {
    let bytes = content(1000);
    let storage = holding(bytes.clone(), 1);
    let client = client(&tracker(&[&storage]));
    for (offset, room) in [(0, 2000), (0, 1000), (0, 10), (990, 100), (1000, 5)] {
        let mut buffer = vec![0; room];
        let (info, count) = client.open(&file("f"), offset, &mut buffer).unwrap();
        let left = &bytes[usize::try_from(offset).unwrap()..];
        assert_eq!((info.size, count), (1000, room.min(left.len())));
        assert_eq!(info.stat, Some(stat(&bytes, 1)));
        assert_eq!(buffer[..count], left[..count]);
    }
    assert_eq!(storage.commands(), [command::FETCH; 5]);
    let error = client.open(&file("f"), 1001, &mut [0; 5]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(client.open(&file("f"), 0, &mut []).unwrap().1, 0);
    let error = client.download(&file("f"), 0, 1001, &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "a download beyond the end is invalid");
}

// Slices.

#[test]
fn a_slice_comes_from_any_storage_with_the_same_upload() {
    let bytes = content(100_000);
    let one = holding(bytes.clone(), 1);
    let dying = cutting(bytes.clone(), 1, 100);
    let stale = holding(content(5), 9);
    let tracker = tracker(&[&one, &dying, &stale]);
    let options = Options { route_cache: Duration::from_secs(5), ..Options::default() };
    let client = Client::new(&[tracker.address.to_string()], options).unwrap();
    let mut info = client.stat(&file("f")).unwrap();
    while info.stat.map(|stat| stat.unique.0[0]) != Some(1) {
        info = client.stat(&file("f")).unwrap();
    }
    for i in 0..20 {
        let mut slice = vec![0; 4000];
        client.read_slice(&file("f"), &info, i * 4000, &mut slice).unwrap();
        let start = usize::try_from(i * 4000).unwrap();
        assert!(slice == bytes[start..start + 4000]);
    }
}

#[test]
fn a_slice_of_a_replaced_upload_is_not_found() {
    let storages = [holding(content(10), 2), holding(content(10), 2)];
    let tracker = tracker(&[&storages[0], &storages[1]]);
    let client = client(&tracker);
    let mut info = client.stat(&file("f")).unwrap();
    info.stat = info.stat.map(|stat| Stat { unique: tnv_client::VersionId([1; 16]), ..stat });
    let error = client.read_slice(&file("f"), &info, 0, &mut [0; 5]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    for storage in &storages {
        assert_eq!(storage.commands().iter().filter(|&&command| command == command::READ).count(), 1);
    }
}

#[test]
fn slices_are_read_without_a_tracker() {
    let bytes = content(1000);
    let storage = holding(bytes.clone(), 1);
    let address = storage.address;
    let tracker = Peer::new(move |request| {
        request.body();
        if request.nth > 0 {
            return Then::Close;
        }
        let group = tnv_client::GroupName::new("group001").unwrap();
        request.reply(100, &tnv_client::Route { group, addresses: vec![address] }.encode())
    });
    let options = Options { route_cache: Duration::from_millis(1), ..Options::default() };
    let client = Client::new(&[tracker.address.to_string()], options).unwrap();
    let info = client.stat(&file("f")).unwrap();
    std::thread::sleep(Duration::from_millis(5));
    let mut slice = [0; 100];
    client.read_slice(&file("f"), &info, 0, &mut slice).unwrap();
    assert_eq!(slice, bytes[..100]);
}
