//! See `stasis_fuzz::image_dir`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| stasis_fuzz::image_dir(input));
