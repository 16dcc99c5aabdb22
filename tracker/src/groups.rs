//! The one table of groups and their storages, behind methods that keep it true.
//!
//! A storage is OFFLINE, ONLINE (it has joined) or ACTIVE (it has joined and beaten). What holds:
//! - A storage that is not OFFLINE is known by a join, and was heard of within its
//!   [`silence_max`](Member::silence_max).
//! - The latest joining connection of a storage, and no earlier one, takes it OFFLINE by closing.
//! - A group has at most [`MEMBERS_MAX`] storages, and there are at most [`GROUPS_MAX`] groups that
//!   are listed in the database.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use log::{info, warn};
use tnv_common::error::Result;
use tnv_common::fail;
use tnv_common::wire::shares::Shares;
use tnv_common::wire::tnv::{Beat, Join, ROUTE_ADDRESSES_MAX};
use tnv_common::wire::{GroupName, HostName};

use crate::shares::Report;

/// Storages of one group, dead ones included. A group is a set of copies: nobody has 64 of them,
/// and the list of all groups stays within what clients accept.
pub const MEMBERS_MAX: usize = 64;

/// Groups: as many as a FastDFS cluster may have, and 64 storages each still fit one group list.
pub const GROUPS_MAX: usize = 512;

/// Groups that one line of the log names.
const GROUPS_LOGGED_MAX: usize = 16;

/// A storage is dead when so many of its intervals passed without a beat: one beat may be lost and
/// one late.
const INTERVALS_MISSED_MAX: u32 = 3;

/// Shorter intervals are taken for this one: a busy host's scheduler is no reason to be OFFLINE.
const INTERVAL_MIN: Duration = Duration::from_secs(1);

/// The longest of so many gaps between beats is the interval: one beat that came early, as after a
/// late one, must not make the next ones late.
const GAPS_REMEMBERED: usize = 4;

/// A moment: for measuring, and for showing.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// On the clock that never jumps.
    pub instant: Instant,
    /// Seconds since the epoch.
    pub epoch: i64,
}

impl Now {
    /// This moment.
    pub fn read() -> Now {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Now { instant: Instant::now(), epoch: i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX) }
    }
}

/// How a storage is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not heard of, or gone.
    Offline,
    /// It has joined, and not beaten since.
    Online,
    /// It beats.
    Active,
}

impl fmt::Display for State {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            State::Offline => "OFFLINE",
            State::Online => "ONLINE",
            State::Active => "ACTIVE",
        })
    }
}

/// Which storage of a group: two on one host differ in their port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemberId {
    /// The name of its host, as it tells it.
    pub host: HostName,
    /// The address its joining connection came from, and the port it serves clients on.
    pub address: SocketAddr,
}

impl fmt::Display for MemberId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "storage {} on host {}", self.address, self.host)
    }
}

/// What a joined connection is remembered by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    group: GroupName,
    id: MemberId,
    /// Which join of all joins it was.
    join: u64,
}

/// A storage.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its version.
    pub version: String,
    /// When it started, by its own clock, seconds since the epoch.
    pub started: i64,
    /// When it joined, by its own clock.
    pub joined: i64,
    /// When it last beat, by this host's clock.
    pub beaten: Option<i64>,
    /// How it is doing.
    pub state: State,
    /// What it reported of its volumes.
    report: Option<Report>,
    /// Its latest join.
    join: u64,
    /// When it last joined or beat.
    heard: Instant,
    /// When it got into its state.
    since: Instant,
    gaps: Gaps,
}

impl Member {
    fn new(join: &Join, number: u64, now: Now) -> Member {
        Member {
            version: join.version.clone(),
            started: join.started,
            joined: join.joined,
            beaten: None,
            state: State::Online,
            report: None,
            join: number,
            heard: now.instant,
            since: now.instant,
            gaps: Gaps::default(),
        }
    }

    fn enter(&mut self, state: State, now: Now) {
        self.state = state;
        self.since = now.instant;
    }

    /// Notes a beat; tells whether the storage was not ACTIVE before.
    fn beat(&mut self, now: Now) -> bool {
        self.gaps.beat(now.instant, self.state == State::Offline);
        self.heard = now.instant;
        self.beaten = Some(now.epoch);
        let woken = self.state != State::Active;
        if woken {
            self.enter(State::Active, now);
        }
        woken
    }

