//! `Range` headers (RFC 9110, section 14): which bytes of a file are meant.

/// Most ranges of one request. Players ask for one, PDF viewers for a handful; whoever asks for
/// more is sent the whole.
const RANGES_MAX: usize = 16;

/// Some bytes of a file: there is at least one, and all of them are in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    /// The first byte.
    pub first: u64,
    /// The last byte, included.
    pub last: u64,
}

impl Part {
    /// How many bytes.
    pub fn bytes(self) -> u64 {
        self.last - self.first + 1
    }
}

/// What a `Range` header asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// The whole file: the header is absent, unknown, malformed or excessive.
    Whole,
    /// One or several parts.
    Parts(Vec<Part>),
    /// Nothing that the file has.
    Unsatisfiable,
}

/// Reads a `Range` header for a file of `size` bytes.
pub fn select(header: &str, size: u64) -> Selection {
    let Some((unit, set)) = header.split_once('=') else { return Selection::Whole };
    // An empty file has no part that could be sent, and no range is wrong for it. A cache that slices (nginx's
    // `slice`) asks for the first slice of every file and passes a 416 on to its viewers as a failure. RFC 9110,
    // section 14.2, lets a server ignore the header: the answer is the whole file, which is no bytes.
    if size == 0 || !unit.trim().eq_ignore_ascii_case("bytes") {
        return Selection::Whole;
    }
    let specs = set.split(',').map(str::trim).filter(|spec| !spec.is_empty());
    let Some(wanted) = specs.take(RANGES_MAX + 1).map(|spec| resolve(spec, size)).collect::<Option<Vec<_>>>()
    else {
        return Selection::Whole;
    };
    if wanted.is_empty() || wanted.len() > RANGES_MAX {
        return Selection::Whole;
    }
    let parts: Vec<Part> = wanted.into_iter().flatten().collect();
    match parts.is_empty() {
        true => Selection::Unsatisfiable,
        false => Selection::Parts(without_overlap(parts)),
    }
}

/// Reads one item: the bytes that it asks for, or nothing that the file has. `None` where it is malformed, and
/// with it the header. The file has at least one byte.
fn resolve(spec: &str, size: u64) -> Option<Option<Part>> {
    let (first, last) = spec.split_once('-')?;
    if first.is_empty() {
        return Some(match number(last)? {
            0 => None,
            tail => Some(Part { first: size.saturating_sub(tail), last: size - 1 }),
        });
    }
    let first = number(first)?;
    let last = if last.is_empty() { u64::MAX } else { number(last)? };
    match (first <= last, first < size) {
        (false, _) => None,
        (true, false) => Some(None),
        (true, true) => Some(Some(Part { first, last: last.min(size - 1) })),
    }
}

/// A number of digits only; one too large for a file stands for a place beyond every file.
fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

/// Parts that overlap are merged, so that nobody is sent more than the file; others stay in the
/// order in which they were asked for.
fn without_overlap(parts: Vec<Part>) -> Vec<Part> {
    let mut sorted = parts.clone();
    sorted.sort_unstable();
    if sorted.is_sorted_by(|a, b| a.last < b.first) {
        return parts;
    }
    let mut merged: Vec<Part> = Vec::with_capacity(sorted.len());
    for part in sorted {
        match merged.last_mut() {
            Some(before) if part.first <= before.last.saturating_add(1) => {
                before.last = before.last.max(part.last)
            }
            _ => merged.push(part),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(parts: &[(u64, u64)]) -> Selection {
        Selection::Parts(parts.iter().map(|&(first, last)| Part { first, last }).collect())
    }

    #[test]
    fn the_parts_that_are_asked_for_are_selected() {
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
    fn what_the_file_does_not_have_is_unsatisfiable() {
        for header in
            ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=99999999999999999999-", "bytes=200-,300-"]
        {
            assert_eq!(select(header, 100), Selection::Unsatisfiable, "{header}");
        }
    }

    /// The story: nginx's `slice` asked for the first slice of an empty file, was answered 416, and every empty
    /// file behind such a cache was a failure.
    #[test]
    fn any_range_of_an_empty_file_is_the_whole_of_it() {
        for header in ["bytes=0-", "bytes=0-0", "bytes=0-1048575", "bytes=-5", "bytes=-0", "bytes=7-,9-"] {
            assert_eq!(select(header, 0), Selection::Whole, "{header}");
        }
    }

    #[test]
    fn what_is_malformed_or_excessive_asks_for_the_whole() {
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
    fn the_largest_file_is_no_overflow() {
        assert_eq!(select("bytes=0-,5-18446744073709551615", u64::MAX), parts(&[(0, u64::MAX - 1)]));
    }
}
