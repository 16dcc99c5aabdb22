//! What a power loss can leave on the disk: a record of everything that servers did to their files, and the
//! states that a crash at any moment of it may leave.
//!
//! # The model
//!
//! It is what a journaled POSIX file system promises and nothing more, so that what holds here holds on ext4, XFS
//! and the like, whatever order they write in:
//!
//! - An fsync or fdatasync of a file that returned makes the data and the size durable that the file had when
//!   the call began. It does not make the file's name durable.
//! - An fsync of a directory that returned makes the entries durable that were made or removed in it before the
//!   call began: names of files and of directories alike.
//! - What no sync has covered may be there or not, each thing independently of each other: every sector of 512
//!   bytes of a file has any of the contents that it had since the last sync (so a write may be torn), the size
//!   is any that the file had, and where the size is there and the data is not, there are zeros. Changes
//!   of one name happen in their order, and a rename wholly or not at all. What follows a truncation in a file is
//!   lost with it.
//! - A call that had not returned counts as done and not durable.
//!
//! Left out: sectors that were durable and go bad, old content of freed blocks in new files, and disks that
//! acknowledge a flush without one. SQLite's `-shm` file is shared memory, whose changes no call shows; it is not in
//! any state, which SQLite allows for.
//!
//! # The record
//!
//! strace writes the calls with all data and with times in microseconds. Records of several processes are merged by
//! these times: of two calls of which one waits for the other, the times are in that order.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::dir::Dir;
use crate::fuzz::Random;
use crate::strace::can_trace;
use crate::tools::{PATIENCE, patient};

/// A moment, in microseconds since 1970, on the clock that strace prints.
pub type Micros = i64;

/// What a disk writes wholly or not at all.
const SECTOR_BYTES: usize = 512;

/// The longest data of one call that a record shows: more than any server writes at once.
const DATA_BYTES_MAX: usize = 8 << 20;

/// The calls that change files, and those that say which file a descriptor is open on.
const CALLS: [&str; 37] = [
    "open",
    "openat",
    "creat",
    "close",
    "dup",
    "dup2",
    "dup3",
    "fcntl",
    "lseek",
    "read",
    "write",
    "writev",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "sendfile",
    "copy_file_range",
    "splice",
    "truncate",
    "ftruncate",
    "fallocate",
    "fsync",
    "fdatasync",
    "sync_file_range",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
    "unlink",
    "unlinkat",
    "rename",
    "renameat",
    "renameat2",
    "mkdir",
    "mkdirat",
    "rmdir",
    "mmap",
];

/// Now, on the clock that strace prints.
pub fn now() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_micros()).expect("before the year 294000")
}

/// The records of servers, one of each run.
pub struct Recorder {
    dir: Dir,
}

impl Recorder {
    /// None where servers cannot be recorded on this machine, which is then reported.
    pub fn new(test: &str) -> Option<Recorder> {
        if !can_trace(test) {
            return None;
        }
        Some(Recorder { dir: Dir::new("record") })
    }

    /// The command that a server is started by to be recorded. With -D it keeps its process number, and what
    /// kills it does not reach strace.
    pub fn wrapper(&self) -> Vec<String> {
        let strace = format!(
            "exec strace -D -f -ttt -T -xx -s {DATA_BYTES_MAX} -e trace={} -o \"$0/$$\" \"$@\"",
            CALLS.join(",")
        );
        ["sh", "-c", &strace, self.dir.path().to_str().expect("UTF-8")].map(str::to_owned).into()
    }

    /// The records of servers that have all ended, once strace has written them wholly.
    #[track_caller]
    pub fn finish(&self) -> Vec<String> {
        let mut records = Vec::new();
        for entry in
            fs::read_dir(self.dir.path()).expect("list records").map(|entry| entry.expect("an entry"))
        {
            let start = format!("{} ", entry.file_name().display());
            let mut text = String::new();
            patient("strace to finish its record", PATIENCE, || {
                text = fs::read_to_string(entry.path()).expect("read a record");
                text.lines().any(|line| line.starts_with(&start) && line.contains(" +++ "))
            });
            records.push(text);
        }
        records
    }
}

/// Everything that was done to the files below a directory.
pub struct History {
    inodes: Vec<Kind>,
    changes: Vec<Change>,
    /// Of each inode, when a sync began and ended.
    syncs: HashMap<usize, Vec<(Micros, Micros)>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    File,
}