    /// How long it may be silent before it is OFFLINE.
    fn silence_max(&self, check_active_interval: Duration) -> Duration {
        match self.gaps.longest() {
            Some(gap) => {
                check_active_interval.min(gap.max(INTERVAL_MIN).saturating_mul(INTERVALS_MISSED_MAX))
            }
            None => check_active_interval,
        }
    }
}

/// The intervals that a storage has shown since its latest join.
#[derive(Clone, Debug, Default)]
struct Gaps {
    last_beat: Option<Instant>,
    /// The latest ones, oldest overwritten first.
    gaps: [Duration; GAPS_REMEMBERED],
    seen: usize,
    /// The last beat came when the storage was OFFLINE already.
    was_late: bool,
}

impl Gaps {
    fn beat(&mut self, now: Instant, late: bool) {
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

    fn longest(&self) -> Option<Duration> {
        self.gaps[..self.seen.min(GAPS_REMEMBERED)].iter().max().copied()
    }
}

/// A group.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Whether the database has it. One that was taken out there lives on until its last storage is
    /// OFFLINE, since users have files in it; nobody can join it.
    listed: bool,
    members: BTreeMap<MemberId, Member>,
}

impl Group {
    /// Its storages, in a steady order.
    pub fn members(&self) -> impl Iterator<Item = (&MemberId, &Member)> {
        self.members.iter()
    }

    /// How many storages it has.
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// How many of them are ACTIVE.
    pub fn active_count(&self) -> usize {
        self.active().count()
    }

    /// Whether one of them is.
    fn is_active(&self) -> bool {
        self.active().next().is_some()
    }

    fn active(&self) -> impl Iterator<Item = SocketAddr> {
        let active = self.members.iter().filter(|(_, member)| member.state == State::Active);
        active.map(|(id, _)| id.address)
    }

    /// Makes sure that one more storage fits: the one that is OFFLINE for longest gives way.
    fn make_room(&mut self, name: &GroupName) -> Result<()> {
        if self.members.len() < MEMBERS_MAX {
            return Ok(());
        }
        let offline = self.members.iter().filter(|(_, member)| member.state == State::Offline);
        let longest = offline.min_by_key(|(_, member)| member.since).map(|(id, _)| id.clone());
        match longest {
            Some(id) => {
                info!("{id} of group {name} is forgotten: it is OFFLINE for longest, and the group is full");
                self.members.remove(&id);
                Ok(())
            }
            None => fail!(
                Busy,
                "group {name} is full, it has {MEMBERS_MAX} storages and none is OFFLINE; join another group"
            ),
        }
    }
}

/// The table.
#[derive(Default)]
pub struct Groups {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    groups: BTreeMap<GroupName, Group>,
    joins: u64,
}

impl Groups {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over which groups the database has; more than [`GROUPS_MAX`] are left out.
    pub fn set_listed(&self, names: &[GroupName]) {
        let names = &names[..names.len().min(GROUPS_MAX)];
        let known: HashSet<&GroupName> = names.iter().collect();
        let mut table = self.lock();
        let (mut gone, mut new) = (Vec::new(), Vec::new());
        for (name, group) in &mut table.groups {
            let listed = known.contains(name);
            if group.listed && !listed {
                gone.push(name.clone());
            }
            group.listed = listed;
        }
        for name in names {
            let group = table.groups.entry(name.clone()).or_default();
            if !group.listed {
                new.push(name.clone());
            }
            group.listed = true;
        }
        table.drop_unlisted();
        drop(table);
        log_listed("no longer in", &gone);
        log_listed("in", &new);
    }

    /// Whether the database has this group, as far as is known here.
    pub fn is_listed(&self, name: &GroupName) -> bool {
        self.lock().groups.get(name).is_some_and(|group| group.listed)
    }

    /// A storage joins, from the address `ip`. Its former record, if there is one, is replaced.
    pub fn join(&self, join: &Join, ip: IpAddr, now: Now) -> Result<Membership> {
        let id = MemberId { host: join.host.clone(), address: SocketAddr::new(ip, join.port) };
        let mut table = self.lock();
        let number = table.joins + 1;
        let name = &join.group;
        let Some(group) = table.groups.get_mut(name).filter(|group| group.listed) else {
            return fail!(NotFound, "unknown group: {name}; add it to the tracker's tnv_groups");
        };
        if !group.members.contains_key(&id) {
            group.make_room(name)?;
        }
        group.members.insert(id.clone(), Member::new(join, number, now));
        table.joins = number;
        drop(table);
        info!("{id} joined group {name}, version {}: ONLINE", join.version);
        Ok(Membership { group: name.clone(), id, join: number })
    }

