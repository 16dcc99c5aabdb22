//! `Range` headers (RFC 9110, section 14): which bytes of a file are selected.

/// Most ranges of one request. Players ask for one, PDF viewers for a handful; a request for more gets the
/// whole file.
const RANGES_MAX: usize = 16;

/// A part of a file: at least one byte, and all of them in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    /// The first byte.
    pub first: u64,
    /// The last byte, included.
    pub last: u64,
}

impl Part {
    /// Its length.
    pub fn bytes(self) -> u64 {
        self.last - self.first + 1
    }
}

/// The bytes that a `Range` header selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// The whole file: the header is absent, unknown, malformed or excessive.
    Whole,
    /// One or several parts.
    Parts(Vec<Part>),
    /// No byte of the file.
    Unsatisfiable,
}

/// Parses a `Range` header for a file of `size` bytes.
pub fn select(header: &str, size: u64) -> Selection {
    let Some((unit, set)) = header.split_once('=') else { return Selection::Whole };
    // An empty file is sent whole. A slicing cache (nginx's `slice`) asks for the first slice of every file
    // and turns a 416 into a failure. RFC 9110, section 14.2, lets a server ignore the header.
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

/// Parses one item: the part that it selects, or `Some(None)` if the file has no byte of it. `None` if it is
/// malformed, and with it the header. The file is not empty.
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

/// A number of digits only. One that is too large stands for a position beyond every file.
fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

/// Merges parts that overlap, so that no response is longer than the file. Otherwise their order stays.
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
#[path = "range_tests.rs"]
mod tests;