/// The directory that everything is below.
const ROOT: usize = 0;

struct Change {
    /// From when on a crash may find it.
    at: Micros,
    /// From when on a sync covers it.
    done: Micros,
    what: What,
}

enum What {
    Write {
        file: usize,
        offset: usize,
        bytes: Vec<u8>,
    },
    /// A truncation.
    Shrink {
        file: usize,
        bytes: usize,
    },
    /// Zeros at the end.
    Grow {
        file: usize,
        bytes: usize,
    },
    /// Names of directories that change together: what each then means.
    Names(Vec<(Name, Option<usize>)>),
}

/// A name in a directory.
type Name = (usize, String);

/// Of what is not durable, how many percent are there after the crash.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// Of the changes of names.
    pub names: usize,
    /// Of the sectors that were written.
    pub data: usize,
    /// Of the changes of sizes.
    pub sizes: usize,
}

/// Files and directories as a crash left them.
pub struct State {
    directories: HashMap<usize, BTreeMap<String, usize>>,
    contents: HashMap<usize, Vec<u8>>,
}

/// One system call of a record.
struct Call {
    record: usize,
    name: String,
    args: String,
    returned: i64,
    begin: Micros,
    end: Micros,
}

impl History {
    /// What servers that ran in a directory did below `root`. The directories that were there before are
    /// durable.
    pub fn read(root: &Path, cwd: &Path, records: &[String], before: &[PathBuf]) -> History {
        let calls: Vec<_> =
            records.iter().enumerate().flat_map(|(index, record)| parse(record, index)).collect();
        let mut reader = Reader {
            root,
            cwd,
            inodes: vec![Kind::Directory],
            names: HashMap::from([(ROOT, BTreeMap::new())]),
            open: HashMap::new(),
            changes: Vec::new(),
            syncs: HashMap::new(),
        };
        for directory in before {
            reader.make_baseline(directory);
        }
        // A call is looked at when it begins where it uses a descriptor, and when it has ended where it makes
        // something.
        let mut order: Vec<_> = calls
            .iter()
            .map(|call| (if call.is_seen_at_end() { call.end } else { call.begin }, call))
            .collect();
        order.sort_by_key(|(time, call)| (*time, call.begin));
        for (_, call) in order {
            reader.take(call);
        }
        let mut changes = reader.changes;
        changes.sort_by_key(|change| change.at);
        History { inodes: reader.inodes, changes, syncs: reader.syncs }
    }

    /// How many changes and how many syncs there are.
    pub fn size(&self) -> (usize, usize) {
        (self.changes.len(), self.syncs.values().map(Vec::len).sum())
    }

    /// The moments at which something becomes different for a crash.
    pub fn moments(&self) -> Vec<Micros> {
        let changes = self.changes.iter().flat_map(|change| [change.at, change.done]);
        let syncs = self.syncs.values().flatten().map(|(_, end)| *end);
        let mut moments: Vec<_> = changes.chain(syncs).collect();
        moments.sort_unstable();
        moments.dedup();
        moments
    }

    /// The last changes before a moment, in words, to see what a state is about.
    pub fn describe(&self, at: Micros) -> String {
        let end = self.changes.partition_point(|change| change.at <= at);
        let last = &self.changes[end.saturating_sub(8)..end];
        last.iter()
            .map(|change| format!("  {} µs before: {}\n", at.saturating_sub(change.at), self.words(change)))
            .collect()
    }

    fn words(&self, change: &Change) -> String {
        let name_of = |inode: usize| {
            let named = self.changes.iter().find_map(|change| match &change.what {
                What::Names(names) => {
                    names.iter().find(|(_, now)| *now == Some(inode)).map(|((_, name), _)| name)
                }
                _ => None,
            });
            named.map_or("?", String::as_str)
        };
        match &change.what {
            What::Write { file, offset, bytes } => {
                format!("{} bytes at {offset} of {}", bytes.len(), name_of(*file))
            }
            What::Shrink { file, bytes } => format!("{} cut to {bytes} bytes", name_of(*file)),
            What::Grow { file, bytes } => format!("{} grown to {bytes} bytes", name_of(*file)),
            What::Names(names) => names
                .iter()
                .map(|((_, name), now)| format!("{name} {}", if now.is_some() { "made" } else { "removed" }))
                .collect(),
        }
    }

