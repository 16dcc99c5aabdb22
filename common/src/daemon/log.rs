//! The log: `TIME LEVEL [thread] [peer] message`, a line each, to standard error or to a file that
//! can be opened anew. No stranger's text can forge a line, no number of strangers can fill the disk
//! with lines, and no failure to write one stops the server.
//!
//! One thread writes. All others put their lines into a queue of bounded size and go on: a reader of standard error
//! that pauses, or a disk that hangs under the log file, holds up the writer alone. What finds the
//! queue full is left out and counted, and the log says so when it is written again.

use std::borrow::Cow;
use std::fmt::Arguments;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::mem;
use std::panic::PanicHookInfo;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant, SystemTime};

use env_logger::Builder;
use log::{Level, LevelFilter, Log, Metadata, Record, error, info};
use rustix::fs::{Access, access};

use crate::error::{Context, Result};
use crate::limits::STACK_BYTES;
use crate::log_context;
use crate::text::is_harmful;

/// A message is cut after so many bytes.
const MESSAGE_BYTES_MAX: usize = 8 << 10;

/// Lines of INFO and WARN that are written in one second: a refused client costs one. It is more
/// than anyone reads, and 2 GB a day at the most where they are of usual length.
const LINES_A_SECOND_MAX: u32 = 100;

/// Lines of ERROR in one second have a count of their own: no stranger's noise hides them. DEBUG and
/// TRACE have none: they are written only where somebody asks for them, who wants to see all.
const ERRORS_A_SECOND_MAX: u32 = 1000;

/// Lines that wait for the writer, and their bytes: some seconds of a flood, for a pause that others do not notice
/// either. As much again may be in the writer's hands.
const QUEUE_LINES_MAX: usize = 4096;
const QUEUE_BYTES_MAX: usize = 1 << 20;

/// Lines of ERROR have so much room of their own beyond that: what filled the queue does not hide them.
const ERROR_LINES_RESERVE: usize = 1024;
const ERROR_BYTES_RESERVE: usize = 256 << 10;

/// How long the end of the process, and a panic, wait for the writer: far longer than it takes on any disk and
/// terminal that work, and no longer than an operator who stops a server would wait anyway.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

const SECOND: Duration = Duration::from_secs(1);

static BOUND: Mutex<Bound> = Mutex::new(Bound::new());

static QUEUE: Queue = Queue::new();

/// The thread that writes.
static WRITER: OnceLock<ThreadId> = OnceLock::new();

/// Starts the log and its thread, and writes panics into it.
pub(super) fn start(path: Option<&Path>) -> Result<()> {
    let file = path.map(|path| open(path).map(|file| LogFile { path: path.to_owned(), file })).transpose()?;
    let filter = Builder::new().filter_level(LevelFilter::Info).parse_env("RUST_LOG").build();
    let level = filter.filter();
    if log::set_boxed_logger(Box::new(Queued { filter })).is_err() {
        return crate::fail!(Internal, "the log was started twice");
    }
    let mut output = Output { file };
    let thread = thread::Builder::new().name("log".into()).stack_size(STACK_BYTES);
    let started = thread.spawn(move || QUEUE.serve(&mut |entry| output.write(entry)));
    let thread = started.context(|| "start the thread that writes the log")?;
    let _ = WRITER.set(thread.thread().id());
    log::set_max_level(level);
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Has the log file opened anew, after it was renamed, when what was said before is written. Where that fails the
/// log goes on in the old one.
pub(super) fn reopen() {
    QUEUE.reopen();
}

/// Has a line written to standard error, behind what the log has to write.
pub(super) fn complain(line: String) {
    QUEUE.push(Entry::Complaint(line + "\n"), true);
}

/// Waits for what the log has to write, for [`FLUSH_TIMEOUT`] at most; the process ends then.
pub(super) fn finish() {
    QUEUE.flush(FLUSH_TIMEOUT);
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

/// How many lines were written in this second, and how many were left out since the last line about it.
struct Bound {
    since: Option<Instant>,
    lines: u32,
    errors: u32,
    left_out: u64,
}

/// What becomes of a line.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is written, after a line with the number of those that were left out, if any were.
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
        // The number of lines left out is written once a second, before the first line in it.
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

/// What the macros of `log` call.
struct Queued {
    filter: env_logger::Logger,
}

impl Log for Queued {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.filter.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.filter.matches(record) {
            let lines = bounded(record, &BOUND, Instant::now());
            if !lines.is_empty() {
                QUEUE.push(Entry::Lines(lines), record.level() == Level::Error);
            }
        }
    }

    fn flush(&self) {
        finish();
    }
}

/// What the writer is to do.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    /// Write this to the log.
    Lines(String),
    /// Write this to standard error.
    Complaint(String),
    /// Open the log file anew.
    Reopen,
}

