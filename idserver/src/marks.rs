//! The high-water marks: for each key, the number below which this ID server never hands one out
//! again. They are this server's own memory beside the database: where the table falls back, because
//! a replica that lagged was promoted or an old backup was restored, the mark tells, and the table is
//! raised to it before numbers are used.
//!
//! Several servers of one host may share the directory. Those of one embedded database read each other's marks, so
//! that what one of them handed out is known to all of them. The head says which database a server has: others in
//! the directory are of other deployments, and their numbers are none of ours.
//!
//! The file is `id-<address>-<port>.marks` in the state directory, locked by the process that has it.
//! Slots of [`SLOT_BYTES`]: the first is the head, [`MAGIC`] and a [`Scope`] or zeros; then two for each key, written
//! in turn and synced each time. A slot that a power cut tore has the wrong checksum, and its twin
//! still holds the mark before; the one it would have told of was never used, since it was not synced.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | CRC-32 of the rest, big-endian |
//! | 4 | 1 | bytes of the key, 0: a free slot |
//! | 5 | 3 | zero |
//! | 8 | 8 | the mark, big-endian |
//! | 16 | | the key, zeros |

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use log::warn;
use rustix::fs::{Access, FlockOperation, access, flock};
use rustix::io::Errno;
use tnv_common::error::{Context, Result};
use tnv_common::fail;
use tnv_common::proto::IdKey;

/// 16 bytes and the longest key of 64, so that a slot never lies across two sectors of a disk.
const SLOT_BYTES: usize = 128;

/// What the file begins with; the digits are the version of its form.
const MAGIC: &[u8; 16] = b"TNV-ID-MARKS-001";

/// Most keys: as many as the table may have rows. The file then has 16 MiB.
const KEYS_MAX: usize = 65_536;

/// How long a lock that is held is waited for: a predecessor may be about to end.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Most neighbours whose marks are read: no host has as many ID servers.
const NEIGHBOURS_MAX: usize = 16;

/// New neighbours are looked for this often.
const NEIGHBOURS_INTERVAL: Duration = Duration::from_secs(1);

/// Which embedded database a server has: the length of the database directory's path, and its end.
type Scope = [u8; SLOT_BYTES - MAGIC.len()];

/// A pair of slots: all that is known of a key.
const PAIR_BYTES: usize = 2 * SLOT_BYTES;

/// The marks of one ID server.
pub struct Marks {
    path: String,
    directory: PathBuf,
    state: Mutex<State>,
    neighbours: Mutex<Neighbours>,
}

/// The other servers that have the same embedded database.
#[derive(Default)]
struct Neighbours {
    /// Where there is one.
    scope: Option<Scope>,
    /// By device and inode: one whose file was replaced has another one, and what the former one says still counts.
    known: BTreeMap<FileKey, Neighbour>,
    looked_at: Option<Instant>,
}

/// Which file a name stands for: its device and inode. It is no other one's while the file is open.
type FileKey = (u64, u64);

/// The file of another server of this host, which goes on writing it.
struct Neighbour {
    name: OsString,
    file: File,
    /// So many pairs have been looked at.
    seen: usize,
    /// Which pair is whose; it changes only where the file is written anew.
    pairs: HashMap<IdKey, usize>,
}

struct State {
    file: File,
    keys: HashMap<IdKey, Mark>,
}

#[derive(Clone, Copy)]
struct Mark {
    /// Which pair of slots is the key's.
    pair: usize,
    /// The one of the pair that is written next: not the one that holds the mark.
    next: usize,
    value: i64,
}

impl Marks {
    /// Opens the marks of the server that listens on this address, and makes what is missing.
    pub fn open(directory: &Path, address: SocketAddr) -> Result<Marks> {
        let path = directory.join(format!("id-{}-{}.marks", address.ip(), address.port()));
        let path = path.to_string_lossy().into_owned();
        let state = Mutex::new(State::open(directory, &path)?);
        Ok(Marks { path, directory: directory.to_owned(), state, neighbours: Mutex::default() })
    }

    /// What `--check` finds: whether the state directory can be made and written.
    pub fn check(directory: &Path) -> io::Result<()> {
        let existing = directory.ancestors().find(|path| path.exists()).filter(|path| *path != Path::new(""));
        let existing = existing.unwrap_or(Path::new("."));
        if !existing.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(access(existing, Access::WRITE_OK | Access::EXEC_OK)?)
    }

