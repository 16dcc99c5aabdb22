//! Commands 70 to 73, 120, 121, 123 and 126: files.

use super::file_key::{FILE_KEY_BYTES, FileKey};
use crate::error::Result;
use crate::fail;
use crate::proto::field::Reader;
use crate::proto::names::UserId;

/// Bytes of an upload's body before the content.
pub const UPLOAD_BYTES: usize = FILE_KEY_BYTES + 8;
/// Bytes of a checked upload's body before the content.
pub const UPLOAD_CHECKED_BYTES: usize = UPLOAD_BYTES + 8;
/// Bytes of a download's body.
pub const DOWNLOAD_BYTES: usize = FILE_KEY_BYTES + 16;
/// Bytes of the value that is unique to one upload.
pub const VERSION_ID_BYTES: usize = 16;
/// Bytes of a read's body.
pub const READ_BYTES: usize = DOWNLOAD_BYTES + VERSION_ID_BYTES;
/// Bytes of a stat's reply.
pub const STAT_BYTES: usize = 8 + 8 + 1 + 8 + VERSION_ID_BYTES;

/// Command 70's body up to the content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// The file to be.
    pub file: FileKey,
    /// Bytes of content that follow.
    pub size: u64,
}

impl Upload {
    /// Decodes the body's start and holds the size against the message's length.
    pub fn decode(body: &[u8; UPLOAD_BYTES], body_bytes: u64) -> Result<Upload> {
        let mut reader = Reader::new(body);
        Upload::take(&mut reader, UPLOAD_BYTES, body_bytes)
    }

    /// Reads the file and the size, where so many bytes of the body come before the content.
    fn take(reader: &mut Reader<'_>, head_bytes: usize, body_bytes: u64) -> Result<Upload> {
        let file = FileKey::take(reader)?;
        let size = reader.count("file size")?;
        match body_bytes.checked_sub(head_bytes as u64) {
            Some(content) if content == size => Ok(Upload { file, size }),
            _ => fail!(
                Invalid,
                "invalid body length, got {body_bytes}, want {head_bytes} and the {size} bytes of the file"
            ),
        }
    }

    /// The body's start.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = self.file.encode();
        body.extend_from_slice(&self.size.to_be_bytes());
        body
    }
}

/// Command 123's body up to the content: that of command 70, and the CRC-32 (IEEE 802.3) that the content
/// must have, in 8 bytes as [`Stat`] has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedUpload {
    /// The file to be, and its size.
    pub upload: Upload,
    /// The checksum of its content.
    pub crc32: u32,
}

impl CheckedUpload {
    /// Decodes the body's start and holds the size against the message's length.
    pub fn decode(body: &[u8; UPLOAD_CHECKED_BYTES], body_bytes: u64) -> Result<CheckedUpload> {
        let mut reader = Reader::new(body);
        let upload = Upload::take(&mut reader, UPLOAD_CHECKED_BYTES, body_bytes)?;
        let checksum = reader.count("checksum")?;
        match u32::try_from(checksum) {
            Ok(crc32) => Ok(CheckedUpload { upload, crc32 }),
            Err(_) => fail!(Invalid, "invalid checksum, got {checksum:#x}, want a CRC-32 of 32 bits"),
        }
    }

    /// The body's start.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = self.upload.encode();
        body.extend_from_slice(&u64::from(self.crc32).to_be_bytes());
        body
    }
}

/// Command 72's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Download {
    /// The file.
    pub file: FileKey,
    /// Where to begin; checked against the file by [`Download::check`].
    pub offset: i64,
    /// How many bytes, 0 for all that follow.
    pub size: i64,
}

impl Download {
    fn take(reader: &mut Reader<'_>) -> Result<Download> {
        Ok(Download {
            file: FileKey::take(reader)?,
            offset: reader.i64("offset")?,
            size: reader.i64("size")?,
        })
    }

    /// Decodes the body.
    pub fn decode(body: &[u8; DOWNLOAD_BYTES]) -> Result<Download> {
        Download::take(&mut Reader::new(body))
    }

