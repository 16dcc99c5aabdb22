//! The store paths: which of them work and have room, and in what order to try them for a new file.
//!
//! Each has a thread that asks its disk every second: whether it still is the disk that was opened, and how
//! much space it has. It opens what is the right disk (see `volume`), also where that comes late, writes the
//! heartbeat of its journal, and takes over what storages left that have ended (see `journal`). Nobody who
//! has work to do asks it himself: a network file system whose cable is cut answers after a minute, and all
//! workers would wait for it. A store path without a fresh and good answer is passed over; what it holds is
//! served as far as the disk allows. Only where there is no other with an answer is it waited for, and for
//! some seconds.
//!
//! One that could not create or write a file is tried last for a while, and one that could not read one until it has
//! proven itself (see `health`). One that failed with an I/O error of a write, or at a sync, is bad: it is passed over
//! until then.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{StatVfsMountFlags, statvfs};
use tnv_common::config::kinds::Space;
use tnv_common::error::{Context, Error, ErrorKind, Result};
use tnv_common::fail;
use tnv_common::net::stop::Stop;
use tnv_common::proto::IdKey;
use tnv_common::proto::tnv::shares::Share;

use crate::globals::MemberName;
use crate::path;
use crate::volume::disk::{DiskError, DiskHealth, make_durably};
use crate::volume::health::{Health, PROOFS, Proof, prove};
use crate::volume::heartbeat::Watch;
use crate::volume::identity::{self, Evidence, Finding, Marker};
use crate::volume::journal::{self, Journal, PendingOp};
use crate::volume::quarantine::Quarantine;

/// How often a disk is asked; the bytes that go by meanwhile are counted here.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// A disk without an answer for so long hangs: disks under load take seconds, too.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Where no disk answers, one that hangs is waited for until it has been silent for so long: there is
/// nothing else to turn to, and a mount of GlusterFS that has lost a member is silent for up to
/// twice the ping time-out (docs/glusterfs.md).
const LAST_SILENCE_MAX: Duration = Duration::from_secs(10);

/// How often whoever waits looks, and how long he waits in any case: rather than the disks it may be this
/// process that was stopped for a while, and the threads are about to ask.
const GRACE: Duration = Duration::from_millis(100);

/// A store path that failed is tried last for so long.
const FAILED_TIMEOUT: Duration = Duration::from_secs(10);

/// A journal that is missing on its disk so often in a row was removed: a network file system may miss a file
/// once.
const MISSED_MAX: u32 = 3;

/// How often it is looked for journals and lists of storages that have ended.
const ADOPT_INTERVAL: Duration = Duration::from_secs(5);

/// So long the start may read rows to find whether the store paths without a marker are the right disks; the
/// rest is read beside the service.
const START_SEARCH_TIMEOUT: Duration = Duration::from_millis(100);

/// The same each time that the disk is asked: the next second is not far.
const SEARCH_TIMEOUT: Duration = Duration::from_millis(500);

/// Takes what a predecessor left in a store path.
pub type Add = Arc<dyn Fn(PendingOp) + Send + Sync>;

/// What opening a store path takes.
#[derive(Clone)]
pub struct VolumeOptions {
    /// What stays free.
    pub reserve: Space,
    /// This storage.
    pub member: MemberName,
    /// Its group's name.
    pub group: String,
    /// Makes what shows whether a disk without a marker is the right one.
    pub evidence: Arc<dyn Fn() -> Box<dyn Evidence> + Send + Sync>,
    /// Where the lists of damaged files are kept.
    pub damaged: Arc<Quarantine>,
}

/// All store paths of this storage.
pub struct Volumes {
    volumes: Vec<Arc<Volume>>,
}

/// One of them.
pub struct Volume {
    /// As configured, which is what its numbers are asked by.
    key: IdKey,
    /// Its plain text, which is what its files' paths begin with.
    path: String,
    opening: VolumeOptions,
    state: Mutex<State>,
    /// What its thread knows; no other thread waits for it.
    evidence: Mutex<Box<dyn Evidence>>,
    watch: Mutex<Watch>,
}

struct State {
    /// None as long as it could not be opened; then there are no new files.
    journal: Option<Arc<Journal>>,
    /// The marker that was found, and which file it was. It stays: another disk is not this store path.
    marker: Option<(Marker, identity::Stamp)>,
    /// How often in a row the journal was missing on its disk, and how often it was opened anew.
    missed: u32,
    reopened: u64,
    /// When journals and lists of others were last looked for, and whose journals there were.
    adopted_at: Option<Instant>,
    holders: Vec<[u8; 16]>,
    /// What was wrong when the disk was last asked.
    fault: Option<String>,
    asked_at: Instant,
    /// Whether the log was told that it hangs.
    silent: bool,
    /// Bytes for the likes of us, and of the whole, less what was written since.
    free: u64,
    total: u64,
    /// Bytes of uploads under way that are not on the disk yet.
    reserved: u64,
    failed_at: Option<Instant>,
    trust: Health,
}

/// What a store path has for a new file.
#[derive(Debug, PartialEq, Eq)]
enum Room {
    Bytes(u64),
    /// The reserve is touched already.
    Full,
    /// It does not work.
    VolumeError,
}

/// What is wrong with a store path.
struct VolumeError {
    error: Error,
    /// Nothing has failed: the right disk is not there yet, or the journal may be another host's.
    may_come: bool,
}

impl From<Error> for VolumeError {
    fn from(error: Error) -> VolumeError {
        VolumeError { may_come: false, error }
    }
}

