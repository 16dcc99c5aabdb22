//! Commands 10 to 13 and 122: joins, heartbeats, and where the files of a user are.

use std::net::SocketAddr;

use super::file_key::{FILE_KEY_BYTES, encode_file_key, take_owner};
use crate::error::Result;
use crate::fail;
use crate::proto::field::{Reader, put_text};
use crate::proto::names::{
    AppId, FILEID_BYTES, FileId, GROUP_BYTES, GroupName, HOST_BYTES, HostName, UserId,
};
use crate::text::shown;

/// Width of the version field.
pub const VERSION_BYTES: usize = 7;
/// Bytes of a join's body.
pub const JOIN_BYTES: usize = VERSION_BYTES + GROUP_BYTES + HOST_BYTES + 2 + 8 + 8;
/// Bytes of a heartbeat's body.
pub const HEARTBEAT_BYTES: usize = GROUP_BYTES + HOST_BYTES;
/// Most addresses in a route.
pub const ROUTE_ADDRESSES_MAX: usize = 3;
/// Longest route body accepted: the group and three addresses, IPv6 in brackets, with room.
pub const ROUTE_BYTES_MAX: usize = GROUP_BYTES + 1024;

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
    pub fn decode(body: &[u8; FILE_KEY_BYTES]) -> Result<Addresses> {
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
        encode_file_key(&self.appid, &self.userid, None)
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
pub struct Heartbeat {
    /// The storage's group.
    pub group: GroupName,
    /// Its host's name.
    pub host: HostName,
}

impl Heartbeat {
    /// Decodes the body.
    pub fn decode(body: &[u8; HEARTBEAT_BYTES]) -> Result<Heartbeat> {
        let mut reader = Reader::new(body);
        Ok(Heartbeat {
            group: GroupName::new(reader.text("group name", GROUP_BYTES)?)?,
            host: HostName::new(reader.text("host name", HOST_BYTES)?)?,
        })
    }

    /// The body's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(HEARTBEAT_BYTES);
        put_text(&mut body, self.group.as_str().as_bytes(), GROUP_BYTES);
        put_text(&mut body, self.host.as_str().as_bytes(), HOST_BYTES);
        body
    }
}