    /// The body's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = self.file.encode();
        body.extend_from_slice(&self.offset.to_be_bytes());
        body.extend_from_slice(&self.size.to_be_bytes());
        body
    }

    /// The first byte and the number of bytes that are meant in a file of `file_size` bytes.
    pub fn check(&self, file_size: u64) -> Result<(u64, u64)> {
        let Some(offset) = u64::try_from(self.offset).ok().filter(|&offset| offset <= file_size) else {
            return fail!(Invalid, "invalid offset, {} is not between 0 and {file_size}", self.offset);
        };
        let rest = file_size - offset;
        match u64::try_from(self.size).ok().filter(|&size| size <= rest) {
            Some(0) => Ok((offset, rest)),
            Some(size) => Ok((offset, size)),
            None => fail!(Invalid, "invalid size, {} is not between 0 and {rest}", self.size),
        }
    }

    /// The same where a size beyond what is left means what is left, as [`FETCH`](super::command::FETCH) has it: who
    /// asks does not know the file's size yet.
    pub fn clip(&self, file_size: u64) -> Result<(u64, u64)> {
        let (offset, rest) = Download { file: self.file.clone(), size: 0, ..*self }.check(file_size)?;
        match u64::try_from(self.size) {
            Ok(0) => Ok((offset, rest)),
            Ok(size) => Ok((offset, rest.min(size))),
            Err(_) => fail!(Invalid, "invalid size, {} is negative", self.size),
        }
    }
}

/// A value that is unique to one upload: the MD5 of its path, whose number never repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VersionId(pub [u8; VERSION_ID_BYTES]);

/// Command 121's body: a download of one certain upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// What to read.
    pub download: Download,
    /// Which upload it must still be.
    pub unique: VersionId,
}

impl Read {
    /// Decodes the body.
    pub fn decode(body: &[u8; READ_BYTES]) -> Result<Read> {
        let mut reader = Reader::new(body);
        Ok(Read { download: Download::take(&mut reader)?, unique: take_version_id(&mut reader)? })
    }

    /// The body's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = self.download.encode();
        body.extend_from_slice(&self.unique.0);
        body
    }
}

fn take_version_id(reader: &mut Reader<'_>) -> Result<VersionId> {
    let mut unique = [0; VERSION_ID_BYTES];
    unique.copy_from_slice(reader.bytes("unique value", VERSION_ID_BYTES)?);
    Ok(VersionId(unique))
}

/// Command 120's reply.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | size |
/// | 8 | 8 | time of the upload, seconds since the epoch |
/// | 16 | 1 | kind of checksum: 0 none, 1 CRC-32 (IEEE 802.3) |
/// | 17 | 8 | checksum, big-endian, 0 for none |
/// | 25 | 16 | value unique to this upload |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Bytes of the file.
    pub size: u64,
    /// When it was uploaded, seconds since the epoch.
    pub time: i64,
    /// The CRC-32 of its content; files that existing storages stored have none.
    pub crc32: Option<u32>,
    /// Which upload it is.
    pub unique: VersionId,
}

impl Stat {
    /// The reply's body.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(STAT_BYTES);
        body.extend_from_slice(&self.size.to_be_bytes());
        body.extend_from_slice(&self.time.to_be_bytes());
        body.push(u8::from(self.crc32.is_some()));
        body.extend_from_slice(&u64::from(self.crc32.unwrap_or(0)).to_be_bytes());
        body.extend_from_slice(&self.unique.0);
        body
    }

    /// Reads the reply's body. A kind of checksum that is not known here counts as none.
    pub fn decode(body: &[u8; STAT_BYTES]) -> Result<Stat> {
        let mut reader = Reader::new(body);
        let size = reader.count("file size")?;
        let time = reader.i64("time")?;
        let kind = reader.u8("kind of checksum")?;
        let checksum = reader.count("checksum")?;
        let crc32 = if kind == 1 { u32::try_from(checksum).ok() } else { None };
        Ok(Stat { size, time, crc32, unique: take_version_id(&mut reader)? })
    }
}

/// The number of the file table that holds a user's files, 1 to 3.
///
/// Existing databases were filled with this hash; each byte counts as signed 8-bit.
pub fn file_table(userid: &UserId) -> u8 {
    let hash = userid.as_str().bytes().enumerate().fold(0_u32, |hash, (index, byte)| {
        let byte = i32::from(byte.cast_signed()).cast_unsigned();
        if index % 2 == 0 {
            hash ^ ((hash << 7) ^ byte ^ (hash >> 3))
        } else {
            hash ^ !((hash << 11) ^ byte ^ (hash >> 5))
        }
    });
    // The remainder of a division by three fits a byte.
    ((hash & 0x7FFF_FFFF) % 3) as u8 + 1
}
