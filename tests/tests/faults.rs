//! What happens when something breaks: processes killed, peers that stall, ports taken, disks and
//! databases away. Nothing acknowledged is lost, nothing half-done stays, nobody else waits.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tnv_tests::cluster::{Part, active, group_list};
use tnv_tests::http::{self, Http};
use tnv_tests::mariadb::MariaDb;
use tnv_tests::mount::Mount;
use tnv_tests::port::established;
use tnv_tests::raw::{self, Raw, message};
use tnv_tests::tools::{heavy, more_descriptors};
use tnv_tests::{Builder, Cluster, Db, Dir, PATIENCE, Process, patient, sample};

/// Begins an upload of 4 MiB and sends half of it.
fn half_an_upload(cluster: &Cluster, fileid: &str) -> Raw {
    let mut bytes = raw::head(70, 408 + (4 << 20));
    bytes.extend(raw::upload_head("tnvideo", "tnv001", fileid, 4 << 20));
    bytes.extend(sample(2 << 20, 1));
    let mut raw = Raw::connect(cluster.storage());
    raw.send(&bytes);
    raw
}

#[test]
fn a_kill_in_the_middle_of_an_upload_leaves_neither_file_nor_row_after_a_restart() {
    let mut cluster = Builder::new("kill-upload").start();
    cluster.put("tnv001", "whole", b"acknowledged");
    let _uploads: Vec<_> = (0..4).map(|index| half_an_upload(&cluster, &format!("half{index}"))).collect();
    patient("the files are begun", PATIENCE, || cluster.content_files("group001").len() == 5);
    cluster.storages[0].restart();
    patient("no file of a broken upload", PATIENCE, || cluster.content_files("group001").len() == 1);
    assert_eq!(cluster.file_rows(), 1);
    let back = raw::ask(cluster.storage(), &raw::download("tnvideo", "tnv001", "whole", 0, 0));
    assert_eq!(back.success(102), b"acknowledged");
}

