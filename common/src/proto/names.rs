//! The names that travel on the wire, each a type of its own that only a validating constructor
//! makes, so that two of them cannot be swapped and none needs a second check.

use std::borrow::Borrow;
use std::fmt;

use crate::error::Result;
use crate::fail;
use crate::text::{is_harmful, shown};

/// Width of the appid field.
pub const APPID_BYTES: usize = 16;
/// Width of the userid field.
pub const USERID_BYTES: usize = 256;
/// Width of the fileid field.
pub const FILEID_BYTES: usize = 128;
/// Width of the group name field.
pub const GROUP_BYTES: usize = 17;
/// Width of the host name field.
pub const HOST_BYTES: usize = 129;
/// Longest ID key, without its NUL.
pub const ID_KEY_BYTES_MAX: usize = 64;
/// Longest userid of the tables, in characters (`varchar(128)`); the wire carries up to 255 bytes.
pub const USERID_CHARS_MAX: usize = 128;

/// Checks that a text has 1 to `max` bytes of UTF-8 without NUL.
fn text<'a>(what: &str, bytes: &'a [u8], max: usize) -> Result<&'a str> {
    if bytes.is_empty() || bytes.len() > max {
        return fail!(Invalid, "invalid {what}, got {} bytes, want 1 to {max}", bytes.len());
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        Ok(_) => fail!(Invalid, "invalid {what}, '{}' has a NUL in it", shown(bytes)),
        Err(_) => fail!(Invalid, "invalid {what}, '{}' is not UTF-8", shown(bytes)),
    }
}

/// The same for names of ASCII letters and digits.
fn alphanumeric<'a>(what: &str, bytes: &'a [u8], max: usize) -> Result<&'a str> {
    let text = text(what, bytes, max)?;
    match text.bytes().find(|byte| !byte.is_ascii_alphanumeric()) {
        None => Ok(text),
        Some(_) => fail!(Invalid, "invalid {what}, got '{}', want ASCII letters and digits", shown(bytes)),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Makes one from bytes, or says why not.
            pub fn new(bytes: impl AsRef<[u8]>) -> Result<$name> {
                let check: fn(&[u8]) -> Result<&str> = $check;
                check(bytes.as_ref()).map(|text| $name(text.to_owned()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = crate::error::Error;

            fn from_str(text: &str) -> Result<$name> {
                $name::new(text)
            }
        }
    };
}

name!(
    /// An application's ID: 1 to 15 ASCII letters and digits.
    AppId, "appid", |bytes| alphanumeric("appid", bytes, APPID_BYTES - 1)
);
name!(
    /// A user's ID: 1 to 255 bytes of UTF-8, and at most the 128 characters that the tables hold.
    UserId, "userid", |bytes| {
        let userid = text("userid", bytes, USERID_BYTES - 1)?;
        match userid.chars().count() {
            0..=USERID_CHARS_MAX => Ok(userid),
            chars => fail!(Invalid, "invalid userid, got {chars} characters, the tables hold {USERID_CHARS_MAX}"),
        }
    }
);
name!(
    /// A file's ID: 1 to 127 bytes of UTF-8.
    FileId, "fileid", |bytes| text("fileid", bytes, FILEID_BYTES - 1)
);
name!(
    /// A group's name: 1 to 16 ASCII letters and digits.
    GroupName, "group name", |bytes| alphanumeric("group name", bytes, GROUP_BYTES - 1)
);
name!(
    /// A storage's host name: 1 to 128 bytes of printable UTF-8.
    HostName, "host name", |bytes| {
        let host = text("host name", bytes, HOST_BYTES - 1)?;
        match host.chars().any(is_harmful) {
            false => Ok(host),
            true => fail!(Invalid, "invalid host name, '{}' has control characters", shown(bytes)),
        }
    }
);
name!(
    /// The key of a sequence of numbers: a store path as configured, 1 to 64 bytes.
    IdKey, "ID key", |bytes| text("ID key", bytes, ID_KEY_BYTES_MAX)
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_held_to_their_widths() {
        assert!(AppId::new("a".repeat(15)).is_ok());
        assert!(AppId::new("a".repeat(16)).is_err());
        assert!(AppId::new("tn-video").is_err());
        assert!(AppId::new("").is_err());
        assert!(FileId::new("f".repeat(127)).is_ok());
        assert!(FileId::new("f".repeat(128)).is_err());
        assert!(FileId::new(b"\xFF\xFE").is_err());
        assert!(GroupName::new("g".repeat(17)).is_err());
        assert!(IdKey::new("k".repeat(65)).is_err());
    }

    #[test]
    fn a_userid_that_the_tables_would_cut_is_refused() {
        assert!(UserId::new("u".repeat(128)).is_ok());
        assert!(UserId::new("u".repeat(129)).is_err());
        assert!(UserId::new("ü".repeat(127)).is_ok());
        assert!(UserId::new("ü".repeat(128)).is_err(), "256 bytes do not fit the wire");
    }

    /// It stands in the group list, which people read in terminals.
    #[test]
    fn a_host_name_can_neither_end_a_line_nor_turn_it_round() {
        for host in ["a\nb", "a\x1b[2Jb", "a\u{85}b", "a\u{2028}b", "a\u{202e}b", "a\u{2066}b"] {
            assert!(HostName::new(host).is_err(), "{host:?}");
        }
        assert!(HostName::new("rechner-ü").is_ok());
    }
}