    /// What a crash at a moment may leave: one of many, chosen by the seed of `random`.
    pub fn state(&self, at: Micros, kept: Kept, random: &mut Random) -> State {
        let done = &self.changes[..self.changes.partition_point(|change| change.at <= at)];
        let synced = |inode: usize, change: &Change| {
            let covers = |&(begin, end): &(Micros, Micros)| change.done <= begin && end <= at;
            self.syncs.get(&inode).is_some_and(|syncs| syncs.iter().any(covers))
        };
        let mut chance = |percent: usize| random.below(100) < percent;

        // Backwards: what is durable has everything before it of the same names.
        let mut durable_names = HashSet::new();
        let mut durable = vec![false; done.len()];
        for (index, change) in done.iter().enumerate().rev() {
            durable[index] = match &change.what {
                What::Write { file, .. } | What::Shrink { file, .. } | What::Grow { file, .. } => {
                    synced(*file, change)
                }
                What::Names(names) => {
                    let is =
                        names.iter().any(|(name, _)| synced(name.0, change) || durable_names.contains(name));
                    if is {
                        durable_names.extend(names.iter().map(|(name, _)| name));
                    }
                    is
                }
            };
        }

        let mut state =
            State { directories: HashMap::from([(ROOT, BTreeMap::new())]), contents: HashMap::new() };
        let mut files: HashMap<usize, FileState> = HashMap::new();
        let mut lost_names = HashSet::new();
        for (change, durable) in done.iter().zip(durable) {
            match &change.what {
                What::Names(names) => {
                    let follows_lost = names.iter().any(|(name, _)| lost_names.contains(name));
                    if !durable && (follows_lost || !chance(kept.names)) {
                        lost_names.extend(names.iter().map(|(name, _)| name));
                        continue;
                    }
                    for ((directory, name), now) in names {
                        let entries = state.directories.entry(*directory).or_default();
                        match now {
                            Some(inode) => entries.insert(name.clone(), *inode),
                            None => entries.remove(name),
                        };
                    }
                }
                What::Write { file, offset, bytes } => {
                    let keeps_size = durable || chance(kept.sizes);
                    files
                        .entry(*file)
                        .or_default()
                        .write(*offset, bytes, keeps_size, || durable || chance(kept.data));
                }
                What::Shrink { file, bytes } => {
                    files.entry(*file).or_default().shrink(*bytes, durable || chance(kept.sizes));
                }
                What::Grow { file, bytes } => {
                    files.entry(*file).or_default().grow(*bytes, durable || chance(kept.sizes));
                }
            }
        }
        for (inode, kind) in self.inodes.iter().enumerate() {
            match kind {
                Kind::Directory => drop(state.directories.entry(inode).or_default()),
                Kind::File => {
                    let mut file = files.remove(&inode).unwrap_or_default();
                    file.disk.resize(file.size, 0);
                    state.contents.insert(inode, file.disk);
                }
            }
        }
        state
    }
}

/// A file during a replay: what programs saw, and what the disk will have.
#[derive(Default)]
struct FileState {
    seen: Vec<u8>,
    disk: Vec<u8>,
    /// On the disk.
    size: usize,
    /// A truncation is lost, and with it what comes after it.
    frozen: bool,
}

impl FileState {
    fn write(
        &mut self,
        offset: usize,
        bytes: &[u8],
        keeps_size: bool,
        mut keeps_sector: impl FnMut() -> bool,
    ) {
        let end = offset + bytes.len();
        self.seen.resize(self.seen.len().max(end), 0);
        self.seen[offset..end].copy_from_slice(bytes);
        if self.frozen {
            return;
        }
        for start in (offset / SECTOR_BYTES * SECTOR_BYTES..end).step_by(SECTOR_BYTES) {
            if keeps_sector() {
                let stop = (start + SECTOR_BYTES).min(self.seen.len());
                self.disk.resize(self.disk.len().max(stop), 0);
                self.disk[start..stop].copy_from_slice(&self.seen[start..stop]);
            }
        }
        if keeps_size {
            self.size = self.seen.len();
        }
    }

    fn shrink(&mut self, bytes: usize, keeps: bool) {
        self.seen.truncate(bytes);
        if keeps && !self.frozen {
            self.disk.truncate(bytes);
            self.size = self.size.min(bytes);
        } else {
            self.frozen = true;
        }
    }

