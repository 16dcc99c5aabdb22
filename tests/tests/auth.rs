//! Who may do what: the hosts that are let in, the storages that may join, the applications whose
//! uploads and deletes need a key, and the links that need a signature. No stranger gets in.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use rustix::process::Signal;
use sha2::Sha256;
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

const KEY: &str = "8d1f0c5a6e2b49738d1f0c5a6e2b4973";
const OTHER_KEY: &str = "00112233445566778899aabbccddeeff";

/// A deployment whose storages need a key for `tnvideo`, and the file that says so.
fn keyed<'a>(name: &str) -> (Builder<'a>, Dir, String) {
    let dir = Dir::new(&format!("{name}-keys"));
    let file = dir.join("app.keys");
    private_file(&file, &format!("# keys\ntnvideo {KEY}\n"));
    let file = file.display().to_string();
    let builder = Builder::new(name).set(Part::Storage, "tnv_app_keys_file", &file).set(
        Part::Tracker,
        "tnv_apps_id",
        "tnvideo;other",
    );
    (builder, dir, file)
}

/// Asks for a storage's nonce.
#[track_caller]
fn challenge(raw: &mut Raw, appid: &str) -> Vec<u8> {
    raw.ask(&raw::message(124, &raw::text(appid.as_bytes(), 16))).success(102)
}

/// A proof, made as its document says: each part with its length before it.
fn proof(appid: &str, key: &str, nonce: &[u8]) -> Vec<u8> {
    let ours = [0x5A; 32];
    let mut hmac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("a key");
    for part in [&b"TNV application key 1"[..], nonce, &ours, appid.as_bytes()] {
        hmac.update(&(part.len() as u64).to_be_bytes());
        hmac.update(part);
    }
    let mut body = raw::text(appid.as_bytes(), 16);
    body.extend(ours);
    body.extend(hmac.finalize().into_bytes());
    raw::message(125, &body)
}

/// A connection that has proven the key.
fn proven(storage: SocketAddr, key: &str) -> Raw {
    let mut raw = Raw::connect(storage);
    let nonce = challenge(&mut raw, "tnvideo");
    assert_eq!(raw.ask(&proof("tnvideo", key, &nonce)).success(102), b"");
    raw
}

/// The story: whoever had a storage's address could delete any file whose ID he had seen in a link.
#[test]
fn uploads_and_deletes_of_an_application_with_a_key_need_proof_and_nothing_else_does() {
    let (builder, _dir, _) = keyed("app-keys");
    let cluster = builder.httpds(1).start();
    let storage = cluster.storage();
    raw::ask(cluster.tracker(), &raw::addresses("tnvideo", "tnv001")).success(100);
    let content = vec![b'x'; 300_000];
    let upload = raw::upload("tnvideo", "tnv001", "film", &content);

    let mut friend = proven(storage, KEY);
    assert_eq!(friend.ask(&upload).success(102), b"");
    let needs = |mut raw: Raw, request: &[u8]| {
        let said = raw.ask(request).failure(102);
        assert!(said.contains("tnvideo needs a key"), "{said}");
        assert!(raw.closes_within(PATIENCE));
    };
    // The content is taken and dropped, so that an existing client gets to read why.
    needs(Raw::connect(storage), &raw::upload("tnvideo", "tnv001", "film2", &content));
    let checked = raw::upload_checked("tnvideo", "tnv001", "film2", &content, raw::crc32(&content));
    needs(Raw::connect(storage), &checked);
    let mut checked = raw::upload_head("tnvideo", "tnv001", "film3", 5);
    checked.extend(u64::from(0_u32).to_be_bytes());
    checked.extend(b"12345");
    needs(Raw::connect(storage), &raw::message(123, &checked));
    needs(Raw::connect(storage), &raw::delete("tnvideo", "tnv001", "film"));
    needs(Raw::connect(storage), &raw::delete("tnvideo", "tnv001", "absent"));

    // Whoever reads needs none, by any command.
    let mut reader = Raw::connect(storage);
    let size = reader.ask(&raw::filesize("tnvideo", "tnv001", "film")).success(102);
    assert_eq!(size, 300_000_i64.to_be_bytes());
    assert_eq!(reader.ask(&raw::download("tnvideo", "tnv001", "film", 0, 0)).success(102), content);
    let stat = reader.ask(&raw::message(120, &raw::triple("tnvideo", "tnv001", "film"))).success(102);
    let mut read = raw::triple("tnvideo", "tnv001", "film");
    read.extend([0; 16]);
    read.extend(&stat[25..]);
    assert_eq!(reader.ask(&raw::message(121, &read)).success(102), content);
    assert_eq!(http::get(cluster.httpd(), "/files/film", &[]).body, content);

    // Another application has no key: all is as it was, the captured bytes of existing clients too.
    assert_eq!(challenge(&mut reader, "other"), b"");
    reader.ask(&raw::upload("other", "tnv001", "theirs", b"content")).success(102);
    reader.ask(&raw::delete("other", "tnv001", "theirs")).success(102);

    // The proof lasts as long as its connection, beside whatever else is asked on it.
    friend.ask(&raw::filesize("tnvideo", "tnv001", "film")).success(102);
    friend.ask(&raw::delete("tnvideo", "tnv001", "film")).success(102);
    friend.ask(&upload).success(102);
    let log = cluster.storages[0].log();
    assert!(!log.contains(KEY) && log.contains("tnvideo needs a key"), "{log}");
}

