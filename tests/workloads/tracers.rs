//! Children, and one's child, that this program traces and that stand in stops: at a breakpoint, for a signal with a value, in the middle
//! of a sleep, one at a place that the processor watches.

use std::arch::asm;
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, raise, sigaction};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpid};

use crate::stage::{Findings, Outcome, Stage, check, eventually};

/// `offsetof(struct user, u_debugreg)`.
const DEBUG_REGISTERS: usize = 848;
const VALUE: i32 = 0x1234_5678;
static mut WATCHED: u64 = 0;

fn child(body: impl FnOnce() -> i32) -> Pid {
    // SAFETY: the program has one thread, so its child may use everything.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let status = body();
            // SAFETY: nothing of the parent's is undone.
            unsafe { libc::_exit(status) }
        }
    }
}

extern "C" fn handle(_: i32) {
    // SAFETY: the call takes an integer.
    unsafe { libc::_exit(42) }
}

/// Traced by its parent from its beginning, up to a breakpoint, after which it counts one up and ends with that.
fn at_a_breakpoint() -> Pid {
    let pid = child(|| {
        ptrace::traceme().expect("be traced");
        raise(Signal::SIGSTOP).expect("stop");
        let mut count = 6_i32;
        // SAFETY: the breakpoint is for the tracer, and changes nothing.
        unsafe { asm!("int3", "inc {0:e}", inout(reg) count) };
        match count {
            7 => child(|| 0).as_raw().signum() + 6,
            _ => 1,
        }
    });
    stopped(pid, Signal::SIGSTOP);
    ptrace::setoptions(pid, ptrace::Options::PTRACE_O_TRACEFORK).expect("options");
    ptrace::cont(pid, None).expect("go on");
    stopped(pid, Signal::SIGTRAP);
    pid
}

