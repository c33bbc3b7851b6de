//! What belongs to the whole process.

use core::mem::size_of;
use core::sync::atomic::Ordering;

use arch::syscall::nr;
use arch::{compat, settings};
use parasite::restorer::{PosixTimer, Step};
use parasite::task::{AltStack, SigAction};

use crate::context::Context;

pub const SIGSET_BYTES: usize = 8;
const SIGCHLD: u64 = 17;
const SI_SIGNO_BYTES: usize = 4;
const EINVAL: i32 = 22;

const PR_SET_DUMPABLE: usize = 4;
const PR_GET_DUMPABLE: usize = 3;
const PR_SET_CHILD_SUBREAPER: usize = 36;
const PR_SET_THP_DISABLE: usize = 41;
const PR_TIMER_CREATE_RESTORE_IDS: usize = 77;

const SS_DISABLE: u32 = 2;

const FUTEX_WAIT: usize = 0;

/// What later threads inherit, and what needs no thread.
pub fn before_threads(context: &Context) {
    let arguments = context.arguments();
    for action in context.entries(arguments.actions) {
        if arguments.compat != 0 {
            let SigAction { handler, flags, restorer, mask } = action.action;
            let words = [handler, flags, restorer, mask];
            context.succeeds(Step::Action, action.signal, || {
                // SAFETY: the stack is in the region, which is below 4 GiB. Nothing of the program runs before all is in place.
                unsafe { compat::set_action(action.signal as u32, words) }
            });
            continue;
        }
        let new = &raw const action.action as usize;
        let args = [action.signal as usize, new, 0, SIGSET_BYTES, 0, 0];
        context.must(Step::Action, action.signal, nr::RT_SIGACTION, args);
    }
    for component in 0..u64::BITS as usize {
        if arguments.components & 1 << component != 0 {
            // The kernel wants room for the larger signal frames on every alternate stack there is:
            // this thread's is still that of its maker.
            let none = AltStack { flags: SS_DISABLE, ..AltStack::default() };
            let (step, object) = (Step::Component, component as u64);
            context.must(step, object, nr::SIGALTSTACK, [&raw const none as usize, 0, 0, 0, 0, 0]);
            context.succeeds(step, object, || settings::permit_component(component));
        }
    }
    let personality = arguments.personality;
    let args = [personality as usize, 0, 0, 0, 0, 0];
    context.must(Step::Personality, personality.into(), nr::PERSONALITY, args);
    context.prctl(Step::Attribute, PR_SET_CHILD_SUBREAPER, (arguments.child_subreaper != 0).into());
    let (disable, flags) = (arguments.thp_disable & 1, arguments.thp_disable & !1);
    let args = [PR_SET_THP_DISABLE, disable as usize, flags as usize, 0, 0, 0];
    context.must(Step::Attribute, PR_SET_THP_DISABLE as u64, nr::PRCTL, args);
    for bit in 0..u32::BITS {
        let command = arguments.membarrier & 1 << bit;
        if command != 0 {
            let args = [command as usize, 0, 0, 0, 0, 0];
            context.must(Step::Membarrier, command.into(), nr::MEMBARRIER, args);
        }
    }
}

/// What needs the threads to be there, or would have been in the way.
pub fn after_threads(context: &Context) {
    let arguments = context.arguments();
    timers(context);
    let mut which = 0;
    for timer in &arguments.interval_timers {
        let args = [which, &raw const *timer as usize, 0, 0, 0, 0];
        context.must(Step::IntervalTimer, which as u64, nr::SETITIMER, args);
        which += 1;
    }
    for limit in context.entries(arguments.limits) {
        let new = &raw const limit.soft as usize;
        let args = [0, limit.resource as usize, new, 0, 0, 0];
        context.must(Step::Limit, limit.resource, nr::PRLIMIT64, args);
    }
}

/// `struct sigevent`.
#[repr(C)]
struct SigEvent {
    value: u64,
    signal: i32,
    notify: i32,
    thread: i32,
    pad: [i32; 11],
}

