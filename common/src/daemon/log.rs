//! The log: `TIME LEVEL [thread] [peer] message`, a line each, to standard error or to a file that
//! can be opened anew. No stranger's text can forge a line, and no failure to write one stops the
//! server.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::SystemTime;

use env_logger::{Builder, Target};
use log::{LevelFilter, Record, error, info};
use rustix::fs::{Access, access};

use crate::error::{Context, Result};
use crate::peer;

/// A message is cut after so many bytes: whoever says more says it to a file of its own.
const MESSAGE_BYTES_MAX: usize = 8 << 10;

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
        .format(|out, record| out.write_all(line(record).as_bytes()))
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

/// Control characters, Unicode's line ends, and what reverses the order of text.
fn is_harmful(char: char) -> bool {
    char.is_control() || matches!(char, '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let place = info.location().map_or_else(String::new, |place| format!(" at {place}"));
    error!("panic{place}: {}", info.payload_as_str().unwrap_or("no message"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::Level;

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
