//! `tnv-storage`: keeps the files of its group. From the way in to the ground: [`server`], then
//! [`service`], which knows the commands, then [`mod@file`], [`db`], [`cache`] and [`id`], which do the
//! work, then [`globals`]; beside them [`tracker`], which keeps this storage joined.

mod cache;
mod call;
mod db;
mod file;
mod globals;
mod id;
#[cfg(test)]
mod scratch;
mod server;
mod service;
mod tracker;

use std::process::ExitCode;

fn main() -> ExitCode {
    tnv_common::daemon::main::<server::Storage>()
}
