//! Sockets of the drivers that do not use the client library.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};

use tnv_client::Result;
use tnv_common::error::Context;
use tnv_common::fail;
use tnv_common::limits::{CONNECT_TIMEOUT, PROGRESS_TIMEOUT};

/// Connects with the timeouts of TNV.
pub(super) fn connect(address: SocketAddr) -> Result<TcpStream> {
    let connect = || {
        let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PROGRESS_TIMEOUT))?;
        stream.set_write_timeout(Some(PROGRESS_TIMEOUT))?;
        Ok::<_, std::io::Error>(stream)
    };
    connect().context(|| format!("connect to {address}"))
}

/// Reads at least one byte.
pub(super) fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<usize> {
    loop {
        match stream.read(buffer) {
            Ok(0) => return fail!(Unavailable, "the server closed the connection"),
            Ok(count) => return Ok(count),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context(|| "read the reply"),
        }
    }
}
