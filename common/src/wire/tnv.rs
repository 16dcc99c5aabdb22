//! The TNV protocol's commands and bodies. Lengths count the NUL of text fields.
//!
//! | command | from → to | name | request body | reply | reply body |
//! |---|---|---|---|---|---|
//! | 10 | storage → tracker | join | [`Join`], 171 | 100 | empty |
//! | 11 | storage → tracker | heartbeat | [`Beat`], 146 | 100 | empty |
//! | 12 | client → tracker | storage addresses | [`Triple`], 400 | 100 | [`Route`] |
//! | 13 | client → tracker | group list | empty | 100 | text and its NUL |
//! | 40 | storage → ID server | get ID | key and its NUL, ≤ 65 | 101 | value, 8 |
//! | 70 | client → storage | upload | [`Upload`], 408, then the content | 102 | empty |
//! | 71 | client → storage | file size | [`Triple`], 400 | 102 | size, 8 |
//! | 72 | client → storage | download | [`Download`], 416 | 102 | content |
//! | 73 | client → storage | delete | [`Triple`], 400 | 102 | empty |
//! | 120 | client → storage | stat (added) | [`Triple`], 400 | 102 | [`Stat`], 41 |
//! | 121 | client → storage | read (added) | [`Read`], 432 | 102 | content |
//! | 122 | client → tracker | storage addresses of a known user (added) | [`Triple`], 400 | 100 | [`Route`] |
//! | 123 | client → storage | upload with its checksum (added) | [`CheckedUpload`], 416, then the content; or empty | 102 | empty |
//! | 124 | client → storage | challenge (added) | appid, 16 | 102 | nonce, 32; empty where no key is needed |
//! | 125 | client → storage | proof (added) | [`Proof`], 80 | 102 | empty |
//! | 126 | client → storage | fetch (added) | [`Download`], 416 | 102 | [`Stat`], 41, then the content |
//! | 127 | storage → ID server | get IDs (added) | [`IdRange`], ≤ 69 | 101 | first value, 8, and how many, 4 |
//! | 128 | storage → tracker | report volumes (added) | [`super::shares::Shares`] | 100 | empty |
//!
//! The added commands take numbers from 120 to 139, free in TNV and in FastDFS's client protocol.
//! An existing server answers them with a failure and closes. A fetch whose size is more than what is left
//! gives what is left: who asks does not know the size of the file yet.

use std::net::SocketAddr;

use super::field::{Reader, put_text};
use super::header::{FAILURE, Header};
use super::names::{AppId, FileId, GroupName, HostName, IdKey, UserId, one_line, shown};
use crate::error::{Error, ErrorKind, Result};
use crate::fail;
use crate::secret::MAC_BYTES;

/// Commands, as the header carries them.
pub mod command {
    /// A storage joins a tracker.
    pub const JOIN: u8 = 10;
    /// A storage is alive.
    pub const BEAT: u8 = 11;
    /// Where the files of a user are; a new user is given a group, which is recorded.
    pub const ADDRESSES: u8 = 12;
    /// The table of groups, as text.
    pub const GROUPS: u8 = 13;
    /// The next number of a key.
    pub const GET_ID: u8 = 40;
    /// Store a file.
    pub const UPLOAD: u8 = 70;
    /// The size of a file.
    pub const FILE_SIZE: u8 = 71;
    /// The content of a file, or a part of it.
    pub const DOWNLOAD: u8 = 72;
    /// Remove a file.
    pub const DELETE: u8 = 73;
    /// Added: size, time, checksum and the value unique to one upload.
    pub const STAT: u8 = 120;
    /// Added: a download that fails unless the file is still that same upload.
    pub const READ: u8 = 121;
    /// Added: where the files of a user are; nothing is recorded, and a new user is not found.
    pub const FIND_ADDRESSES: u8 = 122;
    /// Added: an upload that is refused unless its content has a certain checksum. With an empty body
    /// it asks whether the storage knows the command.
    pub const UPLOAD_CHECKED: u8 = 123;
    /// Added: asks for the nonce that the proof of an application's key is to be made with.
    pub const CHALLENGE: u8 = 124;
    /// Added: proves an application's key; uploads and deletes of it are then open to this connection.
    pub const PROVE: u8 = 125;
    /// Added: what [`STAT`] says and then what [`DOWNLOAD`] gives, of one and the same upload; where less is
    /// left than was asked for, what is left.
    pub const FETCH: u8 = 126;
    /// Added: several numbers of a key, one after another.
    pub const GET_IDS: u8 = 127;
    /// Added: which volumes a storage that has joined keeps its files on. It is refused, `Forbidden`, where other
    /// members of its group keep theirs elsewhere.
    pub const SHARES: u8 = 128;
}

