//! Whether the holder of a journal is alive.
//!
//! A held journal is locked, and a held lock proves that the holder lives. A free lock proves little: a
//! network file system may keep locks for each host, may lose them when its connection breaks, and a
//! directory that one host exports and another mounts has two sets of locks. So the holder also writes a
//! heartbeat into the head of its journal each second, and a member takes over the journal of another one by
//! these rules, all of which ask for a free lock first:
//!
//! | what the journal shows | taken over |
//! |---|---|
//! | no heartbeat, and its name is that of this host (another port, or another address) | at once |
//! | the holder stopped in good order | at once |
//! | the holder ran under this very kernel, and the file system is local | at once: the lock is the kernel's |
//! | a heartbeat | when nothing in it has changed for [`SILENCE`] |
//! | no heartbeat: a previous version wrote it | when neither the journal nor the files that it names have changed for [`SILENCE_WITHOUT_HEARTBEAT`]; the journal itself stays |
//!
//! The time is measured by the one who takes over, on its monotonic clock, so that no clock need be right. A
//! heartbeat that is older than the last change of the file is not counted: a previous version holds the
//! journal now, and it writes none.
//!
//! The one who takes over first writes a heartbeat of its own with the count 0, and only then asks which rows there
//! are. The other half of the rule is the holder's: it acknowledges no upload when its own last heartbeat is older than
//! [`LEASE`], or when the journal, read after the commit, has another holder's. So whichever of the two looks later
//! finds what the other one has done, whatever their clocks say: either the row is found and the file stays, or the
//! upload is refused.
//!
//! The heartbeat stands in the head of a journal behind its magic, where previous versions have zeros and
//! read nothing:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 16 | 4 | CRC-32 of the rest, big-endian |
//! | 20 | 8 | how many heartbeats the holder wrote, big-endian; 0: it stopped in good order, or was taken over |
//! | 28 | 8 | when, seconds since the epoch, big-endian |
//! | 36 | 16 | the holder: random, made at its start |
//! | 52 | 16 | the kernel that it runs under: the MD5 of its boot ID |

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use md5::{Digest, Md5};
use rustix::fs::fstatfs;

use tnv_common::proto::field::Reader;

use crate::globals::now;

/// A heartbeat that does not change for so long has no holder: 30 of them are missing. A mount of GlusterFS
/// that has lost a member is silent for up to 6 s.
pub const SILENCE: Duration = Duration::from_secs(30);

/// The same where there is no heartbeat: longer than a connection may pause in the middle of an upload.
pub const SILENCE_WITHOUT_HEARTBEAT: Duration = Duration::from_secs(600);

/// How long a heartbeat entitles its holder to begin the commit of an upload, shorter than [`SILENCE`]: later it is
/// likely that the upload would have to be undone. What decides is the mark of the one who takes over.
pub const LEASE: Duration = Duration::from_secs(20);

/// A holder writes its journal for at most so long after its last heartbeat, by the clocks of two hosts.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(10);

/// Journals that are watched at once: more are left for later.
const WATCHED_MAX: usize = 1024;

/// Named files that are looked at for changes, where there is no heartbeat.
const FILES_MAX: usize = 1024;

/// Where the heartbeat begins in the head.
const AT: u64 = 16;

/// Its bytes.
const BYTES: usize = 52;

/// File systems of one kernel, by the magic numbers of statfs(2): their locks are that kernel's.
const LOCAL: [u64; 8] = [
    0xEF53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683E, // btrfs
    0x0102_1994, // tmpfs
    0x794C_7630, // overlay
    0xF2F5_2010, // F2FS
    0x2FC1_2FC1, // ZFS
    0xCA45_1A4E, // bcachefs
];

/// What a holder writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// How many it wrote; 0 where it stopped in good order.
    pub count: u64,
    /// When, by its calendar clock, seconds since the epoch.
    pub time: u64,
    /// Which process.
    pub holder: [u8; 16],
    /// Under which kernel.
    pub kernel: [u8; 16],
}

impl Heartbeat {
    /// Of this process and this moment.
    pub fn new(count: u64, holder: [u8; 16]) -> Heartbeat {
        Heartbeat { count, time: now(), holder, kernel: this_kernel() }
    }

