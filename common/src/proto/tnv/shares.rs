//! Command 128's body: which volumes a storage has, and whose journals it sees on them. A tracker finds by it
//! whether two members of a group share their files.
//!
//! | size | field |
//! |---|---|
//! | 17 | group |
//! | 129 | host, as in the join |
//! | 2 | port, as in the join |
//! | 1 | 1: the host is a storage ID, which is one member's whatever its address is; else 0 |
//! | 1 | how many store paths follow |
//! | 65 | of each: its text |
//! | 16 | its volume's ID |
//! | 16 | the holder of the storage's own journal there |
//! | 1 | how many other holders follow |
//! | 16 | of each: it |

use crate::error::Result;
use crate::fail;
use crate::proto::field::{Reader, put_text};
use crate::proto::names::{GROUP_BYTES, HOST_BYTES, ID_KEY_BYTES_MAX};
use crate::proto::names::{GroupName, HostName, IdKey};

/// Bytes of a volume's ID and of a holder: random numbers that never repeat.
pub const ID_BYTES: usize = 16;

/// Most store paths in one report: of a storage that has more, the first ones are compared.
pub const SHARES_MAX: usize = 16;

/// Most other holders of one store path: as many as a group has members.
pub const HOLDERS_MAX: usize = 64;

/// The longest body.
pub const SHARES_BYTES_MAX: usize = GROUP_BYTES
    + HOST_BYTES
    + 2
    + 2
    + SHARES_MAX * (ID_KEY_BYTES_MAX + 1 + 2 * ID_BYTES + 1 + HOLDERS_MAX * ID_BYTES);

/// A random number that stands for something.
pub type Id = [u8; ID_BYTES];

/// One store path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Its text.
    pub store_path: IdKey,
    /// Its volume's ID.
    pub volume: Id,
    /// The holder of the storage's own journal there: another one after each start.
    pub holder: Id,
    /// The holders of all other journals there.
    pub others: Vec<Id>,
}

/// The body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shares {
    /// The group that was joined.
    pub group: GroupName,
    /// The host that joined.
    pub host: HostName,
    /// And its port.
    pub port: u16,
    /// The host is a storage ID: no other member of the group is called so, whatever its address is.
    pub is_id: bool,
    /// Its store paths.
    pub shares: Vec<Share>,
}

impl Shares {
    /// Decodes the body.
    pub fn decode(body: &[u8]) -> Result<Shares> {
        let mut reader = Reader::new(body);
        let group = GroupName::new(reader.text("group name", GROUP_BYTES)?)?;
        let host = HostName::new(reader.text("host name", HOST_BYTES)?)?;
        let port = reader.u16("port")?;
        let is_id = match reader.u8("mark of a storage ID")? {
            0 => false,
            1 => true,
            other => return fail!(Invalid, "invalid mark of a storage ID, got {other}, want 0 or 1"),
        };
        let count = usize::from(reader.u8("count of store paths")?);
        if count > SHARES_MAX {
            return fail!(Invalid, "invalid count of store paths, got {count}, want at most {SHARES_MAX}");
        }
        let shares = (0..count).map(|_| Share::decode(&mut reader)).collect::<Result<_>>()?;
        match reader.rest().len() {
            0 => Ok(Shares { group, host, port, is_id, shares }),
            left => fail!(Protocol, "invalid body length, {left} bytes are left"),
        }
    }

    /// The body's bytes; what is more than fits is left out.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        put_text(&mut body, self.group.as_str().as_bytes(), GROUP_BYTES);
        put_text(&mut body, self.host.as_str().as_bytes(), HOST_BYTES);
        body.extend_from_slice(&self.port.to_be_bytes());
        body.push(self.is_id.into());
        let shares = &self.shares[..self.shares.len().min(SHARES_MAX)];
        body.push(shares.len() as u8);
        for share in shares {
            put_text(&mut body, share.store_path.as_str().as_bytes(), ID_KEY_BYTES_MAX + 1);
            let others = &share.others[..share.others.len().min(HOLDERS_MAX)];
            [share.volume, share.holder].iter().for_each(|id| body.extend_from_slice(id));
            body.push(others.len() as u8);
            others.iter().for_each(|id| body.extend_from_slice(id));
        }
        body
    }
}

impl Share {
    fn decode(reader: &mut Reader<'_>) -> Result<Share> {
        let store_path = IdKey::new(reader.text("store path", ID_KEY_BYTES_MAX + 1)?)?;
        let mut id = |what| -> Result<Id> {
            let mut id = Id::default();
            id.copy_from_slice(reader.bytes(what, ID_BYTES)?);
            Ok(id)
        };
        let (volume, holder) = (id("volume")?, id("holder")?);
        let count = usize::from(reader.u8("count of holders")?);
        if count > HOLDERS_MAX {
            return fail!(Invalid, "invalid count of holders, got {count}, want at most {HOLDERS_MAX}");
        }
        let others = (0..count).map(|_| {
            let mut id = Id::default();
            id.copy_from_slice(reader.bytes("holder", ID_BYTES)?);
            Ok(id)
        });
        let others = others.collect::<Result<_>>()?;
        Ok(Share { store_path, volume, holder, others })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(paths: usize, others: usize) -> Shares {
        let share = |number: usize| Share {
            store_path: IdKey::new(format!("/data{number}")).unwrap(),
            volume: [1; ID_BYTES],
            holder: [2; ID_BYTES],
            others: vec![[3; ID_BYTES]; others],
        };
        Shares {
            group: GroupName::new("group001").unwrap(),
            host: HostName::new("host").unwrap(),
            port: 23000,
            is_id: paths == 1,
            shares: (0..paths).map(share).collect(),
        }
    }

    #[test]
    fn a_report_of_volumes_is_read_as_it_was_written() {
        for report in [shares(0, 0), shares(1, 0), shares(3, 5), shares(SHARES_MAX, HOLDERS_MAX)] {
            let body = report.encode();
            assert!(body.len() <= SHARES_BYTES_MAX);
            assert_eq!(Shares::decode(&body).as_ref(), Ok(&report));
            for end in 0..body.len() {
                assert!(Shares::decode(&body[..end]).is_err(), "{end}");
            }
            assert!(Shares::decode(&[&body[..], b"x"].concat()).is_err());
        }
        let most = shares(SHARES_MAX + 1, HOLDERS_MAX + 1).encode();
        assert_eq!(Shares::decode(&most).as_ref(), Ok(&shares(SHARES_MAX, HOLDERS_MAX)));
        assert_eq!(most.len(), SHARES_BYTES_MAX);
    }
}
