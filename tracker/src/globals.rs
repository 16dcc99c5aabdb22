//! What every room of the tracker shares: the settings it runs on and the one table of groups.

use std::time::Duration;

use tnv_common::db::DbSettings;
use tnv_common::net::allow::AllowList;
use tnv_common::proto::{AppId, GroupName};

use crate::groups::Groups;

/// When groups of the configuration are added to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddGroups {
    /// Each one that is missing: an operator has named them.
    Missing,
    /// Only where the table has no row at all: they are the default, and a deployment that has groups does
    /// not want one more.
    IfNone,
}

/// What the tracker runs on.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The applications that are served.
    pub apps: Vec<AppId>,
    /// Groups that are added to the database at the start where it lacks them.
    pub groups: Vec<GroupName>,
    /// And when.
    pub add_groups: AddGroups,
    /// A storage that was not heard of for so long is OFFLINE, whatever its interval.
    pub check_active_interval: Duration,
    /// Who may join as a storage, of those that may connect.
    pub allow_join: AllowList,
    /// How long a user's group is answered from memory.
    pub cache_lifetime: Duration,
    /// Where the database is.
    pub database: DbSettings,
}

/// The shared state.
pub struct Globals {
    /// The settings.
    pub settings: Settings,
    /// The groups and their storages.
    pub groups: Groups,
}

impl Globals {
    /// Settings, and a table that has no group yet.
    pub fn new(settings: Settings) -> Globals {
        Globals { settings, groups: Groups::default() }
    }
}
