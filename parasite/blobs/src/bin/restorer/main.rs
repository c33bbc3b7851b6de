//! The restorer: the last stage of a restore, when the old address space must go.
//!
//! What it is told, and how the region it runs in is laid out, is in [`parasite::restorer`]. The
//! leader of each process goes through these stages:
//!
//! 1. **memory**: leave the old address space (the vDSO is carried over), make the mappings of
//!    the new one, read their pages, make the rings of asynchronous I/O, then protect, advise and lock them; set the kernel's notes
//!    of where heap, stack, arguments and executable are ([`memory`], [`pages`]). Who has the memory of another process as well
//!    (`CLONE_VM`) waits until that has done so ([`sharing`]).
//! 2. **process**: signal actions, attributes, then the other threads, then timers (some belong
//!    to a thread) and limits, which could have stood in the way before ([`process`]). A leader that has a user namespace below
//!    the tree's to enter and other threads to make enters it before: nobody who has threads may.
//! 3. **thread**, in every thread: what it has registered with the kernel, name, scheduling, filters of
//!    system calls (which the tracer keeps from having an effect until it lets go), credentials, and only then what a change of credentials takes back ([`thread`]).
//! 4. **pending**: signals that were waiting. All signals but the one to park by are blocked
//!    throughout, so that they wait on.
//! 5. **park**: the thread stops for its tracer, which gives it its registers and signal mask.
//!
//! Nothing returns an error: whatever fails is noted in the thread's report, and the thread runs
//! into an illegal instruction, at which its tracer finds it.
#![no_std]
#![no_main]

mod aio;
mod births;
mod context;
mod memory;
mod pages;
mod process;
mod rings;
mod sharing;
mod thread;
mod userfaults;

use context::Context;
use parasite::restorer::Arguments;
use stasis_blobs as _;

arch::blob_entry!(leader);

/// The leader's way.
///
/// # Safety
/// `arguments` is the struct that the host laid out, with its tables.
unsafe extern "C" fn leader(arguments: *mut Arguments) -> ! {
    // SAFETY: the host wrote the arguments and at least one thread, the leader, behind them.
    let context = unsafe { Context::leader(arguments) };
    match context.arguments().lender {
        0 => {
            sharing::await_others(&context);
            memory::restore(&context);
            sharing::let_others_go_on(&context);
        }
        lender => sharing::await_memory(&context, lender),
    }
    process::before_threads(&context);
    thread::common_filters(&context);
    thread::enter_users_early(&context);
    thread::create_others(&context);
    process::after_threads(&context);
    thread::register(&context);
    thread::own_filters(&context);
    thread::credentials(&context);
    // Who has another's memory leaves to that what belongs to it.
    match context.arguments().lender {
        0 => process::when_settled(&context),
        _ => thread::settle(&context),
    }
    thread::parent_death_signal(&context);
    process::pending(&context);
    thread::pending(&context);
    thread::park(&context)
}
