//! The client of the ID servers, which give each new file of a store path its number.
//!
//! Numbers are fetched several at a time and used up one by one: nearly every upload finds one here. What is
//! left when the process ends is never used, as with whatever else is lost on the way.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tnv_common::config::Part;
use tnv_common::error::{Error, ErrorKind, Result};
use tnv_common::fail;
use tnv_common::proto::IdKey;
use tnv_common::proto::tnv::ids::{IdRange, Ids as Given, encode_id_key};
use tnv_common::proto::tnv::{REPLY_ID, command};
use tnv_common::rpc::client::Conn;

use crate::cluster::connect::connect;

/// Idle connections kept to each server: a number takes so little time that few are ever in use, and
/// they are among the few descriptors kept back from clients (`RESERVED_FDS`).
const IDLE_MAX: usize = 16;

/// A server that failed is asked last for so long: one that swallows packets costs seconds.
const FAILED_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a server is waited for while another can be asked instead: a number comes from memory or
/// after one commit, and an uploader waits meanwhile.
const EARLY_TIMEOUT: Duration = Duration::from_secs(3);

/// Numbers fetched at once.
const FETCH_COUNT: u32 = 64;

/// For how long it is remembered that a server gives one number at a time: it may be replaced by one of ours
/// at any time.
const SINGLE_TIMEOUT: Duration = Duration::from_secs(180);

/// An existing server refuses several numbers with words of its own, or its refusal is lost when it closes. A
/// server of ours that fails for a moment looks the same, once. So it takes so many such failures in a row,
/// each followed by a single number, to show an existing server.
const DOUBTS_MAX: u32 = 2;

/// What an existing server says of a command that it does not know.
const UNKNOWN_COMMAND: &str = "unknown command";

/// All ID servers.
pub struct Ids {
    servers: Vec<Server>,
    /// Numbers that were fetched and not used yet, of each store path. A worker adds some only when there are
    /// none, so there are no more than the workers fetch at once.
    stock: Mutex<HashMap<IdKey, Vec<Range<u64>>>>,
}

struct Server {
    address: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    idle: Vec<Conn>,
    failed_at: Option<Instant>,
    /// When it was found that it gives one number at a time.
    single_at: Option<Instant>,
    /// How often in a row it gave one number after it had failed to give several.
    doubts: u32,
}

/// Why a server gave no number.
struct Failure {
    stage: Stage,
    error: Error,
}

/// How far a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// There was no connection.
    Connect,
    /// The connection was lost, or the answer makes no sense.
    Lost,
    /// The server was silent for too long.
    Silent,
    /// The server answered with a failure.
    Refused,
}

/// What a failure to give several numbers says about the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// It does not know the command: it is an existing server.
    Single,
    /// It may not know the command.
    Doubt,
    /// It failed, whatever it is.
    Failed,
}

impl Failure {
    fn meaning(&self) -> Meaning {
        match (self.stage, self.error.kind()) {
            (Stage::Refused, ErrorKind::Unsupported) => Meaning::Single,
            // Existing servers have this one number for every failure.
            (Stage::Refused, ErrorKind::Internal) if self.error.message().contains(UNKNOWN_COMMAND) => {
                Meaning::Single
            }
            (Stage::Refused, ErrorKind::Internal) => Meaning::Doubt,
            // An existing server closes with the rest of the request unread, which may cost its refusal.
            (Stage::Lost, ErrorKind::Unavailable) => Meaning::Doubt,
            _ => Meaning::Failed,
        }
    }
}

impl Ids {
    /// The servers at these addresses. None is called before it is needed.
    pub fn new(addresses: &[String]) -> Ids {
        let server = |address: &String| Server { address: address.clone(), state: Mutex::default() };
        Ids { servers: addresses.iter().map(server).collect(), stock: Mutex::default() }
    }

    /// The next number of this store path.
    pub fn next(&self, key: &IdKey) -> Result<u64> {
        if let Some(number) = self.stock().get_mut(key).and_then(take) {
            return Ok(number);
        }
        let mut fetched = self.fetch(key)?;
        let number = fetched.start;
        fetched.start += 1;
        if !fetched.is_empty() {
            self.stock().entry(key.clone()).or_default().push(fetched);
        }
        Ok(number)
    }

