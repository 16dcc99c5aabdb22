//! Uploads and deletes.
//!
//! # The order that durability depends on
//!
//! An upload, step by step, and why each stands where it does:
//!
//! 1. **The ID of a large file is looked up**, so that a duplicate is refused before its content is read. It
//!    decides nothing: two uploads of one ID may both get past it. For a small one it costs more than it saves.
//! 2. **A store path is chosen** by its free space, and its next number asked of an ID server. The
//!    number makes the name unique among all members and for ever.
//! 3. **A journal slot is taken**, which names the file to be. It comes before the file: were it the
//!    other way round, a kill in between would leave a file that nobody knows of.
//! 4. **The directories are made and synced** where they are not known, **the file is created** with
//!    O_EXCL. Should it be there it is somebody else's: the slot is released, nothing is removed, and
//!    the next number is tried. **The journal is looked at again**: where it is not in its place, the
//!    mount has gone and the file is on the disk below. Up to here another store path can still
//!    take the file.
//! 5. **The content is received**, with its checksum, which must be the expected one if there is one. The file is under its final name, but no row
//!    names it, so nobody can see it half done.
//! 6. **The file is synced**, and at the same time **the directory** that has its name, once for all who have
//!    new names there (see `directory_sync`). Both come before the row: a row that survives a power loss must find its
//!    file whole, under its name.
//! 7. **The row is committed.** This is the moment at which the file exists. The table's primary key
//!    decides between two uploads of one ID.
//!    Afterwards **the journal is looked at once more**: where another storage has taken it over meanwhile, as that of one
//!    that had ended, the row is deleted again and the upload fails (see `heartbeat`).
//! 8. **The slot is released.** Not before the row: the journal's rule would then have nothing to go
//!    by. Not after the reply: a slot of a file that is acknowledged should not linger.
//! 9. **The reply is sent**, by the service.
//!
//! Steps 4 and 6 sync as far as `tnv_fsync` says. A sync that fails is not repeated: the file is given
//! up, and so is whatever was on its way to the same store path at that moment: each upload keeps from step 2 how
//! often the store path has failed, whoever meets a failure has it counted before anyone is answered, and
//! at the end of step 6 the number must be the same.
//!
//! Whatever fails before step 7 removes the file, then releases the slot; a kill leaves the slot,
//! and the next start does the same. Where step 7 fails for certain, likewise. Where its outcome is
//! unknown the file and the slot stay until the database has given a certain answer (see `settle`):
//! removing the file might lose one whose row was committed, keeping it would leave an orphan.
//!
//! A delete goes the other way: slot, row, file, slot. Once the row is gone so is the file for
//! everybody; a kill before it is removed leaves the slot, and the same rule removes it.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use tnv_common::error::{Error, ErrorKind, Result};
use tnv_common::fail;
use tnv_common::proto::tnv::file_key::Triple;
use tnv_common::rpc::receive::Receiver;

use super::Files;
use super::no_such_file;
use crate::db::FileRow;
use crate::file::writeback::Flush;
use crate::globals::now;
use crate::path::{self, Place};
use crate::volume::disk::{self, DiskError, DiskResult, Volume};
use crate::volume::journal::{Open, Record, Slot};
use crate::volume::placement::{Promise, Store};

/// How many numbers are tried for one file. That a file of a fresh number is there already takes an
/// ID database that was lost and began anew, and the very same second.
const NUMBERS_MAX: usize = 4;

/// From this size on, space is allocated before content is read: then it either suffices, or
/// another store path can take the file.
const ALLOCATE_BYTES_MIN: u64 = 1 << 20;

/// From this size on, the ID is looked up before content is read.
const LOOK_UP_BYTES_MIN: u64 = 1 << 20;

/// What the sync of a directory that has a new name is called where it fails.
const WHAT: &str = "sync the directory of the";

/// An upload under way: its content is written as it comes. Dropped before it is finished it leaves nothing.
pub struct PendingUpload {
    draft: Draft,
    file: Triple,
    size: u64,
    /// The CRC-32 that the content must have, where one is given.
    expected: Option<u32>,
    received: u64,
    crc: crc32fast::Hasher,
}