/// The reply command of trackers.
pub const REPLY_TRACKER: u8 = 100;
/// The reply command of ID servers.
pub const REPLY_ID: u8 = 101;
/// The reply command of storages.
pub const REPLY_STORAGE: u8 = 102;

/// Width of the appid field.
pub const APPID_BYTES: usize = 16;
/// Width of the userid field.
pub const USERID_BYTES: usize = 256;
/// Width of the fileid field.
pub const FILEID_BYTES: usize = 128;
/// Width of the group name field.
pub const GROUP_BYTES: usize = 17;
/// Width of the host name field.
pub const HOST_BYTES: usize = 129;
/// Width of the version field.
pub const VERSION_BYTES: usize = 7;
/// Bytes of the id triple.
pub const TRIPLE_BYTES: usize = APPID_BYTES + USERID_BYTES + FILEID_BYTES;
/// Bytes of a join's body.
pub const JOIN_BYTES: usize = VERSION_BYTES + GROUP_BYTES + HOST_BYTES + 2 + 8 + 8;
/// Bytes of a heartbeat's body.
pub const BEAT_BYTES: usize = GROUP_BYTES + HOST_BYTES;
/// Bytes of an upload's body before the content.
pub const UPLOAD_BYTES: usize = TRIPLE_BYTES + 8;
/// Bytes of a checked upload's body before the content.
pub const UPLOAD_CHECKED_BYTES: usize = UPLOAD_BYTES + 8;
/// Bytes of a download's body.
pub const DOWNLOAD_BYTES: usize = TRIPLE_BYTES + 16;
/// Bytes of the value that is unique to one upload.
pub const UNIQUE_BYTES: usize = 16;
/// Bytes of a read's body.
pub const READ_BYTES: usize = DOWNLOAD_BYTES + UNIQUE_BYTES;
/// Bytes of a stat's reply.
pub const STAT_BYTES: usize = 8 + 8 + 1 + 8 + UNIQUE_BYTES;
/// Bytes of a nonce: nobody guesses one, and none comes twice.
pub const NONCE_BYTES: usize = 32;
/// Bytes of a proof's body.
pub const PROOF_BYTES: usize = APPID_BYTES + NONCE_BYTES + MAC_BYTES;
/// Bytes of command 127's reply.
pub const IDS_BYTES: usize = 8 + 4;
/// Longest ID key, without its NUL.
pub const ID_KEY_BYTES_MAX: usize = 64;
/// Most addresses in a route.
pub const ROUTE_ADDRESSES_MAX: usize = 3;
/// Longest route body accepted: the group and three addresses, IPv6 in brackets, with room.
pub const ROUTE_BYTES_MAX: usize = GROUP_BYTES + 1024;
/// Longest error text of a failure reply, its NUL counted.
pub const ERROR_TEXT_BYTES_MAX: usize = 1024;
/// Longest body of a failure reply.
pub const FAILURE_BYTES_MAX: usize = 2 + ERROR_TEXT_BYTES_MAX;
/// Shortest error text that an ID server may send, its NUL counted: existing storages read
/// exactly 18 bytes of its reply, whatever the status.
pub const ID_ERROR_TEXT_BYTES_MIN: usize = 6;

/// Which file is meant, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Triple {
    /// The application.
    pub appid: AppId,
    /// The user.
    pub userid: UserId,
    /// The file.
    pub fileid: FileId,
}

impl Triple {
    /// Reads the triple that opens a body.
    fn take(reader: &mut Reader<'_>) -> Result<Triple> {
        let (appid, userid) = take_owner(reader)?;
        Ok(Triple { appid, userid, fileid: FileId::new(reader.text("fileid", FILEID_BYTES)?)? })
    }

