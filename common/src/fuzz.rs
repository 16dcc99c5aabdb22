//! The fuzzing targets of the wire and of the configuration: functions that any bytes may be given, and
//! that panic where a promise about what was read of them is broken. cargo-fuzz calls them
//! (`fuzz/README.md`), and so do the tests here, for a bounded while. They are in no server.

use std::fmt::Debug;
use std::path::Path;

use crate::auth::secret::Secret;
use crate::auth::signed_link::{LinkError, LinkSecrets, without_signature};
use crate::config::keys::{self, AnyKey};
use crate::config::{Config, Part};
use crate::error::{Error, Result};
use crate::proto::names::ID_KEY_BYTES_MAX;
use crate::proto::tnv::auth::{Proof, decode_challenge, encode_challenge};
use crate::proto::tnv::failure::{ERROR_TEXT_BYTES_MAX, FAILURE_BYTES_MAX, decode_failure};
use crate::proto::tnv::file_key::FileKey;
use crate::proto::tnv::ids::{IdRange, decode_id_key, encode_id_key};
use crate::proto::tnv::shares::{SHARES_BYTES_MAX, Shares};
use crate::proto::tnv::storage::{
    CheckedUpload, Download, Read, Stat, UPLOAD_BYTES, UPLOAD_CHECKED_BYTES, Upload, file_table,
};
use crate::proto::tnv::tracker::{Addresses, Heartbeat, Join, ROUTE_ADDRESSES_MAX, Route, VERSION_BYTES};
use crate::proto::tnv::{REPLY_TRACKER, command};
use crate::rpc::dialect::{Dialect, Tnv};
use crate::rpc::header::{FAILURE, HEADER_BYTES, Header};
use crate::text::is_harmful;

/// Longest sentence of an error about anything that was read: what is quoted in it is shortened.
const ERROR_BYTES_MAX: usize = 1000;

/// The first `N` bytes, with zeros where there are fewer: every body of a fixed length has one input.
pub fn fit<const N: usize>(bytes: &[u8]) -> [u8; N] {
    std::array::from_fn(|at| bytes.get(at).copied().unwrap_or(0))
}

/// A sentence that goes to logs and terminals: one line of bounded length.
pub fn check_line(text: &str, bytes_max: usize) {
    assert!(!text.is_empty(), "nothing is said");
    assert!(text.len() <= bytes_max, "{} bytes: {text}", text.len());
    assert!(!text.contains(is_harmful), "it breaks its line: {text:?}");
}

/// What is said of bad input is one bounded line, and travels.
pub fn check_error(error: &Error) {
    check_line(error.message(), ERROR_BYTES_MAX);
    let message = Tnv::new(REPLY_TRACKER, "host").failure_reply(error);
    let (head, body) = message.split_first_chunk::<HEADER_BYTES>().expect("a header");
    let header = Header::decode(head).expect("a header of ours");
    assert_eq!((header.body_bytes, header.status), (body.len() as u64, FAILURE));
    assert!(body.len() <= FAILURE_BYTES_MAX && body.last() == Some(&0));
    let back = decode_failure(body);
    assert_eq!(back.kind(), error.kind());
    assert!(back.message().ends_with(error.message()), "{back}");
}

/// What was read is read again from what is written of it.
fn check_again<T: PartialEq + Debug>(read: Result<T>, again: impl FnOnce(&T) -> Result<T>) {
    match read {
        Ok(value) => assert_eq!(again(&value).as_ref(), Ok(&value)),
        Err(error) => check_error(&error),
    }
}

/// A message's header, which is written again to the same bytes, and its body.
fn split(data: &[u8]) -> Option<(Header, &[u8])> {
    let (head, body) = data.split_first_chunk::<HEADER_BYTES>()?;
    match Header::decode(head) {
        Ok(header) => {
            assert_eq!(header.encode(), *head);
            Some((header, body))
        }
        Err(error) => {
            assert!(head[0] >= 0x80, "only a negative length is refused");
            check_error(&error);
            None
        }
    }
}

fn encoded<const N: usize>(bytes: Vec<u8>) -> [u8; N] {
    bytes.try_into().expect("an encoding of the width that is decoded")
}

