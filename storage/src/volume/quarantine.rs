//! The files that are out of service on this storage because their content here is damaged, and a
//! small file in each store path that remembers them, and how far the scrub has come, over a restart.
//!
//! The list is `.scrub-<member>` in the store path whose files it names, beside the journal: each storage has
//! its own, since where the members of a group have copies the others' may be sound. It is read when the
//! store path is opened, however late that is, and not written before: a disk that comes late keeps what its
//! list says. It is replaced as a whole. Its form: texts, each with a NUL behind it, which no text that is
//! kept has in it: [`MAGIC`], table and key that the scrub has reached, then table, key and path of each
//! damaged file.
//!
//! Previous versions kept one list, in the first store path, for all of them. What it names of other store
//! paths moves to their own lists, and leaves the first one when it stands in those.
//!
//! **A list without a journal of the same name beside it has no owner**: its member has ended, and the
//! journal was taken over. Any member that serves the store path takes over the list, too. Whether a file is
//! damaged for it is seen when it reads the file again, which it does soon.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::globals::MemberName;
use crate::path;
use crate::volume::disk;
use crate::volume::journal;

const MAGIC: &str = "TNV-SCRUB-0001";

/// What the names of all lists begin with.
const PREFIX: &str = ".scrub-";

/// What the name of a list ends with that is being written.
const NEW: &str = ".new";

/// What the name of a file ends with that is no list and was put aside.
const BAD: &str = ".bad";

/// Most damaged files that are known at a time, some MiB of them: with more it is the disk that is to be
/// replaced, and they are logged and served as they are, for readers to check.
const DAMAGED_MAX: usize = 10_000;

/// The longest such file: more than all of its texts at their longest.
const BYTES_MAX: u64 = 16 << 20;

/// Lists of others that are remembered as taken over; with more, some are taken over once more.
const TAKEN_MAX: usize = 1024;

/// Where a row is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct At {
    /// The table, as an index.
    pub table: usize,
    /// The key; empty before the first.
    pub id: String,
}

/// What is known of damage, in memory. Readers ask it for each file.
pub struct Quarantine {
    member: MemberName,
    /// A list that names another table is none of ours.
    tables: usize,
    state: Mutex<State>,
    /// For each store path: held while its list is written.
    saving: Vec<Mutex<()>>,
}

struct State {
    /// By path, which is unique to an upload.
    rows: BTreeMap<String, Known>,
    /// Of each store path.
    lists: Vec<List>,
    reached: At,
    /// Lists of others that were taken over and stay, as they were then.
    taken: BTreeMap<PathBuf, SystemTime>,
}

/// A damaged file.
struct Known {
    at: At,
    /// The list that it belongs to, as an index.
    home: usize,
    /// The list that it stood in before, until it stands in the other one.
    before: Option<usize>,
}

struct List {
    store_path: String,
    /// It was read, so that it may be written.
    is_open: bool,
    /// It is not as it should be on the disk.
    is_changed: bool,
}