    /// A beat on the connection of a storage that joined.
    pub fn beat_of(&self, member: &Membership, beat: &Beat, now: Now) -> Result<()> {
        let Membership { group, id, .. } = member;
        if (&beat.group, &beat.host) != (group, &id.host) {
            return fail!(
                Invalid,
                "heartbeat of host {} in group {}, but host {} in group {group} joined on this connection",
                beat.host,
                beat.group,
                id.host
            );
        }
        let mut table = self.lock();
        let known = table.groups.get_mut(group).and_then(|group| group.members.get_mut(id));
        let Some(known) = known else {
            return fail!(NotFound, "unknown storage: {id} in group {group}; join again");
        };
        if known.report.as_ref().is_some_and(|report| !report.agrees()) {
            return fail!(Forbidden, "{id} does not share the files of group {group}");
        }
        let woken = known.beat(now);
        drop(table);
        log_woken(woken, id, group);
        Ok(())
    }

    /// A beat on a connection that did not join: that of the one storage which it may be.
    pub fn beat_from(&self, beat: &Beat, ip: IpAddr, now: Now) -> Result<()> {
        let Beat { group: name, host } = beat;
        let mut table = self.lock();
        let Some(group) = table.groups.get_mut(name) else {
            return fail!(NotFound, "unknown group: {name}");
        };
        let meant = |id: &MemberId| id.host == *host && id.address.ip() == ip;
        let mut found = group.members.iter_mut().filter(|(id, _)| meant(id));
        let (Some((id, member)), None) = (found.next(), found.next()) else {
            let count = group.members.keys().filter(|id| meant(id)).count();
            return match count {
                0 => fail!(NotFound, "unknown storage: host {host} at {ip} in group {name}; join first"),
                _ => fail!(
                    Invalid,
                    "{count} storages of host {host} at {ip} in group {name}; beat on the connection that joined"
                ),
            };
        };
        let (woken, id) = (member.beat(now), id.clone());
        drop(table);
        log_woken(woken, &id, name);
        Ok(())
    }

    /// A storage that has joined reports its volumes. Where they are not those of the members that reported theirs
    /// before, it is not ACTIVE until they are.
    pub fn report(&self, shares: &Shares, ip: IpAddr, now: Now) -> Result<()> {
        let Shares { group: name, host, port, is_id, shares } = shares;
        let id = MemberId { host: host.clone(), address: SocketAddr::new(ip, *port) };
        let mut table = self.lock();
        let Some(group) = table.groups.get_mut(name).filter(|group| group.members.contains_key(&id)) else {
            return fail!(NotFound, "unknown storage: {id} in group {name}; join first");
        };
        if *is_id {
            // It had another address before.
            let is_former = |other: &MemberId| other.host == *host && *other != id;
            group.members.retain(|other, member| member.state != State::Offline || !is_former(other));
        }
        let agreed = |member: &Member| {
            let report = member.report.as_ref().filter(|report| report.agrees());
            report.filter(|_| member.state != State::Offline).cloned()
        };
        let mut others = group.members.iter().filter(|(other, _)| **other != id);
        let difference = others.find_map(|(other, member)| {
            agreed(member)?.difference(shares).map(|difference| format!("{difference}, {other}"))
        });
        let Some(member) = group.members.get_mut(&id) else { return Ok(()) };
        let report = Report::new(shares, difference.is_none(), member.report.as_ref());
        let is_to_be_logged = report.is_to_be_logged();
        member.report = Some(report);
        member.heard = now.instant;
        let Some(difference) = difference else { return Ok(()) };
        if member.state == State::Active {
            member.enter(State::Online, now);
        }
        drop(table);
        if is_to_be_logged {
            warn!("{id} does not share the files of group {name} and gets no clients: {difference}");
        }
        fail!(Forbidden, "this storage does not share the files of group {name}: {difference}")
    }

    /// The connection that a storage joined on has closed. Unless it has joined again since, the
    /// storage is OFFLINE.
    pub fn leave(&self, member: &Membership, now: Now) {
        let Membership { group: name, id, join } = member;
        let mut table = self.lock();
        let known = table.groups.get_mut(name).and_then(|group| group.members.get_mut(id));
        let Some(known) = known.filter(|known| known.join == *join && known.state != State::Offline) else {
            return;
        };
        known.enter(State::Offline, now);
        table.drop_unlisted();
        drop(table);
        info!("{id} of group {name}: OFFLINE, its connection closed");
    }

