//! Where the binaries are: beside the test that runs, built once a process, so that a plain
//! `cargo test` never tries yesterday's; or beside the benchmark, which `scripts/bench` builds with them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The directory of the checkout.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent")
}

/// The path of a binary, after making sure that it is built. `TNV_BIN_DIR` names a directory of
/// binaries to take as they are, for example those of a release.
pub fn bin(name: &str) -> PathBuf {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    BUILT.get_or_init(find).as_ref().expect("binaries that build").join(name)
}

/// The build directory's place of this program's profile, `target/<triple>/<profile>`.
pub fn profile_dir() -> PathBuf {
    place().0
}

/// The same, and whether this program is a test, which lies one deeper.
fn place() -> (PathBuf, bool) {
    let program = std::env::current_exe().expect("the path of this program");
    let dir = program.parent().expect("the directory of this program");
    match dir.file_name().is_some_and(|name| name == "deps") {
        true => (dir.parent().expect("the directory of the profile").to_owned(), true),
        false => (dir.to_owned(), false),
    }
}

fn find() -> Option<PathBuf> {
    if let Some(given) = std::env::var_os("TNV_BIN_DIR") {
        return Some(PathBuf::from(given));
    }
    let (dir, is_test) = place();
    if !is_test {
        return Some(dir);
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--workspace", "--bins"]).current_dir(workspace());
    if dir.file_name().is_some_and(|name| name == "release") {
        cargo.arg("--release");
    }
    cargo.status().expect("run cargo").success().then_some(dir)
}