    /// No number below this one is handed out for the key; 0 where nothing is known of it. What cannot be
    /// read of a neighbour is left out: it refuses to start with such a file.
    pub fn of(&self, key: &IdKey) -> i64 {
        let own = self.state().keys.get(key).map_or(0, |mark| mark.value);
        let mut neighbours = self.neighbours();
        let Some(scope) = neighbours.scope else { return own };
        if neighbours.looked_at.is_none_or(|at| at.elapsed() >= NEIGHBOURS_INTERVAL) {
            if let Err(error) = self.find_neighbours(&scope, &mut neighbours.known) {
                warn!("look for marks of other ID servers in {}: {error}", self.directory.display());
            }
            neighbours.looked_at = Some(Instant::now());
        }
        let theirs = neighbours.known.values_mut().map(|neighbour| {
            neighbour.of(key).unwrap_or_else(|error| {
                warn!("read the marks in {}: {error}", self.directory.join(&neighbour.name).display());
                0
            })
        });
        theirs.fold(own, i64::max)
    }

    /// From now on servers that have the embedded database in this directory, which must be there, know each other's
    /// marks.
    pub fn share(&self, database: &Path) -> Result<()> {
        let path =
            database.canonicalize().context(|| format!("find out the path of {}", database.display()))?;
        let bytes = path.as_os_str().as_encoded_bytes();
        let mut scope: Scope = [0; SLOT_BYTES - MAGIC.len()];
        let end = &bytes[bytes.len().saturating_sub(scope.len() - 2)..];
        // A path has at most 4096 bytes.
        scope[..2].copy_from_slice(&(bytes.len() as u16).to_be_bytes());
        scope[2..2 + end.len()].copy_from_slice(end);
        let written = self.state().write_scope(&scope);
        written.context(|| format!("write {}", self.path))?;
        self.neighbours().scope = Some(scope);
        Ok(())
    }

