//! What the new address space holds.
//!
//! Bringing in pages is mostly the kernel's work of finding and clearing them, so a second
//! processor halves the time. Where there is much to read the leader makes a *helper*, a thread
//! that takes up reads as the leader does, one at a time, and ends when there are none left. It
//! leaves nothing behind: the tracer, which chose its number, sees it end.

use core::mem::size_of;

use arch::syscall::{clone_thread, nr};
use parasite::restorer::{Read, Segment, Step};

use crate::context::{Context, Seat, WANTED};
use crate::thread::{CloneArgs, SHARED_BY_THREADS};

const MADV_POPULATE_WRITE: usize = 23;
/// Shorter stretches are left to the read itself.
const WORTH_POPULATING: u64 = 64 * 1024;
/// No page is to be found where the image says there is one: the pages file is too short.
const ENODATA: i32 = 61;
const CLONE_CHILD_CLEARTID: u64 = 0x20_0000;

/// Puts all pages back.
pub fn fill(context: &Context) {
    let helped = context.arguments().helper != 0 && make_helper(context);
    while let Some(read) = context.next_read() {
        if let Err(error) = take(context, read) {
            context.fail(Step::Fill, read.offset, error)
        }
    }
    if helped {
        wait_for_helper(context);
    }
}

/// Makes the helper. That its number is taken by now, or anything else, only means that there is
/// none.
fn make_helper(context: &Context) -> bool {
    let arguments = context.arguments();
    let top = arguments.region_start + arguments.helper_stack;
    let seat = (top - size_of::<Seat>() as u64) as *mut Seat;
    // SAFETY: the host gave the helper a stack of its own in the region.
    unsafe { seat.write(Seat::new(context.base(), core::ptr::null_mut(), WANTED)) };
    let helping = context.helping();
    helping.store(1, core::sync::atomic::Ordering::Release);
    let clone = CloneArgs {
        flags: SHARED_BY_THREADS | CLONE_CHILD_CLEARTID,
        child_tid: helping.as_ptr() as u64,
        stack: seat as u64 - 16,
        stack_size: 16,
        set_tid: context.first(arguments.helper_numbers) as u64,
        set_tid_size: arguments.helper_numbers.count,
        ..CloneArgs::default()
    };
    let (place, bytes) = (&raw const clone as usize, size_of::<CloneArgs>());
    // SAFETY: the stack is the helper's own and ends at the seat that it takes; what it runs
    // touches nothing that the leader does at the same time.
    unsafe { clone_thread(place, bytes, helper, seat as usize) }.is_ok()
}

/// The helper's way.
///
/// # Safety
/// `seat` is the address of the helper's [`Seat`].
unsafe extern "C" fn helper(seat: usize) -> ! {
    // SAFETY: the leader put it there.
    let context = unsafe { Context::follower(seat) };
    while let Some(read) = context.next_read() {
        if let Err(error) = take(&context, read) {
            context.helper_error().store(error as u32, core::sync::atomic::Ordering::Release);
            break;
        }
    }
    loop {
        // The kernel then clears `helping` and wakes the leader. It does not come back.
        if context.may(nr::EXIT, [0; 6]).is_err() {
            continue;
        }
    }
}

fn wait_for_helper(context: &Context) {
    let helping = context.helping();
    // The kernel clears it as a whole.
    context.wait_while(helping, 1);
    let error = context.helper_error().load(core::sync::atomic::Ordering::Acquire);
    if error != 0 {
        context.fail(Step::Fill, 0, error as i32)
    }
}

/// Does one read.
fn take(context: &Context, read: &Read) -> Result<(), i32> {
    let segments = context.segments(read);
    if read.fd < 0 {
        for segment in segments {
            // SAFETY: the segment is part of a mapping just made writable for this, which nobody
            // else has seen.
            unsafe { stasis_blobs::clear(segment.start as *mut u8, segment.bytes as usize) };
        }
        return Ok(());
    }
    populate(context, segments);
    read_all(context, read.fd as usize, read.offset, segments)
}

/// Asks for the pages of long stretches at once, which is cheaper than one by one as they are read
/// into. Kernels before 5.14 do not know the advice, and it is no more than that.
fn populate(context: &Context, segments: &[Segment]) {
    for segment in segments.iter().filter(|segment| segment.bytes >= WORTH_POPULATING) {
        let args = [segment.start as usize, segment.bytes as usize, MADV_POPULATE_WRITE, 0, 0, 0];
        if context.may(nr::MADVISE, args).is_err() {
            return;
        }
    }
}

/// Reads until every segment is full; a read may stop short anywhere.
fn read_all(
    context: &Context,
    fd: usize,
    mut offset: u64,
    mut segments: &mut [Segment],
) -> Result<(), i32> {
    while !segments.is_empty() {
        let args = [fd, segments.as_ptr() as usize, segments.len(), offset as usize, 0, 0];
        let mut read = context.may(nr::PREADV, args)? as u64;
        if read == 0 {
            return Err(ENODATA);
        }
        offset += read;
        let mut full = 0;
        for segment in &mut *segments {
            if read < segment.bytes {
                segment.start += read;
                segment.bytes -= read;
                break;
            }
            read -= segment.bytes;
            full += 1;
        }
        segments = segments.get_mut(full..).unwrap_or_default();
    }
    Ok(())
}
