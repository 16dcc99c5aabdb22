//! Status codes, the heads that carry them, and refusals: answers whose body is one line that says
//! what was wrong and what to do.

use tnv_common::error::{Error, ErrorKind};

/// A status code and its reason phrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u16, pub &'static str);

impl Status {
    pub const OK: Status = Status(200, "OK");
    pub const NO_CONTENT: Status = Status(204, "No Content");
    pub const PARTIAL_CONTENT: Status = Status(206, "Partial Content");
    pub const NOT_MODIFIED: Status = Status(304, "Not Modified");
    pub const BAD_REQUEST: Status = Status(400, "Bad Request");
    pub const FORBIDDEN: Status = Status(403, "Forbidden");
    pub const NOT_FOUND: Status = Status(404, "Not Found");
    pub const METHOD_NOT_ALLOWED: Status = Status(405, "Method Not Allowed");
    pub const GONE: Status = Status(410, "Gone");
    pub const PRECONDITION_FAILED: Status = Status(412, "Precondition Failed");
    pub const URI_TOO_LONG: Status = Status(414, "URI Too Long");
    pub const RANGE_NOT_SATISFIABLE: Status = Status(416, "Range Not Satisfiable");
    pub const HEAD_TOO_LARGE: Status = Status(431, "Request Header Fields Too Large");
    pub const BAD_GATEWAY: Status = Status(502, "Bad Gateway");
    pub const UNAVAILABLE: Status = Status(503, "Service Unavailable");
    pub const VERSION_NOT_SUPPORTED: Status = Status(505, "HTTP Version Not Supported");
}

/// The methods that there are, as the `Allow` header has them.
pub const ALLOW: (&str, &str) = ("Allow", "GET, HEAD");

/// When to ask again for what cannot be had now: a storage that stopped is out of its tracker's
/// answers within seconds.
const RETRY_AFTER: (&str, &str) = ("Retry-After", "5");

/// A response's header lines, in their order.
pub type Headers = Vec<(&'static str, String)>;

/// A response's head without the empty line that ends it, so that the gate can add its own lines.
pub fn head(status: Status, headers: &Headers) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {} {}\r\n", status.0, status.1);
    for (name, value) in headers {
        head.push_str(name);
        head.push_str(": ");
        head.push_str(value);
        head.push_str("\r\n");
    }
    head.into_bytes()
}

/// Why a request is not answered with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub status: Status,
    /// One sentence for whoever asked.
    pub text: String,
    /// Header lines of this refusal, beside those that all have.
    pub headers: Headers,
}

impl Refusal {
    /// A refusal in words.
    pub fn new(status: Status, text: impl Into<String>) -> Refusal {
        let headers = match status {
            Status::METHOD_NOT_ALLOWED => vec![(ALLOW.0, ALLOW.1.to_owned())],
            Status::UNAVAILABLE => vec![(RETRY_AFTER.0, RETRY_AFTER.1.to_owned())],
            _ => vec![],
        };
        Refusal { status, text: text.into(), headers }
    }

    /// The head, without its empty line, and the body.
    pub fn response(&self) -> (Vec<u8>, String) {
        let body = format!("{} {}: {}\n", self.status.0, self.status.1, self.text);
        let mut headers: Headers = vec![
            ("Content-Type", "text/plain; charset=utf-8".to_owned()),
            ("Content-Length", body.len().to_string()),
            ("X-Content-Type-Options", "nosniff".to_owned()),
        ];
        headers.extend(self.headers.iter().cloned());
        (head(self.status, &headers), body)
    }
}

/// What a failure below means to a viewer. Addresses of servers stay out of what a stranger reads;
/// the log has them.
impl From<&Error> for Refusal {
    fn from(error: &Error) -> Refusal {
        match error.kind() {
            ErrorKind::Invalid => Refusal::new(
                Status::BAD_REQUEST,
                "the deployment does not accept this application, user or file ID",
            ),
            ErrorKind::NotFound => Refusal::new(Status::NOT_FOUND, "there is no such file"),
            ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Busy => Refusal::new(
                Status::UNAVAILABLE,
                "the file cannot be reached now; try again in a few seconds",
            ),
            _ => Refusal::new(Status::BAD_GATEWAY, "the file's storage failed to deliver it"),
        }
    }
}
