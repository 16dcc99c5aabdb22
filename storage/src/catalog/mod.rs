//! One TNV file as a whole: its row (`db`, `cache`), its number (`cluster::ids`) and its bytes (`file`).
//!
//! - `upload`: uploads and deletes, and the order that durability depends on.
//! - `find`: finding a file, and holding its row against what is on the disk.
//! - `evidence`: which disk a store path leads to, as far as the rows know.

pub mod evidence;
pub mod find;
pub mod upload;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use tnv_common::error::{Error, ErrorKind, Result};
use tnv_common::net::stop::Stop;
use tnv_common::proto::tnv::file_key::FileKey;
use tnv_common::proto::{FileId, UserId};

use crate::cache::Cache;
use crate::cluster::ids::Ids;
use crate::db::{Db, TABLES};
use crate::file::recovery::IsAbsent;
use crate::file::{Files, Owner};
use crate::globals::Globals;
use crate::volume::disk::Fsync;
use crate::volume::journal::JournalEntry;
use crate::volume::placement::Volumes;
use crate::volume::quarantine::Quarantine;
use crate::volume::state::VolumeOptions;
use evidence::RowSearch;
use find::Waiters;

/// The files of this storage, as users name them.
pub struct Catalog {
    db: Db,
    cache: Cache,
    ids: Ids,
    files: Arc<Files>,
    quarantine: Arc<Quarantine>,
    waiters: Waiters,
}

impl Catalog {
    /// Opens the store paths, and undoes what a predecessor that was killed left half done.
    pub fn new(globals: &Globals, db: Db, ids: Ids, stop: &Stop) -> Result<Catalog> {
        let settings = &globals.settings;
        let fsync = if settings.fsync { Fsync::Yes } else { Fsync::No };
        if fsync == Fsync::No {
            log::warn!("tnv_fsync = no: a power cut may take files that were acknowledged");
        }
        let paths = settings.store_paths.iter().map(|path| path.as_str());
        let quarantine = Arc::new(Quarantine::new(paths, &globals.member, TABLES));
        let pages = evidence::pages(&db, settings.group.as_str());
        let options = VolumeOptions {
            reserve: settings.reserve,
            member: globals.member.clone(),
            group: settings.group.to_string(),
            evidence: Arc::new(move || Box::new(RowSearch::new(Arc::clone(&pages)))),
            quarantine: Arc::clone(&quarantine),
        };
        let files = Files::open(&settings.store_paths, &options, fsync, is_absent(&db), stop)?;
        Ok(Catalog {
            db,
            cache: Cache::new(settings.cache_lifetime),
            ids,
            files: Arc::new(files),
            quarantine,
            waiters: Waiters::default(),
        })
    }

    /// The store paths, for those who look through them beside the service.
    pub fn volumes(&self) -> Arc<Volumes> {
        Arc::clone(self.files.volumes())
    }

    /// The files that are out of service.
    pub fn quarantine(&self) -> Arc<Quarantine> {
        Arc::clone(&self.quarantine)
    }
}

/// What the journal keeps of a file: the user and the file ID, which are enough to find its row.
fn owner(file: &FileKey) -> Owner {
    Owner { owner: file.userid.to_string(), name: file.fileid.to_string() }
}

/// Asks the database whether the file of an entry has no row and will get none.
fn is_absent(db: &Db) -> IsAbsent {
    let db = db.clone();
    Box::new(move |entry: &JournalEntry| match (UserId::new(&entry.owner), FileId::new(&entry.name)) {
        (Ok(userid), Ok(fileid)) => db.is_absent(&userid, &fileid, &entry.path),
        // No row can be of such a name.
        _ => Ok(true),
    })
}

/// The failure of a request for a file that does not exist, or is another user's.
pub fn no_such_file(file: &FileKey) -> Error {
    Error::new(ErrorKind::NotFound, format!("no such file, fileid: {}", file.fileid))
}
