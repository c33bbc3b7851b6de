//! Structs as bytes: how what is shared with a blob is written into a task and read back.

/// Values that are nothing but bytes: any bit pattern is one, and there is no padding.
///
/// # Safety
/// Implement it only for `#[repr(C)]` types (or integers and arrays of them) for which that
/// holds.
pub unsafe trait Plain: Copy {}

/// The bytes of plain values.
#[must_use]
pub fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: `Plain` promises that every byte is initialised (no padding); the slice borrows
    // the values.
    unsafe { core::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The bytes of plain values, to be written.
pub fn bytes_of_mut<T: Plain>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: `Plain` promises no padding and that any bytes make a value; the slice borrows the
    // values mutably.
    unsafe { core::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}
