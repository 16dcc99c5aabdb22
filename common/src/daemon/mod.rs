//! The life of a server process: its arguments, its configuration, its log, its signals and its exit
//! code. A server's `main` is one call of [`main`] with a type that implements [`Server`].

mod args;
mod log;
mod notify;
mod pid_file;
mod signals;

use std::fmt::Display;
use std::io::{self, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use ::log::{Level, info, log_enabled, warn};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::{CommonSettings, Config, ConfigError, Part, keys};
use crate::db::{Database, DbSettings, Schema};
use crate::error;
use crate::net::stop::Stop;
use args::Action;
pub use args::{Given, Job};

/// One of the servers.
pub trait Server {
    /// Which one.
    const PART: Part;

    /// What it runs on: typed, checked, and complete.
    type Settings;

    /// What else the binary does.
    const JOBS: &'static [&'static Job] = &[];

    /// Makes the settings of a configuration, or returns all errors in it.
    fn settings(config: &Config) -> Result<Self::Settings, Vec<ConfigError>>;

    /// Opens what the settings refer to, as `--check` wants it, and leaves no trace of it.
    fn check(config: &Config, settings: &Self::Settings) -> Vec<ConfigError>;

    /// Serves until `stop` is set and what was under way is done; tells [`ready`] when it can be
    /// reached.
    fn run(settings: Self::Settings, common: CommonSettings, stop: &Stop) -> error::Result<()>;

    /// Does the one of [`Server::JOBS`] that has this name; says whether all was well.
    fn job(name: &str, settings: Self::Settings, given: &Given, stop: &Stop) -> error::Result<bool> {
        let _ = (name, settings, given, stop);
        Ok(true)
    }
}

/// Exit code of wrong usage.
const WRONG_USAGE: u8 = 2;

/// Set once the server can be reached.
static READY: AtomicBool = AtomicBool::new(false);

/// Everything that a server process does. It exits with 0 when it was told to stop, with 1 when it
/// failed or its configuration is at fault, with 2 on wrong usage.
pub fn main<S: Server>() -> ExitCode {
    let args = match args::parse(lexopt::Parser::from_env(), S::JOBS) {
        Ok(args) => args,
        Err(error) => {
            complain(format_args!("{}: {error}\nTry '{} --help'.", S::PART, S::PART));
            return ExitCode::from(WRONG_USAGE);
        }
    };
    if let Err(error) = signals::survive() {
        complain(format_args!("{}: {error}", S::PART));
        return ExitCode::FAILURE;
    }
    let file = args.file.as_deref();
    match args.action {
        Action::Help => print(args::help(S::PART, S::JOBS)),
        Action::Version => print(args::version(S::PART)),
        Action::Check => check::<S>(file),
        Action::Run => serve::<S>(file, args.pid_file.as_deref()),
        Action::Job(name) => job::<S>(name, file, &args.given),
    }
}

/// Reports that the server can be reached: to the log, to the pid file, which is what scripts wait for, and to a
/// service manager.
pub fn ready(part: Part, address: impl Display) {
    READY.store(true, Ordering::Relaxed);
    info!("{part} ready on {address}");
    pid_file::write();
    notify::notify(notify::READY);
}

/// Has something done on SIGHUP, beside opening the log anew.
pub fn on_hangup(action: impl Fn() + Send + 'static) {
    signals::on_hangup(Box::new(action));
}

/// Whether the database that the settings name could be used, for [`Server::check`].
pub fn check_database(
    config: &Config,
    settings: &DbSettings,
    schema: &'static Schema,
) -> Option<ConfigError> {
    let error = Database::probe(settings, schema).err()?;
    Some(match settings.is_embedded() {
        true => config.error(&keys::TNV_DB_PATH, error, "a directory that databases can be kept in"),
        false => config.error(&keys::MYSQL_ADDRS, error, "a MySQL server that can be logged in to"),
    })
}

/// `--check`: the errors on standard error, or `FILE: ok` on standard output.
fn check<S: Server>(file: Option<&Path>) -> ExitCode {
    let outcome = prepare::<S>(file).and_then(|(config, settings, common)| {
        let mut errors = check_common(&config, &common);
        errors.extend(S::check(&config, &settings));
        if errors.is_empty() { Ok((config, common)) } else { Err(errors) }
    });
    match outcome {
        Ok((config, common)) => {
            notices(&config, &common).for_each(complain);
            print(format_args!("{}: ok", config.file().display()))
        }
        Err(errors) => {
            errors.iter().for_each(complain);
            ExitCode::FAILURE
        }
    }
}

