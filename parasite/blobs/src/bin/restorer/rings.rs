//! Mappings of io_urings.
//!
//! The kernel maps a ring where it likes, lets nobody say where, and moves it nowhere. So every other free address is
//! taken for a moment: what is left is where it belongs.

use arch::memory::PAGE_SIZE;
use arch::syscall::{nr, syscall};
use parasite::restorer::{Mapping, Step};

use crate::context::Context;

const MAP_PRIVATE: usize = 0x02;
const MAP_ANONYMOUS: usize = 0x20;
const MAP_NORESERVE: usize = 0x4000;
const MAP_FIXED_NOREPLACE: usize = 0x10_0000;
const EEXIST: i32 = 17;

/// Below this only who may is given memory: the kernel's usual `vm.mmap_min_addr`.
const LOWEST: u64 = 0x1_0000;

/// Maps all of them, when everything else has its place.
pub fn map(context: &Context) {
    let mappings = context.entries(context.arguments().mappings);
    for ring in mappings.iter().filter(|mapping| mapping.ring != 0) {
        low(nr::MMAP);
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
        low(nr::MUNMAP);
        gaps(context, ring, |start, end| {
            let args = [start as usize, (end - start) as usize, 0, 0, 0, 0];
            context.must(Step::RingMap, ring.start, nr::MUNMAP, args);
        });
    }
}

/// Takes the lowest addresses, or gives them back. The kernel may give them to this process or not: if not it does not give it
/// a ring there either.
fn low(call: usize) {
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
    let bytes = (LOWEST - PAGE_SIZE) as usize;
    // SAFETY: nothing is mapped there, now or at the time when they were taken.
    let _: arch::syscall::Answer = unsafe { syscall(call, [PAGE_SIZE as usize, bytes, 0, flags, usize::MAX, 0]) };
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
