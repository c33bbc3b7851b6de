//! Tasks that others of the tree trace (ptrace): a debugger and its program.
//!
//! A task has one tracer, and these have theirs already. One that stands in a stop of its tracer stays in it for as long as that one
//! stands still, which it does for us; and all that ptrace tells of it is told by calls made in the tracer ([`inject::Tracer`]), which
//! change nothing. So no code is run in a tracee, nor is it let go or taken up.

use std::collections::BTreeMap;
use std::time::Instant;

use collector::Inventory;
use collector::settings::traced_how;
use freezer::Frozen;
use ids::HostPid;
use kernel::procfs::{Dir, ProcFile, Status};
use kernel::ptrace::{RawSigInfo, Stopped};
use support::tracers::{other_stop, signalled, untold};
use support::tree::of_tracer;

use crate::error::Error;
use crate::infect::gadgets;
use crate::inject::{self, Asking, Original, Room, Told};
use crate::plan::Plan;
use crate::processes::{lender, lenders};
use crate::tasks::TaskCapture;
use crate::tracers::{Traced, judge};
use crate::unsupported;

/// Has the tracers of a tree that stands still tell of their tracees, which are known as stopped from then on.
pub(crate) fn tell(
    plan: &mut Plan,
    inventory: &Inventory,
    frozen: &mut Frozen,
) -> Result<BTreeMap<HostPid, Traced>, Error> {
    let since = Instant::now();
    let all = frozen.traced();
    let mut traced = BTreeMap::new();
    let Some(&(first, ..)) = all.first() else { return Ok(traced) };
    let mut found = Vec::new();
    let mut by_tracer: BTreeMap<HostPid, Vec<(HostPid, Status)>> = BTreeMap::new();
    for (pid, tid, tracer) in all {
        let status = Status::read(&Dir::open(pid)?.thread(tid)?)?;
        match judge(inventory, &status, tracer) {
            Some(tracee) => found.extend(tracee.unsupported()),
            None => found.extend(of_tracer(tid, Some(tracer), None)),
        }
        by_tracer.entry(tracer).or_default().push((pid, status));
    }
    unsupported::refuse(first, found)?;
    for (tracer, tracees) in by_tracer {
        let mut asked = begin(plan, inventory, frozen, tracer)?;
        for (pid, status) in tracees {
            let read = ask(&mut asked, inventory, (pid, &status, tracer));
            let (stopped, how) = read?;
            let tid = stopped.tid();
            let threads = frozen.processes.get_mut(&pid);
            if let Some(thread) = threads.and_then(|threads| threads.get_mut(&tid)) {
                thread.stopped = Some(stopped);
            }
            traced.insert(tid, how);
        }
        let pid = asked.pid();
        let failed = |source| Error::Inject { pid, source };
        let (stopped, late) = asked.end().map_err(failed)?;
        frozen.postponed.extend(late.into_iter().map(|signal| (pid, signal)));
        let threads = frozen.processes.get_mut(&pid);
        if let Some(thread) = threads.and_then(|threads| threads.get_mut(&tracer)) {
            thread.stopped = Some(stopped);
        }
    }
    tracing::debug!(tracees = traced.len(), took = ?since.elapsed(), "tracers have told of their tracees");
    Ok(traced)
}

/// Makes a tracer ready to be asked.
fn begin(
    plan: &mut Plan,
    inventory: &Inventory,
    frozen: &mut Frozen,
    tracer: HostPid,
) -> Result<inject::Tracer, Error> {
    let gone = || kernel::ptrace::Error::Gone { operation: "ask the tracer", tid: tracer };
    let mut processes = inventory.processes.values();
    let process = processes.find(|process| process.threads.contains_key(&tracer));
    let process = process.ok_or_else(gone)?;
    let pid = process.pid;
    let failed = |source| Error::Inject { pid, source };
    let lenders = lenders(inventory);
    let memory = lender(inventory, &lenders, process);
    let gadgets = gadgets(plan, process, memory)?;
    frozen.let_code_run().map_err(Error::Undo)?;
    let thread = frozen.processes.get_mut(&pid).and_then(|threads| threads.get_mut(&tracer));
    let stopped = thread.and_then(|thread| thread.stopped.take()).ok_or_else(gone)?;
    let rseq = stopped.rseq()?;
    let original = Original::of(&stopped, &rseq, &mut Vec::new()).map_err(failed)?;
    let room = Room::of(&plan.layout, (process, memory), tracer, 0);
    let asking = Asking { stopped, pid, original, gadgets, room };
    inject::Tracer::begin(asking).map_err(failed)
}

