//! Journals as a whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::adoption::*;
use super::entry::*;
use super::file::*;
use super::scan::*;
use super::slots::*;
use crate::globals::MemberName;
use crate::scratch::Scratch;
use crate::volume::heartbeat::{Heartbeat, LEASE, Watch};
use rustix::fs::FlockOperation;
use std::net::SocketAddr;
use tnv_common::error::ErrorKind;
use tnv_common::error::Result;
use tnv_common::proto::HostName;

fn entry(number: u32) -> JournalEntry {
    JournalEntry {
        owner: "ü".repeat(127),
        name: "f".repeat(127),
        path: format!("{}/000/000/000/5F9E3FA7_{number:03X}", "d".repeat(480)),
    }
}

fn member(host: &str, port: u16) -> MemberName {
    MemberName::new(None, &HostName::new(host).unwrap(), SocketAddr::from(([127, 0, 0, 1], port)))
}

fn open(scratch: &Scratch) -> Result<(Arc<Journal>, Vec<PendingOp>)> {
    Journal::open(scratch.path().to_str().unwrap(), &member("a/host", 23000), &mut Watch::new())
}

#[test]
fn what_a_kill_left_is_found_again_and_what_was_finished_is_not() {
    let scratch = Scratch::new();
    let (journal, left) = open(&scratch).unwrap();
    assert!(left.is_empty());
    let slots: Vec<_> = (0..5).map(|number| journal.take(&entry(number)).unwrap()).collect();
    for (index, slot) in slots.into_iter().enumerate() {
        if index != 1 && index != 3 {
            slot.release();
        }
    }
    drop(journal);
    let (journal, left) = open(&scratch).unwrap();
    assert_eq!(left.iter().map(|open| open.entry.clone()).collect::<Vec<_>>(), [entry(1), entry(3)]);
    // New ones do not disturb the old ones.
    let slots: Vec<_> = (10..14).map(|number| journal.take(&entry(number)).unwrap()).collect();
    slots.into_iter().for_each(Slot::release);
    left.into_iter().filter_map(|open| open.slot).for_each(Slot::release);
    drop(journal);
    let (journal, left) = open(&scratch).unwrap();
    assert!(left.is_empty());
    assert_eq!(journal.free().next, 1);
}

#[test]
fn slots_are_used_again() {
    let scratch = Scratch::new();
    let (journal, _) = open(&scratch).unwrap();
    for number in 0..100 {
        journal.take(&entry(number)).unwrap().release();
    }
    assert_eq!(journal.free().next, 2);
}

#[test]
fn two_storages_of_one_name_cannot_share_it() {
    let scratch = Scratch::new();
    let (first, _) = open(&scratch).unwrap();
    let error = thread::scope(|scope| {
        let second = scope.spawn(|| open(&scratch).err().unwrap());
        while !second.is_finished() {
            first.beat().unwrap();
            thread::sleep(Duration::from_millis(100));
        }
        second.join().unwrap()
    });
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.message().contains("another storage of this name"), "{error}");
}

/// A storage started while another one took its journal over, which took longer than 2 s: it did not start.
#[test]
fn a_lock_whose_holder_shows_no_heartbeat_is_waited_for() {
    let scratch = Scratch::new();
    let (first, _) = open(&scratch).unwrap();
    let path = first.path.clone();
    drop(first);
    let adopter = File::open(&path).unwrap();
    assert!(try_lock(&adopter, FlockOperation::NonBlockingLockExclusive).unwrap());
    assert_eq!(open(&scratch).err().unwrap().kind(), ErrorKind::Timeout);
    let marking = OpenOptions::new().write(true).open(&path).unwrap();
    thread::scope(|scope| {
        let second = scope.spawn(|| open(&scratch));
        thread::sleep(Duration::from_millis(500));
        Heartbeat::new(0, [7; 16]).write(&marking).unwrap();
        thread::sleep(LOCK_PATIENCE);
        assert!(!second.is_finished());
        drop(adopter);
        assert!(second.join().unwrap().is_ok());
    });
}

/// Bytes that this thread has read by system calls.
fn bytes_read() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/io").unwrap();
    text.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

