//! The HTTP door: each thread GETs on one connection that is kept open, from `tnv-httpd` or from whatever
//! server is to be compared with it. Answers must have a `Content-Length`; there is no TLS.

use std::io::{ErrorKind as IoErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::str::FromStr;

use tnv_client::{AppId, Error, ErrorKind, FileId, Result, Triple, UserId};
use tnv_common::auth::signed_link;
use tnv_common::error::Context;
use tnv_common::fail;
use tnv_common::limits::{CONNECT_TIMEOUT, COPY_BYTES, PROGRESS_TIMEOUT};
use tnv_common::net::resolve;
use tnv_common::text::shown;

use super::content::{Check, Content};
use super::row::{Door, File, Session};

/// Where nothing else is said.
const PORT: u16 = 80;

/// A URL is at most this long, which is what servers take.
const URL_BYTES_MAX: usize = 4096;

/// The longest head of an answer, and the most headers in it.
const HEAD_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 100;

/// `http://host[:port][/path]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    /// `host[:port]`, as the request names it.
    host: String,
    /// Begins with a slash.
    path: String,
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Url, String> {
        let shown = shown(text.as_bytes());
        let want = "want http://host[:port][/path]";
        if text.len() > URL_BYTES_MAX {
            return Err(format!("a URL of {} bytes, want at most {URL_BYTES_MAX}", text.len()));
        }
        if text.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://")) {
            return Err(format!("'{shown}' is HTTPS, which this does not speak, {want}"));
        }
        let scheme = text.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://"));
        if !scheme || text.bytes().any(|byte| !(0x21..=0x7E).contains(&byte)) || text.contains('#') {
            return Err(format!("invalid URL '{shown}', {want}, in ASCII and without '#'"));
        }
        let rest = &text[7..];
        let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if host.is_empty() || host.contains('@') {
            return Err(format!("invalid URL '{shown}', {want}"));
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Url { host: host.to_owned(), path })
    }
}

impl Url {
    /// The URL itself, or with `path` what lies below it.
    fn request(&self, path: &str, request: &mut Vec<u8>) {
        request.clear();
        let base = if path.is_empty() { self.path.as_str() } else { self.path.trim_end_matches('/') };
        for part in ["GET ", base, path, " HTTP/1.1\r\nHost: ", &self.host, "\r\n\r\n"] {
            request.extend_from_slice(part.as_bytes());
        }
    }

    fn address(&self) -> Result<SocketAddr> {
        let addresses = resolve(&self.host, PORT)?;
        addresses.first().copied().ok_or_else(|| Error::new(ErrorKind::Unavailable, "no address"))
    }
}

/// Downloads come from an HTTP server; everything else goes through the door behind.
pub(super) struct HttpDoor<'a> {
    url: &'a Url,
    address: SocketAddr,
    behind: &'a dyn Door,
    owner: (AppId, UserId),
}

impl<'a> HttpDoor<'a> {
    pub(super) fn new(url: &'a Url, behind: &'a dyn Door, owner: (AppId, UserId)) -> Result<HttpDoor<'a>> {
        Ok(HttpDoor { url, address: url.address()?, behind, owner })
    }
}

impl Door for HttpDoor<'_> {
    fn session(&self) -> Result<Box<dyn Session + '_>> {
        let behind = self.behind.session()?;
        let get = Get::connect(self.address)?;
        Ok(Box::new(HttpSession { door: self, get, behind, request: Vec::new() }))
    }
}

struct HttpSession<'a> {
    door: &'a HttpDoor<'a>,
    get: Get,
    behind: Box<dyn Session + 'a>,
    request: Vec<u8>,
}

impl Session for HttpSession<'_> {
    fn upload(&mut self, content: &mut Content<'_>) -> Result<Box<str>> {
        self.behind.upload(content)
    }

    fn download(&mut self, file: &File, check: &mut Check<'_>) -> Result<()> {
        let (appid, userid) = self.door.owner.clone();
        let fileid = FileId::new(&*file.id)?;
        let path = signed_link::path(&Triple { appid, userid, fileid });
        self.door.url.request(&path, &mut self.request);
        self.get.fetch(&self.request, check)
    }

    fn delete(&mut self, file: &File) -> Result<()> {
        self.behind.delete(file)
    }
}

