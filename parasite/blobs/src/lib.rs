//! What both blobs need of a run-time: the memory functions that the compiler calls, and an end
//! for panics.
//!
//! There is no C library, and the compiler's own memory functions are not built for this target;
//! these are the plainest that do the work, one string instruction each, so that they have no
//! tables, no vector state and nothing to relocate.
#![no_std]

use core::arch::asm;

/// Copies `count` bytes forwards.
///
/// # Safety
/// As C's `memcpy`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller promises two valid ranges; the direction flag is clear by the ABI.
    unsafe {
        asm!("rep movsb", inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _,
             options(nostack, preserves_flags));
    }
    to
}

/// Copies `count` bytes between ranges that may overlap.
///
/// # Safety
/// As C's `memmove`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= count {
        // SAFETY: the target does not start inside the source, so copying forwards is right.
        return unsafe { memcpy(to, from, count) };
    }
    // SAFETY: backwards from the last byte; the direction flag is put back as the ABI has it.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") count => _,
             inout("rdi") to.wrapping_add(count).wrapping_sub(1) => _,
             inout("rsi") from.wrapping_add(count).wrapping_sub(1) => _, options(nostack));
    }
    to
}

/// Fills `count` bytes.
///
/// # Safety
/// As C's `memset`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
    // SAFETY: the caller promises a valid range.
    unsafe {
        asm!("rep stosb", inout("rcx") count => _, inout("rdi") to => _, in("al") byte as u8,
             options(nostack, preserves_flags));
    }
    to
}

/// Fills `count` bytes with zeros. (A loop that calls `memset` takes its address from a table that
/// a loader would have to fill.)
///
/// # Safety
/// The range is valid for writes.
pub unsafe fn clear(to: *mut u8, count: usize) {
    // SAFETY: the caller promises a valid range.
    unsafe {
        asm!("rep stosb", inout("rcx") count => _, inout("rdi") to => _, in("al") 0u8,
             options(nostack, preserves_flags));
    }
}

/// Compares `count` bytes.
///
/// # Safety
/// As C's `memcmp`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    let mut at = 0;
    while at < count {
        // SAFETY: `at` stays below `count`, for which the caller promises both ranges.
        let (x, y) = unsafe { (a.add(at).read_volatile(), b.add(at).read_volatile()) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
        at += 1;
    }
    0
}

/// A blob that panics has lost its way: an illegal instruction shows the tracer where.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: `ud2` raises SIGILL and does not return.
    unsafe { asm!("ud2", options(noreturn, nostack)) }
}
