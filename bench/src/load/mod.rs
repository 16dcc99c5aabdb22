//! Loads that the client makes none of: IDs, addresses, heartbeats, idle connections, rows in bulk.

use std::net::SocketAddr;
use std::time::Duration;

use crate::row::Row;
use crate::{Failure, Result};

/// `scripts/bench load`.
pub(crate) fn run(_parser: lexopt::Parser) -> Result<()> {
    Err(Failure::Failed("this load is not there yet".to_owned()))
}

/// `scripts/bench scale`.
pub(crate) fn scale(_parser: lexopt::Parser) -> Result<()> {
    Err(Failure::Failed("this is not there yet".to_owned()))
}

/// Command 40: so many storages, each with one connection to the ID server, for so long.
pub(crate) fn ids(_idserver: SocketAddr, connections: usize, time: Duration) -> Result<Row> {
    Ok(Row::of("ids", 0, connections, time, Vec::new(), 0))
}

/// Command 12: so many connections ask for the addresses of users whose routes are in the tracker's memory, for
/// so long.
pub(crate) fn addresses(_tracker: SocketAddr, connections: usize, time: Duration) -> Result<Row> {
    Ok(Row::of("addresses", 0, connections, time, Vec::new(), 0))
}