/// One URL, again and again.
pub(super) struct GetDoor {
    address: SocketAddr,
    request: Vec<u8>,
}

impl GetDoor {
    pub(super) fn new(url: &Url) -> Result<GetDoor> {
        let mut request = Vec::new();
        url.request("", &mut request);
        Ok(GetDoor { address: url.address()?, request })
    }

    /// How much there is behind the URL.
    pub(super) fn size(&self) -> Result<u64> {
        let mut get = Get::connect(self.address)?;
        get.send(&self.request)?;
        get.head().map(|head| head.length)
    }
}

impl Door for GetDoor {
    fn session(&self) -> Result<Box<dyn Session + '_>> {
        Ok(Box::new(GetSession { get: Get::connect(self.address)?, request: &self.request }))
    }
}

struct GetSession<'a> {
    get: Get,
    request: &'a [u8],
}

impl Session for GetSession<'_> {
    fn upload(&mut self, _: &mut Content<'_>) -> Result<Box<str>> {
        fail!(Unsupported, "nothing is uploaded to a URL")
    }

    fn download(&mut self, _: &File, check: &mut Check<'_>) -> Result<()> {
        self.get.fetch(self.request, check)
    }

    fn delete(&mut self, _: &File) -> Result<()> {
        fail!(Unsupported, "nothing is removed from a URL")
    }
}

/// What an answer's head says.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    length: u64,
    /// The server closes after it.
    closes: bool,
    /// How long the head itself is.
    bytes: usize,
}

/// A connection that is opened anew where the server has closed it.
struct Get {
    address: SocketAddr,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
    /// How much of the buffer is filled.
    filled: usize,
}

impl Get {
    fn connect(address: SocketAddr) -> Result<Get> {
        let mut get = Get { address, stream: None, buffer: vec![0; COPY_BYTES], filled: 0 };
        get.open()?;
        Ok(get)
    }

    fn open(&mut self) -> Result<()> {
        let connect = || {
            let stream = TcpStream::connect_timeout(&self.address, CONNECT_TIMEOUT)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PROGRESS_TIMEOUT))?;
            stream.set_write_timeout(Some(PROGRESS_TIMEOUT))?;
            Ok::<_, std::io::Error>(stream)
        };
        self.stream = Some(connect().context(|| format!("connect to {}", self.address))?);
        Ok(())
    }

    /// A request, and its whole answer.
    fn fetch(&mut self, request: &[u8], check: &mut Check<'_>) -> Result<()> {
        let outcome = self.try_fetch(request, check);
        if outcome.is_err() {
            self.stream = None;
        }
        outcome
    }

    fn try_fetch(&mut self, request: &[u8], check: &mut Check<'_>) -> Result<()> {
        let was_open = self.stream.is_some();
        if !was_open {
            self.open()?;
        }
        let mut head = self.send(request).and_then(|()| self.head());
        // A server may close a connection that idles, at any moment.
        if was_open && self.filled == 0 && head.as_ref().is_err_and(|e| e.kind() == ErrorKind::Unavailable) {
            self.open()?;
            head = self.send(request).and_then(|()| self.head());
        }
        let head = head?;
        if head.length != check.size() {
            return fail!(Mismatch, "{} sends {} bytes, want {}", self.address, head.length, check.size());
        }
        let first = (self.filled - head.bytes) as u64;
        if first > head.length {
            return fail!(Protocol, "{} sent more than its Content-Length, {}", self.address, head.length);
        }
        check.take(&self.buffer[head.bytes..self.filled])?;
        let mut missing = head.length - first;
        while missing > 0 {
            let most = self.buffer.len().min(usize::try_from(missing).unwrap_or(usize::MAX));
            let count = self.read(0, most)?;
            check.take(&self.buffer[..count])?;
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
            Some(stream) => stream.write_all(request).context(|| format!("ask {}", self.address)),
            None => fail!(Unavailable, "the connection to {} is closed", self.address),
        }
    }

    /// Reads an answer's head, and as much more as comes with it.
    fn head(&mut self) -> Result<Head> {
        loop {
            let count = self.read(self.filled, self.buffer.len())?;
            self.filled += count;
            let seen = &self.buffer[..self.filled.min(HEAD_BYTES_MAX)];
            match parse_head(seen).map_err(|error| error.context(self.address))? {
                Some(head) => return usable(head).map_err(|error| error.context(self.address)),
                None if self.filled >= HEAD_BYTES_MAX => {
                    return fail!(Protocol, "{} sent a head of over {HEAD_BYTES_MAX} bytes", self.address);
                }
                None => {}
            }
        }
    }

    /// Reads into a part of the buffer; at least one byte.
    fn read(&mut self, from: usize, to: usize) -> Result<usize> {
        let Some(stream) = &mut self.stream else {
            return fail!(Unavailable, "the connection to {} is closed", self.address);
        };
        loop {
            match stream.read(&mut self.buffer[from..to]) {
                Ok(0) => return fail!(Unavailable, "{} closed the connection", self.address),
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == IoErrorKind::Interrupted => {}
                Err(error) => return Err(error).context(|| format!("read from {}", self.address)),
            }
        }
    }
}

