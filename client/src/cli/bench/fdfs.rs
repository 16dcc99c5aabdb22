//! The door of FastDFS, so that it is measured by the same loop: as its own client does it, with a connection
//! to the tracker and one to each storage kept open by each thread, and the tracker asked before each
//! operation.

use std::io::{ErrorKind as IoErrorKind, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};

use tnv_client::Result;
use tnv_common::error::Context;
use tnv_common::fail;
use tnv_common::limits::{CONNECT_TIMEOUT, COPY_BYTES, PROGRESS_TIMEOUT};
use tnv_common::net::resolve;
use tnv_common::proto::fdfs::{
    FileName, HEADER_BYTES, Header, REPLY_BYTES_MAX, Store, command, decode_address, encode_download,
    encode_upload,
};

use super::content::{Check, Content};
use super::row::{Door, File, Session};

/// The port of FastDFS's trackers.
const TRACKER_PORT: u16 = 22122;

/// Storages that a thread stays connected to.
const STORAGES_MAX: usize = 64;

/// How much of an upload's content is written at a time.
const PIECE_BYTES: usize = 1 << 20;

/// What files are called at the end.
const EXTENSION: &str = "bin";

pub(super) struct FdfsDoor {
    trackers: Vec<SocketAddr>,
    sessions: AtomicUsize,
}

impl FdfsDoor {
    pub(super) fn new(trackers: &[String]) -> Result<FdfsDoor> {
        let mut addresses = Vec::new();
        for tracker in trackers {
            addresses.extend(resolve(tracker, TRACKER_PORT)?.first());
        }
        match addresses.is_empty() {
            false => Ok(FdfsDoor { trackers: addresses, sessions: AtomicUsize::new(0) }),
            true => fail!(Invalid, "there is no tracker"),
        }
    }
}

impl Door for FdfsDoor {
    /// Connects to one of the trackers, and to the storage that it names first.
    fn session(&self) -> Result<Box<dyn Session + '_>> {
        let turn = self.sessions.fetch_add(1, Ordering::Relaxed);
        let tracker = self.trackers[turn % self.trackers.len()];
        let link =
            Link { tracker, connections: Vec::new(), request: Vec::new(), buffer: vec![0; COPY_BYTES] };
        let mut session = FdfsSession { link };
        let store = session.store()?;
        session.link.on(store.address, |_, _, _| Ok(()))?;
        Ok(Box::new(session))
    }
}

struct FdfsSession {
    link: Link,
}

impl FdfsSession {
    /// Where the next file goes.
    fn store(&mut self) -> Result<Store> {
        let tracker = self.link.tracker;
        self.link.begin(command::QUERY_STORE);
        Store::decode(self.link.ask(tracker)?).map_err(|error| error.context(tracker))
    }

    /// Where a file is.
    fn find(&mut self, command: u8, file: &FileName) -> Result<SocketAddr> {
        let tracker = self.link.tracker;
        self.link.begin(command);
        file.encode(&mut self.link.request);
        decode_address(self.link.ask(tracker)?).map_err(|error| error.context(tracker))
    }
}

impl Session for FdfsSession {
    fn upload(&mut self, content: &mut Content<'_>) -> Result<Box<str>> {
        let store = self.store()?;
        self.link.begin(command::UPLOAD);
        encode_upload(store.path_index, content.size(), EXTENSION, &mut self.link.request);
        let file = self.link.upload(store.address, content)?;
        FileName::decode(file).map(|file| file.text().into()).map_err(|error| error.context(store.address))
    }

    fn download(&mut self, file: &File, check: &mut Check<'_>) -> Result<()> {
        let file = FileName::parse(&file.id)?;
        let storage = self.find(command::QUERY_FETCH, &file)?;
        self.link.begin(command::DOWNLOAD);
        encode_download(0, 0, &file, &mut self.link.request);
        self.link.download(storage, check)
    }

    fn delete(&mut self, file: &File) -> Result<()> {
        let file = FileName::parse(&file.id)?;
        let storage = self.find(command::QUERY_UPDATE, &file)?;
        self.link.begin(command::DELETE);
        file.encode(&mut self.link.request);
        self.link.ask(storage).map(drop)
    }
}

