//! The client of the ID servers, which give each new file of a store path its number.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tnv_common::config::Part;
use tnv_common::conn::Conn;
use tnv_common::error::{Error, ErrorKind, Result};
use tnv_common::fail;
use tnv_common::wire::IdKey;
use tnv_common::wire::tnv::{REPLY_ID, command, encode_id_key};

use crate::call::connect;

/// Idle connections kept to each server: a number takes so little time that few are ever in use, and
/// they are among the few descriptors kept back from clients (`RESERVED_FDS`).
const IDLE_MAX: usize = 16;

/// A server that failed is asked last for so long: one that swallows packets costs seconds.
const FAILED_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a server is waited for while another can be asked instead: a number comes from memory or
/// after one commit, and an uploader waits meanwhile.
const EARLY_TIMEOUT: Duration = Duration::from_secs(3);

/// All ID servers.
pub struct Ids {
    servers: Vec<Server>,
}

struct Server {
    address: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    idle: Vec<Conn>,
    failed_at: Option<Instant>,
}

impl Ids {
    /// The servers at these addresses. None is called before it is needed.
    pub fn new(addresses: &[String]) -> Ids {
        let server = |address: &String| Server { address: address.clone(), state: Mutex::default() };
        Ids { servers: addresses.iter().map(server).collect() }
    }

    /// The next number of this store path: from one server at random, or from the next one when it
    /// fails. Each is tried once.
    pub fn next(&self, key: &IdKey) -> Result<u64> {
        let mut failure = Error::new(ErrorKind::Unavailable, "there are none");
        let order = self.order();
        for (index, server) in order.iter().enumerate() {
            let wait_max = (index + 1 < order.len()).then_some(EARLY_TIMEOUT);
            match server.next(key, wait_max) {
                Ok(number) => return Ok(number),
                Err(error) => {
                    log::warn!("ID server {}: {error}", server.address);
                    failure = error;
                }
            }
        }
        // Whatever an ID server thinks of the request, the client's was in order.
        Err(Error::new(
            ErrorKind::Unavailable,
            format!("get id fail, no ID server gives a number: {failure}"),
        ))
    }

    /// A random one and those that follow it, the ones that have just failed last.
    fn order(&self) -> Vec<&Server> {
        let count = self.servers.len();
        let start = if count > 1 { rand::random_range(0..count) } else { 0 };
        let mut order: Vec<_> = self.servers.iter().cycle().skip(start).take(count).collect();
        order.sort_by_key(|server| server.has_failed());
        order
    }
}

impl Server {
    fn next(&self, key: &IdKey, wait_max: Option<Duration>) -> Result<u64> {
        let asked = match self.take_idle().map(|conn| self.ask(conn, wait_max, key)) {
            // The server may have closed an idle connection just now; a fresh one tells. One that was
            // silent has had its time.
            Some(Err(error)) if error.kind() != ErrorKind::Timeout => self.ask_anew(wait_max, key),
            Some(asked) => asked,
            None => self.ask_anew(wait_max, key),
        };
        self.state().failed_at = asked.is_err().then(Instant::now);
        asked
    }

    fn ask_anew(&self, wait_max: Option<Duration>, key: &IdKey) -> Result<u64> {
        let conn = connect(&self.address, Part::IdServer.default_port())?;
        self.ask(conn, wait_max, key)
    }

    fn ask(&self, mut conn: Conn, wait_max: Option<Duration>, key: &IdKey) -> Result<u64> {
        conn.set_wait_max(wait_max);
        let value = i64::from_be_bytes(conn.call_fixed(command::GET_ID, &encode_id_key(key), REPLY_ID)?);
        let Ok(number) = u64::try_from(value) else {
            return fail!(Protocol, "it gave the number {value}, want 0 or more");
        };
        let mut state = self.state();
        if state.idle.len() < IDLE_MAX {
            state.idle.push(conn);
        }
        Ok(number)
    }

    /// The connection used last; those that the server has closed meanwhile are dropped.
    fn take_idle(&self) -> Option<Conn> {
        loop {
            let conn = self.state().idle.pop()?;
            if !conn.is_stale() {
                return Some(conn);
            }
        }
    }

    fn has_failed(&self) -> bool {
        self.state().failed_at.is_some_and(|at| at.elapsed() < FAILED_TIMEOUT)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener};
    use std::thread;

    use tnv_common::wire::{HEADER_BYTES, Header};

    /// An ID server that answers so many requests with these values, one connection after another.
    fn server(values: &'static [i64], requests_of_a_connection: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let mut values = values.iter();
            loop {
                let (mut stream, _) = listener.accept().unwrap();
                for _ in 0..requests_of_a_connection {
                    let mut request = [0; HEADER_BYTES + 8];
                    if stream.read_exact(&mut request).is_err() {
                        break;
                    }
                    assert_eq!(&request[HEADER_BYTES - 2..], b"\x28\0../data\0");
                    let Some(value) = values.next() else { return };
                    let mut reply = Header::new(REPLY_ID, 8).encode().to_vec();
                    reply.extend_from_slice(&value.to_be_bytes());
                    stream.write_all(&reply).unwrap();
                }
            }
        });
        address
    }

    fn key() -> IdKey {
        IdKey::new("../data").unwrap()
    }

    #[test]
    fn numbers_come_over_one_connection_and_over_a_new_one_when_it_was_closed() {
        let ids = Ids::new(&[server(&[5, 6, 7], 2).to_string()]);
        assert_eq!((ids.next(&key()), ids.next(&key()), ids.next(&key())), (Ok(5), Ok(6), Ok(7)));
        let error = ids.next(&key()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }

    #[test]
    fn the_next_server_is_asked_when_one_is_away_or_gives_a_negative_number() {
        let away = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let broken = server(&[-1; 100], 1);
        let ids = Ids::new(&[away.to_string(), broken.to_string(), server(&[3; 20], 100).to_string()]);
        for _ in 0..20 {
            assert_eq!(ids.next(&key()), Ok(3));
        }
        let ids = Ids::new(&[broken.to_string()]);
        assert!(ids.next(&key()).unwrap_err().message().contains("-1"));
    }
}
