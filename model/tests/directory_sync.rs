//! The syncing of directories: what is acknowledged is on the disk, whichever sync fails when.

use std::collections::BTreeSet;
use std::io;
use std::sync::Mutex as Seen;

use shuttle::thread;
use tnv_model::file::directory_sync::DirectorySyncs;
use tnv_model::scenario::check;
use tnv_model::sync::{self, Arc, Mutex, chance};
use tnv_model::volume::disk::{DiskError, DiskHealth, DiskResult, Fsync};

const WHAT: &str = "sync";

/// A directory as the kernel has it: names in memory, names on the disk. A lock of std: no thread is switched
/// under it.
#[derive(Default)]
struct Directory(Seen<Names>);

#[derive(Default)]
struct Names {
    dirty: BTreeSet<u32>,
    durable: BTreeSet<u32>,
}

impl Directory {
    fn make(&self, name: u32) {
        self.0.lock().unwrap().dirty.insert(name);
    }

    /// One that succeeds makes durable what was there when it began. One that fails loses all that is there at its
    /// end, and the kernel calls it clean: the next one succeeds without it.
    fn sync(&self) -> DiskResult<()> {
        let begun = self.0.lock().unwrap().dirty.clone();
        thread::yield_now();
        let is_lost = chance(3);
        let mut names = self.0.lock().unwrap();
        if is_lost {
            names.dirty.clear();
            return Err(DiskError::of_sync(WHAT, io::Error::from_raw_os_error(5)));
        }
        let written: Vec<_> = names.dirty.intersection(&begun).copied().collect();
        for name in written {
            names.dirty.remove(&name);
            names.durable.insert(name);
        }
        Ok(())
    }

    fn has(&self, name: u32) -> bool {
        self.0.lock().unwrap().durable.contains(&name)
    }
}

/// A volume, which counts its losses under a lock of the model: as the real one does.
#[derive(Default)]
struct Counted(Mutex<u64>);

impl DiskHealth for Counted {
    fn failed(&self, failure: &DiskError) {
        *self.0.lock().unwrap() += u64::from(failure.lost_writes);
    }

    fn error_epoch(&self) -> u64 {
        *self.0.lock().unwrap()
    }
}

/// What an upload does, as `write` has it; true where it is acknowledged.
fn upload(
    syncs: &DirectorySyncs,
    volume: &Arc<dyn DiskHealth>,
    directory: &Arc<Directory>,
    name: u32,
) -> bool {
    let error_epoch = volume.error_epoch();
    thread::yield_now();
    directory.make(name);
    let kernel = Arc::clone(directory);
    let sync = syncs.begin_with(WHAT, "d", volume, move |_| kernel.sync());
    // The sync of its file, which may take long.
    for _ in 0..3 {
        if chance(2) {
            thread::yield_now();
        }
    }
    if let Err(fault) = sync.wait() {
        if !fault.reported {
            volume.failed(&fault);
        }
        return false;
    }
    volume.error_epoch() == error_epoch
}

#[test]
fn an_acknowledged_name_is_on_the_disk_whichever_sync_fails() {
    check(|faults| {
        let syncs = Arc::new(DirectorySyncs::new(Fsync::Yes).unwrap());
        sync::set(faults);
        let directory = Arc::new(Directory::default());
        let volume: Arc<dyn DiskHealth> = Arc::new(Counted::default());
        let uploads: Vec<_> = (0..3)
            .map(|uploader| {
                let (syncs, volume, directory) =
                    (Arc::clone(&syncs), Arc::clone(&volume), Arc::clone(&directory));
                thread::spawn(move || {
                    for name in [uploader * 10, uploader * 10 + 1] {
                        let is_acknowledged = upload(&syncs, &volume, &directory, name);
                        assert!(!is_acknowledged || directory.has(name), "{name} is acknowledged and lost");
                    }
                })
            })
            .collect();
        uploads.into_iter().for_each(|upload| upload.join().unwrap());
        // Whatever failed, the directory can be synced again.
        sync::set(sync::Faults::NONE);
        assert!(matches!(syncs.begin_with(WHAT, "d", &volume, |_| Ok(())).wait(), Ok(()) | Err(_)));
    });
}
