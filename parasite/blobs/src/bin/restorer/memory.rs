//! The new address space.

use core::mem::size_of;

use arch::compat;
use arch::memory::PAGE_SIZE;
use arch::syscall::nr;
use parasite::restorer::{LOCK_NOW, LOCK_ON_FAULT, MmMap, Step};

use crate::context::Context;
use crate::thread::NODES;
use crate::{aio, pages, rings, thread, userfaults};

const MREMAP_MAYMOVE: usize = 1;
const MREMAP_FIXED: usize = 2;
const MAP_PRIVATE: usize = 0x02;
const MAP_FIXED: usize = 0x10;
const MAP_ANONYMOUS: usize = 0x20;
const MAP_POPULATE: usize = 0x8000;
const PROT_EXEC: usize = 4;
const EEXIST: i32 = 17;
const PR_SET_MM: usize = 35;
const PR_SET_MM_MAP: usize = 14;
const RSEQ_FLAG_UNREGISTER: usize = 1;
const MLOCK_ONFAULT: usize = 1;
const PR_SET_MDWE: usize = 65;
const PR_SET_MEMORY_MERGE: usize = 67;
const F_SETFD: usize = 2;
const O_CLOEXEC: usize = 0o2_000_000;

/// Leaves the old address space and makes the new one.
pub fn restore(context: &Context) {
    leave(context);
    keys(context);
    map(context);
    attach(context);
    rings::map(context);
    place(context);
    pages::fill(context);
    aio::make(context);
    finish(context);
    give_keys(context);
    notes(context);
    attributes(context);
    userfaults::serve(context);
    seal(context);
}

/// Everything but the region goes, with those of who has the same memory. The kernel keeps no address of what goes: the area that the C
/// library registered for restartable sequences is given back first.
fn leave(context: &Context) {
    let arguments = context.arguments();
    if arguments.old_rseq != 0 {
        let area = [
            arguments.old_rseq as usize,
            arguments.old_rseq_bytes as usize,
            RSEQ_FLAG_UNREGISTER,
            arguments.old_rseq_signature as usize,
            0,
            0,
        ];
        context.must(Step::Start, arguments.old_rseq, nr::RSEQ, area);
    }
    let specials = context.entries(arguments.specials);
    for special in specials.iter().filter(|_| arguments.compat == 0) {
        let parked = arguments.region_start + special.parked;
        relocate(context, Step::ParkVdso, special.from, parked, special.bytes);
    }
    let region = (arguments.region_start, arguments.kept_bytes);
    let spare = (arguments.spare_start, arguments.spare_bytes);
    let (low, high) = if region < spare { (region, spare) } else { (spare, region) };
    unmap(context, 0, low.0);
    unmap(context, low.0 + low.1, high.0);
    unmap(context, high.0 + high.1, arguments.end_of_space);
    if arguments.compat != 0 && !specials.is_empty() {
        make_compat_vdso(context);
    }
}

/// Has the kernel make the vDSO of 32-bit code at the end of the region, when the other one is gone, for a process can have one
/// alone.
fn make_compat_vdso(context: &Context) {
    let arguments = context.arguments();
    let (at, bytes) = (arguments.region_start + arguments.vdso_parked, arguments.vdso_bytes);
    unmap(context, at, at + bytes);
    context.succeeds(Step::MakeVdso, at, || compat::map_vdso(at));
}

fn unmap(context: &Context, start: u64, end: u64) {
    if start < end {
        let args = [start as usize, (end - start) as usize, 0, 0, 0, 0];
        context.must(Step::Unmap, start, nr::MUNMAP, args);
    }
}

fn relocate(context: &Context, step: Step, from: u64, to: u64, bytes: u64) {
    let bytes = bytes as usize;
    let how = MREMAP_MAYMOVE | MREMAP_FIXED;
    let args = [from as usize, bytes, bytes, how, to as usize, 0];
    context.must(step, if step == Step::ParkVdso { from } else { to }, nr::MREMAP, args);
}

/// Attaches System V segments, each in an empty place, and moves the parts that are wanted to theirs.
fn attach(context: &Context) {
    let arguments = context.arguments();
    let scratch = arguments.scratch as usize;
    let mut pieces = context.entries(arguments.attached).iter();
    for attachment in context.entries(arguments.attachments) {
        let args = [attachment.id as usize, scratch, attachment.flags as usize, 0, 0, 0];
        context.must(Step::Attach, attachment.id.into(), nr::SHMAT, args);
        for piece in pieces.by_ref().take(attachment.pieces as usize) {
            let (from, bytes) = (scratch + piece.offset as usize, piece.bytes as usize);
            let how = MREMAP_MAYMOVE | MREMAP_FIXED;
            let args = [from, bytes, bytes, how, piece.start as usize, 0];
            context.must(Step::MoveAttached, piece.start, nr::MREMAP, args);
        }
        let args = [scratch, attachment.bytes as usize, 0, 0, 0, 0];
        context.must(Step::Unmap, arguments.scratch, nr::MUNMAP, args);
    }
}

