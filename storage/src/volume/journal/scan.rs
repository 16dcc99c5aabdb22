//! All journals of a store path: which files they name, and which storages hold them.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::entry::JournalEntry;
use super::file::{has_head, read, try_lock};
use crate::globals::MemberName;
use crate::volume::heartbeat::{Heartbeat, Holder, Watch};

/// What the names of all journals begin with.
pub const PREFIX: &str = ".uploads-";

/// How often the journals are read anew where one goes meanwhile, because it is adopted.
const LISTS_MAX: usize = 16;

/// Whether a storage has ever used this store path.
pub fn is_store(store_path: &str) -> io::Result<bool> {
    Ok(!journals(store_path)?.is_empty())
}

/// Whether the holder of a journal has ended: it let go in good order, or another storage has taken over.
pub fn has_ended(path: &Path) -> io::Result<bool> {
    Ok(Heartbeat::read(&File::open(path)?)?.is_some_and(|heartbeat| heartbeat.count == 0))
}

/// What the journals of a store path say, of this host's storages and of others', which may be running.
#[derive(Default)]
pub struct Journals {
    /// The paths in the taken slots of journals that are held or may be. Files whose slots were taken before
    /// this was read and released after it was, are among them.
    pub open: Vec<String>,
    /// The same of journals whose holder is perhaps dead: a later look may show it.
    pub doubtful: Vec<String>,
    /// Journals that have taken slots and no holder, and how many slots.
    pub left: Vec<(String, usize)>,
}

impl Journals {
    /// Reads them all.
    pub fn read(store_path: &str, member: &MemberName, watch: &mut Watch) -> io::Result<Journals> {
        for _ in 0..LISTS_MAX {
            match Journals::read_once(store_path, member, watch) {
                // Its slots are now in another, which was perhaps read before; or it is being shortened.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => {}
                read => return read,
            }
        }
        Err(io::Error::other("storages come and go too fast; try again later"))
    }

    fn read_once(store_path: &str, member: &MemberName, watch: &mut Watch) -> io::Result<Journals> {
        let mut all = Journals::default();
        for path in journals(store_path)? {
            let file = File::open(&path)?;
            if !has_head(&file)? {
                continue;
            }
            let path = path.to_string_lossy();
            // The lock is let go of with the file.
            let is_free = try_lock(&file, FlockOperation::NonBlockingLockShared)?;
            let entries = read(&file)?;
            let mut entries = Some(entries);
            let holder = match is_free && entries.as_ref().is_some_and(|entries| !entries.is_empty()) {
                true => holder_of(&path, &file, &mut entries, member, watch)?,
                false => Holder::MayLive,
            };
            let entries = entries.unwrap_or_default();
            let has_heartbeat = is_free && Heartbeat::read(&file)?.is_some();
            if holder == Holder::Dead {
                all.left.push((path.into_owned(), entries.len()));
            } else {
                let paths = entries.into_iter().map(|(_, entry)| entry.path);
                let doubtful = has_heartbeat && holder == Holder::MayLive;
                if doubtful { all.doubtful.extend(paths) } else { all.open.extend(paths) }
            }
        }
        Ok(all)
    }
}

/// The holders of the journals in a store path, this storage's own among them, so far as they can be read.
pub fn holders(store_path: &str) -> io::Result<Vec<[u8; 16]>> {
    let read = |path: PathBuf| Heartbeat::read(&File::open(path).ok()?).ok()?;
    Ok(journals(store_path)?.into_iter().filter_map(read).map(|heartbeat| heartbeat.holder).collect())
}

/// `entries`: those of the journal, where they are known; they are read where they matter.
pub(super) fn holder_of(
    path: &str,
    file: &File,
    entries: &mut Option<Vec<(u32, JournalEntry)>>,
    member: &MemberName,
    watch: &mut Watch,
) -> io::Result<Holder> {
    let name = path.rsplit('/').next().and_then(|name| name.strip_prefix(PREFIX));
    let named_here = name.is_some_and(|name| member.is_of_this_host(name));
    watch.holder(path, file, named_here, &mut || {
        let entries = match entries {
            Some(entries) => entries,
            None => entries.insert(read(file)?),
        };
        Ok(entries.iter().map(|(_, entry)| entry.path.clone()).collect())
    })
}

pub(super) fn journals(store_path: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(store_path)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}
