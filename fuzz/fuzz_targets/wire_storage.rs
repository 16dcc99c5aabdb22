//! See `tnv_common::fuzz::wire_storage`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tnv_common::fuzz::wire_storage(data));