/// Does the job. Its log is standard error: the log file is the server's, which may be running.
fn job<S: Server>(name: &str, file: Option<&Path>, given: &Given) -> ExitCode {
    let settings = match prepare::<S>(file) {
        Ok((_, settings, _)) => settings,
        Err(errors) => {
            errors.iter().for_each(complain);
            return ExitCode::FAILURE;
        }
    };
    let outcome = log::start(None).and_then(|()| {
        let stop = Stop::new()?;
        signals::watch(&stop)?;
        S::job(name, settings, given, &stop)
    });
    // Behind what the log has to say of it.
    log::finish();
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            complain(format_args!("{}: {error}", S::PART));
            ExitCode::FAILURE
        }
    }
}

/// What the operator should know before it starts.
fn notices(config: &Config, common: &CommonSettings) -> impl Iterator<Item = String> {
    config.notices().into_iter().chain(config.exposure_warnings(common))
}

/// Runs the server in the foreground.
fn serve<S: Server>(file: Option<&Path>, pid_file: Option<&Path>) -> ExitCode {
    let (config, settings, common) = match prepare::<S>(file) {
        Ok(prepared) => prepared,
        Err(errors) => {
            errors.iter().for_each(complain);
            return ExitCode::FAILURE;
        }
    };
    let log_file = common.log_file.clone();
    if let Err(error) = log::start(log_file.as_deref()) {
        complain(format_args!("{}: {error}", S::PART));
        return ExitCode::FAILURE;
    }
    info!("{} starts with {}", args::version(S::PART), config.file().display());
    notices(&config, &common).for_each(|notice| warn!("{notice}"));
    drop(config); // Its text, with the password, is not needed any more.

    let outcome = pid_file.map_or(Ok(()), pid_file::take).and_then(|()| run::<S>(settings, common));
    pid_file::release();
    if let Err(error) = &outcome {
        ::log::error!("{}: {error}", S::PART);
        // Who started it reads standard error, whatever the log has and wherever that is.
        if log_file.is_some() || !log_enabled!(Level::Error) {
            log::complain(format!("{}: {error}", S::PART));
        }
    }
    log::finish();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run<S: Server>(settings: S::Settings, common: CommonSettings) -> error::Result<()> {
    let stop = Stop::new()?;
    signals::watch(&stop)?;
    match S::run(settings, common, &stop) {
        // Told to stop while it still waited for what it needs to start: that wait then failed.
        Err(error) if stop.is_set() && !READY.load(Ordering::Relaxed) => {
            warn!("{} stopped before it was ready: {error}", S::PART);
            Ok(())
        }
        outcome => outcome.inspect(|()| info!("{} stopped", S::PART)),
    }
}

/// Reads the configuration and makes the settings of it.
fn prepare<S: Server>(
    file: Option<&Path>,
) -> Result<(Config, S::Settings, CommonSettings), Vec<ConfigError>> {
    raise_descriptor_limit();
    let config = Config::load(S::PART, file)?;
    match (config.common(), S::settings(&config)) {
        (Ok(common), Ok(settings)) => Ok((config, settings, common)),
        (common, settings) => {
            let errors = [common.err(), settings.err()];
            Err(errors.into_iter().flatten().flatten().collect())
        }
    }
}

/// Whether what every server refers to can be opened.
fn check_common(config: &Config, common: &CommonSettings) -> Vec<ConfigError> {
    let ip = common.bind.ip();
    // Any port: the configured one is taken where the server runs already.
    let bind = TcpListener::bind((ip, 0))
        .err()
        .map(|error| config.error(&keys::TNV_BIND, format_args!("{ip}: {error}"), "an address of this host"));
    let log = common
        .log_file
        .as_deref()
        .and_then(|file| log::check(file).err())
        .map(|error| config.error(&keys::TNV_LOG_FILE, error, "a file that can be written"));
    bind.into_iter().chain(log).collect()
}

/// The soft limit of open files is often 1024, for the sake of programs that use select(2).
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Where it fails the limit stays as it is, and `tnv_max_conns` follows it.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// A line to standard output; whether it could be written is the exit code.
fn print(line: impl Display) -> ExitCode {
    match writeln!(io::stdout(), "{line}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// A line to standard error. Its failure cannot be reported anywhere.
fn complain(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}
