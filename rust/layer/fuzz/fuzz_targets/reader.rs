//! Reads the input as an archive, whole and in pieces.
#![no_main]

#[path = "../../tests/common/harness.rs"]
#[allow(dead_code)]
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    harness::read_archive(data);
    let mut fixed = data.to_vec();
    harness::fix_checksums(&mut fixed);
    harness::read_archive(&fixed);
});
