//! The log: `TIME LEVEL [thread] [peer] message`, a line each, to standard error or to a file that
//! can be opened anew. No stranger's text can forge a line, no number of strangers can fill the disk
//! with lines, and no failure to write one stops the server.

use std::borrow::Cow;
use std::fmt::Arguments;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use env_logger::{Builder, Target};
use log::{Level, LevelFilter, Record, error, info};
use rustix::fs::{Access, access};

use crate::error::{Context, Result};
use crate::peer;
use crate::wire::names::is_harmful;

/// A message is cut after so many bytes: whoever says more says it to a file of its own.
const MESSAGE_BYTES_MAX: usize = 8 << 10;

/// Lines of INFO and WARN that are written in one second: whoever is refused costs one. It is more
/// than anyone reads, and 2 GB a day at the most where they are of usual length.
const LINES_A_SECOND_MAX: u32 = 100;

/// Lines of ERROR in one second have a count of their own: no stranger's noise hides them. DEBUG and
/// TRACE have none: they are written only where somebody asks for them, who wants to see all.
const ERRORS_A_SECOND_MAX: u32 = 1000;

const SECOND: Duration = Duration::from_secs(1);

static BOUND: Mutex<Bound> = Mutex::new(Bound::new());

/// The log file; `None` is standard error.
static LOG: Mutex<Option<LogFile>> = Mutex::new(None);

struct LogFile {
    path: PathBuf,
    file: File,
}

/// Starts the log, and has panics told in it.
pub(super) fn start(path: Option<&Path>) -> Result<()> {
    if let Some(path) = path {
        *lock() = Some(LogFile { path: path.to_owned(), file: open(path)? });
    }
    let started = Builder::new()
        .filter_level(LevelFilter::Info)
        .parse_env("RUST_LOG")
        .target(Target::Pipe(Box::new(Sink)))
        .format(|out, record| out.write_all(bounded(record, &BOUND, Instant::now()).as_bytes()))
        .try_init();
    if started.is_err() {
        return crate::fail!(Internal, "the log was started twice");
    }
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Opens the log file anew, after it was renamed. Where that fails the log goes on in the old one.
pub(super) fn reopen() {
    let Some(path) = lock().as_ref().map(|log| log.path.clone()) else {
        return info!("SIGHUP: the log goes to standard error, there is no file to open anew");
    };
    match open(&path) {
        Ok(file) => {
            *lock() = Some(LogFile { path, file });
            info!("SIGHUP: the log file was opened anew");
        }
        Err(error) => error!("SIGHUP: the log goes on in the old file: {error}"),
    }
}

/// Whether a log file could be written, without making it.
pub(super) fn check(path: &Path) -> Result<()> {
    let opened = OpenOptions::new().append(true).open(path);
    if !matches!(&opened, Err(error) if error.kind() == io::ErrorKind::NotFound) {
        return opened.map(drop).context(|| path.display());
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    access(directory, Access::WRITE_OK | Access::EXEC_OK)
        .map_err(io::Error::from)
        .context(|| format!("the directory {}", directory.display()))
}

fn open(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().append(true).create(true).open(path);
    opened.context(|| format!("cannot open the log file {}", path.display()))
}

fn lock() -> MutexGuard<'static, Option<LogFile>> {
    LOG.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many lines were written in this second, and how many were left out since that was last told.
struct Bound {
    since: Option<Instant>,
    lines: u32,
    errors: u32,
    left_out: u64,
}

/// What becomes of a line.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is written, after a line that tells how many were left out where any were.
    Write { left_out: u64 },
    /// It is left out.
    LeaveOut,
}

impl Bound {
    const fn new() -> Bound {
        Bound { since: None, lines: 0, errors: 0, left_out: 0 }
    }

    fn judge(&mut self, level: Level, now: Instant) -> Verdict {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= SECOND) {
            *self = Bound { since: Some(now), left_out: self.left_out, ..Bound::new() };
        }
        // What was left out is told once a second, by whatever line comes first in it.
        let is_first = self.lines + self.errors == 0;
        let (count, max) = match level {
            Level::Error => (&mut self.errors, ERRORS_A_SECOND_MAX),
            Level::Warn | Level::Info => (&mut self.lines, LINES_A_SECOND_MAX),
            Level::Debug | Level::Trace => return Verdict::Write { left_out: 0 },
        };
        if *count >= max {
            self.left_out += 1;
            return Verdict::LeaveOut;
        }
        *count += 1;
        let left_out = if is_first { std::mem::take(&mut self.left_out) } else { 0 };
        Verdict::Write { left_out }
    }
}

/// The lines that a record is written as: one, or two, or none.
fn bounded(record: &Record<'_>, bound: &Mutex<Bound>, now: Instant) -> String {
    let verdict = bound.lock().unwrap_or_else(PoisonError::into_inner).judge(record.level(), now);
    match verdict {
        Verdict::LeaveOut => String::new(),
        Verdict::Write { left_out: 0 } => line(record),
        Verdict::Write { left_out } => {
            let max = LINES_A_SECOND_MAX;
            let note = note_line(format_args!(
                "{left_out} lines were left out before this one: more than {max} came in a second"
            ));
            note + &line(record)
        }
    }
}

fn note_line(note: Arguments<'_>) -> String {
    line(&Record::builder().level(Level::Warn).args(note).build())
}

/// Where the lines go. It takes every one: a full disk must not stop a server.
struct Sink;

