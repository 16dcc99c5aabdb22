//! The driver of HTTP: each thread sends GET requests on one persistent connection to `tnv-httpd` or any
//! other server. Responses need a `Content-Length`. There is no TLS.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use tnv_client::{AppId, Error, ErrorKind, FileId, FileKey, Result, UserId};
use tnv_common::auth::signed_link;
use tnv_common::error::Context;
use tnv_common::fail;
use tnv_common::limits::COPY_BYTES;

use super::driver::{Driver, File, Session};
use super::payload::{Payload, Verifier};
use super::socket::{connect, read};
use super::url::Url;

/// The largest response head, and most headers in it.
const HEAD_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 100;

/// Downloads from an HTTP server. Uploads and deletes go through another driver.
pub(super) struct HttpDriver<'a> {
    url: &'a Url,
    address: SocketAddr,
    writer: &'a dyn Driver,
    owner: (AppId, UserId),
}

impl<'a> HttpDriver<'a> {
    pub(super) fn new(
        url: &'a Url,
        writer: &'a dyn Driver,
        owner: (AppId, UserId),
    ) -> Result<HttpDriver<'a>> {
        Ok(HttpDriver { url, address: url.address()?, writer, owner })
    }
}

impl Driver for HttpDriver<'_> {
    fn session(&self) -> Result<Box<dyn Session + '_>> {
        let writer = self.writer.session()?;
        let get = Get::connect(self.address)?;
        Ok(Box::new(HttpSession { driver: self, get, writer, request: Vec::new() }))
    }
}

struct HttpSession<'a> {
    driver: &'a HttpDriver<'a>,
    get: Get,
    writer: Box<dyn Session + 'a>,
    request: Vec<u8>,
}

impl Session for HttpSession<'_> {
    fn upload(&mut self, payload: &mut Payload<'_>) -> Result<Box<str>> {
        self.writer.upload(payload)
    }

    fn download(&mut self, file: &File, verifier: &mut Verifier<'_>) -> Result<()> {
        let (appid, userid) = self.driver.owner.clone();
        let fileid = FileId::new(&*file.id)?;
        let path = signed_link::path(&FileKey { appid, userid, fileid });
        self.driver.url.request(&path, &mut self.request);
        self.get.fetch(&self.request, verifier)
    }

    fn delete(&mut self, file: &File) -> Result<()> {
        self.writer.delete(file)
    }
}

/// One URL, repeatedly.
pub(super) struct GetDriver {
    address: SocketAddr,
    request: Vec<u8>,
}

impl GetDriver {
    pub(super) fn new(url: &Url) -> Result<GetDriver> {
        let mut request = Vec::new();
        url.request("", &mut request);
        Ok(GetDriver { address: url.address()?, request })
    }

    /// The content length of the URL.
    pub(super) fn size(&self) -> Result<u64> {
        let mut get = Get::connect(self.address)?;
        get.send(&self.request)?;
        get.head().map(|head| head.length)
    }
}

impl Driver for GetDriver {
    fn session(&self) -> Result<Box<dyn Session + '_>> {
        Ok(Box::new(GetSession { get: Get::connect(self.address)?, request: &self.request }))
    }
}

struct GetSession<'a> {
    get: Get,
    request: &'a [u8],
}

impl Session for GetSession<'_> {
    fn upload(&mut self, _: &mut Payload<'_>) -> Result<Box<str>> {
        fail!(Unsupported, "--get has no uploads")
    }

    fn download(&mut self, _: &File, verifier: &mut Verifier<'_>) -> Result<()> {
        self.get.fetch(self.request, verifier)
    }

    fn delete(&mut self, _: &File) -> Result<()> {
        fail!(Unsupported, "--get has no deletes")
    }
}

/// A response head.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    length: u64,
    /// The server closes the connection after the response.
    closes: bool,
    /// The length of the head itself.
    bytes: usize,
}

/// A connection, which is opened again after the server has closed it.
struct Get {
    address: SocketAddr,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
    /// The filled bytes of the buffer.
    filled: usize,
}

impl Get {
    fn connect(address: SocketAddr) -> Result<Get> {
        let stream = Some(connect(address)?);
        Ok(Get { address, stream, buffer: vec![0; COPY_BYTES], filled: 0 })
    }

    /// Sends a request and reads the whole response.
    fn fetch(&mut self, request: &[u8], verifier: &mut Verifier<'_>) -> Result<()> {
        let outcome = self.try_fetch(request, verifier);
        if outcome.is_err() {
            self.stream = None;
        }
        outcome
    }

