//! Many threads: ids, names, masks, alternate stacks, robust lists, restartable sequences, and
//! that each can still be woken, joined and mourned.

use std::ffi::{CStr, CString};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::time::Duration;

use crate::stage::{Findings, Outcome, Stage, check, pattern};

const THREADS: usize = 24;

/// What the kernel and the C library know of the calling thread.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    tid: i32,
    name: CString,
    blocked: Vec<i32>,
    alternate_stack: (usize, usize, i32),
    robust_list: (usize, usize),
    rseq_registered: bool,
}

impl Identity {
    pub(crate) fn of_this_thread() -> Self {
        Self {
            tid: nix::unistd::gettid().as_raw(),
            name: name(),
            blocked: blocked(),
            alternate_stack: alternate_stack(),
            robust_list: robust_list(),
            rseq_registered: rseq_cpu().is_some(),
        }
    }
}

fn name() -> CString {
    let mut name = [0_u8; 16];
    // SAFETY: the kernel writes at most 16 bytes, with a NUL at the end.
    check(unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) }).expect("get name");
    CStr::from_bytes_until_nul(&name).expect("NUL").to_owned()
}

fn blocked() -> Vec<i32> {
    let set = nix::sys::signal::SigSet::thread_get_mask().expect("get mask");
    set.iter().map(|signal| signal as i32).collect()
}

fn alternate_stack() -> (usize, usize, i32) {
    // SAFETY: an all-zero stack_t is a valid value, and the kernel fills it in.
    let stack = unsafe {
        let mut stack: libc::stack_t = std::mem::zeroed();
        check(libc::sigaltstack(std::ptr::null(), &raw mut stack)).expect("sigaltstack");
        stack
    };
    (stack.ss_sp as usize, stack.ss_size, stack.ss_flags)
}

fn robust_list() -> (usize, usize) {
    let (mut head, mut len) = (0_usize, 0_usize);
    // SAFETY: the kernel writes one word to each.
    unsafe { libc::syscall(libc::SYS_get_robust_list, 0, &raw mut head, &raw mut len) };
    (head, len)
}

/// The processor that the kernel keeps in the thread's restartable-sequence area, if it has one.
fn rseq_cpu() -> Option<u32> {
    // SAFETY: the name is a C string; a missing symbol is a null pointer.
    let offset = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr()) };
    if offset.is_null() {
        return None;
    }
    let base: usize;
    // SAFETY: the thread pointer is the first word of the thread's control block on x86_64.
    unsafe { std::arch::asm!("mov {}, fs:0", out(reg) base, options(nostack, readonly)) };
    // SAFETY: the C library says where the area is; the kernel keeps `cpu_id` at its offset 4.
    let cpu = unsafe {
        let area = base.wrapping_add_signed(*offset.cast::<isize>());
        std::ptr::read_volatile((area + 4) as *const u32)
    };
    (cpu < 0x8000_0000).then_some(cpu)
}

/// Whether the kernel keeps the area up to date: pinned to each processor in turn, the thread must
/// read that processor's number there.
fn rseq_follows() -> bool {
    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    let this = nix::unistd::Pid::from_raw(0);
    let all = sched_getaffinity(this).expect("affinity");
    let follows =
        (0..CpuSet::count()).filter(|cpu| all.is_set(*cpu) == Ok(true)).take(2).all(|cpu| {
            let mut one = CpuSet::new();
            one.set(cpu).expect("processor number");
            sched_setaffinity(this, &one).expect("pin");
            rseq_cpu() == u32::try_from(cpu).ok()
        });
    sched_setaffinity(this, &all).expect("unpin");
    follows
}

/// What all threads of the workload share.
struct Shared {
    standing: Barrier,
    go: Mutex<bool>,
    woken: Condvar,
    mutex: RobustMutex,
    locked: AtomicU32,
}

/// A process-shared robust mutex: whoever locks it after its holder died is told so.
struct RobustMutex(Box<std::cell::UnsafeCell<libc::pthread_mutex_t>>);

