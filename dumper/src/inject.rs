//! Running code in a stopped task in such a way that the task can be abandoned at any instant.
//!
//! A tracer that dies lets its tracees run on from the registers that it left them. So a tracee
//! is only ever left, between two ptrace calls, in one of these states:
//!
//! | state | abandoned, the task… |
//! |---|---|
//! | its own registers | runs on |
//! | at a [`syscall; ret`](arch::sigframe::codes) of its own code, the stack pointer at a [signal frame](Home) | makes that one system call, returns into the sigreturn trampoline and runs on |
//! | the same, with a second frame that unmaps what the call maps | maps, unmaps, runs on |
//! | in the parasite | reports to nobody, leaves as in the second state by unmapping the parasite, runs on |
//!
//! What the task is given back is its registers, extended state and signal mask. The order in
//! which they are set matters and is noted where it does.
//!
//! Errors need no undoing for the same reason: whoever gets one lets go of the task (the thread
//! that traces it ends), and the task finds home.
//!
//! The frames need memory that the task does not use ([`frame_space`]): on the alternate signal stack
//! where there is one with room, below the red zone of the current stack, or at the far end of the
//! initial stack. What stood there is saved and put back.

mod bits;
mod calls;
mod frame_space;
mod gadgets;
mod parasite;
mod return_frame;
mod tracer;
mod uffd_handover;

pub(crate) use bits::Bits;
pub(crate) use calls::{
    Asking, ThreadState, ask_threads, calls as calls_of_threads, pass_through_kernel,
};
pub(crate) use frame_space::Room;
pub(crate) use gadgets::{GadgetFinder, Gadgets};
pub(crate) use parasite::{Infection, ParasiteReport, Request, calls as calls_of_parasite};
pub(crate) use return_frame::{Original, ReturnFrame};
pub(crate) use tracer::{Told, Tracer};
pub(crate) use uffd_handover::userfaultfd_of;

use ids::HostPid;
use kernel::ptrace::{Event, Running, Stop, Stopped};

/// Why code could not be run in a task.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// ptrace failed, or the task is gone.
    #[error(transparent)]
    Ptrace(#[from] kernel::ptrace::Error),
    /// It could not be stopped.
    #[error(transparent)]
    Stop(#[from] freezer::StopError),
    /// Its memory could not be read or written.
    #[error("{operation} of thread {tid}")]
    Memory {
        /// What was tried.
        operation: &'static str,
        /// The thread.
        tid: HostPid,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// There is no place where a signal frame can lie.
    #[error(
        "no room for a signal frame in thread {tid}: neither its alternate signal stack nor its \
         stack has any left, and the initial stack of its process is not there, or at its limit"
    )]
    NoRoom {
        /// The thread.
        tid: HostPid,
    },
    /// The task's code has nothing to make a system call with and return from it.
    #[error(
        "process {pid} maps no code that returns from a signal handler or from a system call \
         (every common C library and Go have it), so nothing can be run in it safely"
    )]
    NoCodes {
        /// The process.
        pid: HostPid,
    },
    /// It is in other code than its program's.
    #[error(
        "thread {tid} is in other code than its program is made of (32-bit code in a 64-bit program, or \
         the other way round), so nothing can be run in it safely"
    )]
    OtherCode {
        /// The thread.
        tid: HostPid,
    },
    /// A system call failed in the task.
    #[error("system call {call} inside thread {tid}")]
    Call {
        /// Its number.
        call: i32,
        /// The thread.
        tid: HostPid,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// The task did something else than it was set up to do.
    #[error("thread {tid} stopped unexpectedly {during}: {stop:?}")]
    Unexpected {
        /// The thread.
        tid: HostPid,
        /// At which point.
        during: &'static str,
        /// How it stopped.
        stop: Stop,
    },
}

/// Waits for the stop that `wanted` accepts. A `SIGSTOP` that someone sends meanwhile is not
/// lost: the signal is noted in `postponed` and the task goes on. So it does when it only says
/// once more that it is stopped: a process under job control does that for each of the two
/// reasons it has, and it keeps its own through all that is done to it here.
fn expect_stop(
    running: Running,
    during: &'static str,
    postponed: &mut Vec<i32>,
    wanted: impl Fn(Stop) -> bool,
    resume: impl Fn(Stopped) -> kernel::ptrace::Result<Running>,
) -> Result<Stopped, Error> {
    let mut running = running;
    loop {
        let tid = running.tid();
        let stopped = match running.wait()? {
            Event::Stopped(stopped) => stopped,
            Event::Ended { tid, .. } => {
                return Err(kernel::ptrace::Error::Gone { operation: "run code in", tid }.into());
            }
        };
        match stopped.stop() {
            stop if wanted(stop) => return Ok(stopped),
            Stop::Signal(libc::SIGSTOP) => {
                postponed.push(libc::SIGSTOP);
                running = resume(stopped)?;
            }
            // Every task is interrupted to freeze it. One that was in a group stop already stopped
            // for that, and its interruption is still to come: it comes when it is let go.
            Stop::Interrupted | Stop::Group(_) => running = resume(stopped)?,
            stop => return Err(Error::Unexpected { tid, during, stop }),
        }
    }
}
