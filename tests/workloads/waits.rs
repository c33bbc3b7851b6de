//! Threads in waits that end when they are told to, and for nothing else: no call may say `EINTR`, as no
//! handler runs.

use std::io;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::stage::{Findings, Outcome, Stage, check};

/// What the threads wait for.
#[derive(Default)]
struct Bell {
    word: AtomicU32,
    rung: AtomicBool,
    semaphores: i32,
    /// Readable when rung, for ever.
    event: i32,
    epoll: i32,
}

type Wait = fn(&Bell) -> i64;

static HOUR: libc::timespec = libc::timespec { tv_sec: 3600, tv_nsec: 0 };
const SIGNALS: usize = 8;

/// Each with the answer that it gives when the bell rings.
const WAITS: &[(&str, i64, Wait)] = &[
    ("epoll_wait", 1, |bell| {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: there is room for one event.
        i64::from(unsafe { libc::epoll_wait(bell.epoll, &raw mut event, 1, -1) })
    }),
    ("epoll_pwait", 1, |bell| {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        let mask = mask(libc::SIGUSR1);
        // SAFETY: there is room for one event, and the mask is one.
        i64::from(unsafe { libc::epoll_pwait(bell.epoll, &raw mut event, 1, -1, &raw const mask) })
    }),
    ("epoll_pwait2", 1, |bell| {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        let (event, none) = (&raw mut event, ptr::null::<libc::c_void>());
        // SAFETY: there is room for one event; there is neither limit nor mask.
        unsafe { libc::syscall(libc::SYS_epoll_pwait2, bell.epoll, event, 1, none, none, SIGNALS) }
    }),
    ("sigwaitinfo", 45, |_| {
        let mask = mask(45);
        // SAFETY: the mask is one.
        i64::from(unsafe { libc::sigwaitinfo(&raw const mask, ptr::null_mut()) })
    }),
    ("semop", 0, |bell| {
        let mut take = libc::sembuf { sem_num: 0, sem_op: -1, sem_flg: 0 };
        // SAFETY: it is one operation.
        i64::from(unsafe { libc::semop(bell.semaphores, &raw mut take, 1) })
    }),
    ("semtimedop", 0, |bell| {
        let mut take = libc::sembuf { sem_num: 1, sem_op: -1, sem_flg: 0 };
        let (call, take, none) =
            (libc::SYS_semtimedop, &raw mut take, ptr::null::<libc::timespec>());
        // SAFETY: it is one operation, without a limit.
        unsafe { libc::syscall(call, bell.semaphores, take, 1, none) }
    }),
    ("poll", 1, |bell| {
        let mut poll = readable(bell.event);
        // SAFETY: it is one descriptor.
        i64::from(unsafe { libc::poll(&raw mut poll, 1, 3_600_000) })
    }),
    ("ppoll", 1, |bell| {
        let mut poll = readable(bell.event);
        // SAFETY: it is one descriptor; there is no mask.
        i64::from(unsafe { libc::ppoll(&raw mut poll, 1, &raw const HOUR, ptr::null()) })
    }),
    ("select", 1, |bell| {
        let mut hour = libc::timeval { tv_sec: 3600, tv_usec: 0 };
        // SAFETY: a zeroed set is empty, and the descriptor is below its size.
        unsafe {
            let mut set: libc::fd_set = std::mem::zeroed();
            libc::FD_SET(bell.event, &raw mut set);
            let none = ptr::null_mut();
            i64::from(libc::select(bell.event + 1, &raw mut set, none, none, &raw mut hour))
        }
    }),
    ("pselect", 1, |bell| {
        // SAFETY: a zeroed set is empty, the descriptor is below its size, and there is no mask.
        unsafe {
            let mut set: libc::fd_set = std::mem::zeroed();
            libc::FD_SET(bell.event, &raw mut set);
            let (none, mask) = (ptr::null_mut(), ptr::null());
            let hour = &raw const HOUR;
            i64::from(libc::pselect(bell.event + 1, &raw mut set, none, none, hour, mask))
        }
    }),
    ("futex with a limit", 0, |bell| futex(&bell.word, libc::FUTEX_WAIT, &raw const HOUR)),
    ("futex", 0, |bell| futex(&bell.word, libc::FUTEX_WAIT, ptr::null())),
    ("nanosleep", 0, |bell| {
        slept(bell, |time| {
            // SAFETY: the time is one; what is left of it is not asked for.
            unsafe { libc::syscall(libc::SYS_nanosleep, time, ptr::null::<libc::timespec>()) }
        })
    }),
    ("clock_nanosleep", 0, |bell| {
        slept(bell, |time| {
            let (call, clock) = (libc::SYS_clock_nanosleep, libc::CLOCK_MONOTONIC);
            let mut left = HOUR;
            // SAFETY: both times are.
            unsafe { libc::syscall(call, clock, 0, time, &raw mut left) }
        })
    }),
];

