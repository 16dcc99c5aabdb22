//! HTTP as browsers, players and download managers speak it.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tnv_tests::http::{self, Http, Response};
use tnv_tests::raw;
use tnv_tests::tools::heavy;
use tnv_tests::{Builder, Cluster, PATIENCE, sample};

/// How soon a server must have closed a connection: long before it would close one that is idle,
/// after 300 s.
const CLOSE_BOUND: Duration = Duration::from_secs(100);

fn cluster(name: &str) -> Cluster {
    Builder::new(name).httpds(1).start()
}

/// The first bytes of an MP4, and then something.
fn mp4(bytes: usize) -> Vec<u8> {
    let mut content = b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41".to_vec();
    content.extend(sample(bytes - content.len(), 77));
    content
}

fn assert_validators(response: &Response) {
    let tag = response.want("ETag");
    assert!(tag.starts_with('"') && tag.ends_with('"') && tag.len() > 10, "not strong: {tag}");
    let modified = response.want("Last-Modified");
    assert!(modified.len() == 29 && modified.ends_with(" GMT"), "{modified}");
    assert_eq!(response.want("Accept-Ranges"), "bytes");
}

#[test]
fn get_answers_with_length_type_and_validators() {
    let cluster = cluster("get");
    let content = mp4(300_000);
    cluster.put("tnv001", "film", &content);
    let response = http::get(cluster.httpd(), "/files/film", &[]);
    assert_eq!(response.status, 200);
    assert!(response.body == content);
    assert_eq!(response.want("Content-Length"), "300000");
    assert_eq!(response.want("Content-Type"), "video/mp4");
    assert_eq!(response.want("X-Content-Type-Options"), "nosniff");
    assert_validators(&response);
    let disposition = response.header("Content-Disposition").unwrap_or("inline");
    assert!(disposition.starts_with("inline"), "a browser plays it: {disposition}");
    // The same file has the same validators, on each asking.
    let again = http::get(cluster.httpd(), "/files/film", &[]);
    assert_eq!(again.want("ETag"), response.want("ETag"));
    assert_eq!(again.want("Last-Modified"), response.want("Last-Modified"));
}

#[test]
fn head_answers_as_get_without_the_body() {
    let cluster = cluster("head");
    cluster.put("tnv001", "film", &mp4(300_000));
    cluster.put("tnv001", "empty", b"");
    let mut conn = Http::connect(cluster.httpd());
    for target in
        ["/files/film", "/files/empty", "/files/absent", "/nowhere", "/files/tnvideo/tnv001/film/x.mp4"]
    {
        let head = conn.ask("HEAD", target, &[]);
        let get = conn.ask("GET", target, &[]);
        assert_eq!(head.status, get.status, "{target}");
        for name in [
            "Content-Length",
            "Content-Type",
            "ETag",
            "Last-Modified",
            "Accept-Ranges",
            "Content-Disposition",
        ] {
            assert_eq!(head.header(name), get.header(name), "{name} of {target}");
        }
    }
    let range = conn.ask("HEAD", "/files/film", &[("Range", "bytes=0-9")]);
    // RFC 9110 defines Range for GET alone, so either is an answer; a body is not.
    assert!(range.status == 200 || range.status == 206, "{}", range.status);
    assert_eq!(conn.ask("GET", "/files/film", &[]).status, 200);
}

#[test]
fn one_range_of_each_form_is_answered_with_206() {
    let cluster = cluster("ranges");
    let content = sample(10_000, 4);
    cluster.put("tnv001", "f", &content);
    let mut conn = Http::connect(cluster.httpd());
    for (range, first, last) in [
        ("bytes=0-0", 0, 0),
        ("bytes=0-", 0, 9999),
        ("bytes=9999-9999", 9999, 9999),
        ("bytes=9999-", 9999, 9999),
        ("bytes=5000-5999", 5000, 5999),
        ("bytes=9000-99999999999999999999", 9000, 9999),
        ("bytes=-1", 9999, 9999),
        ("bytes=-500", 9500, 9999),
        ("bytes=-99999", 0, 9999),
        ("bytes= 1-2", 1, 2),
        ("BYTES=3-4", 3, 4),
    ] {
        let response = conn.ask("GET", "/files/f", &[("Range", range)]);
        assert_eq!(response.status, 206, "{range}");
        assert_eq!(response.want("Content-Range"), format!("bytes {first}-{last}/10000"), "{range}");
        assert_eq!(response.body, &content[first..=last], "{range}");
        assert_validators(&response);
    }
}

