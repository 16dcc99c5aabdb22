//! The tracker's commands: storages join and beat, clients ask for a user's storages and for the
//! list of groups. It decides; the table, the cache and the database do.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use log::warn;
use tnv_common::db::semaphore::Semaphore;
use tnv_common::error::{Error, ErrorKind, Result};
use tnv_common::fail;
use tnv_common::limits::IDLE_TIMEOUT;
use tnv_common::net::stop::Stop;
use tnv_common::proto::GroupName;
use tnv_common::proto::tnv::file_key::FILE_KEY_BYTES;
use tnv_common::proto::tnv::shares::{SHARES_BYTES_MAX, Shares};
use tnv_common::proto::tnv::tracker::{Addresses, HEARTBEAT_BYTES, Heartbeat, JOIN_BYTES, Join, Route};
use tnv_common::proto::tnv::{REPLY_TRACKER, command};
use tnv_common::rpc::dialect::Tnv;
use tnv_common::rpc::reply::SharedReply;
use tnv_common::rpc::server::{Handler, Request};

use crate::cache::RouteCache;
use crate::db::{RouteRow, TrackerDb};
use crate::globals::Globals;
use crate::groups::{Membership, Now};
use crate::list;
use crate::shared_lists::SharedLists;

/// Joins into groups that are not known here ask the database, but not more often: a stranger's
/// nonsense must not become the database's load.
const MISS_INTERVAL: Duration = Duration::from_secs(1);

/// Joins that are refused since their group is not known are said in the log at most this often.
const REFUSED_INTERVAL: Duration = Duration::from_secs(1);

/// What becomes of a user who has no group yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NewUser {
    /// One is chosen and recorded.
    Record,
    /// The user is not found.
    Refuse,
}

/// The commands.
pub struct Service {
    globals: Arc<Globals>,
    db: Arc<TrackerDb>,
    cache: RouteCache,
    lists: SharedLists,
    /// For those who ask the database.
    permits: Semaphore,
    /// When an unknown group last made us ask the database.
    last_miss: Mutex<Option<Instant>>,
    refused_joins: Mutex<RefusedJoins>,
    stop: Stop,
}

/// Joins into groups that are not known, which are said in the log: a storage tries three times a second.
#[derive(Default)]
struct RefusedJoins {
    last_said: Option<Instant>,
    /// How many were not said since.
    unsaid: u64,
}

impl Service {
    /// The commands on the shared state and the database, for so many workers.
    pub fn new(globals: Arc<Globals>, db: Arc<TrackerDb>, threads: usize, stop: Stop) -> Service {
        let cache = RouteCache::new(globals.settings.cache_lifetime);
        Service {
            globals,
            db,
            cache,
            lists: SharedLists::default(),
            permits: Semaphore::for_workers(threads),
            last_miss: Mutex::default(),
            refused_joins: Mutex::default(),
            stop,
        }
    }

    /// Command 10. The storage's IP is the connection's; its record is replaced where it has one.
    fn join(&self, request: &mut Request<'_, Option<Membership>>) -> Result<()> {
        self.check_may_join(request)?;
        let join = Join::decode(&request.fixed::<JOIN_BYTES>()?)?;
        self.learn_group(&join.group);
        let ip = request.peer().ip().to_canonical();
        let joined = self.globals.groups.join(&join, ip, Now::read());
        let member = joined.inspect_err(|error| self.say_refused(&join, ip, error))?;
        // A storage sends nothing but heartbeats; a host that lost its power does not even close.
        if let Err(error) = request.stream().keep_alive() {
            warn!("set keep-alive on a storage's connection: {error}");
        }
        // A connection stands for one storage: the one that joined on it before has left.
        if let Some(former) = request.conn.replace(member) {
            self.globals.groups.leave(&former, Now::read());
        }
        request.reply(&[]);
        Ok(())
    }

    /// A storage of a group that is not known is a storage that serves no user: its operator must learn of it. All
    /// other refusals are said where they are sent.
    fn say_refused(&self, join: &Join, ip: IpAddr, error: &Error) {
        if error.kind() != ErrorKind::NotFound {
            return;
        }
        let mut refused = self.refused_joins.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.last_said.is_some_and(|last| last.elapsed() < REFUSED_INTERVAL) {
            refused.unsaid += 1;
            return;
        }
        let unsaid = std::mem::take(&mut refused.unsaid);
        refused.last_said = Some(Instant::now());
        drop(refused);
        let before = if unsaid > 0 { format!("; {unsaid} more such joins before") } else { String::new() };
        warn!("refused the storage {ip}:{} on host {}: {error}{before}", join.port, join.host);
    }

