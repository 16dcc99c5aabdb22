//! See `tnv_common::fuzz::wire_id`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tnv_common::fuzz::wire_id(data));