#[test]
fn a_range_outside_the_file_is_416_and_a_malformed_one_is_ignored() {
    let cluster = cluster("bad-ranges");
    let content = sample(10_000, 4);
    cluster.put("tnv001", "f", &content);
    cluster.put("tnv001", "empty", b"");
    let mut conn = Http::connect(cluster.httpd());
    for range in [
        "bytes=10000-",
        "bytes=10000-10001",
        "bytes=99999999999999999999-",
        "bytes=-0",
        "bytes=20000-30000,40000-",
    ] {
        let response = conn.ask("GET", "/files/f", &[("Range", range)]);
        assert_eq!(response.status, 416, "{range}");
        assert_eq!(response.want("Content-Range"), "bytes */10000", "{range}");
    }
    for range in [
        "bytes",
        "bytes=",
        "bytes=a-b",
        "bytes=5-4",
        "bytes=--5",
        "lines=1-2",
        "bytes=1-2-3",
        "bytes=-",
        "0-5",
    ] {
        let response = conn.ask("GET", "/files/f", &[("Range", range)]);
        assert_eq!(response.status, 200, "{range}");
        assert!(response.body == content, "{range}");
    }
    for range in ["bytes=0-", "bytes=0-1048575", "bytes=-5", "bytes=9-"] {
        let response = conn.ask("GET", "/files/empty", &[("Range", range)]);
        assert_eq!((response.status, response.want("Content-Length")), (200, "0"), "{range}");
        assert_eq!((response.header("Content-Range"), response.body.len()), (None, 0), "{range}");
    }
    let response = conn.ask("GET", "/files/empty", &[]);
    assert_eq!((response.status, response.want("Content-Length")), (200, "0"));
}

#[test]
fn several_ranges_come_as_multipart() {
    let cluster = cluster("multipart");
    let content = sample(10_000, 4);
    cluster.put("tnv001", "film.mp4", &content);
    let mut conn = Http::connect(cluster.httpd());
    for ranges in ["0-9,100-199", "0-0,9999-9999,5000-5009", "-1,0-0", "9990-,0-9", "0-9,20000-30000,30-39"] {
        let response = conn.ask("GET", "/files/film.mp4", &[("Range", &format!("bytes={ranges}"))]);
        assert_eq!(response.status, 206, "{ranges}");
        let parts = response.parts();
        let wanted = ranges.split(',').filter(|range| *range != "20000-30000").count();
        assert_eq!(parts.len(), wanted, "{ranges}");
        for (range, bytes) in parts {
            let span =
                range.strip_prefix("bytes ").and_then(|range| range.strip_suffix("/10000")).expect("a range");
            let (first, last) = span.split_once('-').expect("first-last");
            let (first, last): (usize, usize) = (first.parse().expect("first"), last.parse().expect("last"));
            assert_eq!(bytes, &content[first..=last], "{ranges}");
        }
    }
    // A thousand ranges of the whole file would make a terabyte of a gigabyte: the whole file, or a
    // refusal, but never more than some few files' worth.
    let many = vec!["0-"; 1000].join(",");
    let response = conn.ask("GET", "/files/film.mp4", &[("Range", &format!("bytes={many}"))]);
    assert!([200, 206, 400, 416, 431].contains(&response.status), "{}", response.status);
    assert!(response.body.len() < 100_000, "{} bytes", response.body.len());
}

