//! Threads with no room below their stack pointers: on alternate signal stacks of the smallest size,
//! on small stacks in the heap, beside a guard page, with a stack pointer that is no stack at all. What lies
//! around must stay as it is, and the registers too. A POSIX timer is set, so that the process has to be
//! asked.
//!
//! The main thread is in a different one of these places each time that it is looked at: the stage's
//! directory holds `place`, the number of the one wanted.

use std::arch::asm;
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::memory::Region;
use crate::stage::{Findings, Outcome, Stage, check, pattern};

const PAGE: usize = 4096;

/// What the assembly below is given.
#[repr(C)]
struct Visit {
    /// Where the stack pointer is to be.
    stack: u64,
    /// Set by others: leave.
    leave: AtomicU64,
    /// Counted up: there.
    turns: AtomicU64,
    /// The stack pointer when it was left.
    seen: u64,
    /// Words below it, written before and read after (the red zone).
    below: [u64; 2],
}

impl Visit {
    const fn at(stack: u64) -> Self {
        Self { stack, leave: AtomicU64::new(0), turns: AtomicU64::new(0), seen: 0, below: [0; 2] }
    }
}

/// Spins with the stack pointer at `visit.stack` until told to leave. With `red_zone` the words just
/// below it are in use.
fn spin(visit: *mut Visit, red_zone: bool) {
    // SAFETY: nothing is pushed while the stack pointer is away, no signal has a handler without an
    // alternate stack, and all that is written is declared.
    unsafe {
        asm!(
            "mov r8, rsp",
            "mov rsp, [{visit}]",
            "test {red_zone}, {red_zone}",
            "jz 31f",
            "mov r9, 0x1122334455667788",
            "mov [rsp - 8], r9",
            "mov [rsp - 120], r9",
            "31:",
            "inc qword ptr [{visit} + 16]",
            "pause",
            "cmp qword ptr [{visit} + 8], 0",
            "je 31b",
            "mov [{visit} + 24], rsp",
            "test {red_zone}, {red_zone}",
            "jz 32f",
            "mov r9, [rsp - 8]",
            "mov [{visit} + 32], r9",
            "mov r9, [rsp - 120]",
            "mov [{visit} + 40], r9",
            "32:",
            "mov rsp, r8",
            visit = in(reg) visit,
            red_zone = in(reg) u64::from(red_zone),
            out("r8") _, out("r9") _,
        );
    }
}

struct Shared(UnsafeCell<Visit>);

// SAFETY: the plain fields are touched by the visiting thread alone, once it has returned.
unsafe impl Sync for Shared {}

impl Shared {
    /// Says when the visitor is there, and sends it away when another place is wanted.
    fn watch(&self, stage: &Stage, number: usize) {
        // SAFETY: only the atomics are used here.
        let (turns, leave) = unsafe { (&(*self.0.get()).turns, &(*self.0.get()).leave) };
        while turns.load(Ordering::Relaxed) < 1000 {
            std::thread::yield_now();
        }
        stage.publish("standing", &number.to_string());
        wait_for_place(stage, number + 1);
        leave.store(1, Ordering::Relaxed);
    }
}

/// Visits a place; another thread says when it is there and when it is to leave.
fn visit(stage: &Stage, number: usize, stack: u64, red_zone: bool, found: &mut Findings) {
    let shared = Shared(UnsafeCell::new(Visit::at(stack)));
    let place = shared.0.get();
    std::thread::scope(|scope| {
        let stage = Stage::new(stage.dir());
        let shared = &shared;
        scope.spawn(move || shared.watch(&stage, number));
        spin(place, red_zone);
    });
    // SAFETY: the scope has ended.
    let visit = unsafe { &*place };
    found.same(&format!("stack pointer at place {number}"), &stack, &visit.seen);
    if red_zone {
        found.same(
            &format!("red zone at place {number}"),
            &[0x1122_3344_5566_7788; 2],
            &visit.below,
        );
    }
}