/// Seized, and about to be delivered a signal that it handles.
fn for_a_signal() -> Pid {
    let pid = child(|| {
        let action = SigAction::new(SigHandler::Handler(handle), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler only ends the process.
        unsafe { sigaction(Signal::SIGUSR1, &action) }.expect("handle");
        raise(Signal::SIGSTOP).expect("stop");
        loop {
            std::thread::sleep(Duration::from_secs(1000));
        }
    });
    let flags = WaitPidFlag::WUNTRACED;
    assert_eq!(waitpid(pid, Some(flags)), Ok(WaitStatus::Stopped(pid, Signal::SIGSTOP)));
    kill(pid, Signal::SIGCONT).expect("go on");
    ptrace::seize(pid, ptrace::Options::PTRACE_O_EXITKILL).expect("seize");
    // Whatever is left of its stop.
    while !asleep(pid) {
        let seen = waitpid(pid, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL));
        if matches!(seen, Ok(WaitStatus::Stopped(..) | WaitStatus::PtraceEvent(..))) {
            ptrace::cont(pid, None).expect("go on");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    // SAFETY: the value is passed on as it is.
    let sent = unsafe {
        let value = libc::sigval { sival_ptr: VALUE as usize as *mut libc::c_void };
        libc::sigqueue(pid.as_raw(), libc::SIGUSR1, value)
    };
    check(sent).expect("send");
    stopped(pid, Signal::SIGUSR1);
    pid
}

/// Stopped in the middle of a sleep: a child of a child, which was attached to.
fn in_a_sleep(stage: &Stage) -> (Pid, Pid) {
    let path = stage.path("sleeper");
    let parent = child(|| {
        let sleeper = child(|| {
            std::thread::sleep(Duration::from_millis(1500));
            9
        });
        std::fs::write(&path, sleeper.to_string()).expect("say");
        match waitpid(sleeper, None) {
            Ok(WaitStatus::Exited(_, status)) => status,
            _ => 1,
        }
    });
    let number = || std::fs::read_to_string(&path).ok()?.parse::<i32>().ok();
    assert!(eventually(|| number().is_some()), "it sleeps");
    let sleeper = Pid::from_raw(number().expect("a number"));
    assert!(eventually(|| asleep(sleeper)), "it sleeps");
    ptrace::attach(sleeper).expect("attach");
    stopped(sleeper, Signal::SIGSTOP);
    (parent, sleeper)
}

/// Attached to, with a place in memory watched that it is about to write to.
fn watching() -> Pid {
    let pid = child(|| {
        ptrace::traceme().expect("be traced");
        raise(Signal::SIGSTOP).expect("stop");
        // SAFETY: the process has one thread.
        unsafe { (&raw mut WATCHED).write_volatile(1) };
        8
    });
    stopped(pid, Signal::SIGSTOP);
    // Four bytes, when they are written to.
    const CONTROL: i64 = 1 | 0b1101 << 16;
    let set = |nth: usize, value: i64| {
        let offset = (DEBUG_REGISTERS + nth * 8) as ptrace::AddressType;
        ptrace::write_user(pid, offset, value).expect("a debug register");
    };
    set(0, (&raw const WATCHED) as i64);
    set(7, CONTROL);
    pid
}

fn asleep(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    stat.contains(") S ") && call.starts_with("230 ")
}

fn stopped(pid: Pid, signal: Signal) {
    let seen = waitpid(pid, Some(WaitPidFlag::__WALL));
    assert_eq!(seen, Ok(WaitStatus::Stopped(pid, signal)), "it stops");
}

/// What a tracer sees of a tracee.
#[derive(Debug, PartialEq)]
struct Seen {
    registers: [u64; 20],
    signal: (i32, i32, [u64; 4]),
    mask: u64,
    debug: [i64; 3],
    told: Result<WaitStatus, nix::Error>,
}

impl Seen {
    fn of(pid: Pid) -> Self {
        let r = ptrace::getregs(pid).expect("registers");
        let info = ptrace::getsiginfo(pid).expect("a signal");
        // SAFETY: a siginfo is plain bytes, and longer.
        let words = unsafe { (&raw const info).cast::<[u64; 6]>().read() };
        let mut mask = 0_u64;
        // SAFETY: the kernel fills eight bytes.
        let asked =
            unsafe { libc::ptrace(libc::PTRACE_GETSIGMASK, pid.as_raw(), 8, &raw mut mask) };
        assert_eq!(asked, 0, "the mask");
        let debug = [0, 6, 7].map(|nth| {
            let offset = (DEBUG_REGISTERS + nth * 8) as ptrace::AddressType;
            ptrace::read_user(pid, offset).expect("a debug register")
        });
        // How long was slept is not known to whoever carries it: the sleep begins anew.
        let ax = if r.rax.cast_signed() == -516 { (-514_i64).cast_unsigned() } else { r.rax };
        Self {
            registers: [
                r.r15, r.r14, r.r13, r.r12, r.rbp, r.rbx, r.r11, r.r10, r.r9, r.r8, ax, r.rcx,
                r.rdx, r.rsi, r.rdi, r.orig_rax, r.rip, r.rsp, r.eflags, r.fs_base,
            ],
            signal: (info.si_signo, info.si_code, [words[2], words[3], words[4], words[5]]),
            mask,
            debug,
            told: waitpid(pid, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)),
        }
    }
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let breakpoint = at_a_breakpoint();
    let signal = for_a_signal();
    let (parent, sleeper) = in_a_sleep(stage);
    let watching = watching();
    let all = [breakpoint, signal, sleeper, watching];
    let before = all.map(Seen::of);
    stage.ready_then_wait();
    let mut found = Findings::default();
    for (pid, before) in all.iter().zip(&before) {
        found.same("what is seen", before, &Seen::of(*pid));
    }
    let pending = std::fs::read_to_string("/proc/self/status").expect("status");
    found.must(
        "nothing is pending",
        pending.contains("ShdPnd:\t0000000000000000") || !all.contains(&getpid()),
    );
    // Only what was seized takes that.
    found.same("interrupt", &Err(nix::Error::EIO), &ptrace::interrupt(breakpoint));
    found.works("go on", ptrace::cont(breakpoint, None));
    let event = WaitStatus::PtraceEvent(breakpoint, Signal::SIGTRAP, libc::PTRACE_EVENT_FORK);
    found.same("its option", &Ok(event), &waitpid(breakpoint, None));
    if let Ok(born) = ptrace::getevent(breakpoint) {
        let born = Pid::from_raw(born as i32);
        stopped(born, Signal::SIGSTOP);
        found.works("go on", ptrace::cont(born, None));
        found.works("go on", ptrace::cont(breakpoint, None));
        found.same(
            "its child",
            &Ok(WaitStatus::Exited(born, 0)),
            &waitpid(born, Some(WaitPidFlag::__WALL)),
        );
    }
    let ends = |found: &mut Findings, pid, status| loop {
        match waitpid(pid, Some(WaitPidFlag::__WALL)) {
            // Of its child.
            Ok(WaitStatus::Stopped(_, Signal::SIGCHLD)) => {
                found.works("go on", ptrace::cont(pid, Signal::SIGCHLD));
            }
            seen => break found.same("its end", &Ok(WaitStatus::Exited(pid, status)), &seen),
        }
    };
    ends(&mut found, breakpoint, 7);
    found.works("interrupt", ptrace::interrupt(signal));
    found.works("deliver", ptrace::cont(signal, Signal::SIGUSR1));
    loop {
        match waitpid(signal, Some(WaitPidFlag::__WALL)) {
            Ok(WaitStatus::PtraceEvent(..)) => {
                found.works("go on", ptrace::cont(signal, None));
            }
            seen => {
                found.same("its handler", &Ok(WaitStatus::Exited(signal, 42)), &seen);
                break;
            }
        }
    }
    found.works("go on", ptrace::cont(sleeper, None));
    found.same(
        "the sleep",
        &Ok(WaitStatus::Exited(sleeper, 9)),
        &waitpid(sleeper, Some(WaitPidFlag::__WALL)),
    );
    found.same("its parent", &Ok(WaitStatus::Exited(parent, 9)), &waitpid(parent, None));
    found.works("go on", ptrace::cont(watching, None));
    let seen = waitpid(watching, Some(WaitPidFlag::__WALL));
    found.same("it writes", &Ok(WaitStatus::Stopped(watching, Signal::SIGTRAP)), &seen);
    let offset = (DEBUG_REGISTERS + 48) as ptrace::AddressType;
    found.same("which", &Ok(1), &ptrace::read_user(watching, offset).map(|status| status & 0xf));
    found.works("go on", ptrace::cont(watching, None));
    ends(&mut found, watching, 8);
    found.outcome()
}
