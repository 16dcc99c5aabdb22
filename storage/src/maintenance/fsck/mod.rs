//! `tnv-storage --fsck`: holds the rows of this storage's group against the files under its store paths,
//! both ways, beside servers that run or without.
//!
//! # What may change meanwhile
//!
//! Nothing is reported, and still less removed, on one look, since uploads and deletes go on. What
//! makes a second look certain is the order in which servers do things (see `catalog::upload`):
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
//! counts, of any user and any status, also one that names the file by another text for
//! the same directory.
//!
//! # Memory
//!
//! 8 bytes for each row under the store paths, and 40 MiB at the most for everything else: 120 MiB for ten
//! million files.

mod files;
mod hashes;
mod report;
mod rows;

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use tnv_common::daemon::{Given, Job};
use tnv_common::db::Database;
use tnv_common::error::{Context, Result};
use tnv_common::fail;
use tnv_common::net::stop::Stop;
use tnv_common::proto::IdKey;

use crate::db::{Db, SCHEMA};
use crate::globals::{MemberName, Settings, host_name};
use crate::path;
use crate::volume::heartbeat::Watch;
use crate::volume::identity;
use crate::volume::journal;
use hashes::Hashes;
use report::{Counts, escaped};

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

/// Before a row's file is looked at again: a replicated file system may show a change of another host a
/// moment late.
const PAUSE: Duration = Duration::from_millis(500);

/// Pauses are made so many times: where a whole disk is missing they would take days.
const PAUSES_MAX: u32 = 120;

/// In the place of an address that does not matter.
const ANY_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

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
    fsck.report_counts()
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

struct Fsck<'a> {
    pub(super) db: Db,
    pub(super) group: &'a str,
    /// Plain texts.
    pub(super) volumes: Vec<String>,
    pub(super) member: MemberName,
    /// Of the journals that may have no holder.
    pub(super) watch: Watch,
    /// How long that was waited for.
    pub(super) waited: Duration,
    /// The journals without a holder that were reported.
    pub(super) left: BTreeSet<String>,
    pub(super) repair: bool,
    pub(super) min_age_secs: u64,
    /// Of the paths of all rows under the store paths.
    pub(super) known: Hashes,
    pub(super) pauses: u32,
    pub(super) counts: Counts,
    pub(super) out: &'a mut dyn Write,
    pub(super) stop: &'a Stop,
}

impl Fsck<'_> {
    pub(super) fn pause(&mut self) {
        if self.pauses < PAUSES_MAX {
            self.pauses += 1;
            self.stop.wait(PAUSE);
        }
    }

    pub(super) fn go_on(&self) -> Result<()> {
        match self.stop.is_set() {
            true => fail!(Unavailable, "told to stop before all was compared"),
            false => Ok(()),
        }
    }

    pub(super) fn report(&mut self, fields: &[&str]) -> Result<()> {
        let line = fields.iter().map(escaped).collect::<Vec<_>>().join("\t");
        writeln!(self.out, "{line}").context(|| "write to standard output")
    }

    /// The end; says whether all agrees.
    fn report_counts(&mut self) -> Result<bool> {
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
            self.report(&["count", name, &count.to_string()])?;
        }
        self.out.flush().context(|| "write to standard output")?;
        Ok(missing + size + checksum + unreadable + path + orphan + failed == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::files::tail;
    use super::hashes::PIECE_HASHES;
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