    fn try_fetch(&mut self, request: &[u8], verifier: &mut Verifier<'_>) -> Result<()> {
        let was_open = self.stream.is_some();
        if !was_open {
            self.stream = Some(connect(self.address)?);
        }
        let mut head = self.send(request).and_then(|()| self.head());
        // The server may close an idle connection at any time.
        if was_open && self.filled == 0 && head.as_ref().is_err_and(|e| e.kind() == ErrorKind::Unavailable) {
            self.stream = Some(connect(self.address)?);
            head = self.send(request).and_then(|()| self.head());
        }
        let head = head?;
        if head.length != verifier.size() {
            return fail!(
                Mismatch,
                "{} announces {} bytes, want {}",
                self.address,
                head.length,
                verifier.size()
            );
        }
        let first = (self.filled - head.bytes) as u64;
        if first > head.length {
            return fail!(Protocol, "{} sent more than its Content-Length, {}", self.address, head.length);
        }
        verifier.take(&self.buffer[head.bytes..self.filled])?;
        let mut missing = head.length - first;
        while missing > 0 {
            let most = self.buffer.len().min(usize::try_from(missing).unwrap_or(usize::MAX));
            let count = self.read(0, most)?;
            verifier.take(&self.buffer[..count])?;
            missing -= count as u64;
        }
        if head.closes {
            self.stream = None;
        }
        Ok(())
    }

    fn send(&mut self, request: &[u8]) -> Result<()> {
        self.filled = 0;
        match &mut self.stream {
            Some(stream) => {
                stream.write_all(request).context(|| format!("send a request to {}", self.address))
            }
            None => fail!(Unavailable, "the connection to {} is closed", self.address),
        }
    }

    /// Reads a response head, and the content that comes with it.
    fn head(&mut self) -> Result<Head> {
        loop {
            let count = self.read(self.filled, self.buffer.len())?;
            self.filled += count;
            let seen = &self.buffer[..self.filled.min(HEAD_BYTES_MAX)];
            match parse_head(seen).map_err(|error| error.context(self.address))? {
                Some(head) => return expect_ok(head).map_err(|error| error.context(self.address)),
                None if self.filled >= HEAD_BYTES_MAX => {
                    return fail!(Protocol, "{} sent a head of over {HEAD_BYTES_MAX} bytes", self.address);
                }
                None => {}
            }
        }
    }

    /// Reads at least one byte into a part of the buffer.
    fn read(&mut self, from: usize, to: usize) -> Result<usize> {
        let Some(stream) = &mut self.stream else {
            return fail!(Unavailable, "the connection to {} is closed", self.address);
        };
        read(stream, &mut self.buffer[from..to]).map_err(|error| error.context(self.address))
    }
}

/// A response head; `None` while it is incomplete.
fn parse_head(bytes: &[u8]) -> Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let size = match response.parse(bytes) {
        Ok(httparse::Status::Complete(size)) => size,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return fail!(Protocol, "sent no valid HTTP response: {error}"),
    };
    let value = |name: &str| {
        let mut found = response.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
        found.next().map(|header| header.value.trim_ascii())
    };
    let length = value("Content-Length").and_then(|text| str::from_utf8(text).ok()?.parse::<u64>().ok());
    let Some(length) = length.filter(|_| value("Transfer-Encoding").is_none()) else {
        return fail!(Unsupported, "sent a response without a Content-Length, which is not supported");
    };
    let keeps = value("Connection").map(|text| text.eq_ignore_ascii_case(b"keep-alive"));
    let closes = value("Connection").is_some_and(|text| text.eq_ignore_ascii_case(b"close"))
        || (response.version == Some(0) && keeps != Some(true));
    Ok(Some(Head { status: response.code.unwrap_or_default(), length, closes, bytes: size }))
}

/// Refuses a response without the requested content.
fn expect_ok(head: Head) -> Result<Head> {
    let kind = match head.status {
        200 => return Ok(head),
        404 | 410 => ErrorKind::NotFound,
        401 | 403 => ErrorKind::Forbidden,
        502..=504 => ErrorKind::Unavailable,
        _ => ErrorKind::Invalid,
    };
    Err(Error::new(kind, format!("answered with status {}, want 200", head.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_of_a_response() {
        let head = |text: &str| parse_head(text.as_bytes());
        let text = "HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n";
        let want = Head { status: 200, length: 12, closes: false, bytes: text.len() };
        assert_eq!(head(&format!("{text}hello")).unwrap(), Some(want));
        assert_eq!(head("HTTP/1.1 200 OK\r\nContent-Le").unwrap(), None);
        let closes = |text| head(text).unwrap().unwrap().closes;
        assert!(closes("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: Close\r\n\r\n"));
        assert!(closes("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n"));
        assert!(!closes("HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n"));
        for text in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert_eq!(head(text).unwrap_err().kind(), ErrorKind::Unsupported);
        }
        assert_eq!(head("SSH-2.0-OpenSSH\r\n").unwrap_err().kind(), ErrorKind::Protocol);
        let missing = head("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n").unwrap().unwrap();
        assert_eq!(expect_ok(missing).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
