//! What is counted, and texts as they stand in the report.

use std::fmt::Display;

/// What was met, and what of it disagrees.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) rows: u64,
    pub(super) own: u64,
    pub(super) not_live: u64,
    pub(super) other_groups: u64,
    pub(super) unknown_group: u64,
    pub(super) files: u64,
    pub(super) other_entries: u64,
    pub(super) open: u64,
    pub(super) left: u64,
    pub(super) young: u64,
    pub(super) contents: u64,
    pub(super) content_bytes: u64,
    pub(super) unchecked: u64,
    pub(super) missing: u64,
    pub(super) size: u64,
    pub(super) checksum: u64,
    pub(super) unreadable: u64,
    pub(super) path: u64,
    pub(super) orphan: u64,
    pub(super) removed: u64,
    pub(super) failed: u64,
}

/// So that no name forges a line or a field.
pub(super) fn escaped(text: impl Display) -> String {
    let text = text.to_string();
    let mut line = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\'' | '"' => line.push(char),
            other => line.extend(other.escape_debug()),
        }
    }
    line
}
