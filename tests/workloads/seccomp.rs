//! System calls that are filtered: by filters that all threads share, by one more of a single thread, and
//! in a child by strict mode. What a checkpoint by injected code would call is forbidden, and ends who calls it.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;

use crate::stage::{Findings, Outcome, Stage, check, checksum, pattern};

const NO_SUCH: i32 = 99;
const OTHER: i32 = 77;

/// A filter that gives each of the calls its answer, and lets all others be made.
fn filter(answers: &[(libc::c_long, u32)]) -> Vec<libc::sock_filter> {
    let instruction =
        |code: u32, jump: u8, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: jump, k };
    let mut program = vec![instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0)];
    for (call, answer) in answers {
        program.push(instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, *call as u32));
        program.push(instruction(libc::BPF_RET | libc::BPF_K, 0, *answer));
    }
    program.push(instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW));
    program
}

/// A filter that lets these calls be made, and has its end in all others.
fn only(calls: &[libc::c_long]) -> Vec<libc::sock_filter> {
    let mut program =
        filter(&calls.iter().map(|call| (*call, libc::SECCOMP_RET_ALLOW)).collect::<Vec<_>>());
    if let Some(last) = program.last_mut() {
        last.k = libc::SECCOMP_RET_KILL_PROCESS;
    }
    program
}

fn install(flags: libc::c_ulong, mut program: Vec<libc::sock_filter>) -> i32 {
    let length = program.len() as u16;
    let program = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    let (mode, at) = (libc::SECCOMP_SET_MODE_FILTER, &raw const program);
    // SAFETY: the kernel reads the program, of as many instructions as it says.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, at) };
    check(done as i32).expect("install a filter")
}

const fn fails(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno as u32
}

/// What two calls say that hardly anything makes, and what the kernel shows of the thread.
fn answers() -> (i32, i32, Vec<String>) {
    // SAFETY: both take integers only.
    let (first, second) = unsafe {
        let errno = |answer: libc::c_long| match answer {
            -1 => std::io::Error::last_os_error().raw_os_error().unwrap_or(0),
            _ => 0,
        };
        (
            errno(libc::syscall(libc::SYS_sched_get_priority_max, 0)),
            errno(libc::syscall(libc::SYS_sched_get_priority_min, 0)),
        )
    };
    let status = fs::read_to_string("/proc/thread-self/status").expect("status");
    let of_seccomp = status.lines().filter(|line| line.starts_with("Seccomp"));
    (first, second, of_seccomp.map(str::to_owned).collect())
}

/// A child in strict mode, which echoes a byte until there is none.
fn strict_child() -> (i32, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    // SAFETY: the child makes only system calls, on a buffer of its own.
    let pid = check(unsafe { libc::fork() }).expect("fork");
    if pid == 0 {
        drop(ours);
        let socket = theirs.as_raw_fd();
        // SAFETY: one byte is read into and written from a place of that size; exit is the raw call, which
        // strict mode lets through, as it does not exit_group.
        unsafe {
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT);
            let mut byte = 0_u8;
            while libc::read(socket, (&raw mut byte).cast(), 1) == 1 {
                libc::write(socket, (&raw const byte).cast(), 1);
            }
            libc::syscall(libc::SYS_exit, 42);
            libc::_exit(1);
        }
    }
    (pid, ours)
}

fn echoes(child: &mut UnixStream, byte: u8) -> bool {
    let mut back = [0];
    child.write_all(&[byte]).and_then(|()| child.read_exact(&mut back)).is_ok() && back == [byte]
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let (pid, mut child) = strict_child();
    assert!(echoes(&mut child, 1));
    // SAFETY: takes integers only.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }).expect("no new rights");
    let (ask, asked) = mpsc::channel::<()>();
    let (say, said) = mpsc::channel();
    let (begin, begun) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        begun.recv().expect("the filters are there");
        install(0, filter(&[(libc::SYS_sched_get_priority_min, fails(OTHER))]));
        while asked.recv().is_ok() {
            say.send(answers()).expect("somebody asked");
        }
    });
    let fatal = libc::SECCOMP_RET_KILL_PROCESS;
    let deadly = [libc::SYS_ptrace, libc::SYS_userfaultfd, libc::SYS_getitimer, libc::SYS_prctl];
    install(0, filter(&deadly.map(|call| (call, fatal))));
    let shared = filter(&[(libc::SYS_sched_get_priority_max, fails(NO_SUCH))]);
    install(libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_LOG, shared);
    begin.send(()).expect("the thread is there");
    let look = || {
        ask.send(()).expect("the thread is there");
        (answers(), said.recv().expect("the thread answers"))
    };
    let before = look();
    assert_eq!((before.0.0, before.0.1, before.1.0, before.1.1), (NO_SUCH, 0, NO_SUCH, OTHER));

    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("answers and filters", &before, &look());
    found.must("the strict child answers", echoes(&mut child, 2));
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    found.must("the child is in strict mode", status.contains("\nSeccomp:\t1\n"));
    drop(child);
    let mut ended = 0;
    // SAFETY: the kernel writes one int.
    unsafe { libc::waitpid(pid, &raw mut ended, 0) };
    found.same("how the child ended", &(42 << 8), &ended);
    found.outcome()
}

