//! Memory that processes have together (`CLONE_VM`), with and without signal handlers, descriptors and directories. Those who share do what they are
//! told in it, one thing after the other, and nothing by the C library but calls: they have its one memory for threads as well.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::memory::Region;
use crate::stage::{Findings, Outcome, Stage, check, checksum, eventually, pattern};

const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
const STACK: usize = 64 << 10;

/// How one of them is told what to do, and what it answers.
#[repr(C)]
struct Post {
    told: AtomicU32,
    what: AtomicU32,
    with: AtomicU32,
    done: AtomicU32,
    answer: AtomicU32,
    pid: AtomicU32,
}

impl Post {
    const fn new() -> Self {
        Self {
            told: AtomicU32::new(0),
            what: AtomicU32::new(0),
            with: AtomicU32::new(0),
            done: AtomicU32::new(0),
            answer: AtomicU32::new(0),
            pid: AtomicU32::new(0),
        }
    }
}

/// What they can be told.
#[derive(Clone, Copy)]
#[repr(u32)]
enum What {
    /// The value of [`MARK`] in its memory.
    Read,
    /// Sets that.
    Write,
    /// Ignores a signal.
    Ignore,
    /// Opens a descriptor.
    Open,
    /// Goes to the root directory.
    Leave,
    /// Whether its interval timer runs.
    Timer,
    /// Who it is.
    Users,
    /// Its session.
    Session,
    /// Whether it may be dumped.
    Dumpable,
}

const POSTS: usize = 8;
static OWN: [Post; POSTS] = [const { Post::new() }; POSTS];
/// Where the posts are of who has other memory.
static ELSEWHERE: AtomicUsize = AtomicUsize::new(0);
/// From which one on.
static FIRST_ELSEWHERE: AtomicUsize = AtomicUsize::new(POSTS);
static MARK: AtomicU32 = AtomicU32::new(0);
/// A stack for each.
static STACKS: [AtomicUsize; POSTS] = [const { AtomicUsize::new(0) }; POSTS];

fn post(index: usize) -> &'static Post {
    if index < FIRST_ELSEWHERE.load(Ordering::SeqCst) {
        return &OWN[index];
    }
    let posts = ELSEWHERE.load(Ordering::SeqCst) as *const Post;
    // SAFETY: there is room for all of them in a region that stays, of zeros.
    unsafe { &*posts.add(index) }
}

fn call(number: libc::c_long, args: [usize; 4]) -> i64 {
    // SAFETY: the callers' arguments are numbers, or addresses of what lives as long as the call.
    unsafe { libc::syscall(number, args[0], args[1], args[2], args[3]) }
}

/// A timer that never rings, for which the task itself has to be asked what is left.
fn wind_up() {
    let long = libc::timeval { tv_sec: 100_000, tv_usec: 0 };
    let timer =
        libc::itimerval { it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 }, it_value: long };
    call(libc::SYS_setitimer, [libc::ITIMER_VIRTUAL as usize, &raw const timer as usize, 0, 0]);
}

fn work(what: u32, with: u32) -> u32 {
    let is = |wanted: What| what == wanted as u32;
    if is(What::Read) {
        MARK.load(Ordering::SeqCst)
    } else if is(What::Write) {
        MARK.store(with, Ordering::SeqCst);
        0
    } else if is(What::Ignore) {
        let ignore = [1_usize, 0, 0, 0];
        call(libc::SYS_rt_sigaction, [with as usize, ignore.as_ptr() as usize, 0, 8]) as u32
    } else if is(What::Open) {
        call(libc::SYS_dup2, [0, with as usize, 0, 0]) as u32
    } else if is(What::Leave) {
        call(libc::SYS_chdir, [c"/".as_ptr() as usize, 0, 0, 0]) as u32
    } else if is(What::Timer) {
        let mut left = [0_i64; 4];
        call(
            libc::SYS_getitimer,
            [libc::ITIMER_VIRTUAL as usize, left.as_mut_ptr() as usize, 0, 0],
        );
        left[2] as u32
    } else if is(What::Users) {
        call(libc::SYS_getuid, [0; 4]) as u32
    } else if is(What::Session) {
        call(libc::SYS_getsid, [0; 4]) as u32
    } else {
        call(libc::SYS_prctl, [libc::PR_GET_DUMPABLE as usize, 0, 0, 0]) as u32
    }
}

