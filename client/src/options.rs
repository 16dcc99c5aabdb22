//! What a client may be told about its bounds. The deadlines of single messages are the protocol's
//! and stand in `tnv_common::limits`.

use std::time::Duration;

use tnv_common::auth::app_key::AppKeys;

/// The bounds of a client. The defaults suit a command that runs once and a busy server alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Most storages asked for one request, those that failed included. A route has three addresses:
    /// six is each of them, and each of them again after the tracker was asked anew.
    pub attempts: usize,
    /// No further attempt begins after this. One that has begun has the deadlines of the protocol:
    /// 5 s to connect, 60 s for a reply, 60 s without a byte of progress. While another storage can be
    /// asked instead it is given up after 3 s of silence, or 10 s where it is to change something.
    pub deadline: Duration,
    /// For how long a user's storages are remembered; zero asks a tracker for each request. A route
    /// is forgotten early when its storages fail.
    pub route_cache: Duration,
    /// Most routes remembered.
    pub routes_max: usize,
    /// Most idle connections kept to one server.
    pub idle_per_server_max: usize,
    /// Most idle connections kept to all servers.
    pub idle_max: usize,
    /// Keys of applications: with the first one of an application each connection is opened for its
    /// uploads and deletes, where the storage wants that.
    pub app_keys: AppKeys,
    /// How long an idle connection is kept. Servers close theirs after 90 s and more.
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
