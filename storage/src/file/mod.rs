//! The files: the only room that touches the disk. It knows no command and no connection; whichever
//! protocol asks, the same things are done in the same order.
//!
//! - [`paths`]: where a file lies.
//! - [`space`] and [`trust`]: the store paths, which of them work, and which of them is next; [`volume`]: whether
//!   one is the disk that it should be.
//! - [`journal`] and [`settle`]: nothing half done stays, whatever happens; [`heartbeat`]: which journals are held.
//! - [`disk`], [`writeback`], [`directories`] and [`directory_sync`]: what a failing disk is, directories, syncing.
//! - [`mod@write`]: uploads and deletes, and the order that durability depends on.
//! - [`send`]: finding and opening a file; [`verify`]: holding one against its row;
//!   [`damaged`]: those that are out of service.

pub mod directories;
pub mod directory_sync;
pub mod read;
pub mod recovery;
pub mod verify;
pub mod write;
pub mod writeback;

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tnv_common::error::{Context, Error, ErrorKind, Result};
use tnv_common::net::stop::Stop;
use tnv_common::net::worker_pool::Workers;
use tnv_common::proto::tnv::file_key::Triple;

use crate::cache::Cache;
use crate::cluster::ids::Ids;
use crate::db::{Db, Entry, Next};
use crate::file::directories::Directories;
use crate::file::read::Lookers;
use crate::file::recovery::Settler;
use crate::file::writeback::{FLUSHERS_MAX, FLUSHES_QUEUED_MAX};
use crate::globals::Globals;
use crate::volume::disk::{DiskError, Fsync};
use crate::volume::identity::{self, Claim, Page};
use crate::volume::placement::{Opening, Store, Stores};
use crate::volume::quarantine::Damaged;

#[cfg(test)]
mod tests;

/// How long the start may spend on what a predecessor left; what is open then is settled beside the
/// service.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(5);

/// The files of this storage.
pub struct Files {
    db: Db,
    cache: Cache,
    ids: Ids,
    stores: Arc<Stores>,
    damaged: Arc<Damaged>,
    fsync: Fsync,
    directories: Directories,
    settler: Arc<Settler>,
    flushers: Workers,
    lookers: Lookers,
}

impl Files {
    /// Opens the store paths, and undoes what a predecessor that was killed left half done.
    pub fn new(globals: &Globals, db: Db, ids: Ids, stop: &Stop) -> Result<Files> {
        let settings = &globals.settings;
        let fsync = if settings.fsync { Fsync::Yes } else { Fsync::No };
        if fsync == Fsync::No {
            log::warn!("tnv_fsync = no: a power cut may take files that were acknowledged");
        }
        let paths = settings.store_paths.iter().map(|path| path.as_str());
        let damaged = Arc::new(Damaged::new(paths, &globals.member));
        let opening = Opening {
            reserve: settings.reserve,
            member: globals.member.clone(),
            group: settings.group.to_string(),
            pages: pages(&db, settings.group.as_str()),
            damaged: Arc::clone(&damaged),
        };
        let (stores, left) = Stores::open(&settings.store_paths, &opening)?;
        let stores = Arc::new(stores);
        let settler = Arc::new(Settler::new(db.clone(), Arc::clone(&stores)));
        left.into_iter().for_each(|open| settler.add(open));
        if let Err(error) = settler.round(Some(Instant::now() + RECOVERY_TIMEOUT)) {
            log::warn!("uploads or deletes that were cut off stay open for now: {error}");
        }
        let (thread_settler, thread_stop) = (Arc::clone(&settler), stop.clone());
        thread::Builder::new()
            .name("settler".into())
            .spawn(move || thread_settler.run(&thread_stop))
            .context(|| "start the settler thread")?;
        let watch_settler = Arc::clone(&settler);
        stores.watch(stop, &(Arc::new(move |open| watch_settler.add(open)) as _))?;
        Ok(Files {
            db,
            cache: Cache::new(settings.cache_lifetime),
            ids,
            stores,
            damaged,
            fsync,
            directories: Directories::new(fsync)?,
            settler,
            flushers: Workers::new("flusher", FLUSHERS_MAX, FLUSHES_QUEUED_MAX)?,
            lookers: Lookers::default(),
        })
    }

    /// The store paths, for those who look through them beside the service.
    pub fn stores(&self) -> Arc<Stores> {
        Arc::clone(&self.stores)
    }

    /// The files that are out of service.
    pub fn damaged(&self) -> Arc<Damaged> {
        Arc::clone(&self.damaged)
    }

    /// Notes that a store path's disk failed, unless that was noted where it was met.
    fn failed(&self, store: &Store, failure: &DiskError) {
        // A file that may not be so large says nothing about its disk: all others can still go there.
        if failure.error.kind() != io::ErrorKind::FileTooLarge && !failure.reported {
            store.failed(failure);
        }
    }
}

/// The rows by which a store path is known: live ones of this group, and of no group, which existing storages
/// wrote.
fn pages(db: &Db, group: &str) -> Arc<identity::Pages> {
    let (db, group) = (db.clone(), group.to_owned());
    Arc::new(move |table, next: Next<'_>| {
        let page = db.next(table, next)?;
        let last = page.last().map(|entry| entry.id.clone());
        let may_be_own =
            |entry: &Entry| entry.live && entry.group.as_ref().is_none_or(|other| *other == group);
        let claim = |entry: Entry| Claim { is_own: entry.group.is_some(), file: entry.file };
        Ok(Page { last, claims: page.into_iter().filter(may_be_own).map(claim).collect() })
    })
}

/// The failure of whoever asks for a file that is not there, or is not his.
pub fn no_such_file(file: &Triple) -> Error {
    Error::new(ErrorKind::NotFound, format!("no such file, fileid: {}", file.fileid))
}
