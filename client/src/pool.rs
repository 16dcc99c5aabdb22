//! Idle connections, by server. They save the connect; whoever takes one must be ready to find it
//! dead, since the server may close it at any moment.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use tnv_common::rpc::client::Conn;

use crate::options::Options;

struct Idle {
    conn: Conn,
    since: Instant,
}

/// The pools of all servers. A server has an entry only while it has idle connections, so `idle_max`
/// bounds the entries too.
pub(crate) struct Pools {
    /// Each queue is in the order of coming in: the oldest in front.
    idle: HashMap<SocketAddr, VecDeque<Idle>>,
    count: usize,
    options: Options,
}

impl Pools {
    pub(crate) fn new(options: &Options) -> Pools {
        Pools { idle: HashMap::new(), count: 0, options: options.clone() }
    }

    /// The connection to `address` that idled shortest.
    pub(crate) fn take(&mut self, address: SocketAddr) -> Option<Conn> {
        let queue = self.idle.get_mut(&address)?;
        let idle = queue.pop_back();
        if queue.is_empty() {
            self.idle.remove(&address);
        }
        let idle = idle?;
        self.count -= 1;
        // The rest of the queue is older still; the next `put` drops it.
        (idle.since.elapsed() < self.options.idle_timeout).then_some(idle.conn)
    }

    /// Keeps a connection for the next request. What is given up is returned, to be closed
    /// outside the lock.
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

    /// Takes out what has idled too long.
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

    /// How many connections idle.
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
    fn no_more_connections_idle_than_the_options_allow() {
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
    fn a_connection_that_idled_too_long_is_closed_when_another_comes_in() {
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