#[test]
fn conditional_requests_are_answered_by_the_validators() {
    let cluster = cluster("conditional");
    let content = sample(10_000, 4);
    cluster.put("tnv001", "f", &content);
    let mut conn = Http::connect(cluster.httpd());
    let whole = conn.ask("GET", "/files/f", &[]);
    let tag = whole.want("ETag").to_owned();
    let modified = whole.want("Last-Modified").to_owned();
    let weak = format!("W/{tag}");
    let list = format!("\"a\", {tag}, \"b\"");
    let (early, late) = ("Thu, 01 Jan 2015 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT");
    let cases: Vec<(Vec<(&str, &str)>, u16)> = vec![
        (vec![("If-None-Match", &tag)], 304),
        (vec![("If-None-Match", &weak)], 304),
        (vec![("If-None-Match", &list)], 304),
        (vec![("If-None-Match", "*")], 304),
        (vec![("If-None-Match", "\"other\"")], 200),
        (vec![("If-Modified-Since", &modified)], 304),
        (vec![("If-Modified-Since", early)], 200),
        (vec![("If-Modified-Since", late)], 304),
        (vec![("If-Modified-Since", "yesterday")], 200),
        (vec![("If-None-Match", "\"other\""), ("If-Modified-Since", &modified)], 200),
        (vec![("If-Match", &tag)], 200),
        (vec![("If-Match", "*")], 200),
        (vec![("If-Match", &list)], 200),
        (vec![("If-Match", "\"other\"")], 412),
        (vec![("If-Match", &weak)], 412),
        (vec![("If-Unmodified-Since", &modified)], 200),
        (vec![("If-Unmodified-Since", early)], 412),
        (vec![("If-Match", "\"other\""), ("Range", "bytes=0-9")], 412),
        (vec![("If-None-Match", &tag), ("Range", "bytes=0-9")], 304),
        (vec![("If-Range", &tag), ("Range", "bytes=0-9")], 206),
        (vec![("If-Range", "\"other\""), ("Range", "bytes=0-9")], 200),
        (vec![("If-Range", &weak), ("Range", "bytes=0-9")], 200),
        (vec![("If-Range", early), ("Range", "bytes=0-9")], 200),
        (vec![("If-Range", "\"other\""), ("Range", "bytes=99999-")], 200),
        (vec![("If-Range", &tag), ("Range", "bytes=99999-")], 416),
    ];
    for (headers, status) in cases {
        let response = conn.ask("GET", "/files/f", &headers);
        assert_eq!(response.status, status, "{headers:?}");
        match status {
            200 => assert!(response.body == content, "{headers:?}"),
            206 => assert_eq!(response.body, &content[..10], "{headers:?}"),
            304 => assert_eq!(response.want("ETag"), tag, "{headers:?}"),
            _ => {}
        }
        let head = conn.ask("HEAD", "/files/f", &headers);
        assert!(
            head.status == status || (status == 206 || status == 416) && head.status == 200,
            "{headers:?}"
        );
    }
}

#[test]
fn a_new_upload_under_the_same_id_has_new_validators() {
    let cluster = cluster("new-upload");
    let (one, two) = (sample(10_000, 1), sample(10_000, 2));
    cluster.put("tnv001", "f", &one);
    let mut conn = Http::connect(cluster.httpd());
    let first = conn.ask("GET", "/files/f", &[]).want("ETag").to_owned();
    raw::ask(cluster.storage(), &raw::delete("tnvideo", "tnv001", "f")).success(102);
    assert_eq!(conn.ask("GET", "/files/f", &[]).status, 404);
    cluster.put("tnv001", "f", &two);
    let response = conn.ask("GET", "/files/f", &[("If-Range", &first), ("Range", "bytes=5000-")]);
    assert_eq!(response.status, 200, "the rest of another file is no rest");
    assert!(response.body == two);
    assert_ne!(response.want("ETag"), first);
    // The very same content, uploaded anew, is another upload all the same.
    let second = response.want("ETag").to_owned();
    raw::ask(cluster.storage(), &raw::delete("tnvideo", "tnv001", "f")).success(102);
    cluster.put("tnv001", "f", &two);
    assert_ne!(conn.ask("GET", "/files/f", &[]).want("ETag"), second);
}

#[test]
fn every_member_gives_a_file_the_same_validators() {
    let mut cluster = Builder::new("same-validators").groups(&["group001"], 2).httpds(1).start();
    cluster.put("tnv001", "f", &sample(10_000, 4));
    let mut seen = BTreeSet::new();
    for victim in [0, 1] {
        cluster.storages[victim].kill();
        cluster.wait_active(1);
        let response = http::get(cluster.httpd(), "/files/f", &[]);
        assert_eq!(response.status, 200);
        seen.insert((response.want("ETag").to_owned(), response.want("Last-Modified").to_owned()));
        cluster.storages[victim].start();
        cluster.wait_active(2);
    }
    assert_eq!(seen.len(), 1, "{seen:?}");
}

