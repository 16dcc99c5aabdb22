//! Secrets: keys that both ends know, and what they prove with them. A secret is text without blanks,
//! as `openssl rand -hex 32` prints it; its bytes, as they are, are the key of HMAC-SHA-256. No log and
//! no debug output ever shows one.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::error::Result;
use crate::fail;
use crate::proto::tnv::auth::MAC_BYTES;
use crate::text;

/// An eavesdropper can try out secrets offline: shorter ones are guessed.
const SECRET_BYTES_MIN: usize = 16;

/// Longer ones add nothing, and are another file by mistake.
const SECRET_BYTES_MAX: usize = 512;

/// How to make one, for those who have none.
pub const HOW_TO_MAKE: &str = "16 to 512 visible ASCII characters, as 'openssl rand -hex 32' makes them";

/// A secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Makes one of its text, or says why not; the text is never quoted.
    pub fn new(text: &str) -> Result<Secret> {
        let bytes = text.as_bytes();
        if !(SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&bytes.len()) {
            return fail!(Invalid, "a secret of {} bytes", bytes.len());
        }
        match bytes.iter().all(u8::is_ascii_graphic) {
            true => Ok(Secret(bytes.to_vec())),
            false => fail!(Invalid, "a secret with blanks, or other than ASCII, in it"),
        }
    }

    /// The HMAC of what is said, for one purpose alone, which the label names. Each part comes with its
    /// length, so that no two lists of parts are one text.
    pub fn mac(&self, label: &str, parts: &[&[u8]]) -> [u8; MAC_BYTES] {
        self.hmac(label, parts).finalize().into_bytes().into()
    }

    /// Whether that is the HMAC. It takes the same time wherever they differ.
    pub fn verifies(&self, label: &str, parts: &[&[u8]], mac: &[u8]) -> bool {
        self.hmac(label, parts).verify_slice(mac).is_ok()
    }

    fn hmac(&self, label: &str, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut hmac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        for part in std::iter::once(label.as_bytes()).chain(parts.iter().copied()) {
            hmac.update(&(part.len() as u64).to_be_bytes());
            hmac.update(part);
        }
        hmac
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("(hidden)")
    }
}

/// The lines of a file of secrets with their numbers, without comments and empty ones; or what is wrong
/// with the file. One that everybody may read is refused: what is in it is no secret.
pub fn read_lines(file: &Path, bytes_max: usize) -> std::result::Result<Vec<(usize, String)>, String> {
    let in_file = |error: std::io::Error| format!("{}: {error}", file.display());
    let opened = File::open(file).map_err(in_file)?;
    let found = opened.metadata().map_err(in_file)?;
    let mode = found.permissions().mode() & 0o777;
    if found.is_file() && mode & 0o007 != 0 {
        return Err(format!("{} has mode {mode:03o}, everybody may use it; chmod 640 it", file.display()));
    }
    let mut bytes = Vec::new();
    opened.take(bytes_max as u64 + 1).read_to_end(&mut bytes).map_err(in_file)?;
    if bytes.len() > bytes_max {
        return Err(format!("{} has over {bytes_max} bytes", file.display()));
    }
    let text = text::decode(&bytes).map_err(|what| format!("{} is {what}", file.display()))?;
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim().to_owned()));
    Ok(lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_long_enough_and_never_shown() {
        let secret = Secret::new("0123456789abcdef").unwrap();
        assert_eq!(format!("{secret:?}"), "(hidden)");
        for bad in ["", "0123456789abcde", "0123456789 abcdef", "0123456789abcdef\u{e4}", &"x".repeat(513)] {
            let error = Secret::new(bad).unwrap_err();
            assert!(bad.is_empty() || !error.message().contains(bad), "{error}");
        }
    }

    /// Computed with OpenSSL: the lengths and parts as bytes into `openssl dgst -sha256 -hmac KEY`.
    #[test]
    fn the_hmac_is_the_one_that_others_compute() {
        let secret = Secret::new("0123456789abcdef").unwrap();
        let mac = secret.mac("label", &[b"ab", b"", b"c"]);
        let hex: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "5fabe2d220da0beef00d9434c5677e53c4e50d47fa4febee9a3dfd1eab373203");
        assert!(secret.verifies("label", &[b"ab", b"", b"c"], &mac));
    }

    #[test]
    fn nothing_else_has_the_same_hmac() {
        let secret = Secret::new("0123456789abcdef").unwrap();
        let mac = secret.mac("label", &[b"ab", b"c"]);
        let other = Secret::new("0123456789abcdeg").unwrap();
        assert!(!other.verifies("label", &[b"ab", b"c"], &mac));
        for (label, parts) in [
            ("label", &[&b"a"[..], b"bc"][..]),
            ("label", &[b"abc"]),
            ("label", &[b"ab", b"c", b""]),
            ("label", &[b"ab"]),
            ("labela", &[b"b", b"c"]),
            ("lable", &[b"ab", b"c"]),
        ] {
            assert!(!secret.verifies(label, parts, &mac), "{label} {parts:?}");
        }
        for wrong in [&mac[..31], &[&mac[..], b"0"].concat(), b""] {
            assert!(!secret.verifies("label", &[b"ab", b"c"], wrong));
        }
    }

    #[test]
    fn a_file_that_everybody_may_read_keeps_no_secret() {
        let path = std::env::temp_dir().join(format!("tnv-secret-{}", std::process::id()));
        std::fs::write(&path, "# a comment\n\n first \r\nsecond").unwrap();
        let chmod = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        for mode in [0o644, 0o602, 0o601] {
            chmod(mode);
            let error = read_lines(&path, 100).unwrap_err();
            assert!(error.contains(&format!("mode {mode:o}")) && error.contains("chmod 640"), "{error}");
        }
        chmod(0o640);
        assert_eq!(read_lines(&path, 100), Ok(vec![(3, "first".to_owned()), (4, "second".to_owned())]));
        assert!(read_lines(&path, 20).unwrap_err().contains("over 20 bytes"));
        // As an editor on Windows writes it.
        std::fs::write(&path, b"\xEF\xBB\xBFfirst\r\nsecond\r\n").unwrap();
        assert_eq!(read_lines(&path, 100), Ok(vec![(1, "first".to_owned()), (2, "second".to_owned())]));
        std::fs::write(&path, b"\xff\xfe").unwrap();
        assert!(read_lines(&path, 100).unwrap_err().contains("UTF-16"));
        std::fs::write(&path, b"caf\xE9").unwrap();
        assert!(read_lines(&path, 100).unwrap_err().contains("UTF-8"));
        std::fs::remove_file(&path).unwrap();
        assert!(read_lines(&path, 100).unwrap_err().contains("No such file"));
    }
}
