//! The commands of the command line: what each does and prints.

mod args;
mod bench;
mod log;
mod output;
mod signals;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use tnv_client::{AppId, AppKeys, Client, Error, ErrorKind, FileKey, Options, Result, Secret};
use tnv_common::auth::signed_link::LinkSecrets;
use tnv_common::error::Context;

use args::{Action, Args, Command, Out, Sign};
use output::{Stdout, print, usage_or_failure};

pub(crate) use args::USAGE;
pub(crate) use output::Outcome;

/// Runs one command.
pub(crate) fn run(parser: lexopt::Parser) -> std::result::Result<(), Outcome> {
    signals::ignore_file_size_limit()?;
    let Args { trackers, command, key_file } = match args::parse(parser).map_err(Outcome::Usage)? {
        Action::Help => return print(args::HELP),
        Action::Bench(bench::Action::Help) => return print(bench::HELP),
        Action::Bench(bench::Action::Run(plan)) => {
            log::start();
            let app_keys = app_keys(Some(&plan.appid), plan.key_file.as_deref())?;
            return bench::run(&plan, app_keys);
        }
        Action::Version => return print(concat!("tnv ", env!("CARGO_PKG_VERSION"))),
        Action::Sign(sign) => return print(&signed(&sign)?),
        Action::Run(args) => args,
    };
    log::start();
    let changing = match &command {
        Command::Upload { appid, .. } | Command::Delete { file: FileKey { appid, .. } } => Some(appid),
        _ => None,
    };
    let app_keys = app_keys(changing, key_file.as_deref())?;
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
            // The file is stored, so its ID must not be lost with standard output.
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

/// The application keys for uploads and deletes: those of the key file, or the environment's key for the
/// application of the changed files. A key is never an argument, since every user of the host can read those.
fn app_keys(changing: Option<&AppId>, key_file: Option<&Path>) -> Result<AppKeys> {
    if let Some(file) = key_file {
        let read = AppKeys::read(file);
        return read
            .map_err(|got| Error::new(ErrorKind::Invalid, format!("{got}, want {}", AppKeys::form())));
    }
    let mut keys = AppKeys::default();
    let Some(appid) = changing else { return Ok(keys) };
    if let Some(text) = std::env::var_os("TNV_APP_KEY").filter(|text| !text.is_empty()) {
        // Invalid UTF-8 becomes a character that no key may have, so it is refused with that reason.
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
    file: &FileKey,
    offset: u64,
    size: u64,
    out: &Out,
) -> std::result::Result<(), Outcome> {
    let success = |count| format!("Download success: {count}");
    match out {
        Out::Nowhere => print(&success(client.download(file, offset, size, &mut io::sink())?)),
        Out::File(path) => {
            signals::remove_temporaries_on_signals()?;
            print(&success(client.download_file(file, offset, size, path)?))
        }
        Out::Stdout => {
            let mut stdout = Stdout::open()?;
            let count = client.download(file, offset, size, &mut stdout);
            let count = count
                .map_err(|error| if stdout.is_broken_pipe() { Outcome::BrokenPipe } else { error.into() })?;
            // Standard output has only the content.
            let _ = writeln!(io::stderr(), "{}", success(count));
            Ok(())
        }
    }
}
