//! The head of one request: read within limits, checked, and reduced to what the service uses.
//! Nothing else of it travels inward, so that nothing a stranger invents reaches the service.

use std::borrow::Cow;

use crate::status::{Refusal, Status};

/// Longest head, request line and empty line included: the longest target, and twice as much for header lines, of
/// which browsers send about 1 KiB and proxies with cookies of their own some more.
pub const HEAD_BYTES_MAX: usize = 24 << 10;

/// Most header lines.
pub const HEADERS_MAX: usize = 100;

/// Longest request target, as it comes. Ours are far shorter, but a proxy or a shop may add a token of its own: RFC
/// 9110, section 4.1, asks for at least 8000 octets, and nginx takes as many.
pub const TARGET_BYTES_MAX: usize = 8 << 10;

/// Longest request line: the target, and method, blanks and version.
pub const LINE_BYTES_MAX: usize = TARGET_BYTES_MAX + 64;

/// Most bytes of empty lines before a request. Old clients send one after a body.
const EMPTY_LINES_BYTES_MAX: usize = 16;

/// The header lines that the service uses. Several of one name are joined to a list, as HTTP has
/// it; those that may not be lists are then no valid values and treated so.
const PASSED: [&str; 6] =
    ["Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"];

/// A request, as far as anybody here is concerned with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The method, a token.
    pub method: String,
    /// Path and query, or `*`: printable ASCII without blanks.
    pub target: String,
    /// Whether it speaks HTTP/1.0.
    pub is_http_10: bool,
    /// Whether the client wants the connection to last.
    pub keep_alive: bool,
    /// Whether a body follows.
    pub has_body: bool,
    /// The header lines for the service: name, and value in ASCII without control characters.
    pub passed: Vec<(&'static str, String)>,
}

impl Head {
    /// The value of a header line for the service.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.passed.iter().find(|(found, _)| *found == name).map(|(_, value)| value.as_str())
    }
}

/// Reads a head off the front of `bytes`: the head and its length, or nothing when more must come.
pub fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, Refusal> {
    if bytes.len() - bytes.trim_ascii_start().len() > EMPTY_LINES_BYTES_MAX {
        return Err(bad("there are many blanks or empty lines before the request"));
    }
    let line = request_line(bytes);
    check_target_length(line)?;
    let plain = with_plain_target(bytes, line);
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(&plain) {
        Ok(httparse::Status::Complete(length)) => {
            check_line_ends(&plain[..length])?;
            Ok(Some((check(&request)?, length - (plain.len() - bytes.len()))))
        }
        Ok(httparse::Status::Partial) => check_partial(bytes).map(|()| None),
        Err(error) => Err(malformed(error, &plain)),
    }
}

/// The request line as far as it has come, without its end.
fn request_line(bytes: &[u8]) -> &[u8] {
    bytes.trim_ascii_start().split(|&byte| byte == b'\n').next().unwrap_or_default()
}

/// Some clients send names as they are, in UTF-8 or in the character set of their language: each byte of the
/// target that is not ASCII is percent-encoded for them. The target is of bounded length, so that this makes
/// it at most three times as long.
fn with_plain_target<'a>(bytes: &'a [u8], line: &[u8]) -> Cow<'a, [u8]> {
    let Some(method) = line.iter().position(|&byte| byte == b' ') else { return Cow::Borrowed(bytes) };
    let start = bytes.len() - bytes.trim_ascii_start().len() + method + 1;
    let target = target_of(line);
    if target.is_ascii() {
        return Cow::Borrowed(bytes);
    }
    let mut plain = bytes[..start].to_vec();
    for &byte in target {
        match byte.is_ascii() {
            true => plain.push(byte),
            false => plain.extend_from_slice(percent_encoding::percent_encode_byte(byte).as_bytes()),
        }
    }
    plain.extend_from_slice(&bytes[start + target.len()..]);
    Cow::Owned(plain)
}

/// The second word of a request line.
fn target_of(line: &[u8]) -> &[u8] {
    line.split(|&byte| byte == b' ').nth(1).unwrap_or_default()
}

