//! The head of one request: checked within limits and reduced to what its service uses. What two servers
//! could read in two ways is refused: bare line feeds, two lengths, a coding beside a length, two hosts.

use std::borrow::Cow;
use std::str::FromStr;

use tiny_http::{HTTPVersion, Header, Method};

use crate::http::refusal::Refusal;
use crate::http::response::header;
use crate::http::status_code;

/// Longest head, request line and empty line included: the longest target, and twice as much for header
/// lines. Browsers send about 1 KiB of them, and proxies add their cookies.
pub const HEAD_BYTES_MAX: usize = 24 << 10;

/// Most header lines.
pub const HEADERS_MAX: usize = 100;

/// Longest request target, as received. Ours are far shorter, but proxies and shops add tokens: RFC 9110,
/// section 4.1, asks for at least 8000 octets, and nginx accepts as many.
pub const TARGET_BYTES_MAX: usize = 8 << 10;

/// Longest request line: the target, and method, blanks and version.
pub const LINE_BYTES_MAX: usize = TARGET_BYTES_MAX + 64;

/// Most bytes of empty lines before a request. Old clients send one after a body.
const EMPTY_LINES_BYTES_MAX: usize = 16;

/// A request, without its body.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// Path and query, or `*`: printable ASCII without blanks.
    pub target: String,
    /// The version: HTTP/1.0 or HTTP/1.1.
    pub version: HTTPVersion,
    /// Whether the client wants the connection to stay open.
    pub keep_alive: bool,
    /// Whether a body follows.
    pub has_body: bool,
    /// The header lines that the service uses, one a name; values are ASCII without control characters.
    pub headers: Vec<Header>,
}

impl RequestHead {
    /// The value of a header line that the service uses.
    pub fn value(&self, field: &'static str) -> Option<&str> {
        let found = self.headers.iter().find(|header| header.field.equiv(field));
        found.map(|header| header.value.as_str())
    }
}

/// Parses the head that `bytes` begin with: the head and its length, or `None` while it is incomplete. Of its
/// header lines those named in `kept` are kept. Several of one name are joined to a list, as HTTP defines it;
/// where a field is no list, the value is then invalid and treated so.
pub fn parse(bytes: &[u8], kept: &[&'static str]) -> Result<Option<(RequestHead, usize)>, Refusal> {
    if bytes.len() - bytes.trim_ascii_start().len() > EMPTY_LINES_BYTES_MAX {
        return Err(bad("too many blanks or empty lines before the request"));
    }
    let line = request_line(bytes);
    check_target_length(line)?;
    let plain = with_plain_target(bytes, line);
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(&plain) {
        Ok(httparse::Status::Complete(length)) => {
            check_line_ends(&plain[..length])?;
            Ok(Some((check(&request, kept)?, length - (plain.len() - bytes.len()))))
        }
        Ok(httparse::Status::Partial) => check_partial(bytes).map(|()| None),
        Err(error) => Err(malformed(error, &plain)),
    }
}

/// The request line as far as it is received, without its end.
fn request_line(bytes: &[u8]) -> &[u8] {
    bytes.trim_ascii_start().split(|&byte| byte == b'\n').next().unwrap_or_default()
}

/// Percent-encodes each byte of the target that is not ASCII: some clients send names unescaped, in UTF-8 or
/// in the character set of their language. The target's length is bounded, and this at most triples it.
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
            Err(Refusal::new(status_code::URI_TOO_LONG, text))
        }
    }
}

/// Refuses bare line feeds. Some servers end a line there and others do not, so a proxy and this server could
/// see different requests. RFC 9112, section 2.2, leaves the choice to each server.
fn check_line_ends(head: &[u8]) -> Result<(), Refusal> {
    match head.iter().enumerate().all(|(at, &byte)| byte != b'\n' || (at > 0 && head[at - 1] == b'\r')) {
        true => Ok(()),
        false => Err(bad("a line of the request's head ends without a carriage return")),
    }
}

/// Whether an incomplete head may still become a valid one.
fn check_partial(bytes: &[u8]) -> Result<(), Refusal> {
    match bytes.len() < HEAD_BYTES_MAX {
        true => Ok(()),
        false => {
            let text = format!("the request's head is longer than {HEAD_BYTES_MAX} bytes");
            Err(Refusal::new(status_code::HEAD_TOO_LARGE, text))
        }
    }
}

fn bad(text: impl Into<String>) -> Refusal {
    Refusal::new(status_code::BAD_REQUEST, text)
}

fn malformed(error: httparse::Error, bytes: &[u8]) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => {
            let text = format!("the request has more than {HEADERS_MAX} header lines");
            Refusal::new(status_code::HEAD_TOO_LARGE, text)
        }
        httparse::Error::Version if names_a_version(bytes) => {
            Refusal::new(status_code::VERSION_NOT_SUPPORTED, "this server supports HTTP/1.1 and HTTP/1.0")
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

/// Checks a well-formed head against the rules of HTTP.
fn check(request: &httparse::Request<'_, '_>, kept: &[&'static str]) -> Result<RequestHead, Refusal> {
    let is_http_10 = request.version == Some(0);
    check_host(request, is_http_10)?;
    let has_body = has_body(request, is_http_10)?;
    let method = Method::from_str(request.method.unwrap_or_default());
    let method = method.map_err(|()| bad("the request's method is not ASCII"))?;
    let target = target(&method, request.path.unwrap_or_default())?;
    let headers = kept.iter().filter_map(|&name| Some(header(name, joined(request, name)?)));
    Ok(RequestHead {
        method,
        target,
        version: HTTPVersion(1, if is_http_10 { 0 } else { 1 }),
        // After a body the connection is closed, so no byte of the body is taken for a request.
        keep_alive: keep_alive(request, is_http_10) && !has_body,
        has_body,
        headers: headers.collect(),
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

/// The list that the header lines of a name make, in printable ASCII. Other characters become `?`, so that
/// the value matches none of our validators.
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

/// Whether a body follows. A body of ambiguous length is refused.
fn has_body(request: &httparse::Request<'_, '_>, is_http_10: bool) -> Result<bool, Refusal> {
    let coding = values(request, "Transfer-Encoding").last();
    let is_encoded = coding.is_some();
    let last = coding.and_then(|codings| codings.rsplit(|&byte| byte == b',').next()).unwrap_or(b"chunked");
    if !last.trim_ascii().eq_ignore_ascii_case(b"chunked") {
        return Err(bad("a Transfer-Encoding that does not end in chunked makes the length ambiguous"));
    }
    let mut lengths = values(request, "Content-Length");
    let length = lengths.next();
    if is_encoded && (length.is_some() || is_http_10) {
        return Err(bad(
            "a Transfer-Encoding beside a Content-Length or in HTTP/1.0 makes the length ambiguous",
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

/// The target's path and query. The authority of an absolute target is ignored.
fn target(method: &Method, target: &str) -> Result<String, Refusal> {
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
    let is_known = path.starts_with('/') || (path == "*" && *method == Method::Options);
    match is_known && path.bytes().all(|byte| byte > b' ' && byte != 0x7F) {
        true => Ok(path.into_owned()),
        // CONNECT and its like name no path, and get 405 from the service.
        false if !matches!(method, Method::Get | Method::Head) => Ok("*".to_owned()),
        false => Err(bad("the request's target is not a path that begins with /")),
    }
}

#[cfg(test)]
#[path = "request_head_tests.rs"]
mod tests;
