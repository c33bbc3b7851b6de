//! Tasks of the processor's 32-bit predecessor (i386): the calls of theirs that a 64-bit program has to make
//! for them, or in them.
//!
//! The kernel keeps for each signal action, and for each list of robust futexes, which kind of call has set it, and goes by
//! that later. So they are set by `int 0x80`, which makes a call of the 32-bit kind from 64-bit code as well: with numbers of its own
//! (`arch/x86/entry/syscalls/syscall_32.tbl`), arguments of 32 bits and structures of 32-bit members, which must be below 4 GiB.

use core::arch::asm;

use super::regs::Abi;
use super::syscall::{Answer, answer, nr, syscall};

/// What filters of system calls see as the architecture of such a call (`AUDIT_ARCH_I386`, linux/audit.h).
pub const AUDIT_ARCH: u32 = 0x4000_0003;

/// Where the addresses end that a 32-bit task can have (`IA32_PAGE_OFFSET`).
pub const END_OF_SPACE: u64 = 0xffff_e000;

/// Bytes of `struct compat_robust_list_head`, the one size that the kernel accepts.
pub const ROBUST_LIST_BYTES: u64 = 12;

/// Set in the flags of a signal action, of which programs see nothing, if a call of the 32-bit kind has set it (`SA_IA32_ABI`).
pub const ACTION_FLAG: u64 = 0x0200_0000;

/// The kernel's own flags of signal actions: which kind of call has set them.
pub const ACTION_FLAGS: u64 = ACTION_FLAG | 0x0100_0000;

const GETPID: u32 = 20;
const RT_SIGACTION: u32 = 174;
const SET_ROBUST_LIST: u32 = 311;
const GET_ROBUST_LIST: u32 = 312;
const ARCH_MAP_VDSO_32: usize = 0x2002;
const SIGSET_BYTES: u32 = 8;

/// The program headers' words for it: class and machine of an ELF file.
const CLASS_32: u8 = 1;
const CLASS_64: u8 = 2;
const MACHINE_386: u16 = 3;
const MACHINE_X86_64: u16 = 62;

/// Bytes of an ELF file that [`of_program`] goes by.
pub const ELF_HEAD_BYTES: usize = 20;

/// Whose code a program is, by the head of its ELF file; `None` for one that neither is: of 32-bit pointers and 64-bit registers (x32), or
/// of another processor.
#[must_use]
pub fn of_program(head: &[u8; ELF_HEAD_BYTES]) -> Option<Abi> {
    let (class, machine) = (head[4], u16::from_le_bytes([head[18], head[19]]));
    match (&head[..4], class, machine) {
        (b"\x7fELF", CLASS_64, MACHINE_X86_64) => Some(Abi::Native),
        (b"\x7fELF", CLASS_32, MACHINE_386) => Some(Abi::Compat),
        _ => None,
    }
}

/// Start, flags and bytes of an alternate signal stack (`compat_stack_t`).
#[must_use]
pub fn alt_stack(bytes: &[u8; 12]) -> (u64, u32, u64) {
    let word =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    (word(0).into(), word(4), word(8).into())
}

