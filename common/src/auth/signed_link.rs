//! Signed HTTP links: `/files/APPID/USERID/FILEID?expires=SECONDS&sig=SIGNATURE`. The signature is the
//! HMAC-SHA-256 of owner, file and expiry, in base64url without padding. Both ends are here: the HTTP
//! server checks, and every program that knows the secret can sign.

use std::fmt::Write;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::auth::secret::{Secret, read_lines};
use crate::proto::tnv::auth::MAC_BYTES;
use crate::proto::tnv::file_key::FileKey;

/// What these signatures are for; no other HMAC of ours begins so.
const LABEL: &str = "TNV link 1";

/// Secrets that count at a time: one that signs, and those that links still on their way were signed with.
const SECRETS_MAX: usize = 4;

/// A file of secrets is at most this long: the secrets, and comments.
const FILE_BYTES_MAX: usize = 8 << 10;

/// The longest signature looked at: base64 of an HMAC has 43 characters.
const SIGNATURE_CHARS_MAX: usize = 64;

/// What may stand in a path as it is.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The secrets of links: the first one signs, each of them counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkSecrets(Vec<Secret>);

/// Why a link does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkError {
    /// It is not signed, or wrongly: the reason.
    Forged(&'static str),
    /// It is well signed, and its time is over.
    Expired,
}

impl LinkSecrets {
    /// A single secret.
    pub fn one(secret: Secret) -> LinkSecrets {
        LinkSecrets(vec![secret])
    }

    /// Those of a file, one a line; or what is wrong with it.
    pub fn read(file: &Path) -> Result<LinkSecrets, String> {
        let lines = read_lines(file, FILE_BYTES_MAX)?;
        if lines.is_empty() || lines.len() > SECRETS_MAX {
            return Err(format!("{} has {} secrets", file.display(), lines.len()));
        }
        let secret = |(number, line): &(usize, String)| {
            Secret::new(line).map_err(|error| format!("{}:{number}: {error}", file.display()))
        };
        lines.iter().map(secret).collect::<Result<_, _>>().map(LinkSecrets)
    }

    /// What a file of them has to have.
    pub fn form() -> String {
        format!("a file of 1 to {SECRETS_MAX} secrets, one a line, that not everybody may read")
    }

    /// Path and query of a file, valid until then (seconds since the epoch).
    pub fn sign(&self, file: &FileKey, expires: u64) -> String {
        let mut link = path(file);
        let mac = said(file, expires, |parts| self.0[0].mac(LABEL, parts));
        let _ = write!(link, "?expires={expires}&sig={}", URL_SAFE_NO_PAD.encode(mac));
        link
    }

    /// Whether a request for this file, with this query, counts now (seconds since the epoch). That a
    /// link is over is only told to whoever has one that was good.
    pub fn check(&self, file: &FileKey, query: &str, now: u64) -> Result<(), LinkError> {
        let forged = |why| Err(LinkError::Forged(why));
        let (Ok(expires), Ok(signature)) = (only(query, "expires"), only(query, "sig")) else {
            return forged("expires or sig is given twice");
        };
        let (Some(expires), Some(signature)) = (expires, signature) else {
            return forged("this needs a signed link, with expires and sig");
        };
        let digits = |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit());
        let Some(expires) = Some(expires).filter(digits).and_then(|text| text.parse::<u64>().ok()) else {
            return forged("expires is no number of seconds");
        };
        let mut mac = [0; SIGNATURE_CHARS_MAX];
        let decoded = match signature.len() <= SIGNATURE_CHARS_MAX {
            true => URL_SAFE_NO_PAD.decode_slice(signature, &mut mac).ok(),
            false => None,
        };
        let Some(mac) = decoded.filter(|&bytes| bytes == MAC_BYTES).map(|bytes| &mac[..bytes]) else {
            return forged("sig is no signature");
        };
        // Each is tried, so that the time does not show which.
        let known = said(file, expires, |parts| {
            self.0.iter().fold(false, |known, secret| known | secret.verifies(LABEL, parts, mac))
        });
        match known {
            false => forged("the signature is not of this file, owner and expiry"),
            true if expires <= now => Err(LinkError::Expired),
            true => Ok(()),
        }
    }
}

/// The path of a file.
pub fn path(file: &FileKey) -> String {
    let FileKey { appid, userid, fileid } = file;
    let escaped = |text| utf8_percent_encode(text, ESCAPED);
    format!("/files/{appid}/{}/{}", escaped(userid.as_str()), escaped(fileid.as_str()))
}

/// What is signed.
fn said<T>(file: &FileKey, expires: u64, with: impl FnOnce(&[&[u8]]) -> T) -> T {
    let FileKey { appid, userid, fileid } = file;
    with(&[
        appid.as_str().as_bytes(),
        userid.as_str().as_bytes(),
        fileid.as_str().as_bytes(),
        &expires.to_be_bytes(),
    ])
}

/// The value of a query's parameter, where there is one; two of them are an error.
fn only<'a>(query: &'a str, name: &str) -> Result<Option<&'a str>, ()> {
    let value = |item: &'a str| match item.split_once('=') {
        Some((known, value)) if known == name => Some(value),
        None if item == name => Some(""),
        _ => None,
    };
    let mut values = query.split('&').filter_map(value);
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err(()),
    }
}

