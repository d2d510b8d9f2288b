//! Puts the input into an extended header and reads and applies the archive.
#![no_main]

#[path = "../../tests/common/harness.rs"]
#[allow(dead_code)]
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::read_records(data));
