//! Puts the ID server together: settings, database, numbers, and the server loop.

use std::sync::Arc;

use log::info;
use tnv_common::config::{CommonSettings, Config, ConfigError, Part, keys};
use tnv_common::daemon::{self, Server};
use tnv_common::error::{Context, Result};
use tnv_common::net;
use tnv_common::net::event_loop;
use tnv_common::net::stop::Stop;
use tnv_common::rpc::server::RpcServer;

use crate::db::{IdDb, SCHEMA};
use crate::globals::{Numbers, Settings};
use crate::marks::Marks;
use crate::service::{self, Service};

/// The ID server.
pub struct IdServer;

impl Server for IdServer {
    const PART: Part = Part::IdServer;

    type Settings = Settings;

    fn settings(config: &Config) -> std::result::Result<Settings, Vec<ConfigError>> {
        let step = config.get(&keys::IDINC_MAX_STEP)?;
        let step = u32::try_from(step)
            .map_err(|_| config.error(&keys::IDINC_MAX_STEP, step, format_args!("at most {}", u32::MAX)))?;
        Ok(Settings {
            step,
            database: config.database()?,
            state_directory: config.get(&keys::TNV_STATE_PATH)?,
        })
    }

    fn check(config: &Config, settings: &Settings) -> Vec<ConfigError> {
        let directory = &settings.state_directory;
        let state = Marks::check(directory).err().map(|error| {
            let got = format!("'{}': {error}", directory.display());
            config.error(&keys::TNV_STATE_PATH, got, "a directory that can be made and written")
        });
        state.into_iter().chain(daemon::check_database(config, &settings.database, &SCHEMA)).collect()
    }

    /// The port is opened last: who can connect is served.
    fn run(settings: Settings, common: CommonSettings, stop: &Stop) -> Result<()> {
        let marks = Marks::open(&settings.state_directory, common.bind)?;
        let db = IdDb::open(&settings.database, settings.step, marks, stop)?;
        info!("using the {}", db.describe());
        let listener = net::listen(common.bind)?;
        let address = listener.local_addr().context(|| "find out the listening address")?;
        let service = Service::new(Numbers::new(db)?);
        let service = RpcServer::new(service, service::dialect(net::host_name()), common.max_conns);
        let ready = || daemon::ready(IdServer::PART, address);
        event_loop::run_announced(listener, &common.server(IdServer::PART), Arc::new(service), stop, ready)
    }
}