impl Quarantine {
    /// Of these store paths, none of which has been opened, and rows of so many tables.
    pub fn new<'a>(
        store_paths: impl Iterator<Item = &'a str>,
        member: &MemberName,
        tables: usize,
    ) -> Quarantine {
        let list =
            |path| List { store_path: path::plain(path).to_owned(), is_open: false, is_changed: false };
        let lists: Vec<_> = store_paths.map(list).collect();
        let saving = lists.iter().map(|_| Mutex::default()).collect();
        let state = State { rows: BTreeMap::new(), lists, reached: At::default(), taken: BTreeMap::new() };
        Quarantine { member: member.clone(), tables, state: Mutex::new(state), saving }
    }

    /// A store path was opened: what its list says counts from now on. Where the list cannot be read it stays
    /// untouched, and is read at the next call.
    pub fn open(&self, store_path: &str) -> io::Result<()> {
        let Some(index) = self.state().lists.iter().position(|list| list.store_path == store_path) else {
            return Ok(());
        };
        if self.state().lists[index].is_open {
            return Ok(());
        }
        let path = PathBuf::from(self.member.file_in(store_path, PREFIX));
        let (rows, reached) = match load(&path, self.tables) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let aside = with_end(&path, BAD);
                fs::rename(&path, &aside)?;
                let (path, aside) = (path.display(), aside.display());
                log::error!(
                    "{path} is no list of damaged files; it is {aside} now, and the scrub has to find them anew"
                );
                Default::default()
            }
            loaded => loaded?,
        };
        let mut state = self.state();
        let is_first = state.lists.iter().all(|list| !list.is_open);
        state.lists[index].is_open = true;
        if is_first {
            state.reached = reached;
        }
        if !rows.is_empty() {
            log::error!("store path '{store_path}': {} damaged files are out of service here", rows.len());
        }
        state.merge(index, rows);
        Ok(())
    }

    /// Takes over the lists in a store path that have no owner.
    pub fn adopt(&self, store_path: &str) -> io::Result<()> {
        let Some(index) = self.state().lists.iter().position(|list| list.store_path == store_path) else {
            return Ok(());
        };
        for entry in fs::read_dir(store_path)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(member) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
            if member == self.member.as_str() || member.ends_with(NEW) || member.ends_with(BAD) {
                continue;
            }
            let journal = Path::new(store_path).join(format!("{}{member}", journal::PREFIX));
            // Of a storage that has ended and may come back from another host its list stays, and counts here, too.
            let may_return = journal.try_exists()?;
            if may_return && (!journal::has_ended(&journal)? || self.has_taken(&entry)?) {
                continue;
            }
            let (rows, _) = match load(&entry.path(), self.tables) {
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    fs::rename(entry.path(), with_end(&entry.path(), BAD))?;
                    continue;
                }
                loaded => loaded?,
            };
            let (path, count) = (entry.path(), rows.len());
            if count > 0 {
                let mut state = self.state();
                state.merge(index, rows);
                state.lists[index].is_changed = true;
            }
            self.save_one(index, &|_| Ok(()))?;
            if !may_return {
                if journal.try_exists()? {
                    continue;
                }
                fs::remove_file(&path)?;
            }
            log::warn!(
                "{count} damaged files of {}, which no storage holds any more, are out of service here",
                path.display()
            );
        }
        Ok(())
    }

    /// Whether a list was taken over as it is now; notes that it is.
    fn has_taken(&self, entry: &fs::DirEntry) -> io::Result<bool> {
        let changed = entry.metadata()?.modified()?;
        let taken = &mut self.state().taken;
        if taken.len() >= TAKEN_MAX {
            taken.clear();
        }
        Ok(taken.insert(entry.path(), changed) == Some(changed))
    }

    /// Whether the file is out of service.
    pub fn has(&self, path: &str) -> bool {
        self.state().rows.contains_key(path)
    }

    /// Takes a file out of service; false where there is no room for it.
    pub fn add(&self, path: &str, at: At) -> bool {
        let mut state = self.state();
        let room = state.rows.len() < DAMAGED_MAX && !path.contains('\0') && !at.id.contains('\0');
        if room {
            let home = state.home_of(path, 0);
            state.lists[home].is_changed = true;
            state.rows.insert(path.to_owned(), Known { at, home, before: None });
        }
        room
    }

    /// Puts it back, or forgets it.
    pub fn remove(&self, path: &str) {
        let mut state = self.state();
        if let Some(Known { home, before, .. }) = state.rows.remove(path) {
            [Some(home), before].into_iter().flatten().for_each(|index| state.lists[index].is_changed = true);
        }
    }

    /// All of them.
    pub fn all(&self) -> Vec<(String, At)> {
        self.state().rows.iter().map(|(path, known)| (path.clone(), known.at.clone())).collect()
    }

    /// Whether something is to be saved.
    pub fn is_changed(&self) -> bool {
        self.state().lists.iter().any(|list| list.is_open && list.is_changed)
    }

    /// How far the scrub had come when this was saved.
    pub fn reached(&self) -> At {
        self.state().reached.clone()
    }

    /// Notes how far the scrub has come, to be saved with the rest.
    pub fn reach(&self, reached: At) {
        let mut state = self.state();
        if let Some(first) = state.lists.iter_mut().find(|list| list.is_open) {
            first.is_changed = true;
        }
        state.reached = reached;
    }

    /// Keeps what has changed over a restart, in the store paths whose disks are there. The first failure is
    /// returned when all were tried.
    pub fn save(&self, is_there: &dyn Fn(&str) -> io::Result<()>) -> io::Result<()> {
        let mut outcome = Ok(());
        // A second time for what then leaves the list that it stood in.
        for _ in 0..2 {
            let lists = self.state().lists.len();
            for index in 0..lists {
                outcome = outcome.and(self.save_one(index, is_there));
            }
        }
        outcome
    }

    fn save_one(&self, index: usize, is_there: &dyn Fn(&str) -> io::Result<()>) -> io::Result<()> {
        // The scrub and the thread of the store path save: one at a time, and the later one what is newer.
        let _saving = self.saving[index].lock().unwrap_or_else(PoisonError::into_inner);
        let changed = self.state().take_changed(index);
        let Some((store_path, bytes)) = changed else { return Ok(()) };
        let path = PathBuf::from(self.member.file_in(&store_path, PREFIX));
        let saved = is_there(&store_path).and_then(|()| write(&path, &bytes));
        let mut state = self.state();
        match saved {
            Ok(()) => state.saved(index),
            Err(_) => state.lists[index].is_changed = true,
        }
        saved.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The list for a file: its own store path's, or, as long as that one is not open, the one that is given
    /// or the first open one.
    fn home_of(&self, path: &str, given: usize) -> usize {
        let holds = |list: &List| path::is_below(&list.store_path, path);
        let own = (0..self.lists.len()).filter(|index| holds(&self.lists[*index]));
        let own = own.max_by_key(|index| self.lists[*index].store_path.len());
        let is_open = |index: &usize| self.lists[*index].is_open;
        let open = own.filter(is_open).or(Some(given).filter(is_open));
        open.or_else(|| (0..self.lists.len()).find(is_open)).or(own).unwrap_or(given)
    }

    /// What a list says that was just read; and what was kept elsewhere for its store path comes home.
    fn merge(&mut self, index: usize, rows: BTreeMap<String, At>) {
        for (path, at) in rows {
            if self.rows.len() < DAMAGED_MAX {
                self.rows.entry(path).or_insert(Known { at, home: index, before: None });
            }
        }
        let homes: Vec<_> = self.rows.iter().map(|(path, known)| self.home_of(path, known.home)).collect();
        for (known, home) in self.rows.values_mut().zip(homes) {
            if known.home != home {
                known.before = Some(known.home);
                known.home = home;
                self.lists[home].is_changed = true;
            }
        }
    }

    /// The store path and the content of a list that is to be written.
    fn take_changed(&mut self, index: usize) -> Option<(String, Vec<u8>)> {
        let list = &mut self.lists[index];
        if !list.is_open || !std::mem::take(&mut list.is_changed) {
            return None;
        }
        let store_path = list.store_path.clone();
        let mut bytes = Vec::new();
        let mut push = |text: &str| {
            bytes.extend_from_slice(text.as_bytes());
            bytes.push(0);
        };
        let is_first = self.lists.iter().position(|list| list.is_open) == Some(index);
        let nothing = At::default();
        let reached = if is_first { &self.reached } else { &nothing };
        let id = if reached.id.contains('\0') { "" } else { &reached.id };
        [MAGIC, &reached.table.to_string(), id].into_iter().for_each(&mut push);
        let is_in = |known: &Known| known.home == index || known.before == Some(index);
        for (path, known) in self.rows.iter().filter(|(_, known)| is_in(known)) {
            [&known.at.table.to_string(), &known.at.id, path].into_iter().for_each(|text| push(text));
        }
        Some((store_path, bytes))
    }

    /// What has come home leaves the list that it stood in.
    fn saved(&mut self, index: usize) {
        for known in self.rows.values_mut().filter(|known| known.home == index) {
            if let Some(before) = known.before.take() {
                self.lists[before].is_changed = true;
            }
        }
    }
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(end);
    name.into()
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    disk::replace_file(path, &with_end(path, NEW), bytes)
}

