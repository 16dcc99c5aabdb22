//! Files on volumes: created, written, read, synced and removed, with their journal. Nothing here knows a row, a number
//! or a protocol: a file has a path, and an owner and a name that only the layer above understands.
//!
//! - [`create`]: files on their way in, and removals that are noted.
//! - [`read`]: a file that is there as it is known; [`verify`]: holding one against what is known of it.
//! - [`recovery`]: what a kill or a failure left half done.
//! - [`directories`], [`directory_sync`], [`writeback`]: directories, and what makes names and content durable.

pub mod create;
pub mod directories;
pub mod directory_sync;
pub mod read;
pub mod recovery;
pub mod verify;
pub mod writeback;

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tnv_common::error::{Context, Result};
use tnv_common::net::stop::Stop;
use tnv_common::net::worker_pool::Workers;
use tnv_common::proto::IdKey;

use crate::volume::disk::{DiskError, Fsync};
use crate::volume::journal::{JournalEntry, PendingOp};
use crate::volume::placement::Volumes;
use crate::volume::state::{Volume, VolumeOptions};
use directories::Directories;
use recovery::{IsAbsent, Recovery};
use writeback::{FLUSHERS_MAX, FLUSHES_QUEUED_MAX};

/// How long the start may spend on what a predecessor left; what is open then is decided beside the service.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(5);

/// What is known of a stored file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFile {
    /// Where its content lies.
    pub path: String,
    /// How many bytes it has.
    pub size: u64,
    /// The CRC-32 of its content, where it is known.
    pub crc32: Option<u32>,
}

/// Whose a file is, and its name with that owner, as the journal keeps them for recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The owner.
    pub owner: String,
    /// The name.
    pub name: String,
}

impl Owner {
    fn entry(&self, path: &str) -> JournalEntry {
        JournalEntry { owner: self.owner.clone(), name: self.name.clone(), path: path.to_owned() }
    }
}

/// The files of this storage.
pub struct Files {
    volumes: Arc<Volumes>,
    fsync: Fsync,
    directories: Directories,
    recovery: Arc<Recovery>,
    flushers: Workers,
}

impl Files {
    /// Opens the store paths, and undoes what a predecessor that was killed left half done.
    pub fn open(
        store_paths: &[IdKey],
        options: &VolumeOptions,
        fsync: Fsync,
        is_absent: IsAbsent,
        stop: &Stop,
    ) -> Result<Files> {
        let (volumes, left) = Volumes::open(store_paths, options)?;
        let files = Files::new(Arc::new(volumes), fsync, is_absent)?;
        let Files { volumes, recovery, .. } = &files;
        left.into_iter().for_each(|op| recovery.add(op));
        if let Err(error) = recovery.round(Some(Instant::now() + RECOVERY_TIMEOUT)) {
            log::warn!("uploads or deletes that were cut off stay open for now: {error}");
        }
        let (thread_recovery, thread_stop) = (Arc::clone(recovery), stop.clone());
        thread::Builder::new()
            .name("recovery".into())
            .spawn(move || thread_recovery.run(&thread_stop))
            .context(|| "start the recovery thread")?;
        let watch_recovery = Arc::clone(recovery);
        volumes.watch(stop, &(Arc::new(move |op| watch_recovery.add(op)) as _))?;
        Ok(files)
    }

    /// On open store paths, without the threads that look after them.
    pub fn new(volumes: Arc<Volumes>, fsync: Fsync, is_absent: IsAbsent) -> Result<Files> {
        Ok(Files {
            recovery: Arc::new(Recovery::new(is_absent, Arc::clone(&volumes))),
            volumes,
            fsync,
            directories: Directories::new(fsync)?,
            flushers: Workers::new("flusher", FLUSHERS_MAX, FLUSHES_QUEUED_MAX)?,
        })
    }

    /// The store paths.
    pub fn volumes(&self) -> &Arc<Volumes> {
        &self.volumes
    }

    /// Removes a file that nothing refers to, now or as soon as it can be.
    pub fn discard(&self, op: PendingOp) {
        self.recovery.discard(op);
    }

    /// Finds out whether anything refers to a file, and removes it where nothing does.
    pub fn recover(&self, op: PendingOp) {
        self.recovery.add(op);
    }

    /// What decides about files whose fate is open.
    #[cfg(test)]
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// Notes that a store path's disk failed, unless that was noted where it was met.
    fn failed(&self, store: &Volume, failure: &DiskError) {
        // A file that may not be so large says nothing about its disk: all others can still go there.
        if failure.error.kind() != io::ErrorKind::FileTooLarge && !failure.reported {
            store.failed(failure);
        }
    }
}
