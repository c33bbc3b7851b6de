//! Calls that a parked thread is made to make.

use std::collections::BTreeMap;

use arch::syscall::nr;
use ids::HostPid;
use kernel::memory::write_all;
use kernel::ptrace::{Running, Stop, Stopped};

use crate::error::Error;
use crate::load::{Process, signal_of};
use crate::prepare::Region;

/// The parked threads by their numbers.
pub(crate) type Parked = BTreeMap<HostPid, Stopped>;

pub(super) fn lost(pid: HostPid) -> Error {
    Error::Lost { pid: pid.get(), what: "it did not come to its end of the restore".to_owned() }
}

pub(super) fn take(parked: &mut Parked, tid: HostPid) -> Result<Stopped, Error> {
    parked.remove(&tid).ok_or_else(|| lost(tid))
}

/// Makes a stopped task make a system call at the instruction `at`; returns its answer.
pub(super) fn inject(
    task: Stopped,
    region: &Region,
    at: u64,
    number: usize,
    args: [u64; 6],
) -> Result<(Stopped, i64), Error> {
    let stack = region.address + region.stack as u64;
    task.set_registers(&task.registers()?.calling(number, args, at, stack))?;
    let task = go_on(task, Stop::Syscall, Stopped::resume_to_syscall)?;
    let task = go_on(task, Stop::Syscall, Stopped::resume_to_syscall)?;
    let answer = task.registers()?.return_value();
    Ok((task, answer))
}

/// Lets a task go on by `how` up to `stop`. Everything that can be blocked is: a SIGSTOP that somebody sends it is too early, as it was
/// while the task was built, and so is a SIGCONT, which the kernel tells as an interruption.
pub(super) fn go_on(
    mut task: Stopped,
    stop: Stop,
    how: impl Fn(Stopped) -> kernel::ptrace::Result<Running>,
) -> Result<Stopped, Error> {
    loop {
        task = how(task)?.wait_stopped()?;
        match task.stop() {
            it if it == stop => return Ok(task),
            Stop::Signal(libc::SIGSTOP) | Stop::Interrupted => {}
            it => {
                let what = format!("it stopped as {it:?} instead of {stop:?}");
                return Err(Error::Lost { pid: task.tid().get(), what });
            }
        }
    }
}

/// Puts what a call reads where the leader's stack was; returns its address.
pub(super) fn lay_out(task: &Stopped, region: &Region, bytes: &[u8]) -> Result<u64, Error> {
    let place = region.address + region.stack as u64 - 64;
    write_all(task.tid(), place, bytes)
        .map_err(Error::kernel(format!("write to process {}", task.tid())))?;
    Ok(place)
}

/// Takes a pending SIGCHLD away.
pub(super) fn drain_child_signal(
    task: Stopped,
    region: &Region,
    at: u64,
) -> Result<Stopped, Error> {
    const SIGSET_BYTES: u64 = 8;
    // The set, and behind it a time-out of nothing.
    let mut bytes = [0u8; 24];
    bytes[..8].copy_from_slice(&(1u64 << (libc::SIGCHLD - 1)).to_ne_bytes());
    let place = lay_out(&task, region, &bytes)?;
    let args = [place, 0, place + 8, SIGSET_BYTES, 0, 0];
    // That there was none is as good.
    let (task, _) = inject(task, region, at, nr::RT_SIGTIMEDWAIT, args)?;
    Ok(task)
}

/// Whether the images have a SIGCHLD that waits for a process.
pub(super) fn child_signal_is_pending(process: &Process) -> bool {
    is_pending(process, libc::SIGCHLD)
}

/// Whether they have such a signal.
pub(super) fn is_pending(process: &Process, signal: i32) -> bool {
    let leader = process.body.as_ref().and_then(|body| body.threads.first());
    let own = leader.and_then(|leader| leader.core.signals_p.as_ref());
    let queue = process.core.signals_s.iter().chain(own).flat_map(|queue| &queue.signals);
    queue.into_iter().any(|entry| signal_of(&entry.siginfo) == signal.cast_unsigned())
}
