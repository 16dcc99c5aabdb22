//! The TNV ID server: hands out numbers, none of them twice. [`server`] puts it together;
//! [`service`] answers the protocol; [`globals`] counts in memory; [`db`] steps the counters in the
//! database, always before their numbers are used; [`marks`] remembers on this host's own disk how far
//! they came.

mod db;
mod globals;
mod marks;
mod server;
mod service;

fn main() -> std::process::ExitCode {
    tnv_common::daemon::main::<server::IdServer>()
}
