//! The client of the trackers: one thread for each keeps this storage joined there. A tracker that is
//! away costs nothing but its thread's attempts to reach it.
//!
//! Before it beats a storage reports which volumes it has. A tracker that knows of members with other ones
//! refuses the report, and the storage then sends no heartbeat, so that it gets no clients, but stays joined
//! and reports again.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tnv_common::config::Part;
use tnv_common::error::{Context, Error, ErrorKind, Result};
use tnv_common::fail;
use tnv_common::limits::MESSAGE_TIMEOUT;
use tnv_common::net::stop::Stop;
use tnv_common::proto::IdKey;
use tnv_common::proto::tnv::shares::{Id, Shares};
use tnv_common::proto::tnv::tracker::{Heartbeat, Join};
use tnv_common::proto::tnv::{REPLY_TRACKER, command};
use tnv_common::rpc::client::Conn;

use crate::cluster::connect::connect_from;
use crate::globals::{Globals, now};
use crate::volume::placement::Volumes;

/// The pause before a tracker that was lost is called again: short, since the storage is of no use to
/// its clients meanwhile, and a call costs next to nothing.
const RETRY_PAUSE: Duration = Duration::from_millis(300);

/// The pause before a refused report is sent again, [`PROMPT_REPORTS`] times: another member's journal may
/// be seen a moment late. Then it is the heartbeat's interval.
const REPORT_PAUSE: Duration = Duration::from_secs(1);

/// So often it is sent again soon, and then the log says that it is refused.
const PROMPT_REPORTS: u32 = 3;

/// The pause before the first report of a session where this tracker refused so many: who reports first to a tracker
/// that was started anew is right there. The right members are to be first, which join again within [`RETRY_PAUSE`]
/// and their connections' time-out.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);

/// So often in a row a tracker may close the connection of a report without a word before it is taken for one that
/// does not know the command: existing ones may close it so, and one of ours that is stopped does it once.
const LOST_MAX: u32 = 2;

/// Starts a thread for each tracker. They end when `stop` is set, and close their connections, by
/// which the trackers know that no new client should be sent here.
pub fn start(globals: &Arc<Globals>, volumes: &Arc<Volumes>, stop: &Stop) -> Result<()> {
    for tracker in &globals.settings.trackers {
        let member = Member {
            globals: Arc::clone(globals),
            volumes: Arc::clone(volumes),
            tracker: tracker.clone(),
            refusals: 0,
            lost: 0,
            shown: None,
        };
        let stop = stop.clone();
        thread::Builder::new()
            .name("tracker".into())
            .spawn(move || member.run(&stop))
            .context(|| "start a tracker thread")?;
    }
    Ok(())
}

/// What became of the report of volumes since this storage joined a tracker.
#[derive(Clone, PartialEq, Eq)]
enum Report {
    /// None was accepted.
    None,
    /// This one was: store path, volume and holder.
    Accepted(Vec<(IdKey, Id, Id)>),
    /// The tracker does not know the command.
    Unknown,
}

/// This storage in the eyes of one tracker.
struct Member {
    globals: Arc<Globals>,
    volumes: Arc<Volumes>,
    tracker: String,
    /// How often in a row this tracker refused the report of volumes, over all sessions.
    refusals: u32,
    /// How often in a row it closed the connection instead of an answer to the report.
    lost: u32,
    /// What was logged last: joined, or the kind of failure. Only changes are logged.
    shown: Option<std::result::Result<(), ErrorKind>>,
}

impl Member {
    fn run(mut self, stop: &Stop) {
        while !stop.is_set() {
            if let Err(error) = self.session(stop) {
                self.show_failure(&error);
            }
            stop.wait(RETRY_PAUSE);
        }
    }

    /// Joins, beats at once and then at the interval, until the connection or the tracker fails.
    fn session(&mut self, stop: &Stop) -> Result<()> {
        let mut conn = self.join()?;
        let globals = Arc::clone(&self.globals);
        let beat = Heartbeat { group: globals.settings.group.clone(), host: globals.host.clone() }.encode();
        let mut report = Report::None;
        if self.refusals >= PROMPT_REPORTS && wait(&conn, REFUSED_PAUSE, stop)? {
            return Ok(());
        }
        loop {
            let reported = self.report_shares(conn.peer(), &mut report);
            let reported = reported.inspect_err(|error| log::debug!("tracker {}: {error}", self.tracker));
            let interval = match reported {
                Err(error) if error.kind() == ErrorKind::Forbidden => self.refused(&error),
                Err(error) if !matches!(report, Report::Accepted(_)) => {
                    return Err(error.context("report the volumes"));
                }
                // After an error the tracker has the report that it accepted, and this one is sent again later.
                _ if !self.beat(&mut conn, &beat)? => return Ok(()),
                _ => globals.settings.beat_interval,
            };
            if wait(&conn, interval, stop)? {
                return Ok(());
            }
        }
    }

