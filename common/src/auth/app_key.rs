//! Keys of applications: a client that uploads files of an application that has a key, or deletes them, proves
//! first that he knows it. Both ends of the proof are here; what stands on the wire is in `wire::tnv`.
//!
//! The storage sends a nonce of its own, and the client answers with an HMAC-SHA-256 over this nonce,
//! another one of the client's, and the application. The key itself is never sent. The storage's nonce is
//! good for one answer on the one connection that asked for it, so an eavesdropper can use neither.

use std::collections::HashMap;
use std::path::Path;

use crate::auth::secret::{HOW_TO_MAKE, Secret, read_lines};
use crate::proto::AppId;
use crate::proto::tnv::auth::MAC_BYTES;
use crate::proto::tnv::auth::Nonce;

/// What these proofs are for; no other HMAC of ours begins so.
const LABEL: &str = "TNV application key 1";

/// Keys of one application that count at a time: the new one, and those that are still in use.
const KEYS_PER_APP_MAX: usize = 4;

/// A file of keys is at most this long: a thousand of the longest.
const FILE_BYTES_MAX: usize = 512 << 10;

/// The keys of applications. Of several keys of one application each counts; a client proves the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppKeys(HashMap<AppId, Vec<Secret>>);

impl AppKeys {
    /// Those of a file, `APPID KEY` a line; or what is wrong with it. No key is quoted.
    pub fn read(file: &Path) -> std::result::Result<AppKeys, String> {
        let mut keys = AppKeys::default();
        for (number, line) in read_lines(file, FILE_BYTES_MAX)? {
            let fault = |what: &str| format!("{}:{number}: {what}", file.display());
            let (appid, key) = line.split_once(char::is_whitespace).ok_or_else(|| {
                fault("a line without a blank, want an application ID, a blank and its key")
            })?;
            let appid = AppId::new(appid)
                .map_err(|_| fault("no application ID, want 1 to 15 ASCII letters and digits"))?;
            let key = Secret::new(key.trim_start())
                .map_err(|error| fault(&format!("{error} as the key of {appid}, want {HOW_TO_MAKE}")))?;
            if keys.of(&appid).len() == KEYS_PER_APP_MAX {
                return Err(fault(&format!("more than {KEYS_PER_APP_MAX} keys of {appid}")));
            }
            keys.insert(appid, key);
        }
        match keys.0.is_empty() {
            true => Err(format!("{} has no keys in it", file.display())),
            false => Ok(keys),
        }
    }

    /// What a file of keys has to be.
    pub fn form() -> &'static str {
        "a file of keys, 'APPID KEY' a line, that not everybody may read"
    }

    /// One more key.
    pub fn insert(&mut self, appid: AppId, key: Secret) {
        self.0.entry(appid).or_default().push(key);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many applications have keys.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The keys of an application; none where it needs none.
    pub fn of(&self, appid: &AppId) -> &[Secret] {
        self.0.get(appid).map_or(&[], Vec::as_slice)
    }

    /// The key that a proof shows knowledge of. All are tried, so that the time does not show which.
    pub fn proven(&self, appid: &AppId, ours: &Nonce, theirs: &Nonce, mac: &[u8]) -> Option<&Secret> {
        with_parts(appid, ours, theirs, |parts| {
            self.of(appid).iter().fold(None, |found, key| match key.verifies(LABEL, parts, mac) {
                true => Some(key),
                false => found,
            })
        })
    }
}

/// A client's proof that it knows a key: `theirs` is the storage's nonce, `ours` the client's.
pub fn prove(key: &Secret, appid: &AppId, theirs: &Nonce, ours: &Nonce) -> [u8; MAC_BYTES] {
    with_parts(appid, theirs, ours, |parts| key.mac(LABEL, parts))
}

fn with_parts<T>(appid: &AppId, storage: &Nonce, client: &Nonce, with: impl FnOnce(&[&[u8]]) -> T) -> T {
    with(&[storage, client, appid.as_str().as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::tnv::auth::NONCE_BYTES;
    use std::os::unix::fs::PermissionsExt;

    fn appid(text: &str) -> AppId {
        AppId::new(text).unwrap()
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text).unwrap()
    }

    fn read(text: &str) -> std::result::Result<AppKeys, String> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let file = std::env::temp_dir().join(format!("tnv-appkey-{}-{next}", std::process::id()));
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
        let keys = AppKeys::read(&file);
        std::fs::remove_file(&file).unwrap();
        keys
    }

    const ONE: &str = "0123456789abcdef0123456789abcdef";
    const TWO: &str = "fedcba9876543210fedcba9876543210";

    #[test]
    fn a_file_of_keys_is_read_and_its_faults_quote_no_key() {
        let keys = read(&format!("# keys\n\nvideo {ONE}\nmusic\t {TWO} \nvideo {TWO}\n")).unwrap();
        assert_eq!(keys.count(), 2);
        assert_eq!(keys.of(&appid("video")), [secret(ONE), secret(TWO)]);
        assert_eq!(keys.of(&appid("music")), [secret(TWO)]);
        assert!(keys.of(&appid("other")).is_empty());
        assert!(!format!("{keys:?}").contains("0123"));
        let five = format!("video {ONE}\n").repeat(5);
        for (text, says) in [
            ("", "no keys"),
            ("# none\n", "no keys"),
            ("\nvideo\n", ":2: a line without a blank"),
            (&format!("vi-deo {ONE}"), ":1: no application ID"),
            ("video hunter2hunter2", ":1: a secret of 14 bytes"),
            ("video hunter2", ":1: a secret of 7 bytes as the key of video"),
            (&format!("video {ONE} {TWO}"), "blanks"),
            (&five, ":5: more than 4 keys of video"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(says), "{error}");
            assert!(!error.contains("hunter2") && !error.contains("0123"), "{error}");
        }
    }

    #[test]
    fn a_proof_is_good_for_its_nonces_application_and_key_alone() {
        let mut keys = AppKeys::default();
        keys.insert(appid("video"), secret(ONE));
        keys.insert(appid("video"), secret(TWO));
        keys.insert(appid("music"), secret(ONE));
        let (a, b): (Nonce, Nonce) = ([1; NONCE_BYTES], [2; NONCE_BYTES]);
        for key in [ONE, TWO] {
            let mac = prove(&secret(key), &appid("video"), &a, &b);
            assert_eq!(keys.proven(&appid("video"), &a, &b, &mac), Some(&secret(key)));
            assert_eq!(keys.proven(&appid("video"), &b, &b, &mac), None);
            assert_eq!(keys.proven(&appid("video"), &a, &a, &mac), None);
            assert_eq!(keys.proven(&appid("video"), &b, &a, &mac), None, "the nonces do not change places");
            assert_eq!(keys.proven(&appid("music"), &a, &b, &mac), None, "even where the key is the same");
            assert_eq!(keys.proven(&appid("other"), &a, &b, &mac), None);
            assert_eq!(keys.proven(&appid("video"), &a, &b, &mac[..31]), None);
        }
        let other = prove(&secret("some-other-key-0123"), &appid("video"), &a, &b);
        assert_eq!(keys.proven(&appid("video"), &a, &b, &other), None);
    }
}