/// What one of them does.
fn serve(index: usize) -> ! {
    let own = post(index);
    own.pid.store(call(libc::SYS_gettid, [0; 4]) as u32, Ordering::SeqCst);
    loop {
        let done = own.done.load(Ordering::SeqCst);
        if own.told.load(Ordering::SeqCst) == done {
            let futex = [own.told.as_ptr() as usize, libc::FUTEX_WAIT as usize, done as usize, 0];
            call(libc::SYS_futex, futex);
            continue;
        }
        let answer = work(own.what.load(Ordering::SeqCst), own.with.load(Ordering::SeqCst));
        own.answer.store(answer, Ordering::SeqCst);
        own.done.store(done + 1, Ordering::SeqCst);
    }
}

/// Tells one what to do; its answer.
fn tell(index: usize, what: What, with: u32) -> u32 {
    let other = post(index);
    other.what.store(what as u32, Ordering::SeqCst);
    other.with.store(with, Ordering::SeqCst);
    let told = other.told.fetch_add(1, Ordering::SeqCst) + 1;
    call(libc::SYS_futex, [other.told.as_ptr() as usize, libc::FUTEX_WAKE as usize, 1, 0]);
    assert!(eventually(|| other.done.load(Ordering::SeqCst) == told), "{index} does nothing");
    other.answer.load(Ordering::SeqCst)
}

fn clone(index: usize, flags: i32, live: extern "C" fn(*mut c_void) -> i32) -> i32 {
    let top = STACKS[index].load(Ordering::SeqCst) as *mut c_void;
    // SAFETY: the stack is for this one alone, which does nothing but calls and what is atomic.
    unsafe { libc::clone(live, top, flags, ptr::without_provenance_mut(index)) }
}

fn pid(index: usize) -> Pid {
    let there = || post(index).pid.load(Ordering::SeqCst) != 0;
    assert!(eventually(there), "{index} is not there");
    Pid::from_raw(post(index).pid.load(Ordering::SeqCst) as i32)
}

const MEMORY: i32 = libc::CLONE_VM | libc::SIGCHLD;
const TABLES: i32 = libc::CLONE_FILES | libc::CLONE_FS;
const THREAD: i32 =
    libc::CLONE_VM | TABLES | libc::CLONE_SIGHAND | libc::CLONE_THREAD | libc::CLONE_SYSVSEM;

/// Has memory, leads a session, and has made one that has its handlers as well.
const PLAIN: usize = 0;
/// Has the handlers as well, and has forked one.
const HANDLERS: usize = 1;
/// Has descriptors and directories as well, and other rights.
const OTHER: usize = 2;
/// Has all of it, and a thread.
const ALL: usize = 3;
const OF_ALL: usize = 4;
const BELOW: usize = 5;
/// A thread of the first process.
const OF_FIRST: usize = 6;
/// Has memory of its own.
const FORKED: usize = 7;

extern "C" fn live(index: *mut c_void) -> i32 {
    let index = index.addr();
    if index == PLAIN {
        call(libc::SYS_setsid, [0; 4]);
        clone(BELOW, MEMORY | libc::CLONE_SIGHAND, live);
    } else if index == HANDLERS {
        if call(libc::SYS_clone, [libc::SIGCHLD as usize, 0, 0, 0]) == 0 {
            wind_up();
            serve(FORKED);
        }
    } else if index == OTHER {
        call(libc::SYS_setresuid, [7, 7, 7, 0]);
    } else if index == ALL {
        clone(OF_ALL, THREAD, live);
    }
    if index != OF_ALL {
        wind_up();
    }
    serve(index)
}

/// `KCMP_VM`, `KCMP_FILES`, `KCMP_FS` and `KCMP_SIGHAND`.
const RESOURCES: [i32; 4] = [1, 2, 3, 4];

/// Which of them two processes have together.
fn shared(one: Pid, other: Pid) -> [bool; 4] {
    RESOURCES.map(|resource| {
        let [one, other] = [one, other].map(|pid| pid.as_raw() as usize);
        call(libc::SYS_kcmp, [one, other, resource as usize, 0]) == 0
    })
}

fn prepare(first_elsewhere: usize) {
    for stack in &STACKS {
        let region = Region::map(STACK, RW, libc::MAP_PRIVATE, None);
        stack.store(region.addr() + STACK, Ordering::SeqCst);
    }
    let posts = Region::map(4096, RW, libc::MAP_SHARED, None);
    ELSEWHERE.store(posts.addr(), Ordering::SeqCst);
    FIRST_ELSEWHERE.store(first_elsewhere, Ordering::SeqCst);
}

fn is_ignored(signal: u32) -> bool {
    let mut action = [0_usize; 4];
    call(libc::SYS_rt_sigaction, [signal as usize, 0, action.as_mut_ptr() as usize, 8]);
    action[0] == 1
}

