//! What idle connections cost: thousands of them are opened to a server, which says nothing to them nor
//! they to it, and the throughput of a few busy ones is compared with what it is without them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use tnv_common::error::{Context, Result};
use tnv_common::fail;
use tnv_common::limits::CONNECT_TIMEOUT;

use super::crowd::Until;
use super::figures::Figures;

/// Most connections that may be asked for.
const IDLE_MAX: usize = 60_000;

/// Most rounds.
const ROUNDS_MAX: usize = 100;

/// What is to be compared.
#[derive(Clone, Copy, Debug)]
pub struct Rounds {
    /// How many connections idle.
    pub idle: usize,
    /// How often it is measured without them and with them, in turn.
    pub rounds: usize,
    /// How long each time.
    pub time: Duration,
}

/// What was seen.
#[derive(Clone, Debug)]
pub struct Compared {
    /// Operations a second in each round without the idle connections.
    pub alone: Vec<f64>,
    /// And with them.
    pub beside: Vec<f64>,
    /// Operations that failed.
    pub errors: u64,
}

impl Compared {
    /// The median without them.
    pub fn median_alone(&self) -> f64 {
        median(&self.alone)
    }

    /// The median with them.
    pub fn median_beside(&self) -> f64 {
        median(&self.beside)
    }

    /// How much is left with them, 1 for all.
    pub fn ratio(&self) -> f64 {
        self.median_beside() / self.median_alone()
    }
}

/// Measures in turn. `busy` makes the load; `idling` is called while all are open and the load is over.
pub fn run(
    server: SocketAddr,
    rounds: Rounds,
    mut busy: impl FnMut(Until) -> Result<Figures>,
    mut idling: impl FnMut(),
) -> Result<Compared> {
    let Rounds { idle, rounds, time } = rounds;
    if !(1..=IDLE_MAX).contains(&idle) || !(1..=ROUNDS_MAX).contains(&rounds) {
        return fail!(
            Invalid,
            "{idle} connections in {rounds} rounds, want 1 to {IDLE_MAX} in 1 to {ROUNDS_MAX}"
        );
    }
    let mut compared = Compared { alone: Vec::new(), beside: Vec::new(), errors: 0 };
    for round in 0..rounds {
        let alone = busy(Until::Time(time))?;
        let crowd = open(server, idle, round)?;
        let beside = busy(Until::Time(time))?;
        idling();
        still_open(&crowd)?;
        drop(crowd);
        compared.alone.push(alone.ops_per_s);
        compared.beside.push(beside.ops_per_s);
        compared.errors += alone.errors + beside.errors;
    }
    Ok(compared)
}

/// Opens them, in each round from another address: ports that were used a moment ago are not free yet.
fn open(server: SocketAddr, count: usize, round: usize) -> Result<Vec<TcpStream>> {
    let from = IpAddr::from(Ipv4Addr::new(127, 20, 0, 1 + (round % 200) as u8));
    (0..count)
        .map(|index| {
            let connect = || -> std::io::Result<TcpStream> {
                let domain = socket2::Domain::for_address(server);
                let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
                if server.ip().is_loopback() && server.is_ipv4() {
                    socket.bind(&SocketAddr::new(from, 0).into())?;
                }
                socket.connect_timeout(&server.into(), CONNECT_TIMEOUT)?;
                socket.set_nonblocking(true)?;
                Ok(socket.into())
            };
            connect().context(|| format!("open idle connection {} of {count} to {server}", index + 1))
        })
        .collect()
}

/// A server that closed some, or refused them, was not measured beside as many as were asked for.
fn still_open(crowd: &[TcpStream]) -> Result<()> {
    let closed = |stream: &&TcpStream| {
        let peeked = stream.peek(&mut [0]);
        !peeked.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    };
    match crowd.iter().filter(closed).count() {
        0 => Ok(()),
        count => {
            fail!(Unavailable, "the server refused or closed {count} of {} idle connections", crowd.len())
        }
    }
}

/// The median.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => 0.0,
        (count, half) if count % 2 == 0 => (sorted[half - 1] + sorted[half]) / 2.0,
        (_, half) => sorted[half],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_one_in_the_middle() {
        assert_eq!((median(&[]), median(&[3.0]), median(&[9.0, 1.0, 2.0])), (0.0, 3.0, 2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