/// Asks a tracer for one of its tracees.
fn ask(
    asked: &mut inject::Tracer,
    inventory: &Inventory,
    (pid, status, tracer): (HostPid, &Status, HostPid),
) -> Result<(Stopped, Traced), Error> {
    let tid = status.pid;
    let gone = || kernel::ptrace::Error::Gone { operation: "read the tracee", tid };
    let number = *status.ns_pid.last().ok_or_else(gone)?;
    let told = asked.read(number).map_err(|source| Error::Inject { pid, source })?;
    let refuse = |found| unsupported::refuse(pid, vec![found]);
    let Told { state, debug_registers, is_waited_for } = match told {
        Ok(told) => told,
        // There is no signal: a stop of job control, of one that was attached to.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            refuse(other_stop(tid, "as it was stopped by job control"))?;
            return Err(gone().into());
        }
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
            refuse(untold(tid))?;
            return Err(gone().into());
        }
        Err(source) => {
            return Err(Error::Process { operation: "have its tracer read", pid: tid, source });
        }
    };
    if let Some(stop) = other_kind(&state.signal) {
        refuse(other_stop(tid, stop))?;
    }
    if !is_waited_for {
        refuse(untold(tid))?;
    }
    let known =
        inventory.processes.get(&pid).and_then(|process| process.threads.get(&tid)?.in_task);
    let (options, seized) = traced_how(known.map_or(0, |known| known.settings.traced));
    let signal = state.signal;
    let traced = Traced { tracer, seized, options, signal, debug_registers };
    Ok((Stopped::of_other(tid, state), traced))
}

/// What a thread stands for, if not for a signal: the kernel says it with the code of a signal that it makes up.
fn other_kind(signal: &RawSigInfo) -> Option<&'static str> {
    let field = |at: usize| {
        i32::from_ne_bytes([signal[at], signal[at + 1], signal[at + 2], signal[at + 3]])
    };
    let (number, code) = (field(0), field(8));
    /// `PTRACE_O_TRACESYSGOOD` marks its stops so.
    const GOOD: i32 = 0x80;
    match code {
        _ if code >> 8 == libc::PTRACE_EVENT_STOP => {
            Some("as it was interrupted or stopped by job control (PTRACE_EVENT_STOP)")
        }
        _ if code > 0xff && code & 0xff == libc::SIGTRAP => {
            Some("at an event (exec, fork, clone, exit: PTRACE_EVENT_*)")
        }
        _ if number == libc::SIGTRAP && code == libc::SIGTRAP => Some("at a system call"),
        _ if number == libc::SIGTRAP | GOOD || code == libc::SIGTRAP | GOOD => {
            Some("at a system call")
        }
        _ => None,
    }
}

/// Refuses tracees that were sent signals since they were read.
pub(crate) fn check_signals(tasks: &BTreeMap<HostPid, TaskCapture>) -> Result<(), Error> {
    let set = |pending: &[RawSigInfo]| {
        let numbers = pending.iter().filter_map(|info| info.first_chunk());
        numbers.fold(0, |set, word| set | 1_u64 << ((u32::from_ne_bytes(*word) - 1) & 63))
    };
    for (&pid, task) in tasks {
        for thread in task.threads.iter().filter(|thread| thread.traced.is_some()) {
            let status = Status::read(&Dir::open(pid)?.thread(thread.tid)?)?;
            let known = (set(&thread.pending), set(&task.pending));
            if (status.pending, status.shared_pending) != known {
                unsupported::refuse(pid, vec![signalled(thread.tid)])?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(number: i32, code: i32) -> RawSigInfo {
        let mut info = [0; 128];
        info[..4].copy_from_slice(&number.to_ne_bytes());
        info[8..12].copy_from_slice(&code.to_ne_bytes());
        info
    }

    #[test]
    fn stops_are_told_apart_by_their_codes() {
        for (number, code) in [
            (libc::SIGTRAP, libc::SI_KERNEL),
            (libc::SIGTRAP, libc::TRAP_TRACE),
            (libc::SIGSTOP, libc::SI_USER),
            (libc::SIGINT, libc::SI_TKILL),
            (libc::SIGSEGV, 1),
        ] {
            assert_eq!(other_kind(&info(number, code)), None, "{number} {code}");
        }
        for code in [5, 0x85, 4 << 8 | 5, 128 << 8 | 5] {
            assert!(other_kind(&info(libc::SIGTRAP, code)).is_some(), "{code}");
        }
        assert!(other_kind(&info(libc::SIGSTOP, 128 << 8 | 19)).is_some());
    }
}