/// A thread's connections, and the message that is on its way. A connection is kept unless it failed, or what
/// was asked on it.
struct Link {
    tracker: SocketAddr,
    connections: Vec<(SocketAddr, TcpStream)>,
    /// A header and the body, or the beginning of the body.
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Link {
    /// Begins a request; its body is appended.
    fn begin(&mut self, command: u8) {
        self.request.clear();
        self.request.extend_from_slice(&Header::request(command, 0).encode());
    }

    /// Writes the length of the body, which has been appended, into the header.
    fn end(&mut self, content_bytes: u64) {
        let body_bytes = (self.request.len() - HEADER_BYTES) as u64 + content_bytes;
        let header = Header::request(self.request[HEADER_BYTES - 2], body_bytes);
        self.request[..HEADER_BYTES].copy_from_slice(&header.encode());
    }

    /// Does something on the connection to a server.
    fn on<T>(
        &mut self,
        address: SocketAddr,
        what: impl FnOnce(&mut TcpStream, &[u8], &mut [u8]) -> Result<T>,
    ) -> Result<T> {
        let known = self.connections.iter().position(|(known, _)| *known == address);
        let mut stream = match known {
            Some(at) => self.connections.swap_remove(at).1,
            None => connect(address).context(|| format!("connect to {address}"))?,
        };
        let outcome = what(&mut stream, &self.request, &mut self.buffer);
        if outcome.is_ok() && self.connections.len() < STORAGES_MAX {
            self.connections.push((address, stream));
        }
        outcome.map_err(|error| error.context(address))
    }

    /// Sends a request and gives the body of its reply.
    fn ask(&mut self, address: SocketAddr) -> Result<&[u8]> {
        self.end(0);
        let end = self.on(address, |stream, request, buffer| {
            stream.write_all(request).context(|| "send a request")?;
            whole_reply(stream, buffer)
        })?;
        Ok(&self.buffer[HEADER_BYTES..end])
    }

    /// The same of a request that content follows.
    fn upload(&mut self, address: SocketAddr, content: &mut Content<'_>) -> Result<&[u8]> {
        self.end(content.size());
        let end = self.on(address, |stream, request, buffer| {
            let mut head = request;
            loop {
                let piece = content.next(PIECE_BYTES)?;
                if piece.is_empty() && head.is_empty() {
                    return whole_reply(stream, buffer);
                }
                write_both(stream, head, piece).context(|| "send content")?;
                head = &[];
            }
        })?;
        Ok(&self.buffer[HEADER_BYTES..end])
    }

    /// Sends a request whose reply is content.
    fn download(&mut self, address: SocketAddr, check: &mut Check<'_>) -> Result<()> {
        self.end(0);
        self.on(address, |stream, request, buffer| {
            stream.write_all(request).context(|| "send a request")?;
            let (mut filled, bytes) = reply(stream, buffer)?;
            if bytes != check.size() {
                return fail!(Mismatch, "{bytes} bytes came back of the {} that were uploaded", check.size());
            }
            let mut from = HEADER_BYTES;
            let mut missing = bytes;
            loop {
                let piece = &buffer[from..filled];
                if piece.len() as u64 > missing {
                    return fail!(Protocol, "sent more than it announced, {bytes} bytes");
                }
                check.take(piece)?;
                missing -= piece.len() as u64;
                if missing == 0 {
                    return Ok(());
                }
                from = 0;
                filled = read(stream, buffer)?;
            }
        })
    }
}

fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PROGRESS_TIMEOUT))?;
    stream.set_write_timeout(Some(PROGRESS_TIMEOUT))?;
    Ok(stream)
}

/// Writes a head and what follows it, in one system call where the socket takes them.
fn write_both(stream: &mut TcpStream, head: &[u8], piece: &[u8]) -> std::io::Result<()> {
    let written = match stream.write_vectored(&[IoSlice::new(head), IoSlice::new(piece)]) {
        Err(error) if error.kind() == IoErrorKind::Interrupted => 0,
        outcome => outcome?,
    };
    if written < head.len() {
        stream.write_all(&head[written..])?;
    }
    stream.write_all(&piece[written.saturating_sub(head.len())..])
}

/// Reads what there is; at least one byte.
fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<usize> {
    loop {
        match stream.read(buffer) {
            Ok(0) => return fail!(Unavailable, "the connection was closed"),
            Ok(count) => return Ok(count),
            Err(error) if error.kind() == IoErrorKind::Interrupted => {}
            Err(error) => return Err(error).context(|| "read the reply"),
        }
    }
}

/// Reads the header of a reply that tells of success, and whatever comes with it: how much is in the buffer
/// then, and how long the body is.
fn reply(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<(usize, u64)> {
    let mut filled = 0;
    loop {
        filled += read(stream, &mut buffer[filled..])?;
        if let Some(header) = buffer[..filled].first_chunk() {
            return Ok((filled, Header::decode(header)?.success()?));
        }
    }
}

/// Reads a reply that is short; tells where it ends.
fn whole_reply(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<usize> {
    let (mut filled, bytes) = reply(stream, buffer)?;
    let end = HEADER_BYTES + usize::try_from(bytes).unwrap_or(usize::MAX).min(REPLY_BYTES_MAX + 1);
    if end > HEADER_BYTES + REPLY_BYTES_MAX {
        return fail!(Protocol, "sent a reply of {bytes} bytes, want at most {REPLY_BYTES_MAX}");
    }
    while filled < end {
        filled += read(stream, &mut buffer[filled..])?;
    }
    match filled == end {
        true => Ok(end),
        false => fail!(Protocol, "sent {} bytes more than it announced", filled - end),
    }
}
