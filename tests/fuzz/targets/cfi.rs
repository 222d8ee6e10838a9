//! See `hotspan::fuzz::cfi`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hotspan::fuzz::cfi(data));
