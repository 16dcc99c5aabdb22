//! Servers that the system refuses threads: a container's limit of processes, or no memory. strace injects the refusal
//! into each real server, at its start and while it works.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tnv_tests::cluster::Part;
use tnv_tests::strace::{Call, Strace, can_trace};
use tnv_tests::{Builder, Cluster, PATIENCE, Process, http, patient, raw, sample};

const TRACE: [&str; 2] = ["-e", "trace=clone,clone3"];

/// Requests at once: more than there are threads to begin with.
const CROWD: usize = 8;

/// As many starts as any server makes at its start, and some more.
const STARTS_MAX: usize = 20;

fn refused(calls: &[Call]) -> usize {
    calls.iter().filter(|call| call.returned < 0).count()
}

/// Asks a server something that takes a worker, from many connections at once; each is answered well.
fn crowd(cluster: &Cluster, part: Part, round: usize) {
    thread::scope(|scope| {
        for index in 0..CROWD {
            scope.spawn(move || {
                for turn in 0..20 {
                    let name = format!("{round}-{index}-{turn}");
                    match part {
                        Part::Tracker => {
                            raw::ask(cluster.tracker(), &raw::addresses("tnvideo", &name)).success(100);
                        }
                        Part::Id => {
                            let key = format!("../key{index}");
                            raw::ask(cluster.id(), &raw::get_id(&key)).success(101);
                        }
                        Part::Storage => {
                            let request = raw::upload("tnvideo", "tnv001", &name, &sample(3000, turn));
                            raw::ask(cluster.storage(), &request).success(102);
                        }
                        Part::Httpd => {
                            assert_eq!(http::get(cluster.httpd(), "/files/f", &[]).body, b"content");
                        }
                    }
                }
            });
        }
    });
}

fn server(cluster: &Cluster, part: Part) -> &Process {
    match part {
        Part::Tracker => &cluster.trackers[0],
        Part::Id => &cluster.ids[0],
        Part::Storage => &cluster.storages[0],
        Part::Httpd => &cluster.httpds[0],
    }
}

/// The story: one refused thread, and the job waited for workers that did not exist. The ID server believed that somebody
/// fetched numbers and failed each request of that key; the storage believed that a directory was being synced,
/// and each upload into it waited for ever, until all workers did.
fn goes_on(test: &str, name: &str, part: Part) {
    // Numbers run out often, so that they are fetched often.
    let mut cluster = Builder::new(name).httpds(1).set(Part::Id, "idinc_max_step", 4).start();
    cluster.put("tnv001", "f", b"content");
    // Nothing that another request started is left.
    match part {
        Part::Tracker => cluster.trackers[0].restart(),
        Part::Id => cluster.ids[0].restart(),
        Part::Storage => cluster.storages[0].restart(),
        Part::Httpd => cluster.httpds[0].restart(),
    }
    cluster.wait_active(1);
    let output = cluster.path("log/strace");
    let args = [TRACE[0], TRACE[1], "-e", "inject=clone,clone3:error=EAGAIN"];
    let Some(strace) = Strace::attach(test, server(&cluster, part), &args, &output) else { return };
    crowd(&cluster, part, 1);
    let calls = strace.detach();
    assert!(refused(&calls) > 0 && refused(&calls) == calls.len(), "all were refused: {calls:?}");
    // With the threads it has, and then with more.
    let threads =
        || std::fs::read_dir(format!("/proc/{}/task", server(&cluster, part).pid())).unwrap().count();
    let before = threads();
    let mut round = 1;
    patient("threads are started again", PATIENCE, || {
        round += 1;
        crowd(&cluster, part, round);
        threads() > before
    });
    if part == Part::Storage {
        assert_eq!(cluster.content_files("group001").len(), cluster.file_rows());
    }
}

#[test]
fn a_tracker_that_is_refused_threads_goes_on() {
    goes_on("a_tracker_that_is_refused_threads_goes_on", "threads-tracker", Part::Tracker);
}

#[test]
fn an_id_server_that_is_refused_threads_goes_on() {
    goes_on("an_id_server_that_is_refused_threads_goes_on", "threads-id", Part::Id);
}

#[test]
fn a_storage_that_is_refused_threads_goes_on() {
    goes_on("a_storage_that_is_refused_threads_goes_on", "threads-storage", Part::Storage);
}

