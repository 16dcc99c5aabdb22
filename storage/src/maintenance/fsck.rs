//! `tnv-storage --fsck`: holds the rows of this storage's group against the files under its store paths,
//! both ways, beside servers that run or without.
//!
//! # What may change meanwhile
//!
//! Nothing is reported, and still less removed, on one look, since uploads and deletes go on. What
//! makes a second look certain is the order in which servers do things (see `file::write`):
//!
//! - *A row without its file.* A row comes after its file and goes before it. So where the file is not
//!   as it should be, and **then** the row is still there, they disagree.
//! - *A file without a row.* A journal slot that names the file is taken before the file is made, and
//!   released when the row is committed or the file has gone; a delete takes one before the row goes.
//!   So where the file is seen, **then** no journal names it (no upload of it is under way), **then**
//!   no row does, **then** again no journal (nor a delete) and **then** it is still there, it is
//!   nobody's. Before it is removed the rows are read once more, by locking reads that wait for open
//!   transactions.
//!
//! A journal protects what it names only while a storage holds it, which the rules in `heartbeat` decide:
//! what a killed storage left is without a row like any other file, and a storage that takes over the journal
//! meanwhile comes to the same end by the same rows. Where only time can show that a journal is not held,
//! this waits for that time, once.
//!
//! Existing storages have no journal, and a network file system may show the journal of another host
//! a moment late: files younger than `--min-age` are therefore not judged at all, only told.
//!
//! # Whose rows
//!
//! Rows of this group, and those of no group (existing storages write such) whose file is there. What
//! other rows of no group mean cannot be told. But for the question whether a file has a row every row
//! counts, whoever's it is and whatever its status, also one that names the file by another text for
//! the same directory.
//!
//! # Memory
//!
//! 8 bytes for each row under the store paths, and 40 MiB at the most for everything else: 120 MiB for ten
//! million files.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Display;
use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use tnv_common::daemon::{Given, Job};
use tnv_common::db::Database;
use tnv_common::error::{Context, Result};
use tnv_common::fail;
use tnv_common::net::stop::Stop;
use tnv_common::proto::IdKey;

use crate::db::{Db, Entry, SCHEMA, TABLES};
use crate::file::StoredFile;
use crate::file::verify::{self, Defect};
use crate::globals::{MemberName, Settings, host_name, now};
use crate::path;
use crate::volume::heartbeat::Watch;
use crate::volume::identity;
use crate::volume::journal;
use crate::volume::journal::Journals;

/// How it is asked for.
pub static JOB: Job = Job {
    name: "fsck",
    switches: &["repair", "quick"],
    numbers: &["min-age"],
    texts: &[],
    help: "\
  --fsck      compare the rows of this storage's group with the files under its store paths, beside
              running servers or without; run it in the directory that the server runs in
    --quick   leave the contents unread: sizes are compared, checksums are not
    --repair  remove files that have no row; never a row, and nothing else
    --min-age SECONDS
              files that changed less than so long ago are left alone; 3600 by default

  It prints a line for each disagreement: its kind (missing, size, checksum, unreadable, path: a row and
  its file; orphan: a file without a row), path, application, user, file ID and a remark, separated by
  tabs; backslashes and unprintable characters are escaped as in Rust (\\\\, \\n, \\u{1b}). A line of
  the kind journal names what a storage left that has ended, for the next one that starts or runs to clear
  up; the files that it names count like all others. At the end come counts. It exits with 0 when all
  agree, with 1 when something does not, also where it has been removed, or could not be compared.",
};

/// Younger files are left alone, unless told otherwise: no upload takes longer.
const MIN_AGE_SECS: u64 = 3600;

/// Files that look as if they had no row and are judged together, by one more walk through the rows:
/// some 20 MiB of names.
const CANDIDATES_MAX: usize = 100_000;

/// Row hashes in one sorted piece.
const PIECE_HASHES: usize = 1 << 20;

/// Before a row's file is looked at again: a replicated file system may show a change of another host a
/// moment late.
const PAUSE: Duration = Duration::from_millis(500);

/// Pauses are made so many times: where a whole disk is missing they would take days.
const PAUSES_MAX: u32 = 120;

