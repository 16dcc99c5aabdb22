//! One row: threads that do operations as fast as they are answered, and what came of it. The threads start
//! together and take the next operation from one counter, so none is idle before the last is done.
//!
//! An operation costs one reading of the clock: one ends where the next begins. Nothing else is done in
//! between, so the sum of a thread's latencies is the time that it ran.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tnv_client::{Error, ErrorKind, Result};
use tnv_common::error::Context;

use super::content::{Block, Check, Closely, Content};
use super::plan::Sizes;
use super::report::Progress;

/// After so many errors a row is given up: it measures nothing any more.
pub(super) const ERRORS_MAX: u64 = 1000;

/// Kinds of errors of which the first one is kept in words.
const TOLD_MAX: usize = 16;

/// Nothing recurses here.
const STACK_BYTES: usize = 256 << 10;

/// How often the progress is shown.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// Of so many operations of a mixed row one is an upload, the last.
const MIXED: u64 = 4;

/// A file that was made here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    /// As its protocol names it.
    pub(super) id: Box<str>,
    /// What its content is made from.
    pub(super) number: u64,
    pub(super) size: u64,
}

/// The way to the servers of a protocol.
pub(super) trait Door: Sync {
    /// What one thread uses; connections that it keeps for itself are made here.
    fn session(&self) -> Result<Box<dyn Session + '_>>;
}

/// What one thread does, one operation at a time.
pub(super) trait Session {
    /// Stores a file; gives its ID.
    fn upload(&mut self, content: &mut Content<'_>) -> Result<Box<str>>;

    /// Fetches a whole file.
    fn download(&mut self, file: &File, check: &mut Check<'_>) -> Result<()>;

    /// Removes a file.
    fn delete(&mut self, file: &File) -> Result<()>;
}

/// What the threads do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    Upload,
    /// The files, round and round.
    Download(Closely),
    /// The same, and uploads in between.
    Mixed(Closely),
    /// The files, each once.
    Delete,
}

/// A row to be done.
pub(super) struct Row<'a> {
    pub(super) door: &'a dyn Door,
    pub(super) block: &'a Block,
    pub(super) sizes: &'a Sizes,
    /// Files are made no larger than this.
    pub(super) size_max: u64,
    pub(super) doing: Doing,
    pub(super) threads: usize,
    pub(super) count: u64,
    /// What downloads and deletes choose from.
    pub(super) files: &'a [File],
    /// The number of the first file that is made.
    pub(super) number: u64,
    /// Ends the row early.
    pub(super) halt: &'a AtomicBool,
    pub(super) time_max: Duration,
    pub(super) errors_max: u64,
}

/// What came of a row.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Latencies of the operations that succeeded, in ascending order.
    pub(super) nanos: Vec<u64>,
    /// Content that these moved.
    pub(super) bytes: u64,
    /// From the first thread's beginning to the last one's end.
    pub(super) wall: Duration,
    pub(super) errors: u64,
    /// The first error of each kind, and how many there were.
    pub(super) told: Vec<(Error, u64)>,
    /// Files that were made.
    pub(super) made: Vec<File>,
    /// Which of the files could not be removed.
    pub(super) failed: Vec<usize>,
    /// How many operations were begun.
    pub(super) begun: u64,
}

/// What all threads share.
struct Shared {
    turns: AtomicU64,
    errors: AtomicU64,
    told: Mutex<Vec<(Error, u64)>>,
}

/// One thread's part of the outcome.
struct Share {
    nanos: Vec<u64>,
    bytes: u64,
    made: Vec<File>,
    failed: Vec<usize>,
    start: Instant,
    end: Instant,
}

