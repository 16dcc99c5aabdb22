//! Reading and writing the fields of a body in order: fixed-width texts and big-endian integers.
//!
//! A text field ends with a NUL inside its width; what follows the first NUL is undefined (existing
//! clients send leftover memory there) and is ignored. A field with no NUL is an error.

use crate::error::Result;
use crate::fail;

/// Takes fields off the front of a body. Reading past the end is an error, never a panic.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the start of `body`.
    pub fn new(body: &'a [u8]) -> Reader<'a> {
        Reader { rest: body }
    }

    /// The next `width` bytes.
    pub fn bytes(&mut self, what: &str, width: usize) -> Result<&'a [u8]> {
        match self.rest.split_at_checked(width) {
            Some((field, rest)) => {
                self.rest = rest;
                Ok(field)
            }
            None => {
                fail!(Protocol, "message too short: {what} takes {width} bytes, {} left", self.rest.len())
            }
        }
    }

    /// The next `N` bytes as an array.
    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let field = self.bytes(what, N)?;
        match field.try_into() {
            Ok(array) => Ok(array),
            Err(_) => fail!(Internal, "{what}: {} bytes where {N} were taken", field.len()),
        }
    }

    /// A fixed-width text field: the bytes before its first NUL.
    pub fn text(&mut self, what: &str, width: usize) -> Result<&'a [u8]> {
        let field = self.bytes(what, width)?;
        match field.iter().position(|&byte| byte == 0) {
            Some(end) => Ok(&field[..end]),
            None => {
                fail!(Invalid, "{what} has no NUL in its {width} bytes; it may have at most {}", width - 1)
            }
        }
    }

    /// One byte.
    pub fn u8(&mut self, what: &str) -> Result<u8> {
        Ok(self.array::<1>(what)?[0])
    }

    /// An unsigned 16-bit number.
    pub fn u16(&mut self, what: &str) -> Result<u16> {
        self.array(what).map(u16::from_be_bytes)
    }

    /// A signed 16-bit number.
    pub fn i16(&mut self, what: &str) -> Result<i16> {
        self.array(what).map(i16::from_be_bytes)
    }

    /// An unsigned 32-bit number.
    pub fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(u32::from_be_bytes)
    }

    /// A signed 64-bit number.
    pub fn i64(&mut self, what: &str) -> Result<i64> {
        self.array(what).map(i64::from_be_bytes)
    }

    /// A signed 64-bit number that counts something: negative is an error.
    pub fn count(&mut self, what: &str) -> Result<u64> {
        let value = self.i64(what)?;
        match u64::try_from(value) {
            Ok(count) => Ok(count),
            Err(_) => fail!(Invalid, "invalid {what}, {value} is negative"),
        }
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }
}

/// Appends a text field: the text, then zeros to the width. The text is shorter than the width,
/// which the types of [`super::names`] see to.
pub fn put_text(out: &mut Vec<u8>, text: &[u8], width: usize) {
    assert!(text.len() < width, "a text of {} bytes in a field of {width}", text.len());
    out.extend_from_slice(text);
    out.resize(out.len() + width - text.len(), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_the_first_nul_is_ignored() {
        assert_eq!(Reader::new(b"ab\0cd\xFF").text("name", 6), Ok(&b"ab"[..]));
    }

    #[test]
    fn a_text_without_nul_is_refused() {
        assert!(Reader::new(b"abcdef").text("name", 6).unwrap_err().message().contains("no NUL"));
    }

    #[test]
    fn a_short_body_is_refused() {
        assert!(Reader::new(b"abc").i64("size").is_err());
    }
}
