//! `iter/task_vma`: asynchronous I/O contexts, found by the mappings of their rings.
//!
//! A ring tells what has been completed, and nothing of what has not. The kernel has a number of free requests, a
//! part of which lies with the processors: what is neither free nor completed is in flight.

use stasis_ebpf_common::offsets as o;
use stasis_ebpf_common::offsets::ABSENT;
use stasis_ebpf_common::{AIO_UNKNOWN, AioRecord, Header, KIND_AIO};

use crate::read::{at, field, load, offset};
use crate::vma::VmaContext;
use crate::{emit, processors};

/// The file system of rings.
const AIO_FS: u64 = 0xa10a_10a1;
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
    let lacks = |index| offset(index) == ABSENT;
    if lacks(o::AIO_AVAILABLE)
        || lacks(o::AIO_OF_PROCESSORS)
        || lacks(o::AIO_AVAILABLE_THERE)
        || lacks(o::AIO_COMPLETED)
    {
        return AIO_UNKNOWN;
    }
    let events: u32 = field(ring, o::AIO_EVENTS);
    let completed: u32 = field(ring, o::AIO_COMPLETED);
    let available: u32 = field(ring, o::AIO_AVAILABLE);
    let there: u64 = field(ring, o::AIO_OF_PROCESSORS);
    let (free, told) = processors::sum(there + u64::from(offset(o::AIO_AVAILABLE_THERE)));
    match told {
        true => events
            .wrapping_sub(1)
            .wrapping_sub(completed)
            .wrapping_sub(available)
            .wrapping_sub(free),
        false => AIO_UNKNOWN,
    }
}
