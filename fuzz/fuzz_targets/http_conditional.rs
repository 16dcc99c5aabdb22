//! See `tnv_httpd::fuzz::http_conditional`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tnv_httpd::fuzz::http_conditional(data));