    fn neighbours(&self) -> MutexGuard<'_, Neighbours> {
        self.neighbours.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the files of neighbours that are new. One that is gone is of a server that was taken away; what it
    /// handed out still counts.
    fn find_neighbours(&self, scope: &Scope, known: &mut BTreeMap<FileKey, Neighbour>) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_marks =
                name.to_str().is_some_and(|name| name.starts_with("id-") && name.ends_with(".marks"));
            let is_own = Path::new(&self.path).file_name() == Some(&name);
            if !is_marks || is_own {
                continue;
            }
            match self.find_neighbour(name, scope, known) {
                Ok(()) => {}
                // It is gone again, or of another database, which may belong to another user.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {}
                Err(error) => warn!("look at the marks in {}: {error}", entry.path().display()),
            }
        }
        Ok(())
    }

    fn find_neighbour(
        &self,
        name: OsString,
        scope: &Scope,
        known: &mut BTreeMap<FileKey, Neighbour>,
    ) -> io::Result<()> {
        let path = self.directory.join(&name);
        if known.contains_key(&file_key(&std::fs::metadata(&path)?)) {
            return Ok(());
        }
        let file = File::open(path)?;
        let mut head = [0; SLOT_BYTES];
        let read = file.read_at(&mut head, 0)?;
        if read < SLOT_BYTES || !head.starts_with(MAGIC) || !head.ends_with(scope) {
            return Ok(());
        }
        if known.len() >= NEIGHBOURS_MAX {
            return Err(io::Error::other(format!("left out, {NEIGHBOURS_MAX} others are read already")));
        }
        known.insert(file_key(&file.metadata()?), Neighbour { name, file, seen: 0, pairs: HashMap::new() });
        Ok(())
    }

    /// Notes durably that the numbers below `value` are used. A lower one than is known changes nothing.
    pub fn raise(&self, key: &IdKey, value: i64) -> Result<()> {
        let mut state = self.state();
        self.renew(&mut state)?;
        if let Some(mark) = state.write(key, value, &self.path)? {
            state.file.sync_data().context(|| format!("note the numbers of '{key}' in {}", self.path))?;
            state.keys.insert(key.clone(), mark);
        }
        Ok(())
    }

    /// Makes the file anew where the directory has it no longer, or has another one by its name. Without that the
    /// marks would go where neither the next start nor a neighbour finds them.
    fn renew(&self, state: &mut State) -> Result<()> {
        let own = state.file.metadata().context(|| format!("look at {}", self.path))?;
        if std::fs::metadata(&self.path).is_ok_and(|named| file_key(&named) == file_key(&own)) {
            return Ok(());
        }
        warn!("{} was moved, removed or replaced while this server runs: it is made anew", self.path);
        let mut fresh = State::open(&self.directory, &self.path)?;
        for (key, mark) in &state.keys {
            if let Some(mark) = fresh.write(key, mark.value, &self.path)? {
                fresh.keys.insert(key.clone(), mark);
            }
        }
        if let Some(scope) = self.neighbours().scope {
            fresh.write_scope(&scope).context(|| format!("write {}", self.path))?;
        }
        fresh.file.sync_all().context(|| format!("sync {}", self.path))?;
        *state = fresh;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The file that has this metadata.
fn file_key(metadata: &Metadata) -> FileKey {
    (metadata.dev(), metadata.ino())
}

impl State {
    /// Opens the file, and makes what is missing.
    fn open(directory: &Path, path: &str) -> Result<State> {
        std::fs::create_dir_all(directory)
            .context(|| format!("make the state directory {}", directory.display()))?;
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .context(|| format!("open {path}"))?;
        lock(&file, path)?;
        let mut bytes = Vec::new();
        let bytes_max = (SLOT_BYTES * (1 + 2 * KEYS_MAX)) as u64;
        Read::by_ref(&mut file)
            .take(bytes_max + 1)
            .read_to_end(&mut bytes)
            .context(|| format!("read {path}"))?;
        if bytes.len() as u64 > bytes_max {
            return fail!(Invalid, "{path} has over {bytes_max} bytes: {}", damaged());
        }
        let keys = decode(&bytes, path)?;
        if bytes.len() < SLOT_BYTES || bytes.iter().all(|byte| *byte == 0) {
            let mut head = [0; SLOT_BYTES];
            head[..MAGIC.len()].copy_from_slice(MAGIC);
            file.set_len(0).and_then(|()| file.write_all_at(&head, 0)).context(|| format!("write {path}"))?;
        }
        // What was read counts from now on: it must not be lost with the page cache.
        file.sync_all().context(|| format!("sync {path}"))?;
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .context(|| format!("sync the directory {}", directory.display()))?;
        Ok(State { file, keys })
    }

    fn write_scope(&self, scope: &Scope) -> io::Result<()> {
        self.file.write_all_at(scope, MAGIC.len() as u64)?;
        self.file.sync_data()
    }

    /// Writes a mark, which counts when it is synced. None where a higher one is there.
    fn write(&self, key: &IdKey, value: i64, path: &str) -> Result<Option<Mark>> {
        let mark = match self.keys.get(key) {
            Some(mark) if mark.value >= value => return Ok(None),
            Some(mark) => *mark,
            None if self.keys.len() >= KEYS_MAX => {
                return fail!(NoSpace, "{path} has its {KEYS_MAX} keys, no room for '{key}'");
            }
            None => Mark { pair: self.keys.len(), next: 0, value: 0 },
        };
        let offset = (1 + 2 * mark.pair + mark.next) * SLOT_BYTES;
        let written = self.file.write_all_at(&encode(key, value), offset as u64);
        written.context(|| format!("note the numbers of '{key}' in {path}"))?;
        Ok(Some(Mark { pair: mark.pair, next: 1 - mark.next, value }))
    }
}

impl Neighbour {
    /// The mark that the neighbour has of this key.
    fn of(&mut self, key: &IdKey) -> io::Result<i64> {
        if let Some(mark) = self.known(key)? {
            return Ok(mark);
        }
        // The file was written anew, or there are new pairs.
        if self.pairs.contains_key(key) {
            (self.seen, self.pairs) = (0, HashMap::new());
        }
        self.look()?;
        Ok(self.known(key)?.unwrap_or(0))
    }

    /// The same from the pair that is known to be the key's.
    fn known(&self, key: &IdKey) -> io::Result<Option<i64>> {
        let Some(pair) = self.pairs.get(key) else { return Ok(None) };
        let found = self.read(*pair)?.into_iter().filter(|(known, _)| known == key);
        Ok(found.map(|(_, value)| value).max())
    }

    /// Looks at the pairs that are new.
    fn look(&mut self) -> io::Result<()> {
        let bytes = usize::try_from(self.file.metadata()?.len()).unwrap_or(usize::MAX);
        // The last pair may have its first slot only.
        let count = bytes.saturating_sub(SLOT_BYTES).div_ceil(PAIR_BYTES).min(KEYS_MAX);
        while self.seen < count {
            match self.read(self.seen)?.into_iter().next() {
                Some((key, _)) => drop(self.pairs.insert(key, self.seen)),
                // It is being written for the first time; it is looked at again.
                None if self.seen + 1 == count => break,
                None => {}
            }
            self.seen += 1;
        }
        Ok(())
    }

    /// What the slots of a pair say, where they are whole.
    fn read(&self, pair: usize) -> io::Result<Vec<(IdKey, i64)>> {
        let mut bytes = [0; PAIR_BYTES];
        let mut filled = 0;
        let offset = SLOT_BYTES + pair * PAIR_BYTES;
        while filled < PAIR_BYTES {
            match self.file.read_at(&mut bytes[filled..], (offset + filled) as u64)? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(bytes[..filled].chunks(SLOT_BYTES).filter_map(decode_slot).collect())
    }
}

/// Keeps two processes from sharing the file.
fn lock(file: &File, path: &str) -> Result<()> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
            Err(Errno::WOULDBLOCK) => {
                return fail!(Busy, "{path} is in use: another ID server of this address runs");
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error)).context(|| format!("lock {path}")),
        }
    }
}

