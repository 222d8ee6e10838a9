//! See `hotspan::fuzz::perf_map`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hotspan::fuzz::perf_map(data));