/// The head of an answer to someone whose body never ends: a server that waits for it never answers.
fn head_while_sending(conn: &mut Http) -> http::Response {
    let stream = conn.stream().try_clone().expect("share a connection");
    let answered = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // It ends too where the server closes.
            while !answered.load(Ordering::Relaxed) && (&stream).write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let head = conn.head();
        answered.store(true, Ordering::Relaxed);
        head.expect("an answer")
    })
}

#[test]
fn other_methods_are_405_with_allow() {
    let cluster = cluster("methods");
    cluster.put("tnv001", "f", b"content");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"] {
        let mut conn = Http::connect(cluster.httpd());
        conn.request(method, "/files/f", &[]);
        let response = conn.response(method);
        assert_eq!(response.status, 405, "{method}");
        let allowed: BTreeSet<_> = response.want("Allow").split(',').map(str::trim).collect();
        assert_eq!(allowed, ["GET", "HEAD"].into(), "{method}");
    }
    // With a body: small, huge by its header, chunked. The answer comes, and nothing is waited for.
    for headers in [
        &[("Content-Length", "5")][..],
        &[("Content-Length", "1000000000000000")],
        &[("Transfer-Encoding", "chunked")],
    ] {
        let mut conn = Http::connect(cluster.httpd());
        conn.request("POST", "/files/f", headers);
        conn.send(b"hello");
        let status = head_while_sending(&mut conn).status;
        assert!([400, 405, 411, 413].contains(&status), "{headers:?}: {status}");
    }
    assert_eq!(http::get(cluster.httpd(), "/files/f", &[]).body, b"content");
}

#[test]
fn what_is_not_there_is_404_and_what_is_not_a_path_is_400() {
    let cluster = cluster("paths");
    cluster.put("tnv001", "f", b"content");
    for target in [
        "/",
        "/files",
        "/files/",
        "/file/f",
        "/Files/f",
        "/files/absent",
        "/files/absent/name.mp4",
        "/files/tnvideo/tnv001/absent",
        "/files/tnvideo/tnv002/f",
        "/files/other/tnv001/f",
        "/files/tnvideo/tnv001/f/name/more",
        "/favicon.ico",
        "/files/../files/f",
        "/files/F",
        "/files/f%20",
    ] {
        let response = http::get(cluster.httpd(), target, &[]);
        assert!(response.status == 404 || response.status == 400, "{target}: {}", response.status);
    }
    assert_eq!(http::get(cluster.httpd(), "/files/absent", &[]).status, 404);
    for target in ["/files/%00", "/files/f%00", "/files/%FF", "/files/tn%2Fvideo/tnv001/f"] {
        assert_eq!(http::get(cluster.httpd(), target, &[]).status, 400, "{target}");
    }
    // Browsers take a stray percent sign for itself, so that it may also be a file that is not there.
    for target in ["/files/%", "/files/%zz", "/files/f%2"] {
        let status = http::get(cluster.httpd(), target, &[]).status;
        assert!(status == 400 || status == 404, "{target}: {status}");
    }
    // A name that no file can have is not there.
    let long = format!("/files/{}", "x".repeat(200));
    let status = http::get(cluster.httpd(), &long, &[]).status;
    assert!(status == 404 || status == 400, "{status}");
    assert_eq!(http::get(cluster.httpd(), "/files/f", &[]).status, 200);
    assert_eq!(http::get(cluster.httpd(), "/files/f?some=query", &[]).status, 200);
    assert_eq!(http::get(cluster.httpd(), "/files/%66", &[]).body, b"content");
}