    /// Beats. False where the tracker refuses it, as for one of two members that reported at the same moment: the
    /// session is over then, and the next one reports again.
    fn beat(&mut self, conn: &mut Conn, beat: &[u8]) -> Result<bool> {
        match conn.call_fixed::<0>(command::HEARTBEAT, beat, REPLY_TRACKER).context(|| "heartbeat") {
            Ok(_) => {
                self.refusals = 0;
                self.show_joined(conn);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::Forbidden => {
                self.refused(&error);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Notes that the tracker refused the report; gives the pause before the next one.
    fn refused(&mut self, error: &Error) -> Duration {
        self.volumes.look_for_others();
        self.refusals = self.refusals.saturating_add(1);
        if self.refusals < PROMPT_REPORTS {
            return REPORT_PAUSE;
        }
        self.show_refusal(error);
        self.globals.settings.beat_interval
    }

    /// Reports to the tracker at this address which volumes this storage has, where that has changed since it was
    /// accepted.
    fn report_shares(&mut self, tracker: SocketAddr, report: &mut Report) -> Result<()> {
        let Globals { settings, host, address, .. } = &*self.globals;
        let shares = self.volumes.shares();
        let own: Vec<_> =
            shares.iter().map(|share| (share.store_path.clone(), share.volume, share.holder)).collect();
        if !settings.shared_store || *report == Report::Unknown || *report == Report::Accepted(own.clone()) {
            return Ok(());
        }
        let body = Shares {
            group: settings.group.clone(),
            host: host.clone(),
            port: address.port(),
            is_id: settings.storage_id.is_some(),
            shares,
        };
        // Where the joined connection leads: the tracker's name may have got another address since.
        let mut conn = Conn::connect(tracker, Some(address.ip()))?;
        conn.set_reply_timeout(MESSAGE_TIMEOUT);
        let answer = conn.call_fixed::<0>(command::SHARES, &body.encode(), REPLY_TRACKER);
        let kind = answer.as_ref().err().map(Error::kind);
        let is_lost = kind == Some(ErrorKind::Unavailable) && !conn.replied();
        self.lost = if is_lost { self.lost.saturating_add(1) } else { 0 };
        match answer {
            Ok(_) => *report = Report::Accepted(own),
            // A tracker of a previous version, or an existing one.
            Err(_) if matches!(kind, Some(ErrorKind::Unsupported | ErrorKind::Internal)) => {
                *report = Report::Unknown;
            }
            Err(_) if is_lost && self.lost >= LOST_MAX && *report == Report::None => {
                *report = Report::Unknown;
            }
            Err(error) => {
                if matches!(error.kind(), ErrorKind::Forbidden | ErrorKind::NotFound) {
                    *report = Report::None;
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn join(&self) -> Result<Conn> {
        let Globals { settings, host, address, started, .. } = &*self.globals;
        let connected = connect_from(address.ip(), &self.tracker, Part::Tracker.default_port());
        let mut conn = connected.map_err(|error| hint(error, *address))?;
        let join = Join {
            version: version(),
            group: settings.group.clone(),
            host: host.clone(),
            port: address.port(),
            started: *started as i64,
            joined: now() as i64,
        };
        conn.call_fixed::<0>(command::JOIN, &join.encode(), REPLY_TRACKER).context(|| "join")?;
        Ok(conn)
    }

    fn show_joined(&mut self, conn: &Conn) {
        if self.shown != Some(Ok(())) {
            log::info!("joined tracker {} at {}", self.tracker, conn.peer());
        }
        self.shown = Some(Ok(()));
    }

    fn show_refusal(&mut self, error: &Error) {
        let kind = Some(Err(error.kind()));
        match self.shown == kind {
            true => log::debug!("tracker {}: {error}", self.tracker),
            false => log::warn!(
                "tracker {}: {error}; it sends no clients here until the store paths of all members lead to the same \
                 volumes: mount them, or set tnv_shared_store = no where the files are replicated in another way",
                self.tracker
            ),
        }
        self.shown = kind;
    }

    fn show_failure(&mut self, error: &Error) {
        let kind = Some(Err(error.kind()));
        match self.shown == kind {
            true => log::debug!("tracker {}: {error}", self.tracker),
            false => log::warn!("tracker {}: {error}; trying on every {RETRY_PAUSE:?}", self.tracker),
        }
        self.shown = kind;
    }
}

/// Waits until the next heartbeat is due; true when the storage is to stop. That the tracker closes
/// the connection, or speaks unasked, is an error.
fn wait(conn: &Conn, interval: Duration, stop: &Stop) -> Result<bool> {
    let due = Instant::now() + interval;
    loop {
        let left = due.saturating_duration_since(Instant::now());
        let mut fds = [
            PollFd::from_borrowed_fd(conn.stream().as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
        ];
        match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
            Ok(0) => return Ok(false),
            Err(Errno::INTR) => continue,
            Err(error) => return Err(std::io::Error::from(error)).context(|| "wait for the next heartbeat"),
            Ok(_) if stop.is_set() => return Ok(true),
            Ok(_) => return fail!(Unavailable, "it closed the connection"),
        }
    }
}

/// The version as the trackers' group list shows it, where six bytes are the most.
fn version() -> String {
    let mut version =
        concat!(env!("CARGO_PKG_VERSION_MAJOR"), ".", env!("CARGO_PKG_VERSION_MINOR")).to_owned();
    version.truncate(6);
    version
}

/// A storage calls from the address it listens on; from loopback there is no way to other hosts.
fn hint(error: Error, address: SocketAddr) -> Error {
    match address.ip().is_loopback()
        && error.kind() != ErrorKind::Invalid
        && !error.message().contains("refused")
    {
        true => error.context(format_args!("calling from {}, which tnv_bind sets", address.ip())),
        false => error,
    }
}