impl Receiver for PendingUpload {
    /// Step 5.
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.crc.update(bytes);
        self.received += bytes.len() as u64;
        self.draft.write(bytes).map_err(|fault| self.draft.failed(&fault))
    }

    /// Steps 6 to 8: returns when the file is durable and visible.
    fn finish(self: Box<Self>) -> Result<Vec<u8>> {
        let PendingUpload { mut draft, file, size, expected, received, crc } = *self;
        if received != size {
            return fail!(Protocol, "the content ended after {received} of {size} bytes");
        }
        let crc32 = crc.finalize();
        if let Some(expected) = expected.filter(|expected| *expected != crc32) {
            return fail!(
                Mismatch,
                "the content has the CRC-32 {crc32:08x}, want {expected:08x}: it was damaged on the way; nothing \
                 was stored, fileid: {}",
                file.fileid
            );
        }
        let path = draft.sync()?;
        let row = FileRow { path, size, crc32: Some(crc32) };
        // From here on a draft that is dropped, even by a panic, is left to the settler.
        draft.outcome = Outcome::Unknown;
        // A delete may come as soon as the row is there.
        let epoch = draft.files.cache.epoch(&file);
        match draft.files.db.insert(&file, &row) {
            // Another member that took the journal over had it marked before it looked for the row. Where there is no
            // mark after the commit, it has found the row or will find it.
            // The journal that has the slot decides, and not one that was opened in its place.
            Ok(()) if draft.slot().is_some_and(Slot::verify) => {
                draft.outcome = Outcome::Committed;
                draft.files.cache.put(epoch, &file, &row);
                Ok(Vec::new())
            }
            Ok(()) => {
                if draft.files.db.delete(&file, &row.path).is_ok() {
                    draft.outcome = Outcome::Failed;
                }
                fail!(
                    Unavailable,
                    "the store path was lost during the upload: its disk is gone, or another storage has taken its \
                     journal over, fileid: {}",
                    file.fileid
                )
            }
            Err(error) => {
                if error.kind() != ErrorKind::OutcomeUnknown {
                    draft.outcome = Outcome::Failed;
                }
                Err(error)
            }
        }
    }
}

impl Files {
    /// Begins to store a file of so many bytes, and with this CRC-32 where one is given: steps 1 to 4.
    pub fn upload(
        self: &Arc<Files>,
        file: Triple,
        size: u64,
        expected: Option<u32>,
    ) -> Result<PendingUpload> {
        if size >= LOOK_UP_BYTES_MIN {
            self.db.check_free(&file)?;
        }
        let draft = self.begin(&file, size)?;
        Ok(PendingUpload { draft, file, size, expected, received: 0, crc: crc32fast::Hasher::new() })
    }

    /// Steps 2 to 4: an empty file in the best store path that takes it.
    fn begin(self: &Arc<Files>, file: &Triple, size: u64) -> Result<Draft> {
        let fileid = &file.fileid;
        let mut failure = None;
        let candidates = self.stores.candidates(size);
        let no_store = |error: Error| Error::new(error.kind(), format!("{error}, fileid: {fileid}"));
        for store in candidates.map_err(no_store)? {
            let Some(promise) = store.promise(size) else { continue };
            match self.begin_in(&store, promise, file, size)? {
                Ok(draft) => return Ok(draft),
                Err(fault) => {
                    self.failed(&store, &fault);
                    let what = format_args!("no store path works, fileid: {fileid}, {}", fault.what);
                    failure = Some(disk::error(what, &fault.error));
                }
            }
        }
        match failure {
            Some(error) => Err(error),
            None => fail!(NoSpace, "no store path has room for {size} bytes, fileid: {fileid}"),
        }
    }

    /// The inner failure is the store path's, and another one may do; the outer one is final.
    fn begin_in(
        self: &Arc<Files>,
        store: &Arc<Store>,
        promise: Promise,
        file: &Triple,
        size: u64,
    ) -> Result<std::result::Result<Draft, DiskError>> {
        for _ in 0..NUMBERS_MAX {
            let number = self.ids.next(store.path())?;
            let place = Place::new(store.path(), number, now());
            match self.create(store, &promise, &place, file) {
                Ok((slot, record, created)) => {
                    let flush = Flush::new(created, self.fsync, &self.flushers, promise.volume());
                    let mut draft = Draft {
                        files: Arc::clone(self),
                        store: Arc::clone(store),
                        place,
                        promise,
                        flush: Some(flush),
                        open: Some(Open { slot: Some(slot), record }),
                        outcome: Outcome::Failed,
                    };
                    let allocated = draft.allocate(size).map_err(|error| DiskError::of("allocate", error));
                    return Ok(allocated.map(|()| draft));
                }
                Err(fault) if fault.error.kind() == io::ErrorKind::AlreadyExists => {
                    log::error!("{} is there already: does the ID server repeat numbers?", place.path);
                }
                Err(error) => return Ok(Err(error)),
            }
        }
        let path = store.path();
        fail!(Internal, "{NUMBERS_MAX} fresh numbers of '{path}' were all taken, fileid: {}", file.fileid)
    }

    fn create(
        &self,
        store: &Arc<Store>,
        promise: &Promise,
        place: &Place,
        file: &Triple,
    ) -> DiskResult<(Slot, Record, File)> {
        let fault = |error| DiskError::of("use the journal", error);
        let Some(journal) = store.journal() else { return Err(fault(io::Error::other("it has none"))) };
        let record = record(file, &place.path);
        let slot = journal.take(&record).map_err(fault)?;
        let volume = Arc::clone(store) as Arc<dyn Volume>;
        let created = match self.directories.create_file(place, &volume, promise.losses()) {
            Ok(created) => created,
            Err(error) => {
                // Nothing was created, so there is nothing to remove.
                slot.release();
                return Err(error);
            }
        };
        match journal.check() {
            Ok(()) => Ok((slot, record, created)),
            Err(error) => {
                self.settler.discard(Open { slot: Some(slot), record });
                Err(fault(error))
            }
        }
    }