/// An answer's head, where it is whole.
fn parse_head(bytes: &[u8]) -> Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let size = match response.parse(bytes) {
        Ok(httparse::Status::Complete(size)) => size,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return fail!(Protocol, "sent no HTTP answer: {error}"),
    };
    let value = |name: &str| {
        let mut found = response.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
        found.next().map(|header| header.value.trim_ascii())
    };
    let length = value("Content-Length").and_then(|text| str::from_utf8(text).ok()?.parse::<u64>().ok());
    let Some(length) = length.filter(|_| value("Transfer-Encoding").is_none()) else {
        return fail!(Unsupported, "sent an answer without a Content-Length, which this cannot read");
    };
    let keeps = value("Connection").map(|text| text.eq_ignore_ascii_case(b"keep-alive"));
    let closes = value("Connection").is_some_and(|text| text.eq_ignore_ascii_case(b"close"))
        || (response.version == Some(0) && keeps != Some(true));
    Ok(Some(Head { status: response.code.unwrap_or_default(), length, closes, bytes: size }))
}

/// Whether an answer has what was asked for.
fn usable(head: Head) -> Result<Head> {
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

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    fn request(url: &str, path: &str) -> String {
        let mut request = Vec::new();
        self::url(url).request(path, &mut request);
        String::from_utf8(request).unwrap()
    }

    #[test]
    fn a_url_is_asked_for_as_it_is_and_files_below_it() {
        assert_eq!(request("http://h:8080/a?b=c", ""), "GET /a?b=c HTTP/1.1\r\nHost: h:8080\r\n\r\n");
        assert_eq!(request("HTTP://h", ""), "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(request("http://h?x", ""), "GET /?x HTTP/1.1\r\nHost: h\r\n\r\n");
        for base in ["http://h", "http://h/"] {
            assert_eq!(request(base, "/files/a"), "GET /files/a HTTP/1.1\r\nHost: h\r\n\r\n");
        }
        assert_eq!(request("http://h/p/", "/files/a"), "GET /p/files/a HTTP/1.1\r\nHost: h\r\n\r\n");
    }

    #[test]
    fn a_url_that_cannot_be_asked_for_is_refused() {
        let long = format!("http://h/{}", "a".repeat(URL_BYTES_MAX));
        for (text, says) in [
            ("https://h/", "is HTTPS"),
            ("h:8080", "invalid URL 'h:8080', want http://host[:port][/path]"),
            ("http://", "invalid URL"),
            ("http:///x", "invalid URL"),
            ("http://user@h/", "invalid URL"),
            ("http://h/a b", "in ASCII"),
            ("http://h/\r\nX: y", "invalid URL"),
            ("http://h/ü", "in ASCII"),
            ("http://h/#x", "without '#'"),
            (&long, "want at most 4096"),
        ] {
            let error = text.parse::<Url>().unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn the_head_of_an_answer() {
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
            assert!(head(text).unwrap_err().message().contains("without a Content-Length"));
        }
        assert!(head("SSH-2.0-OpenSSH\r\n").unwrap_err().message().contains("no HTTP answer"));
        let missing = head("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n").unwrap().unwrap();
        assert_eq!(usable(missing).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
