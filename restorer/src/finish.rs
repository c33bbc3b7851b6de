//! The last stage of a restore: every thread is parked in its new process, and the coordinator
//! gives it its registers and lets it go.
//!
//! First what is to be undone at the end of threads is done once more (`SEM_UNDO`), and those in a user namespace are scheduled as they
//! were, which takes rights of the machine. Then process by process, children before parents:
//!
//! 1. where children have been stopped, the parent waits for those of which it had been told, and the SIGCHLD that the stops caused in it
//!    is taken away (unless the images say that one was pending);
//! 2. its file locks are taken, in the same way as the next one;
//! 3. a process that was stopped is stopped, with all its threads, while all its signals are still blocked;
//! 4. the restorer's region goes, by a system call that the leader is made to make at its own
//!    `syscall` instruction, the last one in the region that is used;
//! 5. every thread gets its registers, extended state and signal mask.
//!
//! Then, on the word of the commander, all are let go ([`crate::holder`]). Up to that moment any
//! error ends everything; from then on a task that has gone is no error: it was killed like any
//! other process.

mod inject;
mod locks;
mod scheduling;
mod semaphores;
mod tracees;

use arch::fpu::Layout;
use arch::regs::{GeneralRegs, SYSCALL_INSTRUCTION_LEN};
use arch::syscall::nr;
use ids::{HostPid, ImagePid};
use images::messages::FileLockEntry;
use kernel::process::send_signal;
use kernel::ptrace::Stop;
use kernel::rseq::{Interrupted, at_section, set_section};

pub(crate) use self::inject::Parked;
use self::inject::{
    child_signal_is_pending, drain_child_signal, go_on, inject, is_pending, lost, take,
};
use self::tracees::Traces;
use crate::error::Error;
use crate::load::registers;
use crate::load::{Body, Checkpoint, Process, State, Thread};
use crate::pids::Pids;
use crate::plan::Plan;
use crate::prepare::Region;
use crate::task::PreparedTask;

/// Finishes every process; with `stop` all stay stopped when they are let go.
pub(crate) fn finish(
    checkpoint: &Checkpoint,
    (plan, pids): (&Plan, &Pids),
    prepared: &[Option<PreparedTask>],
    mut parked: Parked,
    stop: bool,
) -> Result<Finished, Error> {
    let layout = Layout::of_this_processor();
    for task in parked.values() {
        // The signal to park by is not blocked yet, and anybody's who may signal the task.
        task.set_signal_mask(u64::MAX)?;
    }
    semaphores::redo(checkpoint, pids, prepared, &mut parked)?;
    scheduling::set(checkpoint, pids, prepared)?;
    for (index, process) in checkpoint.processes.iter().enumerate().rev() {
        let (Some(body), Some(place)) = (&process.body, &prepared[index]) else { continue };
        let children_stopped = if stop {
            checkpoint.processes.iter().any(|child| child.ppid == Some(process.pid))
        } else {
            !plan.tasks[index].stopped.is_empty()
        };
        let drain = children_stopped && !child_signal_is_pending(process);
        let halt = match process.state {
            State::Stopped => Some(stop_signal(checkpoint, process)),
            // It stands still for its tracer.
            _ => (stop && !tracees::is_traced(body)).then_some(libc::SIGSTOP),
        };
        let pid = pids.host(process.pid)?;
        let locks = checkpoint.locks.of(process.pid);
        let told = told(checkpoint, process);
        leader((process, pid), (&place.region, locks), &mut parked, (drain, &told))?;
        if let Some(signal) = halt {
            halt_all((body, pid), pids, &mut parked, signal)?;
        }
        // Tracers have their tracees to take over first.
        if !tracees::traces(checkpoint, body) {
            unmap((process, pid), &place.region, &mut parked)?;
            threads((process, body), pids, &parked, &layout)?;
        }
    }
    tracees::hand_over(checkpoint, pids, prepared, &mut parked)?;
    for (index, process) in checkpoint.processes.iter().enumerate().rev() {
        let (Some(body), Some(place)) = (&process.body, &prepared[index]) else { continue };
        if tracees::traces(checkpoint, body) {
            unmap((process, pids.host(process.pid)?), &place.region, &mut parked)?;
            threads((process, body), pids, &parked, &layout)?;
        }
    }
    Ok(Finished { parked, traces: Traces::of(checkpoint, pids)? })
}

