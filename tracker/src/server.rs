//! Puts the tracker together: settings, database, table, threads, and the server loop.

use std::sync::Arc;

use log::info;
use tnv_common::config::{CommonSettings, Config, ConfigError, Part, keys};
use tnv_common::daemon::{self, Server};
use tnv_common::error::{Context, Result};
use tnv_common::net;
use tnv_common::net::event_loop;
use tnv_common::net::stop::Stop;
use tnv_common::rpc::server::RpcServer;

use crate::db::{SCHEMA, TrackerDb};
use crate::globals::{AddGroups, Globals, Settings};
use crate::service::{self, Service};
use crate::status;

/// The tracker.
pub struct Tracker;

impl Server for Tracker {
    const PART: Part = Part::Tracker;

    type Settings = Settings;

    fn settings(config: &Config) -> std::result::Result<Settings, Vec<ConfigError>> {
        Ok(Settings {
            apps: config.get(&keys::TNV_APPS_ID)?,
            groups: config.get(&keys::TNV_GROUPS)?,
            add_groups: match config.is_set(&keys::TNV_GROUPS) {
                true => AddGroups::Missing,
                false => AddGroups::IfNone,
            },
            check_active_interval: config.get(&keys::CHECK_ACTIVE_INTERVAL)?,
            allow_join: config.get(&keys::TNV_ALLOW_JOIN)?,
            cache_lifetime: config.get(&keys::REDIS_KEY_TIMEOUT)?,
            database: config.database()?,
        })
    }

    fn check(config: &Config, settings: &Settings) -> Vec<ConfigError> {
        daemon::check_database(config, &settings.database, &SCHEMA).into_iter().collect()
    }

    /// The port is opened last: who can connect is served.
    fn run(settings: Settings, common: CommonSettings, stop: &Stop) -> Result<()> {
        let db = Arc::new(TrackerDb::open(&settings.database, stop)?);
        info!("using the {}", db.describe());
        db.add_groups(&settings.groups, settings.add_groups)?;
        let globals = Arc::new(Globals::new(settings));
        db.refresh(&globals.groups)?;
        status::start(&globals, &db, stop)?;

        let listener = net::listen(common.bind)?;
        let address = listener.local_addr().context(|| "find out the listening address")?;
        let service = Service::new(globals, db, common.threads, stop.clone());
        let service = RpcServer::new(service, service::dialect(net::host_name()), common.max_conns);
        let ready = || daemon::ready(Tracker::PART, address);
        event_loop::run_announced(listener, &common.server(Tracker::PART), Arc::new(service), stop, ready)
    }
}
