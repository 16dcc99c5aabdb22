//! The settings of this storage and what it is called. Nothing here changes while it runs.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tnv_common::auth::app_key::AppKeys;
use tnv_common::config::kinds::Space;
use tnv_common::config::{Config, ConfigError, keys};
use tnv_common::db::DbSettings;
use tnv_common::net;
use tnv_common::proto::{GroupName, HostName, IdKey};
use tnv_common::rpc::pace::PaceLimits;

/// What the configuration says.
pub struct Settings {
    /// The group that it belongs to.
    pub group: GroupName,
    /// What this member is called whatever its host is, where that is set.
    pub storage_id: Option<HostName>,
    /// Where files are kept.
    pub store_paths: Vec<IdKey>,
    /// Whether the members of the group see the same files there, so that trackers may compare them.
    pub shared_store: bool,
    /// What stays free there.
    pub reserve: Space,
    /// Whether what is acknowledged is on stable storage.
    pub fsync: bool,
    /// How slow the sender of an upload may be.
    pub upload_pace: PaceLimits,
    /// How fast the scrub reads; 0 where it does not.
    pub scrub_bytes_a_second: u64,
    /// The least time from the beginning of one of its rounds to that of the next.
    pub scrub_interval: Duration,
    /// The trackers to join.
    pub trackers: Vec<String>,
    /// The ID servers to ask.
    pub id_servers: Vec<String>,
    /// The time between two heartbeats.
    pub beat_interval: Duration,
    /// How long an entry of the cache is good for.
    pub cache_lifetime: Duration,
    /// The keys of applications, as the file had them at the start.
    pub app_keys: AppKeys,
    /// That file.
    pub app_keys_file: Option<PathBuf>,
    /// The database with the file tables.
    pub database: DbSettings,
}

impl Settings {
    /// From the configuration.
    pub fn new(config: &Config) -> Result<Settings, Vec<ConfigError>> {
        let app_keys_file = config.get(&keys::TNV_APP_KEYS_FILE)?;
        let app_keys = match &app_keys_file {
            None => AppKeys::default(),
            Some(file) => AppKeys::read(file)
                .map_err(|got| config.error(&keys::TNV_APP_KEYS_FILE, got, AppKeys::form()))?,
        };
        let fsync = config.get(&keys::TNV_FSYNC)?;
        Ok(Settings {
            app_keys,
            app_keys_file,
            group: config.get(&keys::TNV_GROUP_NAME)?,
            storage_id: config.get(&keys::TNV_STORAGE_ID)?,
            store_paths: config.get(&keys::TNV_STORE_PATHS)?,
            shared_store: config.get(&keys::TNV_SHARED_STORE)?,
            reserve: config.get(&keys::TNV_RESERVED_SPACE)?,
            fsync,
            upload_pace: PaceLimits {
                rate_min: config.get(&keys::TNV_UPLOAD_RATE_MIN)?,
                pause_max: config.get(&keys::TNV_UPLOAD_PAUSE_MAX)?,
            },
            scrub_bytes_a_second: config.get(&keys::TNV_SCRUB_RATE)?,
            scrub_interval: config.get(&keys::TNV_SCRUB_INTERVAL)?,
            trackers: config.get(&keys::TNV_TRACKER_ADDRS)?,
            id_servers: config.get(&keys::TNV_IDS_ADDRS)?,
            beat_interval: config.get(&keys::TNV_HEART_BEAT_INTERVAL)?,
            cache_lifetime: config.get(&keys::REDIS_KEY_TIMEOUT)?,
            database: DbSettings { durable: fsync, ..config.database()? },
        })
    }
}

/// What every room may know.
pub struct Globals {
    /// The settings.
    pub settings: Settings,
    /// What trackers show as its host: the storage ID where there is one, else this host's name.
    pub host: HostName,
    /// What its own files in the store paths are named by.
    pub member: MemberName,
    /// The address that clients reach this storage at, with the port that is really listened on.
    pub address: SocketAddr,
    /// When it started, seconds since the epoch.
    pub started: u64,
}

/// What a member's own files in the store paths are named by: `tnv_storage_id` where it is set, else host
/// name, address and port.
#[derive(Clone, Debug)]
pub struct MemberName {
    name: String,
    host: HostName,
    may_move: bool,
}

impl MemberName {
    /// The name of the storage that listens on this address of this host.
    pub fn new(id: Option<&HostName>, host: &HostName, address: SocketAddr) -> MemberName {
        let name = match id {
            Some(id) => id.to_string(),
            None => format!("{host}-{}-{}", address.ip(), address.port()),
        };
        MemberName { name: name.replace('/', "_"), host: host.clone(), may_move: id.is_some() }
    }

    /// Its file of this kind in a store path.
    pub fn file_in(&self, store_path: &str, prefix: &str) -> String {
        format!("{store_path}/{prefix}{}", self.name)
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// Whether a member of this name may have run on another host.
    pub fn may_move(&self) -> bool {
        self.may_move
    }

    /// Whether a name says that it is that of a storage of this host, on any address and port. The name of
    /// another host may begin like this one's; and some names are those of many hosts.
    pub fn is_of_this_host(&self, name: &str) -> bool {
        let prefix = format!("{}-", self.host).replace('/', "_");
        let rest = name.strip_prefix(&prefix).and_then(|rest| rest.rsplit_once('-'));
        !self.host.as_str().starts_with("localhost")
            && rest.is_some_and(|(ip, port)| ip.parse::<IpAddr>().is_ok() && port.parse::<u16>().is_ok())
    }
}

/// This host's name, in a form that fits the wire.
pub fn host_name() -> Result<HostName, tnv_common::error::Error> {
    let name = net::host_name();
    HostName::new(&name).or_else(|error| {
        log::warn!("{error}; calling this host 'localhost'");
        HostName::new("localhost")
    })
}

/// Seconds since the epoch; a clock before it counts as its start.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
