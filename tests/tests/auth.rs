//! Who may do what: the hosts that are let in, the storages that may join, the applications whose
//! uploads and deletes need a key, and the links that need a signature. No stranger gets in.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use tnv_tests::bins::bin;
use tnv_tests::cluster::{Part, active, free_address};
use tnv_tests::raw::{self, Raw};
use tnv_tests::{Builder, Cluster, Dir, Output, PATIENCE, http, patient};

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

const SECRET: &str = "a-secret-of-these-tests-0123456789";

/// A file that only its owner may read.
fn private_file(path: &Path, text: &str) {
    std::fs::write(path, text).expect("write");
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).expect("chmod");
}

/// A deployment whose HTTP server wants signed links, and the file of its secret.
fn signing<'a>(name: &str) -> (Builder<'a>, Dir, String) {
    let dir = Dir::new(&format!("{name}-secret"));
    let file = dir.join("http.secret");
    private_file(&file, &format!("# the secret of links\n{SECRET}\n"));
    let file = file.display().to_string();
    let builder = Builder::new(name).httpds(1).set(Part::Httpd, "tnv_http_secret_file", &file);
    (builder, dir, file)
}

/// What `tnv sign` prints.
#[track_caller]
fn sign(secret_file: &str, expires: &str, file: [&str; 3]) -> String {
    let mut command = Command::new(bin("tnv"));
    command.args(["sign", "--secret-file", secret_file, "--expires", expires]).args(file);
    Output::of(&mut command).success().strip_suffix('\n').expect("a line").to_owned()
}

#[test]
fn a_signed_link_opens_its_file_in_every_form_of_the_path_and_nothing_else() {
    let (builder, _dir, secret) = signing("links");
    let cluster = builder.start();
    cluster.put("tnv001", "film", b"0123456789");
    cluster.put("tnv001", "other", b"another file");
    cluster.put("o/b \u{e4}", "film", b"somebody else's");
    let link = sign(&secret, "3600", ["tnvideo", "tnv001", "film"]);
    assert!(link.starts_with("/files/tnvideo/tnv001/film?expires="), "{link}");
    let query = link.split_once('?').expect("a query").1;
    let get = |target: &str, headers: &[(&str, &str)]| http::get(cluster.httpd(), target, headers);

    for target in [
        link.clone(),
        format!("/files/film?{query}"),
        format!("/files/film/holiday.mp4?{query}"),
        format!("/files/tnvideo/tnv001/film/holiday.mp4?{query}"),
        format!("/files/film?download&{query}"),
        format!("/files/film?{query}&download=1&t=9"),
        format!("/files/f%69lm?{query}"),
    ] {
        let response = get(&target, &[]);
        assert_eq!((response.status, response.body.as_slice()), (200, &b"0123456789"[..]), "{target}");
        let is_attachment = response.want("Content-Disposition").starts_with("attachment");
        assert!(is_attachment || !target.contains("download"), "{target}");
        assert_eq!(http::ask(cluster.httpd(), "HEAD", &target, &[]).status, 200);
        let part = get(&target, &[("Range", "bytes=2-4")]);
        assert_eq!((part.status, part.body.as_slice()), (206, &b"234"[..]));
        assert_eq!(get(&target, &[("Range", "bytes=50-")]).status, 416);
        let etag = response.want("ETag");
        assert_eq!(get(&target, &[("If-None-Match", etag)]).status, 304);
        assert_eq!(get(&target, &[("If-Match", "\"x\"")]).status, 412);
    }
    let theirs = sign(&secret, "3600", ["tnvideo", "o/b \u{e4}", "film"]);
    assert_eq!(get(&theirs, &[]).body, "somebody else's".as_bytes());
    let absent = sign(&secret, "3600", ["tnvideo", "tnv001", "absent"]);
    assert_eq!(get(&absent, &[]).status, 404);

    let (expires, sig) = query.split_once('&').expect("two parameters");
    let number: u64 = expires.strip_prefix("expires=").expect("expires").parse().expect("a number");
    let value = sig.strip_prefix("sig=").expect("sig");
    let flipped = if value.starts_with('A') { "B" } else { "A" }.to_owned() + &value[1..];
    for target in [
        "/files/film".to_owned(),
        "/files/absent".to_owned(),
        "/files/film?download".to_owned(),
        format!("/files/film?{expires}"),
        format!("/files/film?{sig}"),
        format!("/files/film?expires={}&{sig}", number + 1),
        format!("/files/film?expires={}&{sig}", number - 7200),
        format!("/files/film?expires=0{number}0&{sig}"),
        format!("/files/film?{expires}&sig={flipped}"),
        format!("/files/film?{expires}&sig={}", &value[..value.len() - 1]),
        format!("/files/film?{expires}&sig={value}A"),
        format!("/files/film?{expires}&sig={}", "A".repeat(3000)),
        format!("/files/film?{expires}&{query}"),
        format!("/files/film?{query}&{sig}"),
        format!("/files/film?{expires}&sig=%00{value}"),
        format!("/files/other?{query}"),
        format!("/files/tnvideo/tnv002/film?{query}"),
        format!("/files/tnvideo/o%2Fb%20%C3%A4/film?{query}"),
        format!("/files/tnvideo1/tnv001/film?{query}"),
    ] {
        for method in ["GET", "HEAD"] {
            let response = http::ask(cluster.httpd(), method, &target, &[("If-None-Match", "*")]);
            assert_eq!(response.status, 403, "{method} {target}");
            assert!(response.header("ETag").is_none() && response.header("Content-Range").is_none());
        }
    }
    // Nor does a header line of the server's own make, sent by a stranger.
    assert_eq!(get("/files/film", &[("Tnv-Rest", "1"), ("tnv-rest", "1")]).status, 403);

    let log = cluster.httpds[0].log();
    assert!(!log.contains(value) && !log.contains(SECRET), "whoever reads the log has neither");
    assert!(log.contains("&sig=... 200 "), "{log}");
}

