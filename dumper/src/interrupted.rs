//! What the images say of a system call that a thread was stopped in.
//!
//! A wait that the kernel has continued once (after an earlier stop) has lost its number: the kernel's
//! own note says which it was ([`name_calls`]).
//!
//! A waiting signal that has a handler breaks a call off. The kernel decides this when it delivers a
//! signal to a thread that stands in an interrupted call (`handle_signal`).
//!
//! In a restored thread the call is over by then: it is wound back, and a handler that ran before it
//! would not wake it. So where a handler is going to run, the registers in the images say `EINTR` where
//! the kernel would have said it.

use std::collections::BTreeMap;

use arch::regs::{CONTINUING, Handler};
use ids::HostPid;
use kernel::ptrace::RawSigInfo;
use parasite::task::SigAction;

use crate::inject::ParasiteReport;
use crate::tasks::TaskCapture;

/// Gives waits that were continued the numbers of their calls, where the inventory tells. The others say
/// `EINTR` in the images.
pub(crate) fn name_calls(tasks: &mut BTreeMap<HostPid, TaskCapture>) {
    let threads = tasks.values_mut().flat_map(|task| &mut task.threads);
    let continued: Vec<_> = threads
        .filter(|thread| thread.continues != 0 && thread.registers().in_continued_call())
        .collect();
    if continued.is_empty() {
        return;
    }
    let addresses = continued.iter().map(|thread| thread.continues).collect();
    let functions = kernel::symbols::functions(&CONTINUING, addresses).unwrap_or_else(|error| {
        tracing::info!(%error, "waits that were continued will say EINTR after a restore");
        BTreeMap::new()
    });
    for thread in continued {
        if let Some(function) = functions.get(&thread.continues) {
            thread.original.registers = thread.original.registers.begun_as(function);
        }
    }
}

/// Signals that the processor itself raises go first.
const RAISED: [i32; 6] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGTRAP, libc::SIGFPE, libc::SIGSYS];

/// What is delivered to the threads of a process.
#[derive(Debug)]
pub(crate) struct Delivery<'a> {
    /// Of each thread, in their order.
    pub(crate) threads: Vec<ToThread<'a>>,
    /// Signals that wait for whichever thread takes them.
    pub(crate) shared: Vec<&'a RawSigInfo>,
}

/// What is delivered to one thread.
#[derive(Debug)]
pub(crate) struct ToThread<'a> {
    /// What runs in it first.
    pub(crate) handler: Handler,
    /// Signals that wait for it alone.
    pub(crate) pending: Vec<&'a RawSigInfo>,
}

/// What a thread has to do with signals.
struct Thread<'a> {
    /// Signals that it blocks when it goes on, or blocks during its call. (One that only the call lets
    /// through ends it when it is made again.)
    blocked: u64,
    /// Signals that wait for it alone.
    pending: &'a [RawSigInfo],
}

impl<'a> Delivery<'a> {
    /// Of a process that stands still.
    pub(crate) fn of(task: &'a TaskCapture, report: &ParasiteReport) -> Self {
        let threads = task.threads.iter().map(|thread| Thread {
            blocked: thread.original.mask | thread.blocked,
            pending: &thread.pending,
        });
        let mut all = Self::to(&threads.collect::<Vec<_>>(), &task.pending, &report.state.actions);
        for (thread, to) in task.threads.iter().zip(&mut all.threads) {
            if thread.traced.is_some() {
                to.handler = Handler::Traced;
            }
        }
        all
    }

    /// Of a signal with a handler that several threads could take, the first one is to take it, as if
    /// the kernel had woken that one: else another would, whose call does not know of it.
    fn to(threads: &[Thread<'a>], shared: &'a [RawSigInfo], actions: &[SigAction]) -> Self {
        let mut shared: Vec<_> = shared.iter().collect();
        let mut pending: Vec<Vec<_>> =
            threads.iter().map(|thread| thread.pending.iter().collect()).collect();
        if threads.len() > 1 {
            shared.retain(|info| {
                let signal = number(info);
                let taker = threads.iter().position(|thread| thread.takes(signal));
                let Some(taker) = taker.filter(|_| handled(actions, signal).is_some()) else {
                    return true;
                };
                pending[taker].push(info);
                false
            });
        }
        let threads = threads.iter().zip(pending).map(|(thread, pending)| {
            let own = thread.first(&pending, actions);
            let handler = own.or_else(|| thread.first(&shared, actions)).unwrap_or_default();
            ToThread { handler, pending }
        });
        Self { threads: threads.collect(), shared }
    }
}

impl Thread<'_> {
    /// The handler of the signal that the kernel would deliver first.
    fn first(&self, pending: &[&RawSigInfo], actions: &[SigAction]) -> Option<Handler> {
        let signals = pending.iter().map(|info| number(info));
        let handled = signals.filter(|&signal| self.takes(signal)).filter_map(|signal| {
            handled(actions, signal).map(|handler| (!RAISED.contains(&signal), signal, handler))
        });
        handled.min_by_key(|(later, signal, _)| (*later, *signal)).map(|(.., handler)| handler)
    }