    /// Decodes the body of `FILE_SIZE`, `DELETE` or `STAT`.
    pub fn decode(body: &[u8; TRIPLE_BYTES]) -> Result<Triple> {
        Triple::take(&mut Reader::new(body))
    }

    /// The triple's bytes, zero filled.
    pub fn encode(&self) -> Vec<u8> {
        encode_triple(&self.appid, &self.userid, Some(&self.fileid))
    }
}

fn take_owner(reader: &mut Reader<'_>) -> Result<(AppId, UserId)> {
    let appid = AppId::new(reader.text("appid", APPID_BYTES)?)?;
    let userid = UserId::new(reader.text("userid", USERID_BYTES)?)?;
    Ok((appid, userid))
}

/// The triple's bytes; `ADDRESSES` and `FIND_ADDRESSES` alone may leave the fileid empty.
fn encode_triple(appid: &AppId, userid: &UserId, fileid: Option<&FileId>) -> Vec<u8> {
    let mut body = Vec::with_capacity(READ_BYTES);
    put_text(&mut body, appid.as_str().as_bytes(), APPID_BYTES);
    put_text(&mut body, userid.as_str().as_bytes(), USERID_BYTES);
    put_text(&mut body, fileid.map_or(b"", |fileid| fileid.as_str().as_bytes()), FILEID_BYTES);
    body
}

/// The body of commands 12 and 122: whose storages are wanted. The fileid may be empty and is not used.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Addresses {
    /// The application.
    pub appid: AppId,
    /// The user.
    pub userid: UserId,
}

impl Addresses {
    /// Decodes the body.
    pub fn decode(body: &[u8; TRIPLE_BYTES]) -> Result<Addresses> {
        let mut reader = Reader::new(body);
        let (appid, userid) = take_owner(&mut reader)?;
        let fileid = reader.text("fileid", FILEID_BYTES)?;
        if !fileid.is_empty() {
            FileId::new(fileid)?;
        }
        Ok(Addresses { appid, userid })
    }

    /// The body's bytes.
    pub fn encode(&self) -> Vec<u8> {
        encode_triple(&self.appid, &self.userid, None)
    }
}

/// The reply of commands 12 and 122: the user's group and up to three of its active storages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The user's group.
    pub group: GroupName,
    /// Its storages, in the order in which to try them.
    pub addresses: Vec<SocketAddr>,
}

impl Route {
    /// The reply's body: the group, then `ip:port;ip:port;` and a NUL.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(ROUTE_BYTES_MAX);
        put_text(&mut body, self.group.as_str().as_bytes(), GROUP_BYTES);
        for address in self.addresses.iter().take(ROUTE_ADDRESSES_MAX) {
            body.extend_from_slice(format!("{address};").as_bytes());
        }
        body.push(0);
        body
    }

    /// Reads the reply's body. A route without an address is an error.
    pub fn decode(body: &[u8]) -> Result<Route> {
        let mut reader = Reader::new(body);
        let group = GroupName::new(reader.text("group name", GROUP_BYTES)?)?;
        let rest = reader.rest();
        let Some(end) = rest.iter().position(|&byte| byte == 0) else {
            return fail!(Protocol, "the tracker's addresses have no NUL");
        };
        let text = String::from_utf8_lossy(&rest[..end]);
        let mut addresses = Vec::new();
        for address in text.split(';').filter(|address| !address.is_empty()).take(ROUTE_ADDRESSES_MAX) {
            match address.parse() {
                Ok(address) => addresses.push(address),
                Err(_) => {
                    let got = shown(address.as_bytes());
                    return fail!(Protocol, "the tracker's address '{got}' is not of the form ip:port");
                }
            }
        }
        match addresses.is_empty() {
            false => Ok(Route { group, addresses }),
            true => fail!(Protocol, "the tracker sent no address for group {group}"),
        }
    }
}

/// Command 10's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// The storage's version, for the group list: at most 6 bytes.
    pub version: String,
    /// The group it belongs to.
    pub group: GroupName,
    /// Its host's name.
    pub host: HostName,
    /// The port it serves clients on; its IP address is the connection's.
    pub port: u16,
    /// When it started, seconds since the epoch.
    pub started: i64,
    /// When it joined, seconds since the epoch.
    pub joined: i64,
}

