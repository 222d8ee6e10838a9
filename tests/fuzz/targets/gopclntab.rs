//! See `hotspan::fuzz::gopclntab`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hotspan::fuzz::gopclntab(data));