/// Where locks do not reach other hosts all of their journals were read every 5 s, and those that had ended for
/// 7 days.
#[test]
fn journals_that_may_be_held_and_those_that_are_known_to_be_empty_are_not_read() {
    let scratch = Scratch::new();
    let journal = open_as(&scratch, "a", 3);
    let mut watch = Watch::with(Duration::from_secs(3600), Duration::from_secs(3600));
    let mut adopt = || {
        let before = bytes_read();
        let left = entries(&adopt(&scratch, &journal, "a", &mut watch)).len();
        (left, bytes_read() - before > offset(ALLOCATED_SLOTS) / 2)
    };
    let held = leave(&scratch, "held", Some(5));
    assert_eq!(adopt(), (0, false));
    fs::remove_file(held).unwrap();
    let ended = leave(&scratch, "ended", Some(0));
    assert_eq!(adopt(), (1, true));
    assert_eq!(adopt(), (0, true), "it was changed just now");
    let file = OpenOptions::new().write(true).open(&ended).unwrap();
    let old = std::time::SystemTime::now() - Duration::from_secs(60);
    file.set_modified(old).unwrap();
    assert_eq!(adopt(), (0, true));
    assert_eq!(adopt(), (0, false));
    // A storage of that name came, and has ended.
    file.write_all_at(&entry(4).encode(), offset(7)).unwrap();
    Heartbeat { kernel: [7; 16], ..Heartbeat::new(0, [8; 16]) }.write(&file).unwrap();
    assert_eq!(adopt(), (1, true));
}

/// A storage that had lost its journal opened it anew. An upload from before was acknowledged by the new one, and
/// when it failed it freed a slot that another upload had by then.
#[test]
fn a_journal_that_was_given_up_acknowledges_nothing_and_touches_no_slot_of_the_next_one() {
    let scratch = Scratch::new();
    let (first, _) = open(&scratch).unwrap();
    let slot = first.take(&entry(1)).unwrap();
    assert!(slot.is_held() && slot.verify());
    assert!(first.retire() && first.retire());
    assert!(!slot.is_held() && !slot.verify() && first.take(&entry(2)).is_err());
    let (second, left) = open(&scratch).unwrap();
    assert_eq!(entries(&left), [entry(1)]);
    left.into_iter().filter_map(|open| open.slot).for_each(Slot::release);
    let next = second.take(&entry(3)).unwrap();
    assert_eq!(next.index, slot.index);
    slot.release();
    first.let_go();
    assert!(next.is_held() && second.beat().is_ok());
    drop((next, second));
    assert_eq!(entries(&open(&scratch).unwrap().1), [entry(3)]);
}

#[test]
fn damage_frees_a_slot_and_never_panics() {
    let slot = entry(1).encode();
    assert_eq!(JournalEntry::decode(&slot), Some(entry(1)));
    for byte in 0..SLOT_BYTES {
        let mut damaged = slot;
        damaged[byte] ^= 0x40;
        assert_eq!(JournalEntry::decode(&damaged), None);
    }
    for length in 0..SLOT_BYTES {
        assert_eq!(JournalEntry::decode(&slot[..length]), None);
    }
    let mut evil = JournalEntry { path: "/etc/passwd".into(), ..entry(1) }.encode();
    assert_eq!(JournalEntry::decode(&evil), None, "not a path of ours");
    evil[4] = 2;
    assert_eq!(JournalEntry::decode(&evil), None);
}

#[test]
fn what_is_no_journal_is_left_alone() {
    let scratch = Scratch::new();
    let name = scratch.path().join(".uploads-a_host-127.0.0.1-23000");
    std::fs::write(&name, vec![b'x'; 3000]).unwrap();
    assert!(open(&scratch).err().unwrap().message().contains("no journal"));
    assert_eq!(std::fs::metadata(&name).unwrap().len(), 3000);
    // A journal that a power cut left as zeros or cut short is begun anew.
    std::fs::write(&name, vec![0; 5000]).unwrap();
    assert!(open(&scratch).is_ok());
    std::fs::write(&name, "TN").unwrap();
    assert!(open(&scratch).is_ok());
}

