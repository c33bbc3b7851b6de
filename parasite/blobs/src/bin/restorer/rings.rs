//! Mappings of io_urings.
//!
//! The kernel maps a ring where it likes, lets nobody say where, and moves it nowhere. So every other free address is
//! taken for a moment: what is left is where it belongs.

use arch::blob;
use arch::memory::PAGE_SIZE;
use arch::syscall::{nr, syscall};
use parasite::restorer::{IssuedRing, Mapping, Step};

use crate::context::Context;

const MAP_PRIVATE: usize = 0x02;
const MAP_ANONYMOUS: usize = 0x20;
const MAP_NORESERVE: usize = 0x4000;
const MAP_FIXED_NOREPLACE: usize = 0x10_0000;
const EEXIST: i32 = 17;
const EIO: i32 = 5;

/// Below this only who may is given memory: the kernel's usual `vm.mmap_min_addr`.
const LOWEST: u64 = 0x1_0000;

/// Maps all of them, when everything else has its place.
pub fn map(context: &Context) {
    let mappings = context.entries(context.arguments().mappings);
    for ring in mappings.iter().filter(|mapping| mapping.ring != 0) {
        let has_low = low(nr::MMAP);
        gaps(context, ring, |start, end| {
            let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
            let args = [start as usize, (end - start) as usize, 0, flags, usize::MAX, 0];
            context.must(Step::RingMap, ring.start, nr::MMAP, args);
        });
        let (bytes, protection) = (ring.bytes as usize, ring.fill_protection as usize);
        let (flags, fd, offset) = (ring.flags as usize, ring.fd as isize as usize, ring.offset);
        let args = [0, bytes, protection, flags, fd, offset as usize];
        let mapped = context.must(Step::RingMap, ring.start, nr::MMAP, args);
        if mapped as u64 != ring.start {
            context.fail(Step::RingMap, ring.start, EEXIST);
        }
        if has_low {
            low(nr::MUNMAP);
        }
        gaps(context, ring, |start, end| {
            let args = [start as usize, (end - start) as usize, 0, 0, 0, 0];
            context.must(Step::RingMap, ring.start, nr::MUNMAP, args);
        });
    }
}

/// Takes the lowest addresses, or gives them back. The kernel may give them to this process or not: if not it does not give it
/// a ring there either. Something of the program's may lie there, too: then nothing is taken, and false returned.
fn low(call: usize) -> bool {
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
    let bytes = (LOWEST - PAGE_SIZE) as usize;
    // SAFETY: nothing is mapped there, or it fails; and they are given back only if they were taken.
    unsafe { syscall(call, [PAGE_SIZE as usize, bytes, 0, flags, usize::MAX, 0]) }.is_ok()
}

/// All free addresses from [`LOWEST`] on, but those of `ring`. Rings behind it have not been mapped yet.
fn gaps(context: &Context, ring: &Mapping, mut visit: impl FnMut(u64, u64)) {
    let arguments = context.arguments();
    let region = (arguments.region_start, arguments.region_start + arguments.region_bytes);
    let mut at = LOWEST;
    let mut taken = |start: u64, end: u64| {
        if at < start {
            visit(at, start);
        }
        if at < end {
            at = end;
        }
    };
    let mut region_comes = true;
    for mapping in context.entries(arguments.mappings) {
        if mapping.ring != 0 && mapping.start > ring.start {
            continue;
        }
        if region_comes && region.0 < mapping.start {
            taken(region.0, region.1);
            region_comes = false;
        }
        taken(mapping.start, mapping.start + mapping.bytes);
    }
    if region_comes {
        taken(region.0, region.1);
    }
    taken(arguments.end_of_space, arguments.end_of_space);
}

/// Brings the rings to which this thread alone may submit to where they stood, as the host does with all others: only this
/// thread moves the kernel's counts on.
pub fn issue(context: &Context) {
    const ENABLE_RINGS: usize = 12;
    let tid = context.thread().tid;
    for ring in context.entries(context.arguments().issued).iter().filter(|it| it.tid == tid) {
        let args = [ring.fd as usize, ENABLE_RINGS, 0, 0, 0, 0];
        context.must(Step::RingIssue, ring.fd as u64, nr::IO_URING_REGISTER, args);
        advance(context, ring);
        for (to, content) in
            [(ring.submissions, ring.submissions_content), (ring.queues, ring.queues_content)]
        {
            // SAFETY: the host has compared the lengths with those of the mappings, which are the ring's memory and can be
            // written; the content is in the region.
            unsafe { blob::copy(to as *mut u8, context.first(content), content.count as usize) };
        }
    }
}

fn advance(context: &Context, ring: &IssuedRing) {
    let head = ring.completed - ring.unread;
    // Nobody is told of completions of requests that do nothing.
    write(ring, ring.signal_flags, 1);
    submit(context, ring, head, Kind::Taken);
    submit(context, ring, ring.unread, Kind::Kept);
    submit(context, ring, ring.submitted - ring.completed, Kind::Silent);
    let reached = read(ring, ring.head[0]) == ring.submitted
        && read(ring, ring.tail[1]) == ring.completed
        && read(ring, ring.head[1]) == head;
    if !reached {
        context.fail(Step::RingIssue, ring.fd as u64, EIO);
    }
}

/// What becomes of the completions of requests that do nothing: they are taken, they wait, or there are none.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Taken,
    Kept,
    Silent,
}

fn submit(context: &Context, ring: &IssuedRing, count: u32, kind: Kind) {
    /// `IOSQE_CQE_SKIP_SUCCESS`.
    const SKIP: u8 = 1 << 6;
    // What names no submission is dropped, and counts as taken.
    let none = kind == Kind::Silent && ring.array != 0 && ring.no_drain == 0;
    for index in 0..ring.entries {
        let bytes = u64::from(ring.submission_bytes);
        let place = (ring.submissions + u64::from(index) * bytes) as *mut u8;
        // SAFETY: the place is inside of the mapping, whose length the host has compared.
        unsafe {
            stasis_blobs::clear(place, bytes as usize);
            place.add(1).write_volatile(if kind == Kind::Silent { SKIP } else { 0 });
        }
        if ring.array != 0 {
            write(ring, ring.array + index * 4, if none { u32::MAX } else { index });
        }
    }
    let most = if none { 1 } else { ring.entries };
    let mut left = count;
    while left > 0 {
        let now = if left < most { left } else { most };
        let before = read(ring, ring.head[0]);
        write(ring, ring.tail[0], before.wrapping_add(now));
        let args = [ring.fd as usize, now as usize, 0, 0, 0, 0];
        context.must(Step::RingIssue, ring.fd as u64, nr::IO_URING_ENTER, args);
        if read(ring, ring.head[0]) != before.wrapping_add(now) {
            context.fail(Step::RingIssue, ring.fd as u64, EIO);
        }
        left -= now;
        if kind == Kind::Taken {
            write(ring, ring.head[1], read(ring, ring.tail[1]));
        }
    }
}

fn read(ring: &IssuedRing, at: u32) -> u32 {
    // SAFETY: the host has the offsets from the kernel, and has compared the length of the mapping.
    unsafe { ((ring.queues + u64::from(at)) as *const u32).read_volatile() }
}

fn write(ring: &IssuedRing, at: u32, value: u32) {
    // SAFETY: as above.
    unsafe { ((ring.queues + u64::from(at)) as *mut u32).write_volatile(value) };
}
