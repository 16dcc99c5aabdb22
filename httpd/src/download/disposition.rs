//! `Content-Disposition`: whether a browser shows or saves a file, and under which name.

use std::fmt::Write;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Longest name of a download; file systems take 255 bytes.
const NAME_BYTES_MAX: usize = 240;

/// The header's value.
pub fn disposition(is_attachment: bool, name: &str) -> String {
    /// RFC 8187's attr-char are not encoded.
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

/// A name without characters that leave a directory, end a header line, or hide the extension.
fn safe_name(name: &str) -> String {
    let is_unsafe = |c: char| {
        c.is_control()
            || matches!(c, '/' | '\\' | '"' | ':' | '*' | '?' | '<' | '>' | '|' | '\u{2028}' | '\u{2029}')
            // The replacement for bytes that are not UTF-8.
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
    // The end, with the extension, is kept; the middle is cut.
    let end = safe.ceil_char_boundary(safe.len() - 20);
    let start = safe.floor_char_boundary(NAME_BYTES_MAX - 20);
    format!("{}{}", &safe[..start], &safe[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