// SAFETY: a pthread mutex is made to be used from many threads.
unsafe impl Sync for RobustMutex {}
// SAFETY: it is boxed, so moving this value does not move the mutex.
unsafe impl Send for RobustMutex {}

impl RobustMutex {
    fn new() -> Self {
        // SAFETY: zeroed values of both types may be passed to their init functions.
        unsafe {
            let mut attributes: libc::pthread_mutexattr_t = std::mem::zeroed();
            libc::pthread_mutexattr_init(&raw mut attributes);
            libc::pthread_mutexattr_setrobust(&raw mut attributes, libc::PTHREAD_MUTEX_ROBUST);
            let mutex = Box::new(std::cell::UnsafeCell::new(std::mem::zeroed()));
            libc::pthread_mutex_init(mutex.get(), &raw const attributes);
            Self(mutex)
        }
    }

    fn lock(&self) -> i32 {
        // SAFETY: the mutex was initialised and lives as long as `self`.
        unsafe { libc::pthread_mutex_lock(self.0.get()) }
    }
}

fn prepare(index: usize) {
    let name = CString::new(format!("worker-{index}")).expect("name");
    // SAFETY: the name is a C string; the stack is leaked, so it outlives the thread.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, name.as_ptr());
        if index.is_multiple_of(2) {
            let size = 32 << 10;
            let stack = Box::leak(vec![0_u8; size].into_boxed_slice());
            let stack =
                libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: size };
            check(libc::sigaltstack(&raw const stack, std::ptr::null_mut())).expect("sigaltstack");
        }
    }
    let mut mask = nix::sys::signal::SigSet::empty();
    for bit in 0..8 {
        if index >> bit & 1 == 1 {
            let signal = nix::sys::signal::Signal::try_from(15 + bit).expect("signal");
            mask.add(signal);
        }
    }
    mask.thread_block().expect("block");
}

fn worker(index: usize, shared: &Shared) -> Outcome {
    prepare(index);
    let on_stack = pattern(index as u64, 4096);
    let before = Identity::of_this_thread();
    if index == 0 {
        assert_eq!(shared.mutex.lock(), 0);
        shared.locked.store(1, Ordering::Release);
    }
    shared.standing.wait();

    // Half of them wait in a futex, half sleep.
    if index.is_multiple_of(2) {
        let mut go = shared.go.lock().expect("lock");
        while !*go {
            go = shared.woken.wait(go).expect("wait");
        }
    } else {
        while !*shared.go.lock().expect("lock") {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    let mut found = Findings::default();
    found.same(&format!("thread {index}"), &before, &Identity::of_this_thread());
    found.must("memory of the thread", on_stack == pattern(index as u64, 4096));
    if before.rseq_registered {
        found.must("the restartable-sequence area follows the processor", rseq_follows());
    }
    found.outcome()
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let shared = Arc::new(Shared {
        standing: Barrier::new(THREADS + 1),
        go: Mutex::new(false),
        woken: Condvar::new(),
        mutex: RobustMutex::new(),
        locked: AtomicU32::new(0),
    });
    let threads: Vec<_> = (0..THREADS)
        .map(|index| {
            let shared = shared.clone();
            std::thread::spawn(move || worker(index, &shared))
        })
        .collect();
    shared.standing.wait();
    let before = Identity::of_this_thread();

    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("main thread", &before, &Identity::of_this_thread());
    *shared.go.lock().expect("lock") = true;
    shared.woken.notify_all();
    // Joining waits for the kernel to clear each thread's id (clear_child_tid).
    for thread in threads {
        found.works("a thread", thread.join().expect("a thread panicked"));
    }
    // Thread 0 died holding the robust mutex: the kernel walked its robust list.
    found.same("mutex was held", &1, &shared.locked.load(Ordering::Acquire));
    found.same("lock after the holder's death", &libc::EOWNERDEAD, &shared.mutex.lock());
    let late = std::thread::spawn(|| nix::unistd::gettid().as_raw());
    found.works("a new thread", late.join().map_err(|_| "panicked"));
    found.outcome()
}
