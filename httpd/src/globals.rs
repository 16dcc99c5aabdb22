//! The settings of this server, made once of its configuration.

use tnv_common::auth::signed_link::LinkSecrets;
use tnv_common::config::{Config, ConfigError, keys};
use tnv_common::proto::{AppId, UserId};

/// Whose files `/files/FILEID` means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The application.
    pub appid: AppId,
    /// The user.
    pub userid: UserId,
}

/// What the server runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The trackers, `host[:port]` each.
    pub trackers: Vec<String>,
    /// Whose files those without an owner in their path are.
    pub owner: Owner,
    /// What links are to be signed with, where they are.
    pub links: Option<LinkSecrets>,
}

impl Settings {
    /// The settings of a configuration.
    pub fn new(config: &Config) -> Result<Settings, Vec<ConfigError>> {
        let owner =
            Owner { appid: config.get(&keys::TNV_HTTP_APPID)?, userid: config.get(&keys::TNV_HTTP_USERID)? };
        let trackers = config.get(&keys::TNV_TRACKER_ADDRS)?;
        Ok(Settings { trackers, owner, links: config.link_secrets()? })
    }
}
