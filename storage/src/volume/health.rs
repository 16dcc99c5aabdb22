//! Whether a volume takes new files. It is bad after an I/O error of a write and after a sync
//! that failed. After one of a read it is tried last. The reason for the former: the kernel may have dropped what it could not write and call it clean, so that what is
//! in its cache need not be what is on the disk, and the next fsync succeeds whatever that is worth.
//!
//! Trust comes back by itself, by proof: a file is written, synced, dropped from the cache and read
//! back, [`PROOFS`] times in a row, each time after a longer pause; a proof that fails begins the row
//! anew. A disk that fails again soon after it was trusted has to prove itself for longer each time, so
//! that one which comes and goes costs ever fewer uploads. The proofs are made by the thread that asks
//! the disk, which no request waits for.
//!
//! A restart forgets all of this: what was given up is gone by then, and a disk that still fails shows
//! it at the first upload.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};

use crate::volume::disk::{above, sync_directory};

/// Proofs in a row: with the pauses between them they span several of the kernel's write-backs.
pub const PROOFS: u32 = 3;

/// The pause before the first proof; each further one is twice as long.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest pause: a disk that was mended takes new files again within minutes.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// A disk that fails within this time of its recovery has relapsed.
const RELAPSE_TIMEOUT: Duration = Duration::from_secs(600);

/// Content of a proof: many blocks, and little beside one upload.
const PROOF_BYTES: usize = 256 << 10;

/// The health of one volume.
pub struct Health {
    lost: Option<Lost>,
    /// The error epoch: how often something failed that may have lost what was written.
    error_epoch: u64,
    /// The pause that the present row of proofs began with, or the last one.
    first_pause: Duration,
    regained_at: Option<Instant>,
}

struct Lost {
    /// Nothing that was written is in doubt, only what is read.
    reads_only: bool,
    since: Instant,
    /// Proofs in a row until now.
    proofs: u32,
    /// The next one is made then.
    due: Instant,
    /// The pause before it.
    pause: Duration,
}

/// What a proof led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Proof {
    /// More are needed, the next one after so long.
    Next(Duration),
    /// It is healthy again, after so long.
    Regained(Duration),
}

impl Health {
    /// Until something fails.
    pub fn new() -> Health {
        Health { lost: None, error_epoch: 0, first_pause: PAUSE, regained_at: None }
    }

    /// Whether there are no new files.
    pub fn is_bad(&self) -> bool {
        self.lost.as_ref().is_some_and(|lost| !lost.reads_only)
    }

    /// Whether something could not be read since it was last proven.
    pub fn is_suspected(&self) -> bool {
        self.lost.is_some()
    }

    /// How often something failed. Who finds another number than before was on the disk when it did.
    pub fn error_epoch(&self) -> u64 {
        self.error_epoch
    }

    /// Something failed; returns whether it was healthy until now.
    pub fn fail(&mut self, now: Instant) -> bool {
        self.error_epoch += 1;
        self.doubt(now, false)
    }

    /// Something could not be read; returns whether nothing was in doubt until now. New files go elsewhere first.
    pub fn suspect(&mut self, now: Instant) -> bool {
        self.doubt(now, true)
    }

    fn doubt(&mut self, now: Instant, reads_only: bool) -> bool {
        if let Some(lost) = &mut self.lost {
            lost.proofs = 0;
            let is_worse = lost.reads_only && !reads_only;
            lost.reads_only &= reads_only;
            return is_worse;
        }
        let relapsed = self.regained_at.is_some_and(|at| now.duration_since(at) < RELAPSE_TIMEOUT);
        self.first_pause = if relapsed { (self.first_pause * 2).min(PAUSE_MAX) } else { PAUSE };
        let pause = self.first_pause;
        self.lost = Some(Lost { reads_only, since: now, proofs: 0, due: now + pause, pause });
        true
    }

    /// Whether it is time for a proof.
    pub fn is_due(&self, now: Instant) -> bool {
        self.lost.as_ref().is_some_and(|lost| lost.due <= now)
    }