/// At a start each slot was looked for among all that were taken: with a full journal minutes of work.
#[test]
fn a_full_journal_is_opened_as_fast_as_it_is_read() {
    let scratch = Scratch::new();
    let (journal, _) = open(&scratch).unwrap();
    let path = journal.path.clone();
    drop(journal);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let mut writer = io::BufWriter::with_capacity(1 << 20, &file);
    writer.seek(SeekFrom::Start(offset(1))).unwrap();
    let slot = entry(1).encode();
    // All but every thousandth.
    let is_free = |index: u32| index.is_multiple_of(1000);
    for index in 1..=SLOTS_MAX {
        io::Write::write_all(&mut writer, if is_free(index) { &[0; SLOT_BYTES] } else { &slot }).unwrap();
    }
    io::Write::flush(&mut writer).unwrap();
    let start = Instant::now();
    let (journal, left) = open(&scratch).unwrap();
    let took = start.elapsed();
    assert_eq!(left.len() as u32, SLOTS_MAX - SLOTS_MAX / 1000);
    assert_eq!(journal.free().indexes, (1..SLOTS_MAX).filter(|index| is_free(*index)).collect::<Vec<_>>());
    // 10^10 steps take a minute even where they are fast.
    assert!(took < Duration::from_secs(30), "{took:?}");
}

fn open_as(scratch: &Scratch, host: &str, port: u16) -> Arc<Journal> {
    let store_path = scratch.path().to_str().unwrap();
    Journal::open(store_path, &member(host, port), &mut Watch::new()).unwrap().0
}

fn adopt(scratch: &Scratch, journal: &Arc<Journal>, host: &str, watch: &mut Watch) -> Vec<PendingOp> {
    journal.adopt(scratch.path().to_str().unwrap(), &member(host, 1), watch)
}

fn entries(left: &[PendingOp]) -> Vec<JournalEntry> {
    left.iter().map(|open| open.entry.clone()).collect()
}

/// What a storage leaves that is killed: this one's journal, under another name, as if another kernel had
/// run it or, without a heartbeat, a previous version.
fn leave(scratch: &Scratch, name: &str, heartbeat: Option<u64>) -> PathBuf {
    let path = scratch.path().join(format!(".uploads-{name}"));
    let template = open_as(scratch, "template", 9);
    let slot = template.take(&entry(9)).unwrap();
    fs::copy(&template.path, &path).unwrap();
    slot.release();
    fs::remove_file(&template.path).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0; 100], 16).unwrap();
    if let Some(count) = heartbeat {
        Heartbeat { kernel: [7; 16], ..Heartbeat::new(count, [7; 16]) }.write(&file).unwrap();
    }
    path
}

/// A storage was killed in an upload and started on another port, or in a container of another name: what
/// the first one's journal named was never looked at again.
#[test]
fn what_a_storage_left_that_has_ended_is_taken_over_whatever_its_name_was() {
    let scratch = Scratch::new();
    let running = open_as(&scratch, "b", 2);
    let _slot = running.take(&entry(2)).unwrap();
    let journal = open_as(&scratch, "a", 3);
    let mut watch = Watch::with(Duration::from_millis(100), Duration::from_millis(400));
    // Of this host, and stopped in good order: at once.
    for (name, heartbeat) in [("a-127.0.0.1-7", None), ("b-127.0.0.1-7", Some(0)), ("an-id", Some(0))] {
        let path = leave(&scratch, name, heartbeat);
        assert_eq!(entries(&adopt(&scratch, &journal, "a", &mut watch)), [entry(9)], "{name}");
        // Another host may come back to its own, and finds that it was taken over.
        assert_eq!(path.exists(), heartbeat.is_some(), "{name}");
        assert!(adopt(&scratch, &journal, "a", &mut watch).is_empty(), "{name}");
        assert_eq!(path.exists().then(|| has_ended(&path).unwrap()), heartbeat.map(|_| true), "{name}");
    }
    // Of others, when they have shown nothing for some time.
    let path = leave(&scratch, "c-127.0.0.1-7", Some(5));
    assert!(adopt(&scratch, &journal, "a", &mut watch).is_empty());
    thread::sleep(Duration::from_millis(120));
    assert_eq!(entries(&adopt(&scratch, &journal, "a", &mut watch)), [entry(9)]);
    assert!(adopt(&scratch, &journal, "a", &mut watch).is_empty(), "its slots are free now");
    assert!(has_ended(&path).unwrap());
    // Of a previous version: what it names, and not the journal.
    let old = leave(&scratch, "d-127.0.0.1-7", None);
    for pause in [0, 120] {
        thread::sleep(Duration::from_millis(pause));
        assert!(adopt(&scratch, &journal, "a", &mut watch).is_empty());
    }
    thread::sleep(Duration::from_millis(320));
    assert_eq!(entries(&adopt(&scratch, &journal, "a", &mut watch)), [entry(9)]);
    assert!(old.exists());
    thread::sleep(Duration::from_millis(420));
    assert!(adopt(&scratch, &journal, "a", &mut watch).is_empty(), "its slots are free now");
    // A name that many hosts have says nothing of this one.
    leave(&scratch, "localhost-127.0.0.1-7", None);
    assert!(adopt(&scratch, &journal, "localhost", &mut watch).is_empty());
    assert!(running.check().is_ok() && journal.check().is_ok());
    let left = Journals::read(scratch.path().to_str().unwrap(), &member("a", 3), &mut Watch::new()).unwrap();
    assert!(left.open.contains(&entry(2).path) && left.left.is_empty() && left.doubtful.is_empty());
}