/// What is to be written, in the order in which it was said.
struct Queue {
    waiting: Mutex<Waiting>,
    /// The writer waits for entries here.
    came: Condvar,
    /// And here who waits for the writer.
    written: Condvar,
}

struct Waiting {
    entries: Vec<Entry>,
    bytes: usize,
    /// Lines that found no room since the last note of it.
    left_out: u64,
    is_reopening: bool,
    /// The writer is at what it took last.
    is_writing: bool,
}

impl Queue {
    const fn new() -> Queue {
        let waiting =
            Waiting { entries: Vec::new(), bytes: 0, left_out: 0, is_reopening: false, is_writing: false };
        Queue { waiting: Mutex::new(waiting), came: Condvar::new(), written: Condvar::new() }
    }

    /// Queues lines, or counts them where there is no room. It never waits for the writer.
    fn push(&self, entry: Entry, is_error: bool) {
        let bytes = match &entry {
            Entry::Lines(text) | Entry::Complaint(text) => text.len(),
            Entry::Reopen => 0,
        };
        let mut waiting = self.waiting();
        let (lines_max, bytes_max) = match is_error {
            true => (QUEUE_LINES_MAX + ERROR_LINES_RESERVE, QUEUE_BYTES_MAX + ERROR_BYTES_RESERVE),
            false => (QUEUE_LINES_MAX, QUEUE_BYTES_MAX),
        };
        if waiting.entries.len() >= lines_max || waiting.bytes + bytes > bytes_max {
            waiting.left_out += 1;
            return;
        }
        waiting.bytes += bytes;
        waiting.entries.push(entry);
        drop(waiting);
        self.came.notify_one();
    }

    /// Queues that the file is opened anew, for which there is always room: once.
    fn reopen(&self) {
        let mut waiting = self.waiting();
        if !mem::replace(&mut waiting.is_reopening, true) {
            waiting.entries.push(Entry::Reopen);
        }
        drop(waiting);
        self.came.notify_one();
    }

    /// The writer's thread, which lives as long as the process.
    fn serve(&self, write: &mut dyn FnMut(Entry)) {
        loop {
            self.serve_once(write);
        }
    }

    /// Waits until there is something to write, without a deadline since it has nothing else to do, and writes what
    /// is there.
    fn serve_once(&self, write: &mut dyn FnMut(Entry)) {
        let is_idle = |waiting: &mut Waiting| waiting.entries.is_empty() && waiting.left_out == 0;
        let mut waiting =
            self.came.wait_while(self.waiting(), is_idle).unwrap_or_else(PoisonError::into_inner);
        let entries = mem::take(&mut waiting.entries);
        let left_out = mem::take(&mut waiting.left_out);
        (waiting.bytes, waiting.is_reopening, waiting.is_writing) = (0, false, true);
        drop(waiting);
        entries.into_iter().for_each(&mut *write);
        if left_out > 0 {
            // They came when these had filled the queue.
            write(Entry::Lines(note_line(format_args!(
                "{left_out} lines were left out before this one: the log could not be written in time"
            ))));
        }
        self.waiting().is_writing = false;
        self.written.notify_all();
    }

