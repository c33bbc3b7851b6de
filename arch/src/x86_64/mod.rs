//! x86_64: 64-bit tasks, and those of its 32-bit predecessor.

pub mod blob;
pub mod calls;
pub mod compat;
pub mod fpu;
#[cfg(feature = "images")]
pub mod image;
pub mod kernel;
pub mod memory;
#[cfg(feature = "images")]
pub mod processor;
pub mod regs;
pub mod settings;
pub mod sigframe;
pub mod syscall;
pub mod tls;
pub mod trace;
pub mod vdso;
