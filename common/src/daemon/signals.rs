//! The signals: what ends a server, what opens its log anew, and what must not end it.

use std::process;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use log::{info, warn};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use super::log::{finish, reopen};
use super::notify::{STOPPING, notify};
use crate::error::{Context, Result};
use crate::limits::STACK_BYTES;
use crate::net::stop::Stop;

/// What is done on SIGHUP beside opening the log anew.
static ON_HANGUP: Mutex<Vec<Box<dyn Fn() + Send>>> = Mutex::new(Vec::new());

/// Has something done on SIGHUP.
pub(super) fn on_hangup(action: Box<dyn Fn() + Send>) {
    ON_HANGUP.lock().unwrap_or_else(PoisonError::into_inner).push(action);
}

/// Takes their deadliness from the signals that a request can cause. SIGXFSZ comes with a write beyond the limit of
/// file sizes (`ulimit -f`, LimitFSIZE) and would end the process: with a handler the write fails instead (EFBIG),
/// and so does the one upload that it belongs to. SIGPIPE is ignored since the process began: Rust sees to it.
pub(super) fn survive() -> Result<()> {
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))
        .map(drop)
        .context(|| "cannot handle SIGXFSZ")
}

/// Starts the thread that waits for signals; it lives as long as the process. From here on none of
/// them kills it.
pub(super) fn watch(stop: &Stop) -> Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context(|| "cannot handle signals")?;
    let stop = stop.clone();
    let thread = thread::Builder::new().name("signals".into()).stack_size(STACK_BYTES);
    let started = thread.spawn(move || signals.forever().for_each(|signal| act(signal, &stop)));
    started.map(drop).context(|| "cannot start the signal thread")
}

fn act(signal: i32, stop: &Stop) {
    let name = signal_hook::low_level::signal_name(signal).unwrap_or("signal");
    match signal {
        SIGHUP => {
            reopen();
            ON_HANGUP.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|action| action());
        }
        _ if stop.is_set() => {
            warn!("{name}: the second one, so it ends at once");
            finish();
            process::exit(1);
        }
        _ => {
            info!("{name}: finishing what is under way");
            notify(STOPPING);
            stop.set();
        }
    }
}
