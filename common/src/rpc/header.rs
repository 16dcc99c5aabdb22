//! The 10-byte header that opens every message, either way.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | body length, signed, big-endian; negative is an error |
//! | 8 | 1 | command |
//! | 9 | 1 | status, signed: 0, or -3 in every failure reply |

use crate::error::Result;
use crate::fail;

/// Bytes of a header.
pub const HEADER_BYTES: usize = 10;

/// The status of every failure reply.
pub const FAILURE: i8 = -3;

/// A message's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of body that follow.
    pub body_bytes: u64,
    /// What is asked, or which server replies.
    pub command: u8,
    /// 0, or [`FAILURE`].
    pub status: i8,
}

impl Header {
    /// The header of a request or of a success.
    pub fn new(command: u8, body_bytes: u64) -> Header {
        Header { body_bytes, command, status: 0 }
    }

    /// The header's bytes. A body of over `i64::MAX` bytes does not exist.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&self.body_bytes.to_be_bytes());
        bytes[8] = self.command;
        bytes[9] = self.status.to_be_bytes()[0];
        bytes
    }

    /// Reads a header; a negative length is an error.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Header> {
        let [length @ .., command, status] = bytes;
        let length = i64::from_be_bytes(*length);
        let Ok(body_bytes) = u64::try_from(length) else {
            return fail!(Protocol, "invalid body length, got {length}, want 0 or more");
        };
        Ok(Header { body_bytes, command: *command, status: i8::from_be_bytes([*status]) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let header = Header { body_bytes: 0x0102_0304_0506, command: 102, status: FAILURE };
        assert_eq!(header.encode(), [0, 0, 1, 2, 3, 4, 5, 6, 102, 0xFD]);
        assert_eq!(Header::decode(&header.encode()), Ok(header));
    }

    #[test]
    fn a_negative_length_is_refused() {
        let error = Header::decode(&[0xFF; 10]).unwrap_err();
        assert!(error.message().contains("-1"), "{error}");
    }
}
