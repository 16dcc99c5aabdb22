//! `tnv-storage --init`: says that the disk of a store path is the right one, where nothing else shows it: an
//! empty disk in the place of one that is lost, one of a new group beside rows of existing storages, which do not
//! say whose they are, or one that was another store path's.

use std::io::Write;
use std::path::Path;

use tnv_common::daemon::{Given, Job};
use tnv_common::error::{Context, Result};
use tnv_common::fail;

use crate::globals::Settings;
use crate::path;
use crate::volume::disk::make_durably;
use crate::volume::identity::{self, Marker};

/// How it is asked for.
pub static JOB: Job = Job {
    name: "init",
    switches: &[],
    numbers: &[],
    texts: &["store-path"],
    help: "\
  --init      mark the disk of a store path as the right one, beside a running server or without; run it in
              the directory that the server runs in. It is needed only where rows name files under a store
              path and none of them is there: for an empty disk in the place of one that is lost, and for a
              new group beside rows of existing storages. Make sure that the disk is mounted. Files that are
              there stay
    --store-path PATH
              this one; needed where there are several",
};

/// Marks it.
pub fn run(settings: &Settings, given: &Given, out: &mut dyn Write) -> Result<bool> {
    let paths: Vec<&str> = settings.store_paths.iter().map(|path| path::plain(path.as_str())).collect();
    let path = match (given.text("store-path").map(path::plain), &paths[..]) {
        (Some(path), _) if paths.contains(&path) => path,
        (Some(path), _) => {
            return fail!(
                Invalid,
                "'{path}' is no store path of this storage, want one of {}",
                paths.join(" ")
            );
        }
        (None, [only]) => only,
        (None, _) => return fail!(Invalid, "name one with --store-path, of {}", paths.join(" ")),
    };
    let group = settings.group.as_str();
    make_durably(Path::new(path)).context(|| format!("make the directory {path}"))?;
    let said = match identity::read(path) {
        Ok(Some(marker)) if marker.store_path == path && marker.group == group => {
            format!("store path '{path}' is volume {} already; nothing was changed", marker.id)
        }
        Ok(None) => {
            let marker =
                identity::create(path, &Marker::new(path, group)).context(|| format!("mark {path}"))?;
            format!("store path '{path}' is volume {} from now on", marker.id)
        }
        // Another store path's, which keeps its ID, or none at all.
        found => {
            let new = Marker::new(path, group);
            let marker = match found {
                Ok(Some(marker)) => Marker { id: marker.id, created: marker.created, ..new },
                _ => new,
            };
            identity::replace(path, &marker).context(|| format!("mark {path}"))?;
            format!("store path '{path}' is volume {} from now on; its marker was replaced", marker.id)
        }
    };
    writeln!(out, "{said}").and_then(|()| out.flush()).context(|| "write to standard output")?;
    Ok(true)
}
