//! `tnv-storage`: the storage server. All of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    tnv_common::daemon::main::<tnv_storage::Storage>()
}
