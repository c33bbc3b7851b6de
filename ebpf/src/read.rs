//! Reading the kernel's memory, by offsets from its type information.

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use stasis_ebpf_common::offsets::{ABSENT, COUNT};

/// Filled in by the loader. In constant memory, so that the verifier knows the values.
#[unsafe(no_mangle)]
static OFFSETS: [u32; COUNT] = [ABSENT; COUNT];

/// The offset of a field, or [`ABSENT`].
#[inline(always)]
pub(crate) fn offset(index: usize) -> u32 {
    // SAFETY: every index is one of the shared constants, below COUNT. Volatile, because the value
    // is not the one that the compiler sees here.
    unsafe { core::ptr::read_volatile(OFFSETS.as_ptr().add(index)) }
}

/// Reads a value at an address; 0 for what cannot be read.
#[inline(always)]
pub(crate) fn at<T: Default>(address: u64) -> T {
    let mut value = T::default();
    fill_from(&mut value, address);
    value
}

/// As [`at`], for values of many bytes: no zeroes are written before, as that is a loop over bytes, through each turn of
/// which the verifier goes.
#[inline(always)]
pub(crate) fn many_at<T>(address: u64) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: as in [`fill_from`]; the helper writes all of the place, with zeroes where nothing can be read.
    unsafe {
        bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            address as *const c_void,
        );
        value.assume_init()
    }
}

/// As [`field`], for values of many bytes.
#[inline(always)]
pub(crate) fn many_in_field<T>(base: u64, index: usize) -> T {
    let offset = offset(index);
    // Nothing can be read at 0.
    many_at(if base == 0 || offset == ABSENT { 0 } else { base + u64::from(offset) })
}

/// Makes a record of zeroes, by words. (What the compiler makes of `default()` is a loop over bytes.)
#[inline(always)]
pub(crate) fn zero<T: Default + Copy>(place: &mut MaybeUninit<T>) -> &mut T {
    const WORD: usize = size_of::<u32>();
    const { assert!(size_of::<T>() % WORD == 0 && align_of::<T>() % WORD == 0) };
    // SAFETY: the words are all of the place, which is aligned to them; 0 is valid for the fields of the records, which are
    // numbers and arrays of numbers. Volatile, so that it does not become a loop over bytes again.
    unsafe {
        for word in 0..size_of::<T>() / WORD {
            place.as_mut_ptr().cast::<u32>().add(word).write_volatile(0);
        }
        place.assume_init_mut()
    }
}

/// Loads a field of a structure that the verifier knows: one of the context's pointers, or what was
/// loaded from such a one. It costs a tenth of [`field`]; 0 for what cannot be read or what this
/// kernel lacks. A pointer that it gives is no number: it may not be put into a record or a mark.
///
/// `T` must be as large as the field is.
#[inline(always)]
pub(crate) fn load<T: Default>(base: u64, index: usize) -> T {
    let offset = offset(index);
    if offset == ABSENT {
        return T::default();
    }
    // SAFETY: the verifier checks that this is a field of the structure, and the kernel answers a
    // bad address with 0; every bit pattern is valid for the numbers that fields are read as.
    // Volatile, because others change the structures meanwhile.
    unsafe { core::ptr::read_volatile((base as *const u8).add(offset as usize).cast()) }
}

/// Reads a field of the structure at `base`; 0 for no structure or a field that this kernel lacks.
#[inline(always)]
pub(crate) fn field<T: Default>(base: u64, index: usize) -> T {
    let mut value = T::default();
    fill(&mut value, base, index);
    value
}

/// Reads a field into its place; what cannot be read stays, or becomes, 0.
#[inline(always)]
pub(crate) fn fill<T>(value: &mut T, base: u64, index: usize) {
    let offset = offset(index);
    if base != 0 && offset != ABSENT {
        fill_from(value, base + u64::from(offset));
    }
}

/// Reads the value at an address into its place; one that cannot be read becomes 0.
#[inline(always)]
pub(crate) fn fill_from<T>(value: &mut T, address: u64) {
    // SAFETY: the helper checks the address and writes just the size of the place, for which every
    // bit pattern is valid: the fields of the records are numbers and arrays of numbers.
    unsafe {
        bpf_probe_read_kernel(
            core::ptr::from_mut(value).cast(),
            size_of::<T>() as u32,
            address as *const c_void,
        )
    };
}