/// Takes the protection keys. The kernel gives out the lowest that is free, so all are taken in turn. Its own
/// one, for code that may not be read, it takes when such a mapping is made.
fn keys(context: &Context) {
    for key in 1..end_of_keys(context) {
        if key == context.arguments().execute_only_key {
            let flags = MAP_PRIVATE | MAP_ANONYMOUS;
            let args = [0, PAGE_SIZE as usize, PROT_EXEC, flags, usize::MAX, 0];
            let made = context.must(Step::Key, key.into(), nr::MMAP, args);
            let args = [made, PAGE_SIZE as usize, 0, 0, 0, 0];
            context.must(Step::Key, key.into(), nr::MUNMAP, args);
        } else if context.must(Step::Key, key.into(), nr::PKEY_ALLOC, [0; 6]) != key as usize {
            context.fail(Step::Key, key.into(), EEXIST);
        }
    }
}

/// The number behind the highest key that anything has.
fn end_of_keys(context: &Context) -> u32 {
    let arguments = context.arguments();
    let given = context.entries(arguments.keyed).iter().map(|keyed| keyed.key + 1);
    given.fold(u32::BITS - arguments.protection_keys.leading_zeros(), u32::max)
}

/// Gives mappings their keys, when nothing is to be read or written there any more: a key may forbid it to
/// this thread, too. Those that were not taken are given back: a mapping may have had such a one as well.
fn give_keys(context: &Context) {
    let arguments = context.arguments();
    for keyed in context.entries(arguments.keyed) {
        let (start, bytes) = (keyed.start as usize, keyed.bytes as usize);
        let args = [start, bytes, keyed.protection as usize, keyed.key as usize, 0, 0];
        context.must(Step::GiveKey, keyed.start, nr::PKEY_MPROTECT, args);
    }
    let free = |key: &u32| arguments.protection_keys & 1 << key == 0;
    for key in (1..end_of_keys(context)).filter(free) {
        context.must(Step::Key, key.into(), nr::PKEY_FREE, [key as usize, 0, 0, 0, 0, 0]);
    }
}

/// All mappings, in ascending order, each writable if pages must be put into it. What is built already is moved to
/// its place; what was only for the task's children goes.
fn map(context: &Context) {
    let arguments = context.arguments();
    let mappings = context.entries(arguments.mappings).iter();
    for mapping in mappings.filter(|mapping| mapping.flags != 0 && mapping.ring == 0) {
        if mapping.spare != 0 {
            relocate(context, Step::MoveBuilt, mapping.spare, mapping.start, mapping.bytes);
            continue;
        }
        let flags = mapping.flags as usize & !MAP_POPULATE | MAP_FIXED;
        context.must(
            Step::Map,
            mapping.start,
            nr::MMAP,
            [
                mapping.start as usize,
                mapping.bytes as usize,
                mapping.fill_protection as usize,
                flags,
                mapping.fd as isize as usize,
                mapping.offset as usize,
            ],
        );
    }
    let spare = arguments.spare_start;
    unmap(context, spare, spare + arguments.spare_bytes);
}

/// Says on which nodes memory is to be, before there is any.
fn place(context: &Context) {
    let arguments = context.arguments();
    for policy in context.entries(arguments.policies) {
        let nodes = &raw const policy.nodes as usize;
        let args =
            [policy.start as usize, policy.bytes as usize, policy.mode as usize, nodes, NODES, 0];
        context.must(Step::Policy, policy.start, nr::MBIND, args);
    }
    // Pages go where the thread wants them that brings them in.
    thread::memory_policy(context);
}

/// What is in force for all of the address space from now on.
fn attributes(context: &Context) {
    let arguments = context.arguments();
    if arguments.merge_memory != 0 {
        context.prctl(Step::Attribute, PR_SET_MEMORY_MERGE, 1);
    }
    if arguments.future_locks != 0 {
        let flags = arguments.future_locks as usize;
        context.must(Step::Future, flags as u64, nr::MLOCKALL, [flags, 0, 0, 0, 0, 0]);
    }
    // Last: what was written before could not be made executable any more.
    if arguments.deny_write_execute != 0 {
        context.prctl(Step::Attribute, PR_SET_MDWE, arguments.deny_write_execute as usize);
    }
}

