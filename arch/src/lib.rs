//! All that differs by processor, and nothing else.
//!
//! Every port supplies the same names in files of the same names (`regs`, `fpu`, `syscall`,
//! `sigframe`, `tls`, `vdso`, `settings`, `blob`,
//! `calls`, `kernel`, `memory`, `image`); the choice is made once, here, and a processor without a port is
//! refused at compile time. The crate makes no system calls for the host side and holds no
//! policy: it lays out bytes (register sets, signal frames, extended state) and issues raw
//! system calls for the blobs, which have no C library.
#![no_std]
#![warn(missing_docs)]
#![allow(
    unsafe_code,
    reason = "this is one of the rooms where unsafe lives: raw system calls and register access"
)]

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(all(target_arch = "x86_64", feature = "images"))]
pub use x86_64::image;
#[cfg(target_arch = "x86_64")]
pub use x86_64::{blob, calls, fpu, kernel, memory, regs, settings, sigframe, syscall, tls, vdso};

#[cfg(not(target_arch = "x86_64"))]
compile_error!("stasis has no port for this processor yet: add arch/src/<processor>/");