/// Something that may come.
fn not_yet(error: Error) -> VolumeError {
    VolumeError { may_come: true, error }
}

/// Where the marker of the volume is that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lies {
    /// Where it lay.
    There,
    /// On another mount.
    Elsewhere,
}

type Asked = std::result::Result<(u64, u64), VolumeError>;

/// Bytes that an upload under way will still need.
pub struct SpaceReservation {
    store: Arc<Volume>,
    left: u64,
    error_epoch: u64,
    reopened: u64,
}

impl Volumes {
    /// Opens each store path, and collects what a predecessor left undone. One that cannot be opened is tried
    /// again later, unless none can, or another storage has it. One whose disk is not there or is not the
    /// right one is no failure: it may be mounted later.
    pub fn open(store_paths: &[IdKey], opening: &VolumeOptions) -> Result<(Volumes, Vec<PendingOp>)> {
        let mut answers = Vec::new();
        let mut left = Vec::new();
        let deadline = Instant::now() + START_SEARCH_TIMEOUT;
        for path in store_paths {
            let store = Volume::new(path, opening);
            let asked = store.ask(&mut left, deadline).map_err(|fault| store.named(fault));
            if let Err(VolumeError { error, .. }) = &asked
                && error.kind() == ErrorKind::Busy
            {
                return Err(error.clone());
            }
            answers.push((Arc::new(store), asked));
        }
        let may_work = |(store, asked): &(Arc<Volume>, Asked)| {
            store.journal().is_some() || matches!(asked, Err(VolumeError { may_come: true, .. }))
        };
        let works = answers.iter().any(may_work);
        let mut volumes = Vec::new();
        for (store, asked) in answers {
            if let (Err(VolumeError { error, .. }), false) = (&asked, works) {
                return Err(error.clone());
            }
            store.note(asked);
            volumes.push(store);
        }
        Ok((Volumes { volumes }, left))
    }

    /// Lets go of the journals: nothing more is acknowledged, and what they name may be taken over at once.
    pub fn close(&self) {
        self.volumes.iter().filter_map(|store| store.journal()).for_each(|journal| journal.let_go());
    }

    /// Starts the threads that ask the disks. They end when `stop` is set.
    pub fn watch(&self, stop: &Stop, add: &Add) -> Result<()> {
        for store in &self.volumes {
            let (store, stop, add) = (Arc::clone(store), stop.clone(), Arc::clone(add));
            thread::Builder::new()
                .name("store".into())
                .spawn(move || store.watch(&stop, &*add))
                .context(|| "start a store path's thread")?;
        }
        Ok(())
    }

    /// The store paths with room for a file of this size, in the order in which to try them: the one
    /// with the most room first, those that have just failed last. There is at least one.
    pub fn candidates(&self, size: u64) -> Result<Vec<Arc<Volume>>> {
        self.wait_for_one_of(&self.volumes);
        let mut candidates = Vec::new();
        let mut full = false;
        for store in &self.volumes {
            match store.room() {
                Room::Bytes(room) if room >= size => {
                    candidates.push((store.state().is_last_resort(), u64::MAX - room, store))
                }
                Room::Bytes(_) | Room::Full => full = true,
                Room::VolumeError => {}
            }
        }
        if candidates.is_empty() {
            return match full {
                true => fail!(NoSpace, "no store path has room for {size} bytes"),
                // What is wrong with them is in the log.
                false => fail!(Unavailable, "no store path works"),
            };
        }
        candidates.sort_by_key(|(failed, taken, _)| (*failed, *taken));
        Ok(candidates.into_iter().map(|(_, _, store)| Arc::clone(store)).collect())
    }

    /// The journal to note a change of this file in: that of its store path, or else any, of those
    /// whose disks answer.
    pub fn journal_of(&self, path: &str) -> Option<Arc<Journal>> {
        let usable = |store: &Arc<Volume>| store.journal().filter(|_| !store.state().hangs());
        self.store_of(path).and_then(usable).or_else(|| self.volumes.iter().find_map(usable))
    }

