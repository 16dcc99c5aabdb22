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
//!    other way round, a kill in between would leave an unknown file.
//! 4. **The directories are made and synced** where they are not known, **the file is created** with
//!    O_EXCL. Should it be there it is somebody else's: the slot is released, nothing is removed, and
//!    the next number is tried. **The journal is looked at again**: where it is not in its place, the
//!    mount has gone and the file is on the disk below. Up to here another store path can still
//!    take the file.
//! 5. **The content is received**, with its checksum, which must be the expected one if there is one. The file is under its final name, but no row
//!    names it, so it cannot be seen half done.
//! 6. **The file is synced**, and at the same time **the directory** that has its name, once for all who have
//!    new names there (see `file::directory_sync`). Both come before the row: a row that survives a power loss must find its
//!    file whole, under its name.
//! 7. **The row is committed.** This is the moment at which the file exists. The table's primary key
//!    decides between two uploads of one ID.
//!    Afterwards **the journal is looked at once more**: where another storage has taken it over meanwhile, as that of one
//!    that had ended, the row is deleted again and the upload fails (see `volume::heartbeat`).
//! 8. **The slot is released.** Not before the row: the journal's rule would then have nothing to go
//!    by. Not after the reply: a slot of a file that is acknowledged should not linger.
//! 9. **The reply is sent**, by the service.
//!
//! Steps 4 and 6 sync as far as `tnv_fsync` says. A sync that fails is not repeated: the file is given
//! up, and so is whatever was on its way to the same store path at that moment: each upload keeps from step 2 how
//! the error epoch of the volume, a thread that meets a failure reports it before any upload is answered, and
//! at the end of step 6 the number must be the same.
//!
//! Whatever fails before step 7 removes the file, then releases the slot; a kill leaves the slot,
//! and the next start does the same. Where step 7 fails for certain, likewise. Where its outcome is
//! unknown the file and the slot stay until the database has given a certain answer (see `file::recovery`):
//! removing the file might lose one whose row was committed, keeping it would leave an orphan.
//!
//! A delete goes the other way: slot, row, file, slot. Once the row is gone so is the file for
//! everybody; a kill before it is removed leaves the slot, and the same rule removes it.

use std::sync::Arc;

use tnv_common::error::{ErrorKind, Result};
use tnv_common::fail;
use tnv_common::proto::tnv::file_key::FileKey;
use tnv_common::rpc::receive::Receiver;

use super::{Catalog, no_such_file, owner};
use crate::file::create::{Outcome, PendingFile};
use crate::globals::now;
use crate::path::{self, Place};

/// From this size on, the ID is looked up before content is read.
const LOOK_UP_BYTES_MIN: u64 = 1 << 20;

/// An upload under way: its content is written as it comes. Dropped before it is finished it leaves nothing.
pub struct PendingUpload {
    catalog: Arc<Catalog>,
    pending: PendingFile,
    file: FileKey,
    size: u64,
    /// The CRC-32 that the content must have, where one is given.
    expected: Option<u32>,
}

impl Receiver for PendingUpload {
    /// Step 5.
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.pending.write(bytes)
    }

    /// Steps 6 to 8: returns when the file is durable and visible.
    fn finish(self: Box<Self>) -> Result<Vec<u8>> {
        let PendingUpload { catalog, mut pending, file, size, expected } = *self;
        if pending.received() != size {
            return fail!(Protocol, "the content ended after {} of {size} bytes", pending.received());
        }
        let crc32 = pending.crc32();
        if let Some(expected) = expected.filter(|expected| *expected != crc32) {
            return fail!(
                Mismatch,
                "the content has the CRC-32 {crc32:08x}, want {expected:08x}: it was damaged on the way; nothing \
                 was stored, fileid: {}",
                file.fileid
            );
        }
        let row = pending.sync()?;
        // From here on an upload that is dropped, even by a panic, is left to recovery.
        pending.outcome = Outcome::Unknown;
        // A delete may come as soon as the row is there.
        let epoch = catalog.cache.epoch(&file);
        match catalog.db.insert(&file, &row) {
            // Another member that took the journal over had it marked before it looked for the row. Where there is no
            // mark after the commit, it has found the row or will find it.
            Ok(()) if pending.holds_slot() => {
                pending.outcome = Outcome::Committed;
                catalog.cache.put(epoch, &file, &row);
                Ok(Vec::new())
            }
            Ok(()) => {
                if catalog.db.delete(&file, &row.path).is_ok() {
                    pending.outcome = Outcome::Failed;
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
                    pending.outcome = Outcome::Failed;
                }
                Err(error)
            }
        }
    }
}

impl Catalog {
    /// Begins to store a file of so many bytes, and with this CRC-32 where one is given: steps 1 to 4.
    pub fn upload(
        self: &Arc<Catalog>,
        file: FileKey,
        size: u64,
        expected: Option<u32>,
    ) -> Result<PendingUpload> {
        if size >= LOOK_UP_BYTES_MIN {
            self.db.check_free(&file)?;
        }
        let place = |store_path: &_| Ok(Place::new(store_path, self.ids.next(store_path)?, now()));
        let pending = self.files.create(&owner(&file), size, &place)?;
        Ok(PendingUpload { catalog: Arc::clone(self), pending, file, size, expected })
    }

    /// Removes a file. The row decides: once it is gone the delete is acknowledged, also where the file
    /// itself cannot be removed yet, because its disk is read-only or not mounted; recovery then goes
    /// on trying. Until the file goes, a member that has the row in its cache still serves it, for
    /// at most `redis_key_timeout` from when it last asked the database; this member does not.
    pub fn delete(&self, file: &FileKey) -> Result<()> {
        // Not the cache: what goes must be what the database says now.
        let Some(row) = self.db.find(file)? else { return Err(no_such_file(file)) };
        path::check(&row.path)?;
        let op = self.files.note(&owner(file), &row.path);
        match self.db.delete(file, &row.path) {
            Ok(true) => {
                self.cache.remove(file);
                self.files.discard(op);
                Ok(())
            }
            Ok(false) => {
                // Another delete was faster; the file is that one's to remove.
                op.release();
                Err(no_such_file(file))
            }
            Err(error) => {
                self.cache.remove(file);
                if error.kind() == ErrorKind::OutcomeUnknown {
                    self.files.recover(op);
                } else {
                    op.release();
                }
                Err(error)
            }
        }
    }
}
