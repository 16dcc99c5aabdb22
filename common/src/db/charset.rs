//! The character set in which the other servers of a deployment talk to MySQL, and what it makes of names
//! beyond ASCII.
//!
//! Servers send names as UTF-8. Over a connection whose character set is latin1, the default of the client
//! library of MySQL 5.7 and before, MySQL takes each byte for a character: `é` (C3 A9) is stored as `Ã©`.
//! Such servers never notice, since what they read comes back the same way. A server that talks UTF-8 finds
//! none of these names. So with [`Charset::Latin1`] this server writes each byte as the character that
//! MySQL's latin1 has for it, and reads it back; the connection itself stays utf8mb4. Then both kinds of
//! server find each other's rows.

use std::borrow::Cow;
use std::fmt;

/// The character set in which names are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Charset {
    /// They are stored as they are.
    #[default]
    Utf8mb4,
    /// Each byte is stored as a character.
    Latin1,
}

/// MySQL's latin1 from 0x80 to 0x9F: Windows-1252, and control characters where that has none. All other
/// bytes are the characters of the same number.
const LATIN1_80_TO_9F: [char; 32] = [
    '\u{20AC}', '\u{81}', '\u{201A}', '\u{192}', '\u{201E}', '\u{2026}', '\u{2020}', '\u{2021}', '\u{2C6}',
    '\u{2030}', '\u{160}', '\u{2039}', '\u{152}', '\u{8D}', '\u{17D}', '\u{8F}', '\u{90}', '\u{2018}',
    '\u{2019}', '\u{201C}', '\u{201D}', '\u{2022}', '\u{2013}', '\u{2014}', '\u{2DC}', '\u{2122}', '\u{161}',
    '\u{203A}', '\u{153}', '\u{9D}', '\u{17E}', '\u{178}',
];

impl Charset {
    /// The values of the key `mysql_charset`.
    pub const CHOICES: &'static [(&'static str, Charset)] =
        &[("utf8mb4", Charset::Utf8mb4), ("latin1", Charset::Latin1)];

    /// A name as the table has it.
    pub(super) fn encode(self, name: &str) -> Cow<'_, str> {
        match self {
            Charset::Latin1 if !name.is_ascii() => name.bytes().map(latin1_char).collect(),
            _ => Cow::Borrowed(name),
        }
    }

    /// A name that the table has. What was not written in this character set comes back as it is.
    pub(super) fn decode(self, stored: String) -> String {
        match self {
            Charset::Latin1 => utf8_of_latin1(&stored).unwrap_or(stored),
            Charset::Utf8mb4 => stored,
        }
    }

    /// Whether a stored name shows that it was written in the other character set.
    pub(super) fn is_foreign(self, stored: &str) -> bool {
        let latin1 = utf8_of_latin1(stored).is_some();
        !stored.is_ascii() && latin1 != (self == Charset::Latin1)
    }

    /// The other one.
    pub(super) fn other(self) -> Charset {
        match self {
            Charset::Utf8mb4 => Charset::Latin1,
            Charset::Latin1 => Charset::Utf8mb4,
        }
    }
}

impl fmt::Display for Charset {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Charset::Utf8mb4 => "utf8mb4",
            Charset::Latin1 => "latin1",
        })
    }
}

fn latin1_char(byte: u8) -> char {
    match byte {
        0x80..=0x9F => LATIN1_80_TO_9F[usize::from(byte - 0x80)],
        _ => char::from(byte),
    }
}

fn latin1_byte(char: char) -> Option<u8> {
    match u8::try_from(char) {
        Ok(byte) if !(0x80..=0x9F).contains(&byte) => Some(byte),
        _ => (0x80..).zip(LATIN1_80_TO_9F).find_map(|(byte, known)| (known == char).then_some(byte)),
    }
}

/// The name beyond ASCII that a stored text is, where it was written over a latin1 connection. A name that
/// was not is nearly never taken for one: its characters would have to be the bytes of well-formed UTF-8.
fn utf8_of_latin1(stored: &str) -> Option<String> {
    if stored.is_ascii() {
        return None;
    }
    let bytes = stored.chars().map(latin1_byte).collect::<Option<Vec<u8>>>()?;
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_comes_back_whatever_its_bytes_are() {
        let all: String = (0..0x2_0000).filter_map(char::from_u32).collect();
        for name in ["", "plain", "\u{e9}", "\u{65e5}\u{672c}\u{8a9e}", "\u{1f600}", "\u{20ac}\u{81}", &all] {
            let stored = Charset::Latin1.encode(name).into_owned();
            assert!(stored.chars().all(|char| latin1_byte(char).is_some()));
            assert_eq!(Charset::Latin1.decode(stored.clone()), name);
            assert_eq!(Charset::Utf8mb4.encode(name), name);
            assert_eq!(Charset::Utf8mb4.is_foreign(&stored), !name.is_ascii());
            assert!(!Charset::Latin1.is_foreign(&stored));
        }
        assert_eq!(Charset::Latin1.encode("\u{e9}"), "\u{c3}\u{a9}");
        assert_eq!(Charset::Latin1.encode("\u{20ac}"), "\u{e2}\u{201a}\u{ac}");
    }

    #[test]
    fn a_name_in_utf8_is_known_from_one_over_latin1() {
        for name in ["Jos\u{e9}", "\u{65e5}\u{672c}", "\u{1f600}", "na\u{ef}ve \u{80}"] {
            assert!(Charset::Latin1.is_foreign(name) && !Charset::Utf8mb4.is_foreign(name), "{name}");
            assert_eq!(Charset::Latin1.decode(name.to_owned()), name);
        }
        assert!(!Charset::Latin1.is_foreign("plain") && !Charset::Utf8mb4.is_foreign("plain"));
    }
}
