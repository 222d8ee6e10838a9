//! See `hotspan::fuzz::cache`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hotspan::fuzz::cache(data));
