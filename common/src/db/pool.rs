//! Connections for reading: a stack under a lock, at most so many, made outside the lock.
//!
//! The crate `mysql` has a pool, which gives wrong rows after a time-out and connects under its
//! lock; this one does neither. A connection with an error is not given back but dropped, and what is
//! still under way on it ends with it.

use std::time::Duration;

use crate::error::Result;
use crate::fail;
use crate::sync::{Condvar, Instant, Mutex, MutexGuard, PoisonError};

/// At most `connections_max` connections of one kind.
pub struct Pool<C> {
    connections_max: usize,
    state: Mutex<State<C>>,
    freed: Condvar,
}

struct State<C> {
    /// The one used last is on top: in a quiet pool the others age and are found dead together.
    idle: Vec<Idle<C>>,
    /// Connections that are idle, lent or being made. Invariant: `idle.len() <= open` and
    /// `open <= connections_max`.
    open: usize,
    /// Threads that wait for one. Without one there is no wake-up, which is a system call.
    waiting: usize,
}

struct Idle<C> {
    connection: C,
    since: Instant,
}

/// The right to hold one connection, and the connection if an idle one was there.
pub struct Lease<'a, C> {
    pool: &'a Pool<C>,
    /// What was idle, and for how long.
    pub reused: Option<(C, Duration)>,
    given_back: Option<C>,
}

impl<C> Pool<C> {
    /// An empty pool.
    pub fn new(connections_max: usize) -> Pool<C> {
        Pool {
            connections_max,
            state: Mutex::new(State { idle: Vec::new(), open: 0, waiting: 0 }),
            freed: Condvar::new(),
        }
    }

    /// Waits for the right to hold a connection.
    pub fn lease(&self, timeout: Duration) -> Result<Lease<'_, C>> {
        let deadline = Instant::now() + timeout;
        let mut state = self.state();
        loop {
            if let Some(idle) = state.idle.pop() {
                let reused = Some((idle.connection, idle.since.elapsed()));
                return Ok(Lease { pool: self, reused, given_back: None });
            }
            if state.open < self.connections_max {
                state.open += 1;
                return Ok(Lease { pool: self, reused: None, given_back: None });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let most = self.connections_max;
                return fail!(Busy, "all {most} database connections are in use, waited {timeout:?}");
            }
            state.waiting += 1;
            state = self.freed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
        }
    }

    /// Drops all idle connections: one of them was found dead, and the others were idle for longer.
    pub fn clear(&self) {
        let mut state = self.state();
        let dead = std::mem::take(&mut state.idle);
        state.open -= dead.len();
        drop(state);
        self.freed.notify_all();
        // Closing each may take a moment: not under the lock.
        drop(dead);
    }

    fn state(&self) -> MutexGuard<'_, State<C>> {
        // Nothing panics under the lock, and the state is whole after every line.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C> Lease<'_, C> {
    /// Returns a connection to the pool. A lease that is dropped instead, also by a panic, makes room for a
    /// new connection.
    pub fn give_back(mut self, connection: C) {
        self.given_back = Some(connection);
    }
}

impl<C> Drop for Lease<'_, C> {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        match self.given_back.take() {
            Some(connection) => state.idle.push(Idle { connection, since: Instant::now() }),
            None => state.open -= 1,
        }
        let wanted = state.waiting > 0;
        drop(state);
        if wanted {
            self.pool.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    #[test]
    fn no_more_connections_than_allowed_and_a_wait_for_one_is_bounded() {
        let pool: Pool<u32> = Pool::new(2);
        let first = pool.lease(SOON).unwrap();
        let second = pool.lease(SOON).unwrap();
        assert!(first.reused.is_none() && second.reused.is_none());
        assert!(pool.lease(SOON).is_err());
        first.give_back(1);
        assert_eq!(pool.lease(SOON).unwrap().reused.as_ref().map(|(c, _)| *c), Some(1));
        drop(second);
        // Both were dropped and not given back: there is room for two new ones.
        let again = (pool.lease(SOON).unwrap(), pool.lease(SOON).unwrap());
        assert!(again.0.reused.is_none() && again.1.reused.is_none());
        assert!(pool.lease(SOON).is_err());
    }

    #[test]
    fn clearing_makes_room() {
        let pool: Pool<u32> = Pool::new(1);
        pool.lease(SOON).unwrap().give_back(1);
        pool.clear();
        let lease = pool.lease(SOON).unwrap();
        assert!(lease.reused.is_none());
    }
}