#[test]
fn an_expired_link_is_gone_but_what_has_begun_is_finished() {
    let (builder, _dir, secret) = signing("expired");
    let cluster = builder.start();
    // More than the sockets on the way take.
    let content: Vec<u8> = (0..48_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    cluster.put("tnv001", "film", &content);
    let link = sign(&secret, "2", ["tnvideo", "tnv001", "film"]);
    let mut viewer = http::Http::connect(cluster.httpd());
    viewer.request("GET", &link, &[]);
    assert_eq!(viewer.head().expect("a head").status, 200);
    let mut got = viewer.body(1000).expect("a beginning");
    patient("the link has expired", PATIENCE, || http::get(cluster.httpd(), &link, &[]).status == 410);
    let (path, query) = link.split_once('?').expect("a query");
    let forged = format!("{path}?{}A", &query[..query.len() - 1]);
    if forged != link {
        let other = http::get(cluster.httpd(), &forged, &[]);
        assert_eq!(other.status, 403, "that it is over is only told of what was good");
    }
    got.extend(viewer.body(content.len() - got.len()).expect("the rest"));
    assert!(got == content, "what was begun in time is sent to its end");
}

#[test]
fn secrets_of_links_are_changed_without_a_break_and_kept_where_not_everybody_reads_them() {
    let (builder, dir, secret) = signing("rotate");
    let mut cluster = builder.start();
    cluster.put("tnv001", "film", b"content");
    let status = |cluster: &Cluster, link: &str| http::get(cluster.httpd(), link, &[]).status;
    let old_link = sign(&secret, "3600", ["tnvideo", "tnv001", "film"]);
    assert_eq!(status(&cluster, &old_link), 200);
    let path = dir.join("http.secret");
    private_file(&path, &format!("another-secret-0123456789\n{SECRET}\n"));
    cluster.httpds[0].restart();
    let new_link = sign(&secret, "3600", ["tnvideo", "tnv001", "film"]);
    assert_eq!((status(&cluster, &old_link), status(&cluster, &new_link)), (200, 200));
    private_file(&path, "another-secret-0123456789\n");
    cluster.httpds[0].restart();
    assert_eq!((status(&cluster, &old_link), status(&cluster, &new_link)), (403, 200));

    let check = |lines: &str| {
        let file = dir.join("check.cfg");
        std::fs::write(&file, format!("service x {{\n{lines}\n}}\n")).expect("write");
        let out = Output::of(Command::new(bin("tnv-httpd")).args(["--check", "-c"]).arg(&file));
        (out.code, out.text() + &out.stderr)
    };
    let by_file = format!("tnv_http_secret_file = {secret}");
    assert_eq!(check(&by_file).0, 0);
    assert_eq!(check(&format!("tnv_http_secret = {SECRET}")).0, 0);
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("chmod");
    private_file(&dir.join("short"), "short-secret");
    private_file(&dir.join("empty"), "# none\n");
    for (lines, says) in [
        (by_file.clone(), "mode 644, everybody may use it"),
        (format!("tnv_http_secret = {SECRET}\n{by_file}"), "one of the two"),
        ("tnv_http_secret = short-secret".to_owned(), "openssl rand -hex 32"),
        (format!("tnv_http_secret_file = {}", dir.join("short").display()), "short:1: a secret of 12 bytes"),
        (format!("tnv_http_secret_file = {}", dir.join("empty").display()), "0 secrets"),
        (format!("tnv_http_secret_file = {}", dir.join("absent").display()), "No such file"),
    ] {
        let (code, said) = check(&lines);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(says) && said.contains("tnv_http_secret"), "{said}");
        assert!(!said.contains("short-secret") && !said.contains(SECRET), "no secret is shown: {said}");
    }
    let out = Output::of(Command::new(bin("tnv")).args(["sign", "--secret-file", &secret, "a", "u", "f"]));
    assert!(out.code == 1 && out.stderr.contains("chmod 640"), "{out:?}");
}