impl Join {
    /// Decodes the body.
    pub fn decode(body: &[u8; JOIN_BYTES]) -> Result<Join> {
        let mut reader = Reader::new(body);
        let join = Join {
            version: reader.text("version", VERSION_BYTES)?.iter().map(|&byte| printable(byte)).collect(),
            group: GroupName::new(reader.text("group name", GROUP_BYTES)?)?,
            host: HostName::new(reader.text("host name", HOST_BYTES)?)?,
            port: reader.u16("port")?,
            started: reader.i64("start time")?,
            joined: reader.i64("join time")?,
        };
        match join.port {
            0 => fail!(Invalid, "invalid port, got 0, want 1 to 65535"),
            _ => Ok(join),
        }
    }

    /// The body's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(JOIN_BYTES);
        put_text(&mut body, self.version.as_bytes(), VERSION_BYTES);
        put_text(&mut body, self.group.as_str().as_bytes(), GROUP_BYTES);
        put_text(&mut body, self.host.as_str().as_bytes(), HOST_BYTES);
        body.extend_from_slice(&self.port.to_be_bytes());
        body.extend_from_slice(&self.started.to_be_bytes());
        body.extend_from_slice(&self.joined.to_be_bytes());
        body
    }
}

/// A byte of a version; one that is not printable ASCII becomes `?`, which is as long.
fn printable(byte: u8) -> char {
    match byte {
        b' '..=b'~' => char::from(byte),
        _ => '?',
    }
}

/// Command 11's body. It carries no port: on the connection that joined it is that member's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// The storage's group.
    pub group: GroupName,
    /// Its host's name.
    pub host: HostName,
}

impl Beat {
    /// Decodes the body.
    pub fn decode(body: &[u8; BEAT_BYTES]) -> Result<Beat> {
        let mut reader = Reader::new(body);
        Ok(Beat {
            group: GroupName::new(reader.text("group name", GROUP_BYTES)?)?,
            host: HostName::new(reader.text("host name", HOST_BYTES)?)?,
        })
    }

    /// The body's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(BEAT_BYTES);
        put_text(&mut body, self.group.as_str().as_bytes(), GROUP_BYTES);
        put_text(&mut body, self.host.as_str().as_bytes(), HOST_BYTES);
        body
    }
}

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

/// Command 70's body up to the content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// The file to be.
    pub file: Triple,
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
        let file = Triple::take(reader)?;
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
    pub file: Triple,
    /// Where to begin; checked against the file by [`Download::check`].
    pub offset: i64,
    /// How many bytes, 0 for all that follow.
    pub size: i64,
}

impl Download {
    fn take(reader: &mut Reader<'_>) -> Result<Download> {
        Ok(Download { file: Triple::take(reader)?, offset: reader.i64("offset")?, size: reader.i64("size")? })
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

    /// The same where a size beyond what is left means what is left, as [`FETCH`](command::FETCH) has it: who
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
pub struct Unique(pub [u8; UNIQUE_BYTES]);

/// Command 121's body: a download of one certain upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// What to read.
    pub download: Download,
    /// Which upload it must still be.
    pub unique: Unique,
}

impl Read {
    /// Decodes the body.
    pub fn decode(body: &[u8; READ_BYTES]) -> Result<Read> {
        let mut reader = Reader::new(body);
        Ok(Read { download: Download::take(&mut reader)?, unique: take_unique(&mut reader)? })
    }

    /// The body's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = self.download.encode();
        body.extend_from_slice(&self.unique.0);
        body
    }
}

fn take_unique(reader: &mut Reader<'_>) -> Result<Unique> {
    let mut unique = [0; UNIQUE_BYTES];
    unique.copy_from_slice(reader.bytes("unique value", UNIQUE_BYTES)?);
    Ok(Unique(unique))
}

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
    pub unique: Unique,
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
        Ok(Stat { size, time, crc32, unique: take_unique(&mut reader)? })
    }
}

/// A whole failure reply: the error number and `[host] text`, cut at a character to fit.
pub fn encode_failure(reply_command: u8, host: &str, error: &Error) -> Vec<u8> {
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
    let header = Header { body_bytes: body.len() as u64, command: reply_command, status: FAILURE };
    let mut message = header.encode().to_vec();
    message.append(&mut body);
    message
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
