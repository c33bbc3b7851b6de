//! Threads whose numbers the process may not choose, as it is in a user namespace that does not own all of its pid namespaces:
//! registrars are asked for them, one thread at a time ([`parasite::restorer::births`]).

use core::mem::size_of;
use core::sync::atomic::{AtomicU32, Ordering};

use arch::syscall::nr;
use parasite::restorer::births::{Answer, BORN, NEXT, NOT_WANTED, Question};
use parasite::restorer::{Step, Thread};

use crate::context::{Context, Seat, UNKNOWN, UNWANTED, WANTED};

const FUTEX_WAKE: usize = 1;
const EPROTO: i32 = 71;

/// Whether registrars are asked.
pub fn are_asked(context: &Context) -> bool {
    !context.entries(context.arguments().registrars).is_empty()
}

/// Waits for the turn of this process, and asks for the numbers of a thread.
pub fn ask(context: &Context, thread: &Thread) {
    turn(context, nr::READ);
    for (&registrar, &number) in pairs(context, thread) {
        let answer = put(context, registrar, [NEXT, number]);
        if answer != 0 {
            context.fail(Step::Clone, thread.tid as u64, answer)
        }
    }
}

/// Tells that the thread is born, or could not be made, and ends the turn. Whether it has got its numbers, if it is there.
pub fn born(context: &Context, thread: &Thread) -> bool {
    let mut wanted = true;
    for (&registrar, &number) in pairs(context, thread) {
        wanted &= put(context, registrar, [BORN, number]) == 0;
    }
    turn(context, nr::WRITE);
    wanted
}

fn pairs<'c>(
    context: &'c Context,
    thread: &Thread,
) -> impl Iterator<Item = (&'c i32, &'c i32)> + use<'c> {
    context.entries(context.arguments().registrars).iter().zip(context.entries(thread.asked))
}

fn turn(context: &Context, number: usize) {
    let by = context.arguments().registrars_turn as usize;
    let mut count = 1_u64;
    let args = [by, &raw mut count as usize, size_of::<u64>(), 0, 0, 0];
    context.must(Step::Turn, by as u64, number, args);
}

fn put(context: &Context, registrar: i32, question: Question) -> Answer {
    let object = registrar as u64;
    let at = &raw const question as usize;
    let args = [registrar as usize, at, size_of::<Question>(), 0, 0, 0];
    context.must(Step::Turn, object, nr::WRITE, args);
    let mut answer: Answer = EPROTO;
    let at = &raw mut answer as usize;
    let args = [registrar as usize, at, size_of::<Answer>(), 0, 0, 0];
    context.must(Step::Turn, object, nr::READ, args);
    // SAFETY: a local that the kernel has just written.
    unsafe { (&raw const answer).read_volatile() }
}

/// Tells a thread that it goes on, or has it end, and waits for that.
pub fn judge(context: &Context, seat: &Seat, wanted: bool) {
    seat.wanted.store(if wanted { WANTED } else { UNWANTED }, Ordering::Release);
    let args = [seat.wanted.as_ptr() as usize, FUTEX_WAKE, 1, 0, 0, 0];
    context.must(Step::Clone, 0, nr::FUTEX, args);
    if !wanted {
        context.wait_while(&seat.there, 1);
    }
}

/// In a new thread: waits until it is known whether it has its numbers, and ends if not.
pub fn await_judgement(context: &Context, wanted: &AtomicU32) {
    context.wait_while(wanted, UNKNOWN);
    while wanted.load(Ordering::Acquire) == UNWANTED {
        // The kernel then clears the seat and wakes the leader. It does not come back.
        if context.may(nr::EXIT, [NOT_WANTED as usize, 0, 0, 0, 0, 0]).is_err() {
            continue;
        }
    }
}

/// Closes the way to the registrars.
pub fn over(context: &Context) {
    let close = |fd: i32| {
        context.must(Step::Close, fd as u64, nr::CLOSE, [fd as usize, 0, 0, 0, 0, 0]);
    };
    let arguments = context.arguments();
    context.entries(arguments.registrars).iter().copied().for_each(close);
    if are_asked(context) {
        close(arguments.registrars_turn);
    }
}
