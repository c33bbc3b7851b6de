//! What both blobs need of a run-time: the memory functions that the compiler calls, and an end
//! for panics.
//!
//! There is no C library, and the compiler's own memory functions are not built for this target;
//! these are the plainest that do the work ([`arch::blob`]).
#![no_std]

use arch::blob;

/// Copies `count` bytes forwards.
///
/// # Safety
/// As C's `memcpy`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller promises two valid ranges that do not overlap.
    unsafe { blob::copy(to, from, count) };
    to
}

/// Copies `count` bytes between ranges that may overlap.
///
/// # Safety
/// As C's `memmove`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    let inside = (to as usize).wrapping_sub(from as usize) < count;
    // SAFETY: the caller promises two valid ranges. A target that begins inside the source is
    // filled from its end, any other one from its start.
    unsafe {
        if inside { blob::copy_backwards(to, from, count) } else { blob::copy(to, from, count) }
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
    unsafe { blob::fill(to, byte as u8, count) };
    to
}

/// Fills `count` bytes with zeros. (A loop that calls `memset` takes its address from a table that
/// a loader would have to fill.)
///
/// # Safety
/// The range is valid for writes.
pub unsafe fn clear(to: *mut u8, count: usize) {
    // SAFETY: the caller promises a valid range.
    unsafe { blob::fill(to, 0, count) }
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
    blob::trap()
}
