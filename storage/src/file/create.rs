//! Files on their way in: created in the best volume that takes them, written, synced, and then kept or removed as what
//! refers to them demands. The order of steps, and why, is in `catalog::upload`.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use tnv_common::error::{Error, ErrorKind, Result};
use tnv_common::fail;
use tnv_common::proto::IdKey;

use super::writeback::Writeback;
use super::{Files, Owner, StoredFile};
use crate::path::Place;
use crate::volume::disk::{self, DiskError, DiskHealth, DiskResult};
use crate::volume::journal::{PendingOp, Slot};
use crate::volume::reservation::SpaceReservation;
use crate::volume::state::Volume;

/// How many places are tried for one file in a store path. That a file of a fresh number is there already takes an
/// ID database that was lost and began anew, and the very same second.
const PLACES_MAX: usize = 4;

/// From this size on, space is allocated before content is read: then it either suffices, or
/// another store path can take the file.
const ALLOCATE_BYTES_MIN: u64 = 1 << 20;

/// What the sync of a directory that has a new name is called where it fails.
const WHAT: &str = "sync the directory of the";

/// Gives the place of a new file in a store path, a fresh one at each call.
pub type NewPlace<'a> = dyn Fn(&IdKey) -> Result<Place> + 'a;

/// Whether something refers to a file that was on its way in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Certainly not: the file is removed.
    Failed,
    /// Perhaps: recovery finds out.
    Unknown,
    /// Certainly: the file stays.
    Committed,
}

/// A file on its way in. Dropping it leaves things as its outcome demands.
pub struct PendingFile {
    files: Arc<Files>,
    store: Arc<Volume>,
    place: Place,
    reservation: SpaceReservation,
    received: u64,
    crc: crc32fast::Hasher,
    /// Taken when the file is synced.
    flush: Option<Writeback>,
    /// Taken when it is dropped.
    op: Option<PendingOp>,
    /// What becomes of the file when this is dropped.
    pub outcome: Outcome,
}

impl Files {
    /// An empty file in the best store path that takes one of so many bytes.
    pub fn create(self: &Arc<Files>, owner: &Owner, size: u64, place: &NewPlace<'_>) -> Result<PendingFile> {
        let name = &owner.name;
        let mut failure = None;
        let candidates = self.volumes.candidates(size);
        let no_store = |error: Error| Error::new(error.kind(), format!("{error}, fileid: {name}"));
        for store in candidates.map_err(no_store)? {
            let Some(reservation) = store.reserve(size) else { continue };
            match self.create_in(&store, reservation, owner, size, place)? {
                Ok(pending) => return Ok(pending),
                Err(fault) => {
                    self.failed(&store, &fault);
                    let what = format_args!("no store path works, fileid: {name}, {}", fault.what);
                    failure = Some(disk::error(what, &fault.error));
                }
            }
        }
        match failure {
            Some(error) => Err(error),
            None => fail!(NoSpace, "no store path has room for {size} bytes, fileid: {name}"),
        }
    }

    /// The inner failure is the store path's, and another one may do; the outer one is final.
    fn create_in(
        self: &Arc<Files>,
        store: &Arc<Volume>,
        reservation: SpaceReservation,
        owner: &Owner,
        size: u64,
        place: &NewPlace<'_>,
    ) -> Result<std::result::Result<PendingFile, DiskError>> {
        for _ in 0..PLACES_MAX {
            let place = place(store.path())?;
            match self.create_at(store, &reservation, &place, owner) {
                Ok((op, created)) => {
                    let flush = Writeback::new(created, self.fsync, &self.flushers, reservation.volume());
                    let mut pending = PendingFile {
                        files: Arc::clone(self),
                        store: Arc::clone(store),
                        place,
                        reservation,
                        received: 0,
                        crc: crc32fast::Hasher::new(),
                        flush: Some(flush),
                        op: Some(op),
                        outcome: Outcome::Failed,
                    };
                    let allocated = pending.allocate(size).map_err(|error| DiskError::of("allocate", error));
                    return Ok(allocated.map(|()| pending));
                }
                Err(fault) if fault.error.kind() == io::ErrorKind::AlreadyExists => {
                    log::error!("{} is there already: does the ID server repeat numbers?", place.path);
                }
                Err(error) => return Ok(Err(error)),
            }
        }
        let path = store.path();
        fail!(Internal, "{PLACES_MAX} fresh numbers of '{path}' were all taken, fileid: {}", owner.name)
    }

