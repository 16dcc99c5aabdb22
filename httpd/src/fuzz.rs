//! Fuzzing targets for request heads, targets, ranges and conditions. cargo-fuzz runs them
//! (`fuzz/README.md`), and the tests here run each for a second. They are in no server.

use std::time::{Duration, UNIX_EPOCH};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tnv_common::http::StatusCode;
use tnv_common::http::refusal::Refusal;
use tnv_common::http::request_head::{self, HEAD_BYTES_MAX, HEADERS_MAX, RequestHead};
use tnv_common::http::response::{self, Connection, Part, header};
use tnv_common::proto::tnv::storage::{Stat, VersionId};
use tnv_common::proto::{AppId, UserId};
use tnv_common::text::is_harmful;

use crate::download::conditional::{Conditions, Validator, Verdict};
use crate::download::content::Piece;
use crate::download::disposition::disposition;
use crate::download::media::Kind;
use crate::download::partial;
use crate::download::range::{self, Selection};
use crate::download::target;
use crate::globals::Owner;
use crate::service::HEADERS_USED;

/// Longest sentence of a refusal.
const TEXT_BYTES_MAX: usize = 1000;

/// A refusal can be sent and logged.
fn check_refusal(refusal: &Refusal) {
    let text = &refusal.text;
    assert!(!text.is_empty() && text.len() <= TEXT_BYTES_MAX && !text.contains(is_harmful), "{text:?}");
    assert!(matches!(refusal.status.0, 400..=599));
    let written = response::write(refusal.response(), Part::All, Connection::Close);
    let (head, body) = written.bytes.split_at(written.head_bytes);
    check_headers(head);
    assert!(body.ends_with(format!(": {text}\n").as_bytes()));
}

/// The head of a response: no value in it begins a line of its own.
fn check_headers(head: &[u8]) {
    let text = std::str::from_utf8(head).expect("a head of text");
    let lines = text.strip_suffix("\r\n\r\n").expect("an empty line at the end");
    for line in lines.split("\r\n") {
        assert!(!line.is_empty() && !line.contains(is_harmful), "{line:?}");
    }
}

/// What the front end receives from a connection.
pub fn http_head(data: &[u8]) {
    let parse = |bytes: &[u8]| request_head::parse(bytes, &HEADERS_USED);
    let data = &data[..data.len().min(HEAD_BYTES_MAX)];
    match parse(data) {
        Ok(Some((head, length))) => {
            let (text, before) = (&data[..length], &data[..length - 1]);
            let again = parse(text).expect("a head").expect("a whole head");
            assert_eq!(
                format!("{again:?}"),
                format!("{:?}", (&head, length)),
                "the bytes after it change it"
            );
            assert!(matches!(parse(before), Ok(None)), "it ends earlier");
            check_unambiguous(text, &head);
            check_kept(&head);
        }
        Ok(None) => assert!(data.len() < HEAD_BYTES_MAX, "more is awaited than a head may have"),
        Err(refusal) => check_refusal(&refusal),
    }
}

/// Parses the head again in the strictest way: its end and its body's end are unambiguous.
fn check_unambiguous(text: &[u8], head: &RequestHead) {
    let text: Vec<char> = text.iter().map(|&byte| char::from(byte)).collect();
    let text: String = text.into_iter().collect();
    let lines: Vec<&str> = text.split("\r\n").skip_while(|line| line.is_empty()).collect();
    assert!(lines.iter().all(|line| !line.contains(['\r', '\n', '\0'])), "a bare line end in {text:?}");
    let [request, headers @ .., "", ""] = lines.as_slice() else { panic!("no lines: {text:?}") };
    assert_eq!(request.split(' ').count(), 3, "{request:?}");
    assert!(headers.len() <= HEADERS_MAX);
    let headers: Vec<(String, &str)> = headers
        .iter()
        .map(|line| {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no name in {line:?}"));
            assert!(name.bytes().all(|byte| byte.is_ascii_graphic()), "a name of {line:?}");
            (name.to_ascii_lowercase(), value.trim_matches([' ', '\t']))
        })
        .collect();
    let values = |name: &str| -> Vec<&str> {
        headers.iter().filter(|(found, _)| found == name).map(|(_, value)| *value).collect()
    };
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    assert!(lengths.iter().all(|length| *length == lengths[0]), "two lengths in {text:?}");
    assert!(lengths.iter().all(|length| length.bytes().all(|byte| byte.is_ascii_digit())));
    assert!(lengths.is_empty() || codings.is_empty(), "length and coding in {text:?}");
    let says_body = !codings.is_empty() || lengths.iter().any(|length| length.contains(|c| c != '0'));
    assert_eq!(head.has_body, says_body, "{text:?}");
    assert!(!(head.has_body && head.keep_alive), "the bytes of a body could become a request");
    assert!(values("host").len() == 1 || (head.version == (1, 0) && values("host").is_empty()));
}