/// A target for the log: without its signature, so that the log gives no links away.
pub fn without_signature(target: &str) -> String {
    let Some((path, query)) = target.split_once('?') else { return target.to_owned() };
    let item = |item: &str| match item.starts_with("sig=") {
        true => "sig=...".to_owned(),
        false => item.to_owned(),
    };
    format!("{path}?{}", query.split('&').map(item).collect::<Vec<_>>().join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{AppId, FileId, UserId};

    fn secrets(texts: &[&str]) -> LinkSecrets {
        LinkSecrets(texts.iter().map(|text| Secret::new(text).unwrap()).collect())
    }

    fn file(appid: &str, userid: &str, fileid: &str) -> FileKey {
        let (appid, userid) = (AppId::new(appid).unwrap(), UserId::new(userid).unwrap());
        FileKey { appid, userid, fileid: FileId::new(fileid).unwrap() }
    }

    const OLD: &str = "an-old-secret-of-ours";
    const NEW: &str = "a-new-secret-of-ours";

    fn query(link: &str) -> &str {
        link.split_once('?').unwrap().1
    }

    #[test]
    fn a_link_counts_for_its_file_until_its_time() {
        let (secrets, it) = (secrets(&[NEW]), file("app", "us/er", "f 1"));
        let link = secrets.sign(&it, 1000);
        assert!(link.starts_with("/files/app/us%2Fer/f%201?expires=1000&sig="), "{link}");
        assert_eq!(secrets.check(&it, query(&link), 0), Ok(()));
        assert_eq!(secrets.check(&it, query(&link), 999), Ok(()));
        assert_eq!(secrets.check(&it, query(&link), 1000), Err(LinkError::Expired));
        let with_more = format!("download&{}&t=5", query(&link));
        assert_eq!(secrets.check(&it, &with_more, 999), Ok(()));
        for other in [file("app", "us/er", "f 2"), file("app", "us/e", "f 1"), file("ap", "us/er", "f 1")] {
            assert!(matches!(secrets.check(&other, query(&link), 0), Err(LinkError::Forged(_))));
        }
        // What stands at the end of one name does not go over to the next.
        let link = secrets.sign(&file("app", "ab", "c"), 1000);
        let shifted = secrets.check(&file("app", "a", "bc"), query(&link), 0);
        assert!(matches!(shifted, Err(LinkError::Forged(_))));
    }

    #[test]
    fn whatever_is_changed_is_forged_and_never_called_expired() {
        let (secrets, it) = (secrets(&[NEW]), file("app", "user", "f1"));
        let link = secrets.sign(&it, 1000);
        let sig = query(&link).split_once("sig=").unwrap().1;
        assert_eq!(sig.len(), 43);
        let mut bits = Vec::new();
        for (at, char) in sig.char_indices() {
            let other = if char == 'A' { 'B' } else { 'A' };
            bits.push(format!("expires=1000&sig={}{other}{}", &sig[..at], &sig[at + 1..]));
        }
        let wrong = [
            "".to_owned(),
            "expires=1000".to_owned(),
            format!("sig={sig}"),
            format!("expires=1001&sig={sig}"),
            format!("expires=&sig={sig}"),
            format!("expires&sig={sig}"),
            format!("expires=+1000&sig={sig}"),
            format!("expires=-1000&sig={sig}"),
            format!("expires=1000.0&sig={sig}"),
            format!("expires=99999999999999999999999&sig={sig}"),
            format!("expires=1000&expires=1000&sig={sig}"),
            format!("expires=1000&sig={sig}&sig={sig}"),
            format!("expires=1000&expires&sig={sig}"),
            format!("EXPIRES=1000&SIG={sig}"),
            "expires=1000&sig=".to_owned(),
            "expires=1000&sig".to_owned(),
            format!("expires=1000&sig={}", &sig[..42]),
            format!("expires=1000&sig={}", &sig[..40]),
            format!("expires=1000&sig={sig}="),
            format!("expires=1000&sig={sig}A"),
            format!("expires=1000&sig={}", "A".repeat(43)),
            format!("expires=1000&sig={}", "A".repeat(4000)),
            "expires=1000&sig=\u{e4}\u{e4}".to_owned(),
        ];
        for query in wrong.iter().chain(&bits) {
            for now in [0, 5000] {
                let outcome = secrets.check(&it, query, now);
                assert!(matches!(outcome, Err(LinkError::Forged(_))), "{query} {outcome:?}");
            }
        }
    }

    #[test]
    fn a_secret_is_changed_without_ending_the_links_of_the_old_one() {
        let it = file("app", "user", "f1");
        let (old, both, new) = (secrets(&[OLD]), secrets(&[NEW, OLD]), secrets(&[NEW]));
        let (old_link, new_link) = (old.sign(&it, 1000), both.sign(&it, 1000));
        assert_eq!(new_link, new.sign(&it, 1000));
        assert_eq!(both.check(&it, query(&old_link), 5), Ok(()));
        assert_eq!(both.check(&it, query(&new_link), 5), Ok(()));
        assert!(new.check(&it, query(&old_link), 5).is_err() && old.check(&it, query(&new_link), 5).is_err());
    }

    #[test]
    fn the_log_has_no_signature() {
        let shown = without_signature("/files/f?download&sig=abc&expires=5&sig=d");
        assert_eq!(shown, "/files/f?download&sig=...&expires=5&sig=...");
        assert_eq!(without_signature("/files/sig=f"), "/files/sig=f");
    }
}