#[test]
fn a_journal_protects_what_it_names_only_while_it_may_be_held() {
    let scratch = Scratch::new();
    let store_path = scratch.path().to_str().unwrap();
    let mut watch = Watch::with(Duration::from_millis(100), Duration::from_secs(3600));
    let mut read = || {
        let read = Journals::read(store_path, &member("a", 3), &mut watch).unwrap();
        (read.open.len(), read.doubtful.len(), read.left.len())
    };
    leave(&scratch, "stopped", Some(0));
    assert_eq!(read(), (0, 0, 1));
    leave(&scratch, "previous", None);
    assert_eq!(read(), (1, 0, 1));
    leave(&scratch, "elsewhere", Some(5));
    assert_eq!(read(), (1, 1, 1));
    let journal = open_as(&scratch, "running", 1);
    let _slot = journal.take(&entry(1)).unwrap();
    assert_eq!(read(), (2, 1, 1));
    thread::sleep(Duration::from_millis(120));
    assert_eq!(read(), (2, 0, 2));
}

/// Two storages were given one ID, or a host that was cut off came back.
#[test]
fn a_holder_that_is_not_alone_or_was_silent_for_long_acknowledges_nothing() {
    let scratch = Scratch::new();
    let journal = open_as(&scratch, "a", 1);
    assert!(journal.beat().is_ok() && journal.is_held());
    Heartbeat::new(1, [7; 16]).write(&journal.file).unwrap();
    assert!(journal.beat().is_err() && !journal.is_held());
    let journal = open_as(&scratch, "a", 2);
    journal.pulse().since = Instant::now().checked_sub(LEASE);
    assert!(!journal.is_held());
    assert!(journal.beat().is_ok() && journal.is_held(), "no other one has taken it");
    journal.let_go();
    assert!(!journal.is_held());
    assert_eq!(Heartbeat::read(&journal.file).unwrap().map(|heartbeat| heartbeat.count), Some(0));
}

#[test]
fn storages_that_start_at_once_take_nothing_from_each_other_and_lose_nothing() {
    let scratch = Scratch::new();
    for _ in 0..20 {
        leave(&scratch, "x", Some(0));
        let taken: Vec<_> = thread::scope(|scope| {
            let starts: Vec<_> = (1..5)
                .map(|port| {
                    let scratch = &scratch;
                    scope.spawn(move || {
                        let journal = open_as(scratch, "a", port);
                        let left = adopt(scratch, &journal, "a", &mut Watch::new());
                        journal.check().unwrap();
                        let count = left.len();
                        left.into_iter().filter_map(|open| open.slot).for_each(Slot::release);
                        (journal, count)
                    })
                })
                .collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        assert_eq!(taken.iter().map(|(_, count)| count).sum::<usize>(), 1);
        assert!(taken.iter().all(|(journal, _)| journal.check().is_ok()));
    }
}

#[test]
fn slots_have_their_space_before_they_are_needed() {
    let scratch = Scratch::new();
    let (journal, _) = open(&scratch).unwrap();
    let metadata = journal.file.metadata().unwrap();
    if metadata.blocks() * 512 < offset(ALLOCATED_SLOTS) {
        return; // This file system cannot.
    }
    let slots: Vec<_> =
        (0..ALLOCATED_SLOTS - 1).map(|number| journal.take(&entry(number)).unwrap()).collect();
    assert_eq!(journal.file.metadata().unwrap().blocks(), metadata.blocks());
    slots.into_iter().for_each(Slot::release);
}
