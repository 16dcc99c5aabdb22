//! The settings of this server, read once from its configuration.

use tnv_common::auth::signed_link::LinkSecrets;
use tnv_common::config::{Config, ConfigError, keys};
use tnv_common::proto::{AppId, UserId};

/// The owner of the files at `/files/FILEID`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The application.
    pub appid: AppId,
    /// The user.
    pub userid: UserId,
}

/// The settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The trackers, `host[:port]` each.
    pub trackers: Vec<String>,
    /// The owner of files whose path names none.
    pub owner: Owner,
    /// The secrets of signed links, if links must be signed.
    pub links: Option<LinkSecrets>,
}

impl Settings {
    /// Reads them from a configuration.
    pub fn new(config: &Config) -> Result<Settings, Vec<ConfigError>> {
        let owner =
            Owner { appid: config.get(&keys::TNV_HTTP_APPID)?, userid: config.get(&keys::TNV_HTTP_USERID)? };
        let trackers = config.get(&keys::TNV_TRACKER_ADDRS)?;
        Ok(Settings { trackers, owner, links: config.link_secrets()? })
    }
}
