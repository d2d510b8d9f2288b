//! Applies the input to a root beside a directory that must stay as it is.
#![no_main]

#[path = "../../tests/common/harness.rs"]
#[allow(dead_code)]
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::apply_archive(data));