/// How often it is looked whether a journal is held, where only time can show it.
const WAIT_STEP: Duration = Duration::from_secs(1);

/// In the place of an address that does not matter.
const ANY_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Below a store path.
const LEVELS: usize = 3;

/// Compares; says whether all agrees.
pub fn run(settings: &Settings, given: &Given, out: &mut dyn Write, stop: &Stop) -> Result<bool> {
    let plain = |path: &IdKey| path::plain(path.as_str()).to_owned();
    let volumes: Vec<String> = settings.store_paths.iter().map(plain).collect();
    check_stores(&volumes)?;
    if !Database::may_exist(&settings.database, &SCHEMA) {
        let directory = settings.database.directory.display();
        return fail!(
            NotFound,
            "there is no database in {directory}; run this in the directory that the server runs in"
        );
    }
    let database = Database::open(&settings.database, &SCHEMA, stop)?;
    let mut fsck = Fsck {
        db: Db::new(database, &settings.group, 1),
        group: settings.group.as_str(),
        volumes,
        // The address does not matter: journals of this host's names are its own, whatever follows.
        member: MemberName::new(settings.storage_id.as_ref(), &host_name()?, ANY_ADDRESS),
        watch: Watch::new(),
        waited: Duration::ZERO,
        left: BTreeSet::new(),
        repair: given.has("repair"),
        min_age_secs: given.number("min-age").unwrap_or(MIN_AGE_SECS),
        known: Hashes::default(),
        pauses: 0,
        counts: Counts::default(),
        out,
        stop,
    };
    fsck.compare_rows()?;
    fsck.compare_files()?;
    if !given.has("quick") {
        fsck.compare_contents()?;
    }
    fsck.tell_counts()
}

/// One and the same directory under two texts would have each file twice, one time without a row.
fn check_stores(volumes: &[String]) -> Result<()> {
    let mut seen: Vec<((u64, u64), &String)> = Vec::new();
    for store in volumes {
        let metadata = fs::metadata(store).context(|| {
            format!("store path '{store}' (run this in the directory that the server runs in)")
        })?;
        if !metadata.is_dir() {
            return fail!(Invalid, "store path '{store}' is no directory");
        }
        let identity = identity(&metadata);
        if let Some((_, other)) = seen.iter().find(|(known, _)| *known == identity) {
            return fail!(Invalid, "store paths '{other}' and '{store}' are one directory; name it once");
        }
        match identity::read(store).context(|| format!("read the marker of store path '{store}'"))? {
            Some(marker) if marker.store_path != *store => log::warn!(
                "store path '{store}' is volume {}, which was made for store path '{}': is the right disk mounted?",
                marker.id,
                marker.store_path
            ),
            Some(_) => {}
            None if journal::is_store(store).context(|| format!("list store path '{store}'"))? => {}
            None => log::warn!("store path '{store}' has never been a storage's: is its disk mounted?"),
        }
        seen.push((identity, store));
    }
    Ok(())
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// What was met, and what of it disagrees.
#[derive(Default)]
struct Counts {
    rows: u64,
    own: u64,
    not_live: u64,
    other_groups: u64,
    unknown_group: u64,
    files: u64,
    other_entries: u64,
    open: u64,
    left: u64,
    young: u64,
    contents: u64,
    content_bytes: u64,
    unchecked: u64,
    missing: u64,
    size: u64,
    checksum: u64,
    unreadable: u64,
    path: u64,
    orphan: u64,
    removed: u64,
    failed: u64,
}

struct Fsck<'a> {
    db: Db,
    group: &'a str,
    /// Plain texts.
    volumes: Vec<String>,
    member: MemberName,
    /// Of the journals that may have no holder.
    watch: Watch,
    /// How long that was waited for.
    waited: Duration,
    /// The journals without a holder that were reported.
    left: BTreeSet<String>,
    repair: bool,
    min_age_secs: u64,
    /// Of the paths of all rows under the store paths.
    known: Hashes,
    pauses: u32,
    counts: Counts,
    out: &'a mut dyn Write,
    stop: &'a Stop,
}

/// A file that had no row at a first look.
struct Candidate {
    path: String,
    /// A row has its number under a directory that cannot be seen from here.
    doubtful: bool,
}

