//! Which volume a store path leads to: a marker file in it, and what shows that a path without one is the
//! right disk all the same.
//!
//! The mount point of a disk that is not mounted is an empty directory on another disk. What is stored there
//! is gone from sight as soon as the disk is mounted. So a store path takes no new file, and gets no
//! directory and no journal, until it is shown to be the right one:
//!
//! | the store path has | rows under it | it is |
//! |---|---|---|
//! | a marker of this store path and group | | the right one |
//! | no marker | none | new; the marker is made |
//! | no marker | some, one of which has its file here | of a previous version; the marker is made |
//! | no marker | some, none of which has its file here | not the right disk |
//! | a marker of another store path or group | none, or one has its file here | renamed; the marker stays as it is |
//! | a marker of another store path or group | some, none of which has its file here | another disk |
//!
//! `tnv-storage --init` makes the marker in any case: for a disk that was replaced by an empty one.
//!
//! The marker is [`NAME`], lines of a key and a value:
//!
//! ```text
//! tnv-volume 1
//! id 0123456789abcdef0123456789abcdef
//! store-path ../data
//! group group001
//! created 1764316800
//! ```
//!
//! It is written under a temporary name, synced, published by link(2), which has one winner among all
//! members, and its directory is synced. It never changes; `--init` replaces it as a whole.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use tnv_common::error::Result;

use crate::db::{FileRow, Next, TABLES};
use crate::file::verify;
use crate::globals::now;
use crate::path;
use crate::volume::disk;

/// The marker's name in the store path.
pub const NAME: &str = ".tnv-volume";

/// What the names of markers begin with that are being made.
const TEMPORARY: &str = ".tnv-volume-";

/// The first line; the number is the version of the form.
const HEAD: &str = "tnv-volume 1";

/// How often it is tried to make a marker: each member that starts at the same moment may spoil one.
const TRIES_MAX: usize = 64;

/// A longer file is no marker.
const BYTES_MAX: u64 = 4096;

/// Rows whose files are looked for before the disk counts as the wrong one. Rows that existing storages wrote
/// say nothing of their group, so that in a deployment of ten groups nine of ten may be elsewhere.
const SAMPLE_MAX: usize = 256;

/// Most of them from one page: the first and the last pages of all tables have their share. File IDs often
/// begin with a time, so that where a group joined later the first rows are all of others.
const OF_PAGE_MAX: usize = SAMPLE_MAX / (2 * TABLES);

/// The rows of the sample may have been deleted meanwhile: it is taken anew after this time, and seldom,
/// since all rows may have to be read for it.
const SAMPLE_LIFETIME: Duration = Duration::from_secs(600);

/// What makes a volume itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    /// 32 hex digits, random.
    pub id: String,
    /// The store path that it was made for.
    pub store_path: String,
    /// The group that it was made for.
    pub group: String,
    /// Seconds since the epoch.
    pub created: u64,
}

impl Marker {
    /// Of a volume that is new.
    pub fn new(store_path: &str, group: &str) -> Marker {
        Marker {
            id: format!("{:032x}", rand::random::<u128>()),
            store_path: store_path.to_owned(),
            group: group.to_owned(),
            created: now(),
        }
    }

    /// Its ID as a number, as it goes over the wire.
    pub fn number(&self) -> [u8; 16] {
        u128::from_str_radix(&self.id, 16).unwrap_or_default().to_be_bytes()
    }

    /// Reads its text.
    pub fn parse(text: &str) -> Option<Marker> {
        let mut lines = text.lines();
        if lines.next()? != HEAD {
            return None;
        }
        let mut marker =
            Marker { id: String::new(), store_path: String::new(), group: String::new(), created: 0 };
        for line in lines {
            let (key, value) = line.split_once(' ')?;
            match key {
                "id" => marker.id = value.to_owned(),
                "store-path" => marker.store_path = value.to_owned(),
                "group" => marker.group = value.to_owned(),
                "created" => marker.created = value.parse().ok()?,
                // Of a later version.
                _ => {}
            }
        }
        let is_id = marker.id.len() == 32 && marker.id.bytes().all(|byte| byte.is_ascii_hexdigit());
        (is_id && text.ends_with('\n')).then_some(marker)
    }
}

impl fmt::Display for Marker {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Marker { id, store_path, group, created } = self;
        writeln!(out, "{HEAD}\nid {id}\nstore-path {store_path}\ngroup {group}\ncreated {created}")
    }
}

/// Which file a marker is, as long as it lies there: to be compared without opening it.
pub type Stamp = (u64, u64);

/// The stamp of the marker that is there now.
pub fn stamp(store_path: &str) -> io::Result<Stamp> {
    let found = fs::symlink_metadata(Path::new(store_path).join(NAME))?;
    Ok((found.dev(), found.ino()))
}