    fn grow(&mut self, bytes: usize, keeps: bool) {
        self.seen.resize(self.seen.len().max(bytes), 0);
        if keeps && !self.frozen {
            self.size = self.size.max(bytes);
        }
    }
}

impl State {
    /// Makes it in a directory.
    pub fn write(&self, to: &Path) {
        self.write_directory(ROOT, to);
    }

    fn write_directory(&self, inode: usize, to: &Path) {
        fs::create_dir_all(to).expect("make a directory");
        for (name, inode) in &self.directories[&inode] {
            let path = to.join(name);
            match self.contents.get(inode) {
                Some(_) if name.ends_with("-shm") => {}
                Some(content) => fs::write(path, content).expect("write a file"),
                None => self.write_directory(*inode, &path),
            }
        }
    }
}

/// A record on its way into a history.
struct Reader<'a> {
    root: &'a Path,
    cwd: &'a Path,
    inodes: Vec<Kind>,
    /// As programs see them.
    names: HashMap<usize, BTreeMap<String, usize>>,
    /// By record and descriptor.
    open: HashMap<(usize, i64), Rc<RefCell<Open>>>,
    changes: Vec<Change>,
    syncs: HashMap<usize, Vec<(Micros, Micros)>>,
}

/// An open file.
struct Open {
    inode: usize,
    position: usize,
    append: bool,
}

