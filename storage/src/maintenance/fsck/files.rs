//! Files held against the rows: a file that certainly has none is reported, or removed.

use std::collections::{HashMap, HashSet};
use std::fs::{self};
use std::io::{self};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use tnv_common::error::{Context, Result};
use tnv_common::fail;

use super::Fsck;
use super::hashes::hash;
use super::report::escaped;
use crate::globals::now;
use crate::path;
use crate::volume::journal::Journals;

/// How often it is looked whether a journal is held, where only time can show it.
const WAIT_STEP: Duration = Duration::from_secs(1);
/// Files that look as if they had no row and are judged together, by one more walk through the rows:
/// some 20 MiB of names.
const CANDIDATES_MAX: usize = 100_000;

/// Below a store path.
const LEVELS: usize = 3;

/// A file that had no row at a first look.
struct Candidate {
    path: String,
    /// A row has its number under a directory that cannot be seen from here.
    doubtful: bool,
}

impl Fsck<'_> {
    /// Each file, and then whether it has a row.
    pub(super) fn compare_files(&mut self) -> Result<()> {
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
                    self.report(&["young", &candidate.path])?;
                }
                Some(age) => {
                    self.counts.orphan += 1;
                    let remark = format!("unchanged for {age} s");
                    self.report(&["orphan", &candidate.path, "", "", "", &remark])?;
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
                    self.report(&["journal", &journal, "", "", "", &remark])?;
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
                self.report(&[
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
                    self.report(&["removed", path])?;
                }
                Err(error) => {
                    self.counts.failed += 1;
                    self.report(&["kept", path, "", "", "", &error.to_string()])?;
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
}

/// Paths as they are compared.
fn names(texts: &[String]) -> HashSet<String> {
    texts.iter().map(|path| path::normal(path).into_owned()).collect()
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
    let look = |path: &str| fs::symlink_metadata(Path::new(path)).ok().as_ref().map(super::identity);
    look(row).map(|found| Some(found) == look(file))
}

/// What of a path is made of its number and time.
pub(super) fn tail(path: &str) -> &str {
    let start = path.rmatch_indices('/').nth(LEVELS).map_or(0, |(at, _)| at + 1);
    &path[start..]
}