#[test]
fn a_file_of_any_owner_is_found_under_its_owners_path() {
    let cluster = cluster("owners");
    for (userid, fileid, target) in [
        ("o'brien", "it's", "/files/tnvideo/o%27brien/it%27s"),
        ("o'brien", "plain", "/files/tnvideo/o'brien/plain"),
        ("user with space", "a b", "/files/tnvideo/user%20with%20space/a%20b"),
        (
            "дмитрий",
            "фильм",
            "/files/tnvideo/%D0%B4%D0%BC%D0%B8%D1%82%D1%80%D0%B8%D0%B9/%D1%84%D0%B8%D0%BB%D1%8C%D0%BC",
        ),
        ("with/slash", "and/another", "/files/tnvideo/with%2Fslash/and%2Fanother"),
        ("100%", "50%25", "/files/tnvideo/100%25/50%2525"),
        ("plus+user", "a+b", "/files/tnvideo/plus+user/a+b"),
    ] {
        cluster.put(userid, fileid, target.as_bytes());
        for target in [target.to_owned(), format!("{target}/holiday.mp4")] {
            let response = http::get(cluster.httpd(), &target, &[]);
            assert_eq!(response.status, 200, "{target}");
        }
        assert_eq!(http::get(cluster.httpd(), target, &[]).body, target.as_bytes());
    }
    // The short form is the configured owner's alone.
    assert_eq!(http::get(cluster.httpd(), "/files/plain", &[]).status, 404);
}

#[test]
fn the_owner_of_the_short_form_is_configured() {
    use tnv_tests::cluster::Part;
    let cluster = Builder::new("short-owner")
        .httpds(1)
        .set(Part::Tracker, "tnv_apps_id", "tnvideo;second")
        .set(Part::Httpd, "tnv_http_appid", "second")
        .set(Part::Httpd, "tnv_http_userid", "o'brien")
        .start();
    raw::ask(cluster.tracker(), &raw::addresses("second", "o'brien")).success(100);
    raw::ask(cluster.storage(), &raw::upload("second", "o'brien", "f", b"short")).success(102);
    assert_eq!(http::get(cluster.httpd(), "/files/f", &[]).body, b"short");
    assert_eq!(http::get(cluster.httpd(), "/files/second/o'brien/f", &[]).body, b"short");
}

#[test]
fn the_type_comes_from_the_name_or_else_from_the_first_bytes() {
    let cluster = cluster("types");
    // As muxers write it: the kind stands behind a length of eight bytes.
    let mut webm = b"\x1A\x45\xDF\xA3\x01\0\0\0\0\0\0\x1F\x42\x86\x81\x01\x42\xF7\x81\x01\x42\xF2\x81\x04\
        \x42\xF3\x81\x08\x42\x82\x84webm\x42\x87\x81\x04"
        .to_vec();
    webm.extend(sample(1000, 3));
    let files: [(&str, &[u8], &str); 9] = [
        ("mp4", &mp4(2000), "video/mp4"),
        ("webm", &webm, "video/webm"),
        ("mp3", b"ID3\x04\0\0\0\0\0\0aaaaaaaaaaaaaaaaaaaa", "audio/mpeg"),
        ("flac", b"fLaC\0\0\0\x22aaaaaaaaaaaaaaaaaaaa", "audio/flac"),
        ("png", b"\x89PNG\r\n\x1A\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x02\0\0\0", "image/png"),
        ("jpg", b"\xFF\xD8\xFF\xE0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0", "image/jpeg"),
        ("gif", b"GIF89a\x01\0\x01\0\x80\0\0aaaaaaaaaaaaa", "image/gif"),
        ("bin", b"nothing that anyone knows", "application/octet-stream"),
        ("empty", b"", "application/octet-stream"),
    ];
    let mut conn = Http::connect(cluster.httpd());
    for (id, content, kind) in files {
        cluster.put("tnv001", id, content);
        for _ in 0..2 {
            let response = conn.ask("GET", &format!("/files/{id}"), &[]);
            let said = response.want("Content-Type");
            assert_eq!(said, kind, "{id}");
            assert_eq!(response.want("X-Content-Type-Options"), "nosniff");
        }
        // A range that does not hold the first bytes has the same type.
        if content.len() > 20 {
            let response = conn.ask("GET", &format!("/files/{id}"), &[("Range", "bytes=10-12")]);
            let said = response.want("Content-Type");
            assert_eq!(said, kind, "{id}");
        }
    }
    for (name, kind) in [
        ("a.mp4", "video/mp4"),
        ("a.MP4", "video/mp4"),
        ("a.webm", "video/webm"),
        ("a.mp3", "audio/mpeg"),
        ("a.m4a", "audio/mp4"),
        ("a.ts", "video/mp2t"),
        ("a.m3u8", "application/vnd.apple.mpegurl"),
        ("a.jpg", "image/jpeg"),
        ("a.png", "image/png"),
        ("a.mkv", "video/matroska"),
    ] {
        let said = conn.ask("GET", &format!("/files/bin/{name}"), &[]);
        assert!(said.want("Content-Type").starts_with(kind), "{name}: {:?}", said.headers);
    }
}

