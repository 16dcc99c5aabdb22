//! The one table of groups and their storages, behind methods that keep it true.
//!
//! A storage is OFFLINE, ONLINE (it has joined) or ACTIVE (it has joined and beaten). What holds:
//! - A storage that is not OFFLINE is known by a join, and was heard of within its
//!   [`silence_max`](Intervals::silence_max).
//! - The latest joining connection of a storage, and no earlier one, takes it OFFLINE by closing.
//! - A group has at most [`MEMBERS_MAX`] storages, and there are at most [`GROUPS_MAX`] groups that
//!   are listed in the database.
//! - One IPv4 address has at most [`MEMBERS_PER_HOST_MAX`](crate::join_budget::MEMBERS_PER_HOST_MAX) storages over all groups. A /64 network of IPv6 has at
//!   most [`MEMBERS_PER_NETWORK_MAX`](crate::join_budget::MEMBERS_PER_NETWORK_MAX), and half of those that a group may have.
//! - A storage that is OFFLINE for [`OFFLINE_KEPT`] is forgotten.
//!
//! A group is *listed* where t_groups_info has it, and *routed* where a user of t_router belongs to it. New
//! users get listed groups. Storages may join both: the users of a group that an operator has taken out of
//! t_groups_info still have their files there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use log::{info, warn};
use tnv_common::error::Result;
use tnv_common::fail;
use tnv_common::net::allow::host;
use tnv_common::proto::tnv::shares::{Share, Shares};
use tnv_common::proto::tnv::tracker::{Heartbeat, Join, ROUTE_ADDRESSES_MAX};
use tnv_common::proto::{GroupName, HostName};

use crate::heartbeat::Intervals;
use crate::join_budget::{HostLimits, JoinBudget, MEMBERS_MAX, shown_host};
use crate::shares::{Compared, Report};

/// How long a storage that is OFFLINE stays in the list: longer than a repair takes, shorter than it takes for
/// hosts that got other names or addresses to fill it.
pub const OFFLINE_KEPT: Duration = Duration::from_secs(7 * 86_400);

/// Groups: as many as a FastDFS cluster may have, and 64 storages each still fit one group list.
pub const GROUPS_MAX: usize = 512;

/// Groups that one line of the log names.
const GROUPS_LOGGED_MAX: usize = 16;

/// So long a member that is no longer ACTIVE goes on refusing reports of other volumes: longer than a restart or a
/// join of it takes, so that one that it has refused does not take its place meanwhile. Where it does not come back
/// others may serve after it.
const AUTHORITY_KEPT: Duration = Duration::from_secs(30);

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
    /// The name of its host, as the storage gives it.
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
    /// What it reported of its volumes, be it before its latest join.
    report: Option<Report>,
    /// It has reported since its latest join. One that beats without has no report: it is compared no longer.
    has_reported: bool,
    /// When it was last ACTIVE, where it is not.
    left_active: Option<Instant>,
    /// Its latest join.
    join: u64,
    /// When it last joined or beat.
    heard: Instant,
    /// When it got into its state.
    since: Instant,
    intervals: Intervals,
}

impl Member {
    /// One that joins, after what was known of it.
    fn new(join: &Join, number: u64, now: Now, former: Option<Member>) -> Member {
        let left_active = former.as_ref().and_then(|former| match former.state {
            State::Active => Some(now.instant),
            State::Online | State::Offline => former.left_active,
        });
        Member {
            version: join.version.clone(),
            started: join.started,
            joined: join.joined,
            beaten: None,
            state: State::Online,
            report: former.and_then(|former| former.report),
            has_reported: false,
            left_active,
            join: number,
            heard: now.instant,
            since: now.instant,
            intervals: Intervals::default(),
        }
    }

    fn enter(&mut self, state: State, now: Now) {
        if self.state == State::Active {
            self.left_active = Some(now.instant);
        }
        self.state = state;
        self.since = now.instant;
    }

    /// Notes a beat; returns whether the storage was not ACTIVE before.
    fn beat(&mut self, now: Now) -> bool {
        self.intervals.beat(now.instant, self.state == State::Offline);
        self.heard = now.instant;
        self.beaten = Some(now.epoch);
        let woken = self.state != State::Active;
        if woken {
            self.enter(State::Active, now);
        }
        woken
    }