impl Write for Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let written = lock().as_mut().map(|log| log.file.write_all(line));
        if !matches!(written, Some(Ok(()))) {
            let _ = io::stderr().write_all(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn line(record: &Record<'_>) -> String {
    let time = humantime::format_rfc3339_millis(SystemTime::now().max(SystemTime::UNIX_EPOCH));
    let peer = peer::current().map_or_else(|| "-".to_owned(), |peer| peer.to_string());
    let thread = thread::current();
    let thread = thread.name().unwrap_or("-");
    let message = record.args().to_string();
    format!("{time} {:<5} [{thread}] [{peer}] {}\n", record.level(), one_line(&message))
}

/// A message as one line of bounded length that a terminal shows as it is: what would break or
/// rearrange it is escaped.
fn one_line(message: &str) -> Cow<'_, str> {
    let (message, cut) = match message.len() {
        0..=MESSAGE_BYTES_MAX => (message, ""),
        _ => (&message[..message.floor_char_boundary(MESSAGE_BYTES_MAX)], "…"),
    };
    if cut.is_empty() && !message.contains(is_harmful) {
        return Cow::Borrowed(message);
    }
    let mut line = String::with_capacity(message.len() + 16);
    for char in message.chars() {
        match is_harmful(char) {
            true => line.extend(char.escape_debug()),
            false => line.push(char),
        }
    }
    line.push_str(cut);
    Cow::Owned(line)
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let place = info.location().map_or_else(String::new, |place| format!(" at {place}"));
    error!("panic{place}: {}", info.payload_as_str().unwrap_or("no message"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(level: Level, bound: &Mutex<Bound>, now: Instant) -> Vec<String> {
        let record = Record::builder().level(level).args(format_args!("text")).build();
        bounded(&record, bound, now).lines().map(str::to_owned).collect()
    }

    /// The story: each refused connection was a line, and whoever opened connections for a night filled
    /// the disk.
    #[test]
    fn a_flood_is_cut_and_told_of_once_a_second() {
        let bound = Mutex::new(Bound::new());
        let start = Instant::now();
        for second in 0..3 {
            let now = start + second * SECOND;
            let written: Vec<_> = (0..5000).flat_map(|_| lines_of(Level::Warn, &bound, now)).collect();
            let told = written.iter().filter(|line| line.contains("4900 lines were left out")).count();
            assert_eq!(told, usize::from(second > 0));
            assert_eq!(written.len() - told, LINES_A_SECOND_MAX as usize);
        }
        // Told when the next line comes, and then no more.
        let later = start + 100 * SECOND;
        assert_eq!(lines_of(Level::Info, &bound, later).len(), 2);
        assert_eq!(lines_of(Level::Info, &bound, later).len(), 1);
        assert_eq!(lines_of(Level::Info, &bound, later + 2 * SECOND).len(), 1);
    }

    #[test]
    fn a_flood_hides_no_error_and_nothing_that_was_asked_for() {
        let bound = Mutex::new(Bound::new());
        let now = Instant::now();
        for _ in 0..1000 {
            lines_of(Level::Info, &bound, now);
        }
        assert_eq!(lines_of(Level::Debug, &bound, now).len(), 1);
        let errors = (0..5000).flat_map(|_| lines_of(Level::Error, &bound, now)).count();
        assert_eq!(errors, ERRORS_A_SECOND_MAX as usize);
        let next = lines_of(Level::Error, &bound, now + SECOND);
        assert!(next[0].contains("4900 lines were left out"), "{next:?}");
        assert!(next[1].contains(" ERROR "), "{next:?}");
    }

    #[test]
    fn a_line_has_time_level_thread_and_peer() {
        peer::set(Some(([127, 0, 0, 1], 5000).into()));
        let line = thread::Builder::new()
            .name("worker".into())
            .spawn(|| {
                peer::set(Some(([127, 0, 0, 1], 5000).into()));
                let log = |text: &str| {
                    line(&Record::builder().level(Level::Warn).args(format_args!("{text}")).build())
                };
                let with = log("disk\nfull");
                peer::set(None);
                (with, log("disk full"))
            })
            .unwrap()
            .join()
            .unwrap();
        let (time, rest) = line.0.split_once(' ').unwrap();
        assert!(
            humantime::parse_rfc3339(time).is_ok() && time.len() == "2026-01-01T00:00:00.000Z".len(),
            "{time}"
        );
        assert_eq!(rest, "WARN  [worker] [127.0.0.1:5000] disk\\nfull\n");
        assert!(line.1.ends_with(" WARN  [worker] [-] disk full\n"));
    }

    #[test]
    fn a_stranger_cannot_forge_a_line_or_move_the_cursor() {
        assert_eq!(one_line("a\r\nb\x1b[2J\u{2028}\u{202e}ü\\"), "a\\r\\nb\\u{1b}[2J\\u{2028}\\u{202e}ü\\");
        assert!(matches!(one_line("plain – text"), Cow::Borrowed(_)));
        let long = "ü".repeat(MESSAGE_BYTES_MAX);
        assert!(one_line(&long).len() <= MESSAGE_BYTES_MAX + "…".len());
    }

    #[test]
    fn a_log_file_is_checked_without_being_made() {
        let directory = std::env::temp_dir().join(format!("tnv-log-check-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let file = directory.join("x.log");
        assert!(check(&file).is_ok());
        assert!(!file.exists());
        assert!(check(&directory.join("missing/x.log")).is_err());
        assert!(check(&directory).is_err(), "a directory is no log file");
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