impl Fsck<'_> {
    /// Each row, and then its file.
    fn compare_rows(&mut self) -> Result<()> {
        self.each_page(|fsck, table, page| {
            fsck.counts.rows += page.len() as u64;
            let mut suspects = Vec::new();
            for entry in page {
                if fsck.is_here(&entry.file.path) {
                    fsck.known.add(hash(&path::normal(&entry.file.path)));
                }
                if !fsck.count_owner(&entry) {
                    continue;
                }
                if !entry.live {
                    fsck.counts.not_live += 1;
                } else if verify::look(&entry.file).is_err() {
                    suspects.push(entry);
                }
            }
            fsck.look_again(table, suspects)
        })?;
        self.known.finish();
        Ok(())
    }

    /// Whether a row is this group's.
    fn count_owner(&mut self, entry: &Entry) -> bool {
        match &entry.group {
            Some(group) if group == self.group => {}
            Some(_) => {
                self.counts.other_groups += 1;
                return false;
            }
            None if self.is_here(&entry.file.path) && is_there(&entry.file.path) => {}
            None => {
                self.counts.unknown_group += 1;
                return false;
            }
        }
        self.counts.own += 1;
        true
    }

    /// Whether a path is one under the store paths.
    fn is_here(&self, path: &str) -> bool {
        self.volumes.iter().any(|store| path::is_below(store, path)) && path::check(path).is_ok()
    }

    /// Rows whose files were not as they should be: once more the file, then the row.
    fn look_again(&mut self, table: usize, suspects: Vec<Entry>) -> Result<()> {
        if suspects.is_empty() {
            return Ok(());
        }
        self.pause();
        for entry in suspects {
            if let Err(fault) = verify::look(&entry.file) {
                self.report_if_there(table, &entry, &fault)?;
            }
        }
        Ok(())
    }

    fn pause(&mut self) {
        if self.pauses < PAUSES_MAX {
            self.pauses += 1;
            self.stop.wait(PAUSE);
        }
    }

    fn report_if_there(&mut self, table: usize, entry: &Entry, fault: &Defect) -> Result<()> {
        if self.db.look(table, &entry.id)?.as_ref() != Some(entry) {
            return Ok(()); // Deleted, or deleted and uploaded anew, which has a row of its own to come.
        }
        let count = match fault {
            Defect::Path => &mut self.counts.path,
            Defect::Missing | Defect::NotAFile => &mut self.counts.missing,
            Defect::Size(_) => &mut self.counts.size,
            Defect::Checksum(_) => &mut self.counts.checksum,
            Defect::Unreadable(_) => &mut self.counts.unreadable,
        };
        *count += 1;
        let Entry { id, appid, userid, file, .. } = entry;
        let remark = fault.told(file).to_string();
        let (userid, id) = (self.db.name(userid), self.db.name(id));
        self.tell(&[fault.kind(), &file.path, appid, &userid, &id, &remark])
    }

    /// Each file, and then whether it has a row.
    fn compare_files(&mut self) -> Result<()> {
        let mut candidates = Vec::new();
        for store in self.volumes.clone() {
            self.walk(&store, LEVELS, &mut candidates)?;
        }
        self.judge(std::mem::take(&mut candidates))
    }

    fn walk(&mut self, directory: &str, levels: usize, candidates: &mut Vec<Candidate>) -> Result<()> {
        self.go_on()?;
        for entry in fs::read_dir(directory).context(|| format!("list {}", escaped(directory)))? {
            let entry = entry.context(|| format!("list {}", escaped(directory)))?;
            let kind = entry.file_type().context(|| format!("look at {}", entry.path().display()))?;
            let name = entry.file_name();
            let Some(path) = name.to_str().map(|name| format!("{directory}/{name}")) else {
                self.counts.other_entries += 1;
                continue;
            };
            if levels > 0 && kind.is_dir() && path::is_directory(&path) {
                self.walk(&path, levels - 1, candidates)?;
            } else if levels == 0 && kind.is_file() && path::check(&path).is_ok() {
                self.counts.files += 1;
                if !self.known.has(hash(&path::normal(&path))) {
                    candidates.push(Candidate { path, doubtful: false });
                }
                if candidates.len() >= CANDIDATES_MAX {
                    self.judge(std::mem::take(candidates))?;
                }
            } else {
                self.counts.other_entries += 1;
            }
        }
        Ok(())
    }

    /// Files that had no row at a first look, in the order that makes it certain.
    fn judge(&mut self, candidates: Vec<Candidate>) -> Result<()> {
        if candidates.is_empty() {
            return Ok(());
        }
        let candidates = self.without_open(candidates)?;
        let candidates = self.without_rows(candidates, false)?;
        let candidates = self.without_open(candidates)?;
        let mut orphans = Vec::new();
        for candidate in candidates {
            match self.age_secs(&candidate.path)? {
                None => {} // A delete has come to its end.
                Some(age) if age < self.min_age_secs => {
                    self.counts.young += 1;
                    self.tell(&["young", &candidate.path])?;
                }
                Some(age) => {
                    self.counts.orphan += 1;
                    let remark = format!("unchanged for {age} s");
                    self.tell(&["orphan", &candidate.path, "", "", "", &remark])?;
                    orphans.push(candidate);
                }
            }
        }
        if self.repair { self.remove(orphans) } else { Ok(()) }
    }

    /// Those that no held journal names.
    fn without_open(&mut self, mut candidates: Vec<Candidate>) -> Result<Vec<Candidate>> {
        let open = loop {
            let mut all = Journals::default();
            for store in &self.volumes {
                let read = Journals::read(store, &self.member, &mut self.watch);
                let Journals { open, doubtful, left } =
                    read.context(|| format!("read the journals in '{store}'"))?;
                all.open.extend(open);
                all.doubtful.extend(doubtful);
                all.left.extend(left);
            }
            for (journal, slots) in all.left {
                if self.left.insert(journal.clone()) {
                    self.counts.left += 1;
                    let remark = format!("no storage holds it, {slots} slots are taken");
                    self.tell(&["journal", &journal, "", "", "", &remark])?;
                }
            }
            let doubtful = names(&all.doubtful);
            let is_doubtful =
                candidates.iter().any(|candidate| doubtful.contains(&*path::normal(&candidate.path)));
            if !is_doubtful || self.waited > self.watch.silence() + WAIT_STEP {
                let mut open = names(&all.open);
                open.extend(doubtful);
                break open;
            }
            self.stop.wait(WAIT_STEP);
            self.go_on()?;
            self.waited += WAIT_STEP;
        };
        let before = candidates.len();
        candidates.retain(|candidate| !open.contains(&*path::normal(&candidate.path)));
        self.counts.open += (before - candidates.len()) as u64;
        Ok(candidates)
    }

    /// Those that no row names.
    fn without_rows(&mut self, mut candidates: Vec<Candidate>, certain: bool) -> Result<Vec<Candidate>> {
        let mut by_tail: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, candidate) in candidates.iter().enumerate() {
            by_tail.entry(tail(&candidate.path).to_owned()).or_default().push(index);
        }
        let mut has_row = vec![false; candidates.len()];
        self.each_path(certain, |path| {
            for &index in by_tail.get(tail(path)).into_iter().flatten() {
                match named_by(path, &candidates[index].path) {
                    Some(same) => has_row[index] |= same,
                    None => candidates[index].doubtful = true,
                }
            }
        })?;
        let mut has_row = has_row.into_iter();
        candidates.retain(|_| has_row.next() != Some(true));
        Ok(candidates)
    }

    fn remove(&mut self, orphans: Vec<Candidate>) -> Result<()> {
        if orphans.is_empty() {
            return Ok(());
        }
        if self.known.is_empty() {
            return fail!(
                Invalid,
                "the database knows no file under these store paths, so nothing is removed: is it the right one?"
            );
        }
        let orphans = self.without_open(orphans)?;
        for orphan in self.without_rows(orphans, true)? {
            let path = &orphan.path;
            if orphan.doubtful {
                self.counts.failed += 1;
                self.tell(&[
                    "kept",
                    path,
                    "",
                    "",
                    "",
                    "a row has its number under a directory that is not here",
                ])?;
                continue;
            }
            if self.age_secs(path)?.is_none_or(|age| age < self.min_age_secs) {
                continue;
            }
            match fs::remove_file(path) {
                Ok(()) => {
                    self.counts.removed += 1;
                    self.tell(&["removed", path])?;
                }
                Err(error) => {
                    self.counts.failed += 1;
                    self.tell(&["kept", path, "", "", "", &error.to_string()])?;
                }
            }
        }
        Ok(())
    }

    /// How long ago a file last changed in any way; none where it has gone.
    fn age_secs(&self, path: &str) -> Result<Option<u64>> {
        let metadata = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found.context(|| format!("look at {}", escaped(path)))?,
        };
        let named = path::time(path).unwrap_or(i64::MAX);
        let changed = metadata.mtime().max(metadata.ctime()).max(named);
        Ok(Some(now().saturating_sub(u64::try_from(changed).unwrap_or(0))))
    }

    /// Reads what has a checksum.
    fn compare_contents(&mut self) -> Result<()> {
        self.each_page(|fsck, table, page| {
            for entry in page {
                let own = match &entry.group {
                    Some(group) => group == fsck.group,
                    None => fsck.is_here(&entry.file.path),
                };
                // What else is wrong was told before.
                if !own || !entry.live || verify::look(&entry.file).is_err() {
                    continue;
                }
                if entry.file.crc32.is_none() {
                    fsck.counts.unchecked += 1;
                    continue;
                }
                fsck.counts.contents += 1;
                fsck.counts.content_bytes += entry.file.size;
                fsck.compare_content(table, &entry)?;
                fsck.go_on()?;
            }
            Ok(())
        })
    }

    fn compare_content(&mut self, table: usize, entry: &Entry) -> Result<()> {
        let read = |anew| match verify::read(&entry.file, anew, |_| !self.stop.is_set()) {
            Err(fault @ (Defect::Checksum(_) | Defect::Unreadable(_))) => Some(fault),
            _ => None,
        };
        if read(false).is_none() {
            return Ok(());
        }
        match read(true) {
            Some(fault) => self.report_if_there(table, entry, &fault),
            None => Ok(()),
        }
    }

    fn each_page(&mut self, mut visit: impl FnMut(&mut Self, usize, Vec<Entry>) -> Result<()>) -> Result<()> {
        for table in 0..TABLES {
            let mut last: Option<String> = None;
            loop {
                self.go_on()?;
                let page = self.db.page(table, last.as_deref())?;
                let Some(entry) = page.last() else { break };
                last = Some(entry.id.clone());
                visit(self, table, page)?;
            }
        }
        Ok(())
    }

    /// Each row's path; `certain`: also those of transactions that are open now.
    fn each_path(&mut self, certain: bool, mut visit: impl FnMut(&str)) -> Result<()> {
        for table in 0..TABLES {
            let mut last: Option<String> = None;
            loop {
                self.go_on()?;
                let page = self.db.page(table, last.as_deref())?;
                let to = page.last().map(|entry| entry.id.clone());
                if certain {
                    let from = last.as_deref().unwrap_or_default();
                    let paths = self.db.paths_for_certain(table, from, to.as_deref())?;
                    paths.iter().for_each(|path| visit(path));
                } else {
                    page.iter().for_each(|entry| visit(&entry.file.path));
                }
                if to.is_none() {
                    break;
                }
                last = to;
            }
        }
        Ok(())
    }

    fn go_on(&self) -> Result<()> {
        match self.stop.is_set() {
            true => fail!(Unavailable, "told to stop before all was compared"),
            false => Ok(()),
        }
    }

    fn tell(&mut self, fields: &[&str]) -> Result<()> {
        let line = fields.iter().map(escaped).collect::<Vec<_>>().join("\t");
        writeln!(self.out, "{line}").context(|| "write to standard output")
    }

    /// The end; says whether all agrees.
    fn tell_counts(&mut self) -> Result<bool> {
        let Counts { missing, size, checksum, unreadable, path, orphan, failed, .. } = self.counts;
        let counts = &self.counts;
        let lines = [
            ("rows", counts.rows),
            ("rows of this group", counts.own),
            ("rows that are not live", counts.not_live),
            ("rows of other groups", counts.other_groups),
            ("rows of unknown group without a file here", counts.unknown_group),
            ("files", counts.files),
            ("other entries", counts.other_entries),
            ("files of uploads and deletes under way", counts.open),
            ("journals without a holder", counts.left),
            ("files without a row that are too young", counts.young),
            ("contents read", counts.contents),
            ("bytes read", counts.content_bytes),
            ("rows without a checksum", counts.unchecked),
            ("missing", missing),
            ("size", size),
            ("checksum", checksum),
            ("unreadable", unreadable),
            ("path", path),
            ("orphan", orphan),
            ("removed", counts.removed),
            ("kept", failed),
        ];
        for (name, count) in lines {
            self.tell(&["count", name, &count.to_string()])?;
        }
        self.out.flush().context(|| "write to standard output")?;
        Ok(missing + size + checksum + unreadable + path + orphan + failed == 0)
    }
}