    /// A proof was tried that began in this error epoch; `None` where none was wanted.
    pub fn tried(&mut self, now: Instant, proven: bool, error_epoch: u64) -> Option<Proof> {
        let proven = proven && error_epoch == self.error_epoch;
        let lost = self.lost.as_mut()?;
        lost.proofs = if proven { lost.proofs + 1 } else { 0 };
        if lost.proofs >= PROOFS {
            let took = now.duration_since(lost.since);
            self.lost = None;
            self.regained_at = Some(now);
            return Some(Proof::Regained(took));
        }
        lost.pause = (lost.pause * 2).min(PAUSE_MAX);
        lost.due = now + lost.pause;
        Some(Proof::Next(lost.pause))
    }
}

/// A proof: writes this file, syncs it and its name, reads it back from the disk, and removes it. One
/// that a kill left behind is replaced.
pub fn prove(path: &Path) -> io::Result<()> {
    let proven = write_and_read(path);
    let removed = fs::remove_file(path);
    proven?;
    removed?;
    sync_directory(above(path))
}

fn write_and_read(path: &Path) -> io::Result<()> {
    let mut content = vec![0; PROOF_BYTES];
    rand::fill(&mut content[..]);
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    file.write_all(&content)?;
    file.sync_all()?;
    sync_directory(above(path))?;
    // What is clean is dropped; where the file system does not, its memory is read, which proves less.
    fadvise(&file, 0, None, Advice::DontNeed)?;
    let mut back = vec![0; PROOF_BYTES];
    file.read_exact_at(&mut back, 0)?;
    match back == content {
        true => Ok(()),
        false => Err(io::Error::other("what was read back is not what was written")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    /// Tries proofs at their times until it is healthy; returns when that was.
    fn prove_until_trusted(health: &mut Health, start: Instant, outcomes: &[bool]) -> Duration {
        let mut outcomes = outcomes.iter().chain(std::iter::repeat(&true));
        let mut now = start;
        while health.is_bad() {
            now += Duration::from_millis(250);
            if health.is_due(now) {
                health.tried(now, *outcomes.next().unwrap(), health.error_epoch());
            }
        }
        now - start
    }

    #[test]
    fn trust_comes_back_after_proofs_in_a_row_with_growing_pauses() {
        let now = Instant::now();
        let mut health = Health::new();
        assert!(!health.is_bad() && !health.is_due(now));
        assert!(health.fail(now));
        assert!(!health.fail(now), "it is reported once");
        assert_eq!(prove_until_trusted(&mut health, now, &[]), PAUSE * (1 + 2 + 4));
        assert_eq!(health.tried(now, true, health.error_epoch()), None);
        health = Health::new();
        health.fail(now);
        let took = prove_until_trusted(&mut health, now, &[true, true, false]);
        assert_eq!(took, PAUSE * (1 + 2 + 4 + 8 + 16 + 32), "a proof that fails begins the row anew");
    }

    #[test]
    fn a_disk_that_fails_again_has_to_prove_itself_for_longer() {
        let mut now = Instant::now();
        let mut health = Health::new();
        let mut last = Duration::ZERO;
        for _ in 0..20 {
            health.fail(now);
            let took = prove_until_trusted(&mut health, now, &[]);
            assert!(took >= last && took <= PAUSE_MAX * PROOFS, "{took:?} after {last:?}");
            last = took;
            now += took;
        }
        assert_eq!(last, PAUSE_MAX * PROOFS);
        now += RELAPSE_TIMEOUT;
        health.fail(now);
        assert_eq!(prove_until_trusted(&mut health, now, &[]), PAUSE * 7, "long ago counts no more");
    }

    #[test]
    fn a_failure_during_a_proof_spoils_it() {
        let now = Instant::now();
        let mut health = Health::new();
        health.fail(now);
        for _ in 0..PROOFS {
            let error_epoch = health.error_epoch();
            health.fail(now);
            health.tried(now, true, error_epoch);
        }
        assert!(health.is_bad());
    }

    #[test]
    fn a_proof_leaves_nothing_and_replaces_what_a_kill_left() {
        let scratch = Scratch::new();
        let path = scratch.path().join(".proof");
        fs::write(&path, vec![1; PROOF_BYTES * 2]).unwrap();
        prove(&path).unwrap();
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
        assert!(prove(&scratch.path().join("not mounted/.proof")).is_err());
    }
}
