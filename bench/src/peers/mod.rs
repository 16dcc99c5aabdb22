//! What TNV is measured beside, where it is installed.

pub(crate) mod fdfs;
pub(crate) mod nginx;

use std::path::PathBuf;

/// Where a program is: `PATH` of a user often lacks the directories of servers.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|place| place.join(program)).find(|file| file.is_file())
}