/// The service gets words without line ends.
fn check_kept(head: &RequestHead) {
    let RequestHead { method, target, headers, .. } = head;
    assert!(target.starts_with('/') || target == "*", "{target:?}");
    for word in [method.as_str(), target] {
        assert!(word.bytes().all(|byte| byte.is_ascii_graphic()), "{word:?}");
    }
    for (at, header) in headers.iter().enumerate() {
        let (field, value) = (header.field.as_str().as_str(), header.value.as_str());
        assert!(HEADERS_USED.contains(&field));
        assert!(value.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{value:?}");
        assert!(headers[..at].iter().all(|before| before.field != header.field), "{field} twice");
    }
}

fn owner() -> Owner {
    let (appid, userid) = (AppId::new("tnvideo"), UserId::new("tnv001"));
    Owner { appid: appid.expect("an appid"), userid: userid.expect("a userid") }
}

/// A request's target, and the name that the download gets.
pub fn http_target(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let found = match target::parse(&text, &owner()) {
        Ok(found) => found,
        Err(refusal) => return check_refusal(&refusal),
    };
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let file = &found.file;
    let parts = [file.appid.as_str(), file.userid.as_str(), file.fileid.as_str()].map(encode).join("/");
    let name = found.name.as_deref();
    let again = match name {
        Some(name) => format!("/files/{parts}/{}", encode(name)),
        None => format!("/files/{parts}"),
    };
    let again = again + if found.download { "?download" } else { "" };
    assert_eq!(target::parse(&again, &owner()).ok().as_ref(), Some(&found), "{again}");
    let name = name.unwrap_or(file.fileid.as_str());
    if let Some(kind) = Kind::of_name(name) {
        let headers = vec![header("Content-Type", kind.content_type())];
        let response = response::with_length(StatusCode(200), headers, 0);
        check_headers(&response::write(response, Part::Head, Connection::Default).bytes);
    }
    check_disposition(&disposition(found.download, name));
}

/// A quoted name that cannot leave its directory, and perhaps the same escaped.
fn check_disposition(value: &str) {
    assert!(value.is_ascii() && value.len() <= 2000 && !value.contains(is_harmful), "{value:?}");
    let (_, rest) = value.split_once("; filename=\"").expect("a name");
    let (plain, rest) = rest.split_once('"').expect("the name's end");
    assert!(!plain.is_empty() && !plain.contains(['/', '\\']) && !plain.starts_with('.'), "{value:?}");
    if !rest.is_empty() {
        let escaped = rest.strip_prefix("; filename*=UTF-8''").expect("the second name");
        assert!(!escaped.contains(['"', ';', ',', ' ', '/', '\\']), "{value:?}");
    }
}

/// The size of a file and a `Range`.
pub fn http_range(data: &[u8]) {
    let Some((size, header)) = data.split_first_chunk() else { return };
    // Neither storages nor clients accept a larger file.
    let size = u64::from_be_bytes(*size) & i64::MAX.cast_unsigned();
    let header = String::from_utf8_lossy(header);
    if let Selection::Parts(parts) = range::select(&header, size) {
        let mut sorted = parts.clone();
        sorted.sort_unstable();
        assert!((1..=16).contains(&parts.len()));
        assert!(parts.iter().all(|part| part.first <= part.last && part.last < size), "{parts:?}");
        assert!(sorted.is_sorted_by(|a, b| a.last < b.first), "{parts:?} overlap");
    }
    let mut headers = Vec::new();
    let kind = Kind::of_name("x.mp4").expect("a known kind");
    match partial::plan(Some(&header), size, kind, &mut headers) {
        Ok((_, pieces)) => {
            let found = headers.iter().find(|header| header.field.equiv("Content-Range"));
            if let ([Piece::File(part)], Some(header)) = (&pieces[..], found) {
                assert_eq!(header.value.as_str(), format!("bytes {}-{}/{size}", part.first, part.last));
            }
        }
        Err(refusal) => check_refusal(&refusal),
    }
}

/// The five conditions, a line each.
pub fn http_conditional(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.split('\n').map(|line| (!line.is_empty()).then_some(line));
    let mut line = || lines.next().flatten();
    let conditions = Conditions {
        if_match: line(),
        if_none_match: line(),
        if_modified_since: line(),
        if_unmodified_since: line(),
        if_range: line(),
    };
    let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let stat = Stat { size: 1, time: 0x5F9E_5747, crc32: None, unique: VersionId([7; 16]) };
    let validator = Validator::new(&stat, now);
    let has_tag = |tags: &str| tags.contains(validator.etag.as_str());
    let is_any = |tags: &str| tags.trim() == "*";

    let verdict = conditions.evaluate(Some(&validator));
    if let Some(tags) = conditions.if_match {
        assert!(verdict == Verdict::Failed || has_tag(tags) || is_any(tags), "{conditions:?}");
        assert!(verdict != Verdict::Failed || tags != validator.etag, "{conditions:?}");
    }
    if verdict == Verdict::NotModified {
        let matches = conditions.if_none_match.map(|tags| has_tag(tags) || is_any(tags));
        assert!(matches.unwrap_or(conditions.if_modified_since.is_some()), "{conditions:?}");
    }
    // Without a validator only `*` matches.
    let plain = conditions.evaluate(None);
    assert!(plain != Verdict::NotModified || conditions.if_none_match.is_some_and(is_any));
    assert_eq!(plain == Verdict::Failed, conditions.if_match.is_some_and(|tags| !is_any(tags)));

    let counts = conditions.range_applies(Some(&validator), now);
    if let Some(wanted) = conditions.if_range {
        assert_eq!(counts, wanted.trim() == validator.etag || is_date_of(wanted, &validator), "{wanted:?}");
        assert!(!conditions.range_applies(None, now));
    } else {
        assert!(counts);
    }
}

fn is_date_of(text: &str, validator: &Validator) -> bool {
    validator.modified.is_some() && httpdate::parse_http_date(text.trim()).ok() == validator.modified
}

#[cfg(test)]
mod tests {
    use tnv_tests::fuzz::bounded;

    #[test]
    fn every_accepted_head_is_unambiguous() {
        bounded("http_head", super::http_head);
    }

    #[test]
    fn every_target_names_one_file() {
        bounded("http_target", super::http_target);
    }

    #[test]
    fn every_range_stays_in_its_file() {
        bounded("http_range", super::http_range);
    }

    #[test]
    fn conditions_match_one_upload_only() {
        bounded("http_conditional", super::http_conditional);
    }
}