/// Requests to a tracker.
pub fn wire_tracker(data: &[u8]) {
    let Some((header, body)) = split(data) else { return };
    match header.command {
        command::JOIN => {
            let join = Join::decode(&fit(body));
            if let Ok(join) = &join {
                assert!(join.version.len() < VERSION_BYTES && join.port > 0);
                assert!(!join.version.contains(is_harmful) && !join.host.as_str().contains(is_harmful));
            }
            check_again(join, |join| Join::decode(&encoded(join.encode())));
        }
        command::SHARES => {
            let shares = Shares::decode(body);
            if let Ok(shares) = &shares {
                assert!(shares.encode().len() <= SHARES_BYTES_MAX);
            }
            check_again(shares, |shares| Shares::decode(&shares.encode()));
        }
        command::HEARTBEAT => {
            check_again(Heartbeat::decode(&fit(body)), |beat| Heartbeat::decode(&encoded(beat.encode())))
        }
        _ => check_again(Addresses::decode(&fit(body)), |user| Addresses::decode(&encoded(user.encode()))),
    }
}

/// Requests to an ID server.
pub fn wire_id(data: &[u8]) {
    let Some((_, body)) = split(data) else { return };
    let key = decode_id_key(body);
    if let Ok(key) = &key {
        assert!(body.len() <= ID_KEY_BYTES_MAX + 1);
        assert!(body.starts_with(key.as_str().as_bytes()), "it is what came before the NUL");
    }
    check_again(key, |key| decode_id_key(&encode_id_key(key)));
    let range = IdRange::decode(body);
    if let Ok(range) = &range {
        assert!(range.count > 0 && body.len() <= 4 + ID_KEY_BYTES_MAX + 1);
    }
    check_again(range, |range| IdRange::decode(&range.encode()));
}

/// Requests to a storage.
pub fn wire_storage(data: &[u8]) {
    let Some((header, body)) = split(data) else { return };
    match header.command {
        command::UPLOAD => {
            let upload = Upload::decode(&fit(body), header.body_bytes);
            if let Ok(upload) = &upload {
                assert_eq!(upload.size + UPLOAD_BYTES as u64, header.body_bytes);
            }
            check_again(upload, |upload| Upload::decode(&encoded(upload.encode()), header.body_bytes));
        }
        command::UPLOAD_CHECKED => {
            let checked = CheckedUpload::decode(&fit(body), header.body_bytes);
            if let Ok(checked) = &checked {
                assert_eq!(checked.upload.size + UPLOAD_CHECKED_BYTES as u64, header.body_bytes);
            }
            let again = |checked: &CheckedUpload| {
                CheckedUpload::decode(&encoded(checked.encode()), header.body_bytes)
            };
            check_again(checked, again);
        }
        command::DOWNLOAD | command::FETCH => {
            let download = Download::decode(&fit(body));
            if let Ok(download) = &download {
                check_part(download, header.body_bytes);
            }
            check_again(download, |download| Download::decode(&encoded(download.encode())));
        }
        command::READ => {
            let read = Read::decode(&fit(body));
            if let Ok(read) = &read {
                check_part(&read.download, header.body_bytes);
            }
            check_again(read, |read| Read::decode(&encoded(read.encode())));
        }
        command::CHALLENGE => {
            check_again(decode_challenge(&fit(body)), |appid| {
                decode_challenge(&encoded(encode_challenge(appid)))
            });
        }
        command::PROVE => {
            check_again(Proof::decode(&fit(body)), |proof| Proof::decode(&encoded(proof.encode())));
        }
        _ => {
            let file = FileKey::decode(&fit(body));
            if let Ok(file) = &file {
                assert!((1..=3).contains(&file_table(&file.userid)));
            }
            check_again(file, |file| FileKey::decode(&encoded(file.encode())));
        }
    }
}

/// No part of a file is outside it, whatever its size.
fn check_part(download: &Download, file_size: u64) {
    match download.check(file_size) {
        Ok((offset, bytes)) => {
            let end = offset.checked_add(bytes).expect("no overflow");
            assert!(end <= file_size, "{offset} and {bytes} in {file_size}");
            assert!(download.size == 0 || bytes == download.size.cast_unsigned());
        }
        Err(error) => check_error(&error),
    }
}

