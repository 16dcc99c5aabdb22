//! HTTP/1: reads request heads within limits and writes responses. It knows no path, no file and no service.
//!
//! - `request_head`: parses and checks one head; `head_reader`: receives it from a connection in time.
//! - `response`: builds responses and writes them as bytes.
//! - `refusal`: a response that says why a request failed.
//! - `status_code`: the status codes that are used.
//!
//! The vocabulary and the response writer are tiny_http's. Its sockets, threads and parser are not used: they
//! have no limits.

pub mod head_reader;
pub mod refusal;
pub mod request_head;
pub mod response;
pub mod status_code;

pub use tiny_http::{HTTPVersion, Header, Method, StatusCode};
