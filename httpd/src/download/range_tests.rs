use super::*;

fn parts(parts: &[(u64, u64)]) -> Selection {
    Selection::Parts(parts.iter().map(|&(first, last)| Part { first, last }).collect())
}

#[test]
fn requested_parts_are_selected() {
    for (header, want) in [
        ("bytes=0-9", parts(&[(0, 9)])),
        ("Bytes = 0-9", parts(&[(0, 9)])),
        ("bytes=0-0", parts(&[(0, 0)])),
        ("bytes=90-", parts(&[(90, 99)])),
        ("bytes=90-1000", parts(&[(90, 99)])),
        ("bytes=0-99999999999999999999999", parts(&[(0, 99)])),
        ("bytes=-10", parts(&[(90, 99)])),
        ("bytes=-1000", parts(&[(0, 99)])),
        ("bytes=0-1, 5-6", parts(&[(0, 1), (5, 6)])),
        ("bytes=5-6,0-1", parts(&[(5, 6), (0, 1)])),
        ("bytes=, 5-6 ,,", parts(&[(5, 6)])),
        ("bytes=0-1,200-300", parts(&[(0, 1)])),
        ("bytes=0-5,3-9", parts(&[(0, 9)])),
        ("bytes=50-60,0-5,5-9", parts(&[(0, 9), (50, 60)])),
        ("bytes=0-,0-,0-", parts(&[(0, 99)])),
        ("bytes=-1,0-0", parts(&[(99, 99), (0, 0)])),
    ] {
        assert_eq!(select(header, 100), want, "{header}");
    }
}

#[test]
fn parts_beyond_the_file_are_unsatisfiable() {
    for header in
        ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=99999999999999999999-", "bytes=200-,300-"]
    {
        assert_eq!(select(header, 100), Selection::Unsatisfiable, "{header}");
    }
}

/// Regression: nginx's `slice` asked for the first slice of an empty file and got 416, so every empty file
/// behind such a cache failed.
#[test]
fn any_range_of_an_empty_file_selects_the_whole_file() {
    for header in ["bytes=0-", "bytes=0-0", "bytes=0-1048575", "bytes=-5", "bytes=-0", "bytes=7-,9-"] {
        assert_eq!(select(header, 0), Selection::Whole, "{header}");
    }
}

#[test]
fn malformed_or_excessive_ranges_select_the_whole_file() {
    for header in [
        "",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes=a-b",
        "bytes=1",
        "bytes=5-2",
        "bytes=--5",
        "bytes=1-2-3",
        "bytes=+1-2",
        "bytes=0-1 2-3",
        "items=0-1",
        "bytes=0-1,x",
        "bytes=-",
        "bytes=1 -2",
        "bytes:0-1",
    ] {
        assert_eq!(select(header, 100), Selection::Whole, "{header}");
    }
    let many: Vec<String> = (0..17).map(|n| format!("{}-{}", n * 3, n * 3)).collect();
    assert_eq!(select(&format!("bytes={}", many.join(",")), 100), Selection::Whole);
}

#[test]
fn the_largest_file_does_not_overflow() {
    assert_eq!(select("bytes=0-,5-18446744073709551615", u64::MAX), parts(&[(0, u64::MAX - 1)]));
}