/// Threads that share their filters: one more is given to all of them at once, which the kernel does only if
/// each has those that the first has.
pub(crate) fn together(stage: &Stage) -> Outcome {
    // SAFETY: takes integers only.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }).expect("no new rights");
    install(0, filter(&[(libc::SYS_sched_get_priority_max, fails(NO_SUCH))]));
    let (ask, asked) = mpsc::channel::<()>();
    let (say, said) = mpsc::channel();
    std::thread::spawn(move || {
        while asked.recv().is_ok() {
            say.send(answers()).expect("somebody asked");
        }
    });
    stage.ready_then_wait();
    let mut found = Findings::default();
    let more = filter(&[(libc::SYS_sched_get_priority_min, fails(OTHER))]);
    found.same("threads without the filters", &0, &install(libc::SECCOMP_FILTER_FLAG_TSYNC, more));
    ask.send(()).expect("the thread is there");
    let other = said.recv().expect("the thread answers");
    found.same("what the other thread meets", &(NO_SUCH, OTHER), &(other.0, other.1));
    found.outcome()
}

/// A filter that hands a call to a supervisor, who is here and has closed its descriptor.
pub(crate) fn supervised(stage: &Stage) -> Outcome {
    // SAFETY: takes integers only.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }).expect("no new rights");
    let program = filter(&[(libc::SYS_sched_get_priority_max, libc::SECCOMP_RET_USER_NOTIF)]);
    let listener = install(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER, program);
    // SAFETY: the descriptor was just made, and nobody else has it.
    check(unsafe { libc::close(listener) }).expect("close");
    stage.ready_then_wait();
    Ok(())
}

/// What a checkpoint calls in a process that has timers.
const ASKING: [libc::c_long; 16] = [
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigaction,
    libc::SYS_getitimer,
    libc::SYS_sigaltstack,
    libc::SYS_brk,
    libc::SYS_prctl,
    libc::SYS_arch_prctl,
    libc::SYS_membarrier,
    libc::SYS_pkey_mprotect,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_timer_gettime,
    libc::SYS_timer_getoverrun,
];

/// What the program itself calls.
const OWN: [libc::c_long; 18] = [
    libc::SYS_clock_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_rename,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_seccomp,
    libc::SYS_timer_create,
    libc::SYS_timer_settime,
    libc::SYS_timer_delete,
    libc::SYS_setitimer,
    libc::SYS_exit_group,
];

/// Timers, and no huge pages, under filters that let pass what asking for them takes and what the program calls
/// itself: any other call is its end.
pub(crate) fn timers(stage: &Stage) -> Outcome {
    restrained();
    install(0, only(&[&ASKING[..], &OWN].concat()));
    crate::timers::run(stage)?;
    let mut found = Findings::default();
    // SAFETY: takes integers only.
    let no_huge_pages = unsafe { libc::prctl(libc::PR_GET_THP_DISABLE, 0, 0, 0, 0) };
    found.same("whether huge pages are restricted", &1, &no_huge_pages);
    found.outcome()
}

/// The same, but one of the calls is its end.
pub(crate) fn timers_denied(stage: &Stage) -> Outcome {
    restrained();
    install(0, filter(&[(libc::SYS_timer_getoverrun, libc::SECCOMP_RET_KILL_PROCESS)]));
    crate::timers::run(stage)
}

fn restrained() {
    // SAFETY: both take integers only.
    unsafe {
        check(libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0)).expect("no huge pages");
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)).expect("no new rights");
    }
}

/// Memory that is worth to be copied ahead, under a filter as those of container engines: a userfaultfd cannot be made.
pub(crate) fn memory(stage: &Stage) -> Outcome {
    filled(stage, 0, fails(libc::EPERM))
}

/// The same, where whoever tries has his end.
pub(crate) fn memory_deadly(stage: &Stage) -> Outcome {
    filled(stage, 0, libc::SECCOMP_RET_KILL_PROCESS)
}

/// The same with threads, which look whether there is a userfaultfd that their filters did not let them make, and are born and end.
pub(crate) fn memory_threads(stage: &Stage) -> Outcome {
    let (seen, looks, over) = (AtomicBool::new(false), AtomicU64::new(0), AtomicBool::new(false));
    let look = || {
        while !over.load(Ordering::Relaxed) {
            let open = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
            let mut links = open.filter_map(|entry| fs::read_link(entry.path()).ok());
            if links.any(|link| link.to_string_lossy().contains("userfaultfd")) {
                seen.store(true, Ordering::Relaxed);
            }
            looks.fetch_add(1, Ordering::Relaxed);
        }
    };
    let born = || {
        while !over.load(Ordering::Relaxed) {
            std::thread::spawn(|| {}).join().expect("a thread");
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(look);
        scope.spawn(born);
        let outcome = filled(stage, libc::SECCOMP_FILTER_FLAG_TSYNC, fails(libc::EPERM));
        over.store(true, Ordering::Relaxed);
        outcome
    })?;
    let mut found = Findings::default();
    found.same("whether a userfaultfd was seen", &false, &seen.into_inner());
    found.must("it was looked for", looks.into_inner() > 0);
    found.outcome()
}

fn filled(stage: &Stage, flags: libc::c_ulong, answer: u32) -> Outcome {
    const BYTES: usize = 24 << 20;
    let mut bytes = pattern(5, BYTES);
    let before = checksum(&bytes);
    // SAFETY: takes integers only.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }).expect("no new rights");
    install(flags, filter(&[(libc::SYS_userfaultfd, answer)]));
    let mut at = 0;
    // What it writes meanwhile changes nothing in the end.
    stage.ready_then_wait_and(|| {
        at = (at + 4096 * 7) % BYTES;
        let byte = std::hint::black_box(&mut bytes)[at];
        std::hint::black_box(&mut bytes)[at] = byte;
    });
    let mut found = Findings::default();
    found.same("the memory", &before, &checksum(&bytes));
    if answer != libc::SECCOMP_RET_KILL_PROCESS {
        // SAFETY: takes an integer only.
        let made = unsafe { libc::syscall(libc::SYS_userfaultfd, 1) };
        found.same("what a userfaultfd meets", &-1, &made);
    }
    found.outcome()
}
