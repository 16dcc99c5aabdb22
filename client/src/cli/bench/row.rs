//! One row: threads that do one operation after another, and the result. The threads start together and take
//! the next operation from one counter, so none is idle before the last operation.
//!
//! The clock is read once an operation: one ends where the next starts. Nothing happens in between, so the
//! latencies of a thread add up to its running time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use tnv_client::{Error, ErrorKind, Result};
use tnv_common::error::Context;

use super::driver::{Driver, File, Session};
use super::payload::{Block, Payload, Thoroughness, Verifier};
use super::plan::Sizes;
use super::progress::Progress;

/// After so many errors a row ends, since it no longer measures anything.
pub(super) const ERRORS_MAX: u64 = 1000;

/// The first error of each kind is kept, of at most so many kinds.
const ERROR_KINDS_MAX: usize = 16;

/// The stack of a thread. Nothing recurses.
const STACK_BYTES: usize = 256 << 10;

/// The interval of progress updates.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// The last of so many operations of a mixed row is an upload.
const MIXED: u64 = 4;

/// The operations of the threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Workload {
    Upload,
    /// The files in order, repeatedly.
    Download(Thoroughness),
    /// The same, with uploads in between.
    Mixed(Thoroughness),
    /// Each file once.
    Delete,
}

/// A row.
pub(super) struct Row<'a> {
    pub(super) driver: &'a dyn Driver,
    pub(super) block: &'a Block,
    pub(super) sizes: &'a Sizes,
    /// The largest size of an uploaded file.
    pub(super) size_max: u64,
    pub(super) workload: Workload,
    pub(super) threads: usize,
    pub(super) count: u64,
    /// The files of downloads and deletes.
    pub(super) files: &'a [File],
    /// The number of the first uploaded file.
    pub(super) number: u64,
    /// Set to end the row early.
    pub(super) halt: &'a AtomicBool,
    pub(super) time_max: Duration,
    pub(super) errors_max: u64,
}

/// The result of a row.
#[derive(Debug, Default)]
pub(super) struct RowResult {
    /// Latencies of the successful operations, ascending.
    pub(super) nanos: Vec<u64>,
    /// Bytes of their content.
    pub(super) bytes: u64,
    /// From the start of the first thread to the end of the last one.
    pub(super) wall: Duration,
    pub(super) errors: u64,
    /// The first error of each kind, with their number.
    pub(super) first_errors: Vec<(Error, u64)>,
    /// The uploaded files.
    pub(super) uploaded: Vec<File>,
    /// The indexes of the files that could not be removed.
    pub(super) failed: Vec<usize>,
    /// How many operations were started.
    pub(super) started: u64,
}

/// The state that the threads share.
struct Shared {
    /// The next operation.
    next: AtomicU64,
    errors: AtomicU64,
    first_errors: Mutex<Vec<(Error, u64)>>,
}

/// The result of one thread.
struct ThreadResult {
    nanos: Vec<u64>,
    bytes: u64,
    uploaded: Vec<File>,
    failed: Vec<usize>,
    start: Instant,
    end: Instant,
}

