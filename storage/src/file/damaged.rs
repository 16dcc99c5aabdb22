//! The files that are out of service on this storage because their content here is damaged, and a
//! small file that remembers them, and how far the scrub has come, over a restart.
//!
//! The file is `.scrub-<host>-<address>-<port>` in the first store path, beside the journal: each
//! storage has its own, since where the members of a group have copies the others' may be sound. It is
//! replaced as a whole. Its form: texts, each with a NUL behind it, which no text that is kept has in
//! it: [`MAGIC`], table and key that the scrub has reached, then table, key and path of each damaged
//! file.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tnv_common::wire::HostName;

use crate::db::TABLES;

const MAGIC: &str = "TNV-SCRUB-0001";

/// Most damaged files that are known at a time, some MiB of them: with more it is the disk that is to be
/// replaced, and they are told and served as they are, for readers to check.
const DAMAGED_MAX: usize = 10_000;

/// The longest such file: more than all of its texts at their longest.
const BYTES_MAX: u64 = 16 << 20;

/// Where a row is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct At {
    /// The table, as an index.
    pub table: usize,
    /// The key; empty before the first.
    pub id: String,
}

/// What is known of damage, in memory. Readers ask it for each file.
pub struct Damaged {
    path: PathBuf,
    /// By path, which is unique to an upload.
    rows: Mutex<BTreeMap<String, At>>,
}

impl Damaged {
    /// What the storage of this name knew when it ended, and how far its scrub had come.
    pub fn open(store_path: &str, host: &HostName, address: SocketAddr) -> (Damaged, At) {
        let name = format!(".scrub-{host}-{}-{}", address.ip(), address.port()).replace('/', "_");
        let path = Path::new(store_path).join(name);
        let (rows, reached) = match load(&path) {
            Ok(kept) => kept,
            Err(error) => {
                log::error!("read {}: {error}; what was known of damaged files is lost", path.display());
                Default::default()
            }
        };
        if !rows.is_empty() {
            log::error!("{} damaged files are out of service here", rows.len());
        }
        (Damaged { path, rows: Mutex::new(rows) }, reached)
    }

    /// Whether the file is out of service.
    pub fn has(&self, path: &str) -> bool {
        self.rows().contains_key(path)
    }

    /// Takes a file out of service; false where there is no room for it.
    pub fn add(&self, path: &str, at: At) -> bool {
        let mut rows = self.rows();
        let room = rows.len() < DAMAGED_MAX && !path.contains('\0') && !at.id.contains('\0');
        if room {
            rows.insert(path.to_owned(), at);
        }
        room
    }

    /// Puts it back, or forgets it.
    pub fn remove(&self, path: &str) {
        self.rows().remove(path);
    }

    /// All of them.
    pub fn all(&self) -> Vec<(String, At)> {
        self.rows().iter().map(|(path, at)| (path.clone(), at.clone())).collect()
    }

    /// Keeps it all over a restart.
    pub fn save(&self, reached: &At) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut push = |text: &str| {
            bytes.extend_from_slice(text.as_bytes());
            bytes.push(0);
        };
        let id = if reached.id.contains('\0') { "" } else { &reached.id };
        [MAGIC, &reached.table.to_string(), id].into_iter().for_each(&mut push);
        for (path, at) in self.all() {
            [&at.table.to_string(), &at.id, &path].into_iter().for_each(|text| push(text));
        }
        let mut temporary = self.path.clone().into_os_string();
        temporary.push(".new");
        let mut file = File::create(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }

    fn rows(&self) -> MutexGuard<'_, BTreeMap<String, At>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn load(path: &Path) -> io::Result<(BTreeMap<String, At>, At)> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(BYTES_MAX).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Default::default()),
        Err(error) => return Err(error),
    };
    parse(&bytes)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it has not the form of such a file"))
}

fn parse(bytes: &[u8]) -> Option<(BTreeMap<String, At>, At)> {
    let mut texts = std::str::from_utf8(bytes).ok()?.strip_suffix('\0')?.split('\0');
    let at = |table: &str, id: &str| {
        let table = table.parse().ok().filter(|table| *table < TABLES)?;
        Some(At { table, id: id.to_owned() })
    };
    if texts.next()? != MAGIC {
        return None;
    }
    let reached = at(texts.next()?, texts.next()?)?;
    let mut rows = BTreeMap::new();
    while let Some(table) = texts.next() {
        let at = at(table, texts.next()?)?;
        rows.insert(texts.next()?.to_owned(), at);
        if rows.len() > DAMAGED_MAX {
            return None;
        }
    }
    Some((rows, reached))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn open(scratch: &Scratch) -> (Damaged, At) {
        let address = SocketAddr::from(([127, 0, 0, 1], 23000));
        Damaged::open(scratch.path().to_str().unwrap(), &HostName::new("a/host").unwrap(), address)
    }

    #[test]
    fn what_is_damaged_is_known_after_a_restart() {
        let scratch = Scratch::new();
        let (damaged, reached) = open(&scratch);
        assert_eq!((damaged.all().len(), reached), (0, At::default()));
        let at = |id: &str| At { table: 2, id: id.to_owned() };
        assert!(damaged.add("p1", at("a\nb")) && damaged.add("p2", at("c")));
        assert!(!damaged.add("p\0", at("d")) && !damaged.add("p3", at("\0")));
        damaged.remove("p2");
        damaged.save(&at("x")).unwrap();
        let (damaged, reached) = open(&scratch);
        assert_eq!(damaged.all(), [("p1".to_owned(), at("a\nb"))]);
        assert_eq!(reached, at("x"));
        assert!(damaged.has("p1") && !damaged.has("p2"));
    }

    #[test]
    fn it_is_bounded_and_what_is_no_such_file_is_not_believed() {
        let scratch = Scratch::new();
        let (damaged, _) = open(&scratch);
        assert!((0..DAMAGED_MAX).all(|number| damaged.add(&format!("p{number}"), At::default())));
        assert!(!damaged.add("one more", At::default()));
        damaged.save(&At::default()).unwrap();
        assert_eq!(open(&scratch).0.all().len(), DAMAGED_MAX);
        let whole = fs::read(&damaged.path).unwrap();
        for end in [0, 1, 14, 20, whole.len() - 1] {
            assert_eq!(parse(&whole[..end]), None, "{end}");
        }
        for bad in ["", "x\0", "TNV-SCRUB-0001\x003\0\0", "TNV-SCRUB-0001\x000\0\x000\0a\0"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
