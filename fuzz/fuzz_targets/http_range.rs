//! See `tnv_httpd::fuzz::http_range`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tnv_httpd::fuzz::http_range(data));
