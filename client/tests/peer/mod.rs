//! Scripted servers on real sockets, for what no healthy server does on demand: lost replies, connections
//! that close early, and the captured behavior of legacy servers.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tnv_client::{
    AppId, Client, Error, ErrorKind, FileId, FileKey, GroupName, Options, Route, Stat, UserId, VersionId,
};
use tnv_common::proto::tnv::{REPLY_STORAGE, REPLY_TRACKER, command};
use tnv_common::rpc::dialect::{Dialect, Tnv};
use tnv_common::rpc::header::{HEADER_BYTES, Header};
use tnv_tests::cluster::free_address;

/// What happens to the connection after a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Keep,
    Close,
}

/// One request to a peer.
pub struct Request<'a> {
    pub stream: &'a mut TcpStream,
    pub header: Header,
    /// The number of earlier connections to this peer.
    pub conn: usize,
    /// The number of earlier requests to this peer.
    pub nth: usize,
}

impl Request<'_> {
    /// Reads this much of the body.
    pub fn read(&mut self, bytes: usize) -> Vec<u8> {
        let mut body = vec![0; bytes];
        self.stream.read_exact(&mut body).unwrap();
        body
    }

    /// Reads the whole body.
    pub fn body(&mut self) -> Vec<u8> {
        self.read(usize::try_from(self.header.body_bytes).unwrap())
    }

    /// Replies with a success.
    pub fn reply(&mut self, reply: u8, body: &[u8]) -> Then {
        let mut message = Header::new(reply, body.len() as u64).encode().to_vec();
        message.extend_from_slice(body);
        self.raw(&message);
        Then::Keep
    }

    /// Sends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        // The client may have closed the connection.
        let _ = self.stream.write_all(bytes);
    }

    /// A storage's failure reply.
    pub fn refuse(&mut self, kind: ErrorKind, text: &str) -> Then {
        let message = Tnv::new(REPLY_STORAGE, "peer").failure_reply(&Error::new(kind, text));
        self.raw(&message);
        Then::Keep
    }

    /// The reply of a legacy server to an unknown command: a failure, and the connection is closed with the
    /// body unread.
    pub fn unknown_command(&mut self) -> Then {
        let text = format!("unknown command: {}", self.header.command);
        self.refuse(ErrorKind::Internal, &text);
        Then::Close
    }
}

/// A server that follows a script.
pub struct Peer {
    pub address: SocketAddr,
    seen: Arc<Mutex<(Vec<u8>, usize)>>,
    closed: Arc<AtomicUsize>,
}

impl Peer {
    pub fn new(serve: impl Fn(&mut Request<'_>) -> Then + Send + Sync + 'static) -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new((Vec::new(), 0)));
        let closed = Arc::new(AtomicUsize::new(0));
        let (serve, noted, ended) = (Arc::new(serve), Arc::clone(&seen), Arc::clone(&closed));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (serve, noted, ended) = (Arc::clone(&serve), Arc::clone(&noted), Arc::clone(&ended));
                let conn = {
                    let mut seen = noted.lock().unwrap();
                    seen.1 += 1;
                    seen.1 - 1
                };
                thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let mut header = [0; HEADER_BYTES];
                    while stream.read_exact(&mut header).is_ok() {
                        let header = Header::decode(&header).unwrap();
                        let nth = {
                            let mut seen = noted.lock().unwrap();
                            seen.0.push(header.command);
                            seen.0.len() - 1
                        };
                        let mut request = Request { stream: &mut stream, header, conn, nth };
                        if serve(&mut request) == Then::Close {
                            break;
                        }
                    }
                    drop(stream);
                    ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Peer { address, seen, closed }
    }

    /// The commands of its requests, in order.
    pub fn commands(&self) -> Vec<u8> {
        self.seen.lock().unwrap().0.clone()
    }

    /// The number of closed connections.
    pub fn closed(&self) -> usize {
        self.closed.load(Ordering::SeqCst)
    }

    /// The number of connections.
    pub fn conns(&self) -> usize {
        self.seen.lock().unwrap().1
    }
}

/// A tracker that gives every user these storages.
pub fn tracker(storages: &[&Peer]) -> Peer {
    tracker_of(storages.iter().map(|storage| storage.address).collect())
}

/// The same by address.
pub fn tracker_of(addresses: Vec<SocketAddr>) -> Peer {
    Peer::new(move |request| {
        request.body();
        assert!(matches!(request.header.command, command::ADDRESSES | command::FIND_ADDRESSES));
        let route = Route { group: GroupName::new("group001").unwrap(), addresses: addresses.clone() };
        request.reply(REPLY_TRACKER, &route.encode())
    })
}

/// An address without a listener.
pub fn unused_address() -> SocketAddr {
    free_address()
}

pub fn client(tracker: &Peer) -> Client {
    let options = Options { route_cache: Duration::ZERO, ..Options::default() };
    Client::new(&[tracker.address.to_string()], options).unwrap()
}

pub fn appid() -> AppId {
    AppId::new("tnvideo").unwrap()
}

pub fn userid() -> UserId {
    UserId::new("tnv001").unwrap()
}

pub fn file(fileid: &str) -> FileKey {
    FileKey { appid: appid(), userid: userid(), fileid: FileId::new(fileid).unwrap() }
}

/// The stat of content on a TNV storage.
pub fn stat(content: &[u8], unique: u8) -> Stat {
    let crc32 = Some(crc32fast::hash(content));
    Stat { size: content.len() as u64, time: 1_700_000_000, crc32, unique: VersionId([unique; 16]) }
}

/// Content without repetition.
pub fn content(bytes: usize) -> Vec<u8> {
    (0..bytes as u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

/// A captured message.
pub fn captured(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/wire").join(name);
    let text = std::fs::read_to_string(path).unwrap();
    let digits = text.trim().as_bytes();
    digits.chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// The names in a directory.
pub fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
