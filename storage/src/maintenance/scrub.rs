//! The scrub: a thread that reads what this storage has, at a bounded rate, again and again, and holds it
//! against its rows. A file whose content has changed is taken out of service *here*: readers are told
//! that it is not available, and ask another member, whose copy may be sound. It is back as soon as
//! the copy here is sound again, because a replicated file system healed it or somebody restored it.
//!
//! Nothing is condemned on one look: the file is read once more, from the disk as far as the system can
//! be brought to that, and then the row must still be there, since it may have been deleted meanwhile.
//! Only rows of this group are looked at (and rows of none whose file is here), and contents only where
//! the row has a checksum: files that existing storages stored are held against their size alone.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tnv_common::error::{Context, Result};
use tnv_common::net::stop::Stop;

use crate::db::{Db, Entry, TABLES};
use crate::file::verify::{self, Defect};
use crate::globals::Settings;
use crate::volume::placement::Volumes;
use crate::volume::quarantine::{At, Quarantine};

/// What opening a file counts as, beside its bytes: a disk seeks for it, and a database is asked.
const FILE_BYTES: u64 = 64 << 10;

/// How often damaged files are looked at for a change, and what is known is saved.
const CARE_INTERVAL: Duration = Duration::from_secs(5);

/// And how often it is saved how far the scrub has come.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);

/// The rate at which damaged files are read again where the scrub is off.
const CARE_BYTES_A_SECOND: u64 = 10 << 20;

/// The pause before a file is read for the second time: a replicated file system may be a moment behind.
const DOUBT_PAUSE: Duration = Duration::from_secs(1);

/// The pause after the database failed.
const FAILED_PAUSE: Duration = Duration::from_secs(10);

/// What shows that a file was changed.
type Stamp = (u64, u64, i64, i64, i64, i64);

/// Starts the thread, which goes on at a row.
pub fn start(
    settings: &Settings,
    db: Db,
    volumes: Arc<Volumes>,
    damaged: Arc<Quarantine>,
    stop: &Stop,
) -> Result<()> {
    let reached = damaged.reached();
    let scrub = Scrub {
        db,
        volumes,
        damaged,
        group: settings.group.as_str().to_owned(),
        bytes_a_second: settings.scrub_bytes_a_second,
        interval: settings.scrub_interval,
        stop: stop.clone(),
        reached,
        stamps: Vec::new(),
        cared_at: None,
        saved_at: Instant::now(),
        is_failure_logged: false,
        round: Round::default(),
    };
    thread::Builder::new().name("scrub".into()).spawn(move || scrub.run()).context(|| "start the scrub")?;
    Ok(())
}

struct Scrub {
    db: Db,
    volumes: Arc<Volumes>,
    damaged: Arc<Quarantine>,
    group: String,
    /// 0: nothing is read but what is damaged.
    bytes_a_second: u64,
    interval: Duration,
    stop: Stop,
    reached: At,
    /// What the damaged files looked like when they were last read.
    stamps: Vec<(String, Option<Stamp>)>,
    cared_at: Option<Instant>,
    saved_at: Instant,
    /// The log says already that what is known cannot be kept.
    is_failure_logged: bool,
    round: Round,
}

/// What a round has met.
#[derive(Default)]
struct Round {
    files: u64,
    bytes: u64,
    unchecked: u64,
    missing: u64,
}

impl Scrub {
    fn run(mut self) {
        // The end of the round that was under way comes first.
        while !self.stop.is_set() {
            let start = Instant::now();
            if self.bytes_a_second > 0 {
                self.walk();
            }
            loop {
                self.care();
                let rest = self.interval.saturating_sub(start.elapsed());
                let off = self.bytes_a_second == 0;
                if self.stop.wait(if off { CARE_INTERVAL } else { rest.min(CARE_INTERVAL) }) {
                    break;
                }
                if !off && start.elapsed() >= self.interval {
                    break;
                }
            }
        }
        if self.bytes_a_second > 0 {
            self.save();
        }
    }

    /// All rows, from the one that was reached on.
    fn walk(&mut self) {
        while self.reached.table < TABLES && !self.stop.is_set() {
            let At { table, id } = self.reached.clone();
            match self.db.page(table, (!id.is_empty()).then_some(&id)) {
                Ok(page) if page.is_empty() => self.reached = At { table: table + 1, id: String::new() },
                Ok(page) => {
                    for entry in page {
                        if self.stop.is_set() {
                            return;
                        }
                        self.look(table, &entry);
                        self.reached.id = entry.id;
                        self.care();
                    }
                }
                Err(error) => {
                    log::info!("scrub: {error}; going on in a while");
                    self.stop.wait(FAILED_PAUSE);
                    self.care();
                }
            }
        }
        if self.stop.is_set() {
            return;
        }
        let Round { files, bytes, unchecked, missing } = std::mem::take(&mut self.round);
        self.reached = At::default();
        // Once a round all of them are read again, changed or not.
        self.stamps.clear();
        log::info!(
            "scrub: read {files} files of {bytes} bytes, {unchecked} more have no checksum, {missing} are missing, {} \
             are damaged and out of service here",
            self.damaged.all().len()
        );
    }

    /// One row and its file.
    fn look(&mut self, table: usize, entry: &Entry) {
        let path = &entry.file.path;
        let own = match &entry.group {
            Some(group) => *group == self.group,
            None => verify::look(&entry.file) != Err(Defect::Missing),
        };
        if !own || !entry.live || self.damaged.has(path) || self.volumes.answers(path).is_err() {
            return;
        }
        let first = self.read(entry);
        match (&first, entry.file.crc32) {
            (Ok(()), Some(_)) => {
                self.round.files += 1;
                self.round.bytes += entry.file.size;
            }
            (Ok(()), None) => self.round.unchecked += 1,
            (Err(_), _) => {
                self.stop.wait(DOUBT_PAUSE);
                if let (Err(fault), false) = (self.read(entry), self.stop.is_set()) {
                    self.condemn(table, entry, &fault);
                }
            }
        }
    }