#[test]
fn a_proof_that_was_overheard_or_is_false_opens_nothing() {
    let (builder, _dir, _) = keyed("false-proofs");
    let cluster = builder.start();
    let storage = cluster.storage();
    let refused = |raw: &mut Raw, request: &[u8], says: &str| {
        let said = raw.ask(request).failure(102);
        assert!(said.contains(says), "{said}");
        assert!(raw.closes_within(PATIENCE), "one try a connection");
    };
    let mut overheard = Raw::connect(storage);
    let nonce = challenge(&mut overheard, "tnvideo");
    assert_eq!(nonce.len(), 32);
    let good = proof("tnvideo", KEY, &nonce);
    overheard.ask(&good).success(102);
    // The very bytes: on a new connection, on one with a challenge of its own, and on this one again.
    refused(&mut Raw::connect(storage), &good, "no challenge");
    let mut another = Raw::connect(storage);
    assert_ne!(challenge(&mut another, "tnvideo"), nonce);
    refused(&mut another, &good, "no proof");
    refused(&mut overheard, &good, "no challenge");

    let cases = [
        (proof("tnvideo", OTHER_KEY, &nonce), "another key"),
        (proof("tnvideo", KEY, &[0; 32]), "another nonce"),
        (proof("other", KEY, &nonce), "another application"),
        (raw::message(125, &[0; 80]), "no application"),
        (raw::message(125, &proof("tnvideo", KEY, &nonce)[10..89]), "a byte short"),
        (raw::message(124, &[b'x'; 16]), "no NUL"),
        (raw::message(124, &[0; 15]), "too short"),
    ];
    for (request, what) in cases {
        let mut raw = Raw::connect(storage);
        challenge(&mut raw, "tnvideo");
        raw.ask(&request).failure(102);
        // Where the connection is still there, it has no right that it had not before.
        if raw.try_send(&raw::delete("tnvideo", "tnv001", "f")).is_ok()
            && let Ok(Some(frame)) = raw.try_frame()
        {
            assert!(frame.failure(102).contains("needs a key"), "{what}");
        }
    }
    // A challenge in the middle of a challenge voids the first.
    let mut twice = Raw::connect(storage);
    let first = challenge(&mut twice, "tnvideo");
    challenge(&mut twice, "tnvideo");
    refused(&mut twice, &proof("tnvideo", KEY, &first), "no proof");
}

/// It waits longer than a storage does: half a minute, beside the other tests.
#[test]
fn a_challenge_that_is_not_answered_in_half_a_minute_is_void() {
    let (builder, _dir, _) = keyed("late-proofs");
    let cluster = builder.start();
    let mut late = Raw::connect(cluster.storage());
    let nonce = challenge(&mut late, "tnvideo");
    std::thread::sleep(Duration::from_secs(31));
    let said = late.ask(&proof("tnvideo", KEY, &nonce)).failure(102);
    assert!(said.contains("no challenge"), "{said}");
    assert!(late.closes_within(PATIENCE));
}

/// The client's command line with a key in its environment.
fn tnv_with(cluster: &Cluster, key: &str, args: &[&str]) -> Output {
    Output::of(cluster.tnv_command(args).env("TNV_APP_KEY", key))
}

