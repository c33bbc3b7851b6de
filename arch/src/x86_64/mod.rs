//! x86_64, 64-bit tasks.

pub mod fpu;
pub mod regs;
pub mod sigframe;
pub mod syscall;
pub mod tls;
pub mod vdso;
