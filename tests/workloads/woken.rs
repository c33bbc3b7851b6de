//! Processes that wait in calls, are stopped there by job control, and have a signal with a handler
//! waiting: it wakes them when they are continued, and the call ends as the kernel has it.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use crate::stage::{Findings, Outcome, Stage, check};

/// The end of a pipe that the handler writes to.
static PIPE: AtomicI32 = AtomicI32::new(-1);
static HANDLED: AtomicI32 = AtomicI32::new(0);

extern "C" fn on_signal(_: i32) {
    HANDLED.fetch_add(1, Ordering::SeqCst);
    // SAFETY: it writes one byte of a constant; an error shows in the read.
    unsafe { libc::write(PIPE.load(Ordering::SeqCst), c"x".as_ptr().cast(), 1) };
}

/// A call, its number, whether the signal restarts calls and is blocked outside of the call, and what the call
/// answers: an error number, or 0 for success.
struct Case {
    name: &'static str,
    number: i64,
    restarts: bool,
    blocked: bool,
    error: i32,
    call: fn(read: i32) -> i64,
}

static HOUR: libc::timespec = libc::timespec { tv_sec: 3600, tv_nsec: 0 };

const PLAIN: Case = Case {
    name: "pause",
    number: libc::SYS_pause,
    restarts: false,
    blocked: false,
    error: libc::EINTR,
    // SAFETY: it takes nothing.
    call: |_| i64::from(unsafe { libc::pause() }),
};

fn cases() -> Vec<Case> {
    let suspend = |_| {
        let none = no_signals();
        // SAFETY: the mask is one.
        i64::from(unsafe { libc::sigsuspend(&raw const none) })
    };
    let read = |fd| {
        let mut byte = 0_u8;
        // SAFETY: there is room for one byte.
        unsafe { libc::read(fd, (&raw mut byte).cast(), 1) as i64 }
    };
    let ppoll = |_| {
        // SAFETY: there are no descriptors, limit or mask.
        i64::from(unsafe { libc::ppoll(ptr::null_mut(), 0, ptr::null(), ptr::null()) })
    };
    let (number, suspending) = (libc::SYS_read, libc::SYS_rt_sigsuspend);
    vec![
        PLAIN,
        Case { name: "pause, restarting", restarts: true, ..PLAIN },
        Case { name: "sigsuspend", number: suspending, call: suspend, ..PLAIN },
        Case {
            name: "sigsuspend, blocked",
            number: suspending,
            call: suspend,
            blocked: true,
            ..PLAIN
        },
        Case { name: "ppoll", number: libc::SYS_ppoll, call: ppoll, ..PLAIN },
        Case {
            name: "poll",
            number: libc::SYS_poll,
            // SAFETY: there are no descriptors.
            call: |_| i64::from(unsafe { libc::poll(ptr::null_mut(), 0, 3_600_000) }),
            ..PLAIN
        },
        Case {
            name: "sleep",
            number: libc::SYS_nanosleep,
            call: |_| {
                let (call, time) = (libc::SYS_nanosleep, &raw const HOUR);
                // SAFETY: the time is one; what is left of it is not asked for.
                unsafe { libc::syscall(call, time, ptr::null::<libc::timespec>()) }
            },
            ..PLAIN
        },
        Case { name: "read", number, call: read, ..PLAIN },
        // The handler has written what is read then.
        Case { name: "read, restarting", number, call: read, restarts: true, error: 0, ..PLAIN },
        Case {
            name: "epoll_wait",
            number: libc::SYS_epoll_wait,
            call: |_| {
                let mut event = libc::epoll_event { events: 0, u64: 0 };
                // SAFETY: there is room for one event.
                unsafe {
                    let epoll = libc::epoll_create1(0);
                    i64::from(libc::epoll_wait(epoll, &raw mut event, 1, -1))
                }
            },
            ..PLAIN
        },
    ]
}

fn no_signals() -> libc::sigset_t {
    // SAFETY: sigemptyset initialises the set.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        set
    }
}

/// In the child: makes the call, and ends with 0 if it ended as it should.
fn wait(case: &Case) -> i32 {
    let mut pipe = [0; 2];
    // SAFETY: the arrays and structures are valid and outlive the calls.
    unsafe {
        if libc::pipe(pipe.as_mut_ptr()) != 0 {
            return 2;
        }
        PIPE.store(pipe[1], Ordering::SeqCst);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = if case.restarts { libc::SA_RESTART } else { 0 };
        libc::sigaction(libc::SIGUSR1, &raw const action, ptr::null_mut());
        if case.blocked {
            let mut set = no_signals();
            libc::sigaddset(&raw mut set, libc::SIGUSR1);
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut());
        }
    }
    let answer = (case.call)(pipe[0]);
    let error = if answer < 0 { io::Error::last_os_error().raw_os_error() } else { Some(0) };
    match (error == Some(case.error), HANDLED.load(Ordering::SeqCst)) {
        (true, 1) => 0,
        (true, _) => 3,
        (false, _) => 4,
    }
}

/// Waits until a process is in its call.
fn is_in_call(pid: i32, number: i64) -> bool {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
        if call.split(' ').next().and_then(|word| word.parse().ok()) == Some(number) {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

/// Starts a child, stops it in its call, and has a signal wait for it.
fn begin(case: &Case) -> io::Result<i32> {
    // SAFETY: this process has one thread; the child ends in here.
    let pid = check(unsafe { libc::fork() })?;
    if pid == 0 {
        std::process::exit(wait(case));
    }
    assert!(is_in_call(pid, case.number), "{} does not wait", case.name);
    // SAFETY: the child is ours, and not waited for yet.
    unsafe {
        check(libc::kill(pid, libc::SIGSTOP))?;
        check(libc::waitpid(pid, ptr::null_mut(), libc::WUNTRACED))?;
        check(libc::kill(pid, libc::SIGUSR1))?;
    }
    Ok(pid)
}

/// The status of a child that ends within some seconds.
fn ended(pid: i32) -> Option<i32> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        let mut status = 0;
        // SAFETY: the status outlives the call.
        if unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) } == pid {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    None
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let cases = cases();
    let children: Vec<i32> = cases.iter().map(|case| begin(case).expect("a child")).collect();

    stage.ready_then_wait();

    let mut found = Findings::default();
    for (case, &pid) in cases.iter().zip(&children) {
        // SAFETY: the child is not waited for yet.
        found.works(case.name, check(unsafe { libc::kill(pid, libc::SIGCONT) }));
    }
    for (case, &pid) in cases.iter().zip(&children) {
        found.same(case.name, &Some(0), &ended(pid));
        // SAFETY: as above, or it is gone.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    found.outcome()
}