/// The marker of a store path, where there is one.
pub fn read(store_path: &str) -> io::Result<Option<Marker>> {
    let path = Path::new(store_path).join(NAME);
    let mut bytes = Vec::new();
    match File::open(&path) {
        Ok(file) => file.take(BYTES_MAX).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match std::str::from_utf8(&bytes).ok().and_then(Marker::parse) {
        Some(marker) => Ok(Some(marker)),
        None => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "{} is no marker of a volume; restore it, or have tnv-storage --init make a new one",
                path.display()
            ),
        )),
    }
}

/// Makes the marker of a store path, unless another member was faster; gives the one that is there then.
pub fn create(store_path: &str, marker: &Marker) -> io::Result<Marker> {
    for _ in 0..TRIES_MAX {
        publish(Path::new(store_path), marker)?;
        if let Some(found) = read(store_path)? {
            return Ok(found);
        }
        // Another member tidied up what was being made here, and has not made its own yet.
    }
    Err(io::ErrorKind::NotFound.into())
}

fn publish(directory: &Path, marker: &Marker) -> io::Result<()> {
    let path = directory.join(NAME);
    tidy(directory)?;
    let temporary = write_temporary(directory, marker)?;
    let linked = match fs::hard_link(&temporary, &path) {
        Err(error) if !has_links(&error) => write_directly(&path, marker),
        linked => linked,
    };
    let removed = fs::remove_file(&temporary);
    match linked {
        Err(error) if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => {}
        linked => {
            linked?;
            if let Err(error) = removed
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error);
            }
        }
    }
    // Also after another one's: its name need not be durable yet.
    disk::sync_directory(directory)
}

/// Puts a marker in the place of whatever is there.
pub fn replace(store_path: &str, marker: &Marker) -> io::Result<()> {
    let directory = Path::new(store_path);
    disk::replace_file(&directory.join(NAME), &temporary_in(directory), marker.to_string().as_bytes())
}

fn temporary_in(directory: &Path) -> std::path::PathBuf {
    directory.join(format!("{TEMPORARY}{:016x}", rand::random::<u64>()))
}

fn write_temporary(directory: &Path, marker: &Marker) -> io::Result<std::path::PathBuf> {
    let temporary = temporary_in(directory);
    write_directly(&temporary, marker).inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })?;
    Ok(temporary)
}

fn write_directly(path: &Path, marker: &Marker) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(marker.to_string().as_bytes())?;
    file.sync_all()
}

/// Whether a file system that answered so has links at all.
fn has_links(error: &io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied)
        && error.raw_os_error() != Some(rustix::io::Errno::OPNOTSUPP.raw_os_error())
}