#[test]
fn a_kill_at_any_moment_of_busy_uploads_leaves_files_and_rows_that_agree() {
    for round in 0..4 {
        let mut cluster = Builder::new("kill-busy").groups(&["group001"], 2).start();
        let address = cluster.storage();
        let uploaders: Vec<_> = (0..6)
            .map(|thread| {
                thread::spawn(move || {
                    let mut done = Vec::new();
                    let Ok(mut raw) = Raw::try_connect(address) else { return done };
                    for index in 0.. {
                        let id = format!("t{thread}-{index}");
                        let content = sample(10_000 + index, thread as u64 * 1000 + index as u64);
                        if raw.try_send(&raw::upload("tnvideo", "tnv001", &id, &content)).is_err() {
                            return done;
                        }
                        match raw.try_frame() {
                            Ok(Some(frame)) if frame.status == 0 => done.push((id, content)),
                            _ => return done,
                        }
                    }
                    done
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(120 + round * 57));
        cluster.storages[0].kill();
        let done: Vec<_> = uploaders.into_iter().flat_map(|thread| thread.join().expect("uploads")).collect();
        cluster.storages[0].start();
        println!("round {round}: {} uploads were acknowledged", done.len());
        // Nothing acknowledged is lost, by either member.
        for member in &cluster.storages {
            let mut raw = Raw::connect(member.address());
            for (id, content) in &done {
                let back = raw.ask(&raw::download("tnvideo", "tnv001", id, 0, 0)).success(102);
                assert!(back == *content, "{id} has other content");
            }
        }
        // What was not acknowledged is either wholly there or not at all.
        patient("a row for each file and a file for each row", PATIENCE, || {
            let rows = cluster.sql("tnv_storagedb", "SELECT file_path FROM t_file_02");
            let cwd = cluster.storages[0].cwd();
            rows.iter().all(|row| cwd.join(&row[0]).exists())
                && cluster.content_files("group001").len() == rows.len()
        });
    }
}

#[test]
fn a_killed_id_server_never_repeats_a_number() {
    let mut cluster = Builder::new("kill-id")
        .trackers(0)
        .groups(&["group001"], 0)
        .set(Part::Id, "idinc_max_step", 10)
        .start();
    let mut seen = HashSet::new();
    let mut most = -1;
    for round in 0..8 {
        let address = cluster.id();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                thread::spawn(move || {
                    let mut numbers = Vec::new();
                    let Ok(mut raw) = Raw::try_connect(address) else { return numbers };
                    while raw.try_send(&raw::get_id("../data")).is_ok() {
                        let Ok(Some(frame)) = raw.try_frame() else { break };
                        numbers.push(i64::from_be_bytes(frame.success(101).try_into().expect("8 bytes")));
                    }
                    numbers
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(50 + 20 * round));
        cluster.ids[0].kill();
        for thread in threads {
            for number in thread.join().expect("numbers") {
                assert!(seen.insert(number), "{number} again after a kill");
                most = most.max(number);
            }
        }
        cluster.ids[0].start();
        let next = raw::ask(cluster.id(), &raw::get_id("../data")).success(101);
        let next = i64::from_be_bytes(next.try_into().expect("8 bytes"));
        assert!(seen.insert(next), "{next} again after a restart");
        assert!(
            next > most && next <= most + 1 + 2 * 10 + 4,
            "after {most} comes {next}: over two steps skipped"
        );
        most = next;
    }
}

/// Were a storage to wait at each beat until it gives up the silent tracker, after 60 s, so many beats
/// to the other one would take six minutes.
#[test]
fn a_tracker_that_is_silent_keeps_no_storage_from_beating_to_another() {
    let cluster =
        Builder::new("tracker-silent").trackers(2).set(Part::Storage, "tnv_heart_beat_interval", 1).start();
    cluster.trackers[0].signal(Signal::STOP);
    let other = cluster.trackers[1].address();
    let mut beats = HashSet::from([beat_time(other)]);
    patient("beats at the other tracker", PATIENCE, || {
        beats.insert(beat_time(other));
        beats.len() > 6
    });
}

/// When the one storage of a tracker last beat, as the tracker shows it.
fn beat_time(tracker: SocketAddr) -> String {
    let list = group_list(tracker);
    let line = list.lines().find(|line| line.contains("BEAT TIME: "));
    line.unwrap_or_else(|| panic!("no time of a beat in {list:?}")).to_owned()
}

#[test]
fn a_tracker_that_is_away_costs_nothing_else_anything() {
    let mut cluster = Builder::new("tracker-away").trackers(2).httpds(1).start();
    let content = sample(100_000, 1);
    let id = cluster.upload("tnvideo", "tnv001", &content);
    // Not refusing, which is quick to notice, but silent.
    cluster.trackers[0].signal(Signal::STOP);
    // Were each of these to wait until the silent one is given up, after 60 s, they would take ten
    // minutes.
    let start = Instant::now();
    for _ in 0..10 {
        let back = raw::ask(cluster.storage(), &raw::download("tnvideo", "tnv001", &id, 0, 0));
        assert!(back.success(102) == content);
    }
    let stored = raw::ask(cluster.storage(), &raw::upload("tnvideo", "tnv001", "direct", b"x"));
    assert_eq!(stored.success(102), b"");
    println!("storage: {:?}", start.elapsed());
    assert!(start.elapsed() < PATIENCE, "storage: {:?}", start.elapsed());
    cluster.trackers[0].signal(Signal::CONT);
    cluster.trackers[0].kill();
    let start = Instant::now();
    for _ in 0..5 {
        let other = cluster.upload("tnvideo", "tnv001", b"more");
        assert_eq!(http::get(cluster.httpd(), &format!("/files/{other}"), &[]).body, b"more");
    }
    println!("client: {:?}", start.elapsed());
    // A storage that starts while one of its trackers is away works with the other one.
    cluster.storages[0].restart();
    patient("ACTIVE at the other tracker", PATIENCE, || active(cluster.trackers[1].address()) == 1);
    // And joins the first one when it is back.
    cluster.trackers[0].start();
    cluster.wait_active(1);
}

#[test]
fn a_tracker_that_restarts_learns_of_every_storage_again() {
    let mut cluster = Builder::new("tracker-restart").groups(&["group001"], 2).start();
    cluster.trackers[0].restart();
    let took = cluster.wait_active(2);
    println!("both ACTIVE {took:?} after the tracker was ready again");
}

#[test]
fn uploads_fail_with_a_reason_and_leave_nothing_while_no_id_server_is_there() {
    let mut cluster = Builder::new("no-id").start();
    cluster.put("tnv001", "before", b"x");
    cluster.ids[0].kill();
    // A storage has some numbers in stock.
    let mut conn = Raw::connect(cluster.storage());
    let mut stored = 1;
    while conn.ask(&raw::upload("tnvideo", "tnv001", &format!("f{stored}"), b"x")).status == 0 {
        stored += 1;
        assert!(stored <= 64, "more uploads than it was given numbers");
    }
    let text =
        raw::ask(cluster.storage(), &raw::upload("tnvideo", "tnv001", "f", &sample(1 << 20, 1))).failure(102);
    println!("without ID server: {text}");
    assert_eq!(cluster.content_files("group001").len(), stored);
    assert_eq!(cluster.file_rows(), stored);
    let back = raw::ask(cluster.storage(), &raw::download("tnvideo", "tnv001", "before", 0, 0));
    assert_eq!(back.success(102), b"x");
    cluster.ids[0].start();
    cluster.put("tnv001", "f", b"now");
}

#[test]
fn a_storage_that_dies_in_the_middle_of_an_http_answer_is_replaced_by_another_of_its_group() {
    let mut cluster = Builder::new("http-failover").groups(&["group001"], 2).httpds(1).start();
    let content = sample(48 << 20, 3);
    let id = cluster.upload("tnvideo", "tnv001", &content);
    for victim in [0, 1] {
        let mut conn = Http::connect(cluster.httpd());
        conn.request("GET", &format!("/files/{id}"), &[]);
        let head = conn.head().expect("a head");
        assert_eq!(head.status, 200);
        let mut got = conn.body(1 << 20).expect("the first bytes");
        cluster.storages[victim].kill();
        got.extend(conn.body(content.len() - got.len()).expect("the rest from the other member"));
        assert!(got == content);
        cluster.storages[victim].start();
        cluster.wait_active(2);
    }
}

#[test]
fn a_client_download_goes_on_from_another_member() {
    let mut cluster = Builder::new("client-failover").groups(&["group001"], 2).start();
    let content = sample(64 << 20, 3);
    let id = cluster.upload("tnvideo", "tnv001", &content);
    for victim in [0, 1] {
        let out = cluster.path("out");
        let mut command = cluster.tnv_command(&["download", "tnvideo", "tnv001", &id, "0", "0"]);
        let mut child = command.arg(&out).stdout(std::process::Stdio::piped()).spawn().expect("run");
        thread::sleep(Duration::from_millis(40));
        cluster.storages[victim].kill();
        let status = child.wait().expect("wait");
        assert!(status.success(), "{status}");
        assert!(std::fs::read(&out).expect("OUT") == content);
        cluster.storages[victim].start();
        cluster.wait_active(2);
    }
}

#[test]
fn more_idle_connections_than_workers_stall_nobody() {
    let mut cluster = Builder::new("idle-conns")
        .httpds(1)
        .set(Part::Tracker, "tnv_threads", 2)
        .set(Part::Id, "tnv_threads", 2)
        .set(Part::Storage, "tnv_threads", 2)
        .set(Part::Httpd, "tnv_threads", 2)
        .start();
    let _heavy = heavy();
    more_descriptors();
    let addresses = [cluster.tracker(), cluster.id(), cluster.storage(), cluster.httpd()];
    let mut idle: Vec<Vec<TcpStream>> = addresses
        .iter()
        .map(|&address| (0..100).map(|_| TcpStream::connect(address).expect("connect")).collect())
        .collect();
    // Half of them have asked something before, so that they idle between messages.
    for streams in &mut idle[..1] {
        for stream in streams.iter_mut().step_by(2) {
            stream.write_all(&message(13, &[])).expect("ask");
        }
    }
    // Two workers that wait for a hundred connections, each until its idle time is over, would have no
    // time for this within hours.
    let start = Instant::now();
    let id = cluster.upload("tnvideo", "tnv001", b"busy");
    assert_eq!(http::get(cluster.httpd(), &format!("/files/{id}"), &[]).body, b"busy");
    raw::ask(cluster.id(), &raw::get_id("k")).success(101);
    println!("beside 100 idle connections to each server: {:?}", start.elapsed());
    assert!(addresses.iter().all(|&address| established(address) >= 100), "the idle ones had to go");
    assert!(cluster.parts().all(|part| part.runs()));
}

/// Someone who sends a head a byte a second holds no worker for longer than a message's deadline.
#[test]
fn a_slow_drip_is_cut_off_after_ten_seconds_and_stalls_nobody() {
    let cluster = Builder::new("drip").httpds(1).start();
    // Each longer than what is sent of it.
    let cases = [
        (cluster.tracker(), raw::addresses("tnvideo", "tnv001")),
        (cluster.id(), raw::get_id(&"k".repeat(60))),
        (cluster.storage(), raw::filesize("tnvideo", "tnv001", "x")),
        (cluster.httpd(), format!("GET /files/{} HTTP/1.1\r\n", "x".repeat(100)).into_bytes()),
    ];
    thread::scope(|scope| {
        for (address, request) in cases {
            scope.spawn(move || {
                let mut stream = TcpStream::connect(address).expect("connect");
                stream.set_nodelay(true).expect("no delay");
                stream.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
                let start = Instant::now();
                let mut buffer = [0; 4096];
                // Where each byte gives another ten seconds it is never cut off.
                let cut = request.iter().take(50).any(|byte| {
                    if stream.write_all(&[*byte]).is_err() {
                        return true;
                    }
                    thread::sleep(Duration::from_millis(1200));
                    match stream.read(&mut buffer) {
                        Ok(count) => count == 0,
                        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
                    }
                });
                let took = start.elapsed();
                println!("{address} cut the drip off after {took:?}");
                assert!(cut, "{address}: not cut off after {took:?}");
                assert!(took > Duration::from_secs(5), "{address}: {took:?}");
            });
        }
        scope.spawn(|| {
            for _ in 0..8 {
                let id = cluster.upload("tnvideo", "tnv001", b"busy");
                assert_eq!(http::get(cluster.httpd(), &format!("/files/{id}"), &[]).body, b"busy");
                thread::sleep(Duration::from_secs(1));
            }
        });
    });
}

#[test]
fn a_thousand_paused_viewers_over_http_stall_nobody() {
    let _heavy = heavy();
    let mut cluster = Builder::new("paused").httpds(1).set(Part::Storage, "tnv_threads", 4).start();
    let content = sample(24 << 20, 6);
    let id = cluster.upload("tnvideo", "tnv001", &content);
    let viewers = (more_descriptors() / 2).min(1000);
    let view = || {
        let mut conn = Http::connect(cluster.httpd());
        conn.request("GET", &format!("/files/{id}"), &[]);
        conn
    };
    let paused: Vec<_> = (0..viewers).map(|_| view()).collect();
    thread::sleep(Duration::from_secs(1));
    let start = Instant::now();
    assert!(http::get(cluster.httpd(), &format!("/files/{id}"), &[]).body == content);
    println!("{viewers} paused viewers; another one had 24 MiB after {:?}", start.elapsed());
    // A server that is busy with the others would get here when it has given them up.
    assert!(established(cluster.httpd()) >= viewers, "the paused ones had to go first");
    let other = cluster.upload("tnvideo", "tnv001", b"busy");
    assert_eq!(http::get(cluster.httpd(), &format!("/files/{other}"), &[]).body, b"busy");
    // Those that go on before they are given up get the rest. These have just come, since nobody knows
    // how long the others have been there.
    let mut going_on: Vec<_> = (0..10).map(|_| view()).collect();
    thread::sleep(Duration::from_secs(1));
    for conn in &mut going_on {
        let head = conn.head().expect("a head");
        assert_eq!(head.status, 200);
        assert!(conn.body(content.len()).expect("all of it") == content);
    }
    drop(paused);
    for part in cluster.parts() {
        println!("peak resident of {}: {} MiB", part.config().display(), part.peak_kib() >> 10);
    }
}

#[test]
fn many_paused_downloads_from_a_storage_stall_nobody() {
    let _heavy = heavy();
    let mut cluster = Builder::new("paused-raw").start();
    let content = sample(24 << 20, 6);
    cluster.put("tnv001", "film", &content);
    let viewers = (more_descriptors() / 2).min(900);
    let paused: Vec<_> = (0..viewers)
        .map(|_| {
            let mut raw = Raw::connect(cluster.storage());
            raw.send(&raw::download("tnvideo", "tnv001", "film", 0, 0));
            raw
        })
        .collect();
    thread::sleep(Duration::from_secs(1));
    let start = Instant::now();
    let back = raw::ask(cluster.storage(), &raw::download("tnvideo", "tnv001", "film", 0, 0));
    assert!(back.success(102) == content);
    println!("{viewers} paused downloads; another one took {:?}", start.elapsed());
    // A server that is busy with the others would get here when it has given them up.
    assert!(established(cluster.storage()) >= viewers, "the paused ones had to go first");
    cluster.put("tnv001", "busy", b"busy");
    drop(paused);
    cluster.assert_peaks_below(256);
}

#[test]
fn over_the_connection_limit_one_is_told_politely() {
    let cluster = Builder::new("limit")
        .httpds(1)
        .set(Part::Tracker, "tnv_max_conns", 20)
        .set(Part::Id, "tnv_max_conns", 20)
        .set(Part::Storage, "tnv_max_conns", 20)
        .set(Part::Httpd, "tnv_max_conns", 20)
        .start();
    let full = |address| (0..25).map(|_| Raw::connect(address)).collect::<Vec<_>>();
    for (address, reply) in [(cluster.tracker(), 100), (cluster.id(), 101), (cluster.storage(), 102)] {
        // They are accepted in their order, the one that is told so last.
        let held = full(address);
        let text = Raw::connect(address).frame().failure(reply);
        println!("{text}");
        drop(held);
        // And when they have gone there is room.
        patient("room again", PATIENCE, || {
            let mut raw = Raw::connect(address);
            raw.try_send(&message(99, &[])).is_ok()
                && raw
                    .try_frame()
                    .is_ok_and(|frame| frame.is_some_and(|frame| frame.failure(reply).contains("99")))
        });
    }
    let held = full(cluster.httpd());
    let refused = Http::connect(cluster.httpd()).head().expect("a refusal");
    assert_eq!(refused.status, 503);
    drop(held);
    patient("room again", PATIENCE, || {
        let mut conn = Http::connect(cluster.httpd());
        conn.request("GET", "/files/absent", &[]);
        conn.head().is_ok_and(|head| head.status == 404)
    });
}

#[test]
fn sigterm_finishes_what_is_under_way_and_exits_0() {
    // What is under way has an hour, so that a server which ends has nothing under way.
    let mut cluster = Builder::new("sigterm")
        .httpds(1)
        .set(Part::Storage, "tnv_stop_timeout", 3600)
        .set(Part::Httpd, "tnv_stop_timeout", 3600)
        .start();
    let content = sample(24 << 20, 2);
    cluster.put("tnv001", "film", &content);

    // An upload that is half in when the signal comes.
    let mut uploading = half_an_upload(&cluster, "under-way");
    patient("the upload has begun", PATIENCE, || cluster.content_files("group001").len() == 2);
    // And a download that is being read.
    let mut downloading = Raw::connect(cluster.storage());
    downloading.send(&raw::download("tnvideo", "tnv001", "film", 0, 0));
    let (length, ..) = downloading.try_head().expect("a head").expect("a reply");
    cluster.storages[0].signal(Signal::TERM);
    // A stopping server takes no new connection, or closes it unanswered.
    patient("nobody new is served", PATIENCE, || {
        let late = Raw::try_connect(cluster.storage()).and_then(|mut raw| {
            raw.try_send(&raw::filesize("tnvideo", "tnv001", "film"))?;
            raw.try_frame()
        });
        !matches!(&late, Ok(Some(frame)) if frame.status == 0)
    });
    assert!(downloading.read(length).expect("the rest") == content);
    uploading.send(&sample(2 << 20, 9));
    assert_eq!(uploading.frame().success(102), b"");
    let status = cluster.storages[0].wait_exit(PATIENCE);
    assert_eq!(status.code(), Some(0));
    cluster.storages[0].start();
    let size = raw::ask(cluster.storage(), &raw::filesize("tnvideo", "tnv001", "under-way")).success(102);
    assert_eq!(size, (4_i64 << 20).to_be_bytes());
    cluster.wait_active(1);

    // HTTP the same.
    let mut conn = Http::connect(cluster.httpd());
    conn.request("GET", "/files/film", &[]);
    conn.head().expect("a head");
    cluster.httpds[0].signal(Signal::TERM);
    thread::sleep(Duration::from_millis(300));
    assert!(conn.body(content.len()).expect("all of it") == content);
    assert_eq!(cluster.httpds[0].wait_exit(PATIENCE).code(), Some(0));
}

#[test]
fn sigterm_and_sigint_end_every_idle_server_at_once_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        // One that waits for its idle connections waits for an hour.
        let parts = [Part::Tracker, Part::Id, Part::Storage, Part::Httpd];
        let mut cluster = parts
            .into_iter()
            .fold(Builder::new("idle-stop").httpds(1), |builder, part| {
                builder.set(part, "tnv_stop_timeout", 3600)
            })
            .start();
        let _idle: Vec<_> = [cluster.tracker(), cluster.id(), cluster.storage(), cluster.httpd()]
            .into_iter()
            .map(|address| TcpStream::connect(address).expect("connect"))
            .collect();
        for part in cluster.parts() {
            part.signal(signal);
            let start = Instant::now();
            let status = part.wait_exit(PATIENCE);
            println!("{} stopped in {:?}", part.config().display(), start.elapsed());
            assert_eq!(status.code(), Some(0));
        }
    }
}

#[test]
fn what_is_not_finished_within_the_stop_timeout_is_cut_off() {
    let mut cluster = Builder::new("stop-timeout").set(Part::Storage, "tnv_stop_timeout", 1).start();
    let mut half = half_an_upload(&cluster, "half");
    patient("the upload has begun", PATIENCE, || !cluster.content_files("group001").is_empty());
    // It goes on, too slowly to be done in days and too fast to be given up.
    let uploader = thread::spawn(move || {
        while half.try_send(b"x").is_ok() {
            thread::sleep(Duration::from_millis(200));
        }
    });
    let status = cluster.storages[0].stop(PATIENCE);
    assert_eq!(status.code(), Some(0));
    uploader.join().expect("an uploader that was cut off");
    cluster.storages[0].start();
    patient("no file stays", PATIENCE, || cluster.content_files("group001").is_empty());
    assert_eq!(cluster.file_rows(), 0);
}

#[test]
fn two_members_that_upload_at_once_on_one_embedded_database_lose_nothing() {
    let cluster = Builder::new("two-writers").groups(&["group001"], 2).start();
    let addresses: Vec<_> = cluster.storages.iter().map(|storage| storage.address()).collect();
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            let address = addresses[thread % 2];
            thread::spawn(move || {
                let mut raw = Raw::connect(address);
                for index in 0..50 {
                    let id = format!("w{thread}-{index}");
                    assert_eq!(
                        raw.ask(&raw::upload("tnvideo", "tnv001", &id, id.as_bytes())).success(102),
                        b""
                    );
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("uploads"));
    assert_eq!(cluster.file_rows(), 400);
    assert_eq!(cluster.content_files("group001").len(), 400);
}

#[test]
fn of_uploads_of_one_id_at_once_exactly_one_wins_and_nothing_of_the_others_stays() {
    let cluster = Builder::new("one-wins").groups(&["group001"], 2).start();
    let addresses: Vec<_> = cluster.storages.iter().map(|storage| storage.address()).collect();
    for round in 0..10 {
        let threads: Vec<_> = (0..6)
            .map(|thread| {
                let address = addresses[thread % 2];
                thread::spawn(move || {
                    let content = vec![thread as u8; 1000 + thread];
                    let frame =
                        raw::ask(address, &raw::upload("tnvideo", "tnv001", &format!("r{round}"), &content));
                    (frame.status == 0).then_some(content)
                })
            })
            .collect();
        let won: Vec<_> =
            threads.into_iter().filter_map(|thread| thread.join().expect("an upload")).collect();
        assert_eq!(won.len(), 1);
        for &address in &addresses {
            let back = raw::ask(address, &raw::download("tnvideo", "tnv001", &format!("r{round}"), 0, 0));
            assert_eq!(back.success(102), won[0]);
        }
    }
    patient("one file a round", PATIENCE, || cluster.content_files("group001").len() == 10);
}

#[test]
fn a_failing_store_path_is_passed_over() {
    // The first path is a file's child: nothing can be made there once it has been replaced.
    let mut cluster =
        Builder::new("store-paths").set(Part::Storage, "tnv_store_paths", "../data;../more").start();
    for index in 0..4 {
        cluster.put("tnv001", &format!("f{index}"), b"x");
    }
    cluster.storages[0].stop(PATIENCE);
    let root = cluster.path("group001");
    cluster.storages[0].start();
    // Both are on one file system, so either may be taken; now one of them goes bad underneath.
    std::fs::rename(root.join("data"), root.join("data.away")).expect("rename");
    std::fs::write(root.join("data"), b"not a directory").expect("write");
    for index in 0..4 {
        cluster.put("tnv001", &format!("g{index}"), b"y");
        let path = cluster.file_row("tnv001", &format!("g{index}")).expect("a row")[2].clone();
        assert!(path.starts_with("../more/"), "{path}");
    }
    std::fs::remove_file(root.join("data")).expect("remove");
    std::fs::rename(root.join("data.away"), root.join("data")).expect("rename");
    for index in 0..4 {
        let back =
            raw::ask(cluster.storage(), &raw::download("tnvideo", "tnv001", &format!("f{index}"), 0, 0));
        assert_eq!(back.success(102), b"x");
    }
}

#[test]
fn where_every_store_path_is_full_an_upload_is_refused_with_a_reason_and_leaves_nothing() {
    let cluster = Builder::new("full").set(Part::Storage, "tnv_reserved_space", "100%").start();
    let text =
        raw::ask(cluster.storage(), &raw::upload("tnvideo", "tnv001", "f", &sample(1 << 20, 1))).failure(102);
    println!("{text}");
    assert!(cluster.content_files("group001").is_empty());
    assert_eq!(cluster.file_rows(), 0);
}

/// A disk that fills up during an upload, beside one that has room.
#[test]
fn a_store_path_that_fills_up_is_passed_over() {
    let mut cluster = Builder::new("fills-up")
        .set(Part::Storage, "tnv_store_paths", "../data;../small")
        .set(Part::Storage, "tnv_reserved_space", "0")
        .prepare();
    let small = cluster.path("group001/small");
    let Some(_small) = Mount::memory("a_store_path_that_fills_up_is_passed_over", 3, &small) else { return };
    cluster.start_all();
    for index in 0..12 {
        let content = sample(700_000, index);
        cluster.put("tnv001", &format!("f{index}"), &content);
        let back =
            raw::ask(cluster.storage(), &raw::download("tnvideo", "tnv001", &format!("f{index}"), 0, 0));
        assert!(back.success(102) == content);
    }
    cluster.storages[0].kill();
}

#[test]
fn random_bytes_on_every_port_harm_nobody() {
    let mut cluster = Builder::new("random").httpds(1).start();
    cluster.put("tnv001", "f", b"content");
    let addresses = [cluster.tracker(), cluster.id(), cluster.storage(), cluster.httpd()];
    thread::scope(|scope| {
        for (index, address) in addresses.into_iter().enumerate() {
            scope.spawn(move || {
                for round in 0..150_u64 {
                    let mut bytes = sample(1 + (round as usize * 37) % 1000, round * 4 + index as u64);
                    if round % 3 > 0 && bytes.len() > 10 {
                        // A header that is believed, with a body that is none.
                        let length = (bytes.len() - 10) as i64;
                        bytes[..8].copy_from_slice(&length.to_be_bytes());
                        bytes[8] = [10, 11, 12, 13, 40, 70, 71, 72, 73, 120, 121][round as usize % 11];
                    }
                    let Ok(mut raw) = Raw::try_connect(address) else { continue };
                    let _ = raw.try_send(&bytes);
                    if round % 2 == 0 {
                        let _ = raw.stream().shutdown(std::net::Shutdown::Write);
                        let mut answer = Vec::new();
                        let _ = raw.stream().take(1 << 20).read_to_end(&mut answer);
                    }
                }
            });
        }
    });
    assert!(cluster.parts().all(|part| part.runs()));
    assert_eq!(http::get(cluster.httpd(), "/files/f", &[]).body, b"content");
    cluster.put("tnv001", "g", b"more");
    cluster.assert_peaks_below(128);
}

fn limit_descriptors(part: &Process, limit: usize) {
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
    let pid = Pid::from_raw(part.pid().cast_signed()).expect("a pid");
    // The server has its hard limit from here; only lowering the soft one can be undone.
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = Some((limit as u64).min(maximum.unwrap_or(u64::MAX)));
    let limit = Rlimit { current, maximum };
    prlimit(Some(pid), Resource::Nofile, limit).expect("prlimit");
}

#[test]
fn a_server_that_runs_out_of_descriptors_neither_ends_nor_spins_and_recovers() {
    let mut cluster = Builder::new("descriptors").httpds(1).start();
    cluster.put("tnv001", "f", b"content");
    let works = |cluster: &Cluster, kind: usize| {
        let ask = |address, request: &[u8]| {
            let frame = Raw::try_connect(address).and_then(|mut raw| {
                raw.try_send(request)?;
                raw.try_frame()
            });
            matches!(frame, Ok(Some(frame)) if frame.status == 0)
        };
        match kind {
            0 => ask(cluster.tracker(), &raw::addresses("tnvideo", "tnv001")),
            1 => ask(cluster.id(), &raw::get_id("../data")),
            2 => ask(cluster.storage(), &raw::filesize("tnvideo", "tnv001", "f")),
            _ => {
                let mut conn = Http::connect(cluster.httpd());
                conn.request("GET", "/files/f", &[]);
                conn.try_response("GET").is_ok_and(|response| response.body == b"content")
            }
        }
    };
    let addresses = [cluster.tracker(), cluster.id(), cluster.storage(), cluster.httpd()];
    for (kind, address) in addresses.into_iter().enumerate() {
        assert!(works(&cluster, kind));
        let part = cluster.parts().nth(kind).expect("one of each kind");
        let pid = part.pid();
        let before_all = part.open_files();
        limit_descriptors(part, before_all + 20);
        let held: Vec<_> = (0..60).map(|_| TcpStream::connect(address).expect("connect")).collect();
        part.wait_log("Too many open files", PATIENCE);
        // What waits is not accepted, and still there for the kernel to tell of: a server that asked for it
        // again and again would use all of a processor, or what others leave of it.
        let (start, before) = (Instant::now(), part.cpu_time());
        thread::sleep(Duration::from_secs(2));
        let (used, took) = (part.cpu_time() - before, start.elapsed());
        println!("{} without descriptors used {used:?} of processor in {took:?}", part.binary());
        assert!(used * 20 < took, "{} spins: {used:?} of {took:?}", part.binary());
        assert!(part.runs() && part.pid() == pid);
        drop(held);
        // The limit stays: that the connections went must suffice.
        let mut calm = 0;
        patient("the connections are gone, those too that waited to be accepted", PATIENCE, || {
            let open = cluster.parts().nth(kind).expect("one of each kind").open_files();
            calm = if open <= before_all + 5 { calm + 1 } else { 0 };
            calm >= 25
        });
        patient("it works again", PATIENCE, || works(&cluster, kind));
    }
    assert!(cluster.parts().all(|part| part.runs()));
}

/// Whatever cannot be opened for want of descriptors is no I/O error.
#[test]
fn a_storage_without_descriptors_refuses_uploads_clearly_and_blames_no_disk() {
    let cluster = Builder::new("descriptors-upload").start();
    cluster.put("tnv001", "before", b"x");
    let mut raw = Raw::connect(cluster.storage());
    raw.ask(&raw::filesize("tnvideo", "tnv001", "before")).success(102);
    let storage = &cluster.storages[0];
    let (mut stored, mut refused) = (1, 0);
    // From where there are enough down to none, one by one: each call that opens something fails once.
    for step in 0..12 {
        limit_descriptors(storage, (storage.open_files() + 4).saturating_sub(step));
        let fileid = format!("f{step}");
        let frame = raw.ask(&raw::upload("tnvideo", "tnv001", &fileid, &sample(3000, 1)));
        if frame.status == 0 {
            stored += 1;
        } else {
            let text = frame.failure(102);
            assert!(text.contains("Too many open files") || text.contains("store path"), "{text}");
            println!("{text}");
            refused += 1;
        }
    }
    println!("{refused} uploads refused for want of descriptors");
    assert!(refused >= 1);
    limit_descriptors(storage, usize::MAX);
    assert_eq!((cluster.content_files("group001").len(), cluster.file_rows()), (stored, stored));
    patient("uploads work again", PATIENCE, || {
        raw.ask(&raw::upload("tnvideo", "tnv001", "after", b"x")).status == 0
    });
    assert!(!storage.log().contains("is bad"), "{}", storage.log());
}

/// Closing at once would reset the connection, and an existing client, which sends all of it before
/// it reads, would never see the reply and try again up to ten times.
#[test]
fn who_sends_all_of_a_refused_upload_reads_the_refusal() {
    let cluster = Builder::new("drain").start();
    cluster.put("tnv001", "there", b"x");
    for size in [1 << 20, 64 << 20] {
        let mut raw = Raw::connect(cluster.storage());
        raw.send(&raw::upload("tnvideo", "tnv001", "there", &sample(size, 1)));
        raw.frame().failure(102);
        let mut raw = Raw::connect(cluster.storage());
        raw.send(&raw::upload("bad/app", "tnv001", "f", &sample(size, 1)));
        raw.frame().failure(102);
    }
}

#[test]
fn the_http_server_leaves_nothing_in_the_temporary_directory() {
    let temp = Dir::new("t");
    let mut cluster =
        Builder::new("temp").httpds(1).env("TMPDIR", temp.path().to_str().expect("UTF-8")).start();
    cluster.put("tnv001", "f", b"content");
    assert_eq!(http::get(cluster.httpd(), "/files/f", &[]).body, b"content");
    assert_eq!(cluster.httpds[0].stop(PATIENCE).code(), Some(0));
    assert_eq!(std::fs::read_dir(temp.path()).expect("list").count(), 0);
    // What a kill left is no obstacle.
    cluster.httpds[0].start();
    cluster.httpds[0].restart();
    assert_eq!(http::get(cluster.httpd(), "/files/f", &[]).body, b"content");
}

#[test]
fn a_row_whose_file_is_gone_is_no_file() {
    let cluster = Builder::new("file-gone").httpds(1).start();
    cluster.put("tnv001", "lost", b"content");
    raw::ask(cluster.storage(), &raw::filesize("tnvideo", "tnv001", "lost")).success(102);
    std::fs::remove_file(&cluster.content_files("group001")[0]).expect("remove");
    raw::ask(cluster.storage(), &raw::filesize("tnvideo", "tnv001", "lost")).failure(102);
    raw::ask(cluster.storage(), &raw::download("tnvideo", "tnv001", "lost", 0, 0)).failure(102);
    // The row says that there is one, so it may also be that the file system lags behind.
    let status = http::get(cluster.httpd(), "/files/lost", &[]).status;
    assert!([404, 502, 503].contains(&status), "{status}");
}

#[test]
fn a_mariadb_that_goes_away_and_comes_back_costs_no_restart_and_loses_nothing() {
    let Some(mut server) = MariaDb::start() else { return };
    let address = server.addr();
    let mut cluster = Builder::new("mariadb-away").httpds(1).db(Db::Maria(&server)).start();
    cluster.put("tnv001", "before", b"before");
    server.kill();
    let text = raw::ask(cluster.storage(), &raw::upload("tnvideo", "tnv001", "during", b"x")).failure(102);
    println!("without database: {text}");
    assert!(!text.contains(server.password()));
    raw::ask(cluster.storage(), &raw::filesize("tnvideo", "tnv001", "unseen")).failure(102);
    let status = http::get(cluster.httpd(), "/files/unseen", &[]).status;
    assert!(status == 502 || status == 503, "not known to be missing: {status}");
    server.restart();
    assert_eq!(server.addr(), address);
    patient("uploads work again", PATIENCE, || {
        raw::ask(cluster.storage(), &raw::upload("tnvideo", "tnv001", "after", b"after")).status == 0
    });
    for (id, content) in [("before", &b"before"[..]), ("after", b"after")] {
        let back = raw::ask(cluster.storage(), &raw::download("tnvideo", "tnv001", id, 0, 0));
        assert_eq!(back.success(102), content);
    }
    raw::ask(cluster.tracker(), &raw::addresses("tnvideo", "a-new-user")).success(100);
    patient("no file of the failed upload", PATIENCE, || {
        cluster.content_files("group001").len() == cluster.file_rows()
    });
    assert!(cluster.parts().all(|part| part.runs()));
}