#[test]
fn the_client_proves_the_key_that_it_is_given() {
    let (builder, dir, file) = keyed("client-keys");
    let mut cluster = builder.groups(&["group001"], 2).start();
    let film = cluster.file("film", b"content of a film").display().to_string();
    let upload = ["upload", "tnvideo", "tnv001", &film];
    let id = |out: Output| out.success().trim().strip_prefix("Upload success: ").expect("an ID").to_owned();
    let by_environment = id(tnv_with(&cluster, KEY, &upload));
    let by_file = id(cluster.tnv(&["upload", "tnvideo", "tnv001", &film, "--key-file", &file]));
    for out in [cluster.tnv(&upload), cluster.tnv(&["delete", "tnvideo", "tnv001", &by_file])] {
        assert!(out.code == 1 && out.stderr.contains("tnvideo needs a key"), "{out:?}");
    }
    let out = tnv_with(&cluster, OTHER_KEY, &["delete", "tnvideo", "tnv001", &by_file]);
    assert!(out.code == 1 && out.stderr.contains("no proof of the key of tnvideo"), "{out:?}");
    assert!(!out.stderr.contains(OTHER_KEY));
    let out = tnv_with(&cluster, "short", &["delete", "tnvideo", "tnv001", &by_file]);
    assert!(out.code == 1 && out.stderr.contains("TNV_APP_KEY: a secret of 5 bytes"), "{out:?}");
    cluster.tnv(&["filesize", "tnvideo", "tnv001", &by_file]).success();
    tnv_with(&cluster, KEY, &["delete", "tnvideo", "tnv001", &by_environment]).success();
    cluster.tnv(&["delete", "tnvideo", "tnv001", &by_file, "--key-file", &file]).success();
    // An application without a key takes no notice of one.
    id(tnv_with(&cluster, KEY, &["upload", "other", "tnv001", &film]));

    // The key is changed while all goes on: first both count, then the new one alone.
    let reread = |cluster: &Cluster, keys: &str, told: &str| {
        private_file(&dir.join("app.keys"), keys);
        for storage in &cluster.storages {
            let before = storage.log().matches(told).count();
            storage.signal(Signal::HUP);
            patient(told, PATIENCE, || storage.log().matches(told).count() > before);
        }
    };
    let mut old = proven(cluster.storage(), KEY);
    let delete_absent = raw::delete("tnvideo", "tnv001", "absent");
    reread(&cluster, &format!("tnvideo {OTHER_KEY}\ntnvideo {KEY}\n"), "keys of 1 applications");
    tnv_with(&cluster, KEY, &upload).success();
    tnv_with(&cluster, OTHER_KEY, &upload).success();
    assert!(!old.ask(&delete_absent).failure(102).contains("key"), "it is still good");
    reread(&cluster, &format!("tnvideo {OTHER_KEY}\n"), "keys of 1 applications");
    assert_eq!(tnv_with(&cluster, KEY, &upload).code, 1);
    tnv_with(&cluster, OTHER_KEY, &upload).success();
    assert!(old.ask(&delete_absent).failure(102).contains("needs a key"), "the proof went with its key");
    // A file at fault opens no door.
    reread(&cluster, "tnvideo short\n", "the keys of applications stay as they are");
    assert_eq!(cluster.tnv(&upload).code, 1);
    tnv_with(&cluster, OTHER_KEY, &upload).success();
    // But nothing starts with one.
    let storage = &mut cluster.storages[0];
    let config = storage.config().display().to_string();
    let check = Output::of(
        Command::new(bin("tnv-storage")).args(["--check", "-c", &config]).current_dir(storage.cwd()),
    );
    let said = check.text() + &check.stderr;
    assert!(
        check.code == 1 && said.contains("app.keys:1: a secret of 5 bytes as the key of tnvideo"),
        "{said}"
    );
    std::fs::set_permissions(dir.join("app.keys"), Permissions::from_mode(0o644)).expect("chmod");
    let check = Output::of(
        Command::new(bin("tnv-storage")).args(["--check", "-c", &config]).current_dir(storage.cwd()),
    );
    let said = check.text() + &check.stderr;
    assert!(check.code == 1 && said.contains("mode 644, everybody may use it"), "{said}");
}

/// The story: file IDs and users are any text, and a line end in one began a line of the log that nobody
/// had written.
#[test]
fn no_name_that_is_sent_forges_a_line_of_the_log() {
    let (builder, _dir, _) = keyed("forged-lines");
    let cluster = builder.httpds(1).start();
    let forged = "x\n2026-01-01T00:00:00.000Z ERROR [forged] \r\u{2028}\u{1b}[2J\u{202e}";
    let storage = cluster.storage();
    for request in [
        raw::upload("tnvideo", forged, forged, b"x"),
        raw::delete("tnvideo", forged, forged),
        raw::filesize("tnvideo", forged, forged),
        raw::upload("other", forged, forged, b"x"),
        raw::upload("other", forged, forged, b"x"),
        raw::message(124, &raw::text(b"x\nERROR forged", 16)),
        raw::message(125, &[raw::text(b"x\nERROR forged", 16), vec![0; 64]].concat()),
    ] {
        raw::ask(storage, &request);
    }
    for request in [
        raw::addresses("tnvideo", forged),
        raw::addresses("x\nERROR forge", forged),
        raw::message(10, &raw::join("x\nERROR forged", forged, 5, 1)),
        raw::message(10, &raw::join("group001", forged, 5, 1)),
        raw::message(11, &raw::beat("group001", forged)),
    ] {
        raw::ask(cluster.tracker(), &request);
    }
    raw::ask(cluster.id(), &raw::get_id(forged));
    for target in ["/files/x%0AERROR%20forged?sig=%0AERROR", "/files/other/u%0D%0AERROR/%0AERROR%20forged"] {
        http::get(cluster.httpd(), target, &[("Range", "bytes=%0A"), ("If-Match", "\t")]);
    }
    for part in [&cluster.trackers[0], &cluster.ids[0], &cluster.storages[0], &cluster.httpds[0]] {
        let log = part.log();
        for line in log.lines() {
            let is_ours = line.starts_with("20")
                && line.split(' ').nth(1).is_some_and(|level| ["INFO", "WARN", "ERROR"].contains(&level));
            assert!(is_ours && !line.starts_with("2026-01-01T00:00:00.000Z"), "{line:?}");
            assert!(!line.contains(['\u{1b}', '\r', '\u{2028}', '\u{202e}']), "{line:?}");
        }
    }
}