/// Seals what was sealed, when nothing is to be done to it any more.
fn seal(context: &Context) {
    for mapping in context.entries(context.arguments().mappings) {
        if mapping.sealed != 0 {
            let args = [mapping.start as usize, mapping.bytes as usize, 0, 0, 0, 0];
            context.must(Step::Seal, mapping.start, nr::MSEAL, args);
        }
    }
}

/// Protection, advice, locks, and the vDSO in its place.
fn finish(context: &Context) {
    let arguments = context.arguments();
    for mapping in context.entries(arguments.mappings) {
        let (start, bytes) = (mapping.start as usize, mapping.bytes as usize);
        if mapping.protection != mapping.fill_protection {
            let args = [start, bytes, mapping.protection as usize, 0, 0, 0];
            context.must(Step::Protect, mapping.start, nr::MPROTECT, args);
        }
    }
    for advice in context.entries(arguments.advice) {
        let args = [advice.start as usize, advice.bytes as usize, advice.advice as usize, 0, 0, 0];
        context.must(Step::Advise, advice.start, nr::MADVISE, args);
    }
    for mapping in context.entries(arguments.mappings) {
        let (start, bytes) = (mapping.start as usize, mapping.bytes as usize);
        match mapping.locked {
            LOCK_NOW => {
                let args = [start, bytes, 0, 0, 0, 0];
                context.must(Step::Lock, mapping.start, nr::MLOCK, args);
            }
            LOCK_ON_FAULT => {
                let args = [start, bytes, MLOCK_ONFAULT, 0, 0, 0];
                context.must(Step::Lock, mapping.start, nr::MLOCK2, args);
            }
            _ => {}
        }
    }
    for special in context.entries(arguments.specials) {
        let parked = arguments.region_start + special.parked;
        relocate(context, Step::MoveVdso, parked, special.to, special.bytes);
    }
}

/// The kernel's notes: code, data, heap, stack, arguments, environment, auxiliary vector and the
/// executable. The old executable is not mapped any more, so the kernel lets it go. Descriptors
/// that were only for the restore are closed here, after their last use.
fn notes(context: &Context) {
    let arguments = context.arguments();
    let map = MmMap { auxv: context.first(arguments.auxv) as u64, ..arguments.mm };
    let size = size_of::<MmMap>();
    let args = [PR_SET_MM, PR_SET_MM_MAP, &raw const map as usize, size, 0, 0];
    context.must(Step::MmMap, map.brk, nr::PRCTL, args);
    descriptors(context);
}

/// Of those who have the same descriptors one closes them, when the others have no more use for them: it waits for
/// that here, and the others say so. Whether it is this one.
fn take_turn(context: &Context) -> bool {
    let arguments = context.arguments();
    let by = arguments.turns as usize;
    let mut count = 1_u64;
    let mut call = |number| {
        let args = [by, &raw mut count as usize, size_of::<u64>(), 0, 0, 0];
        context.must(Step::Turn, by as u64, number, args);
    };
    for _ in 0..arguments.others {
        call(nr::READ);
    }
    if arguments.others == 0 {
        call(nr::WRITE);
    }
    arguments.others != 0
}

/// Closes the restore's own descriptors, and puts those into place whose numbers they had: another
/// process keeps them, and the way to it is the last that goes.
pub fn descriptors(context: &Context) {
    let arguments = context.arguments();
    if arguments.turns >= 0 && !take_turn(context) {
        return;
    }
    let close = |from: usize, to: usize| {
        if from <= to {
            context.must(Step::Close, from as u64, nr::CLOSE_RANGE, [from, to, 0, 0, 0, 0]);
        }
    };
    let (mut from, last) = (arguments.close_from as usize, u32::MAX as usize);
    for &kept in context.entries(arguments.kept) {
        close(from, (kept as usize).wrapping_sub(1));
        from = kept as usize + 1;
    }
    close(from, last);
    if arguments.late_from < 0 {
        return;
    }
    let holder = arguments.late_from as usize;
    for late in context.entries(arguments.late) {
        let (object, number) = (late.number as u64, late.number as usize);
        let args = [holder, late.from as usize, 0, 0, 0, 0];
        let fetched = context.must(Step::Late, object, nr::PIDFD_GETFD, args);
        if fetched == number {
            let flags = (late.close_on_exec != 0).into();
            let args = [number, F_SETFD, flags, 0, 0, 0];
            context.must(Step::Late, object, nr::FCNTL, args);
            continue;
        }
        let flags = if late.close_on_exec != 0 { O_CLOEXEC } else { 0 };
        context.must(Step::Late, object, nr::DUP3, [fetched, number, flags, 0, 0, 0]);
        close(fetched, fetched);
    }
    close(holder, holder);
}
