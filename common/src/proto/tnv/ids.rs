//! Commands 40 and 127: numbers.

use crate::error::Result;
use crate::fail;
use crate::proto::field::Reader;
use crate::proto::names::{ID_KEY_BYTES_MAX, IdKey};
use crate::text::shown;

/// Bytes of command 127's reply.
pub const IDS_BYTES: usize = 8 + 4;

/// Decodes command 40's body: the key and its NUL; only the bytes up to the NUL count.
pub fn decode_id_key(body: &[u8]) -> Result<IdKey> {
    if body.len() > ID_KEY_BYTES_MAX + 1 {
        let max = ID_KEY_BYTES_MAX + 1;
        return fail!(Invalid, "invalid ID key, got {} bytes, want at most {max}", body.len());
    }
    match body.iter().position(|&byte| byte == 0) {
        Some(end) => IdKey::new(&body[..end]),
        None => fail!(Invalid, "invalid ID key, '{}' has no NUL", shown(body)),
    }
}

/// Command 127's body: how many numbers of a key are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// Most that are wanted, at least 1.
    pub count: u32,
    /// Of this key.
    pub key: IdKey,
}

impl IdRange {
    /// Decodes the body.
    pub fn decode(body: &[u8]) -> Result<IdRange> {
        let Some((count, key)) = body.split_first_chunk() else {
            return fail!(Protocol, "invalid body length, got {}, want at least 4", body.len());
        };
        match u32::from_be_bytes(*count) {
            0 => fail!(Invalid, "invalid count, got 0, want at least 1"),
            count => Ok(IdRange { count, key: decode_id_key(key)? }),
        }
    }

    /// The body's bytes.
    pub fn encode(&self) -> Vec<u8> {
        [&self.count.to_be_bytes()[..], &encode_id_key(&self.key)].concat()
    }
}

/// Command 127's reply: as many numbers, one after another, as the server gives at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// The first of them.
    pub first: i64,
    /// How many, at least 1.
    pub count: u32,
}

impl Ids {
    /// Decodes the reply's body.
    pub fn decode(body: &[u8; IDS_BYTES]) -> Result<Ids> {
        let mut reader = Reader::new(body);
        let (first, count) = (reader.i64("first number")?, reader.u32("count")?);
        match first >= 0 && count > 0 && first.checked_add(i64::from(count)).is_some() {
            true => Ok(Ids { first, count }),
            false => {
                fail!(Protocol, "invalid numbers, got {count} from {first} on, want 1 or more from 0 on")
            }
        }
    }

    /// The reply's body.
    pub fn encode(&self) -> [u8; IDS_BYTES] {
        let mut body = [0; IDS_BYTES];
        body[..8].copy_from_slice(&self.first.to_be_bytes());
        body[8..].copy_from_slice(&self.count.to_be_bytes());
        body
    }
}

/// Command 40's body.
pub fn encode_id_key(key: &IdKey) -> Vec<u8> {
    let mut body = key.as_str().as_bytes().to_vec();
    body.push(0);
    body
}
