//! What `common/src/sync.rs` is for the servers, with shuttle's scheduler behind it.
//!
//! Shuttle knows no time: its waits with a time-out never time out, which finds every wake-up that is lost,
//! as a deadlock. Where a scenario wants time-outs ([`set`]), any such wait may time out at once, and the
//! clock, which stands still otherwise, then goes on by so much. Nothing else can come of a wait that times
//! out: what happens until then happens between the lock's release and its return.

use std::cell::Cell;
use std::ops::{Add, Deref, DerefMut, Sub};
pub use std::sync::{Arc, LockResult, PoisonError};
use std::time::Duration;

use shuttle::rand::{Rng, thread_rng};
use shuttle::sync as model;

std::thread_local! {
    // Shuttle runs all threads of a scenario as coroutines of one thread.
    static FAULTS: Cell<Faults> = const { Cell::new(Faults::NONE) };
    static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static THREADS: Cell<usize> = const { Cell::new(0) };
}

/// What may go wrong in a scenario.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Waits with a time-out may time out.
    pub timeouts: bool,
    /// The system may refuse to start a thread.
    pub refusals: bool,
}

impl Faults {
    /// Nothing.
    pub const NONE: Faults = Faults { timeouts: false, refusals: false };
}

/// Sets what may go wrong from here on.
pub fn set(faults: Faults) {
    FAULTS.set(faults);
}

/// How many threads run that [`thread::Builder`] has started in this execution.
pub fn threads() -> usize {
    THREADS.get()
}

/// Begins an execution.
pub fn reset() {
    THREADS.set(0);
    FAULTS.set(Faults::NONE);
}

/// Whether something happens this time that happens once in so many.
pub fn chance(one_in: u32) -> bool {
    thread_rng().gen_ratio(1, one_in)
}

fn times_out(timeout: Duration) -> bool {
    let now = FAULTS.get().timeouts && chance(4);
    if now {
        NOW.set(NOW.get() + timeout);
    }
    now
}

/// A lock.
#[derive(Debug, Default)]
pub struct Mutex<T>(model::Mutex<T>);

/// A lock that is held.
#[derive(Debug)]
pub struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    guard: model::MutexGuard<'a, T>,
}

impl<T> Mutex<T> {
    /// A lock around a value.
    pub fn new(value: T) -> Mutex<T> {
        Mutex(model::Mutex::new(value))
    }

    /// Takes the lock.
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        let guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(MutexGuard { mutex: self, guard })
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// Whether a wait timed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// Whether it did.
    pub fn timed_out(self) -> bool {
        self.0
    }
}

/// What threads wait for.
#[derive(Debug, Default)]
pub struct Condvar(model::Condvar);

impl Condvar {
    /// Nobody waits yet.
    pub fn new() -> Condvar {
        Condvar::default()
    }

    /// Wakes one.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Wakes all.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Waits until it is woken.
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        let MutexGuard { mutex, guard } = guard;
        let guard = self.0.wait(guard).unwrap_or_else(PoisonError::into_inner);
        Ok(MutexGuard { mutex, guard })
    }

    /// The same, or until it times out.
    pub fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        if times_out(timeout) {
            let mutex = guard.mutex;
            drop(guard);
            shuttle::thread::yield_now();
            return mutex.lock().map(|guard| (guard, WaitTimeoutResult(true))).map_err(|_| unreachable!());
        }
        self.wait(guard).map(|guard| (guard, WaitTimeoutResult(false))).map_err(|_| unreachable!())
    }

    /// Waits as long as a condition holds, or until it times out.
    pub fn wait_timeout_while<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        timeout: Duration,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        let deadline = Instant::now() + timeout;
        while condition(&mut guard) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok((guard, WaitTimeoutResult(true)));
            }
            guard = self.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok((guard, WaitTimeoutResult(false)))
    }
}

/// A moment of the clock that only time-outs move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(Duration);

impl Instant {
    /// This one.
    pub fn now() -> Instant {
        Instant(NOW.get())
    }

