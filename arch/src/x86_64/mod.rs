//! x86_64, 64-bit tasks.

pub mod blob;
pub mod fpu;
pub mod regs;
pub mod settings;
pub mod sigframe;
pub mod syscall;
pub mod tls;
pub mod vdso;
