//! The TNV tracker: knows the groups and which of their storages are alive, and gives each user a
//! group. [`server`] puts it together; [`service`] answers the protocol; [`status`] is the thread that finds silent
//! storages and reads the table of groups; [`db`] and [`cache`] know the groups of users; [`globals`] holds the
//! settings and the one table, [`groups`], of which [`list`] makes the group list. [`heartbeat`] knows how long a
//! storage may be silent, [`join_budget`] what one host may have, [`shares`] which members share their files.

mod cache;
mod db;
mod globals;
mod groups;
mod heartbeat;
mod join_budget;
mod list;
mod server;
mod service;
mod shared_lists;
mod shares;
mod status;

fn main() -> std::process::ExitCode {
    tnv_common::daemon::main::<server::Tracker>()
}
