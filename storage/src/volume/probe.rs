//! The thread of a volume. It asks the disk every second whether it still is the disk that was opened, and how much space
//! it has. It opens what is the right disk (see `identity`), also where that comes late, writes the heartbeat of the
//! journal, takes over what storages left that have ended (see `journal`), and has a bad volume prove itself.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{StatVfsMountFlags, statvfs};
use tnv_common::error::{Context, Error, ErrorKind};
use tnv_common::net::stop::Stop;

use super::disk::make_durably;
use super::health::{PROOFS, Proof, prove};
use super::identity::{self, Finding, Marker};
use super::journal::{self, Journal, PendingOp};
use super::state::{Volume, VolumeError};

/// How often a disk is asked; the bytes that go by meanwhile are counted here.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// A journal that is missing on its disk so often in a row was removed: a network file system may miss a file
/// once.
pub(super) const MISSED_MAX: u32 = 3;

/// How often it is looked for journals and lists of storages that have ended.
const ADOPT_INTERVAL: Duration = Duration::from_secs(5);

/// The same each time that the disk is asked: the next second is not far.
const SEARCH_TIMEOUT: Duration = Duration::from_millis(500);

/// Where the marker of the volume is that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lies {
    /// Where it lay.
    There,
    /// On another mount.
    Elsewhere,
}

pub(super) type Asked = std::result::Result<(u64, u64), VolumeError>;

/// Something that may come.
fn not_yet(error: Error) -> VolumeError {
    VolumeError { may_come: true, error }
}

impl Volume {
    pub(super) fn named(&self, fault: VolumeError) -> VolumeError {
        VolumeError { error: fault.error.context(format_args!("store path '{}'", self.path)), ..fault }
    }

    /// The thread.
    pub(super) fn watch(&self, stop: &Stop, add: &dyn Fn(PendingOp)) {
        while !stop.wait(ASK_INTERVAL) {
            let mut left = Vec::new();
            let asked =
                self.ask(&mut left, Instant::now() + SEARCH_TIMEOUT).map_err(|fault| self.named(fault));
            let works = asked.is_ok();
            self.note(asked);
            left.into_iter().for_each(add);
            if works && self.state().health.is_due(Instant::now()) {
                self.prove();
            }
        }
    }

    /// Lets a bad volume make a proof, and logs what came of it.
    pub(super) fn prove(&self) {
        let error_epoch = self.state().health.error_epoch();
        let proven = prove(&self.proof());
        let now = self.state().health.tried(Instant::now(), proven.is_ok(), error_epoch);
        match (now, proven) {
            (Some(Proof::Regained(took)), _) => log::warn!(
                "store path '{}' has proven itself {PROOFS} times and is trusted again after {} s; it takes \
                 new files",
                self.path,
                took.as_secs()
            ),
            (Some(Proof::Next(pause)), Err(error)) => log::warn!(
                "store path '{}' is still bad: {error}; trying again in {} s",
                self.path,
                pause.as_secs()
            ),
            _ => {}
        }
    }

    /// The file that proofs are made with, named after the member as its journal is.
    fn proof(&self) -> PathBuf {
        self.options.member.file_in(&self.path, ".proof-").into()
    }