fn check_target_length(line: &[u8]) -> Result<(), Refusal> {
    match target_of(line).len() <= TARGET_BYTES_MAX && line.len() <= LINE_BYTES_MAX {
        true => Ok(()),
        false => {
            let text = format!("the request's target is longer than {TARGET_BYTES_MAX} bytes");
            Err(Refusal::new(Status::URI_TOO_LONG, text))
        }
    }
}

/// A bare line feed ends a line for some and not for others: where it stands before a proxy, the two
/// could see different requests. RFC 9112, section 2.2, leaves it to each server.
fn check_line_ends(head: &[u8]) -> Result<(), Refusal> {
    match head.iter().enumerate().all(|(at, &byte)| byte != b'\n' || (at > 0 && head[at - 1] == b'\r')) {
        true => Ok(()),
        false => Err(bad("a line of the request's head ends without a carriage return")),
    }
}

/// Whether what has come so far may still become a head.
fn check_partial(bytes: &[u8]) -> Result<(), Refusal> {
    match bytes.len() < HEAD_BYTES_MAX {
        true => Ok(()),
        false => {
            let text = format!("the request's head is longer than {HEAD_BYTES_MAX} bytes");
            Err(Refusal::new(Status::HEAD_TOO_LARGE, text))
        }
    }
}

fn bad(text: impl Into<String>) -> Refusal {
    Refusal::new(Status::BAD_REQUEST, text)
}

fn malformed(error: httparse::Error, bytes: &[u8]) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => {
            let text = format!("the request has more than {HEADERS_MAX} header lines");
            Refusal::new(Status::HEAD_TOO_LARGE, text)
        }
        httparse::Error::Version if names_a_version(bytes) => {
            Refusal::new(Status::VERSION_NOT_SUPPORTED, "this server speaks HTTP/1.1 and HTTP/1.0")
        }
        httparse::Error::HeaderName => bad("a header line has no valid name, or is folded"),
        httparse::Error::HeaderValue => bad("a header line has a control character in its value"),
        _ => bad("the request line is malformed, want METHOD TARGET HTTP/1.1"),
    }
}

/// Whether the request line has its three words, and the last is a version, if a wrong one.
fn names_a_version(bytes: &[u8]) -> bool {
    let mut words = request_line(bytes).trim_ascii_end().split(|&byte| byte == b' ').skip(2);
    let version = words.next().and_then(|word| word.strip_prefix(b"HTTP/"));
    words.next().is_none() && version.and_then(|version| version.first()).is_some_and(u8::is_ascii_digit)
}

/// Holds a well-formed head against the rules of HTTP.
fn check(request: &httparse::Request<'_, '_>) -> Result<Head, Refusal> {
    let method = request.method.unwrap_or_default();
    let is_http_10 = request.version == Some(0);
    check_host(request, is_http_10)?;
    let has_body = has_body(request, is_http_10)?;
    let target = target(method, request.path.unwrap_or_default())?;
    let passed = PASSED.into_iter().filter_map(|name| Some((name, joined(request, name)?)));
    Ok(Head {
        method: method.to_owned(),
        target,
        is_http_10,
        // Whoever sends a body to a server that takes none is asked to come again on a new
        // connection: no bytes of a body can then be taken for a request.
        keep_alive: keep_alive(request, is_http_10) && !has_body,
        has_body,
        passed: passed.collect(),
    })
}

/// The values of all header lines of a name.
fn values<'a>(request: &'a httparse::Request<'_, '_>, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    request
        .headers
        .iter()
        .filter(move |header| header.name.eq_ignore_ascii_case(name))
        .map(|header| header.value)
}

/// The list that the header lines of a name make, in ASCII without control characters. What is not
/// ASCII becomes `?`: it can then match none of our validators, as it did not before.
fn joined(request: &httparse::Request<'_, '_>, name: &str) -> Option<String> {
    let values: Vec<String> = values(request, name)
        .map(|value| {
            let plain = |&byte: &u8| match byte {
                b' '..=b'~' => char::from(byte),
                b'\t' => ' ',
                _ => '?',
            };
            value.iter().map(plain).collect()
        })
        .collect();
    (!values.is_empty()).then(|| values.join(", "))
}

