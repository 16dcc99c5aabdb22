//! See `tnv_common::fuzz::wire_tracker`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tnv_common::fuzz::wire_tracker(data));
