//! A small process of two threads, one of which beats every 50 µs and notes the largest gap
//! between two beats: the time it was frozen, as it saw it itself.
//!
//! With `STASIS_WORKLOAD_SPIN` set it does not sleep between beats, which takes a processor and
//! leaves less to the scheduler.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::stage::{Outcome, Stage};

pub(crate) fn run(stage: &Stage) -> Outcome {
    // SAFETY: takes integers only.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1, 0, 0, 0) };
    let spin = std::env::var_os("STASIS_WORKLOAD_SPIN").is_some();
    let done = Arc::new(AtomicBool::new(false));
    let start = Arc::new(AtomicBool::new(false));
    let pulse = std::thread::spawn({
        let (done, start) = (done.clone(), start.clone());
        move || beat(&start, &done, spin)
    });
    std::thread::sleep(Duration::from_millis(20));
    start.store(true, Ordering::Release);
    stage.ready_then_wait();
    done.store(true, Ordering::Release);
    let gap = pulse.join().map_err(|_| "the pulse panicked".to_owned())?;
    stage.publish("gap", &gap.as_nanos().to_string());
    Ok(())
}

fn beat(start: &AtomicBool, done: &AtomicBool, spin: bool) -> Duration {
    // SAFETY: takes integers only.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1, 0, 0, 0) };
    let mut largest = Duration::ZERO;
    let mut last = Instant::now();
    while !done.load(Ordering::Acquire) {
        if spin {
            std::hint::spin_loop();
        } else {
            std::thread::sleep(Duration::from_micros(50));
        }
        let now = Instant::now();
        if start.load(Ordering::Acquire) {
            largest = largest.max(now - last);
        }
        last = now;
    }
    largest
}
