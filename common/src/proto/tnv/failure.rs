//! The body of a failure reply: an error number and a text.

use crate::error::{Error, ErrorKind};
use crate::proto::field::Reader;
use crate::text::one_line;

/// Longest error text of a failure reply, its NUL counted.
pub const ERROR_TEXT_BYTES_MAX: usize = 1024;
/// Longest body of a failure reply.
pub const FAILURE_BYTES_MAX: usize = 2 + ERROR_TEXT_BYTES_MAX;
/// Shortest error text that an ID server may send, its NUL counted: existing storages read
/// exactly 18 bytes of its reply, whatever the status.
pub const ID_ERROR_TEXT_BYTES_MIN: usize = 6;

/// The body of a failure reply: the error number and `[host] text`, cut at a character to fit.
pub fn encode_failure(host: &str, error: &Error) -> Vec<u8> {
    let mut text = format!("[{host}] {}", error.message()).replace('\0', "\u{fffd}");
    let mut end = text.len().min(ERROR_TEXT_BYTES_MAX - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    let mut body = error.kind().number().to_be_bytes().to_vec();
    body.extend_from_slice(text.as_bytes());
    body.push(0);
    let shortest = 2 + ID_ERROR_TEXT_BYTES_MIN;
    if body.len() < shortest {
        body.resize(shortest, 0);
    }
    body
}

/// Reads a failure reply's body; the text may be empty. Existing servers say -1 for everything.
pub fn decode_failure(body: &[u8]) -> Error {
    let mut reader = Reader::new(body);
    let kind = reader.i16("error number").map_or(ErrorKind::Protocol, ErrorKind::from_number);
    let text = reader.rest();
    let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
    match String::from_utf8_lossy(&text[..end]) {
        text if text.is_empty() => Error::new(kind, "the server gave no reason"),
        text => Error::new(kind, one_line(&text)),
    }
}