/// Sleeps again and again, until the bell has rung.
fn slept(bell: &Bell, sleep: impl Fn(*const libc::timespec) -> i64) -> i64 {
    let time = libc::timespec { tv_sec: 0, tv_nsec: 300_000_000 };
    while !bell.rung.load(Ordering::SeqCst) {
        let slept = sleep(&raw const time);
        if slept != 0 {
            return slept;
        }
    }
    0
}

fn futex(word: &AtomicU32, operation: i32, limit: *const libc::timespec) -> i64 {
    // SAFETY: the word outlives the call.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, 0, limit) }
}

fn readable(fd: i32) -> libc::pollfd {
    libc::pollfd { fd, events: libc::POLLIN, revents: 0 }
}

fn mask(signal: i32) -> libc::sigset_t {
    // SAFETY: sigemptyset initialises the set.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        set
    }
}

fn bell() -> io::Result<Bell> {
    // SAFETY: these calls take numbers, and an event that outlives its call.
    unsafe {
        let event = check(libc::eventfd(0, 0))?;
        let epoll = check(libc::epoll_create1(0))?;
        let mut readable = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
        check(libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, event, &raw mut readable))?;
        let semaphores = check(libc::semget(libc::IPC_PRIVATE, 2, 0o600))?;
        Ok(Bell { semaphores, event, epoll, ..Bell::default() })
    }
}

struct Waiter {
    name: &'static str,
    expected: i64,
    tid: i32,
    thread: JoinHandle<(i64, Option<io::Error>)>,
}

/// Starts a thread, which waits when this returns.
fn start(bell: &Arc<Bell>, &(name, expected, wait): &(&'static str, i64, Wait)) -> Waiter {
    let (bell, told) = (Arc::clone(bell), Arc::new(AtomicU32::new(0)));
    let tell = Arc::clone(&told);
    let thread = std::thread::spawn(move || {
        tell.store(nix::unistd::gettid().as_raw().cast_unsigned(), Ordering::SeqCst);
        let answer = wait(&bell);
        (answer, (answer < 0).then(io::Error::last_os_error))
    });
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let tid = told.load(Ordering::SeqCst).cast_signed();
        let stat = std::fs::read_to_string(format!("/proc/self/task/{tid}/stat"));
        if tid != 0
            && stat.is_ok_and(|stat| {
                stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" S"))
            })
        {
            return Waiter { name, expected, tid, thread };
        }
        assert!(Instant::now() < deadline, "{name} does not wait");
        std::thread::yield_now();
    }
}

fn ring(bell: &Bell, waiters: &[Waiter]) {
    bell.rung.store(true, Ordering::SeqCst);
    let mut add = [0, 1].map(|sem_num| libc::sembuf { sem_num, sem_op: 1, sem_flg: 0 });
    // SAFETY: the operations and the eight bytes outlive the calls.
    unsafe {
        let one = 1_u64;
        assert_eq!(libc::write(bell.event, (&raw const one).cast(), 8), 8);
        check(libc::semop(bell.semaphores, add.as_mut_ptr(), 2)).expect("semop");
    }
    for waiter in waiters.iter().filter(|waiter| waiter.name == "sigwaitinfo") {
        // SAFETY: the signal is blocked in all threads.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), waiter.tid, 45) };
    }
    bell.word.store(1, Ordering::SeqCst);
    // SAFETY: the word outlives the call.
    unsafe { libc::syscall(libc::SYS_futex, bell.word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let blocked = mask(45);
    // SAFETY: the mask is one.
    check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const blocked, ptr::null_mut()) })
        .expect("sigprocmask");
    let bell = Arc::new(bell().expect("make what is waited for"));
    let waiters: Vec<Waiter> = WAITS.iter().map(|wait| start(&bell, wait)).collect();

    stage.ready_then_wait();

    let mut found = Findings::default();
    for waiter in &waiters {
        let ended = waiter.thread.is_finished();
        found.must(&format!("{} still waits", waiter.name), !ended);
    }
    ring(&bell, &waiters);
    for waiter in waiters {
        let (answer, error) = waiter.thread.join().expect("a thread that waited");
        found.same(&format!("{} ({error:?})", waiter.name), &waiter.expected, &answer);
    }
    // SAFETY: it takes numbers.
    let removed = check(unsafe { libc::semctl(bell.semaphores, 0, libc::IPC_RMID) });
    found.works("remove the semaphores", removed);
    found.outcome()
}