    /// Takes storages OFFLINE that were silent for too long.
    pub fn expire(&self, check_active_interval: Duration, now: Now) {
        let mut table = self.lock();
        let mut changed = false;
        for (name, group) in &mut table.groups {
            for (id, member) in &mut group.members {
                let silence = now.instant.saturating_duration_since(member.heard);
                if member.state != State::Offline && silence >= member.silence_max(check_active_interval) {
                    member.enter(State::Offline, now);
                    changed = true;
                    info!("{id} of group {name}: OFFLINE, no heartbeat for {:.1} s", silence.as_secs_f64());
                }
            }
        }
        if changed {
            table.drop_unlisted();
        }
    }

    /// A group for a new user: at random one of those that the database has and that serve.
    pub fn choose(&self) -> Option<GroupName> {
        let table = self.lock();
        let usable = || table.groups.iter().filter(|(_, group)| group.listed && group.is_active());
        let count = usable().count();
        let chosen = if count > 0 { rand::random_range(0..count) } else { 0 };
        usable().nth(chosen).map(|(name, _)| name.clone())
    }

    /// The group's ACTIVE storages, at most three of them, from a random position on.
    pub fn route(&self, name: &GroupName) -> Vec<SocketAddr> {
        let mut active: Vec<_> = match self.lock().groups.get(name) {
            Some(group) => group.active().collect(),
            None => Vec::new(),
        };
        if !active.is_empty() {
            let start = rand::random_range(0..active.len());
            active.rotate_left(start);
        }
        active.truncate(ROUTE_ADDRESSES_MAX);
        active
    }

    /// The names of all groups.
    pub fn names(&self) -> Vec<GroupName> {
        self.lock().groups.keys().cloned().collect()
    }

    /// One group as it is now, where it is still there. What is done with it keeps nobody waiting, as it would
    /// under the table's lock.
    pub fn get(&self, name: &GroupName) -> Option<Group> {
        self.lock().groups.get(name).cloned()
    }
}

impl Table {
    /// Forgets groups that the database no longer has and that serve nobody.
    fn drop_unlisted(&mut self) {
        let alive = |group: &Group| group.members.values().any(|member| member.state != State::Offline);
        self.groups.retain(|_, group| group.listed || alive(group));
    }
}

/// One line, however many there are: hundreds at the start would crowd out of the log what else is told then.
fn log_listed(what: &str, names: &[GroupName]) {
    let shown: Vec<&str> = names.iter().take(GROUPS_LOGGED_MAX).map(GroupName::as_str).collect();
    let shown = shown.join(", ");
    match (names, names.len().saturating_sub(GROUPS_LOGGED_MAX)) {
        ([], _) => {}
        ([name], _) => info!("group {name} is {what} t_groups_info"),
        (names, 0) => info!("{} groups are {what} t_groups_info: {shown}", names.len()),
        (names, more) => info!("{} groups are {what} t_groups_info: {shown} and {more} more", names.len()),
    }
}