    /// Writes it; not durably, like the rest of the journal.
    pub fn write(&self, journal: &File) -> io::Result<()> {
        let mut bytes = [0; BYTES];
        bytes[4..12].copy_from_slice(&self.count.to_be_bytes());
        bytes[12..20].copy_from_slice(&self.time.to_be_bytes());
        bytes[20..36].copy_from_slice(&self.holder);
        bytes[36..52].copy_from_slice(&self.kernel);
        let crc = crc32fast::hash(&bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_be_bytes());
        journal.write_all_at(&bytes, AT)
    }

    /// The last one that was written; none where a previous version made the journal.
    pub fn read(journal: &File) -> io::Result<Option<Heartbeat>> {
        let mut bytes = [0; BYTES];
        match journal.read_exact_at(&mut bytes, AT) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            result => result?,
        }
        Ok(decode(&bytes))
    }
}

/// Bytes from anywhere.
pub fn decode(bytes: &[u8]) -> Option<Heartbeat> {
    let mut reader = Reader::new(bytes.get(..BYTES)?);
    let crc = reader.bytes("checksum", 4).ok()?;
    if crc != crc32fast::hash(&bytes[4..BYTES]).to_be_bytes() {
        return None;
    }
    Some(Heartbeat {
        count: reader.i64("count").ok()?.cast_unsigned(),
        time: reader.i64("time").ok()?.cast_unsigned(),
        holder: reader.bytes("holder", 16).ok()?.try_into().ok()?,
        kernel: reader.bytes("kernel", 16).ok()?.try_into().ok()?,
    })
}

/// What is known of the holder of a journal whose lock is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// It may be alive.
    MayLive,
    /// It has ended.
    Dead,
    /// A previous version held it and has done nothing for long: what the journal names can be resolved, but
    /// the journal stays, in case it is held all the same.
    Still,
}

/// The journals that might have no holder, and since when they have not changed.
pub struct Watch {
    seen: HashMap<String, Seen>,
    /// Journals without a taken slot, and what they looked like when that was read.
    empty: HashMap<String, u32>,
    silence: Duration,
    silence_without_heartbeat: Duration,
}

struct Seen {
    print: u64,
    since: Instant,
    /// When it was last asked about.
    asked: Instant,
}

impl Watch {
    /// None is known to begin with.
    pub fn new() -> Watch {
        Watch::with(SILENCE, SILENCE_WITHOUT_HEARTBEAT)
    }

    /// With other times, for tests and for those who cannot wait.
    pub fn with(silence: Duration, silence_without_heartbeat: Duration) -> Watch {
        Watch { seen: HashMap::new(), empty: HashMap::new(), silence, silence_without_heartbeat }
    }

    /// What is known of the holder of this journal, whose lock is free. `named_here`: its name says that it is of
    /// this host. `files`: reads what its taken slots name, which is asked for only where there is no heartbeat.
    pub fn holder(
        &mut self,
        path: &str,
        journal: &File,
        named_here: bool,
        files: &mut dyn FnMut() -> io::Result<Vec<String>>,
    ) -> io::Result<Holder> {
        let metadata = journal.metadata()?;
        let heartbeat = Heartbeat::read(journal)?.filter(|heartbeat| {
            let last = heartbeat.time.saturating_add(CLOCKS_APART_MAX.as_secs());
            u64::try_from(metadata.mtime()).is_ok_and(|changed| changed <= last)
        });
        let has_ended = match &heartbeat {
            Some(heartbeat) => heartbeat.count == 0 || is_here(heartbeat, journal),
            // Two hosts may have one name, so a heartbeat says more than a name.
            None => named_here,
        };
        if has_ended {
            return Ok(Holder::Dead);
        }
        let mut print = print_of(journal, &metadata)?;
        if heartbeat.is_none() {
            for file in files()?.iter().take(FILES_MAX) {
                if let Ok(metadata) = fs::symlink_metadata(file) {
                    mix(&mut print, &metadata);
                }
            }
        }
        let silence = if heartbeat.is_some() { self.silence } else { self.silence_without_heartbeat };
        match self.unchanged_for(path, print.finalize().into()) >= silence {
            false => Ok(Holder::MayLive),
            true if heartbeat.is_some() => Ok(Holder::Dead),
            true => Ok(Holder::Still),
        }
    }

