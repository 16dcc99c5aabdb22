//! Rows held against their files.

use tnv_common::error::Result;

use super::Fsck;
use super::hashes::hash;
use crate::db::{Entry, TABLES};
use crate::file::StoredFile;
use crate::file::verify::{self, Defect};
use crate::path;

impl Fsck<'_> {
    /// Each row, and then its file.
    pub(super) fn compare_rows(&mut self) -> Result<()> {
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
        let remark = fault.describe(file).to_string();
        let (userid, id) = (self.db.name(userid), self.db.name(id));
        self.report(&[fault.kind(), &file.path, appid, &userid, &id, &remark])
    }

    /// Reads what has a checksum.
    pub(super) fn compare_contents(&mut self) -> Result<()> {
        self.each_page(|fsck, table, page| {
            for entry in page {
                let own = match &entry.group {
                    Some(group) => group == fsck.group,
                    None => fsck.is_here(&entry.file.path),
                };
                // What else is wrong was reported before.
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
    pub(super) fn each_path(&mut self, certain: bool, mut visit: impl FnMut(&str)) -> Result<()> {
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
}

fn is_there(path: &str) -> bool {
    verify::look(&StoredFile { path: path.to_owned(), size: 0, crc32: None }) != Err(Defect::Missing)
}