    /// A file that was wrong twice.
    fn condemn(&mut self, table: usize, entry: &Entry, fault: &Defect) {
        match self.db.look(table, &entry.id) {
            Ok(Some(now)) if now == *entry => {}
            Ok(_) => return,
            Err(error) => {
                log::info!("scrub: {error}; {} is left to the next round", entry.file.path);
                return;
            }
        }
        let defect = fault.describe(&entry.file);
        let (path, fileid, userid) = (&entry.file.path, self.db.name(&entry.id), self.db.name(&entry.userid));
        match fault {
            // It cannot be served anyway, and where its disk is away it is not one file's matter.
            Defect::Path | Defect::Missing | Defect::NotAFile => {
                self.round.missing += 1;
                if self.volumes.is_mounted(path) {
                    log::error!("LOST here: {path}: {defect}, fileid: {fileid}, userid: {userid}");
                }
            }
            Defect::Size(_) | Defect::Checksum(_) | Defect::Unreadable(_) => {
                let kept = self.damaged.add(path, At { table, id: entry.id.clone() });
                // What could not be read may be read again though the file has not changed.
                if !matches!(fault, Defect::Unreadable(_)) {
                    self.stamps.push((path.clone(), stamp(path)));
                }
                // Kept before it is logged.
                self.save();
                let what = if kept { "out of service here" } else { "still served, too many are damaged" };
                log::error!("DAMAGED, {what}: {path}: {defect}, fileid: {fileid}, userid: {userid}");
            }
        }
    }

    /// Every few seconds: damaged files that have changed are read again.
    fn care(&mut self) {
        if self.cared_at.is_some_and(|at| at.elapsed() < CARE_INTERVAL) {
            return;
        }
        self.cared_at = Some(Instant::now());
        let mut changed = false;
        let known = std::mem::take(&mut self.stamps);
        for (path, at) in self.damaged.all() {
            if self.stop.is_set() || self.volumes.answers(&path).is_err() {
                continue;
            }
            let stamp = stamp(&path);
            let before = known.iter().find(|(known, _)| *known == path).map(|(_, stamp)| stamp);
            if before == Some(&stamp) {
                self.stamps.push((path, stamp));
                continue;
            }
            match self.ask_again(&path, &at) {
                Ok(None) => changed = true,
                Ok(Some(Defect::Unreadable(_))) => {}
                Ok(Some(_)) => self.stamps.push((path, stamp)),
                // It is asked about the next time, too.
                Err(error) => log::info!("scrub: {error}"),
            }
        }
        let is_due = self.bytes_a_second > 0 && self.saved_at.elapsed() >= SAVE_INTERVAL;
        // Lists also change when a disk comes.
        if changed || is_due || self.damaged.is_changed() {
            self.save();
        }
    }

    /// A damaged file: what is wrong with it still.
    fn ask_again(&mut self, path: &str, at: &At) -> Result<Option<Defect>> {
        match self.db.look(at.table, &at.id)? {
            Some(entry) if entry.file.path == path => {
                // A reader may have met what cannot be read, which the size of a row without a checksum does not show.
                if let Err(fault) = self.read_whole(&entry) {
                    return Ok(Some(fault));
                }
                if self.stop.is_set() {
                    return Ok(Some(Defect::Unreadable("this storage stops".to_owned())));
                }
                log::warn!("sound again and back in service: {path}, fileid: {}", self.db.name(&at.id));
            }
            _ => log::info!("{path}, which was damaged, has been deleted, fileid: {}", self.db.name(&at.id)),
        }
        self.damaged.remove(path);
        Ok(None)
    }

    /// From the disk, at the rate.
    fn read(&self, entry: &Entry) -> std::result::Result<(), Defect> {
        let pace = self.pace();
        pace(FILE_BYTES);
        verify::read(&entry.file, true, pace)
    }

    fn read_whole(&self, entry: &Entry) -> std::result::Result<(), Defect> {
        let pace = self.pace();
        pace(FILE_BYTES);
        verify::read_whole(&entry.file, true, pace)
    }

    /// Waits for as long as so many bytes take; false where this storage stops.
    fn pace(&self) -> impl Fn(u64) -> bool {
        let rate = if self.bytes_a_second > 0 { self.bytes_a_second } else { CARE_BYTES_A_SECOND };
        move |bytes| !self.stop.wait(Duration::from_secs_f64(bytes as f64 / rate as f64))
    }

    fn save(&mut self) {
        self.saved_at = Instant::now();
        // At the end of a round there is no such table.
        let reached = if self.reached.table < TABLES { self.reached.clone() } else { At::default() };
        self.damaged.reach(reached);
        let saved = self.damaged.save(&|store_path| self.volumes.is_there(store_path));
        if let Err(error) = &saved {
            let level = match self.is_failure_logged {
                true => log::Level::Debug,
                // How far it has come is no loss.
                false if self.damaged.all().is_empty() => log::Level::Info,
                false => log::Level::Error,
            };
            log::log!(level, "keep what is known of damaged files: {error}; trying again");
        }
        self.is_failure_logged = saved.is_err();
    }
}

fn stamp(path: &str) -> Option<Stamp> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    ))
}
