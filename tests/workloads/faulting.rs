//! Instructions that are faults for a thread: CPUID (`ARCH_SET_CPUID`), reading the time-stamp
//! counter (`PR_SET_TSC`). Each thread has another setting; the main thread has both.

use std::sync::mpsc::{Receiver, channel};

use crate::stage::{Findings, Outcome, Stage, check};

const ARCH_GET_CPUID: i32 = 0x1011;
const ARCH_SET_CPUID: i32 = 0x1012;

/// Whether CPUID and the time-stamp counter may be used.
type Allowed = (bool, bool);

fn set((cpuid, tsc): Allowed) {
    let wanted = if tsc { libc::PR_TSC_ENABLE } else { libc::PR_TSC_SIGSEGV };
    // SAFETY: both take integers; the thread uses neither from here on.
    unsafe {
        check(libc::prctl(libc::PR_SET_TSC, wanted)).expect("time-stamp counter");
        let set = libc::syscall(libc::SYS_arch_prctl, ARCH_SET_CPUID, libc::c_ulong::from(cpuid));
        // Not every processor has it: then it can only be allowed.
        assert!(set == 0 || cpuid || !can_fault(), "CPUID faulting");
    }
}

/// Whether this processor can make CPUID a fault.
fn can_fault() -> bool {
    std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("cpuid_fault"))
}

fn get() -> Allowed {
    let mut tsc = 0;
    // SAFETY: the first takes integers, the second writes an integer.
    unsafe {
        let cpuid = libc::syscall(libc::SYS_arch_prctl, ARCH_GET_CPUID, 0);
        check(libc::prctl(libc::PR_GET_TSC, &raw mut tsc)).expect("time-stamp counter");
        (cpuid != 0, tsc == libc::PR_TSC_ENABLE)
    }
}

fn thread(allowed: Allowed, orders: &Receiver<()>) -> Allowed {
    set(allowed);
    while orders.recv().is_ok() {}
    get()
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let possible = can_fault();
    let wanted = [(true, true), (true, false), (!possible, true), (!possible, false)];
    let (mut orders, mut threads) = (Vec::new(), Vec::new());
    for allowed in wanted {
        let (to_thread, from_here) = channel();
        // Taken up once the thread has its setting, as it waits again for the next.
        to_thread.send(()).expect("a thread");
        orders.push(to_thread);
        threads.push(std::thread::spawn(move || thread(allowed, &from_here)));
    }
    set((!possible, false));

    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("of the main thread (CPUID, counter)", &(!possible, false), &get());
    set((true, true));
    drop(orders);
    for (thread, wanted) in threads.into_iter().zip(wanted) {
        let now = thread.join().expect("a thread");
        found.same("of a thread (CPUID, counter)", &wanted, &now);
    }
    found.outcome()
}
