//! New file IDs, in the format of legacy clients. Servers accept any text; this format is unique without a
//! server.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use md5::{Digest, Md5};
use tnv_common::error::Result;
use tnv_common::proto::{FileId, UserId};

/// The counter goes from 1 to this: four digits.
const COUNTER_MAX: u32 = 8000;

static COUNTER: AtomicU32 = AtomicU32::new(0);
static THREADS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static THREAD: Cell<u64> = Cell::new(THREADS.fetch_add(1, Ordering::Relaxed));
}

/// A new file ID of 36 characters: seconds (8 hex), microseconds (6 hex), the middle 16 hex digits of
/// the MD5 of `userid@pid@thread@random`, a counter from 0001 to 8000, a random number of 2 digits.
pub fn make_file_id(userid: &UserId) -> Result<FileId> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let thread = THREAD.get();
    let random: u64 = rand::random();
    let origin = format!("{userid}@{}@{thread}@{random}", std::process::id());
    let origin = u128::from_be_bytes(Md5::digest(origin.as_bytes()).into());
    let middle = (origin >> 32) as u64;
    let counter = COUNTER.fetch_add(1, Ordering::Relaxed) % COUNTER_MAX + 1;
    let (seconds, micros) = (now.as_secs() & 0xFFFF_FFFF, now.subsec_micros());
    let end = rand::random_range(0..100_u32);
    FileId::new(format!("{seconds:08x}{micros:06x}{middle:016x}{counter:04}{end:02}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_file_id_has_the_format_of_legacy_clients() {
        let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let id = make_file_id(&UserId::new("tnv001").unwrap()).unwrap();
        let id = id.as_str();
        assert_eq!(id.len(), 36);
        assert!(id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{id}");
        assert!(u64::from_str_radix(&id[..8], 16).unwrap().abs_diff(before) <= 1);
        assert!(u32::from_str_radix(&id[8..14], 16).unwrap() < 1_000_000);
        assert!((1..=COUNTER_MAX).contains(&id[30..34].parse().unwrap()));
        assert!(id[34..].parse::<u32>().unwrap() < 100);
    }

    #[test]
    fn concurrent_threads_make_different_ids() {
        let user = UserId::new("tnv001").unwrap();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let user = user.clone();
                std::thread::spawn(move || {
                    (0..5000).map(|_| make_file_id(&user).unwrap()).collect::<Vec<_>>()
                })
            })
            .collect();
        let all: HashSet<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(all.len(), 20_000);
    }
}