    /// Why one that reports this does not share the files of this member, where this member may say so: it is ACTIVE,
    /// or was a moment ago. One that has only joined may say nothing.
    fn difference(&self, newcomer: &[Share], compared: Compared, now: Now) -> Option<String> {
        let report = self.report.as_ref().filter(|report| report.agrees())?;
        if self.state == State::Active {
            return report.difference(newcomer, compared);
        }
        let absent = now.instant.saturating_duration_since(self.left_active?);
        // It may have been started anew, with another journal.
        if absent < AUTHORITY_KEPT { report.difference(newcomer, Compared::Volumes) } else { None }
    }
}

/// A group.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Whether t_groups_info has it. One that was taken out there and that no user of t_router belongs to
    /// stays until its last storage is OFFLINE; no storage can join it.
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

    /// Why a member that reports this does not share the files of the others; none where it does.
    fn difference(&self, id: &MemberId, shares: &[Share], compared: Compared, now: Now) -> Option<String> {
        let mut others = self.members.iter().filter(|(other, _)| *other != id);
        others.find_map(|(other, member)| {
            let difference = member.difference(shares, compared, now)?;
            Some(format!("{difference}, {other}"))
        })
    }

    /// Takes the heartbeat of a storage; returns whether it was not ACTIVE before. One that does not share the files of
    /// those that are ACTIVE gets so by no heartbeat: of two that reported at the same moment, the first one.
    fn beat(&mut self, name: &GroupName, id: &MemberId, now: Now) -> Result<bool> {
        let Some(member) = self.members.get(id) else {
            return fail!(NotFound, "unknown storage: {id} in group {name}; join again");
        };
        let report = member.report.as_ref().filter(|_| member.has_reported);
        if report.is_some_and(|report| !report.agrees()) {
            return fail!(Forbidden, "{id} does not share the files of group {name}");
        }
        let shares = report.filter(|_| member.state != State::Active).map(Report::shares);
        let difference = shares.and_then(|shares| self.difference(id, &shares, Compared::Either, now));
        let Some(member) = self.members.get_mut(id) else { return Ok(false) };
        if let Some(difference) = difference {
            member.report.iter_mut().for_each(Report::refuse);
            return fail!(Forbidden, "{id} does not share the files of group {name}: {difference}");
        }
        if !member.has_reported {
            member.report = None;
        }
        Ok(member.beat(now))
    }

    /// The storage that is OFFLINE for longest.
    fn longest_offline(&self) -> Option<(&MemberId, &Member)> {
        let offline = self.members.iter().filter(|(_, member)| member.state == State::Offline);
        offline.min_by_key(|(_, member)| member.since)
    }

    /// Makes sure that one more storage fits: the one that is OFFLINE for longest gives way.
    fn make_room(&mut self, name: &GroupName) -> Result<()> {
        if self.members.len() < MEMBERS_MAX {
            return Ok(());
        }
        match self.longest_offline().map(|(id, _)| id.clone()) {
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
    /// Groups that users of t_router belong to and that t_groups_info lacks, as they were last read.
    routed: HashSet<GroupName>,
    /// A group that is not known has been asked for since t_router was last read.
    wants_routed: bool,
    joins: u64,
    /// Hosts that have joined of late.
    budgets: HashMap<IpAddr, JoinBudget>,
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
        // The users of a group that is gone may be there still.
        table.wants_routed |= !gone.is_empty();
        table.drop_unlisted();
        drop(table);
        log_listed("no longer in", &gone);
        log_listed("in", &new);
    }

    /// Takes over which groups users belong to; of those that t_groups_info lacks, at most [`GROUPS_MAX`].
    pub fn set_routed(&self, names: &[GroupName]) {
        let mut table = self.lock();
        let unlisted = names.iter().filter(|name| !table.is_listed(name)).take(GROUPS_MAX);
        let routed: HashSet<GroupName> = unlisted.cloned().collect();
        let mut new: Vec<_> = routed.difference(&table.routed).cloned().collect();
        new.sort();
        table.routed = routed;
        drop(table);
        if !new.is_empty() {
            let shown = shown(&new);
            warn!(
                "t_groups_info lacks groups that users of t_router belong to: {shown}; they serve these users and get \
                 no new ones; to give them new users, add them to tnv_groups"
            );
        }
    }

    /// Whether t_router should be read: a group was asked for that is not known. The next answer is no.
    pub fn take_wants_routed(&self) -> bool {
        std::mem::take(&mut self.lock().wants_routed)
    }

    /// Whether storages may join this group, as far as is known here. Where they may not, t_router should be
    /// read.
    pub fn is_open(&self, name: &GroupName) -> bool {
        let mut table = self.lock();
        let open = table.is_open(name);
        table.wants_routed |= !open;
        open
    }

    /// A storage joins, from the address `ip`. Its former record, if there is one, is replaced.
    pub fn join(&self, join: &Join, ip: IpAddr, now: Now) -> Result<Membership> {
        let id = MemberId { host: join.host.clone(), address: SocketAddr::new(ip, join.port) };
        let mut table = self.lock();
        let name = &join.group;
        if !table.is_open(name) {
            return fail!(
                NotFound,
                "unknown group: {name}; t_groups_info lacks it and no user of t_router belongs to it; correct the \
                 storage's tnv_group_name or add the group to the tracker's tnv_groups"
            );
        }
        table.check_host(name, &id, now)?;
        let number = table.joins + 1;
        let group = table.groups.entry(name.clone()).or_default();
        if !group.members.contains_key(&id) {
            group.make_room(name)?;
        }
        let former = group.members.remove(&id);
        group.members.insert(id.clone(), Member::new(join, number, now, former));
        table.joins = number;
        drop(table);
        info!("{id} joined group {name}, version {}: ONLINE", join.version);
        Ok(Membership { group: name.clone(), id, join: number })
    }

    /// A beat on the connection of a storage that joined.
    pub fn beat_of(&self, member: &Membership, beat: &Heartbeat, now: Now) -> Result<()> {
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
        let Some(known) = table.groups.get_mut(group) else {
            return fail!(NotFound, "unknown storage: {id} in group {group}; join again");
        };
        let woken = known.beat(group, id, now)?;
        drop(table);
        log_woken(woken, id, group);
        Ok(())
    }

    /// A beat on a connection that did not join: that of the one storage which it may be.
    pub fn beat_from(&self, beat: &Heartbeat, ip: IpAddr, now: Now) -> Result<()> {
        let Heartbeat { group: name, host } = beat;
        let mut table = self.lock();
        let Some(group) = table.groups.get_mut(name) else {
            return fail!(NotFound, "unknown group: {name}");
        };
        let meant = |id: &MemberId| id.host == *host && id.address.ip() == ip;
        let mut found = group.members.keys().filter(|id| meant(id));
        let (Some(id), None) = (found.next(), found.next()) else {
            let count = group.members.keys().filter(|id| meant(id)).count();
            return match count {
                0 => fail!(NotFound, "unknown storage: host {host} at {ip} in group {name}; join first"),
                _ => fail!(
                    Invalid,
                    "{count} storages of host {host} at {ip} in group {name}; beat on the connection that joined"
                ),
            };
        };
        let id = id.clone();
        let woken = group.beat(name, &id, now)?;
        drop(table);
        log_woken(woken, &id, name);
        Ok(())
    }

    /// A storage that has joined reports its volumes. Where they are not those of the members that are ACTIVE, or were
    /// a moment ago, it is not ACTIVE until they are.
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
        let difference = group.difference(&id, shares, Compared::Report, now);
        let Some(member) = group.members.get_mut(&id) else { return Ok(()) };
        let report = Report::new(shares, difference.is_none(), member.report.as_ref());
        let is_to_be_logged = report.is_to_be_logged();
        member.report = Some(report);
        member.has_reported = true;
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

    /// Takes storages OFFLINE that were silent for too long, and forgets those that are OFFLINE for too long.
    pub fn expire(&self, check_active_interval: Duration, now: Now) {
        let mut table = self.lock();
        let mut changed = false;
        table.budgets.retain(|_, budget| !budget.is_full(now.instant));
        for (name, group) in &mut table.groups {
            group.members.retain(|id, member| {
                let offline = now.instant.saturating_duration_since(member.since);
                let kept = member.state != State::Offline || offline < OFFLINE_KEPT;
                if !kept {
                    changed = true;
                    let days = OFFLINE_KEPT.as_secs() / 86_400;
                    info!("{id} of group {name} is forgotten: it was OFFLINE for {days} days");
                }
                kept
            });
            for (id, member) in &mut group.members {
                let silence = now.instant.saturating_duration_since(member.heard);
                if member.state != State::Offline
                    && silence >= member.intervals.silence_max(check_active_interval)
                {
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
    fn is_listed(&self, name: &GroupName) -> bool {
        self.groups.get(name).is_some_and(|group| group.listed)
    }

    fn is_open(&self, name: &GroupName) -> bool {
        self.is_listed(name) || self.routed.contains(name)
    }

    /// Refuses a join of a host that joins too often, or that has too many storages already: of these the one that is
    /// OFFLINE for longest gives way.
    fn check_host(&mut self, name: &GroupName, id: &MemberId, now: Now) -> Result<()> {
        let ip = host(id.address.ip());
        let limits = HostLimits::of(ip);
        let budget = self.budgets.entry(ip).or_insert_with(|| JoinBudget::new(limits, now.instant));
        if !budget.take(now.instant) {
            let (joins, interval) = (limits.joins(), limits.join_interval());
            return fail!(
                Busy,
                "{} has joined over {joins} times; one more join is taken every {interval:?}",
                shown_host(ip)
            );
        }
        if self.groups.get(name).is_some_and(|group| group.members.contains_key(id)) {
            return Ok(());
        }
        self.make_room_of(ip, limits.of_group, Some(name))?;
        self.make_room_of(ip, limits.members, None)
    }

    /// Makes sure that one more storage of a host fits, in one group or over all: of so many the one that is OFFLINE
    /// for longest gives way.
    fn make_room_of(&mut self, ip: IpAddr, most: usize, only: Option<&GroupName>) -> Result<()> {
        // Counted anew each time: so it cannot be wrong, and storages join seldom.
        let theirs = || {
            let groups = self.groups.iter().filter(|(name, _)| only.is_none_or(|only| only == *name));
            let all = groups.flat_map(|(name, group)| group.members.iter().map(move |known| (name, known)));
            all.filter(|(_, (id, _))| host(id.address.ip()) == ip)
        };
        if theirs().count() < most {
            return Ok(());
        }
        let whose = shown_host(ip);
        let offline = theirs().filter(|(_, (_, member))| member.state == State::Offline);
        let Some((group, (id, _))) = offline.min_by_key(|(_, (_, member))| member.since) else {
            let place = only.map_or_else(String::new, |name| format!(" in group {name}"));
            return fail!(
                Busy,
                "{whose} has {most} storages{place} and none is OFFLINE; serve more store paths with one storage"
            );
        };
        info!("{id} of group {group} is forgotten: it is OFFLINE for longest of {most} at {whose}");
        let (group, id) = (group.clone(), id.clone());
        if let Some(group) = self.groups.get_mut(&group) {
            group.members.remove(&id);
        }
        Ok(())
    }

    /// Forgets groups that the database no longer has and that have no members.
    fn drop_unlisted(&mut self) {
        let alive = |group: &Group| group.members.values().any(|member| member.state != State::Offline);
        let routed = &self.routed;
        self.groups.retain(|name, group| {
            group.listed || alive(group) || (routed.contains(name) && !group.members.is_empty())
        });
    }
}

/// One line, however many there are: hundreds at the start would crowd other lines out of the log.
fn log_listed(what: &str, names: &[GroupName]) {
    match names {
        [] => {}
        [name] => info!("group {name} is {what} t_groups_info"),
        names => info!("{} groups are {what} t_groups_info: {}", names.len(), shown(names)),
    }
}

/// The first of these names.
fn shown(names: &[GroupName]) -> String {
    let first: Vec<&str> = names.iter().take(GROUPS_LOGGED_MAX).map(GroupName::as_str).collect();
    match names.len().saturating_sub(GROUPS_LOGGED_MAX) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
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
    use crate::join_budget::{MEMBERS_OF_NETWORK_MAX, MEMBERS_PER_HOST_MAX, MEMBERS_PER_NETWORK_MAX};
    use tnv_common::error::ErrorKind;
    use tnv_common::proto::IdKey;

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
            let beat = Heartbeat { group: member.group.clone(), host: member.id.host.clone() };
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

    fn beat(group: &str, host: &str) -> Heartbeat {
        Heartbeat { group: name(group), host: HostName::new(host).unwrap() }
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
            |beat: &Heartbeat, ip| bench.groups.beat_from(beat, ip, bench.now).map_err(|error| error.kind());
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

    /// The report of the storage on a port: one store path on this volume, seeing these other journals. Its own
    /// journal is called as its port.
    fn report(bench: &Bench, port: u16, volume: u8, others: &[u8]) -> Result<()> {
        let share = Share {
            store_path: IdKey::new("/data").unwrap(),
            volume: [volume; 16],
            holder: [port as u8; 16],
            others: others.iter().map(|other| [*other; 16]).collect(),
        };
        let host = HostName::new("vm").unwrap();
        let shares = Shares { group: name("g1"), host, port, is_id: false, shares: vec![share] };
        bench.groups.report(&shares, IP, bench.now)
    }

    fn kind(result: Result<()>) -> Option<ErrorKind> {
        result.err().map(|error| error.kind())
    }

    /// What joined, reported and never beat kept all members of a group out.
    #[test]
    fn one_that_never_beats_refuses_no_other_one() {
        let bench = Bench::new();
        let idle = bench.join("g1", "vm", 1);
        report(&bench, 1, 1, &[]).unwrap();
        let right = bench.join("g1", "vm", 2);
        report(&bench, 2, 2, &[]).unwrap();
        bench.beat(&right).unwrap();
        // Of those that reported at the same time the first one that beats is right, and the only one.
        assert_eq!(kind(bench.beat(&idle)), Some(ErrorKind::Forbidden));
        assert_eq!(kind(bench.beat(&idle)), Some(ErrorKind::Forbidden));
        assert_eq!((bench.state(&idle), bench.state(&right)), (Some(State::Online), Some(State::Active)));
        report(&bench, 1, 2, &[2]).unwrap();
        bench.beat(&idle).unwrap();
        assert_eq!(bench.state(&idle), Some(State::Active));
    }

    #[test]
    fn members_that_share_their_files_and_start_at_once_are_all_active() {
        let mut bench = Bench::new();
        let [first, second] = [1, 2].map(|port| bench.join("g1", "vm", port));
        // The first report came when there was no other journal yet.
        report(&bench, 1, 1, &[]).unwrap();
        report(&bench, 2, 1, &[1]).unwrap();
        bench.beat(&second).unwrap();
        bench.beat(&first).unwrap();
        // And again when neither was heard of for a while.
        bench.pass(125.0);
        assert_eq!((bench.state(&first), bench.state(&second)), (Some(State::Offline), Some(State::Offline)));
        bench.beat(&second).unwrap();
        bench.beat(&first).unwrap();
        assert_eq!((bench.state(&first), bench.state(&second)), (Some(State::Active), Some(State::Active)));
    }

    #[test]
    fn a_heartbeat_on_another_connection_wakes_no_storage_whose_report_was_refused() {
        let bench = Bench::new();
        let right = bench.join("g1", "vm", 1);
        report(&bench, 1, 1, &[]).unwrap();
        bench.beat(&right).unwrap();
        bench.groups.leave(&right, bench.now);
        let ip = IpAddr::from([10, 0, 0, 1]);
        bench.groups.join(&join("g1", "vm", 2), ip, bench.now).unwrap();
        let share = Share {
            store_path: IdKey::new("/data").unwrap(),
            volume: [2; 16],
            holder: [2; 16],
            others: vec![],
        };
        let host = HostName::new("vm").unwrap();
        let shares = Shares { group: name("g1"), host, port: 2, is_id: false, shares: vec![share] };
        assert_eq!(kind(bench.groups.report(&shares, ip, bench.now)), Some(ErrorKind::Forbidden));
        let beaten = bench.groups.beat_from(&beat("g1", "vm"), ip, bench.now);
        assert_eq!(kind(beaten), Some(ErrorKind::Forbidden));
    }

    /// While the right member restarted, one that was refused reported again and took the group.
    #[test]
    fn one_that_was_refused_does_not_take_the_place_of_one_that_restarts() {
        let mut bench = Bench::new();
        let right = bench.join("g1", "vm", 1);
        report(&bench, 1, 1, &[]).unwrap();
        bench.beat(&right).unwrap();
        bench.join("g1", "vm", 2);
        let refused = |bench: &Bench| kind(report(bench, 2, 2, &[])) == Some(ErrorKind::Forbidden);
        assert!(refused(&bench));
        // It is gone, it is back, it reports, it beats.
        bench.groups.leave(&right, bench.now);
        bench.pass(5.0);
        assert!(refused(&bench));
        let right = bench.join("g1", "vm", 1);
        assert!(refused(&bench));
        report(&bench, 1, 1, &[]).unwrap();
        assert!(refused(&bench));
        bench.beat(&right).unwrap();
        assert!(refused(&bench));
        // It joins again, as after a network that failed.
        bench.join("g1", "vm", 1);
        assert!(refused(&bench));
        // It does not come back.
        bench.pass(AUTHORITY_KEPT.as_secs_f64());
        report(&bench, 2, 2, &[]).unwrap();
    }

    /// An operator sets `tnv_shared_store = no`, or goes back to a previous version.
    #[test]
    fn one_that_no_longer_reports_is_no_longer_compared() {
        let bench = Bench::new();
        let right = bench.join("g1", "vm", 1);
        report(&bench, 1, 1, &[]).unwrap();
        bench.beat(&right).unwrap();
        bench.join("g1", "vm", 2);
        assert!(report(&bench, 2, 2, &[]).is_err());
        let again = bench.join("g1", "vm", 2);
        bench.beat(&again).unwrap();
        assert_eq!(bench.state(&again), Some(State::Active));
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

    fn join_from(bench: &Bench, group: &str, host: &str, port: u16, ip: [u8; 4]) -> Result<Membership> {
        bench.groups.join(&join(group, host, port), ip.into(), bench.now)
    }

    /// One connection joined 3,840 storages of its invention, in every group, and the list had them for ever.
    #[test]
    fn one_host_has_so_many_storages_over_all_groups_and_keeps_no_other_host_out() {
        let mut bench = Bench::new();
        let evil = [10, 0, 0, 66];
        let mut taken = Vec::new();
        let mut refused = 0;
        for number in 0..400 {
            let group = if number % 2 == 0 { "g1" } else { "g2" };
            match join_from(&bench, group, &format!("invented{number}"), 1 + number, evil) {
                Ok(member) => taken.push(member),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Busy);
                    refused += 1;
                }
            }
        }
        assert_eq!((taken.len(), refused), (MEMBERS_PER_HOST_MAX, 400 - MEMBERS_PER_HOST_MAX));
        // Another host joins all the same, and one of the first host's that is known may join again.
        assert!(join_from(&bench, "g1", "honest", 23000, [10, 0, 0, 1]).is_ok());
        bench.pass(1.0);
        assert!(join_from(&bench, "g1", "invented0", 1, evil).is_ok());
        // One that is OFFLINE gives way to the next one, the longest first.
        bench.groups.leave(&taken[9], bench.now);
        bench.pass(1.0);
        bench.groups.leave(&taken[4], bench.now);
        assert!(join_from(&bench, "g2", "next", 1, evil).is_ok());
        assert_eq!((bench.state(&taken[9]), bench.state(&taken[4])), (None, Some(State::Offline)));
        let count = |name: &str| bench.groups.get(&GroupName::new(name).unwrap()).unwrap().count();
        assert_eq!(count("g1") + count("g2"), MEMBERS_PER_HOST_MAX + 1);
    }

    /// A host has 2^64 addresses of its network to join from.
    #[test]
    fn an_ipv6_network_has_so_many_storages_and_never_a_whole_group() {
        let mut bench = Bench::new();
        let names: Vec<_> = (0..40).map(|number| name(&format!("g{number}"))).collect();
        bench.groups.set_listed(&names);
        let join_v6 = |bench: &Bench, group: usize, network: u16, address: u16| {
            let ip = IpAddr::from([0x2001, 0xdb8, 0, network, 1, 2, 3, address]);
            let joined = bench.groups.join(&join(&format!("g{group}"), "invented", 1), ip, bench.now);
            joined.map_err(|error| (error.kind(), error.message().to_owned()))
        };
        let mut first = None;
        for number in 0..MEMBERS_PER_NETWORK_MAX {
            let member = join_v6(&bench, number / MEMBERS_OF_NETWORK_MAX, 7, number as u16).unwrap();
            first.get_or_insert(member);
        }
        let (kind, message) = join_v6(&bench, 39, 7, 9000).unwrap_err();
        assert!(
            kind == ErrorKind::Busy && message.contains("2001:db8:0:7::/64 has 1024 storages"),
            "{message}"
        );
        let (kind, message) = join_v6(&bench, 0, 7, 9000).unwrap_err();
        assert!(kind == ErrorKind::Busy && message.contains("has 32 storages in group g0"), "{message}");
        // Its neighbours find room, and so does one more of it where one is OFFLINE.
        join_v6(&bench, 0, 8, 1).unwrap();
        assert!(join_from(&bench, "g0", "honest", 1, [10, 0, 0, 1]).is_ok());
        bench.groups.leave(&first.unwrap(), bench.now);
        bench.pass(1.0);
        join_v6(&bench, 0, 7, 9000).unwrap();
        // It joins without end, each time from another address.
        let taken = (0..10_000).filter(|number| join_v6(&bench, 1, 7, *number).is_ok()).count();
        assert!(taken <= MEMBERS_OF_NETWORK_MAX, "only those that are known: {taken}");
        assert!(bench.groups.lock().budgets.len() <= 3, "and costs no more memory");
    }

    #[test]
    fn a_host_that_joins_without_end_is_slowed_down_and_no_other_one() {
        let mut bench = Bench::new();
        let evil = [10, 0, 0, 66];
        for _ in 0..4 * MEMBERS_PER_HOST_MAX {
            assert!(join_from(&bench, "g1", "evil", 1, evil).is_ok());
        }
        assert_eq!(join_from(&bench, "g1", "evil", 1, evil).unwrap_err().kind(), ErrorKind::Busy);
        assert!(join_from(&bench, "g1", "honest", 1, [10, 0, 0, 1]).is_ok());
        bench.pass(1.0);
        let taken = (0..100).filter(|_| join_from(&bench, "g1", "evil", 1, evil).is_ok()).count();
        assert_eq!(taken, 20, "one every 50 ms");
        // An address that is quiet for a while has all of them again, and costs no memory.
        bench.pass(15.0);
        assert!(bench.groups.lock().budgets.is_empty());
    }

    #[test]
    fn a_storage_that_is_offline_for_a_week_is_forgotten_and_may_join_again() {
        let mut bench = Bench::new();
        let gone = bench.join("g1", "gone", 1);
        let silent = bench.join("g1", "silent", 1);
        bench.groups.leave(&gone, bench.now);
        // Whatever the calendar says.
        bench.now.epoch = i64::MAX / 2;
        bench.pass(OFFLINE_KEPT.as_secs_f64() - 1.0);
        assert_eq!((bench.state(&gone), bench.state(&silent)), (Some(State::Offline), Some(State::Offline)));
        bench.pass(2.0);
        assert_eq!((bench.state(&gone), bench.state(&silent)), (None, Some(State::Offline)));
        assert_eq!(bench.beat(&gone).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(bench.state(&bench.join("g1", "gone", 1)), Some(State::Online));
    }

    /// An operator closes a group to new users by taking it out of t_groups_info. Its storages could not join
    /// any more after their next restart, and its users lost their files.
    #[test]
    fn a_group_that_only_users_know_is_open_to_its_storages_and_closed_to_new_users() {
        let bench = Bench::new();
        assert!(!bench.groups.is_open(&name("old")));
        assert!(bench.groups.take_wants_routed() && !bench.groups.take_wants_routed());
        bench.groups.set_routed(&[name("g1"), name("old")]);
        assert!(bench.groups.is_open(&name("old")) && !bench.groups.take_wants_routed());
        let member = bench.join("old", "vm", 1);
        bench.beat(&member).unwrap();
        assert_eq!(bench.groups.route(&name("old")).len(), 1);
        assert_eq!(bench.groups.choose(), None, "a new user");
        // It stays in the list when its storage is OFFLINE, also when the groups are read again.
        bench.groups.leave(&member, bench.now);
        bench.groups.set_listed(&[name("g1"), name("g2")]);
        assert_eq!(bench.state(&member), Some(State::Offline));
        // Its last user is gone.
        bench.groups.set_routed(&[name("g1")]);
        assert!(bench.groups.join(&join("old", "vm", 1), IP, bench.now).is_err());
    }

    #[test]
    fn a_group_that_is_taken_out_of_the_database_has_its_users_looked_for() {
        let bench = Bench::new();
        bench.groups.set_listed(&[name("g1"), name("g2")]);
        assert!(!bench.groups.take_wants_routed());
        bench.groups.set_listed(&[name("g2")]);
        assert!(bench.groups.take_wants_routed());
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
        assert!(!bench.groups.is_open(&name("g1")));
        assert!(bench.groups.join(&join("g1", "vm", 1), IP, bench.now).is_err());
        assert_eq!(bench.groups.choose(), None);
        bench.beat(&member).unwrap();
        assert_eq!(bench.groups.route(&name("g1")).len(), 1);
        bench.groups.leave(&member, bench.now);
        assert_eq!(bench.groups.names(), [name("g2")]);
    }
}
