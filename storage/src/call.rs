//! Small requests to other servers: trackers and ID servers answer from memory, so a request that is
//! not answered within the deadline of small messages is given up, and another server asked.

use std::net::IpAddr;

use tnv_common::conn::Conn;
use tnv_common::error::{Error, ErrorKind, Result};
use tnv_common::fail;
use tnv_common::limits::MESSAGE_TIMEOUT;
use tnv_common::net;

/// Connects to a server, whichever of its addresses answers first in turn. A name is looked up anew
/// each time: its host may have moved.
pub fn connect(server: &str, default_port: u16, from: Option<IpAddr>) -> Result<Conn> {
    let mut failure = None;
    for address in net::resolve(server, default_port)? {
        match Conn::connect(address, from) {
            Ok(conn) => return Ok(conn),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    let unknown = || Error::new(ErrorKind::Unavailable, format!("the host of '{server}' has no address"));
    Err(failure.unwrap_or_else(unknown))
}

/// One small request and its reply of exactly `N` bytes.
pub fn call<const N: usize>(conn: &mut Conn, command: u8, body: &[u8], reply: u8) -> Result<[u8; N]> {
    conn.send(command, body)?;
    if !conn.stream().wait_readable(MESSAGE_TIMEOUT).unwrap_or(true) {
        return fail!(Timeout, "{} did not answer within {MESSAGE_TIMEOUT:?}", conn.peer());
    }
    let bytes = conn.reply(reply, N as u64)?;
    if bytes != N as u64 {
        return fail!(Protocol, "{} sent a reply of {bytes} bytes, want {N}", conn.peer());
    }
    let mut body = [0; N];
    conn.read_body(&mut body)?;
    Ok(body)
}