/// Paths as they are compared.
fn names(texts: &[String]) -> HashSet<String> {
    texts.iter().map(|path| path::normal(path).into_owned()).collect()
}

fn is_there(path: &str) -> bool {
    verify::look(&StoredFile { path: path.to_owned(), size: 0, crc32: None }) != Err(Defect::Missing)
}

/// Whether a row's path, which ends like the file's, names that file; none where that cannot be seen
/// from here.
fn named_by(row: &str, file: &str) -> Option<bool> {
    if row == file {
        return Some(true);
    }
    if path::check(row).is_err() {
        return None;
    }
    let look = |path: &str| fs::symlink_metadata(Path::new(path)).ok().as_ref().map(identity);
    look(row).map(|found| Some(found) == look(file))
}

/// What of a path is made of its number and time.
fn tail(path: &str) -> &str {
    let start = path.rmatch_indices('/').nth(LEVELS).map_or(0, |(at, _)| at + 1);
    &path[start..]
}

/// So that no name forges a line or a field.
fn escaped(text: impl Display) -> String {
    let text = text.to_string();
    let mut line = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\'' | '"' => line.push(char),
            other => line.extend(other.escape_debug()),
        }
    }
    line
}

fn hash(path: &str) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = path::unique(path).0;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// Many hashes in little space: sorted pieces, so that nothing is ever copied to grow. That two paths
/// of ten million have one hash has a chance of one in a hundred thousand; it would hide an orphan.
#[derive(Default)]
struct Hashes {
    pieces: Vec<Vec<u64>>,
    open: Vec<u64>,
}

