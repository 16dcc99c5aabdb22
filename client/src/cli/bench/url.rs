//! The URLs of `--http` and `--get`, and the requests for them.

use std::net::SocketAddr;
use std::str::FromStr;

use tnv_client::{Error, ErrorKind, Result};
use tnv_common::net::resolve;
use tnv_common::text::shown;

/// The default port.
const PORT: u16 = 80;

/// The longest URL. Servers accept no longer ones.
const URL_BYTES_MAX: usize = 4096;

/// `http://host[:port][/path]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    /// `host[:port]`, the value of the Host header.
    host: String,
    /// Starts with a slash.
    path: String,
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Url, String> {
        let shown = shown(text.as_bytes());
        let want = "want http://host[:port][/path]";
        if text.len() > URL_BYTES_MAX {
            return Err(format!("a URL of {} bytes, want at most {URL_BYTES_MAX}", text.len()));
        }
        if text.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://")) {
            return Err(format!("'{shown}' is HTTPS, which is not supported, {want}"));
        }
        let scheme = text.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://"));
        if !scheme || text.bytes().any(|byte| !(0x21..=0x7E).contains(&byte)) || text.contains('#') {
            return Err(format!("invalid URL '{shown}', {want}, in ASCII and without '#'"));
        }
        let rest = &text[7..];
        let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if host.is_empty() || host.contains('@') {
            return Err(format!("invalid URL '{shown}', {want}"));
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Url { host: host.to_owned(), path })
    }
}

impl Url {
    /// Writes a GET request for the URL itself, or for `path` below it.
    pub(super) fn request(&self, path: &str, request: &mut Vec<u8>) {
        request.clear();
        let base = if path.is_empty() { self.path.as_str() } else { self.path.trim_end_matches('/') };
        for part in ["GET ", base, path, " HTTP/1.1\r\nHost: ", &self.host, "\r\n\r\n"] {
            request.extend_from_slice(part.as_bytes());
        }
    }

    /// The first address of the host.
    pub(super) fn address(&self) -> Result<SocketAddr> {
        let addresses = resolve(&self.host, PORT)?;
        addresses.first().copied().ok_or_else(|| Error::new(ErrorKind::Unavailable, "no address"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    fn request(url: &str, path: &str) -> String {
        let mut request = Vec::new();
        self::url(url).request(path, &mut request);
        String::from_utf8(request).unwrap()
    }

    #[test]
    fn a_request_is_for_the_url_or_a_path_below_it() {
        assert_eq!(request("http://h:8080/a?b=c", ""), "GET /a?b=c HTTP/1.1\r\nHost: h:8080\r\n\r\n");
        assert_eq!(request("HTTP://h", ""), "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(request("http://h?x", ""), "GET /?x HTTP/1.1\r\nHost: h\r\n\r\n");
        for base in ["http://h", "http://h/"] {
            assert_eq!(request(base, "/files/a"), "GET /files/a HTTP/1.1\r\nHost: h\r\n\r\n");
        }
        assert_eq!(request("http://h/p/", "/files/a"), "GET /p/files/a HTTP/1.1\r\nHost: h\r\n\r\n");
    }

    #[test]
    fn a_url_that_cannot_be_requested_is_refused() {
        let long = format!("http://h/{}", "a".repeat(URL_BYTES_MAX));
        for text in [
            "https://h/",
            "h:8080",
            "http://",
            "http:///x",
            "http://user@h/",
            "http://h/a b",
            "http://h/\r\nX: y",
            "http://h/ü",
            "http://h/#x",
            &long,
        ] {
            assert!(text.parse::<Url>().is_err(), "{text}");
        }
    }
}
