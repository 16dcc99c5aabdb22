//! Idle connections by server, which save a connect. The server may close one at any time, so a request on
//! one must be ready to repeat.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use tnv_common::rpc::client::Conn;

use crate::options::Options;

struct Idle {
    conn: Conn,
    since: Instant,
}

/// The pools of all servers. A server without idle connections has no entry, so `idle_max` bounds the
/// entries, too.
pub(crate) struct Pools {
    /// The oldest connection is in front.
    idle: HashMap<SocketAddr, VecDeque<Idle>>,
    count: usize,
    options: Options,
}

impl Pools {
    pub(crate) fn new(options: &Options) -> Pools {
        Pools { idle: HashMap::new(), count: 0, options: options.clone() }
    }

    /// The connection to `address` with the shortest idle time.
    pub(crate) fn take(&mut self, address: SocketAddr) -> Option<Conn> {
        let queue = self.idle.get_mut(&address)?;
        let idle = queue.pop_back();
        if queue.is_empty() {
            self.idle.remove(&address);
        }
        let idle = idle?;
        self.count -= 1;
        // The rest of the queue is older; the next `put` drops it.
        (idle.since.elapsed() < self.options.idle_timeout).then_some(idle.conn)
    }

    /// Keeps a connection for the next request. Returns the connections to close, which needs no lock.
    pub(crate) fn put(&mut self, conn: Conn) -> Vec<Conn> {
        let mut dropped = self.expire();
        let address = conn.peer();
        let queued = self.idle.get(&address).map_or(0, VecDeque::len);
        if conn.is_broken()
            || queued >= self.options.idle_per_server_max
            || self.count >= self.options.idle_max
        {
            dropped.push(conn);
            return dropped;
        }
        self.idle.entry(address).or_default().push_back(Idle { conn, since: Instant::now() });
        self.count += 1;
        dropped
    }

    /// Removes the connections that have been idle too long.
    fn expire(&mut self) -> Vec<Conn> {
        let timeout = self.options.idle_timeout;
        let mut expired = Vec::new();
        self.idle.retain(|_, queue| {
            while let Some(idle) = queue.pop_front_if(|idle| idle.since.elapsed() >= timeout) {
                expired.push(idle.conn);
            }
            !queue.is_empty()
        });
        self.count -= expired.len();
        expired
    }

    /// The idle connections.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::time::Duration;

    fn conn(listener: &TcpListener) -> Conn {
        Conn::connect(listener.local_addr().unwrap(), None).unwrap()
    }

    #[test]
    fn the_options_bound_the_idle_connections() {
        let one = TcpListener::bind("127.0.0.1:0").unwrap();
        let two = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut pools = Pools::new(&Options { idle_per_server_max: 2, idle_max: 3, ..Options::default() });
        for _ in 0..3 {
            pools.put(conn(&one));
        }
        assert_eq!(pools.count(), 2);
        for _ in 0..3 {
            pools.put(conn(&two));
        }
        assert_eq!(pools.count(), 3);
        let address = one.local_addr().unwrap();
        assert!(pools.take(address).is_some() && pools.take(address).is_some());
        assert!(pools.take(address).is_none());
        assert_eq!(
            (pools.count(), pools.idle.len()),
            (1, 1),
            "a server without idle connections has no entry"
        );
    }

    #[test]
    fn an_expired_connection_is_closed_at_the_next_put() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let options = Options { idle_timeout: Duration::from_millis(30), ..Options::default() };
        let mut pools = Pools::new(&options);
        pools.put(conn(&listener));
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(pools.put(conn(&listener)).len(), 1);
        assert_eq!(pools.count(), 1);
        std::thread::sleep(Duration::from_millis(50));
        assert!(pools.take(listener.local_addr().unwrap()).is_none());
        assert_eq!(pools.count(), 0);
    }
}
