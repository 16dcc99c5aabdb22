//! The whole server without storages: raw bytes over real sockets, through the front end and the service, to
//! files in memory that fail at chosen offsets.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tnv_common::error::Result;
use tnv_common::fail;
use tnv_common::limits::{MESSAGE_TIMEOUT, PROGRESS_TIMEOUT};
use tnv_common::net::allow::AllowList;
use tnv_common::net::event_loop::{self, ServerSettings};
use tnv_common::net::listen;
use tnv_common::net::stop::Stop;
use tnv_common::proto::tnv::file_key::FileKey;
use tnv_common::proto::tnv::storage::{Stat, VersionId};
use tnv_common::proto::{AppId, UserId};

use crate::download::files::Files;
use crate::front_end::FrontEnd;
use crate::globals::Owner;
use crate::service::FileService;

const DATE: &str = "Sun, 01 Nov 2020 06:35:51 GMT";
const TAG: &str = "\"01010101010101010101010101010101\"";

/// More than the buffers on the way hold.
const REEL_BYTES: u64 = 12 << 20;

/// The byte of an endless file at this offset. No two of its pieces are equal.
fn endless(at: u64) -> u8 {
    (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

fn is_endless(bytes: &[u8], first: u64) -> bool {
    (first..).zip(bytes).all(|(at, &byte)| byte == endless(at))
}

/// A file in memory, or an endless one.
#[derive(Clone)]
struct Sample {
    content: Arc<Vec<u8>>,
    size: u64,
    unique: Option<u8>,
}

#[derive(Default)]
struct Samples {
    files: Mutex<HashMap<String, Sample>>,
    /// Reads at or beyond this offset fail.
    fails_from: AtomicU64,
    reads: AtomicUsize,
    reading: AtomicUsize,
}

impl Samples {
    fn put(&self, id: &str, content: &[u8], unique: Option<u8>) {
        let sample = Sample { content: Arc::new(content.to_vec()), size: content.len() as u64, unique };
        self.files.lock().unwrap().insert(id.to_owned(), sample);
    }
}

impl Files for Arc<Samples> {
    type Info = Sample;

    fn look_up(&self, file: &FileKey) -> Result<Sample> {
        match file.fileid.as_str() {
            "away" => return fail!(Unavailable, "connect to 10.0.0.1:23000: refused"),
            "broken" => return fail!(Protocol, "10.0.0.1:23000 sent nonsense"),
            "panic" => panic!("as requested"),
            "slow" => thread::sleep(Duration::from_millis(500)),
            _ => {}
        }
        let found = self.files.lock().unwrap().get(file.fileid.as_str()).cloned();
        match found {
            Some(sample) if file.userid.as_str() == "tnv001" => Ok(sample),
            _ => fail!(NotFound, "no such file"),
        }
    }

    fn open(&self, file: &FileKey, buffer: &mut [u8]) -> Result<(Sample, usize)> {
        let info = self.look_up(file)?;
        let bytes = usize::try_from(info.size).unwrap_or(usize::MAX).min(buffer.len());
        self.read(file, &info, 0, &mut buffer[..bytes])?;
        Ok((info, bytes))
    }

    fn size(info: &Sample) -> u64 {
        info.size
    }

    fn stat(info: &Sample) -> Option<Stat> {
        let unique = VersionId([info.unique?; 16]);
        Some(Stat { size: info.size, time: 0x5F9E_5747, crc32: None, unique })
    }

    fn read(&self, file: &FileKey, info: &Sample, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if offset >= self.fails_from.load(Ordering::Relaxed) {
            return fail!(Unavailable, "no storage has it any more");
        }
        let now = self.files.lock().unwrap().get(file.fileid.as_str()).map(|found| found.unique);
        if info.unique.is_some() && now != Some(info.unique) {
            return fail!(NotFound, "the file was uploaded anew");
        }
        self.reading.fetch_add(1, Ordering::Relaxed);
        for (index, byte) in buffer.iter_mut().enumerate() {
            *byte = match info.content.is_empty() {
                true => endless(offset + index as u64),
                false => info.content[offset as usize + index],
            };
        }
        self.reading.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }
}

struct Running {
    address: SocketAddr,
    samples: Arc<Samples>,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start() -> Running {
        Running::with(64, 2000)
    }

    fn with(threads: usize, max_conns: usize) -> Running {
        let samples = Arc::new(Samples::default());
        samples.fails_from.store(u64::MAX, Ordering::Relaxed);
        samples.put("text", b"0123456789abcdefghij", Some(1));
        samples.put("old", b"0123456789abcdefghij", None);
        samples.put("empty", b"", Some(2));
        samples.put("page", b"<html><script>alert(1)</script></html>", Some(3));
        samples.put("clip", b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41....", Some(4));
        let big: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 7) as u8).collect();
        samples.put("big", &big, Some(5));
        let film = Sample { content: Arc::default(), size: 1 << 40, unique: Some(6) };
        samples.files.lock().unwrap().insert("film".to_owned(), film);
        for (id, unique) in [("reel", Some(8)), ("old-reel", None)] {
            let reel = Sample { content: Arc::default(), size: REEL_BYTES, unique };
            samples.files.lock().unwrap().insert(id.to_owned(), reel);
        }

        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Stop::new().unwrap();
        let owner = Owner { appid: AppId::new("tnvideo").unwrap(), userid: UserId::new("tnv001").unwrap() };
        let service = FileService::new(Arc::clone(&samples), owner);
        let front_end = Arc::new(FrontEnd::new(service, stop.clone()));
        let settings = ServerSettings {
            name: "test",
            threads,
            max_conns,
            allow_hosts: AllowList::everybody(),
            stop_timeout: Duration::from_secs(5),
        };
        let stop_signal = stop.clone();
        let thread = thread::spawn(move || {
            event_loop::run(listener, &settings, front_end, &stop_signal).unwrap();
        });
        Running { address, samples, stop, thread: Some(thread) }
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Client { stream, unread: Vec::new() }
    }

    /// A viewer that sends a request and reads nothing.
    fn pause(&self, path: &str, headers: &str) -> Client {
        let mut client = self.connect();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: t\r\n{headers}\r\n"));
        client
    }

    /// Waits until the buffers of paused viewers are full.
    fn until_paused(&self) {
        let mut reads = usize::MAX;
        let deadline = Instant::now() + Duration::from_secs(30);
        while std::mem::replace(&mut reads, self.samples.reads.load(Ordering::Relaxed)) != reads {
            assert!(Instant::now() < deadline, "the viewers do not pause");
            thread::sleep(Duration::from_millis(500));
        }
    }

    fn get(&self, path: &str, headers: &str) -> Response {
        self.connect().ask("GET", path, headers)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.set();
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))), "the server ended badly");
    }
}

struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

#[derive(Debug)]
struct Response {
    status: u16,
    head: String,
    body: Vec<u8>,
    /// Whether the body has the length in the head.
    whole: bool,
}

impl Response {
    fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.head.lines().skip(1).filter_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        });
        let value = values.next();
        assert!(values.next().is_none(), "{name} twice in {}", self.head);
        value
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Client {
    fn send(&mut self, text: impl AsRef<[u8]>) {
        self.stream.write_all(text.as_ref()).unwrap();
    }

    fn ask(&mut self, method: &str, path: &str, headers: &str) -> Response {
        self.send(format!("{method} {path} HTTP/1.1\r\nHost: test\r\n{headers}\r\n"));
        self.response(method == "HEAD")
    }

    fn more(&mut self) -> bool {
        let mut buffer = [0; 65536];
        let count = self.stream.read(&mut buffer).unwrap_or(0);
        self.unread.extend_from_slice(&buffer[..count]);
        count > 0
    }

    fn response(&mut self, is_head: bool) -> Response {
        let end = loop {
            if let Some(end) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            assert!(self.more(), "no response, only {:?}", String::from_utf8_lossy(&self.unread));
        };
        let head = String::from_utf8(self.unread.drain(..end + 4).collect()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut response = Response { status, head, body: Vec::new(), whole: true };
        let length = match response.header("Content-Length") {
            _ if is_head || matches!(status, 204 | 304) => 0,
            length => length.unwrap().parse().unwrap(),
        };
        while self.unread.len() < length && self.more() {}
        response.whole = self.unread.len() >= length;
        response.body = self.unread.drain(..length.min(self.unread.len())).collect();
        response
    }

    fn is_closed(&mut self) -> bool {
        self.unread.is_empty() && !self.more()
    }
}

#[test]
fn a_file_comes_with_everything_a_player_needs() {
    let server = Running::start();
    let response = server.get("/files/clip", "");
    assert_eq!(response.status, 200);
    assert_eq!(response.header("Content-Type"), Some("video/mp4"));
    assert_eq!(response.header("Content-Length"), Some("36"));
    assert_eq!(response.header("Accept-Ranges"), Some("bytes"));
    assert_eq!(response.header("ETag"), Some("\"04040404040404040404040404040404\""));
    assert_eq!(response.header("Last-Modified"), Some(DATE));
    assert_eq!(response.header("X-Content-Type-Options"), Some("nosniff"));
    assert_eq!(response.header("Content-Disposition"), Some("inline; filename=\"clip.mp4\""));
    assert!(response.header("Date").is_some() && response.header("Transfer-Encoding").is_none());
    assert_eq!(&response.body[4..8], b"ftyp");
}

#[test]
fn a_head_has_the_headers_of_the_get_and_no_body() {
    let server = Running::start();
    let mut client = server.connect();
    let strip = |head: &str| -> Vec<String> {
        head.lines().filter(|line| !line.starts_with("Date:")).map(str::to_owned).collect()
    };
    for path in ["/files/clip", "/files/big", "/files/empty", "/files/page", "/files/none", "/other"] {
        let get = client.ask("GET", path, "");
        let head = client.ask("HEAD", path, "");
        assert_eq!(strip(&head.head), strip(&get.head), "{path}");
    }
    let ranged = client.ask("HEAD", "/files/text", "Range: bytes=0-4\r\n");
    assert_eq!((ranged.status, ranged.header("Content-Length")), (200, Some("20")));
}

#[test]
fn the_path_may_name_another_owner_than_the_configured_one() {
    let server = Running::start();
    assert_eq!(server.get("/files/tnvideo/tnv001/text", "").text(), "0123456789abcdefghij");
    assert_eq!(server.get("/files/tnvideo/tnv002/text", "").status, 404);
    assert_eq!(server.get("http://any.host/files/tnvideo/tnv001/text/a.txt", "").status, 200);
}

#[test]
fn each_failure_has_its_status() {
    let server = Running::start();
    let mut client = server.connect();
    for (path, status) in [
        ("/", 404),
        ("/files/none", 404),
        ("/files/%00", 400),
        ("/files/bad!app/u/f", 400),
        ("/files/away", 503),
        ("/files/broken", 502),
    ] {
        let response = client.ask("GET", path, "");
        assert_eq!(response.status, status, "{path}");
        assert_eq!(response.header("Retry-After").is_some(), status == 503, "{path}");
        assert!(!response.text().contains("10.0.0.1"), "an address leaks: {}", response.text());
    }
    assert_eq!(client.ask("GET", "/files/text", "").status, 200, "the connection stays open");
}

#[test]
fn single_ranges_are_cut_to_the_byte() {
    let server = Running::start();
    let mut client = server.connect();
    for (range, content_range, body) in [
        ("bytes=0-4", "bytes 0-4/20", "01234"),
        ("bytes=10-", "bytes 10-19/20", "abcdefghij"),
        ("bytes=-3", "bytes 17-19/20", "hij"),
        ("bytes=5-5", "bytes 5-5/20", "5"),
    ] {
        for path in ["/files/text", "/files/old"] {
            let response = client.ask("GET", path, &format!("Range: {range}\r\n"));
            assert_eq!((response.status, response.text()), (206, body));
            assert_eq!(response.header("Content-Range"), Some(content_range));
        }
    }
    let response = client.ask("GET", "/files/text", "Range: bytes=20-\r\n");
    assert_eq!((response.status, response.header("Content-Range")), (416, Some("bytes */20")));
    for range in ["bytes=4-0", "lines=0-1", "bytes=a", "bytes=0-1\r\nRange: bytes=2-3x"] {
        assert_eq!(client.ask("GET", "/files/text", &format!("Range: {range}\r\n")).status, 200, "{range}");
    }
}

#[test]
fn several_ranges_come_as_multipart() {
    let server = Running::start();
    let response = server.get("/files/text/a.txt", "Range: bytes=0-1,5-6,-1\r\n");
    assert_eq!(response.status, 206);
    assert_eq!(response.header("Content-Range"), None);
    let boundary =
        response.header("Content-Type").unwrap().strip_prefix("multipart/byteranges; boundary=").unwrap();
    let part = |range: &str, content: &str| {
        let content_type = "Content-Type: text/plain; charset=utf-8";
        format!("--{boundary}\r\n{content_type}\r\nContent-Range: bytes {range}/20\r\n\r\n{content}\r\n")
    };
    let want =
        [part("0-1", "01"), part("5-6", "56"), part("19-19", "j"), format!("--{boundary}--\r\n")].concat();
    assert_eq!(response.text(), want);
    let big = server.get("/files/big", "Range: bytes=0-999999,1500000-2999999\r\n");
    assert!(big.whole && big.body.len() > 2_500_000);
}

#[test]
fn conditions_apply_to_this_very_upload() {
    let server = Running::start();
    let mut client = server.connect();
    for (headers, status) in [
        (format!("If-None-Match: {TAG}\r\n"), 304),
        (format!("If-None-Match: \"x\"\r\nIf-None-Match: {TAG}\r\n"), 304),
        (format!("If-Modified-Since: {DATE}\r\n"), 304),
        ("If-None-Match: \"x\"\r\n".to_owned(), 200),
        ("If-Match: \"x\"\r\n".to_owned(), 412),
        (format!("If-Match: {TAG}\r\n"), 200),
        ("If-Unmodified-Since: Sun, 01 Nov 2015 06:35:51 GMT\r\n".to_owned(), 412),
        (format!("Range: bytes=0-1\r\nIf-Range: {TAG}\r\n"), 206),
        (format!("Range: bytes=0-1\r\nIf-Range: {DATE}\r\n"), 206),
        ("Range: bytes=0-1\r\nIf-Range: \"x\"\r\n".to_owned(), 200),
        (format!("Range: bytes=0-1\r\nIf-None-Match: {TAG}\r\n"), 304),
        (format!("Range: bytes=50-\r\nIf-Range: {TAG}\r\n"), 416),
        ("Range: bytes=50-\r\nIf-Range: \"x\"\r\n".to_owned(), 200),
    ] {
        let response = client.ask("GET", "/files/text", &headers);
        assert_eq!(response.status, status, "{headers}");
        if status == 304 {
            assert_eq!(response.header("ETag"), Some(TAG));
            assert_eq!(response.header("Last-Modified"), Some(DATE));
            assert_eq!(response.header("Content-Length"), None);
        }
    }
    let old = client.ask("GET", "/files/old", &format!("Range: bytes=0-1\r\nIf-Range: {DATE}\r\n"));
    assert_eq!((old.status, old.header("ETag"), old.header("Last-Modified")), (200, None, None));
    server.samples.put("text", b"another upload", Some(9));
    assert_eq!(client.ask("GET", "/files/text", &format!("If-None-Match: {TAG}\r\n")).status, 200);
}

#[test]
fn what_a_browser_could_run_is_an_attachment() {
    let server = Running::start();
    for path in
        ["/files/page", "/files/page/x.html", "/files/clip/x.svg", "/files/clip/x.js", "/files/page/x.xml"]
    {
        let response = server.get(path, "");
        assert!(response.header("Content-Disposition").unwrap().starts_with("attachment"), "{path}");
        assert_eq!(response.header("X-Content-Type-Options"), Some("nosniff"));
        let policy = response.header("Content-Security-Policy");
        assert_eq!(policy, Some("sandbox; default-src 'none'"), "{path}");
    }
    let film = server.get("/files/page/x.mp4", "");
    assert_eq!(film.header("Content-Type"), Some("video/mp4"), "the name decides, even where it is wrong");
    let download = server.get("/files/clip/h%C3%A4.mp4?download", "");
    assert_eq!(
        download.header("Content-Disposition"),
        Some("attachment; filename=\"h_.mp4\"; filename*=UTF-8''h%C3%A4.mp4")
    );
}

#[test]
fn first_bytes_are_read_once_an_upload() {
    let server = Running::start();
    server.get("/files/clip", "");
    let before = server.samples.reads.load(Ordering::Relaxed);
    server.get("/files/clip", "");
    assert_eq!(server.samples.reads.load(Ordering::Relaxed), before + 1);
    server.samples.put("clip", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", Some(40));
    assert_eq!(server.get("/files/clip", "").header("Content-Type"), Some("image/png"));
}

#[test]
fn a_large_file_comes_whole_and_an_empty_one_too() {
    let server = Running::start();
    let response = server.get("/files/big", "");
    assert!(response.whole);
    assert!(response.body.iter().enumerate().all(|(at, &byte)| byte == (at / 7) as u8));
    let empty = server.get("/files/empty", "");
    assert_eq!((empty.status, empty.header("Content-Length")), (200, Some("0")));
    for range in ["bytes=-5", "bytes=0-", "bytes=0-1048575", "bytes=9-"] {
        let empty = server.get("/files/empty", &format!("Range: {range}\r\n"));
        assert_eq!((empty.status, empty.header("Content-Length")), (200, Some("0")), "{range}");
        assert_eq!(empty.header("Content-Range"), None, "{range}");
    }
}

#[test]
fn a_link_with_a_long_token_and_a_name_in_another_character_set_is_served() {
    let server = Running::start();
    let token = "t".repeat(8000 - "/files/text/x.txt?token=".len());
    assert_eq!(server.get(&format!("/files/text/x.txt?token={token}"), "").status, 200);
    let mut client = server.connect();
    for name in [&b"\xB5\xE7\xD3\xB0.txt"[..], b"%B5%E7%D3%B0.txt", b"caf\xE9.txt"] {
        let head = [b"GET /files/text/", name, b" HTTP/1.1\r\nHost: t\r\n\r\n"].concat();
        client.send(&head);
        let response = client.response(false);
        assert_eq!(
            (response.status, response.header("Content-Type")),
            (200, Some("text/plain; charset=utf-8"))
        );
    }
}

#[test]
fn a_storage_failure_after_the_head_cuts_the_body() {
    let server = Running::start();
    server.samples.fails_from.store(1_000_000, Ordering::Relaxed);
    let mut client = server.connect();
    let response = client.ask("GET", "/files/big/x.mp4", "");
    assert_eq!(response.status, 200);
    assert!(!response.whole && client.is_closed());
    assert!(response.body.iter().enumerate().all(|(at, &byte)| byte == (at / 7) as u8), "wrong content");
    server.samples.fails_from.store(0, Ordering::Relaxed);
    assert_eq!(
        server.get("/files/big/x.mp4", "").status,
        503,
        "nothing is sent yet, so a refusal is possible"
    );
    server.samples.fails_from.store(u64::MAX, Ordering::Relaxed);
    assert!(server.get("/files/big", "").whole);
}

#[test]
fn requests_sent_in_one_go_are_answered_in_order() {
    let server = Running::start();
    let mut client = server.connect();
    let request = |path: &str| format!("GET /files/{path} HTTP/1.1\r\nHost: t\r\n\r\n");
    client
        .send([request("text"), request("none"), request("big"), request("empty"), request("clip")].concat());
    let statuses: Vec<u16> = (0..5).map(|_| client.response(false).status).collect();
    assert_eq!(statuses, [200, 404, 200, 200, 200]);
    assert_eq!(client.ask("GET", "/files/text", "").status, 200);
    client.send(request("text").repeat(500));
    assert!((0..500).all(|_| client.response(false).status == 200));
}

#[test]
fn a_client_that_sends_many_requests_at_once_leaves_turns_to_others() {
    let server = Running::with(1, 10);
    let mut eager = server.connect();
    eager.send("GET /files/slow HTTP/1.1\r\nHost: t\r\n\r\n".repeat(6));
    assert_eq!(server.get("/files/text", "").status, 200);
    eager.stream.set_nonblocking(true).unwrap();
    while eager.more() {}
    assert!(eager.unread.windows(12).filter(|bytes| bytes == b"HTTP/1.1 404").count() < 6);
    eager.stream.set_nonblocking(false).unwrap();
    assert!((0..6).all(|_| eager.response(false).status == 404));
}

#[test]
fn viewers_as_fast_as_the_server_leave_turns_to_others() {
    let server = Running::with(1, 10);
    let ended = Arc::new(AtomicBool::new(false));
    let viewers: Vec<_> = (0..2)
        .map(|_| {
            let (mut viewer, ended) = (server.pause("/files/film", ""), Arc::clone(&ended));
            thread::spawn(move || {
                while viewer.more() && !ended.load(Ordering::Relaxed) {
                    viewer.unread.clear();
                }
            })
        })
        .collect();
    let answered = thread::scope(|scope| {
        let answers = || (0..5).all(|_| server.get("/files/text", "").status == 200);
        scope.spawn(answers).join().unwrap_or(false)
    });
    ended.store(true, Ordering::Relaxed);
    assert!(answered);
    viewers.into_iter().for_each(|viewer| viewer.join().unwrap());
}

#[test]
fn the_client_decides_whether_its_connection_stays_open() {
    let server = Running::start();
    let mut client = server.connect();
    client.send("GET /files/text HTTP/1.0\r\n\r\n");
    assert_eq!(client.response(false).header("Connection"), Some("close"));
    assert!(client.is_closed());
    let mut client = server.connect();
    for _ in 0..3 {
        client.send("GET /files/text HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!(client.response(false).header("Connection"), Some("keep-alive"));
    }
    let last = client.ask("GET", "/files/text", "Connection: close\r\n");
    assert_eq!(last.header("Connection"), Some("close"));
    assert!(client.is_closed());
    let mut client = server.connect();
    client.send("GET /files/text HTTP/1.0\r\n\r\n".repeat(1000));
    assert!(client.response(false).whole, "unread requests lose the response");
    assert!(client.is_closed());
}

#[test]
fn malformed_requests_are_refused_and_the_connection_closed() {
    let server = Running::start();
    for (text, status) in [
        ("GET /files/text HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET /files/text HTTP/3.0\r\nHost: t\r\n\r\n".to_owned(), 505),
        ("\x16\x03\x01\x02\r\n\r\n".to_owned(), 400),
        ("GET /files/text HTTP/1.1\r\nHost: t\r\nA: b\0\r\n\r\n".to_owned(), 400),
        ("GET /files/text HTTP/1.1\r\nHost: t\r\nA: b\r\n c\r\n\r\n".to_owned(), 400),
        (format!("GET /{} HTTP/1.1\r\nHost: t\r\n\r\n", "x".repeat(9000)), 414),
        (format!("GET / HTTP/1.1\r\nHost: t\r\nA: {}\r\n\r\n", "x".repeat(40_000)), 431),
        (format!("GET / HTTP/1.1\r\nHost: t\r\n{}\r\n", "A: b\r\n".repeat(200)), 431),
    ] {
        let mut client = server.connect();
        client.send(&text);
        let response = client.response(false);
        assert_eq!(response.status, status, "{:.60}", text);
        assert_eq!(response.header("Connection"), Some("close"));
        assert!(client.is_closed());
    }
}

#[test]
fn a_body_is_never_taken_for_a_request() {
    let server = Running::start();
    let smuggled = "GET /files/clip HTTP/1.1\r\nHost: t\r\n\r\n";
    for head in [
        format!("POST /files/text HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n", smuggled.len()),
        format!("GET /files/text HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n", smuggled.len()),
        format!(
            "GET /files/text HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n",
            smuggled.len()
        ),
    ] {
        let mut client = server.connect();
        client.send(head.clone() + smuggled);
        let response = client.response(false);
        let is_post = head.starts_with("POST");
        assert_eq!(response.status, if is_post { 405 } else { 200 });
        assert_eq!(response.header("Allow"), is_post.then_some("GET, HEAD"));
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(client.is_closed());
    }
    let mut client = server.connect();
    assert_eq!(client.ask("DELETE", "/files/text", "").status, 405);
    assert_eq!(client.ask("OPTIONS", "*", "").header("Allow"), Some("GET, HEAD"));
    assert_eq!(client.ask("FOO", "/", "").status, 405);
    assert_eq!(client.ask("GET", "/files/text", "").status, 200);
}

#[test]
fn a_client_that_sends_a_large_body_reads_the_refusal() {
    let server = Running::start();
    let mut client = server.connect();
    client.send("PUT /files/text HTTP/1.1\r\nHost: t\r\nContent-Length: 50000000\r\n\r\n");
    let piece = vec![b'x'; 1 << 20];
    (0..47).for_each(|_| client.send(&piece));
    assert_eq!(client.response(false).status, 405);
}

#[test]
fn slow_heads_are_served_and_incomplete_ones_closed_in_time() {
    let server = Running::start();
    let mut client = server.connect();
    for byte in b"GET /files/text HTTP/1.1\r\nHost: t\r\n\r\n" {
        client.send([*byte]);
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(client.response(false).status, 200);
    let began = Instant::now();
    client.send("GET /files/te");
    assert!(client.is_closed());
    assert!(began.elapsed() + Duration::from_secs(1) > MESSAGE_TIMEOUT, "{:?}", began.elapsed());
}

#[test]
fn slow_heads_do_not_block_others() {
    let server = Running::with(4, 500);
    let slow: Vec<Client> = (0..100)
        .map(|_| {
            let mut client = server.connect();
            client.send("GET /fil");
            client
        })
        .collect();
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(server.get("/files/text", "").status, 200);
    }
    assert!(began.elapsed() < MESSAGE_TIMEOUT, "{:?}", began.elapsed());
    for mut client in slow {
        client.send("es/text HTTP/1.1\r\nHost: t\r\n\r\n");
        assert_eq!(client.response(false).status, 200);
    }
}

#[test]
fn paused_viewers_occupy_no_storage_and_do_not_block_others() {
    let server = Running::with(128, 500);
    let mut viewers: Vec<Client> = (0..100).map(|_| server.connect()).collect();
    for viewer in &mut viewers {
        viewer.send("GET /files/film/x.mp4 HTTP/1.1\r\nHost: t\r\n\r\n");
    }
    server.until_paused();
    assert_eq!(server.samples.reading.load(Ordering::Relaxed), 0);
    for _ in 0..20 {
        assert_eq!(server.get("/files/text", "").status, 200);
    }
    // One continues, and its content is right.
    let viewer = &mut viewers[50];
    while viewer.unread.len() < 20_000_000 {
        assert!(viewer.more());
    }
    let end = viewer.unread.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    assert!(is_endless(&viewer.unread[end..], 0));
}

#[test]
fn a_panic_fails_its_own_request_only() {
    let server = Running::start();
    let status = server.get("/files/panic", "").status;
    assert!(matches!(status, 500 | 503), "{status}");
    assert_eq!(server.get("/files/text", "").status, 200);
}

#[test]
fn a_burst_of_connections_is_answered() {
    let server = Running::with(64, 2000);
    for _ in 0..2 {
        let clients: Vec<_> = (0..200)
            .map(|_| {
                let mut client = server.connect();
                thread::spawn(move || (0..5).all(|_| client.ask("GET", "/files/text", "").status == 200))
            })
            .collect();
        assert!(clients.into_iter().all(|client| client.join().unwrap()));
    }
}

#[test]
fn connections_over_the_limit_get_503() {
    let server = Running::with(8, 3);
    let mut admitted: Vec<Client> = (0..3).map(|_| server.connect()).collect();
    for client in &mut admitted {
        assert_eq!(client.ask("GET", "/files/text", "").status, 200);
    }
    let mut refused = server.connect();
    let response = refused.response(false);
    assert_eq!((response.status, response.header("Retry-After")), (503, Some("5")));
    assert!(refused.is_closed());
}

#[test]
fn active_requests_finish_when_the_server_stops() {
    let server = Running::start();
    server.samples.put("slow", b"done", Some(7));
    let mut idle = server.connect();
    assert_eq!(idle.ask("GET", "/files/text", "").status, 200);
    let mut client = server.connect();
    client.send("GET /files/slow HTTP/1.1\r\nHost: t\r\n\r\n");
    thread::sleep(Duration::from_millis(100));
    server.stop.set();
    let response = client.response(false);
    assert_eq!((response.status, response.text()), (200, "done"));
    assert!(client.is_closed() && idle.is_closed());
}

#[test]
fn more_paused_viewers_than_workers_do_not_block_others_and_get_every_byte() {
    let server = Running::with(8, 500);
    let whole = (0..40).map(|_| (server.pause("/files/reel", ""), 200, 0, REEL_BYTES));
    let part = (0..10).map(|n| {
        let (first, last) = (1000 + n, REEL_BYTES - 2 - n);
        (
            server.pause("/files/reel", &format!("Range: bytes={first}-{last}\r\n")),
            206,
            first,
            last - first + 1,
        )
    });
    let viewers: Vec<_> = whole.chain(part).collect();
    server.until_paused();
    let began = Instant::now();
    assert!(is_endless(&server.get("/files/reel", "").body, 0));
    assert!(began.elapsed() < PROGRESS_TIMEOUT / 2, "{:?}", began.elapsed());
    let viewers: Vec<_> = viewers
        .into_iter()
        .map(|(mut viewer, status, first, bytes)| {
            thread::spawn(move || {
                let response = viewer.response(false);
                assert_eq!((response.status, response.body.len() as u64), (status, bytes));
                assert!(is_endless(&response.body, first), "the bytes from {first} on");
                assert_eq!(viewer.ask("GET", "/files/text", "").status, 200, "the connection stays open");
            })
        })
        .collect();
    viewers.into_iter().for_each(|viewer| viewer.join().unwrap());
}

#[test]
fn a_viewer_that_pauses_over_another_upload_is_cut() {
    let server = Running::start();
    let other = Sample { content: Arc::new(vec![0; REEL_BYTES as usize]), size: REEL_BYTES, unique: Some(9) };
    for replace in [Some(other), None] {
        let mut viewer = server.pause("/files/film/x.mp4", "Range: bytes=0-99999999\r\n");
        server.until_paused();
        let mut files = server.samples.files.lock().unwrap();
        let film = files.remove("film").unwrap();
        files.extend(replace.map(|other| ("film".to_owned(), other)));
        drop(files);
        let response = viewer.response(false);
        assert_eq!(response.status, 206);
        assert!(!response.whole && viewer.is_closed());
        assert!(is_endless(&response.body, 0), "wrong content");
        server.samples.files.lock().unwrap().insert("film".to_owned(), film);
    }
}

#[test]
fn paused_viewers_of_legacy_files_and_multipart_do_not_block_others_and_get_every_byte() {
    let server = Running::with(8, 500);
    let ranges = format!("Range: bytes=0-0,2-{}\r\n", REEL_BYTES - 1);
    let viewers: Vec<Client> = (0..24)
        .map(|n| match n % 2 {
            0 => server.pause("/files/old-reel", ""),
            _ => server.pause("/files/reel", &ranges),
        })
        .collect();
    server.until_paused();
    assert!(is_endless(&server.get("/files/reel", "").body, 0));
    assert_eq!(server.get("/files/old", "").status, 200);
    for mut viewer in viewers {
        let response = viewer.response(false);
        assert!(response.whole);
        let first = match response.status {
            200 => 0,
            status => {
                assert_eq!(status, 206);
                let ends = response.body.windows(4).enumerate().filter(|(_, four)| *four == b"\r\n\r\n");
                let second = ends.map(|(at, _)| at + 4).nth(1).unwrap();
                let boundary = response.header("Content-Type").unwrap().split_once("boundary=").unwrap().1;
                let end = response.body.len() - format!("\r\n--{boundary}--\r\n").len();
                assert!(response.body[end..].starts_with(b"\r\n--tnv"));
                assert_eq!(end - second, REEL_BYTES as usize - 2);
                assert!(is_endless(&response.body[second..end], 2));
                continue;
            }
        };
        assert!(is_endless(&response.body, first));
    }
}

#[test]
fn a_slow_viewer_gets_every_byte() {
    let server = Running::with(2, 500);
    let mut viewer = server.pause("/files/reel", "");
    let mut piece = vec![0; 200_000];
    for _ in 0..40 {
        thread::sleep(Duration::from_millis(20));
        let count = viewer.stream.read(&mut piece).unwrap();
        viewer.unread.extend_from_slice(&piece[..count]);
    }
    let response = viewer.response(false);
    assert!(response.whole && is_endless(&response.body, 0));
}

#[test]
fn a_paused_viewer_may_finish_while_the_server_stops() {
    let server = Running::start();
    let mut viewer = server.pause("/files/reel", "");
    server.until_paused();
    server.stop.set();
    thread::sleep(Duration::from_millis(200));
    let response = viewer.response(false);
    assert!(response.whole && is_endless(&response.body, 0));
    assert!(viewer.is_closed());
}

#[test]
fn paused_viewers_are_cut_after_the_stop_timeout() {
    let server = Running::start();
    let viewers = [server.pause("/files/reel", ""), server.pause("/files/old-reel", "")];
    server.until_paused();
    let began = Instant::now();
    drop(server);
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(4) && took < PROGRESS_TIMEOUT / 2, "{took:?}");
    for mut viewer in viewers {
        assert!(!viewer.response(false).whole);
    }
}
