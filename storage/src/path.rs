//! Where a file lies. The one place that knows the form of a file's path, how it is made of a store
//! path and a number, and what can be read out of it again. It touches no disk.
//!
//! ```text
//! d0 = n % 512, d1 = n/512 % 512, d2 = n/512^2 % 512, d3 = n/512^3 % 512
//! <store path>/<d3>/<d2>/<d1>/<time>_<d0>
//! ```
//!
//! each d as three upper-case hex digits, the time as seconds since the epoch in upper-case hex.
//!
//! **Which paths of the database are followed.** A program that can write the table can name any file there,
//! so a path is only opened or unlinked when its last four parts have the form above: `/etc/passwd`
//! has not. What stands before them is not held against `tnv_store_paths`, since a store path that
//! was taken out of the list for new files still holds old ones, and a relative one has `..` in it
//! anyway. Symbolic links in the place of the file itself are not followed (see `send`).
//!
//! **Slashes.** `../data` and `../data/` are one store path. Its files are written as `../data/000/…`; rows
//! that have `../data//000/…`, as storages up to 0.1 wrote where the setting ended with a slash, name the
//! same files.

use std::borrow::Cow;

use md5::{Digest, Md5};
use tnv_common::error::Result;
use tnv_common::fail;
use tnv_common::proto::IdKey;
use tnv_common::proto::tnv::storage::VersionId;
use tnv_common::text::shown;

/// Entries of each directory level.
const FAN_OUT: u64 = 512;

/// The width of `file_path` in the tables.
pub const PATH_CHARS_MAX: usize = 512;

/// The directories above a file, below its store path.
const LEVELS: usize = 3;

/// Where a new file is to lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The whole path, as the database holds it.
    pub path: String,
    /// What has to exist for it, from the outside in: the store path itself comes first.
    pub directories: [String; LEVELS + 1],
}

impl Place {
    /// The place of the file with this number, made at this time.
    pub fn new(store_path: &IdKey, number: u64, time: u64) -> Place {
        let digit = |power: u32| number / FAN_OUT.pow(power) % FAN_OUT;
        let store = plain(store_path.as_str()).to_owned();
        let outer = format!("{store}/{:03X}", digit(3));
        let middle = format!("{outer}/{:03X}", digit(2));
        let inner = format!("{middle}/{:03X}", digit(1));
        let path = format!("{inner}/{time:X}_{:03X}", digit(0));
        Place { path, directories: [store, outer, middle, inner] }
    }

    /// The directory that holds the file.
    pub fn directory(&self) -> &str {
        &self.directories[LEVELS]
    }
}

/// The text of a store path without slashes at its end: what its files' paths begin with.
pub fn plain(store_path: &str) -> &str {
    match store_path.trim_end_matches('/') {
        "" => "/",
        plain => plain,
    }
}

/// Whether a path lies below a store path, whose text is plain.
pub fn is_below(store_path: &str, path: &str) -> bool {
    path.strip_prefix(store_path).is_some_and(|rest| rest.starts_with('/') || store_path.ends_with('/'))
}

/// A path with one slash where there are several: two texts of one path become one.
pub fn normal(path: &str) -> Cow<'_, str> {
    if !path.contains("//") {
        return Cow::Borrowed(path);
    }
    let mut normal = String::with_capacity(path.len());
    path.chars().for_each(|char| {
        if char != '/' || !normal.ends_with('/') {
            normal.push(char);
        }
    });
    Cow::Owned(normal)
}

/// Holds a path of the database against the form above.
pub fn check(path: &str) -> Result<()> {
    let mut parts = path.rsplitn(LEVELS + 2, '/');
    let name = parts.next().and_then(|name| name.split_once('_'));
    let named = name.is_some_and(|(time, digit)| is_hex(time, 1, 16) && is_digit(digit));
    let placed = parts.by_ref().take(LEVELS).filter(|part| is_digit(part)).count() == LEVELS;
    let stored = parts.next().is_some() && !path.contains('\0');
    match named && placed && stored && path.len() <= PATH_CHARS_MAX {
        true => Ok(()),
        false => fail!(
            Internal,
            "the database names the file '{}', want a path of the form STORE/000/000/000/TIME_000",
            shown(path.as_bytes())
        ),
    }
}

/// Whether a path below a store path ends with a directory of the form above.
pub fn is_directory(path: &str) -> bool {
    path.rsplit_once('/').is_some_and(|(_, name)| is_digit(name))
}

fn is_digit(part: &str) -> bool {
    is_hex(part, 3, 3)
}

