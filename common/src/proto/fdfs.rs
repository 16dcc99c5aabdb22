//! FastDFS's client protocol, as far as it is used: what a client asks trackers and storages to store, fetch
//! and remove a file. A message is a header of 10 bytes and a body; a failure is a reply with a status and no
//! body. Numbers are big-endian.
//!
//! | command | to | name | request body | reply body |
//! |---|---|---|---|---|
//! | 101 | tracker | query store | empty | [`Store`], 40 or 70 |
//! | 102 | tracker | query fetch | [`FileName`] | group, address: 39 or 69 |
//! | 103 | tracker | query update | [`FileName`] | group, address: 39 or 69 |
//! | 11 | storage | upload | path index, size, extension: 15, then the content | [`FileName`] |
//! | 12 | storage | delete | [`FileName`] | empty |
//! | 14 | storage | download | offset, length: 16, [`FileName`] | content |
//!
//! A [`FileName`] is a group of 16 bytes and a name to the end of the body. An address is text of 15 bytes
//! (45 where the tracker is set up for IPv6) and a port of 8.

use std::net::{IpAddr, SocketAddr};

use super::field::Reader;
use super::names::GroupName;
use crate::error::{Error, ErrorKind, Result};
use crate::fail;
use crate::text::shown;

/// Commands, as the header carries them.
pub mod command {
    /// Where to store a file.
    pub const QUERY_STORE: u8 = 101;
    /// Which storage has a file.
    pub const QUERY_FETCH: u8 = 102;
    /// Which storage changes or removes a file.
    pub const QUERY_UPDATE: u8 = 103;
    /// Store a file.
    pub const UPLOAD: u8 = 11;
    /// Remove a file.
    pub const DELETE: u8 = 12;
    /// The content of a file, or a part of it.
    pub const DOWNLOAD: u8 = 14;
}

/// The command of each reply.
pub const REPLY: u8 = 100;

/// Width of the header.
pub const HEADER_BYTES: usize = 10;

/// Width of a group's name; one of this length has no NUL.
const GROUP_BYTES: usize = 16;

/// Widths of an address in a reply, which say which of the two forms a tracker uses.
const IPV4_BYTES: usize = 15;
const IPV6_BYTES: usize = 45;

/// Width of the port, of numbers.
const NUMBER_BYTES: usize = 8;

/// Width of a file's extension.
const EXTENSION_BYTES: usize = 6;

/// The longest name of a file, without its group.
const NAME_BYTES_MAX: usize = 127;

/// The longest body of a reply that names something: a group and a name, or addresses.
pub const REPLY_BYTES_MAX: usize = GROUP_BYTES + NAME_BYTES_MAX;

/// What each message begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes that follow.
    pub body_bytes: u64,
    /// What is asked, or [`REPLY`].
    pub command: u8,
    /// 0, or in a reply the errno of what went wrong.
    pub status: u8,
}

impl Header {
    /// The header of a request.
    pub fn request(command: u8, body_bytes: u64) -> Header {
        Header { body_bytes, command, status: 0 }
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..NUMBER_BYTES].copy_from_slice(&self.body_bytes.to_be_bytes());
        bytes[NUMBER_BYTES] = self.command;
        bytes[NUMBER_BYTES + 1] = self.status;
        bytes
    }

    /// From its bytes; a negative length is an error.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Header> {
        let mut reader = Reader::new(bytes);
        let body_bytes = reader.count("body length")?;
        Ok(Header { body_bytes, command: reader.u8("command")?, status: reader.u8("status")? })
    }

    /// Fails unless it is the header of a reply that tells of success.
    pub fn success(&self) -> Result<u64> {
        if self.command != REPLY {
            return fail!(Protocol, "got command {}, want {REPLY}, a reply", self.command);
        }
        let kind = match self.status {
            0 => return Ok(self.body_bytes),
            2 => ErrorKind::NotFound,
            13 => ErrorKind::Forbidden,
            16 => ErrorKind::Busy,
            17 => ErrorKind::Exists,
            22 => ErrorKind::Invalid,
            28 => ErrorKind::NoSpace,
            95 => ErrorKind::Unsupported,
            _ => ErrorKind::Internal,
        };
        Err(Error::new(kind, format!("answered with status {}", self.status)))
    }
}

