//! See `tnv_common::fuzz::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tnv_common::fuzz::config(data));
