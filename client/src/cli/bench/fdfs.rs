//! The driver of FastDFS, which works as FastDFS's own client does: each thread keeps a connection to the
//! tracker and one to each storage, and asks the tracker before each operation.

use std::io::{ErrorKind as IoErrorKind, IoSlice, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};

use tnv_client::Result;
use tnv_common::error::Context;
use tnv_common::fail;
use tnv_common::limits::COPY_BYTES;
use tnv_common::net::resolve;
use tnv_common::proto::fdfs::{
    FileName, HEADER_BYTES, Header, REPLY_BYTES_MAX, Store, command, decode_address, encode_download,
    encode_upload,
};

use super::driver::{Driver, File, Session};
use super::payload::{Payload, Verifier};
use super::socket::{connect, read};

/// The default port of a FastDFS tracker.
const TRACKER_PORT: u16 = 22122;

/// Most storages that a thread stays connected to.
const STORAGES_MAX: usize = 64;

/// The bytes of one write of an upload.
const PIECE_BYTES: usize = 1 << 20;

/// The extension of the files.
const EXTENSION: &str = "bin";

pub(super) struct FdfsDriver {
    trackers: Vec<SocketAddr>,
    sessions: AtomicUsize,
}

impl FdfsDriver {
    pub(super) fn new(trackers: &[String]) -> Result<FdfsDriver> {
        let mut addresses = Vec::new();
        for tracker in trackers {
            addresses.extend(resolve(tracker, TRACKER_PORT)?.first());
        }
        match addresses.is_empty() {
            false => Ok(FdfsDriver { trackers: addresses, sessions: AtomicUsize::new(0) }),
            true => fail!(Invalid, "no tracker address"),
        }
    }
}

impl Driver for FdfsDriver {
    /// Connects to one tracker, and to the storage that it names first.
    fn session(&self) -> Result<Box<dyn Session + '_>> {
        let number = self.sessions.fetch_add(1, Ordering::Relaxed);
        let tracker = self.trackers[number % self.trackers.len()];
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
    /// The storage of the next file.
    fn store(&mut self) -> Result<Store> {
        let tracker = self.link.tracker;
        self.link.begin(command::QUERY_STORE);
        Store::decode(self.link.ask(tracker)?).map_err(|error| error.context(tracker))
    }

    /// The storage of a file.
    fn find(&mut self, command: u8, file: &FileName) -> Result<SocketAddr> {
        let tracker = self.link.tracker;
        self.link.begin(command);
        file.encode(&mut self.link.request);
        decode_address(self.link.ask(tracker)?).map_err(|error| error.context(tracker))
    }
}

impl Session for FdfsSession {
    fn upload(&mut self, payload: &mut Payload<'_>) -> Result<Box<str>> {
        let store = self.store()?;
        self.link.begin(command::UPLOAD);
        encode_upload(store.path_index, payload.size(), EXTENSION, &mut self.link.request);
        let file = self.link.upload(store.address, payload)?;
        FileName::decode(file).map(|file| file.text().into()).map_err(|error| error.context(store.address))
    }

    fn download(&mut self, file: &File, verifier: &mut Verifier<'_>) -> Result<()> {
        let file = FileName::parse(&file.id)?;
        let storage = self.find(command::QUERY_FETCH, &file)?;
        self.link.begin(command::DOWNLOAD);
        encode_download(0, 0, &file, &mut self.link.request);
        self.link.download(storage, verifier)
    }

    fn delete(&mut self, file: &File) -> Result<()> {
        let file = FileName::parse(&file.id)?;
        let storage = self.find(command::QUERY_UPDATE, &file)?;
        self.link.begin(command::DELETE);
        file.encode(&mut self.link.request);
        self.link.ask(storage).map(drop)
    }
}

/// A thread's connections, and its current message. A connection is closed after a failure.
struct Link {
    tracker: SocketAddr,
    connections: Vec<(SocketAddr, TcpStream)>,
    /// A header and the body, or the start of the body.
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Link {
    /// Starts a request, to which the body is appended.
    fn begin(&mut self, command: u8) {
        self.request.clear();
        self.request.extend_from_slice(&Header::request(command, 0).encode());
    }

    /// Writes the length of the appended body and of the content into the header.
    fn end(&mut self, content_bytes: u64) {
        let body_bytes = (self.request.len() - HEADER_BYTES) as u64 + content_bytes;
        let header = Header::request(self.request[HEADER_BYTES - 2], body_bytes);
        self.request[..HEADER_BYTES].copy_from_slice(&header.encode());
    }

    /// Runs `what` on the connection to a server.
    fn on<T>(
        &mut self,
        address: SocketAddr,
        what: impl FnOnce(&mut TcpStream, &[u8], &mut [u8]) -> Result<T>,
    ) -> Result<T> {
        let known = self.connections.iter().position(|(known, _)| *known == address);
        let mut stream = match known {
            Some(at) => self.connections.swap_remove(at).1,
            None => connect(address)?,
        };
        let outcome = what(&mut stream, &self.request, &mut self.buffer);
        if outcome.is_ok() && self.connections.len() < STORAGES_MAX {
            self.connections.push((address, stream));
        }
        outcome.map_err(|error| error.context(address))
    }

    /// Sends a request and returns the body of its reply.
    fn ask(&mut self, address: SocketAddr) -> Result<&[u8]> {
        self.end(0);
        let end = self.on(address, |stream, request, buffer| {
            stream.write_all(request).context(|| "send a request")?;
            whole_reply(stream, buffer)
        })?;
        Ok(&self.buffer[HEADER_BYTES..end])
    }

    /// The same for a request with content.
    fn upload(&mut self, address: SocketAddr, payload: &mut Payload<'_>) -> Result<&[u8]> {
        self.end(payload.size());
        let end = self.on(address, |stream, request, buffer| {
            let mut head = request;
            loop {
                let piece = payload.next(PIECE_BYTES)?;
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
    fn download(&mut self, address: SocketAddr, verifier: &mut Verifier<'_>) -> Result<()> {
        self.end(0);
        self.on(address, |stream, request, buffer| {
            stream.write_all(request).context(|| "send a request")?;
            let (mut filled, bytes) = reply(stream, buffer)?;
            if bytes != verifier.size() {
                return fail!(
                    Mismatch,
                    "{bytes} bytes came back of the {} that were uploaded",
                    verifier.size()
                );
            }
            let mut from = HEADER_BYTES;
            let mut missing = bytes;
            loop {
                let piece = &buffer[from..filled];
                if piece.len() as u64 > missing {
                    return fail!(Protocol, "sent more than the announced {bytes} bytes");
                }
                verifier.take(piece)?;
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

/// Writes a head and a piece, in one system call if the socket accepts both.
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

/// Reads the header of a successful reply and what comes with it. Returns the filled bytes of the buffer and
/// the length of the body.
fn reply(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<(usize, u64)> {
    let mut filled = 0;
    loop {
        filled += read(stream, &mut buffer[filled..])?;
        if let Some(header) = buffer[..filled].first_chunk() {
            return Ok((filled, Header::decode(header)?.success()?));
        }
    }
}

/// Reads a short reply and returns where it ends.
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
        false => fail!(Protocol, "sent {} bytes more than announced", filled - end),
    }
}