/// Makes a call of the 32-bit kind.
///
/// # Safety
/// As [`syscall`]: what it points to is below 4 GiB and valid for what the call does with it. The kernel carries out calls of 32-bit code
/// ([`is_there`]): one that does not raises SIGSEGV.
#[inline(always)]
unsafe fn call(number: u32, args: [u32; 4]) -> Answer {
    let raw: u64;
    // SAFETY: older kernels leave nothing in r8 to r11, which are declared; rbx, which the compiler keeps for itself, is put
    // back. What the call itself does is the caller's promise.
    unsafe {
        asm!(
            "xchg rbx, {first}",
            "int 0x80",
            "xchg rbx, {first}",
            first = inout(reg) u64::from(args[0]) => _,
            inlateout("rax") u64::from(number) => raw,
            in("rcx") u64::from(args[1]),
            in("rdx") u64::from(args[2]),
            in("rsi") u64::from(args[3]),
            lateout("r8") _,
            lateout("r9") _,
            lateout("r10") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    answer(raw as u32 as i32 as isize)
}

/// Asks for the caller's process id by a call of the 32-bit kind. SIGSEGV is the answer of a kernel that carries none out (`ia32_emulation=off`,
/// or built without CONFIG_IA32_EMULATION): a child asks.
#[must_use]
pub fn is_there() -> bool {
    // SAFETY: a question without a pointer.
    unsafe { call(GETPID, [0; 4]) }.is_ok()
}

/// `struct compat_sigaction`.
#[repr(C)]
struct Action {
    handler: u32,
    flags: u32,
    restorer: u32,
    mask: [u32; 2],
}

/// Sets the action of a signal as 32-bit code does it: handler, flags, where it returns to, and mask.
///
/// # Errors
/// The kernel's answer.
///
/// # Safety
/// The stack is below 4 GiB. The handler is 32-bit code of the caller's own, that may run.
#[inline(always)]
pub unsafe fn set_action(signal: u32, [handler, flags, restorer, mask]: [u64; 4]) -> Answer {
    let action = Action {
        handler: handler as u32,
        flags: flags as u32,
        restorer: restorer as u32,
        mask: [mask as u32, (mask >> 32) as u32],
    };
    // SAFETY: the caller's promise: the structure is on its stack.
    unsafe { call(RT_SIGACTION, [signal, &raw const action as u32, 0, SIGSET_BYTES]) }
}

/// Registers the head of the calling thread's list of robust futexes, of 32-bit members.
///
/// # Errors
/// The kernel's answer.
#[inline(always)]
pub fn set_robust_list(head: u64, bytes: u64) -> Answer {
    // SAFETY: the kernel notes two numbers, and looks when the thread ends: it expects nothing good.
    unsafe { call(SET_ROBUST_LIST, [head as u32, bytes as u32, 0, 0]) }
}

/// Asks where that list of a thread is.
///
/// # Errors
/// The kernel's answer.
///
/// # Safety
/// `place` is the address of eight bytes below 4 GiB: the kernel writes there the head, and how long it is.
pub unsafe fn ask_robust_list(thread: i32, place: u32) -> Answer {
    // SAFETY: the caller's promise.
    unsafe { call(GET_ROBUST_LIST, [thread.cast_unsigned(), place, place + 4, 0]) }
}

/// Maps the vDSO of 32-bit tasks, its data first, into a process that has no vDSO; the kernel knows from then on that it is there.
///
/// # Errors
/// The kernel's answer.
#[inline(always)]
pub fn map_vdso(at: u64) -> Answer {
    // SAFETY: it is put where nothing is mapped: the address is a wish.
    unsafe { syscall(nr::ARCH_PRCTL, [ARCH_MAP_VDSO_32, at as usize, 0, 0, 0, 0]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_told_apart() {
        let head = |class: u8, machine: u8| {
            let mut head = [0; ELF_HEAD_BYTES];
            head[..5].copy_from_slice(&[0x7f, b'E', b'L', b'F', class]);
            head[18] = machine;
            head
        };
        assert_eq!(of_program(&head(2, 62)), Some(Abi::Native));
        assert_eq!(of_program(&head(1, 3)), Some(Abi::Compat));
        // x32, and Arm.
        assert_eq!(of_program(&head(1, 62)), None);
        assert_eq!(of_program(&head(1, 40)), None);
        assert_eq!(of_program(&[0; ELF_HEAD_BYTES]), None);
    }

    #[test]
    fn an_alternate_stack_has_three_words() {
        let mut bytes = [0; 12];
        bytes[3] = 0xf7;
        bytes[4] = 2;
        bytes[9] = 0x20;
        assert_eq!(alt_stack(&bytes), (0xf700_0000, 2, 0x2000));
    }
}
