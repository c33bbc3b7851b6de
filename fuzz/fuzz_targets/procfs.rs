//! See `stasis_fuzz::procfs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| stasis_fuzz::procfs(input));
