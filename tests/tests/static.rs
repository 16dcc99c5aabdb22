//! The binaries need nothing of the host: they are static, and run in a directory that holds nothing
//! else, host names in the configuration included.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tnv_tests::bins::bin;
use tnv_tests::cluster::{active, free_address};
use tnv_tests::tools::{installed, this_test};
use tnv_tests::{Dir, Output, PATIENCE, http, raw, skipped};

const BINARIES: [&str; 5] = ["tnv-tracker", "tnv-idserver", "tnv-storage", "tnv-httpd", "tnv"];

#[test]
fn the_binaries_are_static() {
    for name in BINARIES {
        if installed("file") {
            let said = Output::of(Command::new("file").arg("-L").arg(bin(name))).success();
            assert!(said.contains("static-pie linked") || said.contains("statically linked"), "{said}");
        } else {
            skipped(&this_test(), "file is not installed");
        }
        if installed("ldd") {
            let said = Output::of(Command::new("ldd").arg(bin(name)));
            let said = said.text() + &said.stderr;
            assert!(
                said.contains("statically linked") || said.contains("not a dynamic executable"),
                "{said}"
            );
        } else {
            skipped(&this_test(), "ldd is not installed");
        }
    }
}

/// The path of `chroot`: the environment that it runs in is empty.
fn chroot() -> &'static str {
    ["/usr/sbin/chroot", "/usr/bin/chroot", "/sbin/chroot"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .expect("chroot is installed")
}

/// A process in the chroot, killed with the test.
struct Jailed(Child);

impl Drop for Jailed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn jail(dir: &Path, args: &[&str], log: &Path) -> Jailed {
    let log = std::fs::File::create(log).expect("create a log");
    let child = Command::new(chroot())
        .arg(dir)
        .args(args)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::from(log))
        .spawn()
        .expect("run chroot");
    Jailed(child)
}

#[test]
fn all_of_it_runs_in_an_empty_chroot_with_host_names_in_the_configuration() {
    if !rustix::process::geteuid().is_root() {
        return skipped(&this_test(), "only root can");
    }
    let dir = Dir::new("chroot");
    let root = dir.join("root");
    std::fs::create_dir_all(root.join("etc/tnv")).expect("make");
    for name in BINARIES {
        std::fs::copy(bin(name), root.join(name)).expect("copy");
        std::fs::set_permissions(root.join(name), PermissionsExt::from_mode(0o755)).expect("chmod");
    }
    // The one file of a host that names come from; there is no resolver, no library, no device.
    std::fs::write(root.join("etc/hosts"), "127.0.0.1 tracker.tnv.test ids.tnv.test here.tnv.test\n")
        .expect("write");
    let (tracker, id, storage, httpd) = (free_address(), free_address(), free_address(), free_address());
    let trackers = format!("tracker.tnv.test:{}", tracker.port());
    let file = |name: &str, lines: &[String]| {
        let text = format!("service x {{\n{}\n}}\n", lines.join("\n"));
        std::fs::write(root.join("etc/tnv").join(name), text).expect("write");
    };
    let bind = |address: std::net::SocketAddr| format!("tnv_bind = here.tnv.test:{}", address.port());
    let db = "tnv_db_path = /db".to_owned();
    file("tracker.cfg", &[bind(tracker), db.clone()]);
    file("id.cfg", &[bind(id), db.clone()]);
    file(
        "storage.cfg",
        &[
            bind(storage),
            db,
            "tnv_store_paths = /data".to_owned(),
            // The default is a share of the disk, and that of a test machine may be nearly full.
            "tnv_reserved_space = 64M".to_owned(),
            format!("tnv_tracker_addrs = {trackers}"),
            format!("tnv_ids_addrs = ids.tnv.test:{}", id.port()),
        ],
    );
    file("http.cfg", &[bind(httpd), format!("tnv_tracker_addrs = {trackers}")]);
    let mut jailed = Vec::new();
    for name in &BINARIES[..4] {
        let log = dir.join(&format!("{name}.log"));
        let mut child = jail(&root, &[&format!("/{name}")], &log);
        let start = Instant::now();
        loop {
            let said = std::fs::read_to_string(&log).expect("a log");
            if said.contains(&format!("{name} ready on ")) {
                break;
            }
            let ended = child.0.try_wait().expect("wait");
            assert!(ended.is_none() && start.elapsed() < PATIENCE, "{name}: {ended:?}\n{said}");
            std::thread::sleep(Duration::from_millis(20));
        }
        jailed.push(child);
    }
    tnv_tests::patient("ACTIVE", PATIENCE, || active(tracker) == 1);
    std::fs::write(root.join("film"), b"content").expect("write");
    let out = Output::of(
        Command::new(chroot())
            .arg(&root)
            .args(["/tnv", &trackers, "upload", "tnvideo", "tnv001", "/film"])
            .env_clear(),
    );
    let said = out.success();
    let file_id = said.trim().strip_prefix("Upload success: ").expect("the line");
    assert_eq!(
        raw::ask(storage, &raw::download("tnvideo", "tnv001", file_id, 0, 0)).success(102),
        b"content"
    );
    assert_eq!(http::get(httpd, &format!("/files/{file_id}"), &[]).body, b"content");
}
