//! Whom this thread is working for, so that each line of the log can say it.

use std::cell::Cell;
use std::net::SocketAddr;

thread_local! {
    static PEER: Cell<Option<SocketAddr>> = const { Cell::new(None) };
}

/// Sets the peer of this thread's work; `None` when it works for none.
pub fn set_peer(peer: Option<SocketAddr>) {
    PEER.set(peer);
}

/// The peer of this thread's work.
pub fn peer() -> Option<SocketAddr> {
    PEER.get()
}
