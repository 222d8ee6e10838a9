//! See `hotspan::fuzz::jitdump`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hotspan::fuzz::jitdump(data));
