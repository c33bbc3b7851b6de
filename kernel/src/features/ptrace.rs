//! Probes that need a child, most of them a traced one.
//!
//! The child is made for one question by a bare `fork` and does nothing but stop itself: it is safe
//! to make in a process with threads, and it dies with us (`PR_SET_PDEATHSIG`).

use std::ffi::CStr;

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

/// A child that has begun with some calls of its own.
fn child(begin: fn()) -> Result<Stopped, Answer> {
    // SAFETY: the child makes only system calls that are async-signal-safe (prctl, seccomp,
    // pause) and never returns into Rust code.
    match unsafe { fork() }.map_err(|errno| unknown("make a child", errno))? {
        ForkResult::Child => {
            // SAFETY: these calls touch no memory of ours.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                begin();
                loop {
                    libc::raise(libc::SIGSTOP);
                }
            }
        }
        ForkResult::Parent { child } => {
            let stopped = Stopped(child);
            // Until the child has begun and stopped itself.
            waitpid(child, Some(WaitPidFlag::WUNTRACED))
                .map_err(|errno| unknown("wait for a child", errno))?;
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
    ask_after(|| (), question)
}

fn ask_after(begin: fn(), question: impl FnOnce(Pid) -> Result<(), Answer>) -> Answer {
    match child(begin).and_then(|stopped| question(stopped.0)) {
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

/// `PTRACE_O_SUSPEND_SECCOMP`.
pub(super) fn suspend_seccomp() -> Answer {
    const PTRACE_O_SUSPEND_SECCOMP: usize = 1 << 21;
    ask(|pid| {
        let data = std::ptr::without_provenance_mut(PTRACE_O_SUSPEND_SECCOMP);
        request("PTRACE_O_SUSPEND_SECCOMP", libc::PTRACE_SETOPTIONS, pid, 0, data)
    })
}

/// `PTRACE_SECCOMP_GET_FILTER`, of a child that has one.
pub(super) fn seccomp_filters() -> Answer {
    const PTRACE_SECCOMP_GET_FILTER: libc::c_uint = 0x420c;
    /// Lets every call be made.
    fn filter() {
        const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
        let mut all = libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW };
        let program = libc::sock_fprog { len: 1, filter: &raw mut all };
        let mode = libc::c_ulong::from(libc::SECCOMP_MODE_FILTER);
        // SAFETY: the kernel reads the program, of one instruction, as its length says.
        unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program);
        }
    }
    ask_after(filter, |pid| {
        let nowhere = std::ptr::null_mut();
        request("PTRACE_SECCOMP_GET_FILTER", PTRACE_SECCOMP_GET_FILTER, pid, 0, nowhere)
    })
}

/// Sets a hardware breakpoint and takes it back.
pub(super) fn breakpoints() -> Answer {
    ask(|pid| {
        let poke = |(place, value): (usize, u64)| {
            let value = std::ptr::without_provenance_mut(value as usize);
            request("hardware breakpoints", libc::PTRACE_POKEUSER, pid, place, value)
        };
        let at = breakpoints as fn() -> Answer as usize as u64;
        arch::trace::breakpoint(Some(at)).into_iter().try_for_each(poke)?;
        arch::trace::breakpoint(None).into_iter().try_for_each(poke)
    })
}

/// Writes to a file in a child, for what would change this process.
///
/// # Errors
/// Those of open and write; `ECHILD` if the child died.
pub(super) fn child_writes(path: &CStr, bytes: &[u8]) -> Result<(), Errno> {
    // SAFETY: the child makes only system calls that are async-signal-safe (open, write, _exit), and reads
    // its copy of two buffers that are there.
    match unsafe { fork() }? {
        ForkResult::Child => {
            // SAFETY: the path ends with its zero, and the bytes are as many as is said.
            unsafe {
                let file = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
                let wrote = match file {
                    0.. => libc::write(file, bytes.as_ptr().cast(), bytes.len()),
                    _ => -1,
                };
                libc::_exit(if wrote < 0 { Errno::last_raw() } else { 0 })
            }
        }
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            WaitStatus::Exited(_, errno) => Err(Errno::from_raw(errno)),
            _ => Err(Errno::ECHILD),
        },
    }
}