    /// Removes a file; it may be gone already. That it is not there says nothing while its disk is not.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        match fs::remove_file(path) {
            // Of a store path that was taken out of the settings nothing more is known.
            Err(error) if error.kind() == io::ErrorKind::NotFound => match self.store_of(path) {
                Some(store) => store.check(),
                None => Ok(()),
            },
            result => result,
        }
    }

    /// Fails where the disk of this file hangs, for those who can wait for it.
    pub fn answers_soon(&self, path: &str) -> io::Result<()> {
        self.answers(path).or_else(|_| {
            if let Some(store) = self.store_of(path) {
                self.wait_for_one_of(slice::from_ref(store));
            }
            self.answers(path)
        })
    }

    /// Waits until one of these disks answers: only a moment, unless none at all does.
    fn wait_for_one_of(&self, wanted: &[Arc<Volume>]) {
        let answers = |volumes: &[Arc<Volume>]| volumes.iter().any(|store| !store.state().hangs());
        let is_lost = |store: &Arc<Volume>| store.state().silence() > LAST_SILENCE_MAX;
        let mut was_in_vain = false;
        while !answers(wanted) {
            let is_in_vain = answers(&self.volumes) || wanted.iter().all(is_lost);
            if is_in_vain && was_in_vain {
                return;
            }
            was_in_vain = is_in_vain;
            thread::sleep(GRACE);
        }
    }

    /// Fails where the disk of this file hangs.
    pub fn answers(&self, path: &str) -> io::Result<()> {
        match self.store_of(path) {
            Some(store) if store.state().hangs() => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }

    /// Notes that the disk of this file failed when it was read.
    pub fn read_failed(&self, path: &str, error: &io::Error) {
        if let Some(store) = self.store_of(path) {
            store.read_failed(error);
        }
    }

    /// Whether the disk of this file is there.
    pub fn is_mounted(&self, path: &str) -> bool {
        self.store_of(path).is_none_or(|store| store.check().is_ok())
    }

    /// What shows whether other members share the files of these store paths: those whose disks are there.
    pub fn shares(&self) -> Vec<Share> {
        self.volumes.iter().filter_map(|store| store.share()).collect()
    }

    /// Has it looked soon whose journals are there: another member's was missing.
    pub fn look_for_others(&self) {
        self.volumes.iter().for_each(|store| store.state().adopted_at = None);
    }

    /// Fails where the disk of a store path is not there.
    pub fn is_there(&self, store_path: &str) -> io::Result<()> {
        let store = self.volumes.iter().find(|store| store.path == store_path);
        store.map_or(Ok(()), |store| store.check())
    }

    fn store_of(&self, path: &str) -> Option<&Arc<Volume>> {
        let holds = |store: &&Arc<Volume>| path::is_below(&store.path, path);
        self.volumes.iter().filter(holds).max_by_key(|store| store.path.len())
    }
}

impl Volume {
    /// One that has not been opened yet.
    fn new(key: &IdKey, opening: &VolumeOptions) -> Volume {
        let state = State {
            journal: None,
            marker: None,
            missed: 0,
            reopened: 0,
            adopted_at: None,
            holders: Vec::new(),
            fault: None,
            asked_at: Instant::now(),
            silent: false,
            free: 0,
            total: 0,
            reserved: 0,
            failed_at: None,
            trust: Health::new(),
        };
        Volume {
            key: key.clone(),
            path: path::plain(key.as_str()).to_owned(),
            opening: opening.clone(),
            state: Mutex::new(state),
            evidence: Mutex::new((opening.evidence)()),
            watch: Mutex::new(Watch::new()),
        }
    }

    fn named(&self, fault: VolumeError) -> VolumeError {
        VolumeError { error: fault.error.context(format_args!("store path '{}'", self.path)), ..fault }
    }

    /// The thread.
    fn watch(&self, stop: &Stop, add: &dyn Fn(PendingOp)) {
        while !stop.wait(ASK_INTERVAL) {
            let mut left = Vec::new();
            let asked =
                self.ask(&mut left, Instant::now() + SEARCH_TIMEOUT).map_err(|fault| self.named(fault));
            let works = asked.is_ok();
            self.note(asked);
            left.into_iter().for_each(add);
            if works && self.state().trust.is_due(Instant::now()) {
                self.prove();
            }
        }
    }