#[test]
fn an_http_server_that_is_refused_threads_goes_on() {
    goes_on("an_http_server_that_is_refused_threads_goes_on", "threads-httpd", Part::Httpd);
}

/// The first refusal, the second, and so on, of each thread that starts others.
#[test]
fn uploads_succeed_whichever_of_their_threads_is_refused() {
    const TEST: &str = "uploads_succeed_whichever_of_their_threads_is_refused";
    let mut cluster = Builder::new("threads-each").start();
    let output = cluster.path("log/strace");
    let content = sample(40 << 20, 9);
    for place in 1.. {
        cluster.storages[0].restart();
        let inject = format!("inject=clone,clone3:error=EAGAIN:when={place}");
        let args = [TRACE[0], TRACE[1], "-e", &inject];
        let Some(strace) = Strace::attach(TEST, &cluster.storages[0], &args, &output) else { return };
        thread::scope(|scope| {
            for index in 0..4 {
                let (cluster, content) = (&cluster, &content);
                // One of them is flushed in the background as well.
                let bytes = if index == 0 { content.len() } else { 3000 };
                scope.spawn(move || {
                    let name = format!("{place}-{index}");
                    let request = raw::upload("tnvideo", "tnv001", &name, &content[..bytes]);
                    raw::ask(cluster.storage(), &request).success(102);
                });
            }
        });
        assert_eq!(cluster.content_files("group001").len(), cluster.file_rows());
        assert_eq!(cluster.file_rows(), 4 * place);
        if refused(&strace.detach()) == 0 {
            assert!(place > 1, "none was refused");
            return;
        }
        assert!(place < STARTS_MAX, "threads without end");
    }
}

/// A thread that was refused at the start was missing for good, and nothing said so.
#[test]
fn a_server_whose_threads_are_refused_at_the_start_ends_with_an_error_and_never_says_that_it_is_ready() {
    const TEST: &str =
        "a_server_whose_threads_are_refused_at_the_start_ends_with_an_error_and_never_says_that_it_is_ready";
    if !can_trace(TEST) {
        return;
    }
    for (name, part, starts_min) in [
        ("start-tracker", Part::Tracker, 4),
        ("start-id", Part::Id, 4),
        ("start-storage", Part::Storage, 8),
        ("start-httpd", Part::Httpd, 3),
    ] {
        let mut cluster = Builder::new(name).httpds(1).no_wait().prepare();
        let output = cluster.path("log/strace");
        let mut starts = 0;
        for place in 1.. {
            let server = match part {
                Part::Tracker => &mut cluster.trackers[0],
                Part::Id => &mut cluster.ids[0],
                Part::Storage => &mut cluster.storages[0],
                Part::Httpd => &mut cluster.httpds[0],
            };
            let end = start_refused(server, place, &output);
            match end {
                Some(code) => {
                    assert_eq!(code, Some(1), "{}", server.log_of_run());
                    let log = server.log_of_run();
                    assert!(
                        log.contains("start") && log.contains("Resource temporarily unavailable"),
                        "{log}"
                    );
                    assert!(!log.contains(" ready on "), "{log}");
                    starts = place;
                }
                None => break,
            }
            assert!(place < STARTS_MAX, "threads without end");
        }
        assert!(starts >= starts_min, "{name} started {starts} threads");
    }
}

/// Starts a server whose so manieth thread is refused; how it ended, or none where it is ready.
fn start_refused(server: &mut Process, place: usize, output: &Path) -> Option<Option<i32>> {
    let inject = format!("inject=clone,clone3:error=EAGAIN:when={place}");
    let output = output.to_str().expect("UTF-8");
    // The tracer is a grandchild, so that the server has the process number that is known.
    let wrapper = ["strace", "-D", "-f", "-o", output, TRACE[0], TRACE[1], "-e", &inject];
    server.wrap(&wrapper);
    server.spawn();
    let start = Instant::now();
    loop {
        if let Some(status) = server.exited() {
            server.kill();
            return Some(status.code());
        }
        if server.log_of_run().contains(" ready on ") {
            server.stop(PATIENCE);
            return None;
        }
        assert!(start.elapsed() < PATIENCE, "neither ready nor ended:\n{}", server.log_of_run());
        thread::sleep(Duration::from_millis(10));
    }
}