/// The bodies of replies; the first byte says of which.
pub fn wire_replies(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    match kind % 3 {
        0 => {
            let route = Route::decode(body);
            if let Ok(route) = &route {
                assert!((1..=ROUTE_ADDRESSES_MAX).contains(&route.addresses.len()));
            }
            check_again(route, |route| Route::decode(&route.encode()));
        }
        1 => check_again(Stat::decode(&fit(body)), |stat| Stat::decode(&encoded(stat.encode()))),
        // It is never refused: what a server says in the wrong form is told all the same.
        _ => {
            let body = &body[..body.len().min(FAILURE_BYTES_MAX)];
            // A byte that is no text is told by three.
            check_line(decode_failure(body).message(), 3 * ERROR_TEXT_BYTES_MAX);
        }
    }
}

/// The query of a signed link; `SIG` in it stands for the signature of the expiry 1000000.
pub fn signed_link(data: &[u8]) {
    const EXPIRES: u64 = 1_000_000;
    let secrets = LinkSecrets::one(Secret::new("0123456789abcdef0123456789abcdef").expect("a secret"));
    let file = FileKey {
        appid: "tnvideo".parse().expect("an appid"),
        userid: "tnv001".parse().expect("a userid"),
        fileid: "f".parse().expect("a fileid"),
    };
    let link = secrets.sign(&file, EXPIRES);
    let (_, signature) = link.split_once("&sig=").expect("a signature");
    let query = String::from_utf8_lossy(data).replace("SIG", signature);
    let is_good = |query: &str| {
        let items: Vec<&str> = query.split('&').collect();
        // A number may have zeros before it; what is signed is its value.
        let expiry = |item: &&str| {
            item.strip_prefix("expires=").is_some_and(|text| text.trim_start_matches('0') == "1000000")
        };
        items.iter().any(expiry) && items.contains(&format!("sig={signature}").as_str())
    };
    for (now, want) in [(EXPIRES - 1, Ok(())), (EXPIRES, Err(LinkError::Expired))] {
        match secrets.check(&file, &query, now) {
            Err(LinkError::Forged(why)) => check_line(why, ERROR_BYTES_MAX),
            verdict => {
                assert_eq!(verdict, want);
                assert!(is_good(&query), "{query:?} counts");
            }
        }
    }
    let logged = without_signature(&format!("/files/f?{query}"));
    let shown = |item: &str| item.starts_with("sig=") && item != "sig=...";
    assert!(!logged["/files/f?".len()..].split('&').any(shown), "{logged:?}");
}

/// A configuration file; the first byte says whose.
pub fn config(data: &[u8]) {
    let Some((part, text)) = data.split_first() else { return };
    let part = Part::ALL[usize::from(*part) % Part::ALL.len()];
    match Config::from_text(part, Path::new("t.cfg"), text) {
        Ok(config) => {
            for key in keys::ALL.iter().filter(|key| key.parts().contains(&part)) {
                assert!(config.value_is_good(*key), "{} was let in with a value that is refused", key.name());
            }
            config.notices().iter().for_each(|notice| check_line(notice, ERROR_BYTES_MAX));
        }
        Err(errors) => {
            assert!((1..=100).contains(&errors.len()), "{} errors", errors.len());
            errors.iter().for_each(|error| check_line(&error.to_string(), ERROR_BYTES_MAX));
        }
    }
}

impl Config {
    /// Whether the server can get this key's value.
    fn value_is_good(&self, key: &dyn AnyKey) -> bool {
        let text = self.text(key).map_or_else(|| key.default(self.part()), str::to_owned);
        key.check(&text).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use tnv_tests::fuzz::bounded;

    #[test]
    fn no_request_to_a_tracker_is_misread() {
        bounded("wire_tracker", super::wire_tracker);
    }

    #[test]
    fn no_request_to_an_id_server_is_misread() {
        bounded("wire_id", super::wire_id);
    }

    #[test]
    fn no_request_to_a_storage_is_misread() {
        bounded("wire_storage", super::wire_storage);
    }

    #[test]
    fn no_reply_is_misread() {
        bounded("wire_replies", super::wire_replies);
    }

    #[test]
    fn no_link_counts_that_was_not_signed() {
        bounded("signed_link", super::signed_link);
    }

    #[test]
    fn no_configuration_file_is_misread() {
        bounded("config", super::config);
    }
}