    /// Waits until all is written, for so long at most.
    fn flush(&self, timeout: Duration) {
        let is_busy =
            |waiting: &mut Waiting| waiting.is_writing || !waiting.entries.is_empty() || waiting.left_out > 0;
        let _ = self.written.wait_timeout_while(self.waiting(), timeout, is_busy);
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics under the lock, and the queue is whole after every line.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the lines go.
struct Output {
    /// `None` is standard error.
    file: Option<LogFile>,
}

struct LogFile {
    path: PathBuf,
    file: File,
}

impl Output {
    fn write(&mut self, entry: Entry) {
        match entry {
            Entry::Lines(lines) => {
                let written = self.file.as_mut().map(|log| log.file.write_all(lines.as_bytes()));
                // A full disk must not stop a server, nor silence it.
                if !matches!(written, Some(Ok(()))) {
                    let _ = io::stderr().write_all(lines.as_bytes());
                }
            }
            Entry::Complaint(line) => {
                let _ = io::stderr().write_all(line.as_bytes());
            }
            Entry::Reopen => self.reopen(),
        }
    }

    fn reopen(&mut self) {
        let Some(log) = &mut self.file else {
            return info!("SIGHUP: the log goes to standard error, there is no file to open anew");
        };
        match open(&log.path) {
            Ok(file) => {
                log.file = file;
                info!("SIGHUP: the log file was opened anew");
            }
            Err(error) => error!("SIGHUP: the log goes on in the old file: {error}"),
        }
    }
}

fn line(record: &Record<'_>) -> String {
    let time = humantime::format_rfc3339_millis(SystemTime::now().max(SystemTime::UNIX_EPOCH));
    let peer = log_context::peer().map_or_else(|| "-".to_owned(), |peer| peer.to_string());
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
    let what = info.payload_as_str().unwrap_or("no message");
    if WRITER.get() == Some(&thread::current().id()) {
        // Which cannot write what it would queue now.
        let _ = writeln!(io::stderr(), "panic in the log{place}: {what}");
        return;
    }
    error!("panic{place}: {what}");
    // It may be the end of the process.
    finish();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(level: Level, bound: &Mutex<Bound>, now: Instant) -> Vec<String> {
        let record = Record::builder().level(level).args(format_args!("text")).build();
        bounded(&record, bound, now).lines().map(str::to_owned).collect()
    }

    /// The story: each refused connection was a line, and a client that opened connections for a night filled
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

    fn text(entry: Entry) -> String {
        match entry {
            Entry::Lines(text) | Entry::Complaint(text) => text,
            Entry::Reopen => "reopened".to_owned(),
        }
    }

    /// What the writer writes of what is queued now.
    fn written(queue: &Queue) -> Vec<String> {
        let mut lines = Vec::new();
        queue.serve_once(&mut |entry| lines.push(text(entry)));
        lines
    }

    #[test]
    fn a_full_queue_leaves_lines_out_and_says_how_many_and_errors_have_room_of_their_own() {
        let queue = Queue::new();
        let say = |text: &str, is_error| queue.push(Entry::Lines(text.to_owned()), is_error);
        for _ in 0..QUEUE_LINES_MAX + 7 {
            say("line", false);
        }
        say("error", true);
        let lines = written(&queue);
        assert_eq!(lines.len(), QUEUE_LINES_MAX + 2);
        assert_eq!(lines[QUEUE_LINES_MAX], "error");
        assert!(lines[QUEUE_LINES_MAX + 1].contains(" 7 lines were left out"), "{lines:?}");
        // By bytes as well.
        let long = "x".repeat(QUEUE_BYTES_MAX / 4);
        for _ in 0..6 {
            say(&long, false);
        }
        say(&long, true);
        let lines = written(&queue);
        assert_eq!(lines.len(), 6);
        assert!(lines[5].contains(" 2 lines were left out"));
        for _ in 0..QUEUE_LINES_MAX + ERROR_LINES_RESERVE + 1 {
            say("error", true);
        }
        assert_eq!(written(&queue).len(), QUEUE_LINES_MAX + ERROR_LINES_RESERVE + 1);
    }

    #[test]
    fn the_order_is_kept_and_the_file_is_opened_anew_where_it_was_asked_for() {
        let queue = Queue::new();
        queue.push(Entry::Lines("one".to_owned()), false);
        queue.reopen();
        queue.reopen();
        queue.push(Entry::Complaint("two".to_owned()), true);
        assert_eq!(written(&queue), ["one", "reopened", "two"]);
        queue.reopen();
        assert_eq!(written(&queue), ["reopened"]);
    }

    #[test]
    fn a_writer_that_hangs_holds_nobody_up_and_the_end_waits_for_it_a_bounded_time() {
        let queue = Queue::new();
        let (go, hang) = crossbeam_channel::bounded::<()>(0);
        thread::scope(|scope| {
            queue.push(Entry::Lines("first".to_owned()), false);
            let writer = scope.spawn(|| {
                queue.serve_once(&mut |_| {
                    let _ = hang.recv();
                });
            });
            while !queue.waiting().is_writing {
                thread::yield_now();
            }
            for _ in 0..QUEUE_LINES_MAX * 2 {
                queue.push(Entry::Lines("more".to_owned()), false);
            }
            queue.flush(Duration::from_millis(10));
            assert!(!writer.is_finished());
            go.send(()).unwrap();
        });
        assert_eq!(written(&queue).len(), QUEUE_LINES_MAX + 1);
        queue.flush(Duration::from_secs(3600));
    }

    #[test]
    fn a_line_has_time_level_thread_and_peer() {
        log_context::set_peer(Some(([127, 0, 0, 1], 5000).into()));
        let line = thread::Builder::new()
            .name("worker".into())
            .spawn(|| {
                log_context::set_peer(Some(([127, 0, 0, 1], 5000).into()));
                let log = |text: &str| {
                    line(&Record::builder().level(Level::Warn).args(format_args!("{text}")).build())
                };
                let with = log("disk\nfull");
                log_context::set_peer(None);
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