    /// Whether a journal had no taken slot when it was last read, and has not changed since: then it need not be read
    /// again. It may be some MiB, and those of storages that have ended stay for days.
    pub fn is_known_empty(&self, path: &str, journal: &File) -> io::Result<bool> {
        let Some(known) = self.empty.get(path) else { return Ok(false) };
        Ok(*known == print_of(journal, &journal.metadata()?)?.finalize())
    }

    /// Notes that a journal has no taken slot. Not where it was changed just now: another change might leave it with
    /// the same time.
    pub fn note_empty(&mut self, path: &str, journal: &File) -> io::Result<()> {
        let metadata = journal.metadata()?;
        let age = now().checked_add_signed(metadata.mtime().saturating_neg()).unwrap_or_default();
        if age < CLOCKS_APART_MAX.as_secs() {
            return Ok(());
        }
        if self.empty.len() >= WATCHED_MAX {
            self.empty.clear();
        }
        self.empty.insert(path.to_owned(), print_of(journal, &metadata)?.finalize());
        Ok(())
    }

    /// The longest wait after which [`Watch::holder`] knows about a journal with a heartbeat.
    pub fn silence(&self) -> Duration {
        self.silence
    }

    fn unchanged_for(&mut self, path: &str, print: u64) -> Duration {
        let now = Instant::now();
        if self.seen.len() >= WATCHED_MAX {
            // One that is there is asked about every few seconds.
            self.seen.retain(|_, seen| now.duration_since(seen.asked) < self.silence_without_heartbeat);
        }
        if self.seen.len() >= WATCHED_MAX && !self.seen.contains_key(path) {
            return Duration::ZERO;
        }
        let seen = self.seen.entry(path.to_owned()).or_insert(Seen { print, since: now, asked: now });
        seen.asked = now;
        if seen.print != print {
            (seen.print, seen.since) = (print, now);
        }
        now.duration_since(seen.since)
    }
}

/// What changes with a journal, its head included.
fn print_of(journal: &File, metadata: &fs::Metadata) -> io::Result<crc32fast::Hasher> {
    let mut print = crc32fast::Hasher::new();
    mix(&mut print, metadata);
    let mut head = [0; AT as usize + BYTES];
    if metadata.len() >= head.len() as u64 {
        journal.read_exact_at(&mut head, 0)?;
    }
    print.update(&head);
    Ok(print)
}

/// What changes with a file.
fn mix(print: &mut crc32fast::Hasher, metadata: &fs::Metadata) {
    let fields =
        [metadata.ino().cast_signed(), metadata.len().cast_signed(), metadata.mtime(), metadata.mtime_nsec()];
    fields.iter().for_each(|field| print.update(&field.to_be_bytes()));
}

/// Whether the holder of a journal ran under this kernel, and on a file system whose locks are this kernel's: then
/// a free lock says that it has ended, and nothing of it is known anywhere else.
pub fn is_here(heartbeat: &Heartbeat, journal: &File) -> bool {
    heartbeat.kernel == this_kernel() && is_local(journal)
}

/// Whether the locks of this file's file system are this kernel's alone.
pub fn is_local(file: &File) -> bool {
    fstatfs(file).is_ok_and(|found| LOCAL.contains(&(found.f_type.cast_unsigned() & 0xFFFF_FFFF)))
}

