//! Uploads and deletes of which it is not certain whether their row is there: what a kill left in
//! the journal, what a commit without an answer left open, and files that could not be removed. All
//! are decided by the one rule of the journal, and asked about until the answer is certain.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tnv_common::error::Result;
use tnv_common::net::stop::Stop;

use crate::volume::journal::{JournalEntry, PendingOp};
use crate::volume::placement::Volumes;

/// The pause between two rounds, and before a file that could not be removed is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// That pause doubles with each attempt up to here: a disk that is mounted again is not left with its
/// remains for long, and one that stays read-only costs next to nothing.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Files that cannot be removed are said in the log as often as this, while there are any.
const STUCK_INTERVAL: Duration = Duration::from_secs(600);

/// Most open cases. Each needs an upload or a delete that a database or a disk let down, and while the
/// database is away no others get that far. Beyond it they wait in the journal for the next start.
const OPEN_MAX: usize = 100_000;

/// Whether nothing refers to the file of an entry and, for certain, nothing will.
pub type IsAbsent = Box<dyn Fn(&JournalEntry) -> Result<bool> + Send + Sync>;

/// All files whose fate is open.
pub struct Recovery {
    is_absent: IsAbsent,
    volumes: Arc<Volumes>,
    cases: Mutex<Vec<Case>>,
}

/// One of them.
struct Case {
    open: PendingOp,
    /// Not tried before.
    due: Instant,
    /// The pause after the next attempt that fails.
    pause: Duration,
}

impl Recovery {
    /// None to begin with.
    pub fn new(is_absent: IsAbsent, volumes: Arc<Volumes>) -> Recovery {
        Recovery { is_absent, volumes, cases: Mutex::default() }
    }

    /// One more.
    pub fn add(&self, open: PendingOp) {
        self.keep(Case { open, due: Instant::now(), pause: PAUSE });
    }

    fn keep(&self, case: Case) {
        let mut cases = self.cases();
        if cases.len() < OPEN_MAX {
            cases.push(case);
        } else {
            log::error!("{} is left to the next start: {OPEN_MAX} others are open", case.open.entry.path);
        }
    }

    /// Removes a file that has no row, now or as soon as it can be.
    pub fn discard(&self, open: PendingOp) {
        let path = &open.entry.path;
        match self.volumes.answers(path).and_then(|()| self.volumes.remove(path)) {
            Ok(()) => open.release(),
            Err(error) => self.keep(put_off(Case { open, due: Instant::now(), pause: PAUSE }, &error)),
        }
    }

    /// The thread: asks again and again until everything is decided.
    pub fn run(&self, stop: &Stop) {
        let mut told = false;
        let mut said_stuck: Option<Instant> = None;
        while !stop.wait(PAUSE) {
            let outcome = self.round(None);
            if said_stuck.is_none_or(|said| said.elapsed() >= STUCK_INTERVAL)
                && let Some((count, path)) = self.stuck()
            {
                said_stuck = Some(Instant::now());
                log::error!(
                    "{count} files without a row could not be removed and take up space, one is {path}; is the disk \
                     read-only or not mounted, or does the directory belong to another user? --check says so; each is \
                     tried again at least every {PAUSE_MAX:?}"
                );
            }
            if let (Err(error), false) = (&outcome, told) {
                log::warn!("{} uploads or deletes are open: {error}; asking on", self.cases().len());
            }
            told = outcome.is_err();
        }
    }

    /// Decides what is due and can be decided, until `deadline` where there is one. The database's first
    /// failure ends the round, since the others would share it; a disk's puts off its own case only.
    pub fn round(&self, deadline: Option<Instant>) -> Result<()> {
        let now = Instant::now();
        let all = std::mem::take(&mut *self.cases());
        let (mut due, mut later): (Vec<_>, Vec<_>) = all.into_iter().partition(|case| case.due <= now);
        let mut outcome = Ok(());
        while let Some(case) = due.pop() {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                later.push(case);
                break;
            }
            match self.decide(&case.open.entry) {
                Ok(Ok(())) => case.open.release(),
                Ok(Err(error)) => later.push(put_off(case, &error)),
                Err(error) => {
                    later.push(case);
                    outcome = Err(error);
                    break;
                }
            }
        }
        // The one that the database failed on comes last the next time: another may fare better.
        later.append(&mut due);
        let mut cases = self.cases();
        later.append(&mut cases);
        *cases = later;
        outcome
    }

    /// The rule: where the row is, the file stays; where the row certainly is not, the file goes. The
    /// outer failure is the database's, the inner one the disk's.
    fn decide(&self, entry: &JournalEntry) -> Result<io::Result<()>> {
        let JournalEntry { name: fileid, path, .. } = entry;
        // A disk that hangs would hold up all others.
        if let Err(error) = self.volumes.answers(path) {
            return Ok(Err(error));
        }
        if !(self.is_absent)(entry)? {
            log::info!("kept {path}, which has its row, fileid: {fileid}");
            return Ok(Ok(()));
        }
        let removed = self.volumes.remove(path);
        if removed.is_ok() {
            log::info!("removed {path}, which has no row, fileid: {fileid}");
        }
        Ok(removed)
    }

    /// How many files could not be removed in two attempts or more, and one of them.
    fn stuck(&self) -> Option<(usize, String)> {
        let cases = self.cases();
        let mut stuck = cases.iter().filter(|case| case.pause > 2 * PAUSE);
        let path = stuck.next()?.open.entry.path.clone();
        Some((1 + stuck.count(), path))
    }

    fn cases(&self) -> MutexGuard<'_, Vec<Case>> {
        self.cases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A case whose file could not be removed now. The first time is logged as an error.
fn put_off(mut case: Case, error: &io::Error) -> Case {
    let level = if case.pause == PAUSE { log::Level::Error } else { log::Level::Debug };
    log::log!(level, "remove {}: {error}; trying again", case.open.entry.path);
    case.due = Instant::now() + case.pause;
    case.pause = (case.pause * 2).min(PAUSE_MAX);
    case
}
