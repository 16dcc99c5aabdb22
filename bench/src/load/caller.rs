//! One connection that asks one thing after another, as cheaply as a client can: a write and a read
//! for each, since what is to be measured is the server.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

use socket2::{Domain, Protocol, Socket, Type};
use tnv_common::error::{Context, Error, ErrorKind, Result};
use tnv_common::fail;
use tnv_common::limits::{CONNECT_TIMEOUT, GROUP_LIST_BYTES_MAX, REPLY_TIMEOUT};
use tnv_common::proto::tnv::failure::decode_failure;
use tnv_common::rpc::header::{FAILURE, HEADER_BYTES, Header};

/// Room for a small reply to begin with, which ten thousand of these have; it grows with what comes.
const REPLY_BYTES: usize = 512;

/// The longest reply there is.
const REPLY_BYTES_MAX: u64 = GROUP_LIST_BYTES_MAX as u64;

/// A request, ready to be sent.
pub fn request(command: u8, body: &[u8]) -> Vec<u8> {
    [&Header::new(command, body.len() as u64).encode(), body].concat()
}

/// A connection, opened again after a failure.
pub struct Caller {
    server: SocketAddr,
    from: Option<IpAddr>,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

impl Caller {
    /// Connects.
    pub fn connect(server: SocketAddr) -> Result<Caller> {
        Caller::connect_from(server, None)
    }

    /// Connects from a certain address of this host.
    pub fn connect_from(server: SocketAddr, from: Option<IpAddr>) -> Result<Caller> {
        let mut caller = Caller { server, from, stream: None, buffer: vec![0; REPLY_BYTES] };
        caller.stream = Some(caller.open()?);
        Ok(caller)
    }

    fn open(&self) -> Result<TcpStream> {
        let open = || -> std::io::Result<TcpStream> {
            let socket = Socket::new(Domain::for_address(self.server), Type::STREAM, Some(Protocol::TCP))?;
            if let Some(from) = self.from {
                socket.bind(&SocketAddr::new(from, 0).into())?;
            }
            socket.connect_timeout(&self.server.into(), CONNECT_TIMEOUT)?;
            let stream = TcpStream::from(socket);
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
            stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
            Ok(stream)
        };
        open().context(|| format!("connect to {}", self.server))
    }

    /// Asks, and gives the body of the reply. After a failure the next call connects anew.
    pub fn call(&mut self, request: &[u8], reply: u8) -> Result<&[u8]> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.open()?,
        };
        let server = self.server;
        stream.write_all(request).context(|| format!("send to {server}"))?;
        let header = receive(&mut stream, &mut self.buffer).context(|| format!("reply of {server}"))?;
        let body = &self.buffer[HEADER_BYTES..HEADER_BYTES + header.body_bytes as usize];
        match header.status {
            0 if header.command == reply => {
                self.stream = Some(stream);
                Ok(body)
            }
            0 => fail!(Protocol, "{server} sent reply {}, want {reply}", header.command),
            FAILURE => Err(decode_failure(body)),
            status => fail!(Protocol, "{server} sent the status {status}"),
        }
    }
}

/// Reads one reply whole into the buffer, which grows to its size.
fn receive(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Header> {
    let (mut filled, mut wanted, mut found) = (0, HEADER_BYTES, None);
    loop {
        if filled >= wanted {
            match found {
                Some(header) if filled == wanted => return Ok(header),
                Some(_) => return fail!(Protocol, "{} bytes that nobody asked for", filled - wanted),
                None => {}
            }
            let header = Header::decode(buffer.first_chunk().expect("a buffer longer than a header"))?;
            if header.body_bytes > REPLY_BYTES_MAX {
                return fail!(Protocol, "{} bytes, want at most {REPLY_BYTES_MAX}", header.body_bytes);
            }
            wanted = HEADER_BYTES + header.body_bytes as usize;
            found = Some(header);
            if buffer.len() < wanted {
                buffer.resize(wanted, 0);
            }
            continue;
        }
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => return fail!(Unavailable, "the connection was closed"),
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                return fail!(Timeout, "nothing came for {REPLY_TIMEOUT:?}");
            }
            Err(error) => return Err(Error::from(error)),
        }
    }
}

/// What a reply must be and is not.
pub fn unexpected(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Protocol, what.to_string())
}