fn encode(key: &IdKey, value: i64) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    let text = key.as_str().as_bytes();
    // A key has at most 64 bytes.
    slot[4] = text.len() as u8;
    slot[8..16].copy_from_slice(&value.to_be_bytes());
    slot[16..16 + text.len()].copy_from_slice(text);
    let crc = crc32fast::hash(&slot[4..]);
    slot[..4].copy_from_slice(&crc.to_be_bytes());
    slot
}

/// What a slot says, where it is whole.
fn decode_slot(slot: &[u8]) -> Option<(IdKey, i64)> {
    let crc = u32::from_be_bytes(slot.get(..4)?.try_into().ok()?);
    let text = slot.get(16..16 + usize::from(*slot.get(4)?))?;
    if crc != crc32fast::hash(slot.get(4..)?) {
        return None;
    }
    let value = i64::from_be_bytes(slot.get(8..16)?.try_into().ok()?);
    let key = IdKey::new(std::str::from_utf8(text).ok()?).ok()?;
    Some((key, value)).filter(|(_, value)| *value >= 0)
}

/// All marks. What cannot be read is refused: going on without a mark is the operator's decision.
fn decode(bytes: &[u8], path: &str) -> Result<HashMap<IdKey, Mark>> {
    let mut keys = HashMap::new();
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(keys);
    }
    if bytes.len() >= SLOT_BYTES && !bytes.starts_with(MAGIC) {
        return fail!(Invalid, "{path} is no file of marks of this version: {}", damaged());
    }
    let pairs = bytes.get(SLOT_BYTES..).unwrap_or_default().chunks(2 * SLOT_BYTES);
    let last = pairs.len().saturating_sub(1);
    for (pair, slots) in pairs.enumerate() {
        let found = slots.chunks(SLOT_BYTES).enumerate().filter_map(|(which, slot)| {
            decode_slot(slot).map(|(key, value)| (key, Mark { pair, next: 1 - which, value }))
        });
        match found.max_by_key(|(_, mark)| mark.value) {
            Some((key, mark)) => drop(keys.insert(key, mark)),
            // The first mark of a new key that was cut off while it was written: nothing was used.
            None if pair == last
                && slots.get(SLOT_BYTES..).is_none_or(|twin| twin.iter().all(|byte| *byte == 0)) => {}
            None => {
                return fail!(Invalid, "{path}: the marks of key {} are damaged: {}", pair + 1, damaged());
            }
        }
    }
    Ok(keys)
}

