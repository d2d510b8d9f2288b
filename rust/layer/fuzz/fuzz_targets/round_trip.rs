//! Grows two trees from the input and sends them through diff and apply.
#![no_main]

#[path = "../../tests/common/harness.rs"]
#[allow(dead_code)]
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::round_trip(data));
