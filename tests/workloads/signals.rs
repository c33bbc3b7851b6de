//! Handlers, masks, alternate stacks and pending signals with all they carry.

use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use crate::stage::{Findings, Outcome, Stage, check};

static HANDLED: AtomicI32 = AtomicI32::new(0);
static HANDLED_VALUE: AtomicI32 = AtomicI32::new(0);
static STACK_POINTER: AtomicUsize = AtomicUsize::new(0);

extern "C" fn on_signal(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let here = 0_u8;
    STACK_POINTER.store(&raw const here as usize, Ordering::SeqCst);
    HANDLED.store(signal, Ordering::SeqCst);
    // SAFETY: the kernel hands a valid siginfo to an SA_SIGINFO handler.
    HANDLED_VALUE.store(unsafe { (*info).si_value().sival_ptr as i32 }, Ordering::SeqCst);
}

/// A signal's action as the kernel has it (not as the C library shows it).
#[derive(Debug, PartialEq, Eq, Default, Clone, Copy)]
#[repr(C)]
struct Action {
    handler: usize,
    flags: u64,
    trampoline: usize,
    mask: u64,
}

fn action(signal: i32) -> Action {
    let mut action = Action::default();
    // SAFETY: the kernel writes one struct kernel_sigaction, of this layout on x86_64.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, 0, &raw mut action, 8) };
    action
}

fn set_action(signal: i32, handler: usize, flags: i32, masked: &[i32]) {
    // SAFETY: the structure is filled in before it is used, and the handler has the signature that
    // SA_SIGINFO wants.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        for signal in masked {
            libc::sigaddset(&raw mut action.sa_mask, *signal);
        }
        check(libc::sigaction(signal, &raw const action, ptr::null_mut())).expect("sigaction");
    }
}

/// What a queued signal carries.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
struct Queued {
    signal: i32,
    code: i32,
    pid: i32,
    value: usize,
}

fn send(signal: i32, value: usize) {
    let value = libc::sigval { sival_ptr: value as *mut libc::c_void };
    // SAFETY: sends a signal to this process; all that are sent are blocked or handled.
    check(unsafe { libc::sigqueue(libc::getpid(), signal, value) }).expect("sigqueue");
}

/// To this thread alone, with a siginfo made by hand.
fn send_to_thread(signal: i32, value: usize) {
    // SAFETY: a zeroed siginfo is valid; the fields are those of SI_QUEUE on x86_64 (pid at byte
    // 16, value at 24).
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        info.si_signo = signal;
        info.si_code = libc::SI_QUEUE;
        let base = (&raw mut info).cast::<u8>();
        base.add(16).cast::<i32>().write(4242);
        base.add(24).cast::<usize>().write(value);
        let tid = nix::unistd::gettid().as_raw();
        let sent =
            libc::syscall(libc::SYS_rt_tgsigqueueinfo, libc::getpid(), tid, signal, &raw mut info);
        assert_eq!(sent, 0);
    }
}

/// Takes one pending signal of the set, if there is any.
fn take(set: &libc::sigset_t) -> Option<Queued> {
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a zeroed siginfo is valid and the kernel fills it in.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let signal = libc::sigtimedwait(set, &raw mut info, &raw const now);
        (signal > 0).then(|| Queued {
            signal,
            code: info.si_code,
            pid: info.si_pid(),
            value: info.si_value().sival_ptr as usize,
        })
    }
}

fn signal_set(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: sigemptyset initialises the set.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        set
    }
}

fn block(set: &libc::sigset_t) {
    // SAFETY: the set is initialised.
    check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, set, ptr::null_mut()) }).expect("block");
}

fn use_alternate_stack() -> (usize, usize) {
    let size = 64 << 10;
    let stack = Box::leak(vec![0_u8; size].into_boxed_slice());
    let start = stack.as_mut_ptr() as usize;
    let stack = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: size };
    // SAFETY: the stack is leaked, so it stays.
    check(unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) }).expect("sigaltstack");
    (start, start + size)
}

