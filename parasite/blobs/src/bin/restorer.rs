//! The restorer: the last stage of a restore.
#![no_std]
#![no_main]

use stasis_blobs as _;

/// Entry point.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.start")]
pub extern "C" fn start() -> ! {
    loop {}
}
