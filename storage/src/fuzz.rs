//! The fuzzing target of what a storage reads from its disks: a journal's entries and heartbeat, the paths in
//! them, and a volume's marker. cargo-fuzz calls it (`fuzz/README.md`), and so does the test here, for a bounded while. It is
//! in no server.

use crate::path;
use crate::volume::heartbeat;
use crate::volume::identity::Marker;
use crate::volume::journal::{JournalEntry, SLOT_BYTES};

/// A slot of a journal, of which the checksum is made true, so that what stands behind it is reached.
pub fn storage_journal(data: &[u8]) {
    let _ = (JournalEntry::decode(data), heartbeat::decode(data));
    if let Some(marker) = std::str::from_utf8(data).ok().and_then(Marker::parse) {
        assert_eq!(Marker::parse(&marker.to_string()), Some(marker));
    }
    let mut slot = [0; SLOT_BYTES];
    let bytes = data.len().min(SLOT_BYTES);
    slot[..bytes].copy_from_slice(&data[..bytes]);
    let crc = crc32fast::hash(&slot[4..]);
    slot[..4].copy_from_slice(&crc.to_be_bytes());
    let Some(entry) = JournalEntry::decode(&slot) else { return };
    check_path(&entry.path);
    assert_eq!(JournalEntry::decode(&entry.encode()).as_ref(), Some(&entry));
    // One wrong bit, and it is not followed.
    slot[bytes.saturating_sub(1).max(4)] ^= 1;
    assert_eq!(JournalEntry::decode(&slot), None);
}

/// A path that is followed lies three directories below its store path, in a file of the known form.
fn check_path(path: &str) {
    assert!(path.len() <= path::PATH_CHARS_MAX && !path.contains('\0'), "{path:?}");
    let parts: Vec<&str> = path.rsplit('/').take(4).collect();
    assert_eq!(parts.len(), 4, "{path:?}");
    let is_plain = |part: &&str| part.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'_');
    assert!(parts.iter().all(is_plain), "{path:?}");
    assert!(path::time(path).is_none_or(|time| time >= 0));
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_record_of_a_journal_is_misread() {
        tnv_tests::fuzz::bounded("storage_journal", super::storage_journal);
    }
}
