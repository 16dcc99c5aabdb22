//! See `tnv_common::fuzz::signed_link`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tnv_common::fuzz::signed_link(data));
