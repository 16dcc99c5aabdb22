use super::*;

const KEPT: [&str; 2] = ["Range", "If-None-Match"];

fn whole(text: &str) -> RequestHead {
    let (head, length) = parse(text.as_bytes(), &KEPT).unwrap().unwrap();
    assert_eq!(length, text.len());
    head
}

fn refused(text: impl AsRef<[u8]>) -> u16 {
    parse(text.as_ref(), &KEPT).unwrap_err().status.0
}

fn is_incomplete(bytes: &[u8]) -> bool {
    matches!(parse(bytes, &KEPT), Ok(None))
}

#[test]
fn only_the_header_lines_that_the_service_uses_are_kept() {
    let head = whole(
        "GET /files/x?download HTTP/1.1\r\nhost: a:8080\r\nCookie: secret\r\nrange: bytes=0-1\r\n\
         If-None-Match: \"a\"\r\nif-none-match: \"bü\"\r\nX-Tnv-Link: 7\r\n\r\n",
    );
    assert_eq!((head.method.as_str(), head.target.as_str()), ("GET", "/files/x?download"));
    let kept: Vec<String> = head.headers.iter().map(ToString::to_string).collect();
    assert_eq!(kept, ["Range: bytes=0-1", "If-None-Match: \"a\", \"b??\""]);
    assert_eq!((head.value("Range"), head.value("If-Match")), (Some("bytes=0-1"), None));
    assert!(head.keep_alive && !head.has_body && head.version == (1, 1));
}

#[test]
fn an_incomplete_head_is_waited_for() {
    let text = "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for end in 0..text.len() {
        assert!(is_incomplete(&text.as_bytes()[..end]), "{end}");
    }
    assert!(parse(text.as_bytes(), &KEPT).unwrap().is_some());
}

#[test]
fn the_client_decides_whether_the_connection_stays_open() {
    for (text, want) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: foo, Close\r\n\r\n", false),
        ("GET / HTTP/1.0\r\n\r\n", false),
        ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", false),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", false),
    ] {
        assert_eq!(whole(text).keep_alive, want, "{text}");
    }
}

#[test]
fn targets_of_every_form_become_a_path() {
    for (method, target, want) in [
        ("GET", "/a?b", "/a?b"),
        ("GET", "http://host:80/a/b?c", "/a/b?c"),
        ("GET", "HTTPS://host", "/"),
        ("GET", "http://host?q", "/?q"),
        ("GET", "/f%C3%BC?x=http://y/", "/f%C3%BC?x=http://y/"),
        ("GET", "/fü", "/f%C3%BC"),
        ("GET", "http://h/ü?ü", "/%C3%BC?%C3%BC"),
        ("OPTIONS", "*", "*"),
        ("CONNECT", "host:443", "*"),
    ] {
        assert_eq!(whole(&format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n")).target, want);
    }
    for target in ["*", "files/x", "ftp://host/x", "host:443"] {
        assert_eq!(refused(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")), 400, "{target}");
    }
}

/// The story: old browsers send a name as it stands in the page, in GBK or Latin-1.
#[test]
fn bytes_that_are_not_ascii_are_escaped_in_any_character_set() {
    let text = b"\r\nGET /files/f/\xB5\xE7\xD3\xB0.mp4 HTTP/1.1\r\nHost: a\r\n\r\nGET /next";
    let (head, length) = parse(text, &KEPT).unwrap().unwrap();
    assert_eq!(head.target, "/files/f/%B5%E7%D3%B0.mp4");
    assert_eq!(&text[length..], b"GET /next");
    for end in 0..length {
        assert!(is_incomplete(&text[..end]), "{end}");
    }
    assert_eq!(refused(b"G\xE9T / HTTP/1.1\r\nHost: a\r\n\r\n"), 400);
    assert_eq!(refused(b"GET / \xE9TTP/1.1\r\nHost: a\r\n\r\n"), 400);
}

#[test]
fn what_is_not_http_is_refused() {
    for (text, want) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX : a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: a\n\n", 400),
        ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\nContent-Length: 9\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\rX: a\r\n\r\n", 400),
        ("\x16\x03\x01\x02\x00", 400),
        ("G\0T / HTTP/1.1\r\n", 400),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ] {
        assert_eq!(refused(text), want, "{text:?}");
    }
}

#[test]
fn heads_have_limits() {
    let long = "x".repeat(TARGET_BYTES_MAX);
    for char in ["x", "\u{20AC}"] {
        let longest = format!("/{}", char.repeat((TARGET_BYTES_MAX - 1) / char.len()));
        let escaped = longest.replace('\u{20AC}', "%E2%82%AC");
        assert_eq!(whole(&format!("OPTIONS {longest} HTTP/1.1\r\nHost: a\r\n\r\n")).target, escaped);
    }
    assert_eq!(refused(format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n")), 414);
    assert_eq!(refused(format!("GET /{long}{long}")), 414);
    assert_eq!(refused("\r\n".repeat(9)), 400);
    let lines = "A: b\r\n".repeat(HEADERS_MAX);
    assert_eq!(refused(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")), 431);
    let line = format!("A: {}", "x".repeat(HEAD_BYTES_MAX));
    assert_eq!(refused(format!("GET / HTTP/1.1\r\nHost: a\r\n{line}")), 431);
}
