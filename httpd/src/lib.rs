//! The HTTP server as a library: the client's download for browsers and players. The binary `tnv-httpd` is
//! one call of it, and its parsers can be fuzzed.
//!
//! The way of a request: `front_end` receives its head and asks `service`, which plans the response with the
//! modules of `download` and, for failures, `status_code`. The front end has `response_writer` send it, and
//! logs it in `access_log`. `server` puts these together from the settings in `globals`.

mod access_log;
mod download;
mod front_end;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod globals;
mod response_writer;
mod server;
mod service;
mod status_code;
#[cfg(test)]
mod tests;

pub use server::HttpServer;