impl Row<'_> {
    /// Runs it.
    pub(super) fn run(&self, progress: &Progress) -> Result<RowResult> {
        let shared =
            Shared { next: AtomicU64::new(0), errors: AtomicU64::new(0), first_errors: Mutex::default() };
        // A thread without an operation would only connect.
        let threads = self.threads.min(usize::try_from(self.count).unwrap_or(usize::MAX)).max(1);
        // Held until every thread has opened its connections, so that all start together.
        let start = RwLock::new(());
        let results = thread::scope(|scope| {
            let hold = start.write();
            // Each channel closes when the last thread is ready or has ended.
            let (ready, all_ready) = mpsc::channel::<()>();
            let (ended, all_ended) = mpsc::channel::<()>();
            let mut handles = Vec::with_capacity(threads);
            for index in 0..threads {
                let (ready, ended, shared, start) = (ready.clone(), ended.clone(), &shared, &start);
                let work = move || {
                    let result = self.work(shared, ready, start, threads);
                    drop(ended);
                    result
                };
                let builder = thread::Builder::new().name(format!("bench-{index}")).stack_size(STACK_BYTES);
                match builder.spawn_scoped(scope, work) {
                    Ok(handle) => handles.push(handle),
                    Err(error) => {
                        // The threads that have started find no operation left.
                        shared.next.store(self.count, Ordering::Relaxed);
                        return Err(error).context(|| format!("start thread {} of {threads}", index + 1));
                    }
                }
            }
            drop((ready, ended));
            let _ = all_ready.recv();
            drop(hold);
            while all_ended.recv_timeout(PROGRESS_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                progress.at(shared.next.load(Ordering::Relaxed).min(self.count));
            }
            Ok(handles.into_iter().filter_map(|handle| handle.join().ok()).collect::<Vec<_>>())
        })?;
        Ok(self.sum(shared, results))
    }

    /// The work of one thread.
    fn work(&self, shared: &Shared, ready: Sender<()>, hold: &RwLock<()>, threads: usize) -> ThreadResult {
        let session = self.driver.session();
        let expected = usize::try_from(self.count).unwrap_or_default() / threads;
        let nanos = Vec::with_capacity(expected + expected / 4 + 16);
        drop(ready);
        drop(hold.read());
        let start = Instant::now();
        let mut result =
            ThreadResult { nanos, bytes: 0, uploaded: Vec::new(), failed: Vec::new(), start, end: start };
        let mut session = match session {
            Ok(session) => session,
            Err(error) => {
                shared.failed(error);
                return result;
            }
        };
        while !self.is_over(shared, result.end - start) {
            let index = shared.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.count {
                break;
            }
            let outcome = self.once(session.as_mut(), index, &mut result);
            let now = Instant::now();
            match outcome {
                Ok(bytes) => {
                    result.bytes += bytes;
                    let nanos = u64::try_from((now - result.end).as_nanos()).unwrap_or(u64::MAX);
                    result.nanos.push(nanos);
                }
                // An interrupted operation is no error of a server.
                Err(_) if self.halt.load(Ordering::Relaxed) => {}
                Err(error) => shared.failed(error),
            }
            result.end = now;
        }
        result
    }

    fn is_over(&self, shared: &Shared, elapsed: Duration) -> bool {
        self.halt.load(Ordering::Relaxed)
            || elapsed >= self.time_max
            || shared.errors.load(Ordering::Relaxed) >= self.errors_max
    }

    /// Does one operation and returns the bytes of its content.
    fn once(&self, session: &mut dyn Session, index: u64, result: &mut ThreadResult) -> Result<u64> {
        match self.workload {
            Workload::Upload => self.upload(session, index, result),
            Workload::Mixed(_) if index % MIXED == MIXED - 1 => self.upload(session, index, result),
            Workload::Download(thoroughness) | Workload::Mixed(thoroughness) => {
                let (_, file) = self.file(index)?;
                let mut verifier = Verifier::new(self.block, file.number, file.size, thoroughness, self.halt);
                let outcome = session.download(file, &mut verifier);
                match verifier.mismatch() {
                    Some(mismatch) => return Err(mismatch.context(&file.id)),
                    None => outcome?,
                }
                verifier.end().map(|()| file.size).map_err(|error| error.context(&file.id))
            }
            Workload::Delete => {
                let (index, file) = self.file(index)?;
                match session.delete(file) {
                    Ok(()) => Ok(0),
                    Err(error) => {
                        // A missing file needs no second try.
                        if error.kind() != ErrorKind::NotFound {
                            result.failed.push(index);
                        }
                        Err(error)
                    }
                }
            }
        }
    }

    fn upload(&self, session: &mut dyn Session, index: u64, result: &mut ThreadResult) -> Result<u64> {
        let number = self.number + index;
        let size = self.sizes.of(number).min(self.size_max);
        let mut payload = Payload::new(self.block, number, size, self.halt);
        let id = session.upload(&mut payload)?;
        result.uploaded.push(File { id, number, size });
        Ok(size)
    }

    /// The file of an operation, and its index.
    fn file(&self, index: u64) -> Result<(usize, &File)> {
        let index = index.checked_rem(self.files.len() as u64).and_then(|index| usize::try_from(index).ok());
        match index.and_then(|index| Some((index, self.files.get(index)?))) {
            Some(found) => Ok(found),
            None => Err(Error::new(ErrorKind::NotFound, "no files to choose from")),
        }
    }

    fn sum(&self, shared: Shared, results: Vec<ThreadResult>) -> RowResult {
        let mut total = RowResult {
            errors: shared.errors.into_inner(),
            first_errors: shared.first_errors.into_inner().unwrap_or_else(PoisonError::into_inner),
            started: shared.next.into_inner().min(self.count),
            ..RowResult::default()
        };
        let start = results.iter().map(|result| result.start).min();
        let end = results.iter().map(|result| result.end).max();
        total.wall = start.zip(end).map_or(Duration::ZERO, |(start, end)| end - start);
        for result in results {
            total.bytes += result.bytes;
            total.nanos.extend(result.nanos);
            total.uploaded.extend(result.uploaded);
            total.failed.extend(result.failed);
        }
        total.nanos.sort_unstable();
        total
    }
}

impl Shared {
    fn failed(&self, error: Error) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        let mut first_errors = self.first_errors.lock().unwrap_or_else(PoisonError::into_inner);
        let known = first_errors.iter().position(|(first, _)| first.kind() == error.kind());
        match known {
            Some(at) => first_errors[at].1 += 1,
            None if first_errors.len() < ERROR_KINDS_MAX => first_errors.push((error, 1)),
            None => {}
        }
    }
}
