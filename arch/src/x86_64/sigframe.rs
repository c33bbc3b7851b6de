//! The real-time signal frame (`struct rt_sigframe`, `arch/x86/include/asm/sigframe.h`) that
//! `rt_sigreturn` reads.
//!
//! A frame is how a task finds its own way home: whoever makes it run `rt_sigreturn` with the
//! stack pointer one word above a frame's start gives it back every register, the extended state
//! and the signal mask in one system call, with nobody's help. An injected call is therefore
//! always made with the stack pointer *at* a frame, whose first word is the address of a
//! sigreturn trampoline, so that the call's `ret` leads there.

use super::fpu;
use super::regs::GeneralRegs;

/// Bytes of a frame without the extended state it points to: return address and `struct ucontext`.
/// The `siginfo_t` behind them is the handler's: `rt_sigreturn` does not read it.
pub const FRAME_BYTES: usize = 8 + UCONTEXT_BYTES;

const UCONTEXT_BYTES: usize = 8 + 8 + 24 + SIGCONTEXT_BYTES + 8;
const SIGCONTEXT_BYTES: usize = 256;

/// `UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS`.
const UC_FLAGS: u64 = 0x1 | 0x2 | 0x4;

/// A `ss_flags` that no kernel accepts: the alternate stack in the frame is then left alone
/// (`restore_altstack` ignores every error but a bad address), which is what a frame wants that
/// was not made by a signal.
const SS_LEAVE_ALONE: u32 = 0x7;

/// The code of a sigreturn trampoline: `mov rax, 15; syscall`, as every C library and Go's
/// runtime have it (debuggers recognise frames by these bytes, so they do not change).
pub const TRAMPOLINE_CODE: [u8; 9] = [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];

/// The code of a system call that returns to its caller: `syscall; ret`.
pub const SYSCALL_RETURN_CODE: [u8; 3] = [0x0f, 0x05, 0xc3];

/// Lays out a frame that restores `regs` and `signal_mask`, and the extended state that lies, as
/// [`fpu::to_signal_frame`] makes it, at `extended_state` (a multiple of 64).
///
/// `trampoline` is where [`TRAMPOLINE_CODE`] stands in the task.
#[must_use]
pub fn encode(
    regs: &GeneralRegs,
    signal_mask: u64,
    extended_state: u64,
    trampoline: u64,
) -> [u8; FRAME_BYTES] {
    debug_assert!(extended_state.is_multiple_of(fpu::ALIGN as u64));
    let mut bytes = [0; FRAME_BYTES];
    let mut at = 0;
    let mut put = |word: u64| {
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        at += 8;
    };
    put(trampoline);
    // struct ucontext: flags, link, alternate stack (pointer, flags, size).
    put(UC_FLAGS);
    put(0);
    put(0);
    put(u64::from(SS_LEAVE_ALONE));
    put(0);
    // struct sigcontext_64.
    for register in [
        regs.r8, regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15, regs.di,
        regs.si, regs.bp, regs.bx, regs.dx, regs.ax, regs.cx, regs.sp, regs.ip, regs.flags,
    ] {
        put(register);
    }
    put(regs.cs & 0xffff
        | (regs.gs & 0xffff) << 16
        | (regs.fs & 0xffff) << 32
        | (regs.ss & 0xffff) << 48);
    // err, trapno, oldmask, cr2.
    put(0);
    put(0);
    put(signal_mask);
    put(0);
    put(extended_state);
    for _ in 0..8 {
        put(0);
    }
    put(signal_mask);
    bytes
}
