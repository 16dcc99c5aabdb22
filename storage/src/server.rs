//! The storage as a process: what it is set up with, what `--check` looks at, and the order in which
//! its rooms are opened and closed.

use std::fs::OpenOptions;
use std::io::{self, BufWriter};
use std::path::Path;
use std::sync::Arc;

use tnv_common::config::{CommonSettings, Config, Fault, Part, keys};
use tnv_common::daemon::{self, Given, Job, Server};
use tnv_common::db::Database;
use tnv_common::error::{Context, Result};
use tnv_common::framed::Framed;
use tnv_common::net;
use tnv_common::server;
use tnv_common::stop::Stop;

use crate::db::{Db, SCHEMA};
use crate::file::Files;
use crate::fsck;
use crate::globals::{Globals, MemberName, Settings, host_name, now};
use crate::id::Ids;
use crate::init;
use crate::scrub;
use crate::service::Service;
use crate::session::Keys;
use crate::tracker;

/// `tnv-storage`.
pub struct Storage;

impl Server for Storage {
    const PART: Part = Part::Storage;

    type Settings = Settings;

    const JOBS: &'static [&'static Job] = &[&fsck::JOB, &init::JOB];

    fn settings(config: &Config) -> std::result::Result<Settings, Vec<Fault>> {
        Settings::new(config)
    }

    fn check(config: &Config, settings: &Settings) -> Vec<Fault> {
        let mut faults = Vec::new();
        for path in &settings.store_paths {
            if let Err(error) = probe_directory(Path::new(path.as_str())) {
                let got = format!("'{path}': {error}");
                faults.push(config.fault(
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
                faults.push(match part {
                    Part::Tracker => config.fault(&keys::TNV_TRACKER_ADDRS, error, want),
                    _ => config.fault(&keys::TNV_IDS_ADDRS, error, want),
                });
            }
        }
        faults.extend(daemon::check_database(config, &settings.database, &SCHEMA));
        faults
    }

    fn run(settings: Settings, common: CommonSettings, stop: &Stop) -> Result<()> {
        // First of all the port: nobody else then uses what belongs to this address.
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
        let files = Files::new(&globals, db.clone(), ids, stop)?;
        let stores = files.stores();
        scrub::start(&globals.settings, db, files.stores(), files.damaged(), stop)?;
        let keys = Keys::new(globals.settings.app_keys_file.clone(), globals.settings.app_keys.clone());
        let reloaded = Arc::clone(&keys);
        daemon::on_hangup(move || reloaded.reload());
        let service = Service::new(Arc::new(files), keys);
        let service = Framed::new(service, globals.host.to_string(), common.max_conns)
            .with_pace(globals.settings.upload_pace);
        tracker::start(&globals, &stores, stop)?;
        daemon::ready(Part::Storage, address);
        let outcome = server::run(listener, &common.server(Part::Storage), Arc::new(service), stop);
        stores.close();
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

/// Whether a directory is there or can be made, and written; leaves nothing behind.
fn probe_directory(path: &Path) -> io::Result<()> {
    match path.metadata() {
        Ok(metadata) if !metadata.is_dir() => Err(io::ErrorKind::NotADirectory.into()),
        Ok(_) => {
            let probe = path.join(format!(".check-{}-{:x}", std::process::id(), rand::random::<u64>()));
            OpenOptions::new().write(true).create_new(true).open(&probe)?;
            std::fs::remove_file(probe)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => match path.parent() {
            Some(parent) if parent == Path::new("") => probe_directory(Path::new(".")),
            Some(parent) => probe_directory(parent),
            None => Err(error),
        },
        Err(error) => Err(error),
    }
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
