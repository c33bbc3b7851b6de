//! `iter/task_vma`: asynchronous I/O contexts, found by the mappings of their rings.
//!
//! A ring tells what has been completed, and nothing of what has not. The kernel has a number of free requests, a
//! part of which lies with the processors: what is neither free nor completed is in flight.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_map_lookup_percpu_elem;
use aya_ebpf::maps::PerCpuArray;
use stasis_ebpf_common::offsets as o;
use stasis_ebpf_common::offsets::ABSENT;
use stasis_ebpf_common::{AIO_UNKNOWN, AioRecord, Header, KIND_AIO};

use crate::emit;
use crate::read::{at, field, load, offset};
use crate::vma::VmaContext;

/// The file system of rings.
const AIO_FS: u64 = 0xa10a_10a1;
/// Processors that are looked at. On a machine with more it is not told what is in flight.
const MOST_PROCESSORS: u32 = 512;

/// How many processors this machine may have. The loader fills it in, and the verifier knows it: it goes through the loop
/// over them once for each.
#[unsafe(no_mangle)]
static PROCESSORS: u32 = 0;

/// Nothing is kept in it: where it lies for each processor tells where each has its own part of anything.
#[unsafe(link_section = "maps")]
#[unsafe(export_name = "RULER")]
static RULER: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

#[unsafe(link_section = "iter/task_vma")]
#[unsafe(no_mangle)]
extern "C" fn task_vma_aio(context: *mut VmaContext) -> i32 {
    // SAFETY: the kernel passes a context of this shape.
    let (meta, task, vma) = unsafe { ((*context).meta, (*context).task as u64, (*context).vma) };
    if task == 0 || vma.is_null() {
        return 0;
    }
    let file: u64 = load(vma as u64, o::VMA_FILE);
    if file == 0 {
        return 0;
    }
    let inode: u64 = load(file, o::FILE_INODE);
    let magic: u64 = load(load(inode, o::INODE_SB), o::SUPER_BLOCK_MAGIC);
    if magic != AIO_FS {
        return 0;
    }
    let mapping: u64 = field(inode, o::INODE_MAPPING);
    let ring: u64 = match offset(o::MAPPING_PRIVATE) {
        ABSENT => field(mapping, o::MAPPING_PRIVATE_BEFORE),
        _ => field(mapping, o::MAPPING_PRIVATE),
    };
    let memory: u64 = field(task, o::TASK_MM);
    let waiting: u64 = field(ring, o::AIO_CANCELLABLE);
    let record = AioRecord {
        header: Header { kind: KIND_AIO, bytes: size_of::<AioRecord>() as u32 },
        start: field(vma as u64, o::VMA_START),
        context: field(ring, o::AIO_ADDRESS),
        requests: field(ring, o::AIO_REQUESTS),
        events: field(ring, o::AIO_EVENTS),
        tail: field(ring, o::AIO_TAIL),
        in_flight: in_flight(ring),
        owned: u32::from(ring != 0 && of_memory(memory, field(ring, o::AIO_ID)) == ring),
        // A list that is empty leads to itself.
        waiting: u32::from(waiting != 0 && waiting != ring + u64::from(offset(o::AIO_CANCELLABLE))),
    };
    // SAFETY: as above.
    emit(unsafe { (*meta).seq }, &record);
    0
}

/// The context of this number in an address space.
#[inline(always)]
fn of_memory(memory: u64, id: u32) -> u64 {
    let table: u64 = field(memory, o::MM_AIO_TABLE);
    let count: u32 = field(table, o::AIO_TABLE_COUNT);
    if table == 0 || id >= count {
        return 0;
    }
    at(table + u64::from(offset(o::AIO_TABLE_ENTRIES)) + u64::from(id) * 8)
}

/// Requests that have been neither given back nor completed.
#[inline(always)]
fn in_flight(ring: u64) -> u32 {
    // The verifier knows the offsets: on a kernel without the helper it does not look at the call of it.
    let lacks = |index| offset(index) == ABSENT;
    if lacks(o::AIO_AVAILABLE)
        || lacks(o::AIO_OF_PROCESSORS)
        || lacks(o::AIO_AVAILABLE_THERE)
        || lacks(o::AIO_COMPLETED)
        || lacks(o::ARRAY_OF_PROCESSORS)
        || lacks(o::ELEMENTS_OF_PROCESSORS)
    {
        return AIO_UNKNOWN;
    }
    // SAFETY: a constant of this program. Volatile, because its value is not the one that the compiler sees here.
    let processors = unsafe { core::ptr::read_volatile(&raw const PROCESSORS) };
    if processors == 0 || processors > MOST_PROCESSORS {
        return AIO_UNKNOWN;
    }
    let events: u32 = field(ring, o::AIO_EVENTS);
    let completed: u32 = field(ring, o::AIO_COMPLETED);
    let available: u32 = field(ring, o::AIO_AVAILABLE);
    let mut taken = events.wrapping_sub(1).wrapping_sub(completed).wrapping_sub(available);
    let there: u64 = field(ring, o::AIO_OF_PROCESSORS);
    let map = core::ptr::from_ref(&RULER).cast::<c_void>();
    let general: u64 = field(number(map), o::ARRAY_OF_PROCESSORS);
    let first = 0_u32;
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
            return AIO_UNKNOWN;
        }
        let distance = number(own).wrapping_sub(general);
        let free: u32 = field(there.wrapping_add(distance), o::AIO_AVAILABLE_THERE);
        taken = taken.wrapping_sub(free);
    }
    taken
}

/// A pointer as a number, which may be calculated with: the verifier takes what is read from memory for one.
#[inline(always)]
fn number(pointer: *const c_void) -> u64 {
    let mut place: *const c_void = core::ptr::null();
    // SAFETY: a local. Volatile, so that it is in memory when the helper reads it from there.
    unsafe { (&raw mut place).write_volatile(pointer) };
    at(&raw const place as u64)
}