/// Removes what a kill left of markers that were being made.
fn tidy(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(TEMPORARY.as_bytes()) {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// A row that may name a file of this group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The file.
    pub file: FileRow,
    /// The row says that it is this group's. Rows that existing storages wrote name no group.
    pub is_own: bool,
}

/// Some of the rows, as they follow each other.
pub struct Page {
    /// The key of the last one; none where no row is left.
    pub last: Option<String>,
    /// Those that are this group's, or of no group, and live.
    pub claims: Vec<Claim>,
}

/// Gives the next page of a table.
pub type Pages = dyn Fn(usize, Next<'_>) -> Result<Page> + Send + Sync;

/// What the rows say of a store path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// None names a file under it.
    NoRows,
    /// One does whose file is here.
    Right,
    /// So many were looked at, and none has its file here.
    Wrong {
        /// All of them.
        rows: usize,
        /// Those that say that they are this group's.
        own: usize,
    },
    /// More rows are to be read.
    Unfinished,
}

/// A search for rows under a store path. It reads page after page, in slices, since no index finds a path:
/// where there are few, all rows have to be read. Each table is read from both ends, in turn with the others,
/// until they meet or the sample is full.
#[derive(Default)]
pub struct Search {
    tables: [Walk; TABLES],
    /// Counts the pages: the table and the end of the next one follow from it.
    turn: usize,
    /// Rows whose files were not there.
    sample: Vec<Claim>,
    begun: Option<Instant>,
}

/// How far a table was read.
#[derive(Default)]
struct Walk {
    after: Option<String>,
    before: Option<String>,
    is_done: bool,
}

impl Walk {
    /// The next page, and whether it is one from the end. The first page comes first: it gives the lower bound.
    fn next(&self, from_end: bool) -> (Next<'_>, bool) {
        let before = self.before.as_deref();
        match self.after.as_deref() {
            None => (Next::First, false),
            Some(after) if from_end => (Next::Last(after, before), true),
            Some(after) => (Next::After(after, before), false),
        }
    }
}

impl Search {
    /// Goes on until it knows, or until `deadline`.
    pub fn go_on(&mut self, store_path: &str, pages: &Pages, deadline: Instant) -> Result<Finding> {
        if self.begun.is_some_and(|begun| begun.elapsed() > SAMPLE_LIFETIME) && self.is_finished() {
            *self = Search::default();
        }
        self.begun.get_or_insert_with(Instant::now);
        if self.sample.iter().any(is_here) {
            return Ok(Finding::Right);
        }
        while !self.is_finished() {
            let walk = &mut self.tables[self.turn / 2 % TABLES];
            if !walk.is_done {
                let (next, from_end) = walk.next(self.turn % 2 == 1);
                let Page { last, claims } = pages(self.turn / 2 % TABLES, next)?;
                walk.is_done = last.is_none();
                *(if from_end { &mut walk.before } else { &mut walk.after }) = last;
                if self.sample_has_here(store_path, claims) {
                    return Ok(Finding::Right);
                }
            }
            self.turn += 1;
            if Instant::now() >= deadline && !self.is_finished() {
                return Ok(Finding::Unfinished);
            }
        }
        match self.sample.len() {
            0 => Ok(Finding::NoRows),
            rows => {
                let own = self.sample.iter().filter(|claim| claim.is_own).count();
                Ok(Finding::Wrong { rows, own })
            }
        }
    }

    /// Takes rows of a page into the sample; true where one of them has its file here.
    fn sample_has_here(&mut self, store_path: &str, claims: Vec<Claim>) -> bool {
        let below = |claim: &Claim| path::is_below(store_path, &claim.file.path);
        let mut claims: Vec<_> = claims.into_iter().filter(below).collect();
        // What names no group may be another one's.
        claims.sort_by_key(|claim| !claim.is_own);
        claims.truncate(OF_PAGE_MAX.min(SAMPLE_MAX - self.sample.len()));
        let found = claims.iter().any(is_here);
        self.sample.append(&mut claims);
        found
    }

    fn is_finished(&self) -> bool {
        self.tables.iter().all(|walk| walk.is_done) || self.sample.len() >= SAMPLE_MAX
    }
}

/// Whether a row's file is there with its size.
fn is_here(claim: &Claim) -> bool {
    verify::look(&claim.file).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use std::collections::HashSet;
    use std::thread;

    fn text(scratch: &Scratch) -> &str {
        scratch.path().to_str().unwrap()
    }

    #[test]
    fn of_members_that_start_at_once_one_makes_the_marker_and_all_have_it() {
        for _ in 0..20 {
            let scratch = Scratch::new();
            let ids: HashSet<String> = thread::scope(|scope| {
                let members: Vec<_> = (0..8)
                    .map(|_| {
                        scope
                            .spawn(|| create(text(&scratch), &Marker::new("../data", "group001")).unwrap().id)
                    })
                    .collect();
                members.into_iter().map(|member| member.join().unwrap()).collect()
            });
            assert_eq!(ids.len(), 1);
            assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1, "nothing else is left");
        }
    }

    #[test]
    fn a_marker_is_read_back_and_what_is_none_is_not_believed() {
        let scratch = Scratch::new();
        assert_eq!(read(text(&scratch)).unwrap(), None);
        let marker = Marker::new("../data", "group001");
        fs::write(scratch.path().join(".tnv-volume-kill"), "tnv-vol").unwrap();
        assert_eq!(create(text(&scratch), &marker).unwrap(), marker);
        assert_eq!(create(text(&scratch), &Marker::new("x", "y")).unwrap(), marker, "the first one stays");
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
        let whole = marker.to_string();
        assert_eq!(Marker::parse(&format!("{whole}later field\n")), Some(marker.clone()));
        for end in [0, 5, 13, 40, whole.len() - 1] {
            assert_eq!(Marker::parse(&whole[..end]), None, "{end}");
        }
        fs::write(scratch.path().join(NAME), "").unwrap();
        assert_eq!(read(text(&scratch)).unwrap_err().kind(), io::ErrorKind::InvalidData);
        replace(text(&scratch), &marker).unwrap();
        assert_eq!(read(text(&scratch)).unwrap(), Some(marker));
    }

    /// Rows of a table of so many pages of one row; those that `is_mine` says lie under the store path.
    fn pages(count: usize, store: &str, is_mine: fn(usize) -> bool) -> Box<Pages> {
        let own = store.to_owned();
        Box::new(move |table, next| {
            let number = |key: &str| key.parse::<usize>().unwrap();
            let (least, end) = match next {
                Next::First => (0, count),
                Next::After(after, before) | Next::Last(after, before) => {
                    (number(after) + 1, before.map_or(count, number))
                }
            };
            if table > 0 || least >= end {
                return Ok(Page { last: None, claims: Vec::new() });
            }
            let number = if matches!(next, Next::Last(..)) { end - 1 } else { least };
            let store = if is_mine(number) { own.as_str() } else { "/elsewhere" };
            let path = format!("{store}/000/000/000/1_{number:03X}");
            let file = FileRow { path, size: 1, crc32: None };
            Ok(Page { last: Some(number.to_string()), claims: vec![Claim { file, is_own: false }] })
        })
    }

    fn search(store: &str, pages: &Pages) -> Finding {
        Search::default().go_on(store, pages, Instant::now() + Duration::from_secs(60)).unwrap()
    }

    fn wrong(rows: usize) -> Finding {
        Finding::Wrong { rows, own: 0 }
    }

    #[test]
    fn a_disk_is_right_when_one_of_its_rows_has_its_file() {
        let scratch = Scratch::new();
        let store = text(&scratch).to_owned();
        assert_eq!(search(&store, &pages(0, &store, |_| true)), Finding::NoRows);
        assert_eq!(search(&store, &pages(1000, &store, |_| false)), Finding::NoRows);
        assert_eq!(search(&store, &pages(1000, &store, |number| number > 990)), wrong(9));
        assert_eq!(search(&store, &pages(1000, &store, |_| true)), wrong(SAMPLE_MAX));
        fs::create_dir_all(scratch.path().join("000/000/000")).unwrap();
        fs::write(scratch.path().join("000/000/000/1_1E0"), "12").unwrap();
        let mine = |number| number > 400 && number < 600;
        assert_eq!(search(&store, &pages(1000, &store, mine)), wrong(199), "of another size");
        fs::write(scratch.path().join("000/000/000/1_1E0"), "1").unwrap();
        assert_eq!(search(&store, &pages(1000, &store, mine)), Finding::Right);
    }

    /// A group joined later: the first rows under its store path were those of other groups, and its disk was
    /// refused.
    #[test]
    fn a_disk_whose_rows_are_the_newest_ones_is_right() {
        let scratch = Scratch::new();
        let store = text(&scratch).to_owned();
        fs::create_dir_all(scratch.path().join("000/000/000")).unwrap();
        fs::write(scratch.path().join("000/000/000/1_3E0"), "1").unwrap();
        assert_eq!(search(&store, &pages(1000, &store, |_| true)), Finding::Right);
    }

    /// A page of rows of other groups, which existing storages wrote, with some of this one's behind them.
    #[test]
    fn each_end_of_each_table_has_its_share_and_rows_of_this_group_come_before_those_of_none() {
        let scratch = Scratch::new();
        let store = text(&scratch).to_owned();
        let claim = |store: &str, name: String, is_own| {
            let path = format!("{store}/000/000/000/{name}");
            Claim { file: FileRow { path, size: 1, crc32: None }, is_own }
        };
        let own = store.clone();
        let pages = move |table: usize, next: Next<'_>| {
            let end = match next {
                Next::First => 0,
                Next::Last(_, None) => 1,
                _ => return Ok(Page { last: None, claims: Vec::new() }),
            };
            let others = (0..1000).map(|number| claim(&own, format!("1_{number:03X}"), false));
            let claims = others.chain([claim(&own, format!("2_{end}0{table}"), true)]).collect();
            Ok(Page { last: Some(end.to_string()), claims })
        };
        let rows = 2 * TABLES * OF_PAGE_MAX;
        assert_eq!(search(&store, &pages), Finding::Wrong { rows, own: 2 * TABLES });
        fs::create_dir_all(scratch.path().join("000/000/000")).unwrap();
        for name in (0..TABLES).flat_map(|table| [0, 1].map(|end| format!("2_{end}0{table}"))) {
            let path = scratch.path().join("000/000/000").join(&name);
            fs::write(&path, "1").unwrap();
            assert_eq!(search(&store, &pages), Finding::Right, "{name}");
            fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn a_search_goes_on_where_it_stopped_and_notices_a_disk_that_is_mounted_later() {
        let scratch = Scratch::new();
        let store = text(&scratch).to_owned();
        let pages = pages(10, &store, |number| number == 7);
        let mut search = Search::default();
        // One page each time; of the other tables one shows that they are empty.
        let mut pauses = 0;
        while search.go_on(&store, &pages, Instant::now()).unwrap() == Finding::Unfinished {
            pauses += 1;
            assert!(pauses < 100);
        }
        assert!(pauses > 9, "{pauses}");
        let later = Instant::now() + Duration::from_secs(60);
        assert_eq!(search.go_on(&store, &pages, later).unwrap(), wrong(1));
        fs::create_dir_all(scratch.path().join("000/000/000")).unwrap();
        fs::write(scratch.path().join("000/000/000/1_007"), "1").unwrap();
        assert_eq!(search.go_on(&store, &pages, later).unwrap(), Finding::Right);
    }
}
