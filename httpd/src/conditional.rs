//! Conditional requests (RFC 9110, section 13): whether what the client has, or had, is still the
//! file.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tnv_common::proto::tnv::storage::Stat;

/// HTTP's dates end with the year 9999.
const DATE_SECONDS_MAX: u64 = 253_402_300_799;

/// What tells one upload from every other. The tag is strong: its value is unique to the upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validator {
    /// The entity tag, in its quotes.
    pub etag: String,
    /// When it was uploaded, where that is a time that may be told.
    pub modified: Option<SystemTime>,
}

impl Validator {
    /// The validator of a file. A time in the future, from a storage whose clock is ahead, may not
    /// be told.
    pub fn new(stat: &Stat, now: SystemTime) -> Validator {
        let seconds = u64::try_from(stat.time).ok().filter(|&seconds| seconds <= DATE_SECONDS_MAX);
        let modified = seconds.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
        Validator {
            etag: format!("\"{:032x}\"", u128::from_be_bytes(stat.unique.0)),
            modified: modified.filter(|&time| time <= now),
        }
    }
}

/// The conditions of a request, as they came.
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

/// What the conditions come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The file is wanted.
    Proceed,
    /// The client has it: 304.
    NotModified,
    /// It is not what the client takes it for: 412.
    Failed,
}

impl Conditions<'_> {
    /// Judges a GET or HEAD, in the order of section 13.2.2. A file without a validator is there,
    /// which is all that `*` asks; it has no tag that could match, and dates are ignored.
    pub fn judge(&self, validator: Option<&Validator>) -> Verdict {
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

    /// Whether a `Range` counts: without `If-Range`, or when that names this very upload. A date
    /// counts as naming it when it is exactly its own and its second is over, so that no other
    /// upload can get it any more.
    pub fn range_counts(&self, validator: Option<&Validator>, now: SystemTime) -> bool {
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

/// Whether a list of tags has this one. What follows a malformed one is not looked at.
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
mod tests {
    use super::*;
    use tnv_common::proto::tnv::storage::Unique;

    const TAG: &str = "\"07070707070707070707070707070707\"";
    const DATE: &str = "Sun, 01 Nov 2020 06:35:51 GMT";
    const BEFORE: &str = "Sun, 01 Nov 2020 06:35:50 GMT";
    const AFTER: &str = "Sun, 01 Nov 2020 06:35:52 GMT";

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }

    fn validator() -> Validator {
        let stat = Stat { size: 1, time: 0x5F9E_5747, crc32: None, unique: Unique([7; 16]) };
        Validator::new(&stat, now())
    }

    #[test]
    fn a_validator_is_a_strong_tag_and_a_date_that_may_be_told() {
        assert_eq!(validator().etag, TAG);
        assert_eq!(httpdate::fmt_http_date(validator().modified.unwrap()), DATE);
        for time in [-1, i64::MAX, 253_402_300_800, 1_700_000_001] {
            let stat = Stat { size: 1, time, crc32: None, unique: Unique([7; 16]) };
            assert_eq!(Validator::new(&stat, now()).modified, None, "{time}");
        }
    }

    #[test]
    fn the_table_of_conditions() {
        use Verdict::*;
        let other = "\"other\"";
        let weak = format!("W/{TAG}");
        let list = format!("\"a,b\" , W/\"c\",, {TAG}");
        let none = Conditions::default();
        let table = [
            (none, Proceed, Proceed),
            (Conditions { if_match: Some("*"), ..none }, Proceed, Proceed),
            (Conditions { if_match: Some(TAG), ..none }, Proceed, Failed),
            (Conditions { if_match: Some(&list), ..none }, Proceed, Failed),
            (Conditions { if_match: Some(&weak), ..none }, Failed, Failed),
            (Conditions { if_match: Some(other), ..none }, Failed, Failed),
            (Conditions { if_match: Some("garbage"), ..none }, Failed, Failed),
            (Conditions { if_unmodified_since: Some(DATE), ..none }, Proceed, Proceed),
            (Conditions { if_unmodified_since: Some(AFTER), ..none }, Proceed, Proceed),
            (Conditions { if_unmodified_since: Some(BEFORE), ..none }, Failed, Proceed),
            (Conditions { if_unmodified_since: Some("garbage"), ..none }, Proceed, Proceed),
            (Conditions { if_none_match: Some("*"), ..none }, NotModified, NotModified),
            (Conditions { if_none_match: Some(TAG), ..none }, NotModified, Proceed),
            (Conditions { if_none_match: Some(&weak), ..none }, NotModified, Proceed),
            (Conditions { if_none_match: Some(&list), ..none }, NotModified, Proceed),
            (Conditions { if_none_match: Some(other), ..none }, Proceed, Proceed),
            (Conditions { if_modified_since: Some(DATE), ..none }, NotModified, Proceed),
            (Conditions { if_modified_since: Some(AFTER), ..none }, NotModified, Proceed),
            (Conditions { if_modified_since: Some(BEFORE), ..none }, Proceed, Proceed),
            (Conditions { if_modified_since: Some("garbage"), ..none }, Proceed, Proceed),
            // The tags win over the dates, and what makes a request fail over what spares it.
            (Conditions { if_match: Some(TAG), if_unmodified_since: Some(BEFORE), ..none }, Proceed, Failed),
            (
                Conditions { if_none_match: Some(other), if_modified_since: Some(AFTER), ..none },
                Proceed,
                Proceed,
            ),
            (Conditions { if_match: Some(other), if_none_match: Some(TAG), ..none }, Failed, Failed),
            (Conditions { if_match: Some(TAG), if_none_match: Some(TAG), ..none }, NotModified, Failed),
        ];
        for (conditions, with, without) in table {
            assert_eq!(conditions.judge(Some(&validator())), with, "{conditions:?}");
            assert_eq!(conditions.judge(None), without, "{conditions:?} without a validator");
        }
    }

    #[test]
    fn a_range_counts_only_for_the_very_same_upload() {
        let counts = |if_range, validator: Option<&Validator>| {
            Conditions { if_range, ..Conditions::default() }.range_counts(validator, now())
        };
        let weak = format!("W/{TAG}");
        assert!(counts(None, None));
        assert!(!counts(Some(TAG), None));
        assert!(!counts(Some(DATE), None));
        for (if_range, want) in [
            (TAG, true),
            (weak.as_str(), false),
            ("\"other\"", false),
            ("*", false),
            (DATE, true),
            (BEFORE, false),
            (AFTER, false),
            ("garbage", false),
        ] {
            assert_eq!(counts(Some(if_range), Some(&validator())), want, "{if_range}");
        }
    }

    #[test]
    fn a_date_of_this_very_second_is_too_weak_for_a_range() {
        let modified = validator().modified.unwrap();
        let conditions = Conditions { if_range: Some(DATE), ..Conditions::default() };
        assert!(!conditions.range_counts(Some(&validator()), modified + Duration::from_millis(500)));
        assert!(conditions.range_counts(Some(&validator()), modified + Duration::from_secs(1)));
    }
}
