//! What the blobs need of assembler: their entry, their end, and the memory functions that a
//! compiler calls where there is no C library.
//!
//! Every function here is inlined: a blob has nothing that a loader would have to fill in. The
//! memory functions are one string instruction each: they have no tables and touch no vector state.

use core::arch::asm;

use super::regs::Abi;
use super::syscall::nr;

/// Defines `start`, the entry of a blob: on an aligned stack it calls `$main`, an
/// `unsafe extern "C" fn(*mut T) -> !`, with the first argument register as it found it.
#[macro_export]
macro_rules! blob_entry {
    ($main:path) => {
        /// The entry. The first argument register holds the address of what the host laid out, the
        /// stack pointer the end of the stack.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        #[unsafe(link_section = ".text.start")]
        pub extern "C" fn start() -> ! {
            ::core::arch::naked_asm!(
                "cld",
                "and rsp, -16",
                "xor ebp, ebp",
                "call {main}",
                "ud2",
                main = sym $main,
            )
        }
    };
}

/// Unmaps a region, from an instruction outside of it, and goes on from there. `door` is that instruction's kind.
///
/// The region may hold the code and the stack that this runs on: all arguments are in registers
/// when the stack pointer is set to `home`, and nothing of the region is used after that. The
/// call at `syscall_return` ([`super::sigframe::Codes::call_return`]) returns to the address that
/// the frame at `home` has for that.
///
/// # Safety
/// There is that code at `syscall_return`, outside of the region, `home` is the address of a signal
/// frame, and nothing of the caller is needed any more.
#[inline(always)]
pub unsafe fn unmap_and_return(
    door: Abi,
    (start, bytes): (usize, usize),
    syscall_return: usize,
    home: usize,
) -> ! {
    const COMPAT_MUNMAP: usize = 91;
    // SAFETY: the caller promises that nothing comes back here.
    unsafe {
        if matches!(door, Abi::Compat) {
            asm!(
                "mov rsp, rdi",
                "mov rbx, rsi",
                "jmp rdx",
                in("rsi") start,
                in("rcx") bytes,
                in("rdx") syscall_return,
                in("rdi") home,
                in("rax") COMPAT_MUNMAP,
                options(noreturn),
            )
        }
        asm!(
            "mov rsp, rcx",
            "jmp rdx",
            in("rdi") start,
            in("rsi") bytes,
            in("rdx") syscall_return,
            in("rcx") home,
            in("rax") nr::MUNMAP,
            options(noreturn),
        )
    }
}

/// Stops by an illegal instruction, which shows the tracer where.
#[inline(always)]
pub fn trap() -> ! {
    // SAFETY: `ud2` raises SIGILL and does not return.
    unsafe { asm!("ud2", options(noreturn, nostack)) }
}

/// Copies `count` bytes forwards.
///
/// # Safety
/// Both ranges are valid, and the target does not begin inside the source.
#[inline(always)]
pub unsafe fn copy(to: *mut u8, from: *const u8, count: usize) {
    // SAFETY: the caller promises two valid ranges; the direction flag is clear by the ABI.
    unsafe {
        asm!("rep movsb", inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _,
             options(nostack, preserves_flags));
    }
}

/// Copies `count` bytes backwards, from the last to the first.
///
/// # Safety
/// Both ranges are valid, and the source does not begin inside the target.
#[inline(always)]
pub unsafe fn copy_backwards(to: *mut u8, from: *const u8, count: usize) {
    // SAFETY: the caller promises two valid ranges; the direction flag is put back as the ABI has
    // it.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") count => _,
             inout("rdi") to.wrapping_add(count).wrapping_sub(1) => _,
             inout("rsi") from.wrapping_add(count).wrapping_sub(1) => _, options(nostack));
    }
}

/// Sets `count` bytes.
///
/// # Safety
/// The range is valid for writes.
#[inline(always)]
pub unsafe fn fill(to: *mut u8, byte: u8, count: usize) {
    // SAFETY: the caller promises a valid range.
    unsafe {
        asm!("rep stosb", inout("rcx") count => _, inout("rdi") to => _, in("al") byte,
             options(nostack, preserves_flags));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_and_fills_what_it_is_told_to() {
        let mut bytes: [u8; 16] = core::array::from_fn(|at| at as u8);
        let start = bytes.as_mut_ptr();
        // SAFETY: all ranges lie within the array, and overlap as is allowed.
        unsafe {
            copy(start, start.add(2), 4);
            copy_backwards(start.add(8), start.add(6), 8);
            fill(start.add(4), 77, 2);
            fill(start, 1, 0);
        }
        assert_eq!(bytes, [2, 3, 4, 5, 77, 77, 6, 7, 6, 7, 8, 9, 10, 11, 12, 13]);
    }
}