impl Reader<'_> {
    fn make_baseline(&mut self, directory: &Path) {
        let mut inode = ROOT;
        for name in self.inside(directory).expect("a directory below the root") {
            inode = match self.names[&inode].get(&name) {
                Some(known) => *known,
                None => {
                    let made = self.new_inode(Kind::Directory);
                    self.change_names(Micros::MIN, vec![((inode, name), Some(made))]);
                    self.syncs.entry(inode).or_default().push((Micros::MIN, Micros::MIN));
                    made
                }
            };
        }
    }

    fn new_inode(&mut self, kind: Kind) -> usize {
        self.inodes.push(kind);
        let inode = self.inodes.len() - 1;
        if kind == Kind::Directory {
            self.names.insert(inode, BTreeMap::new());
        }
        inode
    }

    /// The names from the root to a path; none where it is not below the root.
    fn inside(&self, path: &Path) -> Option<Vec<String>> {
        let mut whole = PathBuf::new();
        for part in self.cwd.join(path).components() {
            match part {
                Component::ParentDir => drop(whole.pop()),
                Component::CurDir => {}
                part => whole.push(part),
            }
        }
        let inside = whole.strip_prefix(self.root).ok()?;
        Some(inside.iter().map(|name| name.to_str().expect("UTF-8").to_owned()).collect())
    }

    /// The directory of a path and the name in it; none where the directory is not one of this history.
    fn name(&self, path: &str) -> Option<Name> {
        let mut names = self.inside(Path::new(path))?;
        let last = names.pop()?;
        let directory = names.iter().try_fold(ROOT, |at, name| self.names.get(&at)?.get(name).copied())?;
        self.names.contains_key(&directory).then_some((directory, last))
    }

    fn inode(&self, path: &str) -> Option<usize> {
        self.inside(Path::new(path))?
            .iter()
            .try_fold(ROOT, |at, name| self.names.get(&at)?.get(name).copied())
    }

    fn change_names(&mut self, at: Micros, names: Vec<(Name, Option<usize>)>) {
        for ((directory, name), now) in &names {
            let entries = self.names.get_mut(directory).expect("a directory");
            match now {
                Some(inode) => entries.insert(name.clone(), *inode),
                None => entries.remove(name),
            };
        }
        self.changes.push(Change { at, done: at, what: What::Names(names) });
    }

    fn change(&mut self, call: &Call, what: What) {
        self.changes.push(Change { at: call.begin, done: call.end, what });
    }

    fn take(&mut self, call: &Call) {
        let failed = call.returned < 0;
        let args: Vec<&str> = call.args.split(", ").collect();
        let number =
            |at: usize| args[at].parse::<i64>().unwrap_or_else(|_| panic!("{}({})", call.name, call.args));
        let bytes = |at: usize| usize::try_from(number(at)).expect("a size");
        let strings = || strings(&call.args);
        let fd = args[0].parse::<i64>().unwrap_or(-1);
        let open = self.open.get(&(call.record, fd)).cloned();
        match call.name.as_str() {
            "close" => drop(self.open.remove(&(call.record, fd))),
            _ if failed => {}
            "open" | "openat" | "creat" => self.opened(call, &strings()[0]),
            "dup" | "dup2" | "dup3" | "fcntl" => {
                if let Some(open) = open.filter(|_| call.name != "fcntl" || args[1].contains("F_DUPFD")) {
                    self.open.insert((call.record, call.returned), open);
                }
            }
            "mkdir" | "mkdirat" => {
                if let Some(name) = self.name(&strings()[0]) {
                    let made = self.new_inode(Kind::Directory);
                    self.change_names(call.end, vec![(name, Some(made))]);
                }
            }
            "unlink" | "unlinkat" | "rmdir" => {
                if let Some(name) =
                    self.name(&strings()[0]).filter(|name| self.names[&name.0].contains_key(&name.1))
                {
                    self.change_names(call.end, vec![(name, None)]);
                }
            }
            "rename" | "renameat" | "renameat2" => {
                let (from, to) = (self.name(&strings()[0]), self.name(&strings()[1]));
                let (Some(from), Some(to)) = (from, to) else { return };
                let inode = self.names[&from.0].get(&from.1).copied();
                self.change_names(call.end, vec![(from, None), (to, inode)]);
            }
            "link" | "linkat" => {
                let (inode, to) = (self.inode(&strings()[0]), self.name(&strings()[1]));
                if let (Some(inode), Some(to)) = (inode, to) {
                    self.change_names(call.end, vec![(to, Some(inode))]);
                }
            }
            "truncate" => {
                assert!(self.inode(&strings()[0]).is_none(), "not in the model: truncate({})", call.args)
            }
            "symlink" | "symlinkat" => {
                assert!(self.name(&strings()[1]).is_none(), "not in the model: {}({})", call.name, call.args);
            }
            "mmap" => {
                let mapped =
                    args[4].parse().ok().and_then(|fd: i64| self.open.get(&(call.record, fd)).cloned());
                let writes = args[2].contains("PROT_WRITE") && args[3].contains("MAP_SHARED");
                if let Some(open) = mapped.filter(|_| writes) {
                    let inode = open.borrow().inode;
                    let mut names = self.names.values().flatten();
                    let name = names.find(|(_, known)| **known == inode).map(|(name, _)| name.as_str());
                    assert!(
                        name.is_some_and(|name| name.ends_with("-shm")),
                        "not in the model: {name:?} is mapped"
                    );
                }
            }
            _ => {
                if let Some(open) = open {
                    let mut open = open.borrow_mut();
                    match call.name.as_str() {
                        "lseek" => open.position = usize::try_from(call.returned).expect("an offset"),
                        "read" => open.position += usize::try_from(call.returned).expect("a count"),
                        "write" | "writev" => {
                            let bytes = data(call, &strings());
                            let offset = if open.append { self.length(open.inode) } else { open.position };
                            open.position = offset + bytes.len();
                            self.change(call, What::Write { file: open.inode, offset, bytes });
                        }
                        "pwrite64" => {
                            let bytes_written = data(call, &strings());
                            let offset = bytes(args.len() - 1);
                            self.change(call, What::Write { file: open.inode, offset, bytes: bytes_written });
                        }
                        "ftruncate" => {
                            let (bytes, now) = (bytes(1), self.length(open.inode));
                            let what = match bytes < now {
                                true => What::Shrink { file: open.inode, bytes },
                                false => What::Grow { file: open.inode, bytes },
                            };
                            self.change(call, what);
                        }
                        "fallocate" => {
                            assert_eq!(args[1], "0", "not in the model: fallocate({})", call.args);
                            self.change(call, What::Grow { file: open.inode, bytes: bytes(2) + bytes(3) });
                        }
                        "fsync" | "fdatasync" => {
                            self.syncs.entry(open.inode).or_default().push((call.begin, call.end));
                        }
                        // It promises nothing.
                        "sync_file_range" => {}
                        other => {
                            panic!("not in the model: {other}({})", &call.args[..call.args.len().min(200)])
                        }
                    }
                }
            }
        }
    }

    fn opened(&mut self, call: &Call, path: &str) {
        let Some(name) = self.name(path).or_else(|| self.inode(path).map(|_| (ROOT, String::new()))) else {
            return;
        };
        let flags = &call.args;
        assert!(
            !flags.contains("O_SYNC") && !flags.contains("O_DSYNC"),
            "not in the model: {path} with O_SYNC"
        );
        let inode = match self.inode(path) {
            Some(known) => {
                if flags.contains("O_TRUNC") && self.length(known) > 0 {
                    self.change(call, What::Shrink { file: known, bytes: 0 });
                }
                known
            }
            None if flags.contains("O_CREAT") => {
                let made = self.new_inode(Kind::File);
                self.change_names(call.end, vec![(name, Some(made))]);
                made
            }
            // It was there before the record, as something that this history has nothing to do with.
            None => return,
        };
        let open = Open { inode, position: 0, append: flags.contains("O_APPEND") };
        self.open.insert((call.record, call.returned), Rc::new(RefCell::new(open)));
    }

    /// How many bytes a file has, as programs see it.
    fn length(&self, inode: usize) -> usize {
        self.changes.iter().fold(0, |length, change| match &change.what {
            What::Write { file, offset, bytes } if *file == inode => length.max(offset + bytes.len()),
            What::Shrink { file, bytes } if *file == inode => *bytes,
            What::Grow { file, bytes } if *file == inode => length.max(*bytes),
            _ => length,
        })
    }
}

