//! Starts and ends the HTTP server: puts front end, service and client together.

use std::sync::Arc;
use std::time::Duration;

use tnv_client::{Client, Options, TRACKER_PORT};
use tnv_common::config::{CommonSettings, Config, ConfigError, Part, keys};
use tnv_common::daemon;
use tnv_common::error::Result;
use tnv_common::net::event_loop;
use tnv_common::net::stop::Stop;
use tnv_common::net::{listen, resolve};

use crate::front_end::FrontEnd;
use crate::globals::Settings;
use crate::service::FileService;

/// How long a user's route is cached: a new storage is found after this, and a tracker may be unavailable for
/// as long.
const ROUTE_CACHE: Duration = Duration::from_secs(5);

/// The HTTP server.
pub struct HttpServer;

impl daemon::Server for HttpServer {
    const PART: Part = Part::Httpd;
    type Settings = Settings;

    fn settings(config: &Config) -> std::result::Result<Settings, Vec<ConfigError>> {
        Settings::new(config)
    }

    fn check(config: &Config, settings: &Settings) -> Vec<ConfigError> {
        let unresolved = settings.trackers.iter().filter_map(|tracker| resolve(tracker, TRACKER_PORT).err());
        unresolved
            .map(|error| config.error(&keys::TNV_TRACKER_ADDRS, error, "hosts that can be resolved"))
            .collect()
    }

    fn run(settings: Settings, common: CommonSettings, stop: &Stop) -> Result<()> {
        let listener = listen(common.bind)?;
        let address = listener.local_addr()?;
        let options =
            Options { route_cache: ROUTE_CACHE, idle_per_server_max: common.threads, ..Options::default() };
        let client = Client::new(&settings.trackers, options)?;
        let service = FileService::new(client, settings.owner).with_links(settings.links);
        let front_end = Arc::new(FrontEnd::new(service, stop.clone()));
        let ready = || daemon::ready(Part::Httpd, address);
        event_loop::run_announced(listener, &common.server(Part::Httpd), front_end, stop, ready)
    }
}