    /// Asks the disk for the free bytes and for all; opens the journal where it is not open yet. Not
    /// under the lock: a disk that hangs must not stop those who only count.
    pub(super) fn ask(&self, left: &mut Vec<PendingOp>, deadline: Instant) -> Asked {
        match self.journal() {
            Some(journal) => {
                if let Some(why) = self.lost(&journal)? {
                    log::warn!(
                        "store path '{}': {why}: uploads that are under way there fail, and the journal is opened anew",
                        self.path
                    );
                    // First the old one ends, so that there are never two that acknowledge.
                    if !journal.retire() {
                        let what =
                            "its journal is still being written to, through the mount that was there before";
                        return Err(Error::new(ErrorKind::Unavailable, what).into());
                    }
                    let mut state = self.state();
                    state.journal = None;
                    state.missed = 0;
                    state.reopened += 1;
                    drop(state);
                    self.open(left, deadline)?;
                }
            }
            None => self.open(left, deadline)?,
        }
        let found = statvfs(self.path.as_str()).map_err(io::Error::from).context(|| "find its free space")?;
        if found.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Err(Error::new(ErrorKind::Unavailable, "it is mounted read-only").into());
        }
        if let Some(journal) = self.journal() {
            journal.beat().context(|| "write the heartbeat")?;
            self.adopt(&journal, left);
        }
        Ok((found.f_bavail.saturating_mul(found.f_frsize), found.f_blocks.saturating_mul(found.f_frsize)))
    }

    /// Opens what is shown to be the right disk: first the list of damaged files, so that none of them is
    /// served.
    pub(super) fn open(
        &self,
        left: &mut Vec<PendingOp>,
        deadline: Instant,
    ) -> std::result::Result<(), VolumeError> {
        self.identify(deadline)?;
        self.options
            .quarantine
            .open(&self.path)
            .context(|| "read the list of damaged files; move it away to go on without it")?;
        let opened = Journal::open(&self.path, &self.options.member, &mut self.lock(&self.watch));
        let (journal, mut found) = opened.map_err(|error| match error.kind() {
            // Another host's storage with this ID may hold it, or another storage takes it over.
            ErrorKind::Timeout => not_yet(error),
            _ => error.into(),
        })?;
        left.append(&mut found);
        self.state().journal = Some(journal);
        // What a kill left of a proof.
        let _ = fs::remove_file(self.proof());
        Ok(())
    }

    /// Takes over what storages left that have ended, every few seconds.
    fn adopt(&self, journal: &Arc<Journal>, left: &mut Vec<PendingOp>) {
        if self.state().adopted_at.is_some_and(|at| at.elapsed() < ADOPT_INTERVAL) {
            return;
        }
        left.append(&mut journal.adopt(&self.path, &self.options.member, &mut self.lock(&self.watch)));
        match journal::holders(&self.path) {
            Ok(holders) => self.state().holders = holders,
            Err(error) => log::debug!("look for journals in '{}': {error}", self.path),
        }
        if let Err(error) = self.options.quarantine.adopt(&self.path) {
            log::debug!("take over lists of damaged files in '{}': {error}", self.path);
        }
        self.state().adopted_at = Some(Instant::now());
    }

    /// Why the journal has to be opened anew, where it has. Fails where it is not in its place and may come back.
    pub(super) fn lost(&self, journal: &Journal) -> std::result::Result<Option<&'static str>, VolumeError> {
        let checked = journal.check();
        let is_cut_off = journal.is_cut_off();
        if checked.is_ok() && !is_cut_off {
            let is_taken = journal.is_taken_over();
            self.state().missed = 0;
            return Ok(is_taken.then_some("its journal was taken over by another storage"));
        }
        let place = self.place();
        let is_missed = place == Some(Lies::There);
        let missed = {
            let mut state = self.state();
            state.missed = if is_missed { state.missed + 1 } else { 0 };
            state.missed
        };
        match (place, checked) {
            (Some(Lies::Elsewhere), _) => Ok(Some("its volume was mounted anew")),
            (Some(Lies::There), _) if missed >= MISSED_MAX => Ok(Some(match is_cut_off {
                true => "its journal cannot be reached any more as it was opened",
                false => "its journal was removed",
            })),
            (_, Err(error)) => Err(Error::from(error).into()),
            (_, Ok(())) => {
                let what =
                    "its journal cannot be reached as it was opened: its disk was perhaps mounted anew";
                Err(Error::new(ErrorKind::Unavailable, what).into())
            }
        }
    }

    /// Where the marker lies that was found. None where it is not there, or is another volume's.
    fn place(&self) -> Option<Lies> {
        let (known, before) = self.state().marker.clone()?;
        let now = identity::stamp(&self.path).ok()?;
        if now == before {
            return Some(Lies::There);
        }
        // The journal is open, which keeps the number of its device from being given to another mount.
        let is_other_mount = now.0 != before.0;
        let is_same_volume = || matches!(identity::read(&self.path), Ok(Some(found)) if found.id == known.id);
        (is_other_mount && is_same_volume()).then_some(Lies::Elsewhere)
    }

    /// Finds whether this is the right disk (see `volume`), and marks it where it is and has no marker.
    fn identify(&self, deadline: Instant) -> std::result::Result<(), VolumeError> {
        let path = self.path.as_str();
        let is_there = match fs::metadata(path) {
            Ok(found) if !found.is_dir() => {
                return Err(Error::from(io::Error::from(io::ErrorKind::NotADirectory)).into());
            }
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(Error::from(error).into()),
        };
        let found = if is_there { identity::read(path).context(|| "read its marker")? } else { None };
        let known = self.state().marker.as_ref().map(|(marker, _)| marker.id.clone());
        let group = &self.options.group;
        let fault = |what: String| Err(not_yet(Error::new(ErrorKind::Unavailable, what)));
        match (&known, found) {
            (Some(known), Some(found)) if found.id != *known => fault(format!(
                "it is volume {} now and was volume {known} before: another disk is mounted; mount the right one, or \
                 restart this storage to use this one",
                found.id
            )),
            (Some(_), None) => {
                fault(format!("it has no {} any more: its disk is not mounted; mount it", identity::NAME))
            }
            (Some(_), Some(found)) => self.keep(found),
            (None, Some(found)) if found.store_path == path && found.group == *group => self.keep(found),
            (None, found) => {
                // A database that is away says nothing of the disk.
                let finding = self.lock(&self.evidence).look(path, deadline);
                self.judge(found, finding.map_err(not_yet)?)
            }
        }
    }

    /// A disk that does not say that it is this store path: its rows decide.
    fn judge(&self, found: Option<Marker>, finding: Finding) -> std::result::Result<(), VolumeError> {
        let path = self.path.as_str();
        let says = match &found {
            Some(Marker { id, store_path, group, .. }) => {
                format!("it is volume {id}, which was made for store path '{store_path}' of group {group}")
            }
            None => format!("it has no {}", identity::NAME),
        };
        let fault = |what: String| Err(not_yet(Error::new(ErrorKind::Unavailable, what)));
        match (finding, found) {
            (Finding::Unfinished, _) => {
                fault(format!("{says}; looking among the rows whether its files are here"))
            }
            // How it looks for a new group, too: rows of existing storages do not say whose they are.
            (Finding::Wrong { rows, own: 0 }, _) => fault(format!(
                "{says}, and of {rows} rows that name files under it none has its file here. Existing storages \
                 wrote these rows, and they do not say of which group they are: if group {} is new, they are other \
                 groups', and this disk is right; then run tnv-storage --init --store-path {path}. Otherwise its \
                 disk is not mounted, or another one is: mount it. Nothing is stored there until then",
                self.options.group
            )),
            (Finding::Wrong { rows, .. }, _) => fault(format!(
                "{says}, and of {rows} rows that name files under it none has its file here: its disk is not \
                 mounted, or another one is; nothing is stored there. Mount the right disk, or, if this one is to \
                 begin empty, run tnv-storage --init --store-path {path}"
            )),
            (Finding::NoRows | Finding::Right, Some(found)) => {
                log::warn!("store path '{path}': {says}; no row contradicts it, so it is used");
                self.keep(found)
            }
            (Finding::NoRows | Finding::Right, None) => {
                make_durably(Path::new(path)).context(|| "make the directory")?;
                let marker = identity::create(path, &Marker::new(path, &self.options.group));
                let marker = marker.context(|| format!("make {path}/{}", identity::NAME))?;
                log::info!("store path '{path}' is volume {} from now on", marker.id);
                self.keep(marker)
            }
        }
    }

    fn keep(&self, marker: Marker) -> std::result::Result<(), VolumeError> {
        let stamp = identity::stamp(&self.path).context(|| "look at its marker")?;
        self.state().marker = Some((marker, stamp));
        Ok(())
    }

    /// Keeps the answer, and logs what has changed.
    pub(super) fn note(&self, asked: Asked) {
        let mut state = self.state();
        state.asked_at = Instant::now();
        let silent = std::mem::take(&mut state.silent);
        let fault = match asked {
            Ok((free, total)) => {
                (state.free, state.total) = (free, total);
                None
            }
            Err(fault) => Some(fault.error.to_string()),
        };
        let before = std::mem::replace(&mut state.fault, fault.clone());
        drop(state);
        match fault {
            Some(fault) if before.as_ref() != Some(&fault) => {
                log::error!("{fault}; no new files there until it works again")
            }
            None if silent || before.is_some() => log::info!("store path '{}' works again", self.path),
            _ => {}
        }
    }
}
