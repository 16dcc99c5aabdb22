//! Connections to trackers and ID servers: they answer from memory, so a request that is not answered
//! within the deadline of small messages is given up, and another server asked.

use std::net::IpAddr;

use tnv_common::conn::Conn;
use tnv_common::error::{Error, ErrorKind, Result};
use tnv_common::limits::MESSAGE_TIMEOUT;
use tnv_common::net;

/// Connects to a server, whichever of its addresses answers first in turn. A name is looked up anew
/// each time: its host may have moved.
pub fn connect(server: &str, default_port: u16, from: Option<IpAddr>) -> Result<Conn> {
    let mut failure = None;
    for address in net::resolve(server, default_port)? {
        match Conn::connect(address, from) {
            Ok(mut conn) => {
                conn.set_reply_timeout(MESSAGE_TIMEOUT);
                return Ok(conn);
            }
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    let unknown = || Error::new(ErrorKind::Unavailable, format!("the host of '{server}' has no address"));
    Err(failure.unwrap_or_else(unknown))
}