impl Call {
    /// Whether what it does is known only once it has ended.
    fn is_seen_at_end(&self) -> bool {
        let uses = ["close", "write", "writev", "pwrite64", "ftruncate", "fallocate", "fsync", "fdatasync"];
        !uses.contains(&self.name.as_str())
    }
}

/// The bytes that a call has written.
fn data(call: &Call, strings: &[String]) -> Vec<u8> {
    let mut bytes: Vec<u8> = strings.concat().chars().map(|byte| byte as u8).collect();
    let written = usize::try_from(call.returned).expect("a count");
    assert!(bytes.len() >= written, "the record cuts {} of {written} bytes short", call.name);
    bytes.truncate(written);
    bytes
}

/// The texts in quotes, each byte a character.
fn strings(args: &str) -> Vec<String> {
    args.split('"')
        .skip(1)
        .step_by(2)
        .map(|text| {
            let byte = |hex: &str| char::from(u8::from_str_radix(hex, 16).expect("hex"));
            text.split("\\x").skip(1).map(byte).collect()
        })
        .collect()
}

/// The calls of a record, as `strace -f -ttt -T -xx` writes them. One that never returned is left out.
fn parse(text: &str, record: usize) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut begun: HashMap<&str, (Micros, &str)> = HashMap::new();
    for line in text.lines() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let Some((time, text)) = rest.trim_start().split_once(' ') else { continue };
        let Some(time) = micros(time) else { continue };
        if let Some(first) = text.strip_suffix(" <unfinished ...>") {
            begun.insert(pid, (time, first));
        } else if let Some(resumed) = text.strip_prefix("<... ") {
            let Some((_, rest)) = resumed.split_once(" resumed>") else { continue };
            let Some((begin, first)) = begun.remove(pid) else { continue };
            calls.extend(call(record, &format!("{first}{rest}"), begin, Some(time)));
        } else {
            calls.extend(call(record, text, time, None));
        }
    }
    calls
}

/// `1700000000.000001`, or `0.000001`.
fn micros(text: &str) -> Option<Micros> {
    let (seconds, fraction) = text.split_once('.')?;
    Some(seconds.parse::<Micros>().ok()? * 1_000_000 + fraction.parse::<Micros>().ok()?)
}