/// A tree of which all is as it is to be.
#[derive(Debug)]
pub(crate) struct Finished {
    parked: Parked,
    traces: Traces,
}

impl Finished {
    /// All threads that the holder has.
    pub(crate) fn threads(&self) -> impl Iterator<Item = HostPid> {
        self.parked.keys().copied()
    }
}

/// Lets all go.
pub(crate) fn let_go(finished: Finished) -> Result<(), Error> {
    let Finished { parked, traces } = finished;
    for task in parked.into_values() {
        match traces.settle(task).and_then(|task| task.detach(0)) {
            Err(error) if !error.is_gone() => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

/// The signal to stop a process with; a parent in wait4 is told which. It is the signal that had stopped the process if that is
/// certain to stop it again, else SIGSTOP, which always does. A terminal's stop signal does not if the process handles it, nor if its
/// group is orphaned (`is_current_pgrp_orphaned` in the kernel), that is, if no member has a parent in another group of the session.
fn stop_signal(checkpoint: &Checkpoint, process: &Process) -> i32 {
    // In the images actions are without those of SIGKILL and SIGSTOP.
    let action = |signal: i32| process.core.sigactions.get(usize::try_from(signal).ok()? - 3);
    let of =
        |pid: Option<ImagePid>| checkpoint.processes.iter().find(|other| Some(other.pid) == pid);
    let is_member = |other: &&Process| {
        (other.sid, other.pgid) == (process.sid, process.pgid)
            && !matches!(other.state, State::Dead { .. })
    };
    let watched = checkpoint.processes.iter().filter(is_member).any(|member| {
        of(member.ppid)
            .is_some_and(|parent| parent.sid == process.sid && parent.pgid != process.pgid)
    });
    match process.core.stop_signo.map(u32::cast_signed) {
        Some(signal @ (libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU))
            if watched
                && action(signal).is_some_and(|action| action.sigaction == 0)
                && !is_pending(process, signal) =>
        {
            signal
        }
        _ => libc::SIGSTOP,
    }
}

/// The children of a process of whose stops it has been told, as it calls them.
fn told(checkpoint: &Checkpoint, process: &Process) -> Vec<ImagePid> {
    let of_process = checkpoint.processes.iter().filter(|child| child.ppid == Some(process.pid));
    let told = of_process
        .filter(|child| child.state == State::Stopped && child.core.stop_told == Some(true));
    told.filter_map(|child| checkpoint.levels.local(process.pid, child.pid)).collect()
}

/// What is done to a process by its leader.
fn leader(
    (process, pid): (&Process, HostPid),
    (region, locks): (&Region, &[FileLockEntry]),
    parked: &mut Parked,
    (drain, told): (bool, &[ImagePid]),
) -> Result<(), Error> {
    let mut leader = take(parked, pid)?;
    let at = leader.registers()?.instruction() - SYSCALL_INSTRUCTION_LEN;
    for child in told {
        const AT_ONCE_AND_OF_STOPS: u64 = (libc::WNOHANG | libc::WUNTRACED) as u64;
        let args = [child.get() as u64, 0, AT_ONCE_AND_OF_STOPS, 0, 0, 0];
        // Nothing is missing where there was nothing to be told.
        leader = inject(leader, region, at, nr::WAIT4, args)?.0;
    }
    if drain {
        leader = drain_child_signal(leader, region, at)?;
    }
    leader = locks::take(leader, (region, at), (process.pid, pid), locks)?;
    parked.insert(pid, leader);
    Ok(())
}

/// Takes the restorer's region away.
fn unmap(
    (process, pid): (&Process, HostPid),
    region: &Region,
    parked: &mut Parked,
) -> Result<(), Error> {
    let leader = take(parked, pid)?;
    let at = leader.registers()?.instruction() - SYSCALL_INSTRUCTION_LEN;
    let region_of = [region.address, region.bytes as u64, 0, 0, 0, 0];
    let (leader, answer) = inject(leader, region, at, nr::MUNMAP, region_of)?;
    if answer < 0 {
        let operation = format!("unmap the restorer from process {}", process.pid);
        return Err(Error::kernel(operation)(std::io::Error::from_raw_os_error(-answer as i32)));
    }
    parked.insert(pid, leader);
    Ok(())
}

/// Registers and signal masks.
fn threads(
    (process, body): (&Process, &Body),
    pids: &Pids,
    parked: &Parked,
    layout: &Layout,
) -> Result<(), Error> {
    let mut state = Vec::new();
    for thread in &body.threads {
        let tid = pids.host(thread.tid)?;
        let task = parked.get(&tid).ok_or_else(|| lost(tid))?;
        task.extended_state(&mut state)?;
        task.set_extended_state(&registers::extended(thread, &state, layout)?)?;
        // Before the registers: the bases of segments are read from there when selectors are loaded.
        for segment in registers::segments(thread)? {
            task.set_segment(&segment)?;
        }
        let mut general = registers::general(thread)?;
        critical_section(thread, tid, &mut general)?;
        task.set_registers(&general)?;
        task.set_signal_mask(thread.core.blk_sigset.unwrap_or(process.core.blk_sigset))?;
    }
    Ok(())
}

/// Finds out for a thread that was inside a restartable sequence when CRIU dumped it what the kernel
/// does with it: the kernel itself may not look when it sets the thread going from here, and
/// has cleared its pointer to the sequence when the thread ran elsewhere.
fn critical_section(
    thread: &Thread,
    tid: HostPid,
    registers: &mut GeneralRegs,
) -> Result<(), Error> {
    let Some(rseq) = thread.core.rseq_entry else { return Ok(()) };
    let pointer = rseq.rseq_cs_pointer.unwrap_or(0);
    match at_section(tid, pointer, 0, rseq.signature, registers.instruction()) {
        Interrupted::Outside => {}
        Interrupted::Aborted(handler) => registers.go_on_at(handler),
        Interrupted::Unresolved(pointer) => {
            set_section(tid, rseq.rseq_abi_pointer, pointer)
                .map_err(Error::kernel(format!("write to thread {}", thread.tid)))?;
        }
    }
    Ok(())
}

/// Stops a process by a signal. All others are blocked, so that this is the one that its leader meets. The others take part before
/// anything of theirs; if somebody has it go on meanwhile they go on to their end in the restorer's code, and the restore fails. Its
/// parent is told of the stop when all have stopped, which must not be after it has been let go.
fn halt_all(
    (body, pid): (&Body, HostPid),
    pids: &Pids,
    parked: &mut Parked,
    signal: i32,
) -> Result<(), Error> {
    let leader = take(parked, pid)?;
    leader.set_signal_mask(!(1 << (signal - 1)))?;
    send_signal(pid, signal).map_err(Error::kernel(format!("stop process {pid}")))?;
    let leader = go_on(leader, Stop::Signal(signal), |leader| leader.resume(0))?;
    let leader = go_on(leader, Stop::Group(signal), |leader| leader.resume(signal))?;
    leader.set_signal_mask(u64::MAX)?;
    parked.insert(pid, leader);
    for thread in body.threads.iter().skip(1) {
        let tid = pids.host(thread.tid)?;
        let other = take(parked, tid)?;
        let other = go_on(other, Stop::Group(signal), |other| other.resume(0))?;
        parked.insert(tid, other);
    }
    Ok(())
}