/// The kernel that this process runs under, which is another one after each start of the machine. Where it
/// cannot be asked for, this process counts as the only one under it.
pub fn this_kernel() -> [u8; 16] {
    static KERNEL: OnceLock<[u8; 16]> = OnceLock::new();
    *KERNEL.get_or_init(|| match fs::read(Path::new("/proc/sys/kernel/random/boot_id")) {
        Ok(boot_id) => Md5::digest(boot_id).into(),
        Err(_) => rand::random(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use std::thread;

    fn journal(scratch: &Scratch) -> File {
        let path = scratch.path().join("journal");
        fs::write(&path, [7; 2048]).unwrap();
        fs::OpenOptions::new().read(true).write(true).open(path).unwrap()
    }

    fn elsewhere(count: u64) -> Heartbeat {
        Heartbeat { kernel: [9; 16], ..Heartbeat::new(count, [1; 16]) }
    }

    fn ask(watch: &mut Watch, journal: &File) -> Holder {
        watch.holder("j", journal, false, &mut || Ok(Vec::new())).unwrap()
    }

    #[test]
    fn a_heartbeat_is_read_back_and_damage_is_none() {
        let scratch = Scratch::new();
        let journal = journal(&scratch);
        assert_eq!(Heartbeat::read(&journal).unwrap(), None);
        let heartbeat = elsewhere(5);
        heartbeat.write(&journal).unwrap();
        assert_eq!(Heartbeat::read(&journal).unwrap(), Some(heartbeat));
        let mut bytes = [0; BYTES];
        journal.read_exact_at(&mut bytes, AT).unwrap();
        for at in 0..BYTES {
            let mut damaged = bytes;
            damaged[at] ^= 0x10;
            assert_eq!(decode(&damaged), None);
            assert_eq!(decode(&bytes[..at]), None);
        }
        journal.set_len(20).unwrap();
        assert_eq!(Heartbeat::read(&journal).unwrap(), None);
    }

    #[test]
    fn a_holder_on_another_host_is_dead_only_when_its_heartbeat_stands_still() {
        let scratch = Scratch::new();
        let journal = journal(&scratch);
        let mut watch = Watch::with(Duration::from_millis(200), Duration::from_secs(3600));
        elsewhere(1).write(&journal).unwrap();
        let start = Instant::now();
        let mut count = 1;
        while start.elapsed() < Duration::from_millis(500) {
            assert_eq!(ask(&mut watch, &journal), Holder::MayLive, "it beats");
            thread::sleep(Duration::from_millis(20));
            count += 1;
            elsewhere(count).write(&journal).unwrap();
        }
        ask(&mut watch, &journal);
        thread::sleep(Duration::from_millis(220));
        assert_eq!(ask(&mut watch, &journal), Holder::Dead);
        // Of another process that is asked, all of it begins anew.
        assert_eq!(ask(&mut Watch::new(), &journal), Holder::MayLive);
        elsewhere(0).write(&journal).unwrap();
        assert_eq!(ask(&mut Watch::new(), &journal), Holder::Dead, "it stopped in good order");
        Heartbeat::new(3, [1; 16]).write(&journal).unwrap();
        let here = if is_local(&journal) { Holder::Dead } else { Holder::MayLive };
        assert_eq!(ask(&mut Watch::new(), &journal), here, "the lock is this kernel's");
    }

    /// A storage of the previous version wrote nothing while it received a long file, and the journal of that
    /// upload was taken over by another member.
    #[test]
    fn a_journal_without_a_heartbeat_is_still_when_its_files_are_and_never_dead() {
        let scratch = Scratch::new();
        let journal = journal(&scratch);
        let file = scratch.path().join("file");
        let file_text = file.to_str().unwrap();
        let mut watch = Watch::with(Duration::ZERO, Duration::from_millis(200));
        let mut ask = || watch.holder("j", &journal, false, &mut || Ok(vec![file_text.to_owned()])).unwrap();
        let start = Instant::now();
        let mut content = Vec::new();
        while start.elapsed() < Duration::from_millis(500) {
            content.push(b'x');
            fs::write(&file, &content).unwrap();
            assert_eq!(ask(), Holder::MayLive, "content comes");
            thread::sleep(Duration::from_millis(20));
        }
        thread::sleep(Duration::from_millis(220));
        assert_eq!(ask(), Holder::Still);
    }

    /// A storage that was killed was started again in its previous version, which writes no heartbeat.
    #[test]
    fn a_heartbeat_that_is_older_than_the_journals_last_change_is_not_counted() {
        let scratch = Scratch::new();
        let journal = journal(&scratch);
        let mut old = elsewhere(7);
        old.time -= 60;
        old.write(&journal).unwrap();
        let mut watch = Watch::with(Duration::ZERO, Duration::from_secs(3600));
        assert_eq!(ask(&mut watch, &journal), Holder::MayLive);
        old.count = 0;
        old.write(&journal).unwrap();
        assert_eq!(ask(&mut watch, &journal), Holder::MayLive);
    }
}
