//! Restartable sequences (x86-64): two threads that are nearly always inside one. A sequence must
//! be run from its first instruction to its last without the kernel having looked at it, or be left
//! by its abort handler. The main thread has a POSIX timer, so that it is asked for its setting.

use std::arch::asm;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::stage::{Findings, Outcome, Stage, check};

/// What the C library registers its areas with.
const SIGNATURE: u32 = 0x5305_3053;

unsafe extern "C" {
    /// Where the C library's area is, from the thread pointer.
    #[link_name = "__rseq_offset"]
    static AREA_OFFSET: isize;
    /// Its length, 0 if it registers none.
    #[link_name = "__rseq_size"]
    static AREA_BYTES: u32;
}

/// `struct rseq_cs`.
#[repr(C, align(32))]
#[derive(Default)]
struct Descriptor {
    version: u32,
    flags: u32,
    start: u64,
    length: u64,
    handler: u64,
}

/// `struct rseq`, the part that is used.
#[repr(C)]
struct Area {
    cpu_start: u32,
    cpu: u32,
    section: u64,
}

fn area() -> *mut Area {
    let pointer: *mut u8;
    // SAFETY: the first word of the thread's own block is its address; the C library's two constants
    // never change.
    unsafe {
        asm!("mov {}, fs:[0]", out(reg) pointer, options(nostack, readonly));
        assert!(AREA_BYTES != 0, "the C library registers no restartable sequences");
        pointer.offset(AREA_OFFSET).cast()
    }
}

/// How a sequence ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Whole,
    Aborted,
    /// It went on although the kernel had looked at it.
    Torn,
}

/// Runs one sequence of some milliseconds, in which the floating-point registers are in use as well.
fn sequence(area: *mut Area, rounds: u64) -> Ended {
    let mut descriptor = Descriptor::default();
    let (mut seen, mut aborted) = (0_u64, 0_u64);
    // SAFETY: the descriptor and the area outlive the sequence; the handler stands behind its
    // signature, and both ways out lead to the end.
    unsafe {
        asm!(
            "lea r8, [rip + 21f]",
            "lea r9, [rip + 22f]",
            "sub r9, r8",
            "lea r10, [rip + 24f]",
            "mov [{descriptor} + 8], r8",
            "mov [{descriptor} + 16], r9",
            "mov [{descriptor} + 24], r10",
            "mov [{area} + 8], {descriptor}",
            "21:",
            "25:",
            "dec {rounds}",
            "jnz 25b",
            "mov {seen}, [{area} + 8]",
            "22:",
            "jmp 26f",
            ".byte 0x0f, 0xb9, 0x3d",
            ".long {signature}",
            "24:",
            "mov {aborted}, 1",
            "26:",
            area = in(reg) area,
            descriptor = in(reg) &raw mut descriptor,
            rounds = inout(reg) rounds => _,
            seen = inout(reg) seen,
            aborted = inout(reg) aborted,
            signature = const SIGNATURE,
            out("r8") _, out("r9") _, out("r10") _,
        );
        (*area).section = 0;
    }
    match (aborted, seen) {
        (0, seen) if seen == (&raw const descriptor) as u64 => Ended::Whole,
        (0, _) => Ended::Torn,
        _ => Ended::Aborted,
    }
}

#[derive(Default)]
struct Counted {
    whole: u64,
    aborted: u64,
    torn: u64,
}

impl Counted {
    fn count(&mut self, ended: &Ended) {
        match ended {
            Ended::Whole => self.whole += 1,
            Ended::Aborted => self.aborted += 1,
            Ended::Torn => self.torn += 1,
        }
    }
}

/// About two milliseconds of the loop above.
fn rounds() -> u64 {
    const SOME: u64 = 1_000_000;
    let started = Instant::now();
    while sequence(area(), SOME) != Ended::Whole {}
    let nanoseconds = started.elapsed().as_nanos().max(1) as u64;
    (SOME * 2_000_000 / nanoseconds).clamp(10_000, 100 * SOME)
}

/// A POSIX timer that rings in a long time.
fn set_timer() {
    let mut timer: libc::timer_t = std::ptr::null_mut();
    let mut setting = libc::itimerspec {
        it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
        it_value: libc::timespec { tv_sec: 100_000, tv_nsec: 0 },
    };
    // SAFETY: all three are alive for the calls.
    unsafe {
        check(libc::timer_create(libc::CLOCK_MONOTONIC, std::ptr::null_mut(), &raw mut timer))
            .expect("timer");
        check(libc::timer_settime(timer, 0, &raw mut setting, std::ptr::null_mut())).expect("set");
    }
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    static STOP: AtomicBool = AtomicBool::new(false);
    set_timer();
    let rounds = rounds();
    let other = std::thread::spawn(move || {
        let mut counted = Counted::default();
        while !STOP.load(Ordering::Relaxed) {
            counted.count(&sequence(area(), rounds));
        }
        counted
    });
    let mut counted = Counted::default();
    let mut looked = Instant::now();
    stage.publish("ready", &std::process::id().to_string());
    loop {
        counted.count(&sequence(area(), rounds));
        if looked.elapsed() > Duration::from_millis(20) {
            looked = Instant::now();
            if stage.path("go").exists() {
                break;
            }
        }
    }
    STOP.store(true, Ordering::Relaxed);
    let other = other.join().expect("the other thread");
    let mut found = Findings::default();
    for (who, counted) in [("main thread", counted), ("other thread", other)] {
        found.same(&format!("torn sequences of the {who}"), &0, &counted.torn);
        found.must(&format!("whole sequences of the {who}"), counted.whole > 0);
    }
    found.outcome()
}
