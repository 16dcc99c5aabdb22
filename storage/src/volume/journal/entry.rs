//! An entry of a journal, and the slot that says it.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | CRC-32 of the rest, big-endian |
//! | 4 | 1 | mark, 1: taken |
//! | 5 | 1 | bytes of the owner |
//! | 6 | 1 | bytes of the name |
//! | 7 | 1 | zero |
//! | 8 | 2 | bytes of the path, big-endian |
//! | 10 | | owner, name, path |

use tnv_common::proto::field::Reader;

use crate::path;

/// Room for the longest of each text: 10 + 255 + 127 + 512 bytes.
pub const SLOT_BYTES: usize = 1024;

/// The longest owner and the longest name of an entry.
const OWNER_BYTES_MAX: usize = 255;

const NAME_BYTES_MAX: usize = 127;

const TAKEN: u8 = 1;

/// What a slot names: a file that is half done, and what refers to it where it is done. The journal knows nothing of
/// owner and name but their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalEntry {
    /// Whose file it is: 1 to 255 bytes.
    pub owner: String,
    /// Its name with the owner: 1 to 127 bytes.
    pub name: String,
    /// The file.
    pub path: String,
}

impl JournalEntry {
    /// The slot that says it. Texts that are too long for it are refused by [`Journal::take`].
    pub fn encode(&self) -> [u8; SLOT_BYTES] {
        let mut slot = [0; SLOT_BYTES];
        let (owner, name) = (self.owner.as_bytes(), self.name.as_bytes());
        slot[4] = TAKEN;
        slot[5] = owner.len() as u8;
        slot[6] = name.len() as u8;
        slot[8..10].copy_from_slice(&(self.path.len() as u16).to_be_bytes());
        let texts = [owner, name, self.path.as_bytes()].concat();
        slot[10..10 + texts.len()].copy_from_slice(&texts);
        let crc = crc32fast::hash(&slot[4..]);
        slot[..4].copy_from_slice(&crc.to_be_bytes());
        slot
    }

    /// What a slot says; `None` where it is free or makes no sense.
    pub fn decode(slot: &[u8]) -> Option<JournalEntry> {
        let mut reader = Reader::new(slot);
        let crc = reader.bytes("checksum", 4).ok()?;
        if crc != crc32fast::hash(slot.get(4..)?).to_be_bytes() || reader.u8("mark").ok()? != TAKEN {
            return None;
        }
        let owner_bytes = reader.u8("owner length").ok()?;
        let name_bytes = reader.u8("name length").ok()?;
        reader.u8("zero").ok()?;
        let path_bytes = reader.u16("path length").ok()?;
        let mut text = |what, bytes: u16| -> Option<String> {
            String::from_utf8(reader.bytes(what, bytes.into()).ok()?.to_vec()).ok()
        };
        let owner = text("owner", owner_bytes.into())?;
        let name = text("name", name_bytes.into())?;
        let path = text("path", path_bytes)?;
        let entry = JournalEntry { owner, name, path };
        (entry.fits() && path::check(&entry.path).is_ok()).then_some(entry)
    }

    /// Whether a slot has room for it, and its texts are ones.
    pub(super) fn fits(&self) -> bool {
        let is_text = |text: &str, bytes_max| (1..=bytes_max).contains(&text.len()) && !text.contains('\0');
        is_text(&self.owner, OWNER_BYTES_MAX)
            && is_text(&self.name, NAME_BYTES_MAX)
            && self.path.len() <= path::PATH_CHARS_MAX
    }
}
