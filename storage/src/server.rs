//! The storage as a process: what it is set up with, what `--check` looks at, and the order in which
//! its rooms are opened and closed.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{self, BufWriter};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Access, access};
use tnv_common::config::{CommonSettings, Config, ConfigError, Part, keys};
use tnv_common::daemon::{self, Given, Job, Server};
use tnv_common::db::Database;
use tnv_common::error::{Context, Result};
use tnv_common::net;
use tnv_common::net::event_loop;
use tnv_common::net::stop::Stop;
use tnv_common::rpc::server::RpcServer;

use crate::catalog::Catalog;
use crate::cluster::ids::Ids;
use crate::cluster::tracker;
use crate::db::{Db, SCHEMA};
use crate::globals::{Globals, MemberName, Settings, host_name, now};
use crate::maintenance::fsck;
use crate::maintenance::init;
use crate::maintenance::scrub;
use crate::service::{self, Service};
use crate::session::Keys;

/// `tnv-storage`.
pub struct Storage;

impl Server for Storage {
    const PART: Part = Part::Storage;

    type Settings = Settings;

    const JOBS: &'static [&'static Job] = &[&fsck::JOB, &init::JOB];

    fn settings(config: &Config) -> std::result::Result<Settings, Vec<ConfigError>> {
        Settings::new(config)
    }

    fn check(config: &Config, settings: &Settings) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        for path in &settings.store_paths {
            if let Err(error) = probe_directory(Path::new(path.as_str())) {
                let got = format!("'{path}': {error}");
                errors.push(config.error(
                    &keys::TNV_STORE_PATHS,
                    got,
                    "a directory that can be made and written",
                ));
            }
        }
        let trackers = settings.trackers.iter().map(|address| (address, Part::Tracker));
        for (address, part) in
            trackers.chain(settings.id_servers.iter().map(|address| (address, Part::IdServer)))
        {
            if let Err(error) = net::resolve(address, part.default_port()) {
                let want = "a host that can be resolved";
                errors.push(match part {
                    Part::Tracker => config.error(&keys::TNV_TRACKER_ADDRS, error, want),
                    _ => config.error(&keys::TNV_IDS_ADDRS, error, want),
                });
            }
        }
        errors.extend(daemon::check_database(config, &settings.database, &SCHEMA));
        errors
    }

    fn run(settings: Settings, common: CommonSettings, stop: &Stop) -> Result<()> {
        // First of all the port: no other process then uses what belongs to this address.
        let listener = net::listen(common.bind)?;
        let address = listener.local_addr().context(|| "ask for the address of the listening socket")?;
        let host = host_name()?;
        let database = Database::open(&settings.database, &SCHEMA, stop)?;
        log::info!("using the {}", database.describe());
        let member = MemberName::new(settings.storage_id.as_ref(), &host, address);
        let host = settings.storage_id.clone().unwrap_or(host);
        let globals = Arc::new(Globals { settings, host, member, address, started: now() });
        let ids = Ids::new(&globals.settings.id_servers);
        let db = Db::new(database, &globals.settings.group, common.threads);
        // The disks are looked after until the last upload is finished: without heartbeats none could be acknowledged.
        let catalog_stop = Stop::new()?;
        let catalog = Catalog::new(&globals, db.clone(), ids, &catalog_stop)?;
        let volumes = catalog.volumes();
        scrub::start(&globals.settings, db, catalog.volumes(), catalog.quarantine(), stop)?;
        let keys = Keys::new(globals.settings.app_keys_file.clone(), globals.settings.app_keys.clone());
        let reloaded = Arc::clone(&keys);
        daemon::on_hangup(move || reloaded.reload());
        let service = Service::new(Arc::new(catalog), keys);
        let service = RpcServer::new(service, service::dialect(globals.host.as_str()), common.max_conns)
            .with_pace(globals.settings.upload_pace);
        tracker::start(&globals, &volumes, stop)?;
        let ready = || daemon::ready(Part::Storage, address);
        let settings = common.server(Part::Storage);
        let outcome = event_loop::run_announced(listener, &settings, Arc::new(service), stop, ready);
        catalog_stop.set();
        volumes.close();
        outcome
    }

    fn job(name: &str, settings: Settings, given: &Given, stop: &Stop) -> Result<bool> {
        let out = &mut BufWriter::new(io::stdout());
        match name == init::JOB.name {
            true => init::run(&settings, given, out),
            false => fsck::run(&settings, given, out, stop),
        }
    }
}

