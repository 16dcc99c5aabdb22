//! Finds the file that a request's target names: `/files/FILEID[/NAME]` or
//! `/files/APPID/USERID/FILEID[/NAME]`, with `?download` for an attachment. The number of parts decides which
//! of the two it is.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use tnv_common::http::refusal::Refusal;
use tnv_common::http::status_code;
use tnv_common::proto::tnv::file_key::FileKey;
use tnv_common::proto::{AppId, FileId, UserId};

use crate::globals::Owner;

/// A parsed target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The file.
    pub file: FileKey,
    /// The name of the download.
    pub name: Option<String>,
    /// Whether an attachment is requested.
    pub download: bool,
}

/// Parses a target. `owner` has the files whose target names no APPID and USERID.
pub fn parse(target: &str, owner: &Owner) -> Result<Target, Refusal> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let Some(path) = path.strip_prefix("/files/") else { return Err(no_such_path()) };
    let mut parts: Vec<&str> = path.split('/').collect();
    let name = match parts.len() {
        2 | 4 => parts.pop(),
        _ => None,
    };
    let parts: Vec<Cow<'_, str>> = parts.into_iter().map(decode).collect::<Result<_, _>>()?;
    let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
    let file = match parts[..] {
        [fileid] => triple(owner.appid.clone(), owner.userid.clone(), fileid),
        [appid, userid, fileid] => {
            AppId::new(appid).and_then(|appid| triple(appid, UserId::new(userid)?, fileid))
        }
        _ => return Err(no_such_path()),
    };
    Ok(Target {
        file: file.map_err(|error| Refusal::new(status_code::BAD_REQUEST, error.message()))?,
        name: name.filter(|name| !name.is_empty()).map(decode_name),
        download: query.split('&').any(|item| item == "download" || item.starts_with("download=")),
    })
}

fn triple(appid: AppId, userid: UserId, fileid: &str) -> tnv_common::error::Result<FileKey> {
    Ok(FileKey { appid, userid, fileid: FileId::new(fileid)? })
}

/// Decodes a part that identifies the file.
fn decode(part: &str) -> Result<Cow<'_, str>, Refusal> {
    match percent_decode_str(part).decode_utf8() {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(Refusal::new(
            status_code::BAD_REQUEST,
            "the path is not percent-encoded UTF-8, or has a NUL in it",
        )),
    }
}

/// Decodes the name of a download. It identifies nothing: old programs and pages write it in GBK or Latin-1,
/// and what is not UTF-8 is replaced instead of refused.
fn decode_name(name: &str) -> String {
    percent_decode_str(name).decode_utf8_lossy().into_owned()
}

fn no_such_path() -> Refusal {
    Refusal::new(
        status_code::NOT_FOUND,
        "files are at /files/FILEID and /files/APPID/USERID/FILEID, with /NAME after it to name a download",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> Owner {
        Owner { appid: AppId::new("tnvideo").unwrap(), userid: UserId::new("tnv001").unwrap() }
    }

    fn parsed(target: &str) -> (String, Option<String>, bool) {
        let target = parse(target, &owner()).unwrap();
        let FileKey { appid, userid, fileid } = target.file;
        (format!("{appid}|{userid}|{fileid}"), target.name, target.download)
    }

    #[test]
    fn the_number_of_parts_decides_the_owner() {
        let named = |file: &str, name: Option<&str>| (file.to_owned(), name.map(str::to_owned), false);
        assert_eq!(parsed("/files/f1"), named("tnvideo|tnv001|f1", None));
        assert_eq!(parsed("/files/f1/"), named("tnvideo|tnv001|f1", None));
        assert_eq!(parsed("/files/f1/a%20b.mp4"), named("tnvideo|tnv001|f1", Some("a b.mp4")));
        assert_eq!(parsed("/files/app/o'brien/f1"), named("app|o'brien|f1", None));
        assert_eq!(parsed("/files/app/a%2Fb/f%25/x.mp4"), named("app|a/b|f%", Some("x.mp4")));
    }

    /// Regression: links with names in GBK and Latin-1 got 400 although the ID was right.
    #[test]
    fn a_name_that_is_not_utf8_is_served() {
        let named = |name: &str| ("tnvideo|tnv001|f1".to_owned(), Some(name.to_owned()), false);
        assert_eq!(parsed("/files/f1/%B5%E7%D3%B0.mp4"), named("\u{FFFD}\u{FFFD}\u{4F0}.mp4"));
        assert_eq!(parsed("/files/tnvideo/tnv001/f1/caf%E9.mp4"), named("caf\u{FFFD}.mp4"));
        assert_eq!(parsed("/files/f1/a%00b"), named("a\0b"));
        for target in ["/files/f%E9", "/files/f%E9/x.mp4", "/files/tnvideo/u%E9/f/x", "/files/%E9/u/f/x"] {
            assert_eq!(parse(target, &owner()).unwrap_err().status.0, 400, "{target}");
        }
    }

    #[test]
    fn the_query_requests_an_attachment() {
        assert!(parsed("/files/f1?download").2);
        assert!(parsed("/files/f1/x?a=b&download=1").2);
        assert!(!parsed("/files/f1?a=download").2);
    }

    #[test]
    fn other_targets_are_refused() {
        for (target, status) in [
            ("/", 404),
            ("/files", 404),
            ("/file/x", 404),
            ("/files/a/b/c/d/e", 404),
            ("/files/", 400),
            ("/files/a/b/", 400),
            ("/files/%00", 400),
            ("/files/%ff", 400),
            ("/files/ap-p/u/f", 400),
        ] {
            assert_eq!(parse(target, &owner()).unwrap_err().status.0, status, "{target}");
        }
        let long = format!("/files/{}", "f".repeat(128));
        assert_eq!(parse(&long, &owner()).unwrap_err().status.0, 400);
    }
}