fn damaged() -> impl std::fmt::Display {
    "see that id_value in t_id_gen is above every number in use, then move the file away"
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("tnv-marks-{name}-{}", std::process::id()));
            Scratch(path)
        }

        fn open(&self) -> Result<Marks> {
            Marks::open(&self.0, SocketAddr::from(([127, 0, 0, 1], 22000)))
        }

        fn file(&self) -> PathBuf {
            self.0.join("id-127.0.0.1-22000.marks")
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn key(text: &str) -> IdKey {
        IdKey::new(text).unwrap()
    }

    #[test]
    fn a_mark_is_there_again_after_a_restart_and_never_falls() {
        let scratch = Scratch::new("restart");
        let marks = scratch.open().unwrap();
        let long = "k".repeat(64);
        for value in [100, 300, 200] {
            marks.raise(&key("../data"), value).unwrap();
            marks.raise(&key(&long), value + 1).unwrap();
        }
        assert_eq!((marks.of(&key("../data")), marks.of(&key("other"))), (300, 0));
        drop(marks);
        let marks = scratch.open().unwrap();
        assert_eq!((marks.of(&key("../data")), marks.of(&key(&long))), (300, 301));
        marks.raise(&key("../data"), 400).unwrap();
        marks.raise(&key("third"), 7).unwrap();
        drop(marks);
        let marks = scratch.open().unwrap();
        let found = ["../data", &long, "third"].map(|name| marks.of(&key(name)));
        assert_eq!(found, [400, 301, 7]);
    }

    #[test]
    fn a_server_knows_the_marks_of_its_neighbours_as_they_are_written() {
        let scratch = Scratch::new("neighbours");
        let open = |port| {
            let marks = Marks::open(&scratch.0, SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
            marks.share(&scratch.0).unwrap();
            marks
        };
        let (first, second) = (open(1), open(2));
        assert_eq!(second.of(&key("a")), 0);
        first.raise(&key("a"), 100).unwrap();
        first.raise(&key("b"), 50).unwrap();
        assert_eq!([second.of(&key("a")), second.of(&key("b")), second.of(&key("c"))], [100, 50, 0]);
        for value in [200, 300, 400] {
            first.raise(&key("a"), value).unwrap();
            assert_eq!(second.of(&key("a")), value);
        }
        // Each its own, the higher one counts; one that comes later is known too, and one that has ended.
        second.raise(&key("a"), 350).unwrap();
        assert_eq!((first.of(&key("a")), second.of(&key("a"))), (400, 400));
        let third = open(3);
        drop(first);
        assert_eq!(third.of(&key("a")), 400);
        third.raise(&key("c"), 7).unwrap();
        thread::sleep(NEIGHBOURS_INTERVAL);
        assert_eq!(second.of(&key("c")), 7);
        // A server of another deployment on this host, and one that shares nothing.
        let other = Marks::open(&scratch.0, SocketAddr::from(([127, 0, 0, 1], 4))).unwrap();
        assert_eq!(other.of(&key("a")), 0);
        other.share(&std::env::temp_dir()).unwrap();
        assert_eq!(other.of(&key("a")), 0);
        other.raise(&key("a"), 9000).unwrap();
        thread::sleep(NEIGHBOURS_INTERVAL);
        assert_eq!(second.of(&key("a")), 400);
        // What is damaged there is passed over.
        let path = scratch.0.join("id-127.0.0.1-3.marks");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.iter_mut().skip(SLOT_BYTES).for_each(|byte| *byte ^= 0x55);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!((second.of(&key("c")), second.of(&key("a"))), (0, 400));
    }

    /// An operator moved a file of marks, or the directory, away; the servers made new ones.
    #[test]
    fn a_neighbour_is_known_by_its_new_file_and_its_former_one() {
        let scratch = Scratch::new("replaced");
        let open = |port| {
            let marks = Marks::open(&scratch.0, SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
            marks.share(&std::env::temp_dir()).unwrap();
            marks
        };
        let (first, second) = (open(1), open(2));
        first.raise(&key("a"), 100).unwrap();
        first.raise(&key("b"), 50).unwrap();
        assert_eq!([second.of(&key("a")), second.of(&key("b"))], [100, 50]);
        drop(first);
        std::fs::rename(scratch.0.join("id-127.0.0.1-1.marks"), scratch.0.join("away")).unwrap();
        let first = open(1);
        first.raise(&key("a"), 500).unwrap();
        thread::sleep(NEIGHBOURS_INTERVAL);
        assert_eq!([second.of(&key("a")), second.of(&key("b"))], [500, 50]);
        // Written anew in its place, with its keys in another order.
        let marks = Marks::open(&scratch.0.join("other"), SocketAddr::from(([127, 0, 0, 1], 1))).unwrap();
        marks.raise(&key("z"), 1).unwrap();
        marks.raise(&key("a"), 900).unwrap();
        let other = std::fs::read(scratch.0.join("other/id-127.0.0.1-1.marks")).unwrap();
        std::fs::write(scratch.0.join("id-127.0.0.1-1.marks"), other).unwrap();
        assert_eq!(second.of(&key("a")), 900);
    }

    #[test]
    fn marks_whose_directory_is_taken_away_are_written_anew() {
        let scratch = Scratch::new("taken");
        let open = |port| {
            let marks = Marks::open(&scratch.0, SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
            marks.share(&std::env::temp_dir()).unwrap();
            marks
        };
        let first = open(1);
        first.raise(&key("a"), 100).unwrap();
        first.raise(&key("b"), 50).unwrap();
        std::fs::remove_dir_all(&scratch.0).unwrap();
        first.raise(&key("a"), 200).unwrap();
        let second = open(2);
        assert_eq!([second.of(&key("a")), second.of(&key("b"))], [200, 50]);
        drop(first);
        let again = open(1);
        assert_eq!([again.of(&key("a")), again.of(&key("b"))], [200, 50]);
        // What another process has by that name is not written over.
        std::fs::remove_dir_all(&scratch.0).unwrap();
        let _other = open(1);
        let error = again.raise(&key("a"), 300).unwrap_err();
        assert!(error.message().contains("in use"), "{error}");
    }

    #[test]
    fn two_processes_cannot_share_the_marks() {
        let scratch = Scratch::new("lock");
        let _first = scratch.open().unwrap();
        let error = scratch.open().err().unwrap();
        assert!(error.message().contains("in use"), "{error}");
    }

    /// Whatever a power cut leaves of the write under way, the marks that were synced before count.
    #[test]
    fn a_torn_write_loses_only_the_mark_that_was_being_written() {
        let scratch = Scratch::new("torn");
        let marks = scratch.open().unwrap();
        marks.raise(&key("a"), 100).unwrap();
        marks.raise(&key("b"), 100).unwrap();
        drop(marks);
        let before = std::fs::read(scratch.file()).unwrap();
        let marks = scratch.open().unwrap();
        marks.raise(&key("b"), 200).unwrap();
        marks.raise(&key("c"), 100).unwrap();
        drop(marks);
        let after = std::fs::read(scratch.file()).unwrap();
        for cut in (before.len()..after.len()).chain([after.len()]) {
            std::fs::write(scratch.file(), &after[..cut]).unwrap();
            let marks = scratch.open().unwrap();
            assert_eq!(marks.of(&key("a")), 100, "{cut}");
            assert!([100, 200].contains(&marks.of(&key("b"))), "{cut}");
            assert!([0, 100].contains(&marks.of(&key("c"))), "{cut}");
        }
        let second_of_b = SLOT_BYTES * 4;
        for byte in second_of_b..second_of_b + SLOT_BYTES {
            let mut torn = after.clone();
            torn[byte] ^= 0x10;
            std::fs::write(scratch.file(), &torn).unwrap();
            assert_eq!(scratch.open().unwrap().of(&key("b")), 100, "{byte}");
        }
    }

    #[test]
    fn damage_is_refused_and_an_empty_file_begun_anew() {
        let scratch = Scratch::new("damage");
        let marks = scratch.open().unwrap();
        marks.raise(&key("a"), 100).unwrap();
        marks.raise(&key("a"), 200).unwrap();
        marks.raise(&key("b"), 200).unwrap();
        drop(marks);
        let whole = std::fs::read(scratch.file()).unwrap();
        let mut damaged = whole.clone();
        damaged[SLOT_BYTES + 20] ^= 1;
        damaged[2 * SLOT_BYTES + 20] ^= 1;
        std::fs::write(scratch.file(), &damaged).unwrap();
        let error = scratch.open().err().unwrap();
        assert!(error.message().contains("key 1 are damaged"), "{error}");
        let mut foreign = whole;
        foreign[0] = b'X';
        std::fs::write(scratch.file(), &foreign).unwrap();
        assert!(scratch.open().err().unwrap().message().contains("no file of marks"));
        for empty in [0, 50, 1000] {
            std::fs::write(scratch.file(), vec![0; empty]).unwrap();
            let marks = scratch.open().unwrap();
            marks.raise(&key("a"), 5).unwrap();
            drop(marks);
            assert_eq!(scratch.open().unwrap().of(&key("a")), 5);
        }
    }

    #[test]
    fn a_check_makes_nothing() {
        let scratch = Scratch::new("check");
        Marks::check(&scratch.0.join("a/b")).unwrap();
        assert!(!scratch.0.exists());
        Marks::check(Path::new("relative-and-absent")).unwrap();
        std::fs::create_dir_all(&scratch.0).unwrap();
        std::fs::write(scratch.0.join("file"), "").unwrap();
        assert!(Marks::check(&scratch.0.join("file/state")).is_err());
    }
}