    /// Lets a bad volume make a proof, and logs what came of it.
    fn prove(&self) {
        let error_epoch = self.state().trust.error_epoch();
        let proven = prove(&self.proof());
        let now = self.state().trust.tried(Instant::now(), proven.is_ok(), error_epoch);
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

    /// The file that proofs are made with, told apart among the members as their journals are.
    fn proof(&self) -> PathBuf {
        self.opening.member.file_in(&self.path, ".proof-").into()
    }

    /// Asks the disk for the free bytes and for all; opens the journal where it is not open yet. Not
    /// under the lock: a disk that hangs must not stop those who only count.
    fn ask(&self, left: &mut Vec<PendingOp>, deadline: Instant) -> Asked {
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
    fn open(&self, left: &mut Vec<PendingOp>, deadline: Instant) -> std::result::Result<(), VolumeError> {
        self.identify(deadline)?;
        self.opening
            .damaged
            .open(&self.path)
            .context(|| "read the list of damaged files; move it away to go on without it")?;
        let opened = Journal::open(&self.path, &self.opening.member, &mut self.lock(&self.watch));
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
        left.append(&mut journal.adopt(&self.path, &self.opening.member, &mut self.lock(&self.watch)));
        match journal::holders(&self.path) {
            Ok(holders) => self.state().holders = holders,
            Err(error) => log::debug!("look for journals in '{}': {error}", self.path),
        }
        if let Err(error) = self.opening.damaged.adopt(&self.path) {
            log::debug!("take over lists of damaged files in '{}': {error}", self.path);
        }
        self.state().adopted_at = Some(Instant::now());
    }

    /// Why the journal has to be opened anew, where it has. Fails where it is not in its place and may come back.
    fn lost(&self, journal: &Journal) -> std::result::Result<Option<&'static str>, VolumeError> {
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
        let group = &self.opening.group;
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
                self.opening.group
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
                let marker = identity::create(path, &Marker::new(path, &self.opening.group));
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

    fn lock<'a, T>(&self, what: &'a Mutex<T>) -> MutexGuard<'a, T> {
        what.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the answer, and tells what has changed.
    fn note(&self, asked: Asked) {
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

    fn share(&self) -> Option<Share> {
        let state = self.state();
        let (Some(journal), None, Some((marker, _))) = (&state.journal, &state.fault, &state.marker) else {
            return None;
        };
        let holder = journal.holder();
        let others = state.holders.iter().copied().filter(|other| *other != holder).collect();
        Some(Share { store_path: IdKey::new(&self.path).ok()?, volume: marker.number(), holder, others })
    }

    /// Its text, as configured.
    pub fn path(&self) -> &IdKey {
        &self.key
    }

    /// Its journal, if it could be opened.
    pub fn journal(&self) -> Option<Arc<Journal>> {
        self.state().journal.clone()
    }

    /// Whether its disk is there.
    fn check(&self) -> io::Result<()> {
        match self.journal() {
            Some(journal) => journal.check(),
            None => Err(io::Error::other(format!("store path '{}' does not work", self.path))),
        }
    }

    /// The error epoch: how often it failed in a way that may have lost what was written, or lost its journal.
    pub fn error_epoch(&self) -> u64 {
        self.state().error_epoch()
    }

    /// Notes that it does not work: others are tried first for a while, or until it has proven itself.
    pub fn failed(&self, failure: &DiskError) {
        let DiskError { what, error, lost_writes, .. } = failure;
        let mut state = self.state();
        let now = Instant::now();
        let bad = state.trust.is_lost();
        let told = if *lost_writes { !state.trust.lose(now) } else { bad || state.has_failed() };
        state.failed_at = Some(now);
        drop(state);
        // While it fails on, each upload would say so again.
        let level = if told { log::Level::Debug } else { log::Level::Error };
        let path = &self.path;
        match lost_writes {
            true => log::log!(
                level,
                "store path '{path}' is bad: {what}: {error}; no new files there until it has proven itself: \
                 {PROOFS} times a file written, synced and read back"
            ),
            false => log::log!(
                level,
                "store path '{path}': {what}: {error}; trying it last for {FAILED_TIMEOUT:?}"
            ),
        }
    }

    /// Notes that it failed when a file was read: it is tried last until it has proven itself. Neither what is under way
    /// nor what comes is in doubt, since nothing that is written is lost by a read; and one file that cannot be read
    /// must not stop all uploads of a group.
    fn read_failed(&self, error: &io::Error) {
        let mut state = self.state();
        let is_new = state.trust.suspect(Instant::now());
        state.failed_at = Some(Instant::now());
        drop(state);
        if is_new {
            log::error!(
                "store path '{}': read: {error}; trying it last until it has proven itself: {PROOFS} times a file \
                 written, synced and read back",
                self.path
            );
        }
    }

    /// Sets bytes aside for an upload, unless others have taken the room meanwhile.
    pub fn reserve(self: &Arc<Volume>, bytes: u64) -> Option<SpaceReservation> {
        let mut state = self.state();
        if state.trust.is_lost() || state.room(self.opening.reserve).is_none_or(|room| room < bytes) {
            return None;
        }
        state.reserved += bytes;
        // Read under the same lock that found it healthy: a failure from here on is found at the end of the upload.
        let (error_epoch, reopened) = (state.error_epoch(), state.reopened);
        Some(SpaceReservation { store: Arc::clone(self), left: bytes, error_epoch, reopened })
    }

    /// What a new file may have. Whoever finds first that the disk hangs says so, since its thread cannot.
    fn room(&self) -> Room {
        let mut state = self.state();
        if state.hangs() {
            let told = std::mem::replace(&mut state.silent, true);
            let seconds = state.silence().as_secs();
            drop(state);
            if !told {
                let path = &self.path;
                log::error!(
                    "store path '{path}' has not answered for {seconds} s; no new files there until it does"
                );
            }
            return Room::VolumeError;
        }
        match (&state.fault, state.room(self.opening.reserve)) {
            (Some(_), _) => Room::VolumeError,
            _ if state.trust.is_lost() => Room::VolumeError,
            (None, Some(room)) => Room::Bytes(room),
            (None, None) => Room::Full,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn error_epoch(&self) -> u64 {
        self.trust.error_epoch() + self.reopened
    }

    fn silence(&self) -> Duration {
        self.asked_at.elapsed()
    }

    fn hangs(&self) -> bool {
        self.silence() > SILENCE_MAX
    }

    fn has_failed(&self) -> bool {
        self.failed_at.is_some_and(|at| at.elapsed() < FAILED_TIMEOUT)
    }

    /// Whether others are tried first.
    fn is_last_resort(&self) -> bool {
        self.has_failed() || self.trust.is_suspected()
    }

    fn room(&self, reserve: Space) -> Option<u64> {
        self.free.checked_sub(self.reserved)?.checked_sub(reserve.of(self.total))
    }
}

impl DiskHealth for Volume {
    fn failed(&self, failure: &DiskError) {
        Volume::failed(self, failure);
    }

    fn error_epoch(&self) -> u64 {
        Volume::error_epoch(self)
    }
}

/// A store path for as long as its journal stays open.
struct Mounted {
    store: Arc<Volume>,
    reopened: u64,
}

impl DiskHealth for Mounted {
    fn failed(&self, failure: &DiskError) {
        if self.store.state().reopened == self.reopened {
            self.store.failed(failure);
        }
    }

    fn error_epoch(&self) -> u64 {
        self.store.error_epoch()
    }
}

impl SpaceReservation {
    /// How often the store path had failed when this was given.
    pub fn error_epoch(&self) -> u64 {
        self.error_epoch
    }

    /// Whether the journal was opened anew since then. What failed was perhaps on another mount.
    pub fn is_outlived(&self) -> bool {
        self.store.state().reopened != self.reopened
    }

    /// The store path as it is mounted now: a failure that comes when it has been mounted anew is not counted.
    pub fn volume(&self) -> Arc<dyn DiskHealth> {
        Arc::new(Mounted { store: Arc::clone(&self.store), reopened: self.reopened })
    }

    /// So many of the bytes are on the disk now.
    pub fn written(&mut self, bytes: u64) {
        let bytes = bytes.min(self.left);
        self.left -= bytes;
        let mut state = self.store.state();
        state.reserved -= bytes;
        state.free = state.free.saturating_sub(bytes);
    }
}

impl Drop for SpaceReservation {
    fn drop(&mut self) {
        self.store.state().reserved -= self.left;
    }
}

/// For tests, which have no threads that ask.
#[cfg(test)]
impl Volumes {
    /// As if no disk had answered for so long that none is waited for.
    pub fn silence(&self) {
        for store in &self.volumes {
            store.state().asked_at = Instant::now() - LAST_SILENCE_MAX - GRACE;
        }
    }

    /// As if a sync had failed on each disk.
    pub fn lose(&self) {
        for store in &self.volumes {
            store.failed(&DiskError::of_sync("sync", io::Error::other("lost")));
        }
    }

    /// Asks all disks.
    pub fn ask(&self) {
        self.volumes.iter().for_each(|store| store.note(store.ask(&mut Vec::new(), Instant::now())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::evidence::{Claim, Page, RowSearch};
    use crate::db::Next;
    use crate::file::StoredFile;
    use crate::scratch::Scratch;
    use crate::volume::journal::JournalEntry;
    use std::net::SocketAddr;
    use tnv_common::proto::HostName;

    fn key(scratch: &Scratch, name: &str) -> IdKey {
        IdKey::new(scratch.path().join(name).to_str().unwrap()).unwrap()
    }

    /// With these rows.
    fn opening(keys: &[IdKey], rows: &Arc<Mutex<Vec<StoredFile>>>) -> VolumeOptions {
        let address = SocketAddr::from(([127, 0, 0, 1], 23000));
        let member = MemberName::new(None, &HostName::new("host").unwrap(), address);
        let damaged = Arc::new(Quarantine::new(keys.iter().map(IdKey::as_str), &member, 3));
        let rows = Arc::clone(rows);
        let pages = Arc::new(move |table: usize, next: Next<'_>| {
            let is_first = table == 0 && next == Next::First;
            let files = if is_first { rows.lock().unwrap().clone() } else { Vec::new() };
            let claims: Vec<_> = files.into_iter().map(|file| Claim { file, is_own: false }).collect();
            Ok(Page { last: (!claims.is_empty()).then(String::new), claims })
        });
        let evidence =
            Arc::new(move || -> Box<dyn Evidence> { Box::new(RowSearch::new(Arc::clone(&pages) as _)) });
        VolumeOptions { reserve: Space::Bytes(1000), member, group: "group001".to_owned(), evidence, damaged }
    }

    fn try_open(scratch: &Scratch, names: &[&str], rows: &Arc<Mutex<Vec<StoredFile>>>) -> Result<Volumes> {
        let keys: Vec<_> = names.iter().map(|name| key(scratch, name)).collect();
        Volumes::open(&keys, &opening(&keys, rows)).map(|(volumes, _)| volumes)
    }

    fn volumes(scratch: &Scratch, names: &[&str]) -> Volumes {
        try_open(scratch, names, &Arc::default()).unwrap()
    }

    fn set(store: &Volume, free: u64) {
        let mut state = store.state();
        state.free = free;
        state.total = 1 << 40;
        state.asked_at = Instant::now() + Duration::from_secs(3600);
    }

    /// Two, the first of which has more room and so comes first.
    fn two_stores(scratch: &Scratch) -> Volumes {
        let volumes = volumes(scratch, &["a", "b"]);
        set(&volumes.volumes[0], 9000);
        set(&volumes.volumes[1], 5000);
        volumes
    }

    /// What the store path's thread does every second.
    fn look(store: &Volume) -> Vec<PendingOp> {
        let mut left = Vec::new();
        let asked = store.ask(&mut left, Instant::now());
        store.note(asked);
        left
    }

    fn order(volumes: &Volumes, size: u64) -> Vec<String> {
        let candidates = volumes.candidates(size).unwrap_or_default();
        candidates.iter().map(|store| store.path.rsplit('/').next().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_most_free_store_path_comes_first_and_a_full_one_not_at_all() {
        let scratch = Scratch::new();
        let volumes = volumes(&scratch, &["a", "b", "c"]);
        set(&volumes.volumes[0], 5000);
        set(&volumes.volumes[1], 9000);
        set(&volumes.volumes[2], 999);
        assert_eq!(order(&volumes, 0), ["b", "a"], "c is below the reserve");
        assert_eq!(order(&volumes, 4000), ["b", "a"]);
        assert_eq!(order(&volumes, 4001), ["b"]);
        assert_eq!(order(&volumes, 8001), Vec::<String>::new());
    }

    #[test]
    fn what_uploads_under_way_will_need_is_not_given_away_twice() {
        let scratch = Scratch::new();
        let volumes = volumes(&scratch, &["a"]);
        set(&volumes.volumes[0], 9000);
        let mut reservation = volumes.volumes[0].reserve(6000).unwrap();
        assert_eq!(order(&volumes, 2001), Vec::<String>::new());
        assert_eq!(order(&volumes, 2000), ["a"]);
        reservation.written(6000);
        assert_eq!(order(&volumes, 2001), Vec::<String>::new(), "it is on the disk now");
        drop(reservation);
        assert_eq!(order(&volumes, 2000), ["a"]);
        assert!(volumes.volumes[0].reserve(2001).is_none());
        drop(volumes.volumes[0].reserve(2000));
        assert_eq!(order(&volumes, 2000), ["a"], "an upload that failed gives it back");
    }

    #[test]
    fn a_store_path_that_failed_is_tried_last() {
        let scratch = Scratch::new();
        let volumes = two_stores(&scratch);
        volumes.volumes[0].failed(&DiskError::of("create a file", io::Error::other("too many links")));
        set(&volumes.volumes[0], 9000);
        assert_eq!(order(&volumes, 100), ["b", "a"]);
        assert_eq!(order(&volumes, 6000), ["a"]);
    }

    #[test]
    fn a_store_path_that_is_bad_takes_no_files_until_it_has_proven_itself() {
        let scratch = Scratch::new();
        let volumes = two_stores(&scratch);
        let bad = &volumes.volumes[0];
        bad.failed(&DiskError::of_sync("sync", io::Error::other("lost")));
        assert_eq!(order(&volumes, 100), ["b"]);
        assert!(bad.reserve(1).is_none(), "nor from whoever chose it before");
        for _ in 0..PROOFS {
            assert_eq!(order(&volumes, 100), ["b"]);
            bad.prove();
        }
        assert_eq!(fs::read_dir(&bad.path).unwrap().count(), 2, "the marker and the journal");
        assert!(bad.reserve(1).is_some());
        assert_eq!(bad.error_epoch(), 1);
    }

    #[test]
    fn a_missing_store_path_is_made_and_one_that_cannot_be_is_named() {
        let scratch = Scratch::new();
        assert_eq!(order(&volumes(&scratch, &["new/deep"]), 0).len(), 1);
        std::fs::write(scratch.path().join("file"), "").unwrap();
        let error = try_open(&scratch, &["file"], &Arc::default()).err().unwrap();
        assert!(error.message().contains("/file'"), "{error}");
    }

    #[test]
    fn a_delete_is_noted_in_the_journal_of_its_store_path() {
        let scratch = Scratch::new();
        let volumes = volumes(&scratch, &["a", "aa"]);
        let path = format!("{}/000/000/000/1_000", volumes.volumes[1].path);
        assert!(Arc::ptr_eq(&volumes.journal_of(&path).unwrap(), &volumes.volumes[1].journal().unwrap()));
        assert!(Arc::ptr_eq(
            &volumes.journal_of("elsewhere/x").unwrap(),
            &volumes.volumes[0].journal().unwrap()
        ));
    }

    /// A network file system whose cable was cut hung for a minute, and with it the workers of all
    /// uploads, whatever other disks there were.
    #[test]
    fn a_disk_that_hangs_is_passed_over_without_asking_it() {
        let scratch = Scratch::new();
        let volumes = two_stores(&scratch);
        volumes.silence();
        assert_eq!(volumes.candidates(100).err().unwrap().kind(), ErrorKind::Unavailable);
        look(&volumes.volumes[1]);
        assert_eq!(order(&volumes, 100), ["b"]);
        let path = format!("{}/x", volumes.volumes[0].path);
        assert!(volumes.answers_soon(&path).is_err());
        assert!(Arc::ptr_eq(&volumes.journal_of(&path).unwrap(), &volumes.volumes[1].journal().unwrap()));
        look(&volumes.volumes[0]);
        assert_eq!(order(&volumes, 100).len(), 2);
        assert!(volumes.answers(&path).is_ok());
    }

    /// The host of another member was cut off, and for the second in which GlusterFS was silent for longer
    /// than 5 s the member that was left refused uploads and reads, with nobody else to do them.
    #[test]
    fn a_disk_that_hangs_is_waited_for_where_no_other_one_answers() {
        let scratch = Scratch::new();
        let volumes = two_stores(&scratch);
        let path = format!("{}/x", volumes.volumes[0].path);
        let hang = |store: &Volume| store.state().asked_at = Instant::now() - SILENCE_MAX - GRACE;
        hang(&volumes.volumes[0]);
        assert!(volumes.answers_soon(&path).is_err(), "the other one answers");
        hang(&volumes.volumes[1]);
        thread::scope(|scope| {
            let reader = scope.spawn(|| volumes.answers_soon(&path));
            let uploader = scope.spawn(|| volumes.candidates(100).map(|candidates| candidates.len()));
            thread::sleep(GRACE * 3);
            assert!(!reader.is_finished() && !uploader.is_finished(), "they wait");
            look(&volumes.volumes[0]);
            assert!(reader.join().unwrap().is_ok());
            assert_eq!(uploader.join().unwrap().unwrap(), 1, "the other one still hangs");
        });
    }

    /// A disk was unmounted under a running storage, and uploads were acknowledged into the empty mount
    /// point, on another disk.
    #[test]
    fn a_store_path_whose_journal_is_not_in_its_place_is_passed_over_until_it_is_back() {
        let scratch = Scratch::new();
        let volumes = volumes(&scratch, &["a"]);
        let (path, away) = (scratch.path().join("a"), scratch.path().join("away"));
        let file = format!("{}/000/000/000/1_000", volumes.volumes[0].path);
        fs::rename(&path, &away).unwrap();
        for mount_point in [false, true] {
            if mount_point {
                fs::create_dir(&path).unwrap();
            }
            look(&volumes.volumes[0]);
            assert_eq!(volumes.candidates(0).err().unwrap().kind(), ErrorKind::Unavailable);
            assert!(volumes.remove(&file).is_err(), "it may be there on the other disk");
        }
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        fs::remove_dir(&path).unwrap();
        fs::rename(&away, &path).unwrap();
        look(&volumes.volumes[0]);
        assert_eq!(order(&volumes, 0), ["a"]);
        assert!(volumes.remove(&file).is_ok());
    }

    /// One disk that was full or read-only kept a storage of twelve from starting.
    #[test]
    fn a_store_path_that_cannot_be_opened_is_opened_later_with_what_was_left_in_it() {
        let scratch = Scratch::new();
        let entry = JournalEntry {
            owner: "u".to_owned(),
            name: "f".to_owned(),
            path: format!("{}/b/000/000/000/1_000", scratch.path().display()),
        };
        drop(volumes(&scratch, &["b"]).volumes[0].journal().unwrap().take(&entry).unwrap());
        fs::rename(scratch.path().join("b"), scratch.path().join("away")).unwrap();
        fs::write(scratch.path().join("b"), "").unwrap();
        let volumes = volumes(&scratch, &["a", "b"]);
        assert_eq!(order(&volumes, 0), ["a"]);
        assert!(volumes.remove(&entry.path).is_err());
        assert!(volumes.journal_of(&entry.path).is_some(), "a delete is noted elsewhere meanwhile");
        fs::remove_file(scratch.path().join("b")).unwrap();
        fs::rename(scratch.path().join("away"), scratch.path().join("b")).unwrap();
        let left = look(&volumes.volumes[1]);
        assert_eq!(left.iter().map(|open| &open.entry).collect::<Vec<_>>(), [&entry]);
        assert_eq!(order(&volumes, 0).len(), 2);
    }

    #[test]
    fn a_store_path_that_another_storage_has_is_no_matter_to_go_on_without() {
        let scratch = Scratch::new();
        let first = volumes(&scratch, &["b"]);
        let error = thread::scope(|scope| {
            let second = scope.spawn(|| try_open(&scratch, &["a", "b"], &Arc::default()).err().unwrap());
            while !second.is_finished() {
                first.ask();
                thread::sleep(GRACE);
            }
            second.join().unwrap()
        });
        assert_eq!(error.kind(), ErrorKind::Busy);
        // One that shows nothing is perhaps another storage that takes over what is there.
        let second = try_open(&scratch, &["a", "b"], &Arc::default()).unwrap();
        assert_eq!(order(&second, 0), ["a"]);
        drop(first);
        second.ask();
        assert_eq!(order(&second, 0).len(), 2);
    }

    fn row(scratch: &Scratch, store: &str) -> StoredFile {
        StoredFile { path: format!("{}/000/000/000/1_000", key(scratch, store)), size: 1, crc32: None }
    }

    /// A disk was not mounted at the start: its store path got a directory and a journal on the disk below,
    /// and what was uploaded there was gone from sight when the disk was mounted.
    #[test]
    fn a_store_path_whose_rows_have_no_file_there_is_left_alone_until_its_disk_comes() {
        let scratch = Scratch::new();
        let rows = Arc::new(Mutex::new(vec![row(&scratch, "a")]));
        for is_mount_point in [false, true] {
            if is_mount_point {
                fs::create_dir(scratch.path().join("a")).unwrap();
            }
            let volumes = try_open(&scratch, &["a"], &rows).unwrap();
            assert_eq!(volumes.candidates(0).err().unwrap().kind(), ErrorKind::Unavailable);
            assert!(volumes.remove(&rows.lock().unwrap()[0].path).is_err(), "it may be there on its disk");
            look(&volumes.volumes[0]);
            assert_eq!(scratch.path().join("a").exists(), is_mount_point);
            if is_mount_point {
                assert_eq!(fs::read_dir(scratch.path().join("a")).unwrap().count(), 0);
            }
            // The disk of a previous version is mounted: no marker, and the file is there.
            fs::create_dir_all(scratch.path().join("a/000/000/000")).unwrap();
            fs::write(&rows.lock().unwrap()[0].path, "1").unwrap();
            look(&volumes.volumes[0]);
            assert_eq!(order(&volumes, 0), ["a"]);
            drop(volumes);
            fs::remove_dir_all(scratch.path().join("a")).unwrap();
        }
    }

    #[test]
    fn a_store_path_without_its_disk_is_in_no_other_ones_way() {
        let scratch = Scratch::new();
        let rows = Arc::new(Mutex::new(vec![row(&scratch, "a")]));
        assert_eq!(order(&try_open(&scratch, &["a", "b"], &rows).unwrap(), 0), ["b"]);
    }

    #[test]
    fn disks_that_were_exchanged_take_no_files() {
        let scratch = Scratch::new();
        let rows = Arc::new(Mutex::new(Vec::new()));
        drop(try_open(&scratch, &["a", "b"], &rows).unwrap());
        let [a, b, c] = ["a", "b", "c"].map(|name| scratch.path().join(name));
        let path = |store: &str, name: &str| format!("{}/000/000/000/{name}", key(&scratch, store));
        let row = |path: String| StoredFile { path, size: 1, crc32: None };
        *rows.lock().unwrap() = vec![row(path("a", "1_000")), row(path("b", "2_000"))];
        for (store, name) in [("a", "1_000"), ("b", "2_000")] {
            fs::create_dir_all(scratch.path().join(store).join("000/000/000")).unwrap();
            fs::write(path(store, name), "1").unwrap();
        }
        for (from, to) in [(&a, &c), (&b, &a), (&c, &b)] {
            fs::rename(from, to).unwrap();
        }
        assert_eq!(order(&try_open(&scratch, &["a", "b"], &rows).unwrap(), 0), Vec::<String>::new());
        for (from, to) in [(&a, &c), (&b, &a), (&c, &b)] {
            fs::rename(from, to).unwrap();
        }
        assert_eq!(order(&try_open(&scratch, &["a", "b"], &rows).unwrap(), 0).len(), 2);
    }

    #[test]
    fn another_disk_under_a_running_storage_takes_no_files_though_it_has_a_marker() {
        let scratch = Scratch::new();
        drop(volumes(&scratch, &["a"]));
        fs::rename(scratch.path().join("a"), scratch.path().join("other")).unwrap();
        let volumes = volumes(&scratch, &["a"]);
        fs::rename(scratch.path().join("a"), scratch.path().join("first")).unwrap();
        fs::rename(scratch.path().join("other"), scratch.path().join("a")).unwrap();
        look(&volumes.volumes[0]);
        assert_eq!(order(&volumes, 0), Vec::<String>::new());
        fs::rename(scratch.path().join("a"), scratch.path().join("other")).unwrap();
        fs::rename(scratch.path().join("first"), scratch.path().join("a")).unwrap();
        look(&volumes.volumes[0]);
        assert_eq!(order(&volumes, 0), ["a"]);
    }

    /// A process that stood still for long lost its journal to another member.
    #[test]
    fn a_journal_that_is_gone_from_its_disk_is_made_anew_and_fails_what_is_under_way() {
        let scratch = Scratch::new();
        let volumes = volumes(&scratch, &["a"]);
        let store = &volumes.volumes[0];
        let before = store.error_epoch();
        for entry in fs::read_dir(&store.path).unwrap() {
            let path = entry.unwrap().path();
            if path.to_str().unwrap().contains(".uploads-") {
                fs::remove_file(path).unwrap();
            }
        }
        for _ in 1..MISSED_MAX {
            look(store);
            assert_eq!(order(&volumes, 0), Vec::<String>::new());
        }
        look(store);
        assert_eq!(order(&volumes, 0), ["a"]);
        assert!(store.error_epoch() != before && store.journal().unwrap().is_held());
    }

    /// The story: a FUSE client died and its volume was mounted anew. The store path led to the same volume through
    /// another device, and was refused until a restart. A file system in memory plays the other device.
    #[test]
    fn a_volume_that_is_mounted_anew_is_taken_back_at_once() {
        let scratch = Scratch::new();
        let memory = Path::new("/dev/shm").join(format!("tnv-anew-{}", std::process::id()));
        let device = |path: &Path| std::os::unix::fs::MetadataExt::dev(&fs::metadata(path).unwrap());
        if !Path::new("/dev/shm").is_dir() || device(Path::new("/dev/shm")) == device(scratch.path()) {
            return; // There is no other file system here.
        }
        let (first, a) = (scratch.path().join("first"), scratch.path().join("a"));
        fs::create_dir(&first).unwrap();
        fs::create_dir_all(&memory).unwrap();
        let mount = |at: &Path| {
            let _ = fs::remove_file(&a);
            std::os::unix::fs::symlink(at, &a).unwrap();
        };
        mount(&first);
        let volumes = volumes(&scratch, &["a"]);
        let store = &volumes.volumes[0];
        set(store, 9000);
        let reservation = store.reserve(1).unwrap();
        let (before, journal) = (store.error_epoch(), store.journal().unwrap());
        let entry = JournalEntry {
            owner: "u".to_owned(),
            name: "f".to_owned(),
            path: format!("{}/000/000/000/1_000", store.path),
        };
        let slot = journal.take(&entry).unwrap();
        assert!(slot.is_held());
        // Another volume is none of ours.
        mount(&memory);
        fs::write(memory.join(identity::NAME), Marker::new(&store.path, "group001").to_string()).unwrap();
        look(store);
        assert_eq!(order(&volumes, 0), Vec::<String>::new());
        assert!(slot.is_held() && store.error_epoch() == before, "the first one may come back");
        for entry in fs::read_dir(&first).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), memory.join(entry.file_name())).unwrap();
        }
        let left = look(store);
        assert_eq!(left.iter().map(|open| &open.entry).collect::<Vec<_>>(), [&entry], "to be undone");
        assert_eq!(order(&volumes, 0), ["a"]);
        assert!(!slot.is_held() && !slot.verify(), "of what was under way nothing is acknowledged");
        assert!(reservation.is_outlived() && store.error_epoch() != before);
        assert!(!Arc::ptr_eq(&journal, &store.journal().unwrap()) && store.journal().unwrap().is_held());
        // What fails on the mount that is gone says nothing of this one.
        reservation.volume().failed(&DiskError::of_sync("sync", io::Error::other("not connected")));
        assert_eq!(order(&volumes, 0), ["a"]);
        fs::remove_dir_all(memory).unwrap();
    }

    #[test]
    fn a_slash_at_the_end_of_a_store_path_is_no_other_store_path() {
        let scratch = Scratch::new();
        let volumes = volumes(&scratch, &["a/", "b"]);
        let store = &volumes.volumes[0];
        assert!(store.path().as_str().ends_with('/') && !store.path.ends_with('/'));
        for slashes in ["/", "//"] {
            let path = format!("{}{slashes}000/000/000/1_000", store.path);
            assert!(Arc::ptr_eq(volumes.store_of(&path).unwrap(), store));
        }
    }
}
