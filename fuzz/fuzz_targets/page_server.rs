//! See `stasis_fuzz::page_server`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| stasis_fuzz::page_server(input));