fn alternate_stack() -> (usize, usize) {
    // SAFETY: a zeroed stack_t is valid and the kernel fills it in.
    unsafe {
        let mut stack: libc::stack_t = std::mem::zeroed();
        check(libc::sigaltstack(ptr::null(), &raw mut stack)).expect("sigaltstack");
        (stack.ss_sp as usize, stack.ss_sp as usize + stack.ss_size)
    }
}

/// Leaves signals of every sort pending, and says what must be taken later, in order.
fn leave_pending() -> Vec<Queued> {
    let rt = libc::SIGRTMIN();
    let pid = nix::unistd::getpid().as_raw();
    let queued = |signal, pid, value| Queued { signal, code: libc::SI_QUEUE, pid, value };
    for value in [101, 102, 103] {
        send(rt + 3, value);
    }
    send(rt + 5, 7);
    send_to_thread(rt + 4, 0xdead_beef_0000_0001);
    send_to_thread(rt + 4, 2);
    send_to_thread(libc::SIGUSR2, 5);
    // SAFETY: the signal is blocked.
    check(unsafe { libc::kill(pid, libc::SIGTERM) }).expect("kill");
    // Within one signal number the order is that of sending; the lowest number comes first, and
    // the thread's own queue before the process's.
    vec![
        queued(libc::SIGUSR2, 4242, 5),
        queued(rt + 4, 4242, 0xdead_beef_0000_0001),
        queued(rt + 4, 4242, 2),
        Queued { signal: libc::SIGTERM, code: libc::SI_USER, pid, value: 0 },
        queued(rt + 3, pid, 101),
        queued(rt + 3, pid, 102),
        queued(rt + 3, pid, 103),
        queued(rt + 5, pid, 7),
    ]
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let rt = libc::SIGRTMIN();
    let handler = on_signal as *const () as usize;
    let siginfo = libc::SA_SIGINFO;
    set_action(libc::SIGUSR1, handler, siginfo | libc::SA_ONSTACK, &[libc::SIGHUP, rt + 9]);
    set_action(libc::SIGALRM, handler, siginfo | libc::SA_RESTART | libc::SA_NODEFER, &[]);
    set_action(libc::SIGCHLD, libc::SIG_IGN, libc::SA_NOCLDWAIT, &[]);
    set_action(libc::SIGHUP, libc::SIG_IGN, 0, &[]);
    set_action(rt + 9, handler, siginfo | libc::SA_RESETHAND, &[libc::SIGUSR1]);
    let stack = use_alternate_stack();
    let set = signal_set(&[libc::SIGTERM, libc::SIGUSR2, rt + 3, rt + 4, rt + 5, rt + 20]);
    block(&set);
    let expected = leave_pending();
    let actions: Vec<Action> = (1..=64).map(action).collect();
    let mask = nix::sys::signal::SigSet::thread_get_mask().expect("mask");

    stage.ready_then_wait();

    let mut found = Findings::default();
    for (signal, before) in (1..=64).zip(&actions) {
        found.same(&format!("action of signal {signal}"), before, &action(signal));
    }
    let now = nix::sys::signal::SigSet::thread_get_mask().expect("mask");
    found.same("blocked signals", &mask, &now);
    found.same("alternate stack", &stack, &alternate_stack());
    let mut taken = Vec::new();
    while let Some(queued) = take(&set) {
        taken.push(queued);
    }
    taken.iter_mut().filter(|q| q.code == libc::SI_USER).for_each(|q| q.value = 0);
    found.same("pending signals", &expected, &taken);

    send(libc::SIGUSR1, 77);
    found.same("handler ran", &libc::SIGUSR1, &HANDLED.load(Ordering::SeqCst));
    found.same("handler's value", &77, &HANDLED_VALUE.load(Ordering::SeqCst));
    let sp = STACK_POINTER.load(Ordering::SeqCst);
    found.must("handler ran on the alternate stack", (stack.0..stack.1).contains(&sp));
    found.outcome()
}
