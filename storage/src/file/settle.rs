//! Uploads and deletes of which it is not certain whether their row is there: what a kill left in
//! the journal, what a commit without an answer left open, and files that could not be removed. All
//! are decided by the one rule of the journal, and asked about until the answer is certain.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tnv_common::error::Result;
use tnv_common::stop::Stop;

use super::disk;
use super::journal::{Open, Record, Slot};
use crate::db::Db;

/// The pause between two rounds.
const PAUSE: Duration = Duration::from_secs(1);

/// Most open cases. Each needs an upload or a delete that a database let down, and while the database
/// is away no others get that far. Beyond it they wait in the journal for the next start.
const OPEN_MAX: usize = 100_000;

/// All files whose fate is open.
pub struct Settler {
    db: Db,
    open: Mutex<Vec<Open>>,
}

impl Settler {
    /// None to begin with.
    pub fn new(db: Db) -> Settler {
        Settler { db, open: Mutex::default() }
    }

    /// One more.
    pub fn add(&self, open: Open) {
        let mut all = self.open();
        if all.len() < OPEN_MAX {
            all.push(open);
        } else {
            log::error!("{} is left to the next start: {OPEN_MAX} others are open", open.record.path);
        }
    }

    /// Removes a file that has no row, now or as soon as it can be.
    pub fn discard(&self, open: Open) {
        match disk::remove(&open.record.path) {
            Ok(()) => open.slot.into_iter().for_each(Slot::release),
            Err(error) => {
                log::error!("remove {}: {error}; trying again", open.record.path);
                self.add(open);
            }
        }
    }

    /// The thread: asks again and again until everything is decided.
    pub fn run(&self, stop: &Stop) {
        let mut told = false;
        while !stop.wait(PAUSE) {
            let outcome = self.round(None);
            if let (Err(error), false) = (&outcome, told) {
                log::warn!("{} uploads or deletes are open: {error}; asking on", self.open().len());
            }
            told = outcome.is_err();
        }
    }

    /// Decides what can be decided, until `deadline` where there is one; the first failure ends the
    /// round, since the others would share it.
    pub fn round(&self, deadline: Option<Instant>) -> Result<()> {
        let mut cases = std::mem::take(&mut *self.open());
        let mut outcome = Ok(());
        while let Some(open) = cases.pop() {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                cases.push(open);
                break;
            }
            if let Err(error) = self.decide(&open.record) {
                cases.push(open);
                outcome = Err(error);
                break;
            }
            open.slot.into_iter().for_each(Slot::release);
        }
        self.open().append(&mut cases);
        outcome
    }

    /// The rule: where the row is, the file stays; where the row certainly is not, the file goes.
    fn decide(&self, record: &Record) -> Result<()> {
        let Record { userid, fileid, path } = record;
        if self.db.is_absent(userid, fileid, path)? {
            disk::remove(path).map_err(|error| disk::error(format_args!("remove {path}"), &error))?;
            log::info!("removed {path}, which has no row, fileid: {fileid}");
        } else {
            log::info!("kept {path}, which has its row, fileid: {fileid}");
        }
        Ok(())
    }

    fn open(&self) -> MutexGuard<'_, Vec<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
