//! See `tnv_storage::fuzz::storage_journal`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tnv_storage::fuzz::storage_journal(data));
