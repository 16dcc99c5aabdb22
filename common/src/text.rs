//! Text from elsewhere. Files of settings, passwords and keys as people write them on any system: a byte order
//! mark, which editors put before UTF-8, is no part of the text. And text of a peer, so that it can stand in a log
//! line or an error.

/// What UTF-8 begins with where an editor marks it.
const MARK: &[u8] = b"\xEF\xBB\xBF";

/// The bytes without the mark before them.
pub fn unmarked(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(MARK).unwrap_or(bytes)
}

/// Whether it is UTF-16, by the mark that this always has where an editor wrote it.
pub fn is_utf16(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\xFF\xFE") || bytes.starts_with(b"\xFE\xFF")
}

/// The text of a file; or what it is instead.
pub fn decode(bytes: &[u8]) -> Result<&str, &'static str> {
    match std::str::from_utf8(unmarked(bytes)) {
        Ok(text) => Ok(text),
        Err(_) if is_utf16(bytes) => Err("UTF-16, save it as UTF-8"),
        Err(_) => Err("not UTF-8"),
    }
}

/// The first line, without its end, be that a line feed or a carriage return or both.
pub fn first_line(text: &str) -> &str {
    text.split(['\n', '\r']).next().unwrap_or_default()
}

/// Text as it may safely stand in a log line or an error: cut to 64 characters, control
/// characters escaped.
pub fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(256)]);
    let mut shown: String = text.chars().take(64).flat_map(char::escape_debug).collect();
    if text.chars().count() > 64 || bytes.len() > 256 {
        shown.push('…');
    }
    shown
}

/// Whether a character would break or rearrange a line: control characters, Unicode's line ends, and
/// what reverses the order of text.
pub fn is_harmful(char: char) -> bool {
    char.is_control() || matches!(char, '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// A text from elsewhere as one harmless line.
pub fn one_line(text: &str) -> String {
    text.chars().map(|char| if is_harmful(char) { '?' } else { char }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_and_line_ends_are_no_part_of_a_text() {
        for bytes in
            [&b"secret"[..], b"\xEF\xBB\xBFsecret", b"\xEF\xBB\xBFsecret\r\nmore", b"secret\r", b"secret\n"]
        {
            assert_eq!(decode(bytes).map(first_line), Ok("secret"), "{bytes:?}");
        }
        // Only the first one is a mark.
        assert_eq!(decode(b"\xEF\xBB\xBF\xEF\xBB\xBFx"), Ok("\u{FEFF}x"));
        assert_eq!(decode(b"").map(first_line), Ok(""));
        assert_eq!(decode(b"\xFF\xFEs\0"), Err("UTF-16, save it as UTF-8"));
        assert_eq!(decode(b"caf\xE9"), Err("not UTF-8"));
    }

    #[test]
    fn what_a_stranger_sent_is_shown_harmlessly() {
        assert_eq!(shown(b"a\nb\x1b[0m"), "a\\nb\\u{1b}[0m");
        assert!(shown(&[b'x'; 5000]).chars().count() <= 65);
    }
}