fn is_open(number: u32) -> bool {
    call(libc::SYS_fcntl, [number as usize, libc::F_GETFD as usize, 0, 0]) >= 0
}

/// Who shares what with the first process: memory, descriptors, directories, handlers.
const SHARES: [(usize, [bool; 4]); 6] = [
    (PLAIN, [true, false, false, false]),
    (HANDLERS, [true, false, false, true]),
    (OTHER, [true, true, true, false]),
    (ALL, [true, true, true, true]),
    (BELOW, [true, false, false, false]),
    (FORKED, [false; 4]),
];

/// A process, children that have its memory, and what those have made.
pub(crate) fn run(stage: &Stage) -> Outcome {
    prepare(FORKED);
    let content = pattern(77, 6 << 20);
    let sum = checksum(&content);
    MARK.store(1, Ordering::SeqCst);
    for (index, more) in [
        (PLAIN, 0),
        (HANDLERS, libc::CLONE_SIGHAND),
        (OTHER, TABLES),
        (ALL, libc::CLONE_SIGHAND | TABLES),
    ] {
        check(clone(index, MEMORY | more, live)).expect("clone");
    }
    wind_up();
    drop(std::thread::Builder::new().spawn(|| serve(OF_FIRST)).expect("a thread"));
    let all: Vec<Pid> = (0..POSTS).map(pid).collect();
    while tell(OTHER, What::Users, 0) != 7
        || tell(PLAIN, What::Session, 0) != all[PLAIN].as_raw() as u32
    {}
    MARK.store(2, Ordering::SeqCst);
    let dumpable = tell(BELOW, What::Dumpable, 0);
    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("memory", &sum, &checksum(&content));
    found.same("who may dump it", &dumpable, &tell(BELOW, What::Dumpable, 0));
    for (index, shares) in SHARES {
        found.same(&format!("what {index} shares"), &shares, &shared(Pid::this(), all[index]));
    }
    found.same(
        "handlers of one below",
        &[true, false, false, true],
        &shared(all[PLAIN], all[BELOW]),
    );
    for index in 0..POSTS {
        let mark = if index == FORKED { 1 } else { 2 };
        found.same(&format!("what {index} sees"), &mark, &tell(index, What::Read, 0));
    }
    for (nth, index) in [BELOW, OF_FIRST, PLAIN, OF_ALL, OTHER].into_iter().enumerate() {
        let mark = 10 + nth as u32;
        tell(index, What::Write, mark);
        found.same(&format!("what {index} wrote"), &mark, &MARK.load(Ordering::SeqCst));
        found.same("and what another sees", &mark, &tell(HANDLERS, What::Read, 0));
    }
    found.same("what is apart", &1, &tell(FORKED, What::Read, 0));
    for index in [PLAIN, HANDLERS, OTHER, ALL, BELOW, FORKED] {
        found.must(&format!("the timer of {index}"), tell(index, What::Timer, 0) > 10_000);
    }
    found.same("users", &[0, 7], &[PLAIN, OTHER].map(|index| tell(index, What::Users, 0)));
    found.same("session", &(all[PLAIN].as_raw() as u32), &tell(BELOW, What::Session, 0));
    for (index, [_, descriptors, _, handlers]) in SHARES {
        let (signal, number) = (40 + index as u32, 150 + index as u32);
        found.same("ignore", &0, &tell(index, What::Ignore, signal));
        found.same(&format!("the handler of {index}"), &handlers, &is_ignored(signal));
        found.same("open", &number, &tell(index, What::Open, number));
        found.same(&format!("the descriptor of {index}"), &descriptors, &is_open(number));
    }
    let here = std::env::current_dir().ok();
    tell(PLAIN, What::Leave, 0);
    found.same("directory", &here, &std::env::current_dir().ok());
    tell(ALL, What::Leave, 0);
    found.same("directory of both", &Some("/".into()), &std::env::current_dir().ok());
    for index in [BELOW, FORKED] {
        found.works("end", kill(all[index], Signal::SIGKILL));
    }
    for index in [PLAIN, HANDLERS, OTHER, ALL] {
        found.works("end", kill(all[index], Signal::SIGKILL));
        found.works("wait", waitpid(all[index], None));
    }
    found.outcome()
}

/// The same in namespaces of their own.
pub(crate) fn inside(stage: &Stage) -> Outcome {
    let own = libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWNET | libc::CLONE_NEWCGROUP;
    check(call(libc::SYS_unshare, [own as usize, 0, 0, 0]) as i32).expect("unshare");
    run(stage)
}

const FIRST: usize = 0;
const BESIDE: usize = 1;
/// Made by the second one.
const OF_BESIDE: usize = 2;

