//! What a service manager is notified of: systemd's protocol, which others speak too. `NOTIFY_SOCKET` names a
//! datagram socket, and each message is a line or several of `NAME=VALUE`.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use log::warn;

/// The server can be reached.
pub(super) const READY: &str = "READY=1";

/// It finishes what is under way, and then ends.
pub(super) const STOPPING: &str = "STOPPING=1";

/// Sends a message, where a service manager listens.
pub(super) fn notify(message: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else { return };
    if let Err(error) = send(&socket, message) {
        warn!("cannot notify the service manager at {}: {error}", socket.display());
    }
}

fn send(socket: &OsStr, message: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    // A manager that does not read must not keep the server waiting.
    sender.set_nonblocking(true)?;
    sender.send_to_addr(message.as_bytes(), &address).map(drop)
}
