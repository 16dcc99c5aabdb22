//! See `tnv_client::fuzz::client_replies`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tnv_client::fuzz::client_replies(data));