    /// Removes a file. The row decides: once it is gone the delete is acknowledged, also where the file
    /// itself cannot be removed yet, because its disk is read-only or not mounted; `settle` then goes
    /// on trying. Until the file goes, a member that has the row in its cache still serves it, for
    /// at most `redis_key_timeout` from when it last asked the database; this member does not.
    pub fn delete(&self, file: &Triple) -> Result<()> {
        // Not the cache: what goes must be what the database says now.
        let Some(row) = self.db.find(file)? else { return Err(no_such_file(file)) };
        path::check(&row.path)?;
        let record = record(file, &row.path);
        let slot = self.stores.journal_of(&row.path).and_then(|journal| {
            // A full disk must not keep anyone from deleting.
            journal
                .take(&record)
                .inspect_err(|error| log::warn!("note the delete of {}: {error}", row.path))
                .ok()
        });
        let open = Open { slot, record };
        match self.db.delete(file, &row.path) {
            Ok(true) => {
                self.cache.remove(file);
                self.settler.discard(open);
                Ok(())
            }
            Ok(false) => {
                // Another delete was faster; the file is that one's to remove.
                open.slot.into_iter().for_each(Slot::release);
                Err(no_such_file(file))
            }
            Err(error) => {
                self.cache.remove(file);
                if error.kind() == ErrorKind::OutcomeUnknown {
                    self.settler.add(open);
                } else {
                    open.slot.into_iter().for_each(Slot::release);
                }
                Err(error)
            }
        }
    }
}

/// Whether the row of a draft was committed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Certainly not.
    Failed,
    /// Perhaps.
    Unknown,
    /// Certainly.
    Committed,
}

/// A file on its way in. Dropping it leaves things as its outcome demands.
struct Draft {
    files: Arc<Files>,
    store: Arc<Store>,
    place: Place,
    promise: Promise,
    /// Taken when the file is synced.
    flush: Option<Flush>,
    /// Taken when it is dropped.
    open: Option<Open>,
    outcome: Outcome,
}

impl Draft {
    /// Gets the space for a large file, where the file system can.
    fn allocate(&mut self, size: u64) -> io::Result<()> {
        let Some(flush) = self.flush.as_ref().filter(|_| size >= ALLOCATE_BYTES_MIN) else { return Ok(()) };
        loop {
            match fallocate(flush.file(), FallocateFlags::empty(), 0, size) {
                Ok(()) => {
                    self.promise.written(size);
                    return Ok(());
                }
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> DiskResult<()> {
        let write_fault = |error| DiskError::of("write", error);
        let Some(flush) = &mut self.flush else { return Err(write_fault(io::Error::other("closed"))) };
        flush.file().write_all(bytes).map_err(write_fault)?;
        self.promise.written(bytes.len() as u64);
        flush.wrote(bytes.len() as u64)
    }

    /// Step 6; returns the path.
    fn sync(&mut self) -> Result<String> {
        let volume = Arc::clone(&self.store) as Arc<dyn Volume>;
        let directory = self.files.directories.syncs().begin(WHAT, self.place.directory(), &volume);
        if let Some(flush) = self.flush.take() {
            flush.finish().map_err(|fault| self.failed(&fault))?;
        }
        directory.wait().map_err(|fault| self.failed(&fault))?;
        // After all syncs, and with the number from before the file had a name: a sync of the directory that failed
        // for somebody else has been counted before ours began, and then ours proves nothing (see `directory_sync`).
        if self.promise.is_outlived() {
            return Err(self.outlived());
        }
        if self.store.losses() != self.promise.losses() || !self.slot().is_some_and(Slot::is_held) {
            return fail!(Unavailable, "the disk failed during the upload, fileid: {}", self.fileid());
        }
        Ok(self.place.path.clone())
    }

    /// The disk failed under this file: others are sent elsewhere. Not so where it was mounted anew since: the mount
    /// that failed is gone.
    fn failed(&self, fault: &DiskError) -> Error {
        if self.promise.is_outlived() {
            return self.outlived();
        }
        self.files.failed(&self.store, fault);
        disk::error(format_args!("{} file fail, fileid: {}", fault.what, self.fileid()), &fault.error)
    }

    fn outlived(&self) -> Error {
        let fileid = self.fileid();
        let what = format!(
            "the store path was mounted anew or its journal was lost during the upload, fileid: {fileid}"
        );
        Error::new(ErrorKind::Unavailable, what)
    }

    fn slot(&self) -> Option<&Slot> {
        self.open.as_ref()?.slot.as_ref()
    }

    fn fileid(&self) -> &str {
        self.open.as_ref().map_or("", |open| open.record.fileid.as_str())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let Some(open) = self.open.take() else { return };
        match self.outcome {
            Outcome::Failed => self.files.settler.discard(open),
            Outcome::Unknown => self.files.settler.add(open),
            Outcome::Committed => open.slot.into_iter().for_each(Slot::release),
        }
    }
}

fn record(file: &Triple, path: &str) -> Record {
    Record { userid: file.userid.clone(), fileid: file.fileid.clone(), path: path.to_owned() }
}