    const fn takes(&self, signal: i32) -> bool {
        self.blocked & 1 << (signal - 1) == 0
    }
}

/// How a signal's handler takes calls; `None` if it has no handler.
fn handled(actions: &[SigAction], signal: i32) -> Option<Handler> {
    const IGNORE: u64 = 1;
    let action = actions.get(usize::try_from(signal).ok()?.checked_sub(1)?)?;
    let restarts = action.flags & libc::SA_RESTART as u64 != 0;
    (action.handler > IGNORE).then_some(if restarts {
        Handler::Restarts
    } else {
        Handler::BreaksOff
    })
}

/// The number, which a signal's information begins with; 1 to 64.
fn number(info: &RawSigInfo) -> i32 {
    i32::from_ne_bytes([info[0], info[1], info[2], info[3]]).clamp(1, 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESTARTS: i32 = 10;
    const BREAKS_OFF: i32 = 12;
    const DEFAULT: i32 = 13;
    const IGNORED: i32 = 17;

    fn info(signal: i32) -> RawSigInfo {
        let mut info = [0; 128];
        info[..4].copy_from_slice(&signal.to_ne_bytes());
        info
    }

    fn actions() -> Vec<SigAction> {
        let mut actions = vec![SigAction::default(); 64];
        actions[RESTARTS as usize - 1] =
            SigAction { handler: 4096, flags: libc::SA_RESTART as u64, ..SigAction::default() };
        for signal in [BREAKS_OFF, libc::SIGSEGV, 40] {
            actions[signal as usize - 1] = SigAction { handler: 4096, ..SigAction::default() };
        }
        actions[IGNORED as usize - 1].handler = 1;
        actions
    }

    fn alone(blocked: u64, own: &[i32], shared: &[i32]) -> Handler {
        let [own, shared] =
            [own, shared].map(|signals| signals.iter().copied().map(info).collect());
        let (own, shared): (Vec<_>, Vec<_>) = (own, shared);
        let thread = Thread { blocked, pending: &own };
        let delivery = Delivery::to(&[thread], &shared, &actions());
        assert_eq!(delivery.shared.len(), shared.len(), "nobody else could take them");
        delivery.threads[0].handler
    }

    #[test]
    fn the_first_handled_signal_counts() {
        let only = |signal: i32| 1_u64 << (signal - 1);
        assert_eq!(alone(0, &[], &[]), Handler::None);
        assert_eq!(alone(0, &[DEFAULT], &[IGNORED]), Handler::None);
        assert_eq!(alone(0, &[], &[DEFAULT, RESTARTS]), Handler::Restarts);
        assert_eq!(alone(0, &[BREAKS_OFF], &[RESTARTS]), Handler::BreaksOff);
        assert_eq!(alone(0, &[BREAKS_OFF, RESTARTS], &[]), Handler::Restarts);
        assert_eq!(alone(0, &[RESTARTS, libc::SIGSEGV], &[]), Handler::BreaksOff);
        assert_eq!(alone(only(RESTARTS), &[BREAKS_OFF, RESTARTS], &[]), Handler::BreaksOff);
        assert_eq!(alone(u64::MAX, &[BREAKS_OFF, RESTARTS], &[BREAKS_OFF]), Handler::None);
        assert_eq!(alone(0, &[-5, 0, i32::MAX], &[]), Handler::None);
    }

    #[test]
    fn one_thread_takes_what_several_could() {
        let shared = [BREAKS_OFF, DEFAULT, 40, 40].map(info);
        let own = [info(RESTARTS)];
        let deaf = Thread { blocked: u64::MAX, pending: &[] };
        let first = Thread { blocked: 1 << 39, pending: &own };
        let second = Thread { blocked: 0, pending: &[] };
        let delivery = Delivery::to(&[deaf, first, second], &shared, &actions());
        let numbers = |pending: &[&RawSigInfo]| -> Vec<i32> {
            pending.iter().map(|info| number(info)).collect()
        };
        let threads: Vec<_> = delivery
            .threads
            .iter()
            .map(|thread| (thread.handler, numbers(&thread.pending)))
            .collect();
        assert_eq!(
            threads,
            [
                (Handler::None, vec![]),
                (Handler::Restarts, vec![RESTARTS, BREAKS_OFF]),
                (Handler::BreaksOff, vec![40, 40]),
            ]
        );
        assert_eq!(numbers(&delivery.shared), [DEFAULT]);
    }
}