impl Hashes {
    fn add(&mut self, hash: u64) {
        self.open.push(hash);
        if self.open.len() >= PIECE_HASHES {
            self.finish();
        }
    }

    fn finish(&mut self) {
        let mut piece = std::mem::take(&mut self.open);
        piece.sort_unstable();
        self.pieces.push(piece);
    }

    fn has(&self, hash: u64) -> bool {
        self.pieces.iter().any(|piece| piece.binary_search(&hash).is_ok())
    }

    fn is_empty(&self) -> bool {
        self.pieces.iter().all(Vec::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_forges_a_line_of_the_report() {
        assert_eq!(escaped("o'brien\n\tx\\ \u{1b}[2J \u{202e}ü"), "o'brien\\n\\tx\\\\ \\u{1b}[2J \\u{202e}ü");
    }

    #[test]
    fn the_tail_of_a_path_is_what_its_number_makes() {
        assert_eq!(tail("../data/000/001/002/5F9E3FA7_003"), "000/001/002/5F9E3FA7_003");
        assert_eq!(tail("/002/5F9E3FA7_003"), "/002/5F9E3FA7_003");
        assert_eq!(tail(""), "");
    }

    #[test]
    fn every_hash_that_was_added_is_found() {
        let mut hashes = Hashes::default();
        assert!(hashes.is_empty());
        let value = |number: u64| number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (0..2 * PIECE_HASHES as u64 + 5).for_each(|number| hashes.add(value(number)));
        hashes.finish();
        assert!(!hashes.is_empty());
        assert!((0..2 * PIECE_HASHES as u64 + 5).step_by(97).all(|number| hashes.has(value(number))));
        assert!(!hashes.has(value(u64::MAX)));
    }
}
