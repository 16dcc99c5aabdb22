//! What one host may have in the table of storages: so many of them, and so many joins in a time.

use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Storages of one group, dead ones included. A group is a set of copies: no deployment has 64 of them,
/// and the list of all groups stays within what clients accept.
pub const MEMBERS_MAX: usize = 64;

/// So many times all storages of one host may join at once, as after a restart of the tracker and of the host.
const JOINS_AT_ONCE: u32 = 4;

/// The time in which all of them may join once more: a storage that is refused tries again three times a second.
const JOINS_INTERVAL: Duration = Duration::from_millis(3200);

/// Storages of one address over all groups, dead ones included. One host needs one storage for each group that
/// it serves, since a storage has any number of store paths, so this is far beyond what deployments have. It
/// keeps one host that may join from filling the list with storages that it invents.
pub const MEMBERS_PER_HOST_MAX: usize = 64;

/// The same of a /64 network of IPv6. It may be one host that takes as many addresses as it likes, or all hosts of a
/// room: these cannot be distinguished, so it has more than one address, and never a whole group.
pub const MEMBERS_PER_NETWORK_MAX: usize = 16 * MEMBERS_PER_HOST_MAX;

/// And of one group: far more copies than anybody has in one room.
pub const MEMBERS_OF_NETWORK_MAX: usize = MEMBERS_MAX / 2;

/// What one host may have, see [`host`](tnv_common::net::allow::host).
#[derive(Clone, Copy, Debug)]
pub struct HostLimits {
    /// Storages over all groups.
    pub members: usize,
    /// Of one group.
    pub of_group: usize,
}

impl HostLimits {
    /// Those of a host.
    pub fn of(host: IpAddr) -> HostLimits {
        match host {
            IpAddr::V4(_) => HostLimits { members: MEMBERS_PER_HOST_MAX, of_group: MEMBERS_MAX },
            IpAddr::V6(_) => {
                HostLimits { members: MEMBERS_PER_NETWORK_MAX, of_group: MEMBERS_OF_NETWORK_MAX }
            }
        }
    }

    /// So many joins are taken at once.
    pub fn joins(self) -> u32 {
        JOINS_AT_ONCE * self.members as u32
    }

    /// And one more after each such time.
    pub fn join_interval(self) -> Duration {
        JOINS_INTERVAL / self.members as u32
    }
}

/// The joins that one host may still make.
#[derive(Clone, Copy, Debug)]
pub struct JoinBudget {
    limits: HostLimits,
    left: u32,
    /// When `left` was true.
    at: Instant,
}

impl JoinBudget {
    /// A full one.
    pub fn new(limits: HostLimits, now: Instant) -> JoinBudget {
        JoinBudget { limits, left: limits.joins(), at: now }
    }

    fn refill(&mut self, now: Instant) {
        let (joins, interval) = (self.limits.joins(), self.limits.join_interval());
        let since = now.saturating_duration_since(self.at);
        let more = since.as_micros() / interval.as_micros();
        let more = u32::try_from(more).unwrap_or(joins).min(joins - self.left);
        self.left += more;
        // What is left of an interval counts for the next time.
        self.at = if self.left == joins { now } else { self.at + interval * more };
    }

    /// Takes a join from it; false where none is left.
    pub fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        let granted = self.left > 0;
        self.left = self.left.saturating_sub(1);
        granted
    }

    /// Whether it need not be kept.
    pub fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.left == self.limits.joins()
    }
}

/// A host as the log and an operator know it.
pub fn shown_host(host: IpAddr) -> String {
    match host {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(network) => format!("{network}/64"),
    }
}