/// POSIX timers have numbers that the program knows. Kernels from 6.15 make a timer with the
/// number asked for; before, numbers count up, so that unwanted ones are made and deleted on the
/// way.
fn timers(context: &Context) {
    let timers = context.entries(context.arguments().timers);
    if timers.is_empty() {
        return;
    }
    let switch = |on: usize| context.may(nr::PRCTL, [PR_TIMER_CREATE_RESTORE_IDS, on, 0, 0, 0, 0]);
    let exact = switch(1).is_ok();
    for timer in timers {
        create_timer(context, timer);
        let setting = &raw const timer.setting as usize;
        let args = [timer.id as usize, 0, setting, 0, 0, 0];
        context.must(Step::Timer, timer.id as u64, nr::TIMER_SETTIME, args);
    }
    if exact && let Err(error) = switch(0) {
        context.fail(Step::Timer, PR_TIMER_CREATE_RESTORE_IDS as u64, error)
    }
}

fn create_timer(context: &Context, timer: &PosixTimer) {
    let event = SigEvent {
        value: timer.value,
        signal: timer.signal,
        notify: timer.notify,
        thread: timer.thread,
        pad: [0; 11],
    };
    let object = timer.id as u64;
    loop {
        let mut id = timer.id;
        let place = &raw mut id as usize;
        let args = [timer.clock as isize as usize, &raw const event as usize, place, 0, 0, 0];
        context.must(Step::Timer, object, nr::TIMER_CREATE, args);
        // SAFETY: a local that the kernel has just written.
        let made = unsafe { (&raw const id).read_volatile() };
        if made == timer.id {
            return;
        }
        context.must(Step::Timer, object, nr::TIMER_DELETE, [made as usize, 0, 0, 0, 0, 0]);
        if made > timer.id {
            context.fail(Step::Timer, object, EINVAL)
        }
    }
}

/// When no thread will change its credentials any more, which takes the right to be dumped away from the memory that it has.
pub fn when_settled(context: &Context) {
    let arguments = context.arguments();
    let others = arguments.threads.count as u32 - 1 + arguments.sharing_threads;
    let settled = context.settled();
    loop {
        let seen = settled.load(Ordering::Acquire);
        if seen >= others {
            break;
        }
        // An error means that the count has changed, or a signal: look again.
        let args = [settled.as_ptr() as usize, FUTEX_WAIT, seen as usize, 0, 0, 0];
        if context.may(nr::FUTEX, args).is_err() {
            continue;
        }
    }
    if arguments.dumpable >= 0 {
        let wanted = arguments.dumpable as usize;
        if context.prctl(Step::Attribute, PR_GET_DUMPABLE, 0) != wanted {
            context.prctl(Step::Attribute, PR_SET_DUMPABLE, wanted);
        }
    }
}

/// Signals that wait for the process. First goes what children that were born dead, or helpers,
/// have left: a signal that the program is not to see.
pub fn pending(context: &Context) {
    let arguments = context.arguments();
    let child_signal = 1u64 << (SIGCHLD - 1);
    let at_once = [0u64; 2];
    let (set, timeout) = (&raw const child_signal as usize, &raw const at_once as usize);
    context.at(Step::Pending, SIGCHLD);
    while context.may(nr::RT_SIGTIMEDWAIT, [set, 0, timeout, SIGSET_BYTES, 0, 0]).is_ok() {}
    for info in context.entries(arguments.pending) {
        let signal = signal_number(info);
        let args = [arguments.pid as usize, signal, info.as_ptr() as usize, 0, 0, 0];
        context.must(Step::Pending, signal as u64, nr::RT_SIGQUEUEINFO, args);
    }
}

/// The number that a `siginfo_t` starts with.
pub fn signal_number(info: &[u8]) -> usize {
    let mut number = 0;
    for (place, byte) in info.iter().take(SI_SIGNO_BYTES).enumerate() {
        number |= usize::from(*byte) << (8 * place);
    }
    number
}

const _: () = assert!(size_of::<SigEvent>() == 64 && size_of::<SigAction>() == 32);
