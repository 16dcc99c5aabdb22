//! How slow the sender of a content may be: it may pause for some time, and on the whole it must keep to a least
//! rate. Only the time in which this end waits for the sender counts, and not the time that this end's disk takes.

use std::time::{Duration, Instant};

use crate::limits::PROGRESS_TIMEOUT;

/// What is demanded of senders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PaceLimits {
    /// The least bytes a second; 0 where each byte suffices.
    pub rate_min: u64,
    /// The longest pause, and the most time that a fast sender can save up.
    pub pause_max: Duration,
}

impl Default for PaceLimits {
    fn default() -> PaceLimits {
        PaceLimits { rate_min: 0, pause_max: PROGRESS_TIMEOUT }
    }
}

/// The pace of one sender: a credit of time, which waiting uses up and bytes restore.
pub struct Pace {
    limits: PaceLimits,
    credit: Duration,
    waits_since: Instant,
    /// Whether the time from then on is the sender's.
    is_waiting: bool,
}

impl Pace {
    /// Of a sender that is waited for from now on.
    pub fn new(limits: PaceLimits, now: Instant) -> Pace {
        Pace { limits, credit: limits.pause_max, waits_since: now, is_waiting: true }
    }

    /// This end does not wait any more. False where the sender has used up its time.
    pub fn resume(&mut self, now: Instant) -> bool {
        if self.is_waiting {
            self.credit = self.credit.saturating_sub(now.saturating_duration_since(self.waits_since));
            self.is_waiting = false;
        }
        !self.credit.is_zero()
    }

    /// So many bytes have come.
    pub fn received(&mut self, bytes: usize) {
        let PaceLimits { rate_min, pause_max } = self.limits;
        let earned = match rate_min {
            0 => pause_max,
            rate => Duration::from_micros((bytes as u64).saturating_mul(1_000_000) / rate),
        };
        self.credit = self.credit.saturating_add(earned).min(pause_max);
    }

    /// This end waits for the sender from now on.
    pub fn pause(&mut self, now: Instant) {
        (self.waits_since, self.is_waiting) = (now, true);
    }

    /// When the sender is given up, should nothing come.
    pub fn deadline(&self) -> Instant {
        let since = if self.is_waiting { self.waits_since } else { Instant::now() };
        since + self.credit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PaceLimits = PaceLimits { rate_min: 1000, pause_max: Duration::from_secs(10) };

    /// How long a sender lasts that sends so many bytes each time after a pause.
    fn lasts(limits: PaceLimits, bytes: usize, pause: Duration) -> Option<Duration> {
        let start = Instant::now();
        let (mut now, mut pace) = (start, Pace::new(limits, start));
        for _ in 0..10_000 {
            if pace.deadline() <= now + pause {
                return Some(pace.deadline() - start);
            }
            now += pause;
            assert!(pace.resume(now));
            pace.received(bytes);
            pace.pause(now);
        }
        None
    }

    #[test]
    fn a_sender_may_pause_and_must_keep_to_the_rate() {
        let (second, pause) = (Duration::from_secs(1), LIMITS.pause_max);
        assert_eq!(lasts(LIMITS, 1000, second), None, "at the least rate");
        assert_eq!(lasts(LIMITS, 9000, Duration::from_secs(9)), None, "with pauses of seconds");
        assert_eq!(lasts(LIMITS, 1 << 30, pause), Some(pause), "a pause that is too long");
        let drip = lasts(LIMITS, 1, second).expect("it is given up");
        assert!(drip >= pause && drip < pause + second, "{drip:?}");
        let slow = lasts(LIMITS, 500, second).expect("it is given up");
        assert!(slow >= pause * 2 - second && slow <= pause * 2 + second, "{slow:?}");
        // What was sent fast before saves up no more than the longest pause.
        let mut pace = Pace::new(LIMITS, Instant::now());
        pace.received(1 << 40);
        assert_eq!(pace.credit, pause);
    }

    #[test]
    fn without_a_least_rate_each_byte_gives_the_whole_pause() {
        let limits = PaceLimits { rate_min: 0, ..LIMITS };
        assert_eq!(lasts(limits, 1, Duration::from_secs(9)), None);
        assert_eq!(lasts(limits, 1, Duration::from_secs(10)), Some(LIMITS.pause_max));
    }

    #[test]
    fn the_time_of_this_end_does_not_count() {
        let start = Instant::now();
        let mut pace = Pace::new(LIMITS, start);
        assert!(pace.resume(start + Duration::from_secs(4)));
        // The disk takes an hour.
        let later = start + Duration::from_secs(3600);
        pace.pause(later);
        assert_eq!(pace.deadline(), later + Duration::from_secs(6));
        assert!(!pace.resume(later + Duration::from_secs(6)), "what comes too late does not count");
    }
}
