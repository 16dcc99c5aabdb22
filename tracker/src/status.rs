//! The threads that keep the table of groups true: one to time, one to the database. They are two
//! since the database may take its time, and dead storages must be noticed all the same.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use log::{info, warn};
use tnv_common::error::{Context, Result};
use tnv_common::limits::STACK_BYTES;
use tnv_common::net::stop::Stop;

use crate::db::TrackerDb;
use crate::globals::Globals;
use crate::groups::Now;

/// How often silent storages are looked for: it adds to the time until one is noticed.
const SCAN_INTERVAL: Duration = Duration::from_millis(250);

/// A scan that comes later than this after the one before does nothing: this process was held up,
/// and the beats of that time still wait to be read.
const SCAN_LATE: Duration = Duration::from_secs(1);

/// How often the groups are read again: what another tracker or an operator adds is known after it.
const REFRESH_INTERVAL: Duration = Duration::from_secs(3);

/// How often the groups of all users are read at most, which takes seconds of a large table: at the start, and
/// when a storage wants to join a group that is not known.
const ROUTED_INTERVAL: Duration = Duration::from_secs(60);

/// Each time that fails the pause until the next one doubles, up to this: a database that cannot do it at this hour
/// may do it at another one.
const ROUTED_INTERVAL_MAX: Duration = Duration::from_secs(3600);

/// Starts the threads; they end with `stop`.
pub fn start(globals: &Arc<Globals>, db: &Arc<TrackerDb>, stop: &Stop) -> Result<()> {
    let (watched, scan_stop) = (Arc::clone(globals), stop.clone());
    spawn("status", move || watch_beats(&watched, &scan_stop))?;
    let (globals, db, stop) = (Arc::clone(globals), Arc::clone(db), stop.clone());
    spawn("groups", move || watch_groups(&globals, &db, &stop))
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let thread = thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES);
    thread.spawn(work).map(drop).context(|| format!("start the {name} thread"))
}

fn watch_beats(globals: &Globals, stop: &Stop) {
    let mut last_scan = Instant::now();
    while !stop.wait(SCAN_INTERVAL) {
        let now = Now::read();
        if now.instant.saturating_duration_since(last_scan) < SCAN_LATE {
            globals.groups.expire(globals.settings.check_active_interval, now);
        }
        last_scan = now.instant;
    }
}

/// A database that is away changes nothing: the groups known so far go on.
fn watch_groups(globals: &Globals, db: &TrackerDb, stop: &Stop) {
    let mut failing = false;
    let mut routed_pause = read_routed(globals, db, ROUTED_INTERVAL);
    let mut routed_at = Instant::now();
    while !stop.wait(REFRESH_INTERVAL) {
        let refreshed = db.refresh(&globals.groups);
        match &refreshed {
            Ok(()) if failing => info!("the groups can be read again"),
            Err(error) if !failing => warn!("the groups stay as they are: {error}"),
            Ok(()) | Err(_) => {}
        }
        failing = refreshed.is_err();
        if routed_at.elapsed() >= routed_pause && globals.groups.take_wants_routed() {
            routed_pause = read_routed(globals, db, routed_pause);
            routed_at = Instant::now();
        }
    }
}

/// Reads which groups users belong to, after this pause; gives the pause until the next time.
fn read_routed(globals: &Globals, db: &TrackerDb, pause: Duration) -> Duration {
    match db.routed() {
        Ok(names) => {
            globals.groups.set_routed(&names);
            ROUTED_INTERVAL
        }
        // The next storage that wants to join such a group has it tried again.
        Err(error) => {
            let next = pause.saturating_mul(2).min(ROUTED_INTERVAL_MAX);
            warn!(
                "groups that only users of t_router belong to stay as they are, for {next:?} at least: {error}"
            );
            next
        }
    }
}
