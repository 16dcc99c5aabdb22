//! The load of a whole cloud on one tracker: thousands of storages in hundreds of groups, each of which
//! joins on a connection that it keeps, and beats on it at its interval; and clients meanwhile, who ask at
//! a fixed rate for users' storages, and now and then for the list of all.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tnv_common::error::{Context, Error, Result};
use tnv_common::fail;
use tnv_common::proto::tnv::tracker::{Heartbeat, Join};
use tnv_common::proto::tnv::{REPLY_TRACKER, command};
use tnv_common::proto::{AppId, GroupName, HostName};

use super::addresses::Users;
use super::caller::{Caller, request, unexpected};
use super::figures::{Figures, Latencies};

/// Threads that beat for all storages: each beat waits for its reply, which takes a tenth of a millisecond.
const BEATERS: usize = 4;

/// Threads that join them at the beginning.
const JOINERS: usize = 8;

/// Connections that ask for addresses.
const ASKERS: usize = 8;

/// The port that each storage says it serves on.
const PORT: u16 = 23_000;

/// The bounds of what may be asked for.
const STORAGES_MAX: usize = 30_000;
const GROUPS_MAX: usize = 512;
const RATE_MAX: u32 = 20_000;
const TIME_MAX: Duration = Duration::from_secs(3600);

/// What the cloud is.
#[derive(Clone, Debug)]
pub struct Cloud {
    /// How many storages.
    pub storages: usize,
    /// In how many groups, which the tracker knows by [`group`].
    pub groups: usize,
    /// How long each waits between its beats.
    pub interval: Duration,
    /// How long all of it is looked at, after the first round of beats.
    pub time: Duration,
    /// Whose addresses are asked for.
    pub appid: AppId,
    /// How often a second, on all connections together.
    pub asks_per_s: u32,
    /// How long it is from one question for the list to the next.
    pub list_interval: Duration,
}

/// What was seen.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The beats.
    pub beats: Figures,
    /// How late a beat was sent at the most: more than a small part of the interval, and this machine
    /// did not do what was asked for.
    pub late_max: Duration,
    /// The questions for addresses, each timed from when it was due.
    pub addresses: Figures,
    /// The questions for the list.
    pub lists: Figures,
    /// How long the last list was, in bytes.
    pub list_bytes: usize,
}

/// The name of a group by its number.
pub fn group(number: usize) -> String {
    format!("group{:03}", number + 1)
}

/// A storage: its connection and what it says on it.
struct Storage {
    caller: Caller,
    beat: Vec<u8>,
}

/// Joins all storages, has them beat once, and then watches for the time that was asked for. `at` is
/// called with false when that begins and with true when it ends: the moment to look at a clock of the
/// tracker's own.
pub fn run(tracker: SocketAddr, cloud: &Cloud, mut at: impl FnMut(bool)) -> Result<Seen> {
    check(cloud)?;
    let mut storages = join_all(tracker, cloud)?;
    let mut askers: Vec<Caller> = (0..ASKERS).map(|_| Caller::connect(tracker)).collect::<Result<_>>()?;
    let mut lister = Caller::connect(tracker)?;
    // Users are given groups, and groups need a storage that has beaten.
    let users = {
        let first = Paced::default();
        beat_all(&mut storages, Instant::now(), cloud.interval, cloud.interval, &first);
        let first = first.figures(cloud.interval);
        if let Some(error) = first.first_error {
            return fail!(Unavailable, "{} of the first beats failed, the first: {error}", first.errors);
        }
        Users::warm(&mut askers, &cloud.appid)?
    };
    let (beats, asks, lists) = (Paced::default(), Paced::default(), Paced::default());
    let mut list_bytes = 0;
    at(false);
    let begun = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| beat_all(&mut storages, begun, cloud.interval, cloud.time, &beats));
        for (index, asker) in askers.iter_mut().enumerate() {
            let (users, asks) = (&users, &asks);
            scope.spawn(move || {
                let interval = Duration::from_secs(1) * ASKERS as u32 / cloud.asks_per_s;
                let first = begun + interval * index as u32 / ASKERS as u32;
                let mut number = index as u64;
                asks.keep(first, interval, begun + cloud.time, |_| {
                    number += ASKERS as u64;
                    users.ask(asker, number)
                });
            });
        }
        scope.spawn(|| {
            let question = request(command::GROUPS, &[]);
            lists.keep(begun + cloud.list_interval / 2, cloud.list_interval, begun + cloud.time, |_| {
                list_bytes = check_list(lister.call(&question, REPLY_TRACKER)?, cloud)?;
                Ok(())
            });
        });
    });
    let took = begun.elapsed();
    at(true);
    Ok(Seen {
        late_max: beats.late_max(),
        beats: beats.figures(took),
        addresses: asks.figures(took),
        lists: lists.figures(took),
        list_bytes,
    })
}

fn check(cloud: &Cloud) -> Result<()> {
    let Cloud { storages, groups, interval, time, asks_per_s, list_interval, .. } = cloud;
    let wrong = |what: &str, got: &dyn std::fmt::Debug, want: &dyn std::fmt::Debug| {
        fail!(Invalid, "invalid {what}, got {got:?}, want {want:?}")
    };
    match () {
        () if !(1..=STORAGES_MAX).contains(storages) => {
            wrong("number of storages", storages, &(1..=STORAGES_MAX))
        }
        () if !(1..=GROUPS_MAX).contains(groups) => wrong("number of groups", groups, &(1..=GROUPS_MAX)),
        () if !(1..=RATE_MAX).contains(asks_per_s) => wrong("rate of questions", asks_per_s, &(1..=RATE_MAX)),
        () if interval.is_zero() || *interval > TIME_MAX => wrong("interval", interval, &TIME_MAX),
        () if list_interval.is_zero() => wrong("interval between lists", list_interval, &TIME_MAX),
        () if *time > TIME_MAX => wrong("time", time, &TIME_MAX),
        () => Ok(()),
    }
}

