//! Which status code a failure of the deployment gets, and what its viewer may read about it: no addresses of
//! servers, which the log has.

use tnv_common::error::{Error, ErrorKind};
use tnv_common::http::Header;
use tnv_common::http::refusal::Refusal;
use tnv_common::http::response::header;
use tnv_common::http::status_code;

/// The methods that are served.
pub fn allow() -> Header {
    header("Allow", "GET, HEAD")
}

/// The refusal that a failure becomes.
pub fn refusal_of(error: &Error) -> Refusal {
    let (status, text) = match error.kind() {
        ErrorKind::Invalid => {
            (status_code::BAD_REQUEST, "the deployment does not accept this application, user or file ID")
        }
        ErrorKind::NotFound => (status_code::NOT_FOUND, "no such file"),
        ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Busy => {
            (status_code::UNAVAILABLE, "the file is unavailable now; try again in a few seconds")
        }
        _ => (status_code::BAD_GATEWAY, "the file's storage failed to send it"),
    };
    Refusal::new(status, text)
}
