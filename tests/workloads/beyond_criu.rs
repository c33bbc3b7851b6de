//! State that CRIU loses or gets wrong, so that the other families can be held against it.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::Pid;

use crate::identity::{flags, register_for_membarrier};
use crate::stage::{Findings, Outcome, Stage};

/// An interval timer that is never read: it has run out whenever one looks.
fn beating_timer() -> TimerFd {
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK).expect("timerfd");
    let time = TimeSpec::from_duration(Duration::from_millis(30));
    let beat = Expiration::IntervalDelayed(time, time);
    timer.set(beat, TimerSetTimeFlags::empty()).expect("set");
    timer
}

fn read(file: impl AsFd) -> nix::Result<u64> {
    let mut bytes = [0; 8];
    nix::unistd::read(file, &mut bytes).map(|_| u64::from_ne_bytes(bytes))
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let this = Pid::from_raw(0);
    let mut one = CpuSet::new();
    one.set(0).expect("processor 0");
    sched_setaffinity(this, &one).expect("pin to one processor");
    // SAFETY: takes an integer.
    unsafe { libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong) };
    register_for_membarrier();
    let flags_before = flags();
    let semaphore = EfdFlags::EFD_SEMAPHORE | EfdFlags::EFD_NONBLOCK;
    let semaphore = EventFd::from_value_and_flags(3, semaphore).expect("eventfd");
    let beat = beating_timer();
    std::thread::sleep(Duration::from_millis(100));

    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("affinity", &Ok(one), &sched_getaffinity(this));
    found.same("flags", &flags_before, &flags());
    let taken = [semaphore.read(), semaphore.read(), semaphore.read()];
    found.same("semaphore", &[Ok(1); 3], &taken);
    found.same("semaphore is empty", &Err(nix::Error::EAGAIN), &semaphore.read());
    found.must("expirations that nobody read", read(&beat).is_ok_and(|count| count >= 2));
    std::thread::sleep(Duration::from_millis(100));
    found.must("the timer beats on", read(&beat).is_ok_and(|count| count >= 2));
    found.outcome()
}
