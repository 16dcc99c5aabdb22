//! Who may do what: the hosts that are let in, the storages that may join, the applications whose
//! uploads and deletes need a key, and the links that need a signature. No stranger gets in.

use std::net::SocketAddr;
use std::time::Instant;

use tnv_tests::cluster::{Part, active, free_address};
use tnv_tests::raw::{self, Raw};
use tnv_tests::{Builder, Cluster, PATIENCE};

const PARTS: [Part; 4] = [Part::Tracker, Part::Id, Part::Storage, Part::Httpd];

/// A deployment with an HTTP server, each of its servers with this line.
fn each_with<'a>(name: &str, key: &str, value: &str) -> Builder<'a> {
    PARTS.into_iter().fold(Builder::new(name).httpds(1), |builder, part| builder.set(part, key, value))
}

/// The servers, each with a request that it answers.
fn doors(cluster: &Cluster) -> [(SocketAddr, Vec<u8>); 4] {
    [
        (cluster.tracker(), raw::message(13, &[])),
        (cluster.id(), raw::get_id("k")),
        (cluster.storage(), raw::filesize("tnvideo", "tnv001", "f")),
        (cluster.httpd(), b"GET /files/f HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
    ]
}

/// Whether a host is closed without an answer. It may be so fast that not even the request can be sent.
#[track_caller]
fn is_turned_away(mut raw: Raw, request: &[u8]) -> bool {
    let _ = raw.try_send(request);
    raw.closes_within(PATIENCE)
}

#[test]
fn a_host_outside_tnv_allow_hosts_is_closed_without_an_answer_by_every_server() {
    let cluster = each_with("allow-hosts", "tnv_allow_hosts", "127.0.0.1; 127.1.0.0/16").start();
    for (address, request) in doors(&cluster) {
        for stranger in [[127, 0, 0, 2], [127, 2, 0, 1], [127, 0, 255, 255]] {
            assert!(is_turned_away(Raw::connect_from(stranger, address), &request), "{address} {stranger:?}");
        }
        for friend in [[127, 0, 0, 1], [127, 1, 0, 0], [127, 1, 255, 254]] {
            let mut raw = Raw::connect_from(friend, address);
            raw.send(&request);
            assert_eq!(raw.read(1).map(|byte| byte.len()).ok(), Some(1), "{address} answers {friend:?}");
        }
    }
    for part in [&cluster.trackers[0], &cluster.ids[0], &cluster.storages[0], &cluster.httpds[0]] {
        part.wait_log("without an answer: not in tnv_allow_hosts", PATIENCE);
    }
}

#[test]
fn strangers_take_no_place_and_fill_no_log() {
    let cluster =
        each_with("strangers", "tnv_allow_hosts", "127.0.0.1").set(Part::Tracker, "tnv_max_conns", 3);
    let cluster = cluster.start();
    let start = Instant::now();
    // They are left open here: it is the server's part to end them.
    let strangers: Vec<Raw> =
        (0..1000).map(|_| Raw::connect_from([127, 0, 0, 2], cluster.tracker())).collect();
    // The storage has one place for its join; one of the other two is enough for this.
    raw::ask(cluster.tracker(), &raw::message(13, &[])).success(100);
    for mut stranger in strangers {
        assert!(stranger.closes_within(PATIENCE));
    }
    let seconds = start.elapsed().as_secs() as usize + 1;
    let lines = cluster.trackers[0].log().matches("without an answer").count();
    assert!((1..=seconds + 1).contains(&lines), "{lines} lines in {seconds} s");
}

#[test]
fn addresses_of_ipv6_are_told_apart_and_mapped_ones_are_ipv4() {
    for (list, let_in) in [
        ("::1;127.0.0.1", [true, true, false]),
        ("127.0.0.0/24", [false, true, true]),
        ("::ffff:127.0.0.2", [false, false, true]),
        ("::/0", [true, false, false]),
    ] {
        let port = free_address().port();
        let cluster = Builder::new("allow-v6")
            .set(Part::Tracker, "tnv_bind", format!("[::]:{port}"))
            .set(Part::Tracker, "tnv_allow_hosts", list)
            .no_wait()
            .prepare();
        let mut cluster = cluster;
        cluster.trackers[0].start();
        let request = raw::message(13, &[]);
        let v6 = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port));
        let v4 = SocketAddr::from(([127, 0, 0, 1], port));
        let hosts = [
            Raw::connect_from([0, 0, 0, 0, 0, 0, 0, 1_u16], v6),
            Raw::connect_from([127, 0, 0, 1], v4),
            Raw::connect_from([127, 0, 0, 2], v4),
        ];
        for (mut host, let_in) in hosts.into_iter().zip(let_in) {
            match let_in {
                true => drop(host.ask(&request).success(100)),
                false => assert!(is_turned_away(host, &request), "{list}"),
            }
        }
    }
}

