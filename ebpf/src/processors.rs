//! Counters of which each processor has a part.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_map_lookup_percpu_elem;
use aya_ebpf::maps::PerCpuArray;
use stasis_ebpf_common::offsets as o;
use stasis_ebpf_common::offsets::ABSENT;

use crate::read::{at, field, offset};

/// Processors that are looked at. On a machine with more nothing is told.
const MOST_PROCESSORS: u32 = 512;

/// How many processors this machine may have. The loader fills it in, and the verifier knows it: it goes through the loop
/// over them once for each.
#[unsafe(no_mangle)]
static PROCESSORS: u32 = 0;

/// Nothing is kept in it: where it lies for each processor tells where each has its own part of anything.
#[unsafe(link_section = "maps")]
#[unsafe(export_name = "RULER")]
static RULER: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Adds up what all processors have of the number `there`; with whether that can be told. `there` is where the kernel
/// says that it lies, before the distance of the processor.
#[inline(always)]
pub(crate) fn sum(there: u64) -> (u32, bool) {
    // The verifier knows the offsets: on a kernel without the helper it does not look at the call of it.
    if offset(o::ARRAY_OF_PROCESSORS) == ABSENT || offset(o::ELEMENTS_OF_PROCESSORS) == ABSENT {
        return (0, false);
    }
    // SAFETY: a constant of this program. Volatile, because its value is not the one that the compiler sees here.
    let processors = unsafe { core::ptr::read_volatile(&raw const PROCESSORS) };
    if processors == 0 || processors > MOST_PROCESSORS {
        return (0, false);
    }
    let map = core::ptr::from_ref(&RULER).cast::<c_void>();
    let general: u64 = field(number(map), o::ARRAY_OF_PROCESSORS);
    let first = 0_u32;
    let mut sum = 0_u32;
    for processor in 0..processors {
        // SAFETY: the map is one of a value for each processor, and the key is as long as its keys are.
        let own = unsafe {
            bpf_map_lookup_percpu_elem(
                map.cast_mut(),
                (&raw const first).cast::<c_void>(),
                processor,
            )
        };
        if own.is_null() {
            return (0, false);
        }
        let distance = number(own).wrapping_sub(general);
        sum = sum.wrapping_add(at(there.wrapping_add(distance)));
    }
    (sum, true)
}

/// A pointer as a number, which may be calculated with: the verifier takes what is read from memory for one.
#[inline(always)]
fn number(pointer: *const c_void) -> u64 {
    let mut place: *const c_void = core::ptr::null();
    // SAFETY: a local. Volatile, so that it is in memory when the helper reads it from there.
    unsafe { (&raw mut place).write_volatile(pointer) };
    at(&raw const place as u64)
}