fn is_hex(part: &str, bytes_min: usize, bytes_max: usize) -> bool {
    (bytes_min..=bytes_max).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The time that stands in a file's name, seconds since the epoch: the same on every member.
pub fn time(path: &str) -> Option<i64> {
    let (_, name) = path.rsplit_once('/')?;
    let (time, _) = name.split_once('_')?;
    i64::from_str_radix(time, 16).ok().filter(|time| *time >= 0)
}

/// The value that is unique to one upload: its path, hashed, since the path's number never repeats.
pub fn unique(path: &str) -> VersionId {
    VersionId(Md5::digest(path).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn place(number: u64) -> Place {
        Place::new(&IdKey::new("../data").unwrap(), number, 0x5F9E_3FA7)
    }

    #[test]
    fn a_number_makes_the_path_that_existing_deployments_have() {
        assert_eq!(place(0).path, "../data/000/000/000/5F9E3FA7_000");
        assert_eq!(place(511).path, "../data/000/000/000/5F9E3FA7_1FF");
        assert_eq!(place(512).path, "../data/000/000/001/5F9E3FA7_000");
        assert_eq!(place(512 * 512).path, "../data/000/001/000/5F9E3FA7_000");
        assert_eq!(place(512_u64.pow(4) - 1).path, "../data/1FF/1FF/1FF/5F9E3FA7_1FF");
        assert_eq!(place(512_u64.pow(4)).path, "../data/000/000/000/5F9E3FA7_000");
        assert_eq!(place(0x1234_5678_9ABC).path, "../data/08A/19E/04D/5F9E3FA7_0BC");
        let directories = ["../data", "../data/000", "../data/000/000", "../data/000/000/001"];
        assert_eq!(place(512).directories, directories);
        assert_eq!(place(512).directory(), "../data/000/000/001");
    }

    #[test]
    fn a_slash_at_the_end_of_a_store_path_changes_no_path() {
        for text in ["../data", "../data/", "../data//"] {
            let place = Place::new(&IdKey::new(text).unwrap(), 512, 0x5F9E_3FA7);
            assert_eq!(place.path, "../data/000/000/001/5F9E3FA7_000");
            assert_eq!(place.directories[0], "../data");
            for path in [place.path.as_str(), "../data//000/000/001/5F9E3FA7_000"] {
                assert!(is_below(plain(text), path) && !is_below("../dat", path));
                assert_eq!(normal(path), place.path);
            }
        }
        assert_eq!((plain("/"), plain("//")), ("/", "/"));
        assert!(is_below("/", "/000/000/001/5F9E3FA7_000"));
    }

    #[test]
    fn no_directory_has_more_than_512_entries_at_ten_million_files() {
        let mut files = HashMap::new();
        for first in (0..10_000_000).step_by(512) {
            let (one, last) = (place(first), place(first + 511));
            assert_eq!(
                one.directory(),
                last.directory(),
                "the numbers between them differ in the name alone"
            );
            assert!(files.insert(one.directory().to_owned(), first).is_none(), "no directory comes again");
        }
        let mut entries: HashMap<String, usize> = HashMap::new();
        for directory in files.into_keys() {
            let (above, _) = directory.rsplit_once('/').unwrap();
            *entries.entry(above.to_owned()).or_default() += 1;
        }
        assert!(entries.len() <= 512 && entries.into_values().all(|count| count <= 512));
    }

    #[test]
    fn the_time_comes_back_out_of_the_name() {
        assert_eq!(time(&place(7).path), Some(0x5F9E_3FA7));
        assert_eq!(time("../data/000/000/000/GG_000"), None);
        assert_eq!(time("../data/000/000/000/FFFFFFFFFFFFFFFF_000"), None);
        assert_eq!(time("x"), None);
    }

    #[test]
    fn only_paths_of_the_known_form_are_followed() {
        for good in [place(0).path.as_str(), "/d/1FF/000/0AB/5F9E3FA7_1FF", "d//000/000/000/1_000"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "/etc/passwd",
            "../data/000/000/000/5F9E3FA7",
            "../data/000/000/5F9E3FA7_000",
            "000/000/000/5F9E3FA7_000",
            "../data/000/000/../5F9E3FA7_000",
            "../data/000/000/000/5F9E3FA7_000/x",
            "../data/000/000/000/../../../passwd_000",
            "../da\0ta/000/000/000/5F9E3FA7_000",
            &format!("{}/000/000/000/5F9E3FA7_000", "d".repeat(512)),
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_upload_has_a_unique_value() {
        assert_eq!(
            unique(""),
            VersionId(*b"\xd4\x1d\x8c\xd9\x8f\x00\xb2\x04\xe9\x80\x09\x98\xec\xf8\x42\x7e")
        );
        assert_ne!(unique(&place(0).path), unique(&place(1).path));
    }
}