fn check_host(request: &httparse::Request<'_, '_>, is_http_10: bool) -> Result<(), Refusal> {
    let mut hosts = values(request, "Host");
    match (hosts.next(), hosts.next()) {
        (None, _) if is_http_10 => Ok(()),
        (None, _) => Err(bad("the request has no Host header line")),
        (Some(_), Some(_)) => Err(bad("the request has more than one Host header line")),
        (Some(host), None) => match host.iter().all(|&byte| is_host_byte(byte)) {
            true => Ok(()),
            false => Err(bad("the request's Host is not a host and port")),
        },
    }
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(&byte)
}

/// Whether a body follows; one whose length is in doubt is refused.
fn has_body(request: &httparse::Request<'_, '_>, is_http_10: bool) -> Result<bool, Refusal> {
    let coding = values(request, "Transfer-Encoding").last();
    let is_encoded = coding.is_some();
    let last = coding.and_then(|codings| codings.rsplit(|&byte| byte == b',').next()).unwrap_or(b"chunked");
    if !last.trim_ascii().eq_ignore_ascii_case(b"chunked") {
        return Err(bad("a Transfer-Encoding that does not end in chunked leaves the length in doubt"));
    }
    let mut lengths = values(request, "Content-Length");
    let length = lengths.next();
    if is_encoded && (length.is_some() || is_http_10) {
        return Err(bad(
            "a Transfer-Encoding beside a Content-Length or in HTTP/1.0 leaves the length in doubt",
        ));
    }
    let Some(length) = length else { return Ok(is_encoded) };
    if length.is_empty() || !length.iter().all(u8::is_ascii_digit) || lengths.any(|other| other != length) {
        return Err(bad("the request's Content-Length is not one number"));
    }
    Ok(length.iter().any(|&digit| digit != b'0'))
}

fn keep_alive(request: &httparse::Request<'_, '_>, is_http_10: bool) -> bool {
    let has = |token: &[u8]| {
        values(request, "Connection")
            .flat_map(|value| value.split(|&byte| byte == b','))
            .any(|option| option.trim_ascii().eq_ignore_ascii_case(token))
    };
    !has(b"close") && (!is_http_10 || has(b"keep-alive"))
}

