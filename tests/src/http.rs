//! HTTP in raw bytes: one connection, requests as written, replies read by their framing alone.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::raw::REPLY_BOUND;

/// A reply.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The headers as they came.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// A header's value, by its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// A header that must be there.
    #[track_caller]
    pub fn want(&self, name: &str) -> &str {
        match self.header(name) {
            Some(value) => value,
            None => panic!("no {name} in {} {:?}", self.status, self.headers),
        }
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The parts of a multipart/byteranges body: each `Content-Range` and its bytes.
    #[track_caller]
    pub fn parts(&self) -> Vec<(String, Vec<u8>)> {
        let kind = self.want("Content-Type");
        assert!(kind.starts_with("multipart/byteranges"), "{kind}");
        let boundary = kind.split_once("boundary=").expect("a boundary").1.trim_matches('"');
        let delimiter = format!("--{boundary}").into_bytes();
        let mut rest = self.body.as_slice();
        let mut parts = Vec::new();
        loop {
            let at = find(rest, &delimiter).expect("a delimiter");
            rest = &rest[at + delimiter.len()..];
            if rest.starts_with(b"--") {
                return parts;
            }
            rest = rest.strip_prefix(b"\r\n").expect("a line's end after the delimiter");
            let end = find(rest, b"\r\n\r\n").expect("the end of a part's head");
            let head = String::from_utf8_lossy(&rest[..end]).into_owned();
            let range = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-range:").map(str::to_owned))
                .expect("a part's Content-Range");
            rest = &rest[end + 4..];
            // The part's length is in its range: content may contain anything.
            let span = range.trim().strip_prefix("bytes ").expect("bytes").split('/').next().expect("a span");
            let (first, last) = span.split_once('-').expect("first-last");
            let first: usize = first.parse().expect("a number");
            let last: usize = last.parse().expect("a number");
            let bytes = last - first + 1;
            parts.push((range.trim().to_owned(), rest[..bytes].to_vec()));
            rest = &rest[bytes..];
            assert!(rest.starts_with(b"\r\n"), "a line's end after the part");
        }
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// A connection.
pub struct Http {
    stream: TcpStream,
    host: String,
    buffer: Vec<u8>,
}

impl Http {
    /// Connects.
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Http {
        let stream = TcpStream::connect_timeout(&address, REPLY_BOUND).expect("connect");
        stream.set_nodelay(true).expect("no delay");
        stream.set_read_timeout(Some(REPLY_BOUND)).expect("a timeout");
        stream.set_write_timeout(Some(REPLY_BOUND)).expect("a timeout");
        Http { stream, host: address.to_string(), buffer: Vec::new() }
    }

    /// Connects and reads within a bound, or tells why not; a read that timed out may be tried again.
    pub fn try_connect(address: SocketAddr, bound: Duration) -> io::Result<Http> {
        let stream = TcpStream::connect_timeout(&address, bound)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(bound))?;
        stream.set_write_timeout(Some(REPLY_BOUND))?;
        Ok(Http { stream, host: address.to_string(), buffer: Vec::new() })
    }

    /// The socket.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("send");
    }

    /// Sends a request's head.
    #[track_caller]
    pub fn request(&mut self, method: &str, target: &str, headers: &[(&str, &str)]) {
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n", self.host);
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.send(head.as_bytes());
    }

    /// Reads a reply's head.
    pub fn head(&mut self) -> io::Result<Response> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                return Ok(parse_head(&head));
            }
            self.more()?;
        }
    }

    fn more(&mut self) -> io::Result<()> {
        let mut piece = [0; 64 << 10];
        match self.stream.read(&mut piece)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.buffer.extend_from_slice(&piece[..count]);
                Ok(())
            }
        }
    }

    /// Reads exactly so many bytes of a body.
    pub fn body(&mut self, bytes: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < bytes {
            self.more()?;
        }
        Ok(self.buffer.drain(..bytes).collect())
    }

    /// A whole reply to a request of a method. Every reply of ours has a length.
    pub fn try_response(&mut self, method: &str) -> io::Result<Response> {
        let mut response = self.head()?;
        let bodiless = method == "HEAD" || response.status == 304 || response.status == 204;
        if !bodiless {
            assert_eq!(response.header("Transfer-Encoding"), None, "chunked: {:?}", response.headers);
            let length = response.want("Content-Length").parse().expect("a number");
            response.body = self.body(length)?;
        }
        Ok(response)
    }

    /// A whole reply.
    #[track_caller]
    pub fn response(&mut self, method: &str) -> Response {
        match self.try_response(method) {
            Ok(response) => response,
            Err(error) => panic!("no reply to {method}: {error}"),
        }
    }

    /// Sends a request and reads its reply.
    #[track_caller]
    pub fn ask(&mut self, method: &str, target: &str, headers: &[(&str, &str)]) -> Response {
        self.request(method, target, headers);
        self.response(method)
    }

    /// Whether the server closes within a bound, saying nothing more.
    pub fn closes_within(&mut self, bound: Duration) -> bool {
        assert!(self.buffer.is_empty(), "the server said more: {:?}", String::from_utf8_lossy(&self.buffer));
        self.stream.set_read_timeout(Some(bound)).expect("a timeout");
        let mut byte = [0];
        let closed = match self.stream.read(&mut byte) {
            Ok(0) => true,
            Ok(_) => panic!("the server says more, beginning with byte {}", byte[0]),
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        };
        self.stream.set_read_timeout(Some(REPLY_BOUND)).expect("a timeout");
        closed
    }
}

fn parse_head(head: &[u8]) -> Response {
    let head = String::from_utf8_lossy(head);
    let mut lines = head.trim_end().split("\r\n");
    let status = lines.next().unwrap_or_default();
    assert!(status.starts_with("HTTP/1."), "{status:?}");
    let status = status.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status code");
    let headers = lines
        .map(|line| {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("header {line:?}"));
            (name.to_owned(), value.trim().to_owned())
        })
        .collect();
    Response { status, headers, body: Vec::new() }
}

/// The same from a server that may be away or go away.
pub fn try_get(address: SocketAddr, target: &str) -> io::Result<Response> {
    let mut stream = TcpStream::connect_timeout(&address, REPLY_BOUND)?;
    stream.set_read_timeout(Some(REPLY_BOUND))?;
    stream.set_write_timeout(Some(REPLY_BOUND))?;
    stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes())?;
    Http { stream, host: address.to_string(), buffer: Vec::new() }.try_response("GET")
}

/// One request on a connection of its own.
#[track_caller]
pub fn get(address: SocketAddr, target: &str, headers: &[(&str, &str)]) -> Response {
    Http::connect(address).ask("GET", target, headers)
}

/// The same with any method.
#[track_caller]
pub fn ask(address: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)]) -> Response {
    Http::connect(address).ask(method, target, headers)
}
