//! One log line a request: method, target, status, bytes and duration, and how the response failed if it did.

use std::time::Instant;

use tnv_common::auth::signed_link::without_signature;
use tnv_common::http::StatusCode;
use tnv_common::http::request_head::RequestHead;

/// The log shows so much of a target and of a method, and they are kept until the response is sent. Ours are
/// shorter.
const TARGET_BYTES_MAX: usize = 1 << 10;
const METHOD_BYTES_MAX: usize = 32;

/// A request whose line is written when its response ends.
pub struct Entry {
    method: String,
    target: String,
    status: StatusCode,
    began: Instant,
}

impl Entry {
    /// The entry of this request. A signature in the target is not logged.
    pub fn new(head: &RequestHead, status: StatusCode, began: Instant) -> Entry {
        let target = shortened(without_signature(&head.target), TARGET_BYTES_MAX);
        Entry { method: shortened(head.method.to_string(), METHOD_BYTES_MAX), target, status, began }
    }

    /// Writes the line: so many bytes of content were sent, and this is why no more.
    pub fn write(&self, bytes: u64, failure: Option<&str>) {
        let Entry { method, target, status: StatusCode(status), began } = self;
        let elapsed = began.elapsed();
        match failure {
            None => log::info!("{method} {target} {status} {bytes} bytes in {elapsed:?}"),
            Some(failure) => {
                log::info!("{method} {target} {status} {bytes} bytes in {elapsed:?}, incomplete: {failure}")
            }
        }
    }
}

/// A text of at most so many bytes; where it is cut it ends in an ellipsis.
fn shortened(text: String, bytes_max: usize) -> String {
    match text.len() <= bytes_max {
        true => text,
        false => format!("{}…", &text[..text.floor_char_boundary(bytes_max)]),
    }
}
