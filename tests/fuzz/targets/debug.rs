//! See `hotspan::fuzz::debug`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hotspan::fuzz::debug(data));
