//! Commands 124 and 125: the proof that a client has the key of an application.

use crate::error::Result;
use crate::proto::field::{Reader, put_text};
use crate::proto::names::{APPID_BYTES, AppId};

/// Bytes of a nonce: it cannot be guessed, and none comes twice.
pub const NONCE_BYTES: usize = 32;
/// Bytes of a proof: those of HMAC-SHA-256.
pub const MAC_BYTES: usize = 32;
/// Bytes of a proof's body.
pub const PROOF_BYTES: usize = APPID_BYTES + NONCE_BYTES + MAC_BYTES;

/// A number that is used once.
pub type Nonce = [u8; NONCE_BYTES];

/// Decodes command 124's body: the application whose key is to be proven.
pub fn decode_challenge(body: &[u8; APPID_BYTES]) -> Result<AppId> {
    AppId::new(Reader::new(body).text("appid", APPID_BYTES)?)
}

/// Command 124's body.
pub fn encode_challenge(appid: &AppId) -> Vec<u8> {
    let mut body = Vec::with_capacity(APPID_BYTES);
    put_text(&mut body, appid.as_str().as_bytes(), APPID_BYTES);
    body
}

/// Command 125's body.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 16 | appid, text |
/// | 16 | 32 | the client's nonce |
/// | 48 | 32 | HMAC-SHA-256 with the key, over `TNV application key 1`, the storage's nonce, the client's nonce, and the appid without NULs; before each of these four its length, 8 bytes big-endian |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The application.
    pub appid: AppId,
    /// The client's nonce.
    pub nonce: Nonce,
    /// The HMAC.
    pub mac: [u8; MAC_BYTES],
}

impl Proof {
    /// Decodes the body.
    pub fn decode(body: &[u8; PROOF_BYTES]) -> Result<Proof> {
        let mut reader = Reader::new(body);
        let appid = AppId::new(reader.text("appid", APPID_BYTES)?)?;
        let (mut nonce, mut mac) = ([0; NONCE_BYTES], [0; MAC_BYTES]);
        nonce.copy_from_slice(reader.bytes("nonce", NONCE_BYTES)?);
        mac.copy_from_slice(reader.bytes("proof", MAC_BYTES)?);
        Ok(Proof { appid, nonce, mac })
    }

    /// The body's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = encode_challenge(&self.appid);
        body.extend_from_slice(&self.nonce);
        body.extend_from_slice(&self.mac);
        body
    }
}
