//! The real-time signal frame (`struct rt_sigframe`, `arch/x86/include/asm/sigframe.h`) that
//! `rt_sigreturn` reads.
//!
//! A frame is how a task finds its own way home: whoever makes it run `rt_sigreturn` with the
//! stack pointer one word above a frame's start gives it back every register, the extended state
//! and the signal mask in one system call, with nobody's help. An injected call is therefore
//! always made with the stack pointer *at* a frame, whose first word is the address of a
//! sigreturn trampoline, so that the call's `ret` leads there.
//!
//! A 32-bit task has no `syscall` of 64-bit code. But its vDSO, which the kernel gives to each, has code that does the same wherever it
//! runs: `int 0x80` makes a call of the 32-bit kind from 64-bit code as well. So a call is made there by 64-bit code, three words
//! are popped, and `ret` leads to the vDSO's own trampoline. What that takes is the frame of 32-bit code (`struct rt_sigframe_ia32`): from
//! there the task is in its own code again.

use super::fpu;
use super::regs::{Abi, GeneralRegs};

/// Bytes of a frame, of either kind, without the extended state it points to: return address and `struct ucontext`.
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

/// The trampoline of 32-bit code: `mov eax, 173; int 0x80`, in 64-bit code the same.
const COMPAT_TRAMPOLINE_CODE: [u8; 7] = [0xb8, 0xad, 0, 0, 0, 0xcd, 0x80];

/// The end of `__kernel_vsyscall`: `int 0x80; pop ebp; pop edx; pop ecx; ret`, in 64-bit code the same with whole registers.
const COMPAT_CALL_RETURN_CODE: [u8; 6] = [0xcd, 0x80, 0x5d, 0x5a, 0x59, 0xc3];

/// The code that calls in a task are made by, and the trampoline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codes {
    /// A sigreturn trampoline.
    pub trampoline: &'static [u8],
    /// A system call that returns to the address that stands in the frame.
    pub call_return: &'static [u8],
    /// Whether they are the kernel's own code, in the vDSO, and not to be searched in files.
    pub in_vdso: bool,
}

/// Those of a task, by its kind.
#[must_use]
pub const fn codes(abi: Abi) -> Codes {
    match abi {
        Abi::Native => Codes {
            trampoline: &TRAMPOLINE_CODE,
            call_return: &SYSCALL_RETURN_CODE,
            in_vdso: false,
        },
        Abi::Compat => Codes {
            trampoline: &COMPAT_TRAMPOLINE_CODE,
            call_return: &COMPAT_CALL_RETURN_CODE,
            in_vdso: true,
        },
    }
}

/// Lays out a frame that restores `regs` and `signal_mask`, and the extended state that lies, as
/// [`fpu::to_signal_frame`] makes it, at `extended_state` (a multiple of 64); in a 32-bit task behind [`fpu::compat_header`].
///
/// `trampoline` is where that of [`codes`] stands in the task.
#[must_use]
pub fn encode(
    abi: Abi,
    regs: &GeneralRegs,
    signal_mask: u64,
    (extended_state, trampoline): (u64, u64),
) -> [u8; FRAME_BYTES] {
    match abi {
        Abi::Native => encode_native(regs, signal_mask, extended_state, trampoline),
        Abi::Compat => encode_compat(regs, signal_mask, extended_state, trampoline),
    }
}

fn encode_compat(
    regs: &GeneralRegs,
    signal_mask: u64,
    extended_state: u64,
    trampoline: u64,
) -> [u8; FRAME_BYTES] {
    /// What is popped, and the address that is returned to: words of 64 bits.
    const POPPED: usize = 3 * 8;
    /// The frame begins in the upper half of that address, with where its handler would return to. Behind that: the number of the signal, two
    /// pointers, `siginfo_t`.
    const UCONTEXT_AT: usize = POPPED + 4 + 4 * 4 + 128;
    let mut bytes = [0; FRAME_BYTES];
    bytes[POPPED..POPPED + 8].copy_from_slice(&trampoline.to_le_bytes());
    let mut at = UCONTEXT_AT;
    let mut put = |word: u64| {
        bytes[at..at + 4].copy_from_slice(&(word as u32).to_le_bytes());
        at += 4;
    };
    // struct ucontext_ia32: flags (UC_FP_XSTATE), link, alternate stack (pointer, flags, size).
    for word in [1, 0, 0, u64::from(SS_LEAVE_ALONE), 0] {
        put(word);
    }
    // struct sigcontext_32: trapno and err are behind ax, the stack pointer of the signal behind the flags.
    for register in [
        regs.gs, regs.fs, regs.es, regs.ds, regs.di, regs.si, regs.bp, regs.sp, regs.bx, regs.dx,
        regs.cx, regs.ax, 0, 0, regs.ip, regs.cs, regs.flags, regs.sp, regs.ss,
    ] {
        put(register);
    }
    put(extended_state - fpu::COMPAT_HEADER_BYTES as u64);
    // oldmask, cr2.
    put(signal_mask);
    put(0);
    put(signal_mask);
    put(signal_mask >> 32);
    bytes
}

fn encode_native(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_of_32_bit_code_has_its_words_where_the_kernel_reads_them() {
        let regs = GeneralRegs {
            gs: 0x63,
            sp: 0xff80_1234,
            ip: 0xf7f9_a5e9,
            cs: 0x23,
            ss: 0x2b,
            flags: 0x246,
            ..GeneralRegs::default()
        };
        let frame = encode(Abi::Compat, &regs, 0x8000_0000_0000_0001, (0x2_0000, 0xf7f9_a610));
        let word = |at: usize| {
            u32::from_le_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]])
        };
        assert_eq!(word(24), 0xf7f9_a610);
        // From the start of struct rt_sigframe_ia32, 28: siginfo_t at 16, the context at 144, its registers at 20.
        let context = 28 + 16 + 128;
        let registers = context + 20;
        assert_eq!((word(context), word(context + 12)), (1, SS_LEAVE_ALONE));
        assert_eq!((word(registers), word(registers + 28)), (0x63, 0xff80_1234));
        assert_eq!((word(registers + 56), word(registers + 60)), (0xf7f9_a5e9, 0x23));
        assert_eq!(word(registers + 76), 0x2_0000 - 112);
        assert_eq!((word(registers + 88), word(registers + 92)), (1, 0x8000_0000));
        assert!(registers + 96 + 8 <= FRAME_BYTES);
    }
}