/// The story: trackers took the word of whoever said it was a storage, and sent clients there with all
/// that they had to store.
#[test]
fn only_hosts_in_tnv_allow_join_become_storages() {
    let cluster =
        Builder::new("allow-join").set(Part::Tracker, "tnv_allow_join", "127.0.0.9").no_wait().start();
    let tracker = cluster.tracker();
    for request in [
        raw::message(10, &raw::join("group001", "evil", 23000, 1)),
        raw::message(11, &raw::beat("group001", "evil")),
    ] {
        let mut stranger = Raw::connect_from([127, 0, 0, 1], tracker);
        let said = stranger.ask(&request).failure(100);
        assert!(said.contains("127.0.0.1 may not join") && said.contains("tnv_allow_join"), "{said}");
        assert!(stranger.closes_within(PATIENCE), "one try a connection");
    }
    // Its own storage, on 127.0.0.1, is one of them.
    cluster.storages[0].wait_log("may not join as a storage", PATIENCE);
    assert_eq!(active(tracker), 0);
    let mut storage = Raw::connect_from([127, 0, 0, 9], tracker);
    storage.ask(&raw::message(10, &raw::join("group001", "good", 23000, 1))).success(100);
    storage.ask(&raw::message(11, &raw::beat("group001", "good"))).success(100);
    assert_eq!(active(tracker), 1, "all the same, 127.0.0.1 may ask for what it needs");
    raw::ask(tracker, &raw::addresses("tnvideo", "tnv001")).success(100);
}

#[test]
fn a_server_that_others_can_reach_warns_at_start_when_nobody_said_who_may() {
    let warned = |bind: &str, lines: &[(&str, &str)]| {
        let mut cluster = Builder::new("open-doors");
        for part in PARTS {
            cluster = cluster.set(part, "tnv_bind", format!("{bind}:{}", free_address().port()));
            for (key, value) in lines {
                if *key != "tnv_allow_join" || part == Part::Tracker {
                    cluster = cluster.set(part, key, value);
                }
            }
        }
        let mut cluster = cluster.httpds(1).no_wait().prepare();
        cluster.parts().for_each(|part| part.spawn());
        cluster.parts().for_each(|part| {
            part.wait_ready();
        });
        let mut warned: Vec<usize> = Vec::new();
        for part in cluster.parts() {
            let log = part.log();
            let lines = log.lines().filter(|line| line.contains(" WARN ") && line.contains("tnv_allow_"));
            let lines: Vec<_> = lines.collect();
            assert!(
                lines.iter().all(|line| line.contains(".cfg:") && line.contains(": tnv_allow_")),
                "{lines:?}"
            );
            warned.push(lines.len());
        }
        warned
    };
    assert_eq!(warned("0.0.0.0", &[]), [2, 1, 1, 1], "a tracker has two doors");
    assert_eq!(warned("[::]", &[("tnv_allow_hosts", "0.0.0.0/0;::/0"), ("tnv_allow_join", "::1")]), [0; 4]);
    assert_eq!(warned("0.0.0.0", &[("tnv_allow_hosts", "127.0.0.1"), ("tnv_allow_join", "::1")]), [1; 4]);
    assert_eq!(warned("127.0.0.1", &[]), [0; 4]);
}

#[test]
fn the_shipped_files_let_in_this_host_alone() {
    let etc = tnv_tests::bins::workspace().join("etc");
    for file in ["tracker.cfg", "id.cfg", "storage.cfg", "http.cfg"] {
        let text = std::fs::read_to_string(etc.join(file)).expect("a shipped file");
        let has = |line: &str| text.lines().any(|known| known.trim() == line);
        assert!(has("tnv_allow_hosts = 127.0.0.0/8;::1/128"), "{file}");
        assert_eq!(has("tnv_allow_join = 127.0.0.0/8;::1/128"), file == "tracker.cfg", "{file}");
    }
}
