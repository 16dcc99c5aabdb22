//! Responses as tiny_http has them, and their bytes. tiny_http's writer is made for its own connections; what
//! it does not know here is completed: `Connection`, and responses that have no length.

use std::io::Cursor;

use tiny_http::{HTTPVersion, Header, StatusCode};

use crate::http::status_code;

/// A response whose body, if it is sent with the head, is in memory.
pub type Response = tiny_http::Response<Cursor<Vec<u8>>>;

/// What most heads need, so that the buffer does not grow.
const HEAD_BYTES: usize = 640;

/// The product, without its version: RFC 9110, section 10.2.4, warns of details.
const SERVER: &str = "TNV";

const EMPTY_LINE: &[u8] = b"\r\n";

/// A header line. What is not printable ASCII in the value becomes `?`, so that no value ends its line.
pub fn header(name: &'static str, value: impl Into<String>) -> Header {
    let mut value = value.into().into_bytes();
    for byte in &mut value {
        if !matches!(byte, b' '..=b'~') {
            *byte = b'?';
        }
    }
    Header::from_bytes(name, value).expect("an ASCII name, and a value that was made ASCII")
}

/// A response whose body of so many bytes is sent separately.
pub fn with_length(status: StatusCode, headers: Vec<Header>, body_bytes: u64) -> Response {
    let length = usize::try_from(body_bytes).unwrap_or(usize::MAX);
    Response::new(status, headers, Cursor::default(), Some(length), None)
}

/// A response with this body.
pub fn with_text(status: StatusCode, headers: Vec<Header>, body: String) -> Response {
    let length = body.len();
    Response::new(status, headers, Cursor::new(body.into_bytes()), Some(length), None)
}

/// The bytes of a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// The head, then the body where it is sent with the head.
    pub bytes: Vec<u8>,
    /// The length of the head, empty line included.
    pub head_bytes: usize,
}

/// What the head says about the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// Nothing: it stays open, as HTTP/1.1 has it.
    Default,
    /// It stays open, which an HTTP/1.0 client must read to believe.
    KeepAlive,
    /// It is closed after this response.
    Close,
}

impl Connection {
    /// What a client that speaks this version must be sent.
    pub fn new(keep_alive: bool, version: &HTTPVersion) -> Connection {
        match (keep_alive, *version <= (1, 0)) {
            (false, _) => Connection::Close,
            (true, true) => Connection::KeepAlive,
            (true, false) => Connection::Default,
        }
    }

    fn line(self) -> &'static [u8] {
        match self {
            Connection::Default => b"",
            Connection::KeepAlive => b"Connection: keep-alive\r\n",
            Connection::Close => b"Connection: close\r\n",
        }
    }
}

/// Which part of a response is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The head alone: the answer to HEAD, or of a body that is sent separately.
    Head,
    /// The head and the body in memory.
    All,
}

/// Writes a response. The request's headers are not passed on: `TE` would change the framing.
pub fn write(response: Response, part: Part, connection: Connection) -> Written {
    let status = response.status_code();
    let body_bytes = response.data_length().filter(|_| part == Part::All).unwrap_or(0);
    let response = response.with_chunked_threshold(usize::MAX).with_header(header("Server", SERVER));
    let mut bytes = Vec::with_capacity(HEAD_BYTES + body_bytes);
    // Reading a `Cursor` and writing to a `Vec` cannot fail.
    let _ = response.raw_print(&mut bytes, HTTPVersion(1, 1), &[], part == Part::Head, None);
    // Neither status has a body, and RFC 9110, section 8.6, forbids a 204 to have a length.
    let is_bodiless = matches!(status, status_code::NO_CONTENT | status_code::NOT_MODIFIED);
    let body = match part {
        Part::All if !is_bodiless => bytes.split_off(bytes.len() - body_bytes),
        Part::All | Part::Head => Vec::new(),
    };
    bytes.truncate(bytes.len() - EMPTY_LINE.len());
    if is_bodiless {
        // The length is the last line that tiny_http writes.
        let without_last = bytes[..bytes.len() - 1].iter().rposition(|&byte| byte == b'\n');
        bytes.truncate(without_last.map_or(bytes.len(), |end| end + 1));
    }
    bytes.extend_from_slice(connection.line());
    bytes.extend_from_slice(EMPTY_LINE);
    let head_bytes = bytes.len();
    bytes.extend_from_slice(&body);
    Written { bytes, head_bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(written: &Written) -> (&str, &str) {
        let (head, body) = written.bytes.split_at(written.head_bytes);
        (std::str::from_utf8(head).unwrap(), std::str::from_utf8(body).unwrap())
    }

    #[test]
    fn a_response_has_its_length_and_is_never_chunked() {
        for bytes in [0, 1, 32 << 10, 1 << 40, i64::MAX.unsigned_abs()] {
            let response = with_length(status_code::OK, vec![header("ETag", "\"a\"")], bytes);
            let written = write(response, Part::Head, Connection::Close);
            let (head, body) = text(&written);
            let end =
                format!("ETag: \"a\"\r\nServer: TNV\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n");
            assert!(head.starts_with("HTTP/1.1 200 OK\r\nDate: ") && head.ends_with(&end), "{head}");
            assert_eq!(body, "");
        }
    }

    #[test]
    fn a_small_body_follows_its_head_unless_only_the_head_is_wanted() {
        let response = || with_text(status_code::NOT_FOUND, vec![], "gone\n".to_owned());
        let all = write(response(), Part::All, Connection::KeepAlive);
        let (head, body) = text(&all);
        assert!(head.ends_with("Content-Length: 5\r\nConnection: keep-alive\r\n\r\n"), "{head}");
        assert_eq!(body, "gone\n");
        let head_alone = write(response(), Part::Head, Connection::KeepAlive);
        assert_eq!(text(&head_alone), (head, ""));
    }

    #[test]
    fn what_has_no_body_has_no_length() {
        for status in [status_code::NO_CONTENT, status_code::NOT_MODIFIED] {
            for part in [Part::Head, Part::All] {
                let written = write(with_length(status, vec![], 0), part, Connection::Default);
                let (head, body) = text(&written);
                assert!(head.ends_with("Server: TNV\r\n\r\n") && !head.contains("Content-Length"), "{head}");
                assert_eq!(body, "");
            }
        }
    }

    #[test]
    fn no_value_ends_its_line() {
        let header = header("X", "a\r\nSet-Cookie: b\0\u{fc}");
        assert_eq!(header.value.as_str(), "a??Set-Cookie: b???");
    }
}