    /// Asks the database about a group that is not known here, at most once in a while. Where that
    /// fails or must not be, the join is refused, and the storage joins again.
    fn learn_group(&self, name: &GroupName) {
        if self.globals.groups.is_open(name) {
            return;
        }
        let mut last_miss = match self.last_miss.try_lock() {
            Ok(last_miss) => last_miss,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Someone asks just now. Waiting here would let strangers hold every worker while the
            // database is away.
            Err(TryLockError::WouldBlock) => return,
        };
        if last_miss.is_some_and(|last| last.elapsed() < MISS_INTERVAL) {
            return;
        }
        if let Err(error) = self.db.refresh(&self.globals.groups) {
            warn!("look up the group {name}: {error}");
        }
        *last_miss = Some(Instant::now());
    }

    /// Clients send their files to storages that have joined, so not every host may join.
    fn check_may_join(&self, request: &Request<'_, Option<Membership>>) -> Result<()> {
        let ip = request.peer().ip().to_canonical();
        match self.globals.settings.allow_join.allows(ip) {
            true => Ok(()),
            false => {
                fail!(Forbidden, "{ip} may not join as a storage: it is not in the tracker's tnv_allow_join")
            }
        }
    }

    /// Command 11. The body has no port: on the connection that joined it is that storage's.
    fn beat(&self, request: &mut Request<'_, Option<Membership>>) -> Result<()> {
        self.check_may_join(request)?;
        let beat = Heartbeat::decode(&request.fixed::<HEARTBEAT_BYTES>()?)?;
        let ip = request.peer().ip().to_canonical();
        match request.conn {
            Some(member) => self.globals.groups.beat_of(member, &beat, Now::read())?,
            None => self.globals.groups.beat_from(&beat, ip, Now::read())?,
        }
        request.reply(&[]);
        Ok(())
    }

    /// Command 128, on a connection of its own: existing trackers close one that asks for what they do not know.
    fn report_shares(&self, request: &mut Request<'_, Option<Membership>>) -> Result<()> {
        self.check_may_join(request)?;
        let shares = Shares::decode(&request.small(SHARES_BYTES_MAX)?)?;
        self.globals.groups.report(&shares, request.peer().ip().to_canonical(), Now::read())?;
        request.reply(&[]);
        Ok(())
    }

    /// Command 12.
    fn addresses(&self, request: &mut Request<'_, Option<Membership>>) -> Result<()> {
        let user = self.user(request)?;
        let route = self.route(user, NewUser::Record).map_err(no_address)?;
        request.reply(&route.encode());
        Ok(())
    }

    /// Command 122. A client that may read files can name any user: nothing is recorded.
    fn find_addresses(&self, request: &mut Request<'_, Option<Membership>>) -> Result<()> {
        let user = self.user(request)?;
        let route = self.route(user, NewUser::Refuse)?;
        request.reply(&route.encode());
        Ok(())
    }

    /// Whose storages are asked for.
    fn user(&self, request: &mut Request<'_, Option<Membership>>) -> Result<Addresses> {
        let user = Addresses::decode(&request.fixed::<FILE_KEY_BYTES>()?)?;
        match self.globals.settings.apps.contains(&user.appid) {
            true => Ok(user),
            false => fail!(NotFound, "unknown appid: {}", user.appid),
        }
    }

    fn route(&self, user: Addresses, new_user: NewUser) -> Result<Route> {
        let group = self.group_of(user, new_user)?;
        let addresses = self.globals.groups.route(&group);
        match addresses.is_empty() {
            false => Ok(Route { group, addresses }),
            true => fail!(Unavailable, "group {group} has no active storage"),
        }
    }

    /// The user's group: remembered, recorded, or chosen now. That there is none is not remembered: the
    /// user's first upload may come in a moment, to another tracker.
    fn group_of(&self, user: Addresses, new_user: NewUser) -> Result<GroupName> {
        let now = Instant::now();
        if let Some(group) = self.cache.get(&user, now) {
            return Ok(group);
        }
        let _permit = self.permits.acquire()?;
        let found = self.db.route(&user)?.map(|route| (route.row, route.group));
        let group = match (found, new_user) {
            (Some((RouteRow::Own, group)), _) | (Some((RouteRow::Existing, group)), NewUser::Refuse) => group,
            (Some((RouteRow::Existing, group)), NewUser::Record) => self.db.add_route(&user, &group)?,
            (Some((RouteRow::Alike, group)), NewUser::Record)
                if !self.globals.groups.route(&group).is_empty() =>
            {
                self.db.add_route(&user, &group)?
            }
            (_, NewUser::Record) => self.db.add_route(&user, &self.choose()?)?,
            (_, NewUser::Refuse) => return fail!(NotFound, "unknown user: {}", user.userid),
        };
        self.cache.put(user, group.clone(), now);
        Ok(group)
    }

