//! See `hotspan::fuzz::wire_order`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hotspan::fuzz::wire_order(data));
