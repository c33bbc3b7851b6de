//! All that differs by processor, and nothing else.
//!
//! Every port supplies the same names in files of the same names (docs/design.md says what each
//! holds); the choice is made once, here, and a processor without a port is refused at compile time.
//! The crate holds no policy: it lays out bytes (register sets, signal frames, extended state, the
//! processor's part of images), says numbers and names, and issues raw system calls for the blobs,
//! which have no C library, and for what a thread can only set for itself (`settings`).
//!
//! The feature `images` is for the host side; the blobs are built without it.
#![no_std]
#![warn(missing_docs)]
#![allow(
    unsafe_code,
    reason = "this is one of the rooms where unsafe lives: raw system calls and register access"
)]

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::{
    blob, calls, compat, fpu, kernel, memory, regs, settings, sigframe, syscall, tls, trace, vdso,
};
#[cfg(all(target_arch = "x86_64", feature = "images"))]
pub use x86_64::{image, processor};

#[cfg(not(target_arch = "x86_64"))]
compile_error!("stasis has no port for this processor yet: add arch/src/<processor>/");