    /// A group for a new user.
    fn choose(&self) -> Result<GroupName> {
        match self.globals.groups.choose() {
            Some(group) => Ok(group),
            None => fail!(Unavailable, "no group has an active storage"),
        }
    }

    /// Command 13.
    fn groups(&self, request: &mut Request<'_, Option<Membership>>) -> Result<()> {
        request.empty()?;
        let list = self.lists.get(|| {
            let mut text = list::text(&self.globals.groups, &chrono::Local).into_bytes();
            text.push(0);
            SharedReply::success(REPLY_TRACKER, &text)
        });
        request.reply_shared(&list);
        Ok(())
    }
}

/// Command 12's failure, in the words of existing trackers and with the reason, which they leave out.
fn no_address(why: Error) -> Error {
    Error::new(why.kind(), format!("get storage address fail, {why}"))
}

/// A report of many volumes is larger than a small message.
const HEADS: &[(u8, usize)] = &[(command::SHARES, SHARES_BYTES_MAX)];

/// How a tracker on this host speaks.
pub fn dialect(host: String) -> Tnv {
    Tnv::new(REPLY_TRACKER, host).with_heads(HEADS)
}

impl Handler for Service {
    /// The storage that joined on the connection.
    type Conn = Option<Membership>;

    /// Thousands of storages beat all the time; a beat is a note in the table.
    const PROMPT: &'static [u8] = &[command::HEARTBEAT];

    fn handle(&self, request: &mut Request<'_, Self::Conn>) -> Result<()> {
        match request.command() {
            command::JOIN => self.join(request),
            command::HEARTBEAT => self.beat(request),
            command::ADDRESSES => self.addresses(request),
            command::FIND_ADDRESSES => self.find_addresses(request),
            command::GROUPS => self.groups(request),
            command::SHARES => self.report_shares(request),
            _ => Err(request.unknown_command()),
        }
    }

    /// A storage keeps its joining connection for as long as it lives.
    fn idle_timeout(&self, conn: &Self::Conn) -> Option<Duration> {
        match conn {
            Some(_) => None,
            None => Some(IDLE_TIMEOUT),
        }
    }

    fn closed(&self, conn: Self::Conn) {
        // When the tracker itself ends, its closing of the connections says nothing about storages.
        if let Some(member) = conn
            && !self.stop.is_set()
        {
            self.globals.groups.leave(&member, Now::read());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::globals::{AddGroups, Settings};
    use tnv_common::db::DbSettings;
    use tnv_common::net::allow::AllowList;
    use tnv_common::proto::{AppId, HostName, UserId};

    /// The commands on an embedded database, with one group of one active storage.
    fn service(directory: &Path) -> Service {
        let database = DbSettings::embedded(directory.to_owned());
        let stop = Stop::new().unwrap();
        let db = Arc::new(TrackerDb::open(&database, &stop).unwrap());
        let group = GroupName::new("group001").unwrap();
        let minute = Duration::from_secs(60);
        let settings = Settings {
            apps: vec![AppId::new("tnvideo").unwrap()],
            groups: vec![group.clone()],
            add_groups: AddGroups::Missing,
            check_active_interval: minute,
            allow_join: AllowList::everybody(),
            cache_lifetime: minute,
            database,
        };
        let globals = Globals::new(settings);
        globals.groups.set_listed(std::slice::from_ref(&group));
        let host = HostName::new("host").unwrap();
        let (version, beat) = ("1.0".to_owned(), Heartbeat { group: group.clone(), host: host.clone() });
        let join = Join { version, group, host, port: 23000, started: 0, joined: 0 };
        let member = globals.groups.join(&join, [127, 0, 0, 1].into(), Now::read()).unwrap();
        globals.groups.beat_of(&member, &beat, Now::read()).unwrap();
        Service::new(Arc::new(globals), db, 4, stop)
    }

    #[test]
    fn a_user_whom_nobody_knows_is_not_found_until_the_first_upload_and_then_at_once() {
        let directory = std::env::temp_dir().join(format!("tnv-tracker-find-{}", std::process::id()));
        let service = service(&directory);
        let user =
            || Addresses { appid: AppId::new("tnvideo").unwrap(), userid: UserId::new("tnv001").unwrap() };
        for _ in 0..2 {
            let error = service.route(user(), NewUser::Refuse).unwrap_err();
            assert_eq!((error.kind(), error.message()), (ErrorKind::NotFound, "unknown user: tnv001"));
            assert_eq!(service.db.route(&user()), Ok(None), "nothing was recorded");
        }
        let route = service.route(user(), NewUser::Record).unwrap();
        assert_eq!(service.route(user(), NewUser::Refuse), Ok(route));
        let _ = std::fs::remove_dir_all(directory);
    }
}