fn join_all(tracker: SocketAddr, cloud: &Cloud) -> Result<Vec<Storage>> {
    let joined = Mutex::new(Vec::with_capacity(cloud.storages));
    thread::scope(|scope| {
        for first in 0..JOINERS {
            let joined = &joined;
            scope.spawn(move || {
                for number in (first..cloud.storages).step_by(JOINERS) {
                    let storage = join(tracker, cloud, number);
                    let failed = storage.is_err();
                    joined.lock().expect("no panic under the lock").push(storage);
                    if failed {
                        return;
                    }
                }
            });
        }
    });
    joined.into_inner().expect("no panic under the lock").into_iter().collect()
}

/// Each storage is a host of its own, with an address of its own.
fn join(tracker: SocketAddr, cloud: &Cloud, number: usize) -> Result<Storage> {
    let [.., high, low] = (number as u32 + 1).to_be_bytes();
    let from = IpAddr::from(Ipv4Addr::new(127, 10, high, low));
    let host = HostName::new(format!("host{number:05}"))?;
    let group = GroupName::new(group(number % cloud.groups))?;
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(since_epoch.as_secs()).unwrap_or(0);
    let (version, beat) = ("1.0".to_owned(), Heartbeat { group: group.clone(), host: host.clone() });
    let join = Join { version, group, host, port: PORT, started: now, joined: now };
    let mut caller = Caller::connect_from(tracker, Some(from).filter(|_| tracker.ip().is_loopback()))?;
    let joined = caller.call(&request(command::JOIN, &join.encode()), REPLY_TRACKER);
    joined.context(|| format!("join as storage {}", number + 1))?;
    Ok(Storage { caller, beat: request(command::HEARTBEAT, &beat.encode()) })
}

/// Has all storages beat at their interval for some time, evenly spread over it.
fn beat_all(storages: &mut [Storage], begun: Instant, interval: Duration, time: Duration, paced: &Paced) {
    let gap = interval / storages.len() as u32;
    thread::scope(|scope| {
        let mut parts: Vec<Vec<&mut Storage>> = (0..BEATERS).map(|_| Vec::new()).collect();
        for (index, storage) in storages.iter_mut().enumerate() {
            parts[index % BEATERS].push(storage);
        }
        for (index, mut part) in parts.into_iter().enumerate().filter(|(_, part)| !part.is_empty()) {
            scope.spawn(move || {
                let first = begun + gap * index as u32;
                paced.keep(first, interval / part.len() as u32, begun + time, |turn| {
                    let index = turn % part.len();
                    let Storage { caller, beat } = &mut *part[index];
                    caller.call(beat, REPLY_TRACKER).map(drop)
                });
            });
        }
    });
}

/// Holds a list against the cloud; tells its length.
fn check_list(list: &[u8], cloud: &Cloud) -> Result<usize> {
    let (mut groups, mut active) = (0, 0);
    for line in list.split(|byte| *byte == b'\n') {
        groups +=
            usize::from(line.ends_with(b"GROUPNAME") || line.windows(10).any(|part| part == b"GROUPNAME:"));
        active += usize::from(line.strip_suffix(b"\0").unwrap_or(line).ends_with(b"STATUS: ACTIVE"));
    }
    match groups >= cloud.groups && active == cloud.storages {
        true => Ok(list.len()),
        false => Err(unexpected(format_args!(
            "a list of {groups} groups and {active} active storages, want {} and {}",
            cloud.groups, cloud.storages
        ))),
    }
}

/// What is done at fixed moments, by several threads.
#[derive(Default)]
struct Paced(Mutex<Done>);

#[derive(Default)]
struct Done {
    latencies: Latencies,
    late_max: Duration,
    errors: u64,
    first_error: Option<Error>,
}

impl Paced {
    /// Does it again and again, each time when it is due, until a moment. Its time is taken from when it was
    /// due: who comes late because the one before took long has waited too.
    fn keep(
        &self,
        first: Instant,
        interval: Duration,
        end: Instant,
        mut operation: impl FnMut(usize) -> Result<()>,
    ) {
        let mut done = Done::default();
        for turn in 0.. {
            let due = first + interval.mul_f64(f64::from(turn));
            if due >= end {
                break;
            }
            thread::sleep(due.saturating_duration_since(Instant::now()));
            done.late_max = done.late_max.max(due.elapsed());
            match operation(turn as usize) {
                Ok(()) => done.latencies.add(due.elapsed()),
                Err(error) => {
                    done.errors += 1;
                    done.first_error.get_or_insert(error);
                }
            }
        }
        let mut all = self.0.lock().expect("no panic under the lock");
        all.latencies.merge(&done.latencies);
        all.late_max = all.late_max.max(done.late_max);
        all.errors += done.errors;
        all.first_error = all.first_error.take().or(done.first_error);
    }

    fn late_max(&self) -> Duration {
        self.0.lock().expect("no panic under the lock").late_max
    }

    fn figures(self, took: Duration) -> Figures {
        let done = self.0.into_inner().expect("no panic under the lock");
        Figures::new(&done.latencies, took, done.errors, done.first_error)
    }
}
