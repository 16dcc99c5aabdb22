//! Connections to trackers and ID servers: they answer from memory, so a request that is not answered
//! within the deadline of small messages is given up, and another server asked.

use std::net::{IpAddr, SocketAddr};

use tnv_common::error::{Error, ErrorKind, Result};
use tnv_common::fail;
use tnv_common::limits::MESSAGE_TIMEOUT;
use tnv_common::net;
use tnv_common::rpc::client::Conn;

/// Connects to a server, whichever of its addresses answers first in turn. A name is looked up anew
/// each time: its host may have moved.
pub fn connect(server: &str, default_port: u16) -> Result<Conn> {
    connect_any(server, net::resolve(server, default_port)?, None)
}

/// Connects to a server that notes the address it is called from as the one where `listening` is
/// found: so only over an address family that reaches it, and from that very address.
pub fn connect_from(listening: IpAddr, server: &str, default_port: u16) -> Result<Conn> {
    let mut addresses = net::resolve(server, default_port)?;
    addresses.retain(|address| reaches(listening, address));
    if addresses.is_empty() {
        let family = if listening.is_ipv4() { "IPv4" } else { "IPv6" };
        return fail!(
            Invalid,
            "'{server}' has no {family} address, and this storage listens on {listening}: clients would be told \
             an address that nobody listens on; set tnv_bind to an address of the tracker's family"
        );
    }
    connect_any(server, addresses, Some(listening))
}

/// Whether callers of this address's family also reach what listens there.
fn reaches(listening: IpAddr, address: &SocketAddr) -> bool {
    match listening {
        // It takes IPv4 as well.
        IpAddr::V6(ip) if ip.is_unspecified() => true,
        _ => listening.is_ipv4() == address.is_ipv4(),
    }
}

fn connect_any(server: &str, addresses: Vec<SocketAddr>, from: Option<IpAddr>) -> Result<Conn> {
    let mut failure = None;
    for address in addresses {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A storage on 127.0.0.1 joined a tracker on [::1], which then sent clients to [::1].
    #[test]
    fn a_server_is_not_called_over_a_family_that_is_not_listened_on() {
        for (listening, address, reached) in [
            ("127.0.0.1", "127.0.0.1:1", true),
            ("127.0.0.1", "[::1]:1", false),
            ("0.0.0.0", "127.0.0.1:1", true),
            ("0.0.0.0", "[::1]:1", false),
            ("::1", "127.0.0.1:1", false),
            ("::1", "[::1]:1", true),
            ("::", "127.0.0.1:1", true),
            ("::", "[::1]:1", true),
        ] {
            let found = reaches(listening.parse().unwrap(), &address.parse().unwrap());
            assert_eq!(found, reached, "{listening} {address}");
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap().to_string();
        assert!(connect_from("127.0.0.1".parse().unwrap(), &server, 1).is_ok());
        let error = connect_from("::1".parse().unwrap(), &server, 1).err().unwrap();
        assert!(error.message().contains("has no IPv6 address"), "{error}");
    }
}