/// The target's path and query. The authority of an absolute one counts for nothing here.
fn target(method: &str, target: &str) -> Result<String, Refusal> {
    let path = match target.get(..target.find("://").map_or(0, |end| end + 3)).unwrap_or_default() {
        scheme if scheme.eq_ignore_ascii_case("http://") || scheme.eq_ignore_ascii_case("https://") => {
            let rest = &target[scheme.len()..];
            match rest.find(['/', '?']) {
                Some(start) if rest[start..].starts_with('/') => Cow::Borrowed(&rest[start..]),
                Some(start) => Cow::Owned(format!("/{}", &rest[start..])),
                None => Cow::Borrowed("/"),
            }
        }
        _ => Cow::Borrowed(target),
    };
    let is_known = path.starts_with('/') || (path == "*" && method == "OPTIONS");
    match is_known && path.bytes().all(|byte| byte > b' ' && byte != 0x7F) {
        true => Ok(path.into_owned()),
        // CONNECT and the like name no path; that they are not allowed is the better answer.
        false if !matches!(method, "GET" | "HEAD") => Ok("*".to_owned()),
        false => Err(bad("the request's target is not a path, want /files/FILEID")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Head {
        let (head, length) = parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!(length, text.len());
        head
    }

    fn refused(text: impl AsRef<[u8]>) -> u16 {
        parse(text.as_ref()).unwrap_err().status.0
    }

    #[test]
    fn only_what_the_service_uses_is_passed_on() {
        let head = whole(
            "GET /files/x?download HTTP/1.1\r\nhost: a:8080\r\nCookie: secret\r\nrange: bytes=0-1\r\n\
             If-None-Match: \"a\"\r\nif-none-match: \"bü\"\r\nX-Tnv-Link: 7\r\n\r\n",
        );
        assert_eq!((head.method.as_str(), head.target.as_str()), ("GET", "/files/x?download"));
        let passed = [("Range", "bytes=0-1"), ("If-None-Match", "\"a\", \"b??\"")];
        assert_eq!(head.passed, passed.map(|(name, value)| (name, value.to_owned())));
        assert_eq!((head.value("Range"), head.value("If-Match")), (Some("bytes=0-1"), None));
        assert!(head.keep_alive && !head.has_body && !head.is_http_10);
    }

    #[test]
    fn a_head_in_pieces_is_waited_for() {
        let text = "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for end in 0..text.len() {
            assert_eq!(parse(&text.as_bytes()[..end]), Ok(None), "{end}");
        }
        assert!(parse(text.as_bytes()).unwrap().is_some());
    }

    #[test]
    fn the_connection_lasts_as_the_client_wants() {
        for (text, want) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nHost: a\r\nConnection: foo, Close\r\n\r\n", false),
            ("GET / HTTP/1.0\r\n\r\n", false),
            ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", false),
        ] {
            assert_eq!(whole(text).keep_alive, want, "{text}");
        }
    }

    #[test]
    fn targets_of_every_form_become_a_path() {
        for (method, target, want) in [
            ("GET", "/a?b", "/a?b"),
            ("GET", "http://host:80/a/b?c", "/a/b?c"),
            ("GET", "HTTPS://host", "/"),
            ("GET", "http://host?q", "/?q"),
            ("GET", "/f%C3%BC?x=http://y/", "/f%C3%BC?x=http://y/"),
            ("GET", "/fü", "/f%C3%BC"),
            ("GET", "http://h/ü?ü", "/%C3%BC?%C3%BC"),
            ("OPTIONS", "*", "*"),
            ("CONNECT", "host:443", "*"),
        ] {
            assert_eq!(whole(&format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n")).target, want);
        }
        for target in ["*", "files/x", "ftp://host/x", "host:443"] {
            assert_eq!(refused(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")), 400, "{target}");
        }
    }

    /// The story: old browsers send a name as it stands in the page, in GBK or Latin-1.
    #[test]
    fn bytes_that_are_not_ascii_are_escaped_whatever_they_are_written_in() {
        let text = b"\r\nGET /files/f/\xB5\xE7\xD3\xB0.mp4 HTTP/1.1\r\nHost: a\r\n\r\nGET /next";
        let (head, length) = parse(text).unwrap().unwrap();
        assert_eq!(head.target, "/files/f/%B5%E7%D3%B0.mp4");
        assert_eq!(&text[length..], b"GET /next");
        for end in 0..length {
            assert_eq!(parse(&text[..end]), Ok(None), "{end}");
        }
        assert_eq!(refused(b"G\xE9T / HTTP/1.1\r\nHost: a\r\n\r\n"), 400);
        assert_eq!(refused(b"GET / \xE9TTP/1.1\r\nHost: a\r\n\r\n"), 400);
    }

    #[test]
    fn what_is_not_http_is_refused_with_the_reason() {
        for (text, want) in [
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nX : a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400),
            ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET /\r\n\r\n", 400),
            ("GET / HTTP/1.1\nHost: a\n\n", 400),
            ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: a\nContent-Length: 9\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\rX: a\r\n\r\n", 400),
            ("\x16\x03\x01\x02\x00", 400),
            ("G\0T / HTTP/1.1\r\n", 400),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
            ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ] {
            assert_eq!(refused(text), want, "{text:?}");
        }
    }

    #[test]
    fn heads_are_held_to_their_limits() {
        let long = "x".repeat(TARGET_BYTES_MAX);
        for char in ["x", "\u{20AC}"] {
            let longest = format!("/{}", char.repeat((TARGET_BYTES_MAX - 1) / char.len()));
            let escaped = longest.replace('\u{20AC}', "%E2%82%AC");
            assert_eq!(whole(&format!("OPTIONS {longest} HTTP/1.1\r\nHost: a\r\n\r\n")).target, escaped);
        }
        assert_eq!(refused(format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n")), 414);
        assert_eq!(refused(format!("GET /{long}{long}")), 414);
        assert_eq!(refused("\r\n".repeat(9)), 400);
        let lines = "A: b\r\n".repeat(HEADERS_MAX);
        assert_eq!(refused(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")), 431);
        let line = format!("A: {}", "x".repeat(HEAD_BYTES_MAX));
        assert_eq!(refused(format!("GET / HTTP/1.1\r\nHost: a\r\n{line}")), 431);
    }
}