extern "C" fn live_beside(index: *mut c_void) -> i32 {
    match index.addr() {
        BESIDE => {
            call(libc::SYS_setsid, [0; 4]);
            clone(OF_BESIDE, MEMORY | libc::CLONE_SIGHAND, live_beside);
        }
        _ => wind_up(),
    }
    serve(index.addr())
}

/// Children of a process that have memory together which that has not.
pub(crate) fn beside(stage: &Stage) -> Outcome {
    prepare(0);
    MARK.store(1, Ordering::SeqCst);
    if call(libc::SYS_clone, [libc::SIGCHLD as usize, 0, 0, 0]) == 0 {
        clone(BESIDE, MEMORY | libc::CLONE_PARENT, live_beside);
        serve(FIRST);
    }
    let all = [FIRST, BESIDE, OF_BESIDE].map(pid);
    while tell(BESIDE, What::Session, 0) != all[BESIDE].as_raw() as u32 {}
    tell(OF_BESIDE, What::Write, 5);
    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("siblings", &[true, false, false, false], &shared(all[FIRST], all[BESIDE]));
    found.same("one below", &[true, false, false, true], &shared(all[BESIDE], all[OF_BESIDE]));
    found.same("their parent", &[false; 4], &shared(Pid::this(), all[FIRST]));
    for index in [FIRST, BESIDE, OF_BESIDE] {
        found.same("what is there", &5, &tell(index, What::Read, 0));
    }
    tell(BESIDE, What::Write, 6);
    found.same("what a sibling wrote", &6, &tell(FIRST, What::Read, 0));
    tell(FIRST, What::Write, 7);
    found.same("what the first wrote", &7, &tell(OF_BESIDE, What::Read, 0));
    found.same("what is the parent's", &1, &MARK.load(Ordering::SeqCst));
    found.must("a timer", tell(OF_BESIDE, What::Timer, 0) > 10_000);
    found.works("end", kill(all[OF_BESIDE], Signal::SIGKILL));
    for index in [FIRST, BESIDE] {
        found.works("end", kill(all[index], Signal::SIGKILL));
        found.works("wait for a child", waitpid(all[index], None));
    }
    found.outcome()
}

extern "C" fn live_for_a_moment(index: *mut c_void) -> i32 {
    match index.addr() {
        FIRST => {
            clone(BESIDE, MEMORY, live_for_a_moment);
            // The other one falls to who adopts orphans.
            call(libc::SYS_exit, [0; 4]);
        }
        _ => serve(index.addr()),
    }
    0
}

/// One who has memory together with another's child, and is the child of neither's parent.
pub(crate) fn apart(stage: &Stage) -> Outcome {
    prepare(0);
    nix::sys::prctl::set_child_subreaper(true).expect("adopt orphans");
    if call(libc::SYS_clone, [libc::SIGCHLD as usize, 0, 0, 0]) == 0 {
        // A process between, of which the one with memory is a child.
        if call(libc::SYS_clone, [libc::SIGCHLD as usize, 0, 0, 0]) == 0 {
            clone(FIRST, MEMORY, live_for_a_moment);
            serve(OF_BESIDE);
        }
        serve(3);
    }
    let all = [BESIDE, OF_BESIDE, 3].map(pid);
    let is_adopted = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", all[0])).unwrap_or_default();
        let parent =
            stat.rsplit(')').next().and_then(|rest| rest.split(' ').nth(2)).map(str::to_owned);
        parent == Some(Pid::this().to_string())
    };
    assert!(eventually(is_adopted), "it has another parent");
    stage.ready_then_wait();
    let mut found = Findings::default();
    tell(BESIDE, What::Write, 9);
    found.same("what another one sees", &9, &tell(OF_BESIDE, What::Read, 0));
    for pid in all {
        found.works("end", kill(pid, Signal::SIGKILL));
    }
    found.outcome()
}

extern "C" fn live_elsewhere(index: *mut c_void) -> i32 {
    call(libc::SYS_unshare, [libc::CLONE_NEWUTS as usize, 0, 0, 0]);
    serve(index.addr())
}

/// One who has its parent's memory, in another namespace.
pub(crate) fn elsewhere(stage: &Stage) -> Outcome {
    prepare(0);
    check(clone(FIRST, MEMORY, live_elsewhere)).expect("clone");
    let child = pid(FIRST);
    stage.ready_then_wait();
    let mut found = Findings::default();
    tell(FIRST, What::Write, 9);
    found.same("what the parent sees", &9, &MARK.load(Ordering::SeqCst));
    found.works("end", kill(child, Signal::SIGKILL));
    found.works("wait for it", waitpid(child, None));
    found.outcome()
}