#[test]
fn what_a_browser_would_run_comes_only_as_an_attachment() {
    let cluster = cluster("attachments");
    let page = b"<!DOCTYPE html><html><script>alert(1)</script></html>";
    let picture =
        b"<?xml version=\"1.0\"?><svg xmlns=\"http://www.w3.org/2000/svg\"><script>alert(1)</script></svg>";
    cluster.put("tnv001", "page", page);
    cluster.put("tnv001", "picture", picture);
    cluster.put("tnv001", "polyglot", b"GIF89a/*<html><script>alert(1)</script>*/=1;");
    let mut conn = Http::connect(cluster.httpd());
    for target in [
        "/files/page",
        "/files/page/page.html",
        "/files/page/page.htm",
        "/files/page/page.xhtml",
        "/files/page/page.xml",
        "/files/page/page.js",
        "/files/page/page.mjs",
        "/files/page/page.svg",
        "/files/page/page.swf",
        "/files/page/page.HTML",
        "/files/picture",
        "/files/picture/a.svg",
        "/files/polyglot/a.html",
        "/files/polyglot/a.js",
    ] {
        for method in ["GET", "HEAD"] {
            let response = conn.ask(method, target, &[]);
            assert_eq!(response.status, 200, "{target}");
            assert_eq!(response.want("X-Content-Type-Options"), "nosniff", "{target}");
            let kind = response.want("Content-Type").to_owned();
            let attached =
                response.header("Content-Disposition").is_some_and(|value| value.starts_with("attachment"));
            assert!(attached, "{target}: {kind} inline");
        }
        let response = conn.ask("GET", target, &[("Range", "bytes=0-9")]);
        assert!(
            response.header("Content-Disposition").is_some_and(|value| value.starts_with("attachment")),
            "{target}"
        );
    }
    // Named as a picture it is sent as one, and nosniff keeps the browser from finding the page in it.
    let response = conn.ask("GET", "/files/page/innocent.png", &[]);
    assert_eq!(response.want("X-Content-Type-Options"), "nosniff");
    assert!(!response.want("Content-Type").contains("html"));
}

#[test]
fn the_name_part_names_the_download_and_breaks_no_header() {
    let cluster = cluster("names");
    cluster.put("tnv001", "f", &mp4(1000));
    let mut conn = Http::connect(cluster.httpd());
    let response = conn.ask("GET", "/files/f/holiday.mp4?download", &[]);
    let value = response.want("Content-Disposition");
    assert!(value.starts_with("attachment") && value.contains("holiday.mp4"), "{value}");
    let response = conn.ask("GET", "/files/f?download", &[]);
    assert!(response.want("Content-Disposition").starts_with("attachment"));
    for name in [
        "a%22b.mp4",
        "a%0D%0AX-Evil:%201.mp4",
        "%D0%B4%D0%B0%D1%87%D0%B0.mp4",
        "a;b=c.mp4",
        "a%5Cb.mp4",
        "%7F.mp4",
        "..",
        "a%2Fb.mp4",
    ] {
        let response = conn.ask("GET", &format!("/files/f/{name}?download"), &[]);
        assert!(response.header("X-Evil").is_none(), "{name}");
        assert!(response.status == 200 || response.status == 400 || response.status == 404, "{name}");
        if let Some(value) = response.header("Content-Disposition") {
            assert!(
                value.is_ascii() && value.bytes().all(|byte| !byte.is_ascii_control()),
                "{name}: {value:?}"
            );
            assert!(value.starts_with("attachment"), "{name}: {value}");
        }
    }
}

