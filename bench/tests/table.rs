//! The standard table works: no figure is looked at, but each row comes, and nothing is left behind.

use std::fs::File;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tnv_tests::bins::bin;
use tnv_tests::{Dir, Output, PATIENCE, patient};

/// The benchmark, on a cluster on the embedded database and on the machine itself, without peers.
fn bench(dir: &Dir) -> Command {
    let mut bench = Command::new(env!("CARGO_BIN_EXE_tnv-bench"));
    let servers = bin("tnv").parent().expect("the directory of the servers").to_owned();
    bench.env("TNV_BIN_DIR", servers);
    bench.args(["table", "--smoke", "--with", "embedded, no fsync|machine", "--dir"]).arg(dir.join("disk"));
    bench.arg("--json").arg(dir.join("json")).arg("--markdown").arg(dir.join("markdown"));
    bench
}

/// What is in the directory that the benchmark was given.
fn left(dir: &Dir) -> usize {
    std::fs::read_dir(dir.join("disk")).map_or(0, Iterator::count)
}

#[test]
fn each_row_of_the_table_is_measured() {
    let dir = Dir::new("table");
    Output::of(&mut bench(&dir)).success();
    let json = std::fs::read_to_string(dir.join("json")).expect("the figures");
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["failures"].as_array().map(Vec::len), Some(0), "{json:#}");
    let measured = json["measured"].as_array().expect("rows");
    let rows = |column: &str| -> Vec<&str> {
        let of_column = measured.iter().filter(|row| row["column"] == column);
        of_column.map(|row| row["row"].as_str().expect("a name")).collect()
    };
    let files = ["upload 4k", "download 4k", "upload 64k", "download 64k", "upload 1m", "download 1m"];
    let others = ["upload 500m", "download 500m", "http 64k", "http 500m", "ids", "addresses", "delete 4k"];
    assert_eq!(rows("embedded, no fsync"), [&files[..], &others].concat());
    assert_eq!(
        rows("machine, fsync"),
        ["upload 4k", "upload 64k", "upload 1m", "upload 500m", "sync", "sync alone"]
    );
    for row in measured {
        assert_eq!(row["errors"], 0, "{row:#}");
        assert!(row["count"].as_u64() > Some(0) && row["ops_per_s"].as_f64() > Some(0.0), "{row:#}");
    }
    let servers = measured[0]["servers"].as_array().expect("servers");
    assert_eq!(servers.len(), 4, "{servers:?}");
    assert!(servers.iter().all(|server| server["peak_bytes"].as_u64() > Some(1 << 20)), "{servers:?}");
    let markdown = std::fs::read_to_string(dir.join("markdown")).expect("the table");
    assert!(markdown.contains("\n| download 500m "), "{markdown}");
    assert_eq!(left(&dir), 0);
}

#[test]
fn a_benchmark_that_is_interrupted_leaves_nothing() {
    let dir = Dir::new("table-interrupted");
    let mut child =
        bench(&dir).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("run the benchmark");
    patient("a directory of the benchmark", PATIENCE, || left(&dir) > 0);
    kill_process(Pid::from_child(&child), Signal::TERM).expect("send a signal");
    let mut status = None;
    patient("the end of the benchmark", PATIENCE, || {
        status = child.try_wait().expect("wait for the benchmark");
        status.is_some()
    });
    assert_eq!(status.and_then(|status| status.code()), Some(1));
    assert_eq!(left(&dir), 0);
    assert!(!dir.join("json").exists());
}

/// The log was on the disk that filled up: the benchmark panicked at a line it could not write, once more while it
/// cleaned up, and left 37 GB behind.
#[test]
fn a_log_that_cannot_be_written_costs_no_figure_and_leaves_nothing() {
    let dir = Dir::new("table-unheard");
    let full = || File::options().write(true).open("/dev/full").expect("open /dev/full");
    let mut unheard = bench(&dir);
    unheard.args(["--only", "4k"]).stdout(Stdio::null()).stderr(full());
    assert!(unheard.status().expect("run the benchmark").success());
    assert!(dir.join("json").exists());
    assert_eq!(left(&dir), 0);
    // A table that nobody can have but from the files is an error.
    let code = unheard.stdout(full()).status().expect("run the benchmark").code();
    assert_eq!(code, Some(1));
    assert_eq!(left(&dir), 0);
}

#[test]
fn wrong_usage_is_told() {
    for args in [&["table", "--frob"][..], &["frob"], &["--only", "nothing"], &["--rounds", "0x"]] {
        let output = Output::of(Command::new(env!("CARGO_BIN_EXE_tnv-bench")).args(args));
        assert_eq!(output.code, 2, "{args:?}: {}", output.stderr);
        assert!(output.stderr.contains("Usage: scripts/bench"), "{args:?}: {}", output.stderr);
    }
    let list = Output::of(Command::new(env!("CARGO_BIN_EXE_tnv-bench")).arg("--list")).success();
    assert!(list.contains("  upload 4k\n") && list.contains("  nginx proxy\n"), "{list}");
}
