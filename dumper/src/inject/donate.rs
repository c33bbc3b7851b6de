//! A running process makes a userfaultfd and hands it over: all that has to happen inside it so
//! that its writes can be tracked from outside.
//!
//! Only its leader is stopped, for two system calls: the one that makes the descriptor, and the one
//! that closes it there once it was taken over. Abandoned before the first, or after the second
//! was set up, the leader makes that call and runs on. Between them lie the few microseconds that
//! it takes to set up the second: whoever is killed there leaves the process one descriptor more,
//! of a userfaultfd that was never used and is closed by an exec.
//!
//! Everything happens in a thread of its own, so that on any error, by its end, the kernel lets
//! go of the leader.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use arch::syscall::nr;
use collector::Process;
use kernel::pidfd::PidFd;
use kernel::ptrace::{Event, Options, Running, Stop, Stopped};

use super::{Codes, Error, Home, Original, expect_stop};

/// How long the leader may take to stop.
const PATIENCE: Duration = Duration::from_millis(200);
/// Polls without a pause; a stop usually takes a few microseconds.
const EAGER_POLLS: u32 = 4000;

/// Has the leader of a process make a userfaultfd, which is ours alone then. The process runs
/// on, whatever becomes of this.
pub(crate) fn userfaultfd_of(process: &Process, codes: &Codes) -> Result<OwnedFd, Error> {
    let pid = process.pid;
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("donate".to_owned())
            .spawn_scoped(scope, || donate(process, codes))
            .map_err(|source| Error::Memory { operation: "start a thread for", tid: pid, source })?
            .join()
            .unwrap_or(Err(Error::NoRoom { tid: pid }))
    })
}

fn donate(process: &Process, codes: &Codes) -> Result<OwnedFd, Error> {
    let pid = process.pid;
    let failed = |operation| move |source| Error::Memory { operation, tid: pid, source };
    let pidfd = PidFd::open(pid).map_err(failed("open the process"))?;
    let running = Running::seize(pid, Options::SYSCALL_GOOD)?;
    running.interrupt()?;
    let stopped = stop(running)?;
    let original = Original::of(&stopped, &mut Vec::new())?;
    let stack = place_for_frames(process, &original)?;
    let home = Home::lay(&stopped, pid, &original, stack, codes, None)?;
    let call = |number: usize, argument: u64| {
        home.call(&original, codes, number, [argument, 0, 0, 0, 0, 0], home.frame)
    };
    let mut postponed = Vec::new();

    let create = kernel::userfaultfd::CREATE_FLAGS;
    // Registers before the mask: at the frame the thread gets its mask back, before it does not.
    stopped.set_registers(&call(nr::USERFAULTFD, create))?;
    stopped.set_signal_mask(u64::MAX)?;
    let stopped = through(stopped, &mut postponed)?;
    let answer = stopped.registers()?.return_value();
    let (stopped, taken) = match i32::try_from(answer) {
        Ok(fd) if fd >= 0 => {
            stopped.set_registers(&call(nr::CLOSE, fd.cast_unsigned().into()))?;
            let taken = pidfd.get(fd).map_err(failed("take over a descriptor"));
            (through(stopped, &mut postponed)?, taken)
        }
        _ => {
            let source = std::io::Error::from_raw_os_error(i32::try_from(-answer).unwrap_or(0));
            (stopped, Err(Error::Call { call: nr::USERFAULTFD as i32, tid: pid, source }))
        }
    };
    // Back into the signal path, from where an interrupted call is restarted.
    stopped.interrupt_again()?;
    let stopped = expect_stop(
        stopped.resume(0)?,
        "on its way home",
        &mut postponed,
        |stop| matches!(stop, Stop::Interrupted | Stop::Group(_)),
        |stopped| stopped.resume(0),
    )?;
    original.give_back(&stopped)?;
    home.uncover()?;
    stopped.detach(0)?;
    for signal in postponed {
        pidfd.signal(signal).map_err(failed("send a signal again"))?;
    }
    taken
}

/// From before a system call to its exit.
fn through(stopped: Stopped, postponed: &mut Vec<i32>) -> Result<Stopped, Error> {
    let entry = next_call_stop(stopped, "before it makes a system call", postponed)?;
    next_call_stop(entry, "when it had made a system call", postponed)
}

fn next_call_stop(
    stopped: Stopped,
    during: &'static str,
    postponed: &mut Vec<i32>,
) -> Result<Stopped, Error> {
    let running = stopped.resume_to_syscall()?;
    let wanted = |stop| stop == Stop::Syscall;
    expect_stop(running, during, postponed, wanted, Stopped::resume_to_syscall)
}

/// Waits for the stop that was asked for. Signals go their way meanwhile.
fn stop(mut running: Running) -> Result<Stopped, Error> {
    let tid = running.tid();
    let since = Instant::now();
    let mut polls = 0;
    loop {
        let stopped = match running.poll()? {
            Ok(Event::Stopped(stopped)) => stopped,
            Ok(Event::Ended { tid, .. }) => {
                return Err(kernel::ptrace::Error::Gone { operation: "stop", tid }.into());
            }
            Err(still) => {
                running = still;
                polls += 1;
                match polls {
                    0..EAGER_POLLS => std::thread::yield_now(),
                    _ if since.elapsed() < PATIENCE => {
                        std::thread::sleep(Duration::from_micros(100));
                    }
                    _ => {
                        let source = std::io::ErrorKind::TimedOut.into();
                        return Err(Error::Memory { operation: "stop", tid, source });
                    }
                }
                continue;
            }
        };
        running = match stopped.stop() {
            Stop::Interrupted => return Ok(stopped),
            Stop::Signal(signal) => stopped.resume(signal)?,
            stop => return Err(Error::Unexpected { tid, during: "when interrupted", stop }),
        };
    }
}

/// The alternate signal stack, if there is one, or `None` for the current stack. Other threads run
/// meanwhile: what is below the stack pointer must be nobody else's, which is not so on the small
/// stacks that some languages keep among their other memory, so that what is not known to be a
/// stack will not do.
fn place_for_frames(process: &Process, original: &Original) -> Result<Option<(u64, u64)>, Error> {
    let sp = original.registers.sp;
    let on_main_stack = process
        .mappings
        .iter()
        .any(|mapping| mapping.name == "[stack]" && mapping.start <= sp && sp < mapping.end);
    let known = process.threads.get(&process.pid).and_then(|leader| leader.in_task);
    match known.map(|known| (known.alt_stack_start, known.alt_stack_bytes)) {
        Some((start, bytes)) if bytes > 0 => Ok(Some((start, bytes))),
        _ if on_main_stack => Ok(None),
        _ => Err(Error::NoRoom { tid: process.pid }),
    }
}