/// What a file is known by: `group/name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileName {
    /// The group that has it.
    pub group: GroupName,
    /// `M00/00/0F/...`.
    name: String,
}

impl FileName {
    /// From its text.
    pub fn parse(text: &str) -> Result<FileName> {
        match text.split_once('/') {
            Some((group, name)) => FileName::new(GroupName::new(group)?, name.as_bytes()),
            None => fail!(Invalid, "invalid file name '{}', want group/name", shown(text.as_bytes())),
        }
    }

    fn new(group: GroupName, name: &[u8]) -> Result<FileName> {
        match std::str::from_utf8(name) {
            Ok(text)
                if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.iter().all(u8::is_ascii_graphic) =>
            {
                Ok(FileName { group, name: text.to_owned() })
            }
            _ => fail!(
                Invalid,
                "invalid file name '{}', want 1 to {NAME_BYTES_MAX} printable characters of ASCII",
                shown(name)
            ),
        }
    }

    /// From the body of a reply to an upload.
    pub fn decode(body: &[u8]) -> Result<FileName> {
        let mut reader = Reader::new(body);
        FileName::new(take_group(&mut reader)?, reader.rest())
    }

    /// `group/name`.
    pub fn text(&self) -> String {
        format!("{}/{}", self.group, self.name)
    }

    /// Appends it as a body, or the end of one.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let group = self.group.as_str().as_bytes();
        out.extend_from_slice(group);
        out.resize(out.len() + GROUP_BYTES - group.len(), 0);
        out.extend_from_slice(self.name.as_bytes());
    }
}

/// Where a file is to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// The storage.
    pub address: SocketAddr,
    /// Which of its store paths.
    pub path_index: u8,
}

impl Store {
    /// From the body of a reply.
    pub fn decode(body: &[u8]) -> Result<Store> {
        let Some((&path_index, rest)) = body.split_last() else {
            return fail!(Protocol, "message too short: a storage's address is missing");
        };
        Ok(Store { address: decode_address(rest)?, path_index })
    }
}

/// The storage in a reply to a query for a file.
pub fn decode_address(body: &[u8]) -> Result<SocketAddr> {
    let mut reader = Reader::new(body);
    take_group(&mut reader)?;
    let width = match body.len() - GROUP_BYTES {
        length if length == IPV4_BYTES + NUMBER_BYTES => IPV4_BYTES,
        length if length == IPV6_BYTES + NUMBER_BYTES => IPV6_BYTES,
        _ => return fail!(Protocol, "a storage's address came in a body of {} bytes", body.len()),
    };
    let text = up_to_nul(reader.bytes("address", width)?);
    let port = reader.count("port")?;
    let ip = std::str::from_utf8(text).ok().and_then(|text| text.parse::<IpAddr>().ok());
    match ip.zip(u16::try_from(port).ok()) {
        Some((ip, port)) => Ok(SocketAddr::new(ip, port)),
        None => fail!(Protocol, "invalid address of a storage, got '{}' and port {port}", shown(text)),
    }
}

/// Appends the start of an upload's body; `size` bytes of content follow.
pub fn encode_upload(path_index: u8, size: u64, extension: &str, out: &mut Vec<u8>) {
    assert!(extension.len() <= EXTENSION_BYTES, "an extension of {} bytes", extension.len());
    out.push(path_index);
    out.extend_from_slice(&size.to_be_bytes());
    out.extend_from_slice(extension.as_bytes());
    out.resize(out.len() + EXTENSION_BYTES - extension.len(), 0);
}