    /// How long after another one it is.
    pub fn saturating_duration_since(self, other: Instant) -> Duration {
        self.0.saturating_sub(other.0)
    }

    /// How long ago it was.
    pub fn elapsed(self) -> Duration {
        Instant::now() - self
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, duration: Duration) -> Instant {
        Instant(self.0 + duration)
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, other: Instant) -> Duration {
        self.0 - other.0
    }
}

/// Threads.
pub mod thread {
    use std::io;
    use std::time::Duration;

    use super::{FAULTS, THREADS, chance, times_out};
    pub use shuttle::thread::{JoinHandle, Thread, current, sleep, yield_now};

    /// Waits until this thread is unparked, or until it times out.
    pub fn park_timeout(timeout: Duration) {
        match times_out(timeout) {
            true => yield_now(),
            false => shuttle::thread::park(),
        }
    }

    /// How a thread is started.
    #[derive(Debug, Default)]
    pub struct Builder(());

    /// Counts a thread as long as it runs.
    struct Counted;

    impl Drop for Counted {
        fn drop(&mut self) {
            THREADS.set(THREADS.get().saturating_sub(1));
        }
    }

    impl Builder {
        /// Without a name.
        pub fn new() -> Builder {
            Builder(())
        }

        /// The name, which is of no use here.
        pub fn name(self, _: String) -> Builder {
            self
        }

        /// The stack's size, which is the scenario's here.
        pub fn stack_size(self, _: usize) -> Builder {
            self
        }

        /// Starts the thread, or is refused.
        pub fn spawn<T: Send + 'static>(
            self,
            work: impl FnOnce() -> T + Send + 'static,
        ) -> io::Result<JoinHandle<T>> {
            if FAULTS.get().refusals && chance(2) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            THREADS.set(THREADS.get() + 1);
            let counted = Counted;
            Ok(shuttle::thread::spawn(move || {
                let _counted = counted;
                work()
            }))
        }
    }
}

/// Numbers that threads share.
pub mod atomic {
    pub use shuttle::sync::atomic::{AtomicUsize, Ordering};
}

/// Bounded channels of many senders and many receivers, as crossbeam-channel has them.
pub mod channel {
    use std::collections::VecDeque;
    use std::iter;
    use std::sync::{Arc, PoisonError};
    use std::time::Duration;

    use super::{Condvar, Instant, Mutex, MutexGuard};

    /// Where values go in.
    pub struct Sender<T>(Arc<Shared<T>>);

    /// Where they come out.
    pub struct Receiver<T>(Arc<Shared<T>>);

    struct Shared<T> {
        state: Mutex<State<T>>,
        /// A value has come, or none will come.
        came: Condvar,
        /// There is room, or no receiver.
        left: Condvar,
    }

    struct State<T> {
        values: VecDeque<T>,
        values_max: usize,
        senders: usize,
        has_receiver: bool,
    }

    /// Why a value cannot be sent at once.
    #[derive(Debug)]
    pub enum TrySendError<T> {
        /// There is no room.
        Full(T),
        /// There is no receiver.
        Disconnected(T),
    }

    /// Why a value cannot be sent in time.
    #[derive(Debug)]
    pub enum SendTimeoutError<T> {
        /// There was no room.
        Timeout(T),
        /// There is no receiver.
        Disconnected(T),
    }

    /// Why no value is received.
    #[derive(Debug)]
    pub enum RecvTimeoutError {
        /// None has come.
        Timeout,
        /// None will come.
        Disconnected,
    }

    /// Why no value is received at once.
    #[derive(Debug)]
    pub enum TryRecvError {
        /// There is none.
        Empty,
        /// None will come.
        Disconnected,
    }

    /// A channel for so many values.
    pub fn bounded<T>(values_max: usize) -> (Sender<T>, Receiver<T>) {
        let state = State { values: VecDeque::new(), values_max, senders: 1, has_receiver: true };
        let (came, left) = (Condvar::new(), Condvar::new());
        let shared = Arc::new(Shared { state: Mutex::new(state), came, left });
        (Sender(Arc::clone(&shared)), Receiver(shared))
    }

