//! Asynchronous I/O contexts.
//!
//! The kernel makes a ring where it likes, with its own count of where the next event goes, which only completed requests
//! move on. So reads of no bytes are asked for until it stands where it stood. Those that the program had
//! taken are taken back at once, by moving the ring's head as a program may do; of the others the kernel counts that they
//! wait. Then the events themselves are written over them, and the ring moves to its place: the kernel lets a
//! context be called by another address then.

use core::mem::MaybeUninit;
use core::ptr::{read_volatile, write_volatile};

use arch::blob;
use arch::syscall::nr;
use parasite::restorer::{AioRing, Step};

use crate::context::Context;

const MREMAP_MAYMOVE: usize = 1;
const MREMAP_FIXED: usize = 2;
const EINVAL: i32 = 22;
const EIO: i32 = 5;

/// `struct aio_ring`, in front of its events.
#[repr(C)]
struct Header {
    id: u32,
    events: u32,
    head: u32,
    tail: u32,
    magic: u32,
    compatible: u32,
    incompatible: u32,
    bytes: u32,
}

/// Bytes of a `struct io_event`.
const EVENT: u64 = 32;

/// Requests that are submitted at once: less than a processor can be given of the smallest ring.
const BATCH: usize = 16;

/// Room for the numbers of processors: the kernel takes no less than it may have.
const PROCESSORS: usize = 1024;

/// A set of processors, one bit each.
type Processors = MaybeUninit<[u8; PROCESSORS]>;

/// Makes all contexts of the process, of what has been read to where their rings belong.
pub fn make(context: &Context) {
    for ring in context.entries(context.arguments().rings) {
        make_one(context, ring);
    }
}

fn make_one(context: &Context, ring: &AioRing) {
    let mut number = 0_u64;
    let args = [ring.requests as usize, &raw mut number as usize, 0, 0, 0, 0];
    context.must(Step::AioSetup, ring.start, nr::IO_SETUP, args);
    // SAFETY: a local that the kernel has just written.
    let number = unsafe { read_volatile(&raw const number) };
    let (old, new) = (ring.start as *const Header, number as *mut Header);
    // SAFETY: the old ring is memory of this address space that was mapped to be written, and the host has compared its
    // length with that of the ring which the kernel has just mapped: each is a header and events.
    let (head, tail, events) = unsafe {
        let same =
            read_volatile(&raw const (*old).events) == read_volatile(&raw const (*new).events);
        let events = read_volatile(&raw const (*new).events);
        if !same || u64::from(events) != (ring.bytes - size_of::<Header>() as u64) / EVENT {
            context.fail(Step::AioFill, ring.start, EINVAL);
        }
        (read_volatile(&raw const (*old).head), read_volatile(&raw const (*old).tail), events)
    };
    if head >= events || tail >= events {
        context.fail(Step::AioFill, ring.start, EINVAL);
    }
    if head != 0 || tail != 0 {
        advance(context, ring.start, new, (head, tail, events));
    }
    // SAFETY: as above; they are different mappings.
    unsafe {
        blob::copy(
            new.add(1).cast::<u8>(),
            old.add(1).cast::<u8>(),
            ring.bytes as usize - size_of::<Header>(),
        );
    }
    let (from, bytes, to) = (number as usize, ring.bytes as usize, ring.start as usize);
    let args = [from, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to, 0];
    context.must(Step::AioMove, ring.start, nr::MREMAP, args);
}

/// Brings the kernel's count to `tail` and the head to `head`.
fn advance(
    context: &Context,
    object: u64,
    ring: *mut Header,
    (head, tail, events): (u32, u32, u32),
) {
    // Requests are given out to processors in portions: this thread stays on one, so that it gets all there are.
    let mut before = Processors::uninit();
    let bytes = stay(context, object, &mut before);
    let mut left = head as usize;
    while left > 0 {
        left = left.saturating_sub(submit(context, object, ring, left));
        // SAFETY: the ring that the kernel has mapped; nobody else uses it.
        unsafe { write_volatile(&raw mut (*ring).head, read_volatile(&raw const (*ring).tail)) };
    }
    let waiting = if tail >= head { tail - head } else { tail + (events - head) };
    let mut left = waiting as usize;
    while left > 0 {
        left = left.saturating_sub(submit(context, object, ring, left));
    }
    // SAFETY: as above.
    let (first, next) =
        unsafe { (read_volatile(&raw const (*ring).head), read_volatile(&raw const (*ring).tail)) };
    if first != head || next != tail {
        context.fail(Step::AioFill, object, EIO);
    }
    let args = [0, bytes, before.as_ptr() as usize, 0, 0, 0];
    context.must(Step::AioFill, object, nr::SCHED_SETAFFINITY, args);
}

/// Keeps this thread on the processor that it is on. Notes those that it could be on, and returns how many bytes they
/// take.
fn stay(context: &Context, object: u64, before: &mut Processors) -> usize {
    let args = [0, PROCESSORS, before.as_mut_ptr() as usize, 0, 0, 0];
    let bytes = context.must(Step::AioFill, object, nr::SCHED_GETAFFINITY, args);
    let mut processor = 0_u32;
    let args = [&raw mut processor as usize, 0, 0, 0, 0, 0];
    context.must(Step::AioFill, object, nr::GETCPU, args);
    let mut one = Processors::uninit();
    let mask = one.as_mut_ptr().cast::<u8>();
    // SAFETY: `processor` is a local that the kernel has just written, and less than eight times the bytes that it has
    // just said it needs; the mask has room for so many.
    unsafe {
        stasis_blobs::clear(mask, PROCESSORS);
        let processor = read_volatile(&raw const processor) as usize;
        if processor / 8 < PROCESSORS {
            mask.add(processor / 8).write_volatile(1 << (processor % 8));
        }
    }
    let args = [0, bytes, mask as usize, 0, 0, 0];
    context.must(Step::AioFill, object, nr::SCHED_SETAFFINITY, args);
    bytes
}

/// Asks for some reads of no bytes of the program's own file, which are completed at once; how many.
fn submit(context: &Context, object: u64, ring: *mut Header, most: usize) -> usize {
    const READ: u64 = 0;
    let file = context.arguments().mm.exe_fd as u64;
    // `struct iocb` by its words: the third has the operation and the descriptor.
    let request = [0, 0, READ | file << 32, 0, 0, 0, 0, 0_u64];
    let list = [&raw const request; BATCH];
    let count = if most < BATCH { most } else { BATCH };
    let args = [ring as usize, count, list.as_ptr() as usize, 0, 0, 0];
    context.must(Step::AioFill, object, nr::IO_SUBMIT, args)
}
