//! How a file is presented to who asked for it: what a download is called; and which kinds of files were looked
//! into, so that each upload is looked into once.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tnv_common::proto::tnv::storage::Unique;

use crate::kind::Kind;

/// Most files whose kind is remembered: about 6 MiB.
const REMEMBERED_MAX: usize = 1 << 16;

/// Longest name of a download; file systems take 255 bytes.
const NAME_BYTES_MAX: usize = 240;

/// The value of `Content-Disposition`: how it is to be taken, and its name for those who keep it.
pub fn disposition(is_attachment: bool, name: &str) -> String {
    /// RFC 8187's attr-char stay as they are.
    const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'!')
        .remove(b'#')
        .remove(b'$')
        .remove(b'&')
        .remove(b'+')
        .remove(b'-')
        .remove(b'.')
        .remove(b'^')
        .remove(b'_')
        .remove(b'`')
        .remove(b'|')
        .remove(b'~');
    let name = safe_name(name);
    let mut value = if is_attachment { "attachment" } else { "inline" }.to_owned();
    let plain: String = name.chars().map(|c| if c.is_ascii() && c != '%' { c } else { '_' }).collect();
    // Writing to a string cannot fail.
    let _ = write!(value, "; filename=\"{plain}\"");
    if plain != name {
        let _ = write!(value, "; filename*=UTF-8''{}", utf8_percent_encode(&name, ENCODED));
    }
    value
}

/// A name without what could lead out of a directory, end a header line, or hide its true end.
fn safe_name(name: &str) -> String {
    let is_unsafe = |c: char| {
        c.is_control()
            || matches!(c, '/' | '\\' | '"' | ':' | '*' | '?' | '<' | '>' | '|' | '\u{2028}' | '\u{2029}')
            // What stands for bytes that are not UTF-8.
            || c == '\u{FFFD}'
            || matches!(c, '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
    };
    let safe: String = name.chars().map(|c| if is_unsafe(c) { '_' } else { c }).collect();
    let safe = safe.trim_matches([' ', '.']);
    if safe.is_empty() {
        return "download".to_owned();
    }
    if safe.len() <= NAME_BYTES_MAX {
        return safe.to_owned();
    }
    // The end says what it is; the middle is what nobody misses.
    let end = safe.ceil_char_boundary(safe.len() - 20);
    let start = safe.floor_char_boundary(NAME_BYTES_MAX - 20);
    format!("{}{}", &safe[..start], &safe[end..])
}

/// The kinds of files that were looked into, by what is unique to each upload. Two maps: when the
/// younger is full it becomes the older, and what the older had is forgotten.
#[derive(Default)]
pub struct Remembered {
    maps: Mutex<Maps>,
}

#[derive(Default)]
struct Maps {
    younger: HashMap<Unique, Kind>,
    older: HashMap<Unique, Kind>,
}

impl Remembered {
    /// The kind of this upload, where it is remembered.
    pub fn get(&self, unique: &Unique) -> Option<Kind> {
        let maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        maps.younger.get(unique).or_else(|| maps.older.get(unique)).copied()
    }

    /// Remembers it.
    pub fn put(&self, unique: Unique, kind: Kind) {
        let mut maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        if maps.younger.len() >= REMEMBERED_MAX / 2 {
            maps.older = std::mem::take(&mut maps.younger);
        }
        maps.younger.insert(unique, kind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::UNKNOWN;

    #[test]
    fn names_cannot_break_out_of_their_header() {
        for (name, want) in [
            ("holiday.mp4", "inline; filename=\"holiday.mp4\""),
            ("a b;c.mp4", "inline; filename=\"a b;c.mp4\""),
            ("ü%.mp4", "inline; filename=\"__.mp4\"; filename*=UTF-8''%C3%BC%25.mp4"),
            ("../../etc/passwd", "inline; filename=\"_.._etc_passwd\""),
            ("a\"\r\nSet-Cookie: x", "inline; filename=\"a___Set-Cookie_ x\""),
            ("..", "inline; filename=\"download\""),
            ("gnp\u{202E}exe", "inline; filename=\"gnp_exe\""),
            ("\u{FFFD}\u{FFFD}.mp4", "inline; filename=\"__.mp4\""),
        ] {
            assert_eq!(disposition(false, name), want);
        }
        assert!(disposition(true, "x").starts_with("attachment; "));
        let long = safe_name(&format!("{}.mp4", "ü".repeat(1000)));
        assert!(long.len() <= NAME_BYTES_MAX && long.ends_with("ü.mp4"), "{long}");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let remembered = Remembered::default();
        let unique = |n: u32| {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            Unique(bytes)
        };
        for n in 0..200_000 {
            remembered.put(unique(n), UNKNOWN);
        }
        let maps = remembered.maps.lock().unwrap();
        assert!(maps.younger.len() + maps.older.len() <= REMEMBERED_MAX);
        drop(maps);
        assert!(remembered.get(&unique(199_999)).is_some());
        assert!(remembered.get(&unique(0)).is_none());
    }
}
