//! io_urings: `iter/task_file` tells what the kernel keeps of each, and `iter/task` how many requests a thread has in
//! flight.
//!
//! A file is not told from others of the same file system: who reads the records knows which descriptors are of rings.
//!
//! The kernel counts the requests of a thread when it takes a stock of them, a part of which lies with each processor.
//! What is not in the stock any more has been submitted and not been completed.

use stasis_ebpf_common::offsets as o;
use stasis_ebpf_common::offsets::ABSENT;
use stasis_ebpf_common::{
    AIO_UNKNOWN, Header, KIND_REQUESTS, KIND_RING, REGISTERED_FILES, RegisteredFile,
    RequestsRecord, RingRecord, ring,
};

use crate::file::{ANON_INODE_FS, FileContext};
use crate::read::{at, field, load, offset};
use crate::settings::holds;
use crate::task::{TaskContext, bit};
use crate::{emit, numbers, processors};

/// Places in which a thread may have rings registered.
const RINGS: u64 = 16;

#[unsafe(link_section = "iter/task")]
#[unsafe(no_mangle)]
extern "C" fn task_requests(context: *mut TaskContext) -> i32 {
    // SAFETY: the kernel passes a context of this shape.
    let (meta, task) = unsafe { ((*context).meta, (*context).task as u64) };
    if task == 0 {
        return 0;
    }
    let rings: u64 = field(task, o::TASK_IO_URING);
    if rings == 0 {
        return 0;
    }
    let mut registered = 0;
    for place in 0..RINGS {
        let ring: u64 = at(rings + u64::from(offset(o::REQUESTS_RINGS)) + place * 8);
        registered += u32::from(offset(o::REQUESTS_RINGS) != ABSENT && ring != 0);
    }
    let record = RequestsRecord {
        header: Header { kind: KIND_REQUESTS, bytes: size_of::<RequestsRecord>() as u32 },
        tid: numbers::of(field(task, o::TASK_THREAD_PID)),
        in_flight: in_flight(rings),
        registered,
        pad: 0,
    };
    // SAFETY: as above.
    emit(unsafe { (*meta).seq }, &record);
    0
}

/// Requests of a thread that have not been completed.
#[inline(always)]
fn in_flight(rings: u64) -> u32 {
    let lacks = |index| offset(index) == ABSENT;
    if lacks(o::REQUESTS_CACHED) || lacks(o::REQUESTS_IN_FLIGHT) || lacks(o::REQUESTS_OF_PROCESSORS)
    {
        return AIO_UNKNOWN;
    }
    let cached: u32 = field(rings, o::REQUESTS_CACHED);
    // Of 64 bits, of which the lower are enough for a difference.
    let common: u64 = field(rings, o::REQUESTS_IN_FLIGHT);
    let (taken, told) = processors::sum(field(rings, o::REQUESTS_OF_PROCESSORS));
    match told {
        true => (common as u32).wrapping_add(taken).wrapping_sub(cached),
        false => AIO_UNKNOWN,
    }
}