fn call(record: usize, text: &str, begin: Micros, end: Option<Micros>) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let (args, result) = rest.rsplit_once(" = ")?;
    let args = args.trim_end().strip_suffix(')')?;
    let returned = result.split(' ').next()?;
    let returned = match returned.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16).ok()?,
        None => returned.parse().ok()?,
    };
    let took = result.rsplit_once('<').and_then(|(_, took)| micros(took.strip_suffix('>')?)).unwrap_or(0);
    Some(Call {
        record,
        name: name.to_owned(),
        args: args.to_owned(),
        returned,
        begin,
        end: end.unwrap_or(begin + took),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST: Kept = Kept { names: 0, data: 0, sizes: 0 };
    const ALL: Kept = Kept { names: 100, data: 100, sizes: 100 };

    /// Calls at 1 ms, 2 ms, …, each of half a millisecond.
    fn history(calls: &[&str]) -> History {
        let hex = |call: &str| {
            let quoted = |(index, part): (usize, &str)| match index % 2 {
                0 => part.to_owned(),
                _ => part.bytes().map(|byte| format!("\\x{byte:02x}")).collect(),
            };
            call.split('"').enumerate().map(quoted).collect::<Vec<_>>().join("\"")
        };
        let line = |(index, call): (usize, &&str)| {
            format!("7 0.{:06} {} <0.000500>\n", (index + 1) * 1000, hex(call))
        };
        let record = calls.iter().enumerate().map(line).collect();
        History::read(Path::new("/r"), Path::new("/r/d"), &[record], &[PathBuf::from("/r/d")])
    }

    fn files(history: &History, after: i64, kept: Kept) -> Vec<(String, Vec<u8>)> {
        let state = history.state(after * 1000 + 700, kept, &mut Random::new(1));
        let directory = state.directories[&ROOT]["d"];
        let of = |(name, inode): (&String, &usize)| Some((name.clone(), state.contents.get(inode)?.clone()));
        state.directories[&directory].iter().filter_map(of).collect()
    }

    #[test]
    fn only_what_was_synced_survives_the_worst_crash() {
        let history = history(&[
            "openat(AT_FDCWD, \"f\", O_WRONLY|O_CREAT, 0666) = 3",
            "write(3, \"abcd\", 4) = 4",
            "fsync(3) = 0",
            "openat(AT_FDCWD, \".\", O_RDONLY) = 4",
            "fsync(4) = 0",
            "write(3, \"ef\", 2) = 2",
            "unlink(\"f\") = 0",
            "fsync(4) = -1 EIO (Input/output error)",
        ]);
        let is = |after: i64, kept: Kept, want: Option<&[u8]>| {
            let found = files(&history, after, kept);
            let want: Vec<_> = want.map(|content| ("f".to_owned(), content.to_vec())).into_iter().collect();
            assert_eq!(found, want, "after {after}");
        };
        is(4, LOST, None);
        is(4, ALL, Some(b"abcd"));
        is(4, Kept { data: 100, ..LOST }, None);
        is(2, Kept { names: 100, sizes: 100, data: 0 }, Some(b"\0\0\0\0"));
        is(2, Kept { names: 100, sizes: 0, data: 100 }, Some(b""));
        is(5, LOST, Some(b"abcd"));
        is(6, LOST, Some(b"abcd"));
        is(6, ALL, Some(b"abcdef"));
        is(7, ALL, None);
        is(8, LOST, Some(b"abcd"));
    }

    #[test]
    fn a_write_is_torn_between_sectors_and_never_within_one() {
        let content = "x".repeat(4 * SECTOR_BYTES);
        let write = format!("pwrite64(3, \"{content}\", 2048, 0) = 2048");
        let history = history(&["openat(AT_FDCWD, \"f\", O_WRONLY|O_CREAT, 0666) = 3", &write]);
        let kept = Kept { names: 100, data: 50, sizes: 100 };
        let mut seen = HashSet::new();
        for seed in 0..64 {
            let state = history.state(9_000, kept, &mut Random::new(seed));
            let file = state.contents.values().next().expect("a file");
            let sectors = file.chunks(SECTOR_BYTES);
            seen.insert(
                sectors
                    .map(|sector| (sector[0], sector.iter().all(|byte| *byte == sector[0])))
                    .collect::<Vec<_>>(),
            );
        }
        assert!(seen.len() > 8 && seen.iter().flatten().all(|(_, uniform)| *uniform), "{seen:?}");
    }

    #[test]
    fn changes_of_one_name_keep_their_order() {
        let history = history(&[
            "openat(AT_FDCWD, \"a\", O_WRONLY|O_CREAT, 0666) = 3",
            "rename(\"a\", \"b\") = 0",
            "openat(AT_FDCWD, \"a\", O_WRONLY|O_CREAT, 0666) = 4",
        ]);
        let mut seen = HashSet::new();
        for seed in 0..64 {
            let state = history.state(9_000, Kept { names: 50, ..LOST }, &mut Random::new(seed));
            let directory = state.directories[&ROOT]["d"];
            seen.insert(state.directories[&directory].keys().cloned().collect::<String>());
        }
        assert_eq!(seen, ["", "a", "b", "ab"].map(str::to_owned).into());
    }
}
