//! `scripts/cluster` for tests: a whole deployment with every server on a host of its own, whose cable
//! can be cut. What a client does there runs in threads that are on its host.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{Scope, ScopedJoinHandle};

use rustix::fd::AsFd;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::bins::{bin, workspace};
use crate::cluster::statuses;
use crate::dir::Dir;
use crate::tools::{Output, PATIENCE, installed, patient, skipped};

/// The trackers' hosts.
pub const TRACKERS: [&str; 3] = ["tracker1", "tracker2", "tracker3"];

/// The storages' hosts: two of group001, two of group002.
pub const STORAGES: [&str; 4] = ["storage1", "storage2", "storage3", "storage4"];

/// The HTTP servers' hosts.
pub const HTTPDS: [&str; 2] = ["http1", "http2"];

/// A running deployment. Dropping it removes everything.
pub struct Hosts {
    name: String,
    dir: Dir,
    addresses: Vec<(String, SocketAddr)>,
    watcher: Child,
}

impl Hosts {
    /// Starts it, with group001 on GlusterFS where that is wanted. `None`, with a line that says
    /// SKIPPED, where this is not root or something is not installed.
    pub fn start(test: &str, gluster: bool) -> Option<Hosts> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mut programs = vec!["ip", "nsenter", "unshare", "setsid", "mariadbd", "mariadb-install-db"];
        if gluster {
            programs.extend(["glusterd", "glusterfs", "gluster"]);
        }
        if let Some(program) = programs.into_iter().find(|program| !installed(program)) {
            skipped(test, &format!("{program} is not installed"));
            return None;
        }
        if !rustix::process::geteuid().is_root() {
            skipped(test, "only root can make network namespaces");
            return None;
        }
        let name = format!("t{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let probe = format!("{name}-probe");
        let made = Output::of(Command::new("ip").args(["netns", "add", &probe]));
        Output::of(Command::new("ip").args(["netns", "delete", &probe]));
        if made.code != 0 {
            skipped(test, &format!("no network namespace can be made here: {}", made.stderr));
            return None;
        }
        let dir = Dir::new("hosts");
        let watcher = watch(&mut command(&name, &dir, &["stop"]));
        let mut hosts = Hosts { name, dir, addresses: Vec::new(), watcher };
        let args: &[&str] = if gluster { &["start", "--gluster"] } else { &["start"] };
        hosts.script(args).success();
        let list = hosts.script(&["hosts"]).success();
        hosts.addresses = list
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter_map(|(host, address)| Some((host.to_owned(), address.parse().ok()?)))
            .collect();
        assert_eq!(hosts.addresses.len(), 12, "{list}");
        Some(hosts)
    }

    /// Runs `scripts/cluster`.
    pub fn script(&self, args: &[&str]) -> Output {
        Output::of(&mut command(&self.name, &self.dir, args))
    }

    /// Does something to a host: `cut`, `restore`, `kill`, `pause`, `resume` or `restart`.
    #[track_caller]
    pub fn act(&self, what: &str, host: &str) {
        self.script(&[what, host]).success();
    }

    /// A path in the cluster's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join("cluster").join(name)
    }

    /// The address of a host's server.
    #[track_caller]
    pub fn address(&self, host: &str) -> SocketAddr {
        let found = self.addresses.iter().find(|(known, _)| known == host);
        found.unwrap_or_else(|| panic!("{host} has no server")).1
    }

    /// The trackers as the client takes them.
    pub fn tracker_list(&self) -> String {
        TRACKERS.map(|host| self.address(host).to_string()).join(";")
    }

    /// Runs the client's command line; to be called on the client's host.
    pub fn tnv(&self, args: &[&str]) -> Output {
        Output::of(Command::new(bin("tnv")).arg(self.tracker_list()).args(args).current_dir(self.dir.path()))
    }

    /// Starts a thread on the client's host. Threads and programs that it starts are there too.
    pub fn on_client<'scope, T: Send + 'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        work: impl FnOnce() -> T + Send + 'scope,
    ) -> ScopedJoinHandle<'scope, T> {
        scope.spawn(move || {
            self.go_to_client();
            work()
        })
    }

    /// Runs something on the client's host and waits for it.
    pub fn at_client<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                self.go_to_client();
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Takes this thread to the client's host, for good.
    fn go_to_client(&self) {
        let host = File::open(format!("/run/netns/{}-client", self.name)).expect("the client's host");
        move_into_link_name_space(host.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("go to the client's host");
    }

    /// Waits until every tracker lists all four storages as ACTIVE.
    #[track_caller]
    pub fn wait_active(&self) {
        self.at_client(|| {
            patient("4 ACTIVE storages at each of 3 trackers", PATIENCE, || {
                TRACKERS.iter().all(|host| {
                    let listed = statuses(self.address(host));
                    listed.values().filter(|status| *status == "ACTIVE").count() == STORAGES.len()
                })
            })
        });
    }
}

/// `scripts/cluster` for a cluster of this name in this directory.
fn command(name: &str, dir: &Dir, args: &[&str]) -> Command {
    let mut command = Command::new(workspace().join("scripts/cluster"));
    command
        .args(args)
        .env("TNV_CLUSTER_NAME", name)
        .env("TNV_CLUSTER_DIR", dir.join("cluster"))
        .env("TNV_BIN_DIR", bin("tnv").parent().expect("a directory of binaries"));
    command
}

/// A shell that waits for this process to end, at which the pipe between them closes, and then runs a
/// command: a test that is itself killed drops nothing.
fn watch(command: &mut Command) -> Child {
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' HUP INT TERM; read -r _; exec \"$@\"", "watch-hosts"]);
    shell.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("run sh")
}

impl Drop for Hosts {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.script(&["status"]).text());
            for entry in std::fs::read_dir(self.path("log")).into_iter().flatten().flatten() {
                let log = std::fs::read(entry.path()).unwrap_or_default();
                let log = String::from_utf8_lossy(&log);
                let lines: Vec<_> = log.lines().collect();
                println!("--- {}", entry.file_name().display());
                lines[lines.len().saturating_sub(25)..].iter().for_each(|line| println!("{line}"));
            }
        }
        let stopped = self.script(&["stop"]);
        let _ = self.watcher.kill();
        let _ = self.watcher.wait();
        assert!(std::thread::panicking() || stopped.code == 0, "scripts/cluster stop: {}", stopped.stderr);
    }
}
