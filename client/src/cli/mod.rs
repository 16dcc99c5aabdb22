//! What each command of the command line does, and what it prints.

mod args;
mod bench;
mod log;

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;
use tnv_client::{
    AppId, AppKeys, Client, Error, ErrorKind, Options, Result, Secret, Triple, remove_temporaries,
};
use tnv_common::auth::signed_link::LinkSecrets;
use tnv_common::error::Context;

pub(crate) use args::USAGE;
use args::{Action, Args, Command, Out, Sign};

/// How a run ends that is no success.
pub(crate) enum Outcome {
    /// What was typed makes no sense.
    Usage(String),
    /// It could not be done.
    Failed(Error),
    /// Standard output was closed by whoever read it.
    Unread,
}

impl From<Error> for Outcome {
    fn from(error: Error) -> Outcome {
        Outcome::Failed(error)
    }
}

/// Runs one command.
pub(crate) fn run(parser: lexopt::Parser) -> std::result::Result<(), Outcome> {
    survive()?;
    let Args { trackers, command, key_file } = match args::parse(parser).map_err(Outcome::Usage)? {
        Action::Help => return print(args::HELP),
        Action::Bench(bench::Asked::Help) => return print(bench::HELP),
        Action::Bench(bench::Asked::Run(plan)) => {
            log::start();
            let app_keys = app_keys(Some(&plan.appid), plan.key_file.as_deref())?;
            return bench::run(&plan, app_keys);
        }
        Action::Version => return print(concat!("tnv ", env!("CARGO_PKG_VERSION"))),
        Action::Sign(sign) => return print(&signed(&sign)?),
        Action::Run(args) => args,
    };
    log::start();
    let changed = match &command {
        Command::Upload { appid, .. } | Command::Delete { file: Triple { appid, .. } } => Some(appid),
        _ => None,
    };
    let app_keys = app_keys(changed, key_file.as_deref())?;
    let options = Options { app_keys, ..Options::default() };
    let client = Client::new(&trackers, options).map_err(usage_or_failure)?;
    match command {
        Command::Groups => print(&client.groups()?),
        Command::Upload { appid, userid, file, crc32 } => {
            let fileid = match crc32 {
                _ if file == Path::new("-") => {
                    let stdin = io::stdin().as_fd().try_clone_to_owned().context(|| "open standard input")?;
                    let name = Path::new("standard input");
                    client.upload_open_file(&appid, &userid, File::from(stdin), name, crc32)?
                }
                Some(crc32) => client.upload_file_checked(&appid, &userid, &file, crc32)?,
                None => client.upload_file(&appid, &userid, &file)?,
            };
            // The file is stored: whoever cannot read it here must be able to find it.
            print(&format!("Upload success: {fileid}")).inspect_err(|_| {
                let _ = writeln!(io::stderr(), "tnv: uploaded as {fileid}");
            })
        }
        Command::FileSize { file } => print(&format!("Get filesize success: {}", client.file_size(&file)?)),
        Command::Delete { file } => {
            client.delete(&file)?;
            print(&format!("Delete success: {}", file.fileid))
        }
        Command::Download { file, offset, size, out } => download(&client, &file, offset, size, &out),
    }
}

/// What is wrong with a client's settings was typed.
fn usage_or_failure(error: Error) -> Outcome {
    match error.kind() {
        ErrorKind::Invalid => Outcome::Usage(error.to_string()),
        _ => Outcome::Failed(error),
    }
}

/// The keys of applications that uploads and deletes may need; the environment has that of the application
/// whose files are to be changed. They never stand on the command line, which everybody on the host can read.
fn app_keys(changed: Option<&AppId>, key_file: Option<&Path>) -> Result<AppKeys> {
    if let Some(file) = key_file {
        let read = AppKeys::read(file);
        return read
            .map_err(|got| Error::new(ErrorKind::Invalid, format!("{got}, want {}", AppKeys::form())));
    }
    let mut keys = AppKeys::default();
    let Some(appid) = changed else { return Ok(keys) };
    if let Some(text) = std::env::var_os("TNV_APP_KEY").filter(|text| !text.is_empty()) {
        // What is not UTF-8 is no key: the reason then is that there are other characters in it.
        let key = Secret::new(&text.to_string_lossy());
        let key = key.map_err(|error| error.context("TNV_APP_KEY"));
        keys.insert(appid.clone(), key?);
    }
    Ok(keys)
}

/// Path and query of a signed link.
fn signed(sign: &Sign) -> Result<String> {
    let secrets = LinkSecrets::read(&sign.secret_file);
    let secrets = secrets
        .map_err(|got| Error::new(ErrorKind::Invalid, format!("{got}, want {}", LinkSecrets::form())))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(secrets.sign(&sign.file, (now + sign.lifetime).as_secs()))
}

fn download(
    client: &Client,
    file: &Triple,
    offset: u64,
    size: u64,
    out: &Out,
) -> std::result::Result<(), Outcome> {
    let success = |count| format!("Download success: {count}");
    match out {
        Out::Nowhere => print(&success(client.download(file, offset, size, &mut io::sink())?)),
        Out::File(path) => {
            tidy_on_signals()?;
            print(&success(client.download_file(file, offset, size, path)?))
        }
        Out::Stdout => {
            let mut stdout = Stdout::open()?;
            let count = client.download(file, offset, size, &mut stdout);
            let count =
                count.map_err(|error| if stdout.unread.get() { Outcome::Unread } else { error.into() })?;
            // Only the bytes themselves go to standard output.
            let _ = writeln!(io::stderr(), "{}", success(count));
            Ok(())
        }
    }
}

/// A line to standard output; that it cannot be written is a failure.
fn print(line: &str) -> std::result::Result<(), Outcome> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Outcome::Unread),
        Err(error) => Err(Error::from(error).context("write to standard output").into()),
    }
}

/// Standard output without the buffer that std puts before it; it remembers when its reader is gone.
struct Stdout {
    file: File,
    unread: Cell<bool>,
}

impl Stdout {
    fn open() -> Result<Stdout> {
        let fd = io::stdout().as_fd().try_clone_to_owned().context(|| "open standard output")?;
        Ok(Stdout { file: File::from(fd), unread: Cell::new(false) })
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes).inspect_err(|error| {
            if error.kind() == io::ErrorKind::BrokenPipe {
                self.unread.set(true);
            }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A write beyond the limit of file sizes (`ulimit -f`) is an error with its reason: SIGXFSZ, which comes with it,
/// would end the process without a word.
fn survive() -> Result<()> {
    let registered = signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
    registered.map(drop).context(|| "handle signals")
}

/// A download that is interrupted leaves nothing, on file systems without nameless files too.
fn tidy_on_signals() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context(|| "handle signals")?;
    let tidy = move || {
        for signal in signals.forever() {
            remove_temporaries();
            // Ends the process as the signal would have; where that fails the download goes on.
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
    };
    thread::Builder::new().name("signals".into()).spawn(tidy).map(drop).context(|| "start the signal thread")
}