    fn stock(&self) -> MutexGuard<'_, HashMap<IdKey, Vec<Range<u64>>>> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// At least one number: from one server at random, or from the next one when it fails. Each is tried once.
    fn fetch(&self, key: &IdKey) -> Result<Range<u64>> {
        let mut failure = Error::new(ErrorKind::Unavailable, "there are none");
        let order = self.order();
        for (index, server) in order.iter().enumerate() {
            let wait_max = (index + 1 < order.len()).then_some(EARLY_TIMEOUT);
            match server.next(key, wait_max) {
                Ok(numbers) => return Ok(numbers),
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

/// The next number of those in stock.
fn take(ranges: &mut Vec<Range<u64>>) -> Option<u64> {
    let range = ranges.last_mut()?;
    let number = range.start;
    range.start += 1;
    if range.is_empty() {
        ranges.pop();
    }
    Some(number)
}

impl Server {
    /// Several numbers, or one where the server knows no better.
    fn next(&self, key: &IdKey, wait_max: Option<Duration>) -> Result<Range<u64>> {
        if self.is_single() {
            return self.try_next(key, wait_max, 1).map_err(|failure| failure.error);
        }
        let failure = match self.try_next(key, wait_max, FETCH_COUNT) {
            Ok(numbers) => {
                self.state().doubts = 0;
                return Ok(numbers);
            }
            Err(failure) => failure,
        };
        let meaning = failure.meaning();
        if meaning == Meaning::Failed {
            return Err(failure.error);
        }
        let number = self.try_next(key, wait_max, 1).map_err(|failure| failure.error)?;
        let mut state = self.state();
        state.doubts = state.doubts.saturating_add(1);
        if meaning == Meaning::Single || state.doubts >= DOUBTS_MAX {
            state.single_at = Some(Instant::now());
            state.doubts = 0;
            drop(state);
            log::debug!("ID server {} gives one number at a time: {}", self.address, failure.error);
        }
        Ok(number)
    }

    fn is_single(&self) -> bool {
        self.state().single_at.is_some_and(|at| at.elapsed() < SINGLE_TIMEOUT)
    }

    fn try_next(
        &self,
        key: &IdKey,
        wait_max: Option<Duration>,
        count: u32,
    ) -> std::result::Result<Range<u64>, Failure> {
        let asked = match self.take_idle().map(|conn| self.ask(conn, wait_max, key, count)) {
            // The server may have closed an idle connection just now; a fresh one shows whether it works. A server
            // that was silent has had its time, and one that refused has answered.
            Some(Err(Failure { stage: Stage::Connect | Stage::Lost, .. })) => {
                self.ask_anew(wait_max, key, count)
            }
            Some(asked) => asked,
            None => self.ask_anew(wait_max, key, count),
        };
        self.state().failed_at = asked.is_err().then(Instant::now);
        asked
    }

    fn ask_anew(
        &self,
        wait_max: Option<Duration>,
        key: &IdKey,
        count: u32,
    ) -> std::result::Result<Range<u64>, Failure> {
        let conn = connect(&self.address, Part::IdServer.default_port());
        let conn = conn.map_err(|error| Failure { stage: Stage::Connect, error })?;
        self.ask(conn, wait_max, key, count)
    }

    fn ask(
        &self,
        mut conn: Conn,
        wait_max: Option<Duration>,
        key: &IdKey,
        count: u32,
    ) -> std::result::Result<Range<u64>, Failure> {
        conn.set_wait_max(wait_max);
        let given = give(&mut conn, key, count).map_err(|error| {
            let stage = match error.kind() {
                _ if conn.replied() => Stage::Refused,
                ErrorKind::Timeout => Stage::Silent,
                _ => Stage::Lost,
            };
            Failure { stage, error }
        })?;
        let mut state = self.state();
        if state.idle.len() < IDLE_MAX {
            state.idle.push(conn);
        }
        Ok(given)
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

/// Asks for so many numbers on a connection.
fn give(conn: &mut Conn, key: &IdKey, count: u32) -> Result<Range<u64>> {
    let given = match count {
        1 => {
            let first = conn.call_fixed(command::GET_ID, &encode_id_key(key), REPLY_ID)?;
            Given { first: i64::from_be_bytes(first), count: 1 }
        }
        _ => {
            let body = IdRange { count, key: key.clone() }.encode();
            Given::decode(&conn.call_fixed(command::GET_IDS, &body, REPLY_ID)?)?
        }
    };
    let Ok(first) = u64::try_from(given.first) else {
        return fail!(Protocol, "it gave the number {}, want 0 or more", given.first);
    };
    if given.count > count {
        return fail!(Protocol, "it gave {} numbers, want at most {count}", given.count);
    }
    Ok(first..first + u64::from(given.count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener};
    use std::sync::Arc;
    use std::thread;

    use tnv_common::rpc::dialect::{Dialect, Tnv};
    use tnv_common::rpc::header::{HEADER_BYTES, Header};

    /// An existing ID server that answers so many requests with these values, one connection after another.
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
                    if request[HEADER_BYTES - 2] == command::GET_IDS {
                        // As captured: the rest of the request is left unread.
                        let unknown = Error::new(ErrorKind::Internal, "unknown command: 127");
                        stream.write_all(&Tnv::new(REPLY_ID, "vm").failure_reply(&unknown)).unwrap();
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

    /// One of ours, on one connection: each request gets the next of these.
    fn our_server(given: &'static [Given]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for given in given {
                let mut request = [0; HEADER_BYTES + 12];
                stream.read_exact(&mut request).unwrap();
                assert_eq!(&request[HEADER_BYTES - 2..], b"\x7f\0\0\0\0\x40../data\0");
                let reply = [&Header::new(REPLY_ID, 12).encode()[..], &given.encode()].concat();
                stream.write_all(&reply).unwrap();
            }
        });
        address
    }

    #[test]
    fn several_numbers_come_at_once_and_each_is_used_once() {
        let given =
            &[Given { first: 7, count: 3 }, Given { first: 100, count: 1 }, Given { first: 5, count: 2 }];
        let ids = Ids::new(&[our_server(given).to_string()]);
        let numbers: Vec<_> = (0..6).map(|_| ids.next(&key()).unwrap()).collect();
        assert_eq!(numbers, [7, 8, 9, 100, 5, 6]);
        assert!(ids.next(&key()).is_err());
    }

    #[test]
    fn more_numbers_than_were_asked_for_are_no_answer() {
        let ids = Ids::new(&[our_server(&[Given { first: 0, count: 65 }]).to_string()]);
        assert!(ids.next(&key()).unwrap_err().message().contains("65 numbers"));
    }

    #[test]
    fn numbers_come_over_one_connection_and_over_a_new_one_when_it_was_closed() {
        let ids = Ids::new(&[server(&[5, 6, 7], 2).to_string()]);
        assert_eq!((ids.next(&key()), ids.next(&key()), ids.next(&key())), (Ok(5), Ok(6), Ok(7)));
        let error = ids.next(&key()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }

    /// What a server of the tests does with the next request.
    #[derive(Clone, Copy)]
    enum Act {
        /// Gives the numbers from this one on, as many as were asked for.
        Give(i64),
        /// Closes without an answer.
        Close,
        /// Refuses with this kind and text, and closes.
        Refuse(ErrorKind, &'static str),
    }

    /// A server that does these things, one after another, and notes each command. Then it is gone.
    fn acting(acts: &'static [Act]) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, commands) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let noted = Arc::clone(&commands);
        thread::spawn(move || {
            let mut acts = acts.iter().copied().peekable();
            while acts.peek().is_some() {
                let (mut stream, _) = listener.accept().unwrap();
                let mut header = [0; HEADER_BYTES];
                while stream.read_exact(&mut header).is_ok() {
                    let header = Header::decode(&header).unwrap();
                    stream.read_exact(&mut vec![0; header.body_bytes as usize]).unwrap();
                    noted.lock().unwrap().push(header.command);
                    let several = header.command == command::GET_IDS;
                    match acts.next() {
                        Some(Act::Give(first)) if several => {
                            let given = Given { first, count: FETCH_COUNT }.encode();
                            stream
                                .write_all(&[&Header::new(REPLY_ID, 12).encode()[..], &given].concat())
                                .unwrap();
                        }
                        Some(Act::Give(first)) => {
                            let given = first.to_be_bytes();
                            stream
                                .write_all(&[&Header::new(REPLY_ID, 8).encode()[..], &given].concat())
                                .unwrap();
                        }
                        Some(Act::Refuse(kind, text)) => {
                            let refusal = Tnv::new(REPLY_ID, "vm").failure_reply(&Error::new(kind, text));
                            stream.write_all(&refusal).unwrap();
                            break;
                        }
                        Some(Act::Close) | None => break,
                    }
                    if acts.peek().is_none() {
                        break;
                    }
                }
            }
        });
        (address, commands)
    }

    fn ids(address: SocketAddr) -> Ids {
        Ids::new(&[address.to_string()])
    }

    /// Uses up what was fetched, so that the server is asked again.
    fn fetch(ids: &Ids) -> Result<u64> {
        ids.stock().clear();
        ids.next(&key())
    }

    const SEVERAL: u8 = command::GET_IDS;
    const ONE: u8 = command::GET_ID;

    /// A database that was away for a moment made our own ID server give one number at a time for three minutes:
    /// 64 times as many requests, at the worst moment.
    #[test]
    fn a_failure_that_passes_does_not_make_our_server_one_of_single_numbers() {
        for failure in [ErrorKind::Unavailable, ErrorKind::Timeout, ErrorKind::Busy, ErrorKind::NoSpace] {
            let acts = vec![Act::Refuse(failure, "the database is away"), Act::Give(64)];
            let (address, commands) = acting(acts.leak());
            let ids = ids(address);
            assert!(fetch(&ids).is_err());
            assert_eq!(fetch(&ids), Ok(64));
            assert_eq!(*commands.lock().unwrap(), [SEVERAL, SEVERAL], "{failure:?}");
        }
        // A server of ours that ended and was started again.
        let (address, commands) = acting(&[Act::Close, Act::Give(7), Act::Give(64), Act::Give(128)]);
        let ids = ids(address);
        assert_eq!([fetch(&ids), fetch(&ids), fetch(&ids)], [Ok(7), Ok(64), Ok(128)]);
        assert_eq!(*commands.lock().unwrap(), [SEVERAL, ONE, SEVERAL, SEVERAL]);
    }

    #[test]
    fn a_server_that_says_that_it_does_not_know_the_command_gives_single_numbers_from_then_on() {
        for refusal in [
            Act::Refuse(ErrorKind::Unsupported, "this server has no command 127"),
            Act::Refuse(ErrorKind::Internal, "unknown command: 127"),
        ] {
            let (address, commands) = acting(vec![refusal, Act::Give(1), Act::Give(2)].leak());
            let ids = ids(address);
            assert_eq!([fetch(&ids), fetch(&ids)], [Ok(1), Ok(2)]);
            assert_eq!(*commands.lock().unwrap(), [SEVERAL, ONE, ONE]);
        }
    }

    /// A server that does not know several numbers at once: it does this then, and closes.
    fn legacy(refusal: Act) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, commands) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let noted = Arc::clone(&commands);
        thread::spawn(move || {
            let mut next = 0_i64;
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut header = [0; HEADER_BYTES];
                while stream.read_exact(&mut header).is_ok() {
                    let header = Header::decode(&header).unwrap();
                    stream.read_exact(&mut vec![0; header.body_bytes as usize]).unwrap();
                    noted.lock().unwrap().push(header.command);
                    if header.command == command::GET_ID {
                        next += 1;
                        let reply = [&Header::new(REPLY_ID, 8).encode()[..], &next.to_be_bytes()].concat();
                        stream.write_all(&reply).unwrap();
                        continue;
                    }
                    if let Act::Refuse(kind, text) = refusal {
                        stream
                            .write_all(&Tnv::new(REPLY_ID, "vm").failure_reply(&Error::new(kind, text)))
                            .unwrap();
                    }
                    break;
                }
            }
        });
        (address, commands)
    }

    /// An existing server that closes before its refusal is read, or has other words for it.
    #[test]
    fn a_server_that_cannot_give_several_twice_in_a_row_gives_single_numbers_from_then_on() {
        for refusal in [Act::Close, Act::Refuse(ErrorKind::Internal, "?")] {
            let (address, commands) = legacy(refusal);
            let ids = ids(address);
            let numbers: Vec<_> = (0..4).map(|_| fetch(&ids).unwrap()).collect();
            assert_eq!(numbers, [1, 2, 3, 4]);
            let commands = commands.lock().unwrap();
            assert!(commands.ends_with(&[SEVERAL, ONE, ONE, ONE]), "{commands:?}");
        }
    }

    /// Connecting to a server that swallows packets takes five seconds, and was done twice.
    #[test]
    fn a_server_that_cannot_be_reached_is_tried_once() {
        let away = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let server = Server { address: away.to_string(), state: Mutex::default() };
        let failure = server.try_next(&key(), None, FETCH_COUNT).unwrap_err();
        assert_eq!((failure.stage, failure.meaning()), (Stage::Connect, Meaning::Failed));
        assert!(server.next(&key(), None).is_err() && !server.is_single());
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