/// Directories of a store path that a check looks at: enough to meet each owner that a tree has, and done in
/// well under a second.
const PROBED_MAX: usize = 256;

/// Of each directory so many of those in it, the newest first: 6 + 36 + 216 are the three levels of a store path.
const PROBED_OF_EACH: usize = 6;

/// Names of one directory that are read: a level has 512.
const NAMES_MAX: usize = 4096;

/// Whether a directory is there or can be made, and written, and what is in it too; leaves nothing behind.
fn probe_directory(path: &Path) -> io::Result<()> {
    match path.metadata() {
        Ok(metadata) if !metadata.is_dir() => Err(io::ErrorKind::NotADirectory.into()),
        Ok(_) => {
            let probe = path.join(format!(".check-{}-{:x}", std::process::id(), rand::random::<u64>()));
            OpenOptions::new().write(true).create_new(true).open(&probe)?;
            std::fs::remove_file(probe)?;
            probe_tree(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => match path.parent() {
            Some(parent) if parent == Path::new("") => probe_made(Path::new(".")),
            Some(parent) => probe_made(parent),
            None => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// Whether a directory that is not there can be made in this one. What else is in it is none of ours.
fn probe_made(parent: &Path) -> io::Result<()> {
    match parent.metadata() {
        Ok(metadata) if !metadata.is_dir() => Err(io::ErrorKind::NotADirectory.into()),
        Ok(_) => Ok(access(parent, Access::WRITE_OK | Access::EXEC_OK)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match parent.parent() {
            Some(next) if next == Path::new("") => probe_made(Path::new(".")),
            Some(next) => probe_made(next),
            None => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// Whether this account may write in the directories of a store path and read the files in them. After a change of the
/// account only the top directory may be its own: uploads then fail, and deleted files cannot be removed.
fn probe_tree(top: &Path) -> io::Result<()> {
    let mut pending = VecDeque::from([top.to_owned()]);
    for _ in 0..PROBED_MAX {
        let Some(directory) = pending.pop_front() else { break };
        let rights = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
        access(&directory, rights).map_err(|error| not_ours(top, &directory, "be written", error.into()))?;
        let (mut directories, mut file) = (Vec::new(), None);
        for entry in std::fs::read_dir(&directory)?.take(NAMES_MAX) {
            let entry = entry?;
            // What begins with a dot is not content. What is gone by now was removed by a storage that runs.
            let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            let (false, Ok(metadata)) = (hidden, entry.metadata()) else { continue };
            match metadata.is_dir() {
                true => directories.push((metadata.modified().ok(), entry.path())),
                false if metadata.is_file() && file.is_none() => file = Some(entry.path()),
                false => {}
            }
        }
        if let Some(file) = file {
            let readable = access(&file, Access::READ_OK);
            readable.map_err(|error| not_ours(top, &file, "be read", error.into()))?;
        }
        directories.sort_by(|one, next| next.cmp(one));
        pending.extend(directories.into_iter().take(PROBED_OF_EACH).map(|(_, path)| path));
    }
    Ok(())
}

/// The fault of a path that this account may not use. One that is gone by now is no fault.
fn not_ours(top: &Path, path: &Path, what: &str, error: io::Error) -> io::Error {
    let user = user_name(rustix::process::geteuid().as_raw());
    let owner = path.metadata().map_or_else(|_| "?".to_owned(), |metadata| user_name(metadata.uid()));
    io::Error::new(
        error.kind(),
        format!(
            "'{}' of user {owner} cannot {what} by user {user} ({error}); run: chown -R {user} '{}'",
            path.display(),
            top.display()
        ),
    )
}

/// What a user is called, or his number where /etc/passwd has none of it.
fn user_name(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let found = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    found.unwrap_or_else(|| uid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_check_leaves_nothing_behind() {
        let scratch = Scratch::new();
        probe_directory(scratch.path()).unwrap();
        probe_directory(&scratch.path().join("a/b/c")).unwrap();
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
        std::fs::write(scratch.path().join("file"), "").unwrap();
        assert!(probe_directory(&scratch.path().join("file")).is_err());
        assert!(probe_directory(&scratch.path().join("file/a")).is_err());
    }
}
