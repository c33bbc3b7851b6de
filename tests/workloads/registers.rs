//! Values held in registers across the checkpoint: general, vector, mask, x87, segment bases.
//!
//! One thread spins with its registers full, another sleeps in a system call with them full.

use std::arch::asm;
use std::cell::Cell;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Barrier};

use crate::stage::{Findings, Outcome, Stage, check, pattern};

static MXCSR_DEFAULT: u32 = 0x1f80;

thread_local! {
    static LOCAL: Cell<u64> = const { Cell::new(0) };
}

/// What the assembly loads, keeps, and stores again.
#[repr(C, align(64))]
struct Values {
    vectors: [[u8; 64]; 32],
    masks: [u64; 7],
    general: [u64; 6],
}

impl Values {
    fn from_seed(seed: u64) -> Box<Self> {
        let bytes = pattern(seed, 32 * 64);
        let mut values = Self::zero();
        for (vector, chunk) in values.vectors.iter_mut().zip(bytes.chunks(64)) {
            vector.copy_from_slice(chunk);
        }
        for (index, mask) in values.masks.iter_mut().enumerate() {
            *mask = seed.wrapping_mul(0x1234_5678_9abc_def1) ^ index as u64;
        }
        for (index, general) in values.general.iter_mut().enumerate() {
            *general = seed.wrapping_mul(0xfedc_ba98_7654_3211) ^ index as u64;
        }
        values
    }

    fn zero() -> Box<Self> {
        Box::new(Self { vectors: [[0; 64]; 32], masks: [0; 7], general: [0; 6] })
    }
}

/// One instruction for each register of the list, with its number in two places.
macro_rules! each {
    ($a:literal $b:literal $c:literal; $($n:literal)*) => { concat!($($a, $n, $b, $n, $c),*) };
}

macro_rules! each_of_16 {
    ($($part:literal)*) => {
        each!($($part)*; "0" "1" "2" "3" "4" "5" "6" "7" "8" "9" "10" "11" "12" "13" "14" "15")
    };
}

macro_rules! each_of_16_to_31 {
    ($($part:literal)*) => {
        each!($($part)*; "16" "17" "18" "19" "20" "21" "22" "23" "24" "25" "26" "27" "28" "29"
            "30" "31")
    };
}

macro_rules! each_mask {
    ($($part:literal)*) => { each!($($part)*; "1" "2" "3" "4" "5" "6" "7") };
}

/// The general registers are loaded, the flag is watched (sleeping in `nanosleep` between looks
/// when r9 is not 0), and the registers are stored.
macro_rules! general_and_wait {
    () => {
        concat!(
            "mov r10, [rsi + 2104]\nmov r12, [rsi + 2112]\nmov r13, [rsi + 2120]\n",
            "mov r14, [rsi + 2128]\nmov r15, [rsi + 2136]\nmov rdx, [rsi + 2144]\n",
            "2:\n",
            "test r9, r9\n",
            "jz 3f\n",
            "push rdi\npush rsi\n",
            "mov eax, 35\nmov rdi, r9\nxor esi, esi\nsyscall\n",
            "pop rsi\npop rdi\n",
            "3:\n",
            "pause\n",
            "cmp byte ptr [r8], 0\n",
            "je 2b\n",
            "mov [rdi + 2104], r10\nmov [rdi + 2112], r12\nmov [rdi + 2120], r13\n",
            "mov [rdi + 2128], r14\nmov [rdi + 2136], r15\nmov [rdi + 2144], rdx\n",
        )
    };
}

macro_rules! hold {
    ($name:ident, [$($load:expr),*], [$($store:expr),*]) => {
        fn $name(values: &Values, out: &mut Values, go: &AtomicU8, pause: *const libc::timespec) {
            // SAFETY: both structures are 64-byte aligned and as large as the offsets need; every
            // register that is written is declared, the callee-saved rbx and rbp are not touched.
            unsafe {
                asm!(
                    $($load,)*
                    general_and_wait!(),
                    $($store,)*
                    in("rsi") values, in("rdi") out, in("r8") go.as_ptr(), in("r9") pause,
                    out("rax") _, out("rcx") _, out("rdx") _, out("r10") _, out("r11") _,
                    out("r12") _, out("r13") _, out("r14") _, out("r15") _,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _,
                    out("xmm5") _, out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _,
                    out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _,
                    out("xmm14") _, out("xmm15") _,
                );
            }
        }
    };
}

