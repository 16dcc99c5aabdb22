//! A response that says why a request failed: its body is one line with the reason and what to do.

use tiny_http::{Header, StatusCode};

use crate::http::response::{Response, header, with_text};
use crate::http::status_code;

/// The wait before a request that got a 503 is repeated: trackers leave a stopped storage out within seconds.
const RETRY_AFTER_SECONDS: &str = "5";

/// Why a request failed.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The status code.
    pub status: StatusCode,
    /// The reason, one sentence for the client.
    pub text: String,
    /// Header lines beside those that all refusals have.
    pub headers: Vec<Header>,
}

impl Refusal {
    /// A refusal with this reason.
    pub fn new(status: StatusCode, text: impl Into<String>) -> Refusal {
        let headers = match status {
            status_code::UNAVAILABLE => vec![header("Retry-After", RETRY_AFTER_SECONDS)],
            _ => vec![],
        };
        Refusal { status, text: text.into(), headers }
    }

    /// The same with one more header line.
    pub fn with_header(mut self, header: Header) -> Refusal {
        self.headers.push(header);
        self
    }

    /// The response to send.
    pub fn response(&self) -> Response {
        let StatusCode(number) = self.status;
        let body = format!("{number} {}: {}\n", self.status.default_reason_phrase(), self.text);
        let mut headers = vec![
            header("Content-Type", "text/plain; charset=utf-8"),
            header("X-Content-Type-Options", "nosniff"),
        ];
        headers.extend(self.headers.iter().cloned());
        with_text(self.status, headers, body)
    }
}