fn wait_for_place(stage: &Stage, wanted: usize) {
    loop {
        let text = std::fs::read_to_string(stage.path("place")).unwrap_or_default();
        if stage.path("go").exists() || text.trim().parse().is_ok_and(|at: usize| at >= wanted) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

static ARENA: AtomicU64 = AtomicU64::new(0);
static HANDLED: AtomicUsize = AtomicUsize::new(0);

/// Runs on the alternate stack, in as little of it as it can.
extern "C" fn handler(_signal: i32) {
    let visit = ARENA.load(Ordering::Relaxed) as *mut Visit;
    // SAFETY: run() put the address of a visit there, whose stack is where this handler is.
    unsafe {
        let here: u64;
        asm!("mov {}, rsp", out(reg) here);
        (*visit).stack = here - 256;
    }
    spin(visit, false);
    HANDLED.fetch_add(1, Ordering::Relaxed);
}

/// In a handler on an alternate stack of the smallest size that works, in the middle of other data.
fn on_alternate_stack(stage: &Stage, number: usize, bytes: usize, found: &mut Findings) {
    // On processors with large registers it is longer than one would think (AMX: 13 KiB).
    let around = pattern(7, (16 << 10) + bytes);
    let mut arena = around.clone();
    let stack =
        libc::stack_t { ss_sp: arena[8 << 10..].as_mut_ptr().cast(), ss_flags: 0, ss_size: bytes };
    let shared = Shared(UnsafeCell::new(Visit::at(0)));
    ARENA.store(shared.0.get() as u64, Ordering::Relaxed);
    // SAFETY: the arena outlives its use as a stack, which is over when the signal has been handled.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_ONSTACK;
        check(libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()))
            .expect("sigaction");
        check(libc::sigaltstack(&raw const stack, std::ptr::null_mut())).expect("sigaltstack");
    }
    std::thread::scope(|scope| {
        let stage = Stage::new(stage.dir());
        let shared = &shared;
        scope.spawn(move || shared.watch(&stage, number));
        // SAFETY: it has a handler.
        check(unsafe { libc::raise(libc::SIGUSR1) }).expect("raise");
    });
    let none =
        libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
    // SAFETY: no handler runs on it any more.
    check(unsafe { libc::sigaltstack(&raw const none, std::ptr::null_mut()) }).expect("no stack");
    found.must("data below the alternate stack", arena[..8 << 10] == around[..8 << 10]);
    let above = (8 << 10) + bytes;
    found.must("data above the alternate stack", arena[above..] == around[above..]);
}

/// The smallest alternate stack on which a handler can run (`AT_MINSIGSTKSZ`), and a little.
fn smallest() -> usize {
    // SAFETY: getauxval has no preconditions.
    let told = unsafe { libc::getauxval(51) } as usize;
    told.max(libc::MINSIGSTKSZ) + 1024
}

fn set_timer() {
    let setting = libc::itimerval {
        it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 },
        it_value: libc::timeval { tv_sec: 100_000, tv_usec: 0 },
    };
    // SAFETY: it is alive for the call.
    check(unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const setting, std::ptr::null_mut()) })
        .expect("timer");
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    set_timer();
    // The main thread's own alternate stack, made by the language's runtime, is not for this.
    let none =
        libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
    // SAFETY: no handler runs on it.
    check(unsafe { libc::sigaltstack(&raw const none, std::ptr::null_mut()) }).expect("no stack");
    let mut found = Findings::default();
    let around = pattern(3, 64 << 10);
    let mut heap = around.clone();
    heap[32 << 10..33 << 10].fill(0);
    let in_heap = (heap.as_mut_ptr() as u64 + (33 << 10)) & !15;
    let guarded =
        Region::map(2 * PAGE, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE, None);
    let guard = guarded.addr() as *mut u8;
    // SAFETY: the first page of the two is nobody's.
    check(unsafe { libc::mprotect(guard.cast(), PAGE, libc::PROT_NONE) }).expect("mprotect");
    let beside_guard = guard as u64 + PAGE as u64 + 512;
    stage.publish("ready", &std::process::id().to_string());
    wait_for_place(stage, 1);
    visit(stage, 1, in_heap, true, &mut found);
    visit(stage, 2, beside_guard, true, &mut found);
    visit(stage, 3, 0x1003, false, &mut found);
    visit(stage, 4, u64::MAX, false, &mut found);
    on_alternate_stack(stage, 5, smallest(), &mut found);
    found.same("signals handled", &1, &HANDLED.load(Ordering::Relaxed));
    // The red zone was in use.
    let used = (in_heap - heap.as_ptr() as u64) as usize - 128;
    found.must("data below the stack in the heap", heap[..32 << 10] == around[..32 << 10]);
    found.must("the small stack in the heap", heap[32 << 10..used].iter().all(|&byte| byte == 0));
    found.must("data above the stack in the heap", heap[33 << 10..] == around[33 << 10..]);
    // Places beyond the last: there is no other.
    stage.publish("standing", "6");
    stage.wait();
    found.outcome()
}