/// Appends the body of a download: `length` 0 is all from `offset` on.
pub fn encode_download(offset: u64, length: u64, file: &FileName, out: &mut Vec<u8>) {
    out.extend_from_slice(&offset.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    file.encode(out);
}

fn take_group(reader: &mut Reader<'_>) -> Result<GroupName> {
    GroupName::new(up_to_nul(reader.bytes("group", GROUP_BYTES)?))
}

fn up_to_nul(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "group1/M00/02/0D/wAACAmsCOryAcl0wAAAACvjLuq4198.txt";

    fn bytes(hex: &str) -> Vec<u8> {
        let hex: String = hex.split_whitespace().collect();
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn a_header_is_a_length_a_command_and_a_status() {
        let header = Header::request(command::UPLOAD, 0x0102_0304);
        assert_eq!(header.encode().to_vec(), bytes("0000000001020304 0b 00"));
        assert_eq!(Header::decode(&header.encode()), Ok(header));
        let negative = bytes("ffffffffffffffff 64 00");
        assert!(Header::decode(&negative.try_into().unwrap()).is_err());
    }

    #[test]
    fn a_failure_is_the_errno_of_its_status() {
        let reply = |command, status| Header { body_bytes: 7, command, status }.success();
        assert_eq!(reply(REPLY, 0), Ok(7));
        assert_eq!(reply(REPLY, 2).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(reply(REPLY, 28).unwrap_err().kind(), ErrorKind::NoSpace);
        assert_eq!(reply(REPLY, 5).unwrap_err().message(), "answered with status 5");
        assert_eq!(reply(11, 0).unwrap_err().kind(), ErrorKind::Protocol);
    }

    #[test]
    fn what_a_client_asks() {
        let file = FileName::parse(NAME).unwrap();
        let mut body = Vec::new();
        file.encode(&mut body);
        let group = "67726f757031 00000000000000000000";
        let name =
            "4d30302f30322f30442f774141 43416d73434f72794163 6c307741 41414143766a4c 757134 3139382e747874";
        assert_eq!(body, bytes(&format!("{group}{name}")));
        assert_eq!(FileName::decode(&body), Ok(file.clone()));
        assert_eq!(file.text(), NAME);

        body.clear();
        encode_download(5, 0, &file, &mut body);
        assert_eq!(body, bytes(&format!("0000000000000005 0000000000000000 {group}{name}")));

        body.clear();
        encode_upload(1, 13, "txt", &mut body);
        assert_eq!(body, bytes("01 000000000000000d 747874000000"));
    }

    #[test]
    fn what_a_tracker_answers() {
        let group = "67726f757031 00000000000000000000";
        let address = "3139322e302e322e32 000000000000";
        let port = "00000000000059d8";
        let fetch = bytes(&format!("{group}{address}{port}"));
        assert_eq!(fetch.len(), 39);
        let want: SocketAddr = "192.0.2.2:23000".parse().unwrap();
        assert_eq!(decode_address(&fetch), Ok(want));
        let store = bytes(&format!("{group}{address}{port} 03"));
        assert_eq!(Store::decode(&store), Ok(Store { address: want, path_index: 3 }));

        let mut wide = bytes(group);
        wide.extend_from_slice(b"2001:db8::2");
        wide.resize(16 + 45, 0);
        wide.extend_from_slice(&23_000_u64.to_be_bytes());
        assert_eq!(decode_address(&wide), Ok("[2001:db8::2]:23000".parse().unwrap()));
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        for body in [&b""[..], &[b'a'; 10], &[b'a'; 16], &[b'a'; 39], &[0; 39], &[0; 40], &[b'1'; 69]] {
            assert!(decode_address(body).is_err() && Store::decode(body).is_err());
        }
        for body in [&b""[..], &[b'a'; 16], &[0; 40], &[b'a'; 16 + 128], b"gro up__________/x", &[0xFF; 20]] {
            assert!(FileName::decode(body).is_err());
        }
        let mut port = bytes("67726f757031 00000000000000000000 3139322e302e322e32 000000000000");
        port.extend_from_slice(&65_536_u64.to_be_bytes());
        assert!(decode_address(&port).unwrap_err().message().contains("port 65536"));
        for name in ["group1", "group1/", "/M00", "gro up/M00/x", "g/M00/a b", "g/M00/\u{fc}"] {
            assert!(FileName::parse(name).is_err(), "{name}");
        }
        assert!(FileName::parse(&format!("g/{}", "x".repeat(128))).is_err());
        assert!(FileName::parse(&format!("{}/x", "g".repeat(16))).is_ok());
    }
}