fn log_woken(woken: bool, id: &MemberId, group: &GroupName) {
    if woken {
        info!("{id} of group {group}: ACTIVE");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tnv_common::error::ErrorKind;

    const CHECK: Duration = Duration::from_secs(120);
    const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    /// A table with the groups g1 and g2, and a clock of its own.
    struct Bench {
        groups: Groups,
        now: Now,
    }

    impl Bench {
        fn new() -> Bench {
            let groups = Groups::default();
            groups.set_listed(&[name("g1"), name("g2")]);
            Bench { groups, now: Now { instant: Instant::now(), epoch: 1_000 } }
        }

        fn pass(&mut self, seconds: f64) {
            self.now.instant += Duration::from_secs_f64(seconds);
            self.now.epoch += seconds as i64;
            self.groups.expire(CHECK, self.now);
        }

        fn join(&self, group: &str, host: &str, port: u16) -> Membership {
            self.groups.join(&join(group, host, port), IP, self.now).unwrap()
        }

        fn beat(&self, member: &Membership) -> Result<()> {
            let beat = Beat { group: member.group.clone(), host: member.id.host.clone() };
            self.groups.beat_of(member, &beat, self.now)
        }

        fn state(&self, member: &Membership) -> Option<State> {
            Some(self.groups.get(&member.group)?.members.get(&member.id)?.state)
        }
    }

    fn name(name: &str) -> GroupName {
        GroupName::new(name).unwrap()
    }

    fn join(group: &str, host: &str, port: u16) -> Join {
        let host = HostName::new(host).unwrap();
        Join { version: "1.0".into(), group: name(group), host, port, started: 1, joined: 2 }
    }

    fn beat(group: &str, host: &str) -> Beat {
        Beat { group: name(group), host: HostName::new(host).unwrap() }
    }

    #[test]
    fn a_join_makes_online_a_beat_active_and_a_join_again_online() {
        let mut bench = Bench::new();
        let member = bench.join("g1", "vm", 1);
        assert_eq!(bench.state(&member), Some(State::Online));
        bench.pass(1.0);
        bench.beat(&member).unwrap();
        assert_eq!(bench.state(&member), Some(State::Active));
        let again = bench.join("g1", "vm", 1);
        assert_eq!(bench.state(&again), Some(State::Online));
        assert_eq!(bench.groups.get(&name("g1")).unwrap().count(), 1);
    }

    #[test]
    fn a_group_that_is_not_in_the_database_cannot_be_joined() {
        let bench = Bench::new();
        let error = bench.groups.join(&join("g3", "vm", 1), IP, bench.now).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.message().contains("g3"));
    }

    #[test]
    fn closing_the_latest_joining_connection_takes_a_storage_offline() {
        let bench = Bench::new();
        let first = bench.join("g1", "vm", 1);
        let second = bench.join("g1", "vm", 1);
        bench.beat(&second).unwrap();
        bench.groups.leave(&first, bench.now);
        assert_eq!(bench.state(&second), Some(State::Active));
        bench.groups.leave(&second, bench.now);
        assert_eq!(bench.state(&second), Some(State::Offline));
    }

    /// A calendar clock that is set a year ahead, back, or to before the epoch says nothing about who is silent.
    #[test]
    fn a_clock_that_jumps_takes_no_storage_offline_and_keeps_no_silent_one() {
        let mut bench = Bench::new();
        let member = bench.join("g1", "vm", 1);
        for epoch in [31_536_000, 0, -5_000, i64::MAX / 2, 1_000] {
            bench.now.epoch = epoch;
            bench.beat(&member).unwrap();
            bench.pass(10.0);
            assert_eq!(bench.state(&member), Some(State::Active), "the clock says {epoch}");
        }
        bench.now.epoch = -31_536_000;
        bench.pass(130.0);
        assert_eq!(bench.state(&member), Some(State::Offline));
    }

    #[test]
    fn three_missed_beats_take_a_storage_offline() {
        let mut bench = Bench::new();
        let member = bench.join("g1", "vm", 1);
        for _ in 0..3 {
            bench.beat(&member).unwrap();
            bench.pass(10.0);
        }
        bench.pass(19.9);
        assert_eq!(bench.state(&member), Some(State::Active));
        bench.pass(0.2);
        assert_eq!(bench.state(&member), Some(State::Offline));
        bench.beat(&member).unwrap();
        assert_eq!(bench.state(&member), Some(State::Active));
    }

    #[test]
    fn a_storage_that_has_shown_no_interval_has_the_whole_check_active_interval() {
        let mut bench = Bench::new();
        let joined = bench.join("g1", "vm", 1);
        let beaten = bench.join("g1", "vm", 2);
        bench.beat(&beaten).unwrap();
        bench.pass(119.0);
        assert_eq!((bench.state(&joined), bench.state(&beaten)), (Some(State::Online), Some(State::Active)));
        bench.pass(2.0);
        assert_eq!(
            (bench.state(&joined), bench.state(&beaten)),
            (Some(State::Offline), Some(State::Offline))
        );
    }

    #[test]
    fn a_long_interval_is_cut_at_the_check_active_interval_and_a_short_one_raised_to_a_second() {
        let mut bench = Bench::new();
        let slow = bench.join("g1", "vm", 1);
        bench.beat(&slow).unwrap();
        bench.pass(100.0);
        bench.beat(&slow).unwrap();
        let fast = bench.join("g1", "vm", 2);
        bench.beat(&fast).unwrap();
        bench.pass(0.01);
        bench.beat(&fast).unwrap();
        bench.pass(2.9);
        assert_eq!(bench.state(&fast), Some(State::Active));
        bench.pass(0.2);
        assert_eq!(bench.state(&fast), Some(State::Offline));
        bench.pass(117.0);
        assert_eq!(bench.state(&slow), Some(State::Offline));
    }

    #[test]
    fn an_absence_does_not_count_as_an_interval_but_a_new_pace_does() {
        let mut bench = Bench::new();
        let member = bench.join("g1", "vm", 1);
        for _ in 0..5 {
            bench.beat(&member).unwrap();
            bench.pass(1.0);
        }
        bench.pass(30.0);
        assert_eq!(bench.state(&member), Some(State::Offline));
        bench.beat(&member).unwrap();
        bench.pass(3.1);
        assert_eq!(bench.state(&member), Some(State::Offline), "noticed as soon as before its absence");
        bench.pass(7.0);
        bench.beat(&member).unwrap();
        for _ in 0..10 {
            bench.pass(10.0);
            assert_eq!(bench.state(&member), Some(State::Active));
            bench.beat(&member).unwrap();
        }
    }

    #[test]
    fn a_beat_on_a_joined_connection_must_be_of_that_storage() {
        let bench = Bench::new();
        let member = bench.join("g1", "vm", 1);
        for other in [beat("g2", "vm"), beat("g1", "other")] {
            let error = bench.groups.beat_of(&member, &other, bench.now).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
        }
        assert_eq!(bench.state(&member), Some(State::Online));
    }

    #[test]
    fn a_beat_on_another_connection_is_that_of_the_one_storage_it_may_be() {
        let bench = Bench::new();
        let kind =
            |beat: &Beat, ip| bench.groups.beat_from(beat, ip, bench.now).map_err(|error| error.kind());
        assert_eq!(kind(&beat("g1", "vm"), IP), Err(ErrorKind::NotFound));
        assert_eq!(kind(&beat("g9", "vm"), IP), Err(ErrorKind::NotFound));
        let first = bench.join("g1", "vm", 1);
        assert_eq!(kind(&beat("g1", "vm"), [10, 0, 0, 1].into()), Err(ErrorKind::NotFound));
        assert_eq!(kind(&beat("g1", "vm"), IP), Ok(()));
        assert_eq!(bench.state(&first), Some(State::Active));
        let second = bench.join("g1", "vm", 2);
        assert_eq!(kind(&beat("g1", "vm"), IP), Err(ErrorKind::Invalid));
        assert_eq!(bench.state(&second), Some(State::Online), "an ambiguous beat wakes nobody");
    }

    #[test]
    fn a_full_group_forgets_the_storage_that_is_offline_for_longest_or_refuses() {
        let mut bench = Bench::new();
        let members: Vec<_> = (1..=MEMBERS_MAX).map(|port| bench.join("g1", "vm", port as u16)).collect();
        let error = bench.groups.join(&join("g1", "vm", 1000), IP, bench.now).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        bench.join("g1", "vm", 1); // A known one may join all the same.
        bench.groups.leave(&members[7], bench.now);
        bench.pass(1.0);
        bench.groups.leave(&members[5], bench.now);
        bench.join("g1", "vm", 1000);
        assert_eq!((bench.state(&members[7]), bench.state(&members[5])), (None, Some(State::Offline)));
        let error = bench.beat(&members[7]).unwrap_err();
        assert!(error.kind() == ErrorKind::NotFound && error.message().contains("join again"));
    }

    #[test]
    fn a_route_has_at_most_three_active_storages_from_any_position() {
        let bench = Bench::new();
        for port in 1..=5 {
            let member = bench.join("g1", "vm", port);
            if port != 2 {
                bench.beat(&member).unwrap();
            }
        }
        let mut first = HashSet::new();
        for _ in 0..500 {
            let route = bench.groups.route(&name("g1"));
            assert_eq!(route.iter().collect::<HashSet<_>>().len(), 3);
            assert!(route.iter().all(|address| address.port() != 2));
            first.insert(route[0].port());
        }
        assert_eq!(first, HashSet::from([1, 3, 4, 5]));
        assert_eq!(bench.groups.route(&name("g2")), []);
        assert_eq!(bench.groups.route(&name("none")), []);
        for _ in 0..100 {
            assert_eq!(bench.groups.choose(), Some(name("g1")), "the other one has no active storage");
        }
    }

    #[test]
    fn a_group_taken_out_of_the_database_serves_until_its_storages_are_gone() {
        let bench = Bench::new();
        let member = bench.join("g1", "vm", 1);
        bench.beat(&member).unwrap();
        bench.groups.set_listed(&[name("g2")]);
        assert!(!bench.groups.is_listed(&name("g1")));
        assert!(bench.groups.join(&join("g1", "vm", 1), IP, bench.now).is_err());
        assert_eq!(bench.groups.choose(), None);
        bench.beat(&member).unwrap();
        assert_eq!(bench.groups.route(&name("g1")).len(), 1);
        bench.groups.leave(&member, bench.now);
        assert_eq!(bench.groups.names(), [name("g2")]);
    }
}