impl Row<'_> {
    /// Does it.
    pub(super) fn run(&self, progress: &Progress) -> Result<Done> {
        let shared = Shared { turns: AtomicU64::new(0), errors: AtomicU64::new(0), told: Mutex::default() };
        // More threads than operations would only connect.
        let threads = self.threads.min(usize::try_from(self.count).unwrap_or(usize::MAX)).max(1);
        let gate = Gate::default();
        let shares = thread::scope(|scope| {
            let (ended, wait) = mpsc::channel::<()>();
            let mut handles = Vec::with_capacity(threads);
            for index in 0..threads {
                let (ended, shared, gate) = (ended.clone(), &shared, &gate);
                let work = move || {
                    let share = self.work(shared, gate, threads);
                    drop(ended);
                    share
                };
                let builder = thread::Builder::new().name(format!("bench-{index}")).stack_size(STACK_BYTES);
                match builder.spawn_scoped(scope, work) {
                    Ok(handle) => handles.push(handle),
                    Err(error) => {
                        // Those that have started are let through, and have nothing to do.
                        shared.turns.store(self.count, Ordering::Relaxed);
                        gate.open_after(index);
                        return Err(error).context(|| format!("start thread {} of {threads}", index + 1));
                    }
                }
            }
            drop(ended);
            gate.open_after(threads);
            while wait.recv_timeout(PROGRESS_EVERY) == Err(RecvTimeoutError::Timeout) {
                progress.at(shared.turns.load(Ordering::Relaxed).min(self.count));
            }
            Ok(handles.into_iter().filter_map(|handle| handle.join().ok()).collect::<Vec<_>>())
        })?;
        Ok(self.sum(shared, shares))
    }

    /// What one thread does.
    fn work(&self, shared: &Shared, gate: &Gate, threads: usize) -> Share {
        let session = self.door.session();
        let expected = usize::try_from(self.count).unwrap_or_default() / threads;
        let nanos = Vec::with_capacity(expected + expected / 4 + 16);
        gate.pass();
        let start = Instant::now();
        let mut share = Share { nanos, bytes: 0, made: Vec::new(), failed: Vec::new(), start, end: start };
        let mut session = match session {
            Ok(session) => session,
            Err(error) => {
                shared.failed(error);
                return share;
            }
        };
        while !self.is_over(shared, share.end - start) {
            let turn = shared.turns.fetch_add(1, Ordering::Relaxed);
            if turn >= self.count {
                break;
            }
            let outcome = self.once(session.as_mut(), turn, &mut share);
            let now = Instant::now();
            match outcome {
                Ok(bytes) => {
                    share.bytes += bytes;
                    let nanos = u64::try_from((now - share.end).as_nanos()).unwrap_or(u64::MAX);
                    share.nanos.push(nanos);
                }
                // What was broken off here is no error of a server.
                Err(_) if self.halt.load(Ordering::Relaxed) => {}
                Err(error) => shared.failed(error),
            }
            share.end = now;
        }
        share
    }

    fn is_over(&self, shared: &Shared, elapsed: Duration) -> bool {
        self.halt.load(Ordering::Relaxed)
            || elapsed >= self.time_max
            || shared.errors.load(Ordering::Relaxed) >= self.errors_max
    }

    /// One operation; gives how many bytes it moved.
    fn once(&self, session: &mut dyn Session, turn: u64, share: &mut Share) -> Result<u64> {
        match self.doing {
            Doing::Upload => self.upload(session, turn, share),
            Doing::Mixed(_) if turn % MIXED == MIXED - 1 => self.upload(session, turn, share),
            Doing::Download(closely) | Doing::Mixed(closely) => {
                let (_, file) = self.file(turn)?;
                let mut check = Check::new(self.block, file.number, file.size, closely, self.halt);
                let outcome = session.download(file, &mut check);
                match check.fault() {
                    Some(fault) => return Err(fault.context(&file.id)),
                    None => outcome?,
                }
                check.end().map(|()| file.size).map_err(|error| error.context(&file.id))
            }
            Doing::Delete => {
                let (index, file) = self.file(turn)?;
                match session.delete(file) {
                    Ok(()) => Ok(0),
                    Err(error) => {
                        // What is not there needs no further try.
                        if error.kind() != ErrorKind::NotFound {
                            share.failed.push(index);
                        }
                        Err(error)
                    }
                }
            }
        }
    }

    fn upload(&self, session: &mut dyn Session, turn: u64, share: &mut Share) -> Result<u64> {
        let number = self.number + turn;
        let size = self.sizes.of(number).min(self.size_max);
        let mut content = Content::new(self.block, number, size, self.halt);
        let id = session.upload(&mut content)?;
        share.made.push(File { id, number, size });
        Ok(size)
    }

    /// The file whose turn it is.
    fn file(&self, turn: u64) -> Result<(usize, &File)> {
        let index = turn.checked_rem(self.files.len() as u64).and_then(|index| usize::try_from(index).ok());
        match index.and_then(|index| Some((index, self.files.get(index)?))) {
            Some(found) => Ok(found),
            None => Err(Error::new(ErrorKind::NotFound, "there are no files to choose from")),
        }
    }

    fn sum(&self, shared: Shared, shares: Vec<Share>) -> Done {
        let mut done = Done {
            errors: shared.errors.into_inner(),
            told: shared.told.into_inner().unwrap_or_else(PoisonError::into_inner),
            begun: shared.turns.into_inner().min(self.count),
            ..Done::default()
        };
        let start = shares.iter().map(|share| share.start).min();
        let end = shares.iter().map(|share| share.end).max();
        done.wall = start.zip(end).map_or(Duration::ZERO, |(start, end)| end - start);
        for share in shares {
            done.bytes += share.bytes;
            done.nanos.extend(share.nanos);
            done.made.extend(share.made);
            done.failed.extend(share.failed);
        }
        done.nanos.sort_unstable();
        done
    }
}

/// Where threads wait for each other before they begin.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    waiting: usize,
    is_open: bool,
}

impl Gate {
    /// Waits until it is open.
    fn pass(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting += 1;
        self.changed.notify_all();
        while !state.is_open {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Opens it as soon as so many wait.
    fn open_after(&self, threads: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.waiting < threads {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.is_open = true;
        self.changed.notify_all();
    }
}

impl Shared {
    fn failed(&self, error: Error) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let known = told.iter().position(|(first, _)| first.kind() == error.kind());
        match known {
            Some(at) => told[at].1 += 1,
            None if told.len() < TOLD_MAX => told.push((error, 1)),
            None => {}
        }
    }
}
