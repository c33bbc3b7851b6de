//! Processes that have one memory (`CLONE_VM`). One of them, the *lender*, makes it: it waits until the others run in their regions, which it leaves
//! in place, and they wait until it is done.

use core::ptr::from_ref;
use core::sync::atomic::{AtomicU32, Ordering};

use arch::syscall::nr;
use parasite::restorer::{Arguments, Step};

use crate::context::Context;
use crate::memory;

const FUTEX_WAKE: usize = 1;

/// A futex among the arguments of a process.
fn futex(word: &u32) -> &AtomicU32 {
    // SAFETY: a word of the arguments, which lie in a region that can be written, and which all touch as a futex alone.
    unsafe { AtomicU32::from_ptr(from_ref(word).cast_mut()) }
}

/// The others, by their arguments.
fn others(context: &Context) -> impl Iterator<Item = &Arguments> {
    let mut next = context.arguments().next_sharer;
    core::iter::from_fn(move || {
        if next == 0 {
            return None;
        }
        // SAFETY: the host has laid out the arguments of the others there, and the lender has left for its region when all of them were in
        // place. They stay until all are parked.
        let arguments = unsafe { &*(next as *const Arguments) };
        next = arguments.next_sharer;
        Some(arguments)
    })
}

fn tell(context: &Context, word: &u32) {
    let word = futex(word);
    word.store(1, Ordering::Release);
    let args = [word.as_ptr() as usize, FUTEX_WAKE, i32::MAX as usize, 0, 0, 0];
    context.must(Step::Share, word.as_ptr() as u64, nr::FUTEX, args);
}

/// In the lender: waits until nobody uses the old address space any more.
pub fn await_others(context: &Context) {
    for other in others(context) {
        context.at(Step::Share, from_ref(other) as u64);
        context.wait_while(futex(&other.there), 0);
    }
}

/// In the lender: the memory is in place.
pub fn let_others_go_on(context: &Context) {
    for other in others(context) {
        tell(context, &other.ready);
    }
}

/// In another one: says that it needs nothing of the old address space, does what it has to do with its descriptors, for which the lender may
/// wait, and waits for the memory.
pub fn await_memory(context: &Context, lender: u64) {
    let arguments = context.arguments();
    tell(context, &arguments.there);
    memory::descriptors(context);
    context.at(Step::Share, lender);
    context.wait_while(futex(&arguments.ready), 0);
}