#[unsafe(link_section = "iter/task_file")]
#[unsafe(no_mangle)]
extern "C" fn task_file_rings(context: *mut FileContext) -> i32 {
    // SAFETY: the kernel passes a context of this shape.
    let (meta, task, fd, file) =
        unsafe { ((*context).meta, (*context).task as u64, (*context).fd, (*context).file as u64) };
    if task == 0 || file == 0 {
        return 0;
    }
    let inode: u64 = load(file, o::FILE_INODE);
    let magic: u64 = load(load(inode, o::INODE_SB), o::SUPER_BLOCK_MAGIC);
    if magic != ANON_INODE_FS {
        return 0;
    }
    let of: u64 = field(file, o::FILE_PRIVATE);
    // SAFETY: as above.
    let seq = unsafe { (*meta).seq };
    let files: u32 = field(of, o::RING_FILES);
    let is_told = files <= REGISTERED_FILES && offset(o::RING_NODE_FILE) != ABSENT;
    let told = if is_told { files } else { 0 };
    let bytes = size_of::<RingRecord>() as u32 + told * size_of::<RegisteredFile>() as u32;
    let signal: u64 = field(of, o::RING_EVENTFD);
    let submitter: u64 = field(of, o::RING_SUBMITTER);
    let record = RingRecord {
        header: Header { kind: KIND_RING, bytes },
        fd: fd as i32,
        flags: field(of, o::RING_FLAGS),
        submission_entries: field(of, o::RING_SUBMISSION_ENTRIES),
        submitted: field(of, o::RING_SUBMITTED),
        completion_entries: field(of, o::RING_COMPLETION_ENTRIES),
        completed: field(of, o::RING_COMPLETED),
        submitter: numbers::of(field(submitter, o::TASK_THREAD_PID)),
        eventfd: match signal {
            0 => -1,
            _ => field(field(signal, o::RING_EVENTFD_CONTEXT), o::EVENTFD_ID),
        },
        eventfd_async: field(signal, o::RING_EVENTFD_ASYNC),
        files,
        free_places: [field(of, o::RING_FREE_START), field(of, o::RING_FREE_END)],
        buffers: field(of, o::RING_BUFFERS),
        has: has(of),
    };
    emit(seq, &record);
    /// The lowest bits of the pointer say something of the file.
    const ADDRESS: u64 = !7;
    let nodes: u64 = field(of, o::RING_FILE_NODES);
    let (file, tag) = (offset(o::RING_NODE_FILE), offset(o::RING_NODE_TAG));
    // Without any decision in each turn: the verifier keeps count of them. (Nothing can be read at 0.)
    for place in 0..REGISTERED_FILES {
        if place >= told {
            break;
        }
        let node: u64 = at(nodes + u64::from(place) * 8);
        let registered = RegisteredFile {
            file: at::<u64>(node + u64::from(file)) & ADDRESS,
            tag: at(node + u64::from(tag)),
        };
        emit(seq, &registered);
    }
    0
}

#[inline(never)]
fn has(of: u64) -> u32 {
    const MONOTONIC: u32 = 1;
    /// No device is polled.
    const INACTIVE: u8 = 255;
    let mut found = 0;
    // Not in a loop: the compiler would keep the places in a table, which is nowhere in the kernel.
    let lacks = |index| offset(index) == ABSENT;
    if lacks(o::RING_FLAGS)
        || lacks(o::RING_SUBMITTED)
        || lacks(o::RING_COMPLETED)
        || lacks(o::RING_SUBMISSION_ENTRIES)
        || lacks(o::RING_COMPLETION_ENTRIES)
        || lacks(o::RING_PERSONALITIES)
        || lacks(o::RING_BUFFER_GROUPS)
        || lacks(o::RING_OVERFLOW)
        || lacks(o::RING_BUFFERS)
        || lacks(o::RING_RESTRICTED)
        || lacks(o::RING_TIMEOUTS)
        || lacks(o::RING_EVENTFD)
        || lacks(o::RING_EVENTFD_CONTEXT)
        || lacks(o::EVENTFD_ID)
        || lacks(o::RING_FILES)
        || lacks(o::RING_FILE_NODES)
        || lacks(o::RING_NODE_FILE)
    {
        found |= ring::UNKNOWN;
    }
    let has = |index| {
        let head: u64 = field(of, index);
        head != 0
    };
    if has(o::RING_PERSONALITIES) {
        found |= ring::PERSONALITIES;
    }
    if has(o::RING_BUFFER_GROUPS) {
        found |= ring::BUFFER_GROUPS;
    }
    if has(o::RING_RECEIVE_QUEUES) {
        found |= ring::RECEIVE_QUEUES;
    }
    let restricted: u8 = field(of, o::RING_RESTRICTED);
    if restricted != 0 {
        found |= ring::RESTRICTIONS;
    }
    let pages: u32 = field(of, o::RING_WAIT_REGION);
    if pages != 0 {
        found |= ring::WAIT_REGION;
    }
    let clock: u32 = field(of, o::RING_CLOCK);
    if offset(o::RING_CLOCK) != ABSENT && clock != MONOTONIC {
        found |= ring::CLOCK;
    }
    let polled: u8 = field(of, o::RING_POLLED_DEVICES);
    if offset(o::RING_POLLED_DEVICES) != ABSENT && polled != INACTIVE {
        found |= ring::POLLED_DEVICES;
    }
    if holds(of, o::RING_OVERFLOW) {
        found |= ring::OVERFLOW;
    }
    if holds(of, o::RING_TIMEOUTS) {
        found |= ring::TIMEOUTS;
    }
    if offset(o::RING_WORKERS) != ABSENT && bit(of, o::RING_WORKERS) != 0 {
        found |= ring::WORKERS;
    }
    if offset(o::RING_NO_DRAIN) != ABSENT && bit(of, o::RING_NO_DRAIN) != 0 {
        found |= ring::NO_DRAIN;
    }
    found
}