// The registers that only AVX-512 has are used by nothing else in this program, so the compiler
// need not hear of them.
hold!(
    hold_avx512,
    [
        each_of_16!("vmovdqa64 zmm" ", [rsi + 64*" "]\n"),
        each_of_16_to_31!("vmovdqa64 zmm" ", [rsi + 64*" "]\n"),
        each_mask!("kmovq k" ", [rsi + 2040 + 8*" "]\n")
    ],
    [
        each_of_16!("vmovdqa64 [rdi + 64*" "], zmm" "\n"),
        each_of_16_to_31!("vmovdqa64 [rdi + 64*" "], zmm" "\n"),
        each_mask!("kmovq [rdi + 2040 + 8*" "], k" "\n")
    ]
);
hold!(
    hold_avx,
    [each_of_16!("vmovdqa ymm" ", [rsi + 64*" "]\n")],
    [each_of_16!("vmovdqa [rdi + 64*" "], ymm" "\n")]
);

/// Runs in its own thread: all that is expected of it, or what differs.
fn holder(seed: u64, go: &AtomicU8, sleeps: bool, standing: &Barrier) -> Outcome {
    let values = Values::from_seed(seed);
    let mut out = Values::zero();
    let nap = libc::timespec { tv_sec: 0, tv_nsec: 5_000_000 };
    let pause = if sleeps { &raw const nap } else { std::ptr::null() };
    LOCAL.set(seed * 7);
    let mxcsr_set: u32 = 0x1f80 | 0x6000 | 0x8000; // round to zero, flush to zero
    let x87_set: u16 = 0x037f & !0x0300; // single precision
    let gs_set: u64 = (&raw const *values) as u64;
    let (mut mxcsr, mut x87, mut gs) = (0_u32, 0_u16, 0_u64);
    // SAFETY: only this thread's rounding modes and the unused GS base are changed, and the modes
    // are put back before any arithmetic.
    unsafe {
        libc::syscall(libc::SYS_arch_prctl, 0x1001, gs_set);
        asm!("ldmxcsr [{}]", "fldcw [{}]", in(reg) &raw const mxcsr_set, in(reg) &raw const x87_set);
    }
    standing.wait();
    let wide = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
    if wide {
        hold_avx512(&values, &mut out, go, pause);
    } else {
        hold_avx(&values, &mut out, go, pause);
    }
    // SAFETY: as above.
    unsafe {
        asm!("stmxcsr [{}]", "fnstcw [{}]", in(reg) &raw mut mxcsr, in(reg) &raw mut x87);
        asm!("ldmxcsr [{}]", "fninit", in(reg) &raw const MXCSR_DEFAULT);
        libc::syscall(libc::SYS_arch_prctl, 0x1004, &raw mut gs);
    }
    let mut found = Findings::default();
    let count = if wide { 32 } else { 16 };
    let bytes = if wide { 64 } else { 32 };
    for index in 0..count {
        let what = format!("vector register {index}");
        found.same(&what, &&values.vectors[index][..bytes], &&out.vectors[index][..bytes]);
    }
    if wide {
        found.same("mask registers", &values.masks, &out.masks);
    }
    found.same("general registers", &values.general, &out.general);
    found.same("mxcsr (without its status)", &(mxcsr_set & !0x3f), &(mxcsr & !0x3f));
    found.same("x87 control word", &x87_set, &x87);
    found.same("gs base", &gs_set, &gs);
    found.same("thread-local variable", &(seed * 7), &LOCAL.get());
    found.outcome()
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let go = Arc::new(AtomicU8::new(0));
    let standing = Arc::new(Barrier::new(3));
    LOCAL.set(1);
    let threads: Vec<_> = [(21, false), (22, true)]
        .into_iter()
        .map(|(seed, sleeps)| {
            let (go, standing) = (go.clone(), standing.clone());
            std::thread::spawn(move || holder(seed, &go, sleeps, &standing))
        })
        .collect();
    standing.wait();
    // SAFETY: sched_yield has no preconditions.
    check(unsafe { libc::sched_yield() }).expect("yield");

    stage.ready_then_wait();

    go.store(1, Ordering::Release);
    let mut found = Findings::default();
    for thread in threads {
        let outcome = thread.join().expect("a holder panicked");
        found.works("registers of a thread", outcome);
    }
    found.same("thread-local variable of the main thread", &1, &LOCAL.get());
    found.outcome()
}
