//! Ports of loopback for servers to listen on. A port that the kernel gave and that was released is
//! free for anybody: for an outgoing connection of another test, or for another test's server. These
//! are taken where the kernel gives none to outgoing connections, so that a server which restarts
//! finds its port free, and each is reserved among all processes that run these tests at once.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::sync::Mutex;

/// The ports to choose from, where outgoing connections leave them alone.
const PORTS: Range<u16> = 10_000..32_000;

/// Fewer are too few for several test processes at once.
const PORTS_MIN: u16 = 2_000;

/// A port of loopback that nobody has, and that no other test gets while this process runs.
pub fn free_address() -> SocketAddr {
    free_addresses(1)[0]
}

/// So many of them, one after the other.
pub fn free_addresses(count: u16) -> Vec<SocketAddr> {
    static RESERVED: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    let ports = ports();
    for _ in 0..10_000 {
        let first = rand::random_range(ports.start..ports.end - count);
        let row = first..first + count;
        if let Some(reserved) = row.clone().map(reserve).collect::<Option<Vec<_>>>() {
            RESERVED.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).extend(reserved);
            return row.map(address).collect();
        }
    }
    panic!("no {count} free ports in a row among {ports:?}");
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A name that one process at a time can have, and that goes with it, whatever ends it.
fn reserve(port: u16) -> Option<UnixListener> {
    let name = UnixAddr::from_abstract_name(format!("tnv-tests-port-{port}")).expect("a short name");
    let reserved = UnixListener::bind_addr(&name).ok()?;
    TcpListener::bind(address(port)).is_ok().then_some(reserved)
}

/// What is left of [`PORTS`] beside the range of outgoing connections.
fn ports() -> Range<u16> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let outgoing: Vec<u16> = text.split_whitespace().filter_map(|port| port.parse().ok()).collect();
    let &[low, high] = outgoing.as_slice() else { return PORTS };
    let below = PORTS.start..PORTS.end.min(low);
    let above = PORTS.start.max(high.saturating_add(1))..PORTS.end;
    // Where it leaves no room, some of it is better than none.
    [below, above].into_iter().find(|ports| ports.len() >= usize::from(PORTS_MIN)).unwrap_or(PORTS)
}

/// How many connections to a server of loopback stand, by the kernel's count of the server's ends.
pub fn established(server: SocketAddr) -> usize {
    const ESTABLISHED: &str = "01";
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table of connections");
    let port = format!(":{:04X}", server.port());
    table
        .lines()
        .filter(|line| {
            let mut words = line.split_whitespace().skip(1);
            let (local, _peer, state) = (words.next(), words.next(), words.next());
            local.is_some_and(|local| local.ends_with(&port)) && state == Some(ESTABLISHED)
        })
        .count()
}
