//! The interval of a storage's heartbeats, as it has shown it, and how long its silence may be.

use std::time::{Duration, Instant};

/// A storage is dead when so many of its intervals passed without a beat: one beat may be lost and
/// one late.
const INTERVALS_MISSED_MAX: u32 = 3;

/// Shorter intervals are taken for this one: a busy host's scheduler is no reason to be OFFLINE.
const INTERVAL_MIN: Duration = Duration::from_secs(1);

/// The longest of so many gaps between beats is the interval: one beat that came early, as after a
/// late one, must not make the next ones late.
const GAPS_REMEMBERED: usize = 4;

/// The intervals that a storage has shown since its latest join.
#[derive(Clone, Debug, Default)]
pub struct Intervals {
    last_beat: Option<Instant>,
    /// The latest ones, oldest overwritten first.
    gaps: [Duration; GAPS_REMEMBERED],
    seen: usize,
    /// The last beat came when the storage was OFFLINE already.
    was_late: bool,
}

impl Intervals {
    /// A heartbeat came; `late` where the storage was OFFLINE already.
    pub fn beat(&mut self, now: Instant, late: bool) {
        // An absence is no interval, and must not make the next one be noticed late. But two late
        // beats in a row are one: else a storage that has slowed down would be OFFLINE for good.
        if let Some(last) = self.last_beat
            && (!late || self.was_late)
        {
            self.gaps[self.seen % GAPS_REMEMBERED] = now.saturating_duration_since(last);
            self.seen += 1;
        }
        self.was_late = late;
        self.last_beat = Some(now);
    }

    /// How long the storage may be silent before it is OFFLINE; `default` where it has shown no interval yet, and at
    /// most.
    pub fn silence_max(&self, default: Duration) -> Duration {
        match self.gaps[..self.seen.min(GAPS_REMEMBERED)].iter().max() {
            Some(gap) => default.min((*gap).max(INTERVAL_MIN).saturating_mul(INTERVALS_MISSED_MAX)),
            None => default,
        }
    }
}