#[test]
fn keep_alive_and_pipelining_answer_everything_in_order() {
    let cluster = cluster("keep-alive");
    for index in 0..10_usize {
        cluster.put("tnv001", &format!("f{index}"), &sample(index * 5_000, index as u64));
    }
    let start = Instant::now();
    let mut conn = Http::connect(cluster.httpd());
    for round in 0..200_usize {
        let index = round % 10;
        assert!(
            conn.ask("GET", &format!("/files/f{index}"), &[]).body == sample(index * 5_000, index as u64)
        );
    }
    println!("200 requests on one connection in {:?}", start.elapsed());

    let mut all = Vec::new();
    for index in 0..10 {
        all.extend(format!("GET /files/f{index} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes());
        all.extend(format!("HEAD /files/f{index} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes());
        all.extend(b"GET /files/absent HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    conn.send(&all);
    for index in 0..10_usize {
        assert!(conn.response("GET").body == sample(index * 5_000, index as u64));
        assert_eq!(conn.response("HEAD").status, 200);
        assert_eq!(conn.response("GET").status, 404);
    }
}

#[test]
fn a_connection_is_closed_when_the_client_asks_for_it() {
    let cluster = cluster("close");
    cluster.put("tnv001", "f", &sample(100_000, 1));
    let mut conn = Http::connect(cluster.httpd());
    assert_eq!(conn.ask("GET", "/files/f", &[("Connection", "close")]).body.len(), 100_000);
    assert!(conn.closes_within(CLOSE_BOUND), "Connection: close");
    let mut conn = Http::connect(cluster.httpd());
    conn.send(b"GET /files/f HTTP/1.0\r\n\r\n");
    assert_eq!(conn.response("GET").body.len(), 100_000);
    assert!(conn.closes_within(CLOSE_BOUND), "HTTP/1.0");
    let mut conn = Http::connect(cluster.httpd());
    conn.send(b"GET /files/f HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(conn.response("GET").body.len(), 100_000);
    let mut conn = Http::connect(cluster.httpd());
    assert_eq!(conn.ask("GET", "/files/f", &[]).status, 200);
    assert!(!conn.closes_within(Duration::from_secs(1)), "HTTP/1.1 stays");
}

#[test]
fn a_malformed_head_is_400_and_harms_nobody() {
    let mut cluster = cluster("malformed");
    cluster.put("tnv001", "f", b"content");
    let long = "x".repeat(100_000);
    let many: String = (0..5000).map(|index| format!("H{index}: v\r\n")).collect();
    let heads = [
        "GARBAGE\r\n\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
        "GET /files/f\r\n\r\n".to_owned(),
        "GET /files/f HTTP/9.9\r\nHost: h\r\n\r\n".to_owned(),
        "GET /files/f HTTP/1.1\r\n\r\n".to_owned(),
        "GET /files/f HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n".to_owned(),
        "GET  /files/f HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        "GET /files/f HTTP/1.1\r\nHost h\r\n\r\n".to_owned(),
        "GET /files/f HTTP/1.1\r\nHost: h\r\n : v\r\n\r\n".to_owned(),
        "GET /files/f HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n".to_owned(),
        "GET /files/f HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n".to_owned(),
        "GET /files/f HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
            .to_owned(),
        "GET /fi les/f HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        "GET /files/f\u{1} HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        format!("GET /files/{long} HTTP/1.1\r\nHost: h\r\n\r\n"),
        format!("GET /files/f HTTP/1.1\r\nHost: h\r\nX: {long}\r\n\r\n"),
        format!("GET /files/f HTTP/1.1\r\nHost: h\r\n{many}\r\n"),
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}".repeat(10) + "\r\n\r\n",
    ];
    for head in heads {
        let mut conn = Http::connect(cluster.httpd());
        // A server that refuses a long head early may close while it is still being sent.
        let _ = std::io::Write::write_all(conn.stream(), head.as_bytes());
        let shown: String = head.chars().take(70).collect();
        match conn.try_response("GET") {
            Ok(response) => assert!(
                [400, 404, 405, 411, 413, 414, 431, 501, 505].contains(&response.status),
                "{shown:?}: {}",
                response.status
            ),
            Err(error) => panic!("{shown:?}: no answer: {error}"),
        }
        assert!(head.starts_with("GET /files/f\u{1}") || conn.closes_within(CLOSE_BOUND), "{shown:?}");
    }
    assert_eq!(http::get(cluster.httpd(), "/files/f", &[]).body, b"content");
    cluster.assert_peaks_below(128);
}

/// A body that is said to be a petabyte kills servers that make room for it, and a header line without end
/// fills the memory of those that wait for its end.
#[test]
fn what_kills_a_server_without_limits_does_not_kill_this_one() {
    let mut cluster = cluster("no-limits");
    cluster.put("tnv001", "f", b"content");
    for _ in 0..3 {
        let mut conn = Http::connect(cluster.httpd());
        conn.send(b"POST /files/f HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000000000\r\n\r\n");
        drop(conn);
        let mut conn = Http::connect(cluster.httpd());
        conn.send(b"GET /files/f HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
        drop(conn);
    }
    let mut conn = Http::connect(cluster.httpd());
    let piece = vec![b'a'; 1 << 20];
    let _ = std::io::Write::write_all(conn.stream(), b"GET /files/f HTTP/1.1\r\nHost: h\r\nX: ");
    let sent = (0..64).take_while(|_| std::io::Write::write_all(conn.stream(), &piece).is_ok()).count();
    println!("{sent} MiB of one header were taken");
    for _ in 0..200 {
        let mut conn = Http::connect(cluster.httpd());
        conn.request("GET", "/files/f", &[]);
    }
    assert_eq!(http::get(cluster.httpd(), "/files/f", &[]).body, b"content");
    assert!(cluster.httpds[0].runs());
    cluster.assert_peaks_below(128);
}

#[test]
fn a_burst_of_connections_is_answered_in_full() {
    let _heavy = heavy();
    let cluster = cluster("burst");
    cluster.put("tnv001", "f", b"content");
    tnv_tests::tools::more_descriptors();
    let mut conns: Vec<_> = (0..400).map(|_| Http::connect(cluster.httpd())).collect();
    conns.iter_mut().for_each(|conn| conn.request("GET", "/files/f", &[]));
    for conn in &mut conns {
        assert_eq!(conn.response("GET").body, b"content");
    }
}

#[test]
fn with_no_storage_or_no_tracker_the_answer_is_502_or_503() {
    let mut cluster = cluster("gateway");
    cluster.put("tnv001", "f", b"content");
    cluster.storages[0].kill();
    let start = Instant::now();
    let status = http::get(cluster.httpd(), "/files/f", &[]).status;
    assert!(status == 502 || status == 503, "no storage: {status}");
    println!("without a storage answered in {:?}", start.elapsed());
    cluster.trackers[0].kill();
    let status = http::get(cluster.httpd(), "/files/g", &[]).status;
    assert!(status == 502 || status == 503, "no tracker: {status}");
    cluster.trackers[0].start();
    cluster.storages[0].start();
    cluster.wait_active(1);
    tnv_tests::patient("content again", PATIENCE, || {
        http::get(cluster.httpd(), "/files/f", &[]).status == 200
    });
}

#[test]
fn a_large_file_streams_in_bounded_memory_to_many_at_once() {
    let _heavy = heavy();
    let mut cluster = cluster("stream");
    let content = sample(64 << 20, 11);
    let id = cluster.upload("tnvideo", "tnv001", &content);
    std::thread::scope(|scope| {
        for reader in 0..8_usize {
            let (cluster, content, id) = (&cluster, &content, &id);
            scope.spawn(move || {
                let first = reader * 1000;
                let range = format!("bytes={first}-");
                let response = http::get(cluster.httpd(), &format!("/files/{id}"), &[("Range", &range)]);
                assert!(response.body == content[first..]);
            });
        }
    });
    cluster.assert_peaks_below(128);
}

/// The story: the server asked the tracker for the storages of whatever user a URL names, and the tracker
/// recorded a route for each: every visitor could make its table grow.
#[test]
fn visitors_who_invent_users_leave_no_rows() {
    let cluster = cluster("invented");
    for visit in 0..50 {
        let response = http::get(cluster.httpd(), &format!("/files/tnvideo/invented{visit}/film"), &[]);
        assert_eq!(response.status, 404);
    }
    let rows = || cluster.sql("tnv_trackerdb", "SELECT userid FROM t_router");
    assert_eq!(rows(), Vec::<Vec<String>>::new());
    // A user who then uploads is found at once.
    let id = cluster.upload("tnvideo", "invented0", b"first");
    assert_eq!(http::get(cluster.httpd(), &format!("/files/tnvideo/invented0/{id}"), &[]).body, b"first");
    assert_eq!(rows(), [["invented0"]]);
}
