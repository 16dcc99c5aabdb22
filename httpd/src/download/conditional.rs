//! Conditional requests (RFC 9110, section 13): whether the client's copy is still the file.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tnv_common::proto::tnv::storage::Stat;

/// HTTP's dates end with the year 9999.
const DATE_SECONDS_MAX: u64 = 253_402_300_799;

/// Identifies an upload. The tag is strong: its value is unique to the upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validator {
    /// The entity tag, in its quotes.
    pub etag: String,
    /// When it was uploaded, if that time may be sent.
    pub modified: Option<SystemTime>,
}

impl Validator {
    /// The validator of a file. A time in the future, from a storage whose clock is ahead, must not be sent.
    pub fn new(stat: &Stat, now: SystemTime) -> Validator {
        let seconds = u64::try_from(stat.time).ok().filter(|&seconds| seconds <= DATE_SECONDS_MAX);
        let modified = seconds.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
        Validator {
            etag: format!("\"{:032x}\"", u128::from_be_bytes(stat.unique.0)),
            modified: modified.filter(|&time| time <= now),
        }
    }
}

/// The conditions of a request, as received.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conditions<'a> {
    /// `If-Match`.
    pub if_match: Option<&'a str>,
    /// `If-None-Match`.
    pub if_none_match: Option<&'a str>,
    /// `If-Modified-Since`.
    pub if_modified_since: Option<&'a str>,
    /// `If-Unmodified-Since`.
    pub if_unmodified_since: Option<&'a str>,
    /// `If-Range`.
    pub if_range: Option<&'a str>,
}

/// The result of the conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The file is sent.
    Proceed,
    /// The client has it: 304.
    NotModified,
    /// The file is not the one that the client means: 412.
    Failed,
}

impl Conditions<'_> {
    /// Evaluates a GET or HEAD, in the order of section 13.2.2. A file without a validator matches `*` and no
    /// tag, and dates are ignored.
    pub fn evaluate(&self, validator: Option<&Validator>) -> Verdict {
        let etag = validator.map(|validator| validator.etag.as_str());
        let modified = validator.and_then(|validator| validator.modified);
        let later_than = |date: Option<&str>| Some(modified? > httpdate::parse_http_date(date?).ok()?);
        match self.if_match {
            Some(tags) if !matches(tags, etag, Comparison::Strong) => return Verdict::Failed,
            None if later_than(self.if_unmodified_since) == Some(true) => return Verdict::Failed,
            _ => {}
        }
        match self.if_none_match {
            Some(tags) if matches(tags, etag, Comparison::Weak) => Verdict::NotModified,
            None if later_than(self.if_modified_since) == Some(false) => Verdict::NotModified,
            _ => Verdict::Proceed,
        }
    }

    /// Whether a `Range` applies: without `If-Range`, or if that names this very upload. A date names it if
    /// it is equal and its second is over, so that no other upload can have it.
    pub fn range_applies(&self, validator: Option<&Validator>, now: SystemTime) -> bool {
        let Some(wanted) = self.if_range.map(str::trim) else { return true };
        let Some(validator) = validator else { return false };
        if wanted.starts_with('"') || wanted.starts_with("W/") {
            return wanted == validator.etag;
        }
        match (httpdate::parse_http_date(wanted), validator.modified) {
            (Ok(date), Some(modified)) => date == modified && modified + Duration::from_secs(1) <= now,
            _ => false,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

/// Whether a list of tags has this one. Tags after a malformed one are ignored.
fn matches(tags: &str, etag: Option<&str>, comparison: Comparison) -> bool {
    if tags.trim() == "*" {
        return true;
    }
    let Some(etag) = etag else { return false };
    let mut rest = tags;
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        let (is_weak, tag) = match rest.strip_prefix("W/") {
            Some(tag) => (true, tag),
            None => (false, rest),
        };
        let Some(end) = tag.strip_prefix('"').and_then(|opaque| opaque.find('"')) else { return false };
        let (tag, after) = tag.split_at(end + 2);
        if tag == etag && (!is_weak || comparison == Comparison::Weak) {
            return true;
        }
        rest = after;
    }
}

#[cfg(test)]
#[path = "conditional_tests.rs"]
mod tests;