fn load(path: &Path, tables: usize) -> io::Result<(BTreeMap<String, At>, At)> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(BYTES_MAX).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Default::default()),
        Err(error) => return Err(error),
    };
    parse(&bytes, tables)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it has not the form of such a file"))
}

fn parse(bytes: &[u8], tables: usize) -> Option<(BTreeMap<String, At>, At)> {
    let mut texts = std::str::from_utf8(bytes).ok()?.strip_suffix('\0')?.split('\0');
    let at = |table: &str, id: &str| {
        let table = table.parse().ok().filter(|table| *table < tables)?;
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
    use std::net::SocketAddr;
    use tnv_common::proto::HostName;

    /// A storage of two store paths.
    struct Member {
        scratch: Scratch,
        name: MemberName,
    }

    impl Member {
        fn new() -> Member {
            let address = SocketAddr::from(([127, 0, 0, 1], 23000));
            let name = MemberName::new(None, &HostName::new("a/host").unwrap(), address);
            let member = Member { scratch: Scratch::new(), name };
            ["a", "b"].iter().for_each(|store| fs::create_dir(member.store(store)).unwrap());
            member
        }

        fn store(&self, name: &str) -> String {
            self.scratch.path().join(name).to_str().unwrap().to_owned()
        }

        fn file(&self, store: &str, number: usize) -> String {
            format!("{}/000/000/000/1_{number:03X}", self.store(store))
        }

        fn list(&self, store: &str) -> String {
            self.name.file_in(&self.store(store), PREFIX)
        }

        /// What its lists say when these store paths were opened.
        fn start(&self, volumes: &[&str]) -> Quarantine {
            let all = [self.store("a"), self.store("b")];
            let damaged = Quarantine::new(all.iter().map(String::as_str), &self.name, 3);
            volumes.iter().for_each(|store| damaged.open(&self.store(store)).unwrap());
            damaged
        }
    }

    fn at(id: &str) -> At {
        At { table: 2, id: id.to_owned() }
    }

    fn save(damaged: &Quarantine) {
        damaged.save(&|_| Ok(())).unwrap();
    }

    #[test]
    fn what_is_damaged_is_known_after_a_restart() {
        let member = Member::new();
        let damaged = member.start(&["a", "b"]);
        assert_eq!((damaged.all().len(), damaged.reached()), (0, At::default()));
        let (one, two) = (member.file("a", 1), member.file("b", 2));
        assert!(damaged.add(&one, at("a\nb")) && damaged.add(&two, at("c")));
        assert!(!damaged.add("p\0", at("d")) && !damaged.add("p3", at("\0")));
        damaged.reach(at("x"));
        save(&damaged);
        assert!(!damaged.is_changed());
        let damaged = member.start(&["a", "b"]);
        assert_eq!(damaged.all(), [(one.clone(), at("a\nb")), (two.clone(), at("c"))]);
        assert_eq!(damaged.reached(), at("x"));
        damaged.remove(&two);
        save(&damaged);
        let damaged = member.start(&["a", "b"]);
        assert!(damaged.has(&one) && !damaged.has(&two));
    }

    /// The disk of the first store path was mounted after the start: the list was taken for empty, files that
    /// were known to be damaged were served again, and the empty list was written over the other one.
    #[test]
    fn a_disk_that_comes_late_brings_its_list_and_keeps_it() {
        let member = Member::new();
        let damaged = member.start(&["a", "b"]);
        let (one, two, three) = (member.file("a", 1), member.file("b", 2), member.file("a", 3));
        damaged.add(&one, at("1"));
        save(&damaged);
        let damaged = member.start(&["b"]);
        assert!(!damaged.has(&one), "its disk is not there");
        damaged.add(&two, at("2"));
        // Known although its own list is not open.
        damaged.add(&three, at("3"));
        damaged.reach(at("x"));
        save(&damaged);
        // A kill here loses nothing.
        assert_eq!(member.start(&["b"]).all().len(), 2);
        damaged.open(&member.store("a")).unwrap();
        assert!(damaged.has(&one) && damaged.has(&two) && damaged.has(&three));
        save(&damaged);
        assert_eq!(member.start(&["a"]).all(), [(one, at("1")), (three, at("3"))]);
        assert_eq!(member.start(&["b"]).all(), [(two, at("2"))]);
    }

    #[test]
    fn a_list_that_cannot_be_written_is_written_later_and_is_in_no_other_ones_way() {
        let member = Member::new();
        let damaged = member.start(&["a", "b"]);
        damaged.add(&member.file("a", 1), at("1"));
        damaged.add(&member.file("b", 2), at("2"));
        let away = member.store("a");
        let is_there = |store: &str| match store == away {
            true => Err(io::Error::other("not mounted")),
            false => Ok(()),
        };
        assert!(damaged.save(&is_there).is_err() && damaged.is_changed());
        assert_eq!(member.start(&["a", "b"]).all().len(), 1);
        save(&damaged);
        assert_eq!(member.start(&["a", "b"]).all().len(), 2);
    }

    /// As previous versions wrote it: in the first store path, for all of them.
    #[test]
    fn the_one_list_of_a_previous_version_is_read_and_divided() {
        let member = Member::new();
        let (one, two) = (member.file("a", 1), member.file("b", 2));
        let elsewhere = "/gone/000/000/000/1_001".to_owned();
        let old = format!("{MAGIC}\x001\0key\x002\x001\0{one}\x002\x002\0{two}\x002\x003\0{elsewhere}\0");
        fs::write(member.list("a"), old).unwrap();
        let damaged = member.start(&["a"]);
        assert_eq!((damaged.all().len(), damaged.reached().id.as_str()), (3, "key"));
        damaged.reach(at("y"));
        save(&damaged);
        assert_eq!(member.start(&["a"]).all().len(), 3, "the other one is not open");
        damaged.open(&member.store("b")).unwrap();
        save(&damaged);
        assert_eq!(member.start(&["b"]).all(), [(two, at("2"))]);
        assert_eq!(member.start(&["a"]).all(), [(elsewhere, at("3")), (one, at("1"))]);
    }

    #[test]
    fn a_list_without_an_owner_is_taken_over_and_one_with_a_journal_is_not() {
        let member = Member::new();
        let (one, two) = (member.file("a", 1), member.file("a", 2));
        let list = |path: &str| format!("{MAGIC}\x000\0\x002\x001\0{path}\0");
        let store = PathBuf::from(member.store("a"));
        fs::write(store.join(".scrub-old-10.0.0.1-23000"), list(&one)).unwrap();
        fs::write(store.join(".scrub-other-10.0.0.2-23000"), list(&two)).unwrap();
        fs::write(store.join(".uploads-other-10.0.0.2-23000"), "").unwrap();
        let damaged = member.start(&["a", "b"]);
        damaged.adopt(&member.store("a")).unwrap();
        assert!(damaged.has(&one) && !damaged.has(&two));
        assert!(!store.join(".scrub-old-10.0.0.1-23000").exists());
        assert!(store.join(".scrub-other-10.0.0.2-23000").exists());
        assert!(member.start(&["a"]).has(&one), "it was saved before");
    }

    #[test]
    fn it_is_bounded_and_what_is_no_such_file_is_put_aside() {
        let member = Member::new();
        let damaged = member.start(&["a", "b"]);
        assert!((0..DAMAGED_MAX).all(|number| damaged.add(&format!("p{number}"), At::default())));
        assert!(!damaged.add("one more", At::default()));
        save(&damaged);
        assert_eq!(member.start(&["a"]).all().len(), DAMAGED_MAX);
        let whole = fs::read(member.list("a")).unwrap();
        for end in [0, 1, 14, 20, whole.len() - 1] {
            assert_eq!(parse(&whole[..end], 3), None, "{end}");
        }
        for bad in ["", "x\0", "TNV-SCRUB-0001\x003\0\0", "TNV-SCRUB-0001\x000\0\x000\0a\0"] {
            assert_eq!(parse(bad.as_bytes(), 3), None, "{bad:?}");
        }
        fs::write(member.list("a"), "no list").unwrap();
        let damaged = member.start(&["a"]);
        damaged.add(&member.file("a", 1), at("1"));
        save(&damaged);
        assert_eq!(fs::read(format!("{}{BAD}", member.list("a"))).unwrap(), b"no list");
    }
}
