//! Probes that need a traced child.
//!
//! The child is made for one question by a bare `fork` and does nothing but `pause`: it is safe
//! to make in a process with threads, and it dies with us (`PR_SET_PDEATHSIG`).

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use super::Answer;
use super::probes::{no, unknown};

const PTRACE_GET_RSEQ_CONFIGURATION: libc::c_uint = 0x420f;

/// A traced child in a ptrace stop; dropping it ends and reaps it.
struct Stopped(Pid);

impl Drop for Stopped {
    fn drop(&mut self) {
        // The child is ours and unreaped, so its pid is its own; it can only be gone already.
        if kill(self.0, Signal::SIGKILL).is_ok() {
            while let Ok(WaitStatus::PtraceEvent(..) | WaitStatus::Stopped(..)) =
                waitpid(self.0, Some(WaitPidFlag::__WALL))
            {}
        }
    }
}

fn child() -> Result<Stopped, Answer> {
    // SAFETY: the child makes only system calls that are async-signal-safe (prctl, getppid,
    // pause, _exit) and never returns into Rust code.
    match unsafe { fork() }.map_err(|errno| unknown("make a child", errno))? {
        ForkResult::Child => {
            // SAFETY: these calls touch no memory of ours.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                loop {
                    libc::pause();
                }
            }
        }
        ForkResult::Parent { child } => {
            let stopped = Stopped(child);
            ptrace::seize(child, ptrace::Options::PTRACE_O_EXITKILL)
                .map_err(|errno| no("seize a child", errno))?;
            ptrace::interrupt(child).map_err(|errno| no("interrupt a child", errno))?;
            waitpid(child, Some(WaitPidFlag::__WALL))
                .map_err(|errno| unknown("wait for a child", errno))?;
            Ok(stopped)
        }
    }
}

fn ask(question: impl FnOnce(Pid) -> Result<(), Answer>) -> Answer {
    match child().and_then(|stopped| question(stopped.0)) {
        Ok(()) => Answer::Yes,
        Err(answer) => answer,
    }
}

fn request(
    what: &str,
    request: libc::c_uint,
    pid: Pid,
    address: usize,
    data: *mut u8,
) -> Result<(), Answer> {
    // SAFETY: every request made here writes at most `address` bytes (its size argument), or a
    // fixed-size struct, and each caller passes a buffer of at least that size.
    let result = unsafe { libc::ptrace(request, pid.as_raw(), address, data) };
    if result >= 0 {
        return Ok(());
    }
    match Errno::last() {
        // A kernel without the request says EIO, as for any number it does not know.
        Errno::EIO | Errno::EINVAL => Err(Answer::No(format!("the kernel has no {what}"))),
        errno => Err(no(what, errno)),
    }
}

/// `PTRACE_SEIZE`, `PTRACE_INTERRUPT` and the registers.
pub(super) fn seize() -> Answer {
    ask(|pid| match ptrace::getregset::<ptrace::regset::NT_PRSTATUS>(pid) {
        Ok(_) => Ok(()),
        Err(errno) => Err(no("read a child's registers", errno)),
    })
}

/// `PTRACE_GETSIGMASK` and `PTRACE_PEEKSIGINFO`.
pub(super) fn signal_state() -> Answer {
    ask(|pid| {
        let mut mask = 0_u64;
        let data = (&raw mut mask).cast();
        request("PTRACE_GETSIGMASK", libc::PTRACE_GETSIGMASK, pid, size_of::<u64>(), data)?;
        let arguments = libc::ptrace_peeksiginfo_args { off: 0, flags: 0, nr: 0 };
        // SAFETY: the kernel reads the arguments and, asked for 0 signals, writes none.
        let result = unsafe {
            libc::ptrace(
                libc::PTRACE_PEEKSIGINFO,
                pid.as_raw(),
                &raw const arguments,
                std::ptr::null_mut::<libc::siginfo_t>(),
            )
        };
        if result == 0 { Ok(()) } else { Err(no("PTRACE_PEEKSIGINFO", Errno::last())) }
    })
}

/// `PTRACE_GET_RSEQ_CONFIGURATION`.
pub(super) fn rseq() -> Answer {
    ask(|pid| {
        let mut configuration = [0_u8; 24];
        request(
            "PTRACE_GET_RSEQ_CONFIGURATION",
            PTRACE_GET_RSEQ_CONFIGURATION,
            pid,
            configuration.len(),
            configuration.as_mut_ptr(),
        )
    })
}

/// `PTRACE_GET_SYSCALL_INFO`.
pub(super) fn syscall_info() -> Answer {
    ask(|pid| {
        let mut info = [0_u8; 88];
        request(
            "PTRACE_GET_SYSCALL_INFO",
            libc::PTRACE_GET_SYSCALL_INFO,
            pid,
            info.len(),
            info.as_mut_ptr(),
        )
    })
}
