//! The TNV tracker: knows the groups and which of their storages are alive, and gives each user a
//! group. [`server`] puts it together; [`service`] answers the protocol; [`status`] watches beats
//! and the table of groups; [`db`] and [`cache`] know who belongs to which group; [`globals`] holds the
//! settings and the one table, [`groups`], of which [`list`] makes the group list;
//! [`shares`] knows which members share their files.

mod cache;
mod db;
mod globals;
mod groups;
mod list;
mod server;
mod service;
mod shared_lists;
mod shares;
mod status;

fn main() -> std::process::ExitCode {
    tnv_common::daemon::main::<server::Tracker>()
}
