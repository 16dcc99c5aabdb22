//! The three names that say which file is meant, as they open the bodies of most commands.

use crate::error::Result;
use crate::proto::field::{Reader, put_text};
use crate::proto::names::{APPID_BYTES, AppId, FILEID_BYTES, FileId, USERID_BYTES, UserId};

/// Room for the longest fixed body that begins with the three.
const BODY_BYTES: usize = FILE_KEY_BYTES + 32;

/// Bytes of a file key.
pub const FILE_KEY_BYTES: usize = APPID_BYTES + USERID_BYTES + FILEID_BYTES;

/// Which file is meant, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileKey {
    /// The application.
    pub appid: AppId,
    /// The user.
    pub userid: UserId,
    /// The file.
    pub fileid: FileId,
}

impl FileKey {
    /// Reads the key that opens a body.
    pub(super) fn take(reader: &mut Reader<'_>) -> Result<FileKey> {
        let (appid, userid) = take_owner(reader)?;
        Ok(FileKey { appid, userid, fileid: FileId::new(reader.text("fileid", FILEID_BYTES)?)? })
    }

    /// Decodes the body of `FILE_SIZE`, `DELETE` or `STAT`.
    pub fn decode(body: &[u8; FILE_KEY_BYTES]) -> Result<FileKey> {
        FileKey::take(&mut Reader::new(body))
    }

    /// The key's bytes, zero filled.
    pub fn encode(&self) -> Vec<u8> {
        encode_file_key(&self.appid, &self.userid, Some(&self.fileid))
    }
}

/// Reads the application and the user.
pub(super) fn take_owner(reader: &mut Reader<'_>) -> Result<(AppId, UserId)> {
    let appid = AppId::new(reader.text("appid", APPID_BYTES)?)?;
    let userid = UserId::new(reader.text("userid", USERID_BYTES)?)?;
    Ok((appid, userid))
}

/// The key's bytes; `ADDRESSES` and `FIND_ADDRESSES` alone may leave the fileid empty.
pub(super) fn encode_file_key(appid: &AppId, userid: &UserId, fileid: Option<&FileId>) -> Vec<u8> {
    let mut body = Vec::with_capacity(BODY_BYTES);
    put_text(&mut body, appid.as_str().as_bytes(), APPID_BYTES);
    put_text(&mut body, userid.as_str().as_bytes(), USERID_BYTES);
    put_text(&mut body, fileid.map_or(b"", |fileid| fileid.as_str().as_bytes()), FILEID_BYTES);
    body
}
