//! The options of a client: its bounds and its keys. The timeouts of single messages belong to the protocol
//! and are in `tnv_common::limits`.

use std::time::Duration;

use tnv_common::auth::app_key::AppKeys;

/// The options of a client. The defaults suit both a single command and a busy server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Most attempts of one request. A route has three storages: six attempts are each of them, and each of
    /// them again after a tracker was asked again.
    pub attempts: usize,
    /// No attempt starts after this. A started one has the protocol's timeouts: 5 s to connect, 60 s for a
    /// reply, 60 s without progress. While another storage is left, an unresponsive one has 3 s, and for a
    /// change 10 s.
    pub deadline: Duration,
    /// How long a route is cached; with zero each request asks a tracker. When one of its storages fails, a
    /// route is dropped.
    pub route_cache: Duration,
    /// Most cached routes.
    pub routes_max: usize,
    /// Most idle connections to one server.
    pub idle_per_server_max: usize,
    /// Most idle connections to all servers.
    pub idle_max: usize,
    /// Application keys. If a storage needs it, an application's first key is proven on each connection
    /// before an upload or delete.
    pub app_keys: AppKeys,
    /// How long an idle connection is kept. Servers close theirs after at least 90 s.
    pub idle_timeout: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            attempts: 6,
            deadline: Duration::from_secs(60),
            route_cache: Duration::from_secs(5),
            routes_max: 4096,
            idle_per_server_max: 32,
            idle_max: 256,
            app_keys: AppKeys::default(),
            idle_timeout: Duration::from_secs(60),
        }
    }
}