    impl<T> Shared<T> {
        fn lock(&self) -> MutexGuard<'_, State<T>> {
            self.state.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    impl<T> Sender<T> {
        /// Sends a value where there is room.
        pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
            let mut state = self.0.lock();
            if !state.has_receiver {
                return Err(TrySendError::Disconnected(value));
            }
            if state.values.len() >= state.values_max {
                return Err(TrySendError::Full(value));
            }
            state.values.push_back(value);
            drop(state);
            self.0.came.notify_one();
            Ok(())
        }

        /// Sends a value, and waits for room until then.
        pub fn send_deadline(&self, mut value: T, deadline: Instant) -> Result<(), SendTimeoutError<T>> {
            loop {
                value = match self.try_send(value) {
                    Ok(()) => return Ok(()),
                    Err(TrySendError::Disconnected(value)) => {
                        return Err(SendTimeoutError::Disconnected(value));
                    }
                    Err(TrySendError::Full(value)) => value,
                };
                let state = self.0.lock();
                let left = deadline.saturating_duration_since(Instant::now());
                let is_full =
                    |state: &mut State<T>| state.has_receiver && state.values.len() >= state.values_max;
                let waited = self.0.left.wait_timeout_while(state, left, is_full);
                if waited.unwrap_or_else(PoisonError::into_inner).1.timed_out() {
                    return Err(SendTimeoutError::Timeout(value));
                }
            }
        }

        /// Whether no value is in it.
        pub fn is_empty(&self) -> bool {
            self.0.lock().values.is_empty()
        }
    }

    impl<T> Clone for Sender<T> {
        fn clone(&self) -> Sender<T> {
            self.0.lock().senders += 1;
            Sender(Arc::clone(&self.0))
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            self.0.lock().senders -= 1;
            self.0.came.notify_all();
        }
    }

    impl<T> Receiver<T> {
        /// Waits for a value, so long at most.
        pub fn recv_timeout(&self, timeout: Duration) -> Result<T, RecvTimeoutError> {
            let nothing = |state: &mut State<T>| state.values.is_empty() && state.senders > 0;
            let waited = self.0.came.wait_timeout_while(self.0.lock(), timeout, nothing);
            let (mut state, result) = waited.unwrap_or_else(PoisonError::into_inner);
            match state.values.pop_front() {
                Some(value) => Ok(self.received(state, value)),
                None if result.timed_out() => Err(RecvTimeoutError::Timeout),
                None => Err(RecvTimeoutError::Disconnected),
            }
        }

        /// Waits for a value; an error where none will come.
        pub fn recv(&self) -> Result<T, RecvTimeoutError> {
            let mut state = self.0.lock();
            loop {
                if let Some(value) = state.values.pop_front() {
                    return Ok(self.received(state, value));
                }
                if state.senders == 0 {
                    return Err(RecvTimeoutError::Disconnected);
                }
                state = self.0.came.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }

        /// The next value, where there is one; otherwise an error.
        pub fn try_recv(&self) -> Result<T, TryRecvError> {
            let mut state = self.0.lock();
            match state.values.pop_front() {
                Some(value) => Ok(self.received(state, value)),
                None if state.senders == 0 => Err(TryRecvError::Disconnected),
                None => Err(TryRecvError::Empty),
            }
        }

        /// The values that are there.
        pub fn try_iter(&self) -> impl Iterator<Item = T> + '_ {
            iter::from_fn(|| self.try_recv().ok())
        }

        /// How many values are in it.
        pub fn len(&self) -> usize {
            self.0.lock().values.len()
        }

        /// Whether no value is in it.
        pub fn is_empty(&self) -> bool {
            self.len() == 0
        }

        fn received(&self, state: MutexGuard<'_, State<T>>, value: T) -> T {
            drop(state);
            self.0.left.notify_one();
            value
        }
    }

    /// What was not received stays in the channel until the last sender is dropped too.
    impl<T> Drop for Receiver<T> {
        fn drop(&mut self) {
            self.0.lock().has_receiver = false;
            self.0.left.notify_all();
        }
    }
}