    fn create_at(
        &self,
        store: &Arc<Volume>,
        reservation: &SpaceReservation,
        place: &Place,
        owner: &Owner,
    ) -> DiskResult<(PendingOp, File)> {
        let fault = |error| DiskError::of("use the journal", error);
        let Some(journal) = store.journal() else { return Err(fault(io::Error::other("it has none"))) };
        let entry = owner.entry(&place.path);
        let slot = journal.take(&entry).map_err(fault)?;
        let volume = Arc::clone(store) as Arc<dyn DiskHealth>;
        let created = match self.directories.create_file(place, &volume, reservation.error_epoch()) {
            Ok(created) => created,
            Err(error) => {
                // Nothing was created, so there is nothing to remove.
                slot.release();
                return Err(error);
            }
        };
        let op = PendingOp { slot: Some(slot), entry };
        match journal.check() {
            Ok(()) => Ok((op, created)),
            Err(error) => {
                self.recovery.discard(op);
                Err(fault(error))
            }
        }
    }

    /// Notes that a file is to be removed, where a journal has room for it: a full disk must not keep anyone from
    /// deleting.
    pub fn note(&self, owner: &Owner, path: &str) -> PendingOp {
        let entry = owner.entry(path);
        let slot = self.volumes.journal_of(path).and_then(|journal| {
            journal.take(&entry).inspect_err(|error| log::warn!("note the delete of {path}: {error}")).ok()
        });
        PendingOp { slot, entry }
    }
}

impl PendingFile {
    /// Bytes that were written.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The CRC-32 of what was written.
    pub fn crc32(&self) -> u32 {
        self.crc.clone().finalize()
    }

    /// Writes the next bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.crc.update(bytes);
        self.received += bytes.len() as u64;
        self.write_to_disk(bytes).map_err(|fault| self.failed(&fault))
    }

    /// Gets the space for a large file, where the file system can.
    fn allocate(&mut self, size: u64) -> io::Result<()> {
        let Some(flush) = self.flush.as_ref().filter(|_| size >= ALLOCATE_BYTES_MIN) else { return Ok(()) };
        loop {
            match fallocate(flush.file(), FallocateFlags::empty(), 0, size) {
                Ok(()) => {
                    self.reservation.written(size);
                    return Ok(());
                }
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn write_to_disk(&mut self, bytes: &[u8]) -> DiskResult<()> {
        let write_fault = |error| DiskError::of("write", error);
        let Some(flush) = &mut self.flush else { return Err(write_fault(io::Error::other("closed"))) };
        flush.file().write_all(bytes).map_err(write_fault)?;
        self.reservation.written(bytes.len() as u64);
        flush.wrote(bytes.len() as u64)
    }

    /// Makes it durable, with its name.
    pub fn sync(&mut self) -> Result<StoredFile> {
        let volume = Arc::clone(&self.store) as Arc<dyn DiskHealth>;
        let directory = self.files.directories.syncs().begin(WHAT, self.place.directory(), &volume);
        if let Some(flush) = self.flush.take() {
            flush.finish().map_err(|fault| self.failed(&fault))?;
        }
        directory.wait().map_err(|fault| self.failed(&fault))?;
        // After all syncs, and with the number from before the file had a name: a sync of the directory that failed
        // for somebody else has been counted before ours began, and then ours proves nothing (see `directory_sync`).
        if self.reservation.is_outlived() {
            return Err(self.outlived());
        }
        if self.store.error_epoch() != self.reservation.error_epoch()
            || !self.slot().is_some_and(Slot::is_held)
        {
            return fail!(Unavailable, "the disk failed during the upload, fileid: {}", self.name());
        }
        Ok(StoredFile { path: self.place.path.clone(), size: self.received, crc32: Some(self.crc32()) })
    }

    /// The disk failed under this file: others are sent elsewhere. Not so where it was mounted anew since: the mount
    /// that failed is gone.
    fn failed(&self, fault: &DiskError) -> Error {
        if self.reservation.is_outlived() {
            return self.outlived();
        }
        self.files.failed(&self.store, fault);
        disk::error(format_args!("{} file fail, fileid: {}", fault.what, self.name()), &fault.error)
    }

    fn outlived(&self) -> Error {
        let fileid = self.name();
        let what = format!(
            "the store path was mounted anew or its journal was lost during the upload, fileid: {fileid}"
        );
        Error::new(ErrorKind::Unavailable, what)
    }

    /// Whether the slot is still this storage's, asked of the journal that has it and not of one that was opened in its
    /// place.
    pub fn holds_slot(&self) -> bool {
        self.slot().is_some_and(Slot::verify)
    }

    fn slot(&self) -> Option<&Slot> {
        self.op.as_ref()?.slot.as_ref()
    }

    fn name(&self) -> &str {
        self.op.as_ref().map_or("", |op| op.entry.name.as_str())
    }
}

impl Drop for PendingFile {
    fn drop(&mut self) {
        let Some(op) = self.op.take() else { return };
        match self.outcome {
            Outcome::Failed => self.files.recovery.discard(op),
            Outcome::Unknown => self.files.recovery.add(op),
            Outcome::Committed => op.release(),
        }
    }
}
