use super::*;
use tnv_common::proto::tnv::storage::VersionId;

const TAG: &str = "\"07070707070707070707070707070707\"";
const DATE: &str = "Sun, 01 Nov 2020 06:35:51 GMT";
const BEFORE: &str = "Sun, 01 Nov 2020 06:35:50 GMT";
const AFTER: &str = "Sun, 01 Nov 2020 06:35:52 GMT";

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

fn validator() -> Validator {
    let stat = Stat { size: 1, time: 0x5F9E_5747, crc32: None, unique: VersionId([7; 16]) };
    Validator::new(&stat, now())
}

#[test]
fn a_validator_has_a_strong_tag_and_no_future_date() {
    assert_eq!(validator().etag, TAG);
    assert_eq!(httpdate::fmt_http_date(validator().modified.unwrap()), DATE);
    for time in [-1, i64::MAX, 253_402_300_800, 1_700_000_001] {
        let stat = Stat { size: 1, time, crc32: None, unique: VersionId([7; 16]) };
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
        // Tags win over dates, and a failed precondition over 304.
        (Conditions { if_match: Some(TAG), if_unmodified_since: Some(BEFORE), ..none }, Proceed, Failed),
        (Conditions { if_none_match: Some(other), if_modified_since: Some(AFTER), ..none }, Proceed, Proceed),
        (Conditions { if_match: Some(other), if_none_match: Some(TAG), ..none }, Failed, Failed),
        (Conditions { if_match: Some(TAG), if_none_match: Some(TAG), ..none }, NotModified, Failed),
    ];
    for (conditions, with, without) in table {
        assert_eq!(conditions.evaluate(Some(&validator())), with, "{conditions:?}");
        assert_eq!(conditions.evaluate(None), without, "{conditions:?} without a validator");
    }
}

#[test]
fn a_range_applies_to_the_very_same_upload_only() {
    let applies = |if_range, validator: Option<&Validator>| {
        Conditions { if_range, ..Conditions::default() }.range_applies(validator, now())
    };
    let weak = format!("W/{TAG}");
    assert!(applies(None, None));
    assert!(!applies(Some(TAG), None));
    assert!(!applies(Some(DATE), None));
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
        assert_eq!(applies(Some(if_range), Some(&validator())), want, "{if_range}");
    }
}

#[test]
fn a_date_of_the_current_second_is_too_weak_for_a_range() {
    let modified = validator().modified.unwrap();
    let conditions = Conditions { if_range: Some(DATE), ..Conditions::default() };
    assert!(!conditions.range_applies(Some(&validator()), modified + Duration::from_millis(500)));
    assert!(conditions.range_applies(Some(&validator()), modified + Duration::from_secs(1)));
}
