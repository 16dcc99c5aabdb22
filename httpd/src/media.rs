//! What a file is, and whether a browser may show it: by the name that the request gives it, else
//! by its first bytes. A browser shows sound, film, pictures and a few harmless kinds beside them;
//! whatever it might run, and whatever is not known, comes as an attachment.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use infer::MatcherType;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tnv_common::wire::tnv::Unique;

/// As many first bytes are looked at: the kinds that are known tell themselves within these.
pub const SNIFF_BYTES: usize = 1024;

/// Most files whose kind is remembered: about 6 MiB.
const REMEMBERED_MAX: usize = 1 << 16;

/// Longest name of a download; file systems take 255 bytes.
const NAME_BYTES_MAX: usize = 240;

/// A kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The media type.
    pub media_type: &'static str,
    /// What a name of this kind ends with; empty where it is not known.
    pub extension: &'static str,
}

const UNKNOWN: Kind = Kind { media_type: "application/octet-stream", extension: "" };

impl Kind {
    /// What the name says, if anything.
    pub fn of_name(name: &str) -> Option<Kind> {
        let media_type = mime_guess::from_path(name).first_raw()?;
        Some(Kind { media_type, extension: "" })
    }

    /// What the first bytes say. Only sound, film and pictures are recognised: everything else is
    /// not for a browser to show.
    pub fn of_content(bytes: &[u8]) -> Kind {
        match infer::get(bytes) {
            Some(kind)
                if matches!(
                    kind.matcher_type(),
                    MatcherType::Audio | MatcherType::Video | MatcherType::Image
                ) =>
            {
                Kind { media_type: kind.mime_type(), extension: kind.extension() }
            }
            _ if is_transport_stream(bytes) => Kind { media_type: "video/mp2t", extension: "ts" },
            _ => UNKNOWN,
        }
    }

    /// The `Content-Type` value.
    pub fn content_type(self) -> String {
        match self.media_type.starts_with("text/") {
            true => format!("{}; charset=utf-8", self.media_type),
            false => self.media_type.to_owned(),
        }
    }

    /// Whether a browser may show it in the site's name. XML in every form may carry scripts.
    pub fn is_shown(self) -> bool {
        const SHOWN: [&str; 8] = [
            "text/plain",
            "text/vtt",
            "text/csv",
            "application/json",
            "application/pdf",
            "application/ogg",
            "application/x-mpegurl",
            "application/vnd.apple.mpegurl",
        ];
        let is_media = ["audio/", "video/", "image/"].iter().any(|group| self.media_type.starts_with(group));
        (is_media && !self.media_type.ends_with("xml")) || SHOWN.contains(&self.media_type)
    }
}

/// MPEG transport streams are packets of 188 bytes that begin with a G.
fn is_transport_stream(bytes: &[u8]) -> bool {
    bytes.len() > 376 && bytes.iter().step_by(188).take(3).all(|&byte| byte == 0x47)
}

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

    #[test]
    fn what_plays_is_shown_and_what_runs_is_not() {
        for (name, media_type, shown) in [
            ("holiday.mp4", "video/mp4", true),
            ("HOLIDAY.MP4", "video/mp4", true),
            ("a.webm", "video/webm", true),
            ("a.mp3", "audio/mpeg", true),
            ("a.jpg", "image/jpeg", true),
            ("a.txt", "text/plain", true),
            ("a.pdf", "application/pdf", true),
            ("a.vtt", "text/vtt", true),
            ("a.svg", "image/svg+xml", false),
            ("a.svgz", "image/svg+xml", false),
            ("a.html", "text/html", false),
            ("a.xhtml", "application/xhtml+xml", false),
            ("a.xml", "text/xml", false),
            ("a.js", "text/javascript", false),
            ("a.wasm", "application/wasm", false),
            ("a.swf", "application/x-shockwave-flash", false),
            ("a.zip", "application/zip", false),
        ] {
            let kind = Kind::of_name(name).unwrap();
            assert_eq!((kind.media_type, kind.is_shown()), (media_type, shown), "{name}");
        }
        for name in
            ["a.mht", "a.mhtml", "a.xsl", "a.hta", "a.htc", "a.shtml", "a.mjs", "a.rdf", "a.atom", "a.css"]
        {
            assert!(!Kind::of_name(name).unwrap_or(UNKNOWN).is_shown(), "{name}");
        }
        assert_eq!(Kind::of_name("no extension"), None);
        assert!(!UNKNOWN.is_shown());
    }

    #[test]
    fn first_bytes_tell_media_and_nothing_else() {
        let mut webm = b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\x82\x84webm".to_vec();
        webm.resize(300, 0);
        let mut stream = vec![0; 600];
        (0..600).step_by(188).for_each(|at| stream[at] = 0x47);
        for (bytes, want) in [
            (&b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41"[..], "video/mp4"),
            (&webm, "video/webm"),
            (&stream, "video/mp2t"),
            (b"ID3\x04\0\0\0\0\0\0", "audio/mpeg"),
            (b"OggS\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01vorbis", "audio/ogg"),
            (b"\xFF\xD8\xFF\xE0\0\x10JFIF", "image/jpeg"),
            (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "image/png"),
            (b"<!DOCTYPE html><script>alert(1)</script>", "application/octet-stream"),
            (b"<?xml version=\"1.0\"?><svg/>", "application/octet-stream"),
            (b"%PDF-1.7", "application/octet-stream"),
            (b"PK\x03\x04", "application/octet-stream"),
            (b"", "application/octet-stream"),
        ] {
            assert_eq!(Kind::of_content(bytes).media_type, want, "{:?}", &bytes[..bytes.len().min(16)]);
        }
    }

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
