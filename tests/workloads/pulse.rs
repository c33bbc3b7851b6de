//! A small process of two threads, one of which beats every 50 µs and notes the largest gap
//! between two beats: the time it was frozen, as it saw it itself. Other programs borrow the pulse
//! by waiting with [`ready_then_wait`].
//!
//! With `STASIS_WORKLOAD_SPIN` set it does not sleep between beats, which takes a processor and
//! leaves less to the scheduler.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::stage::{Outcome, Stage};

/// How long the pulse beats before its gaps count.
const WARM_UP: Duration = Duration::from_millis(20);

#[derive(Default)]
struct Beats {
    done: AtomicBool,
    /// The largest gap since it was last asked for, in nanoseconds.
    largest: AtomicU64,
}

struct Pulse {
    beats: Arc<Beats>,
    thread: JoinHandle<()>,
}

impl Pulse {
    fn start() -> Self {
        let spin = std::env::var_os("STASIS_WORKLOAD_SPIN").is_some();
        let beats = Arc::new(Beats::default());
        let thread = std::thread::spawn({
            let beats = beats.clone();
            move || beat(&beats, spin)
        });
        std::thread::sleep(WARM_UP);
        let pulse = Self { beats, thread };
        pulse.take_gap();
        pulse
    }

    fn take_gap(&self) -> u64 {
        self.beats.largest.swap(0, Ordering::Relaxed)
    }

    fn stop(self) -> Result<u64, String> {
        self.beats.done.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the pulse panicked".to_owned())?;
        Ok(self.beats.largest.load(Ordering::Relaxed))
    }
}

/// Sleeps of this thread end when they are to, not 50 µs later.
pub(crate) fn sleep_exactly() {
    // SAFETY: takes integers only.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1, 0, 0, 0) };
}

fn beat(beats: &Beats, spin: bool) {
    sleep_exactly();
    let mut last = Instant::now();
    while !beats.done.load(Ordering::Relaxed) {
        if spin {
            std::hint::spin_loop();
        } else {
            std::thread::sleep(Duration::from_micros(50));
        }
        let now = Instant::now();
        let gap = u64::try_from((now - last).as_nanos()).unwrap_or(u64::MAX);
        beats.largest.fetch_max(gap, Ordering::Relaxed);
        last = now;
    }
}

/// [`Stage::ready_then_wait`] with a thread that beats meanwhile. `DIR/gap` holds the largest gap
/// in nanoseconds: of the time since the last such question when `DIR/measure` asks for it, and at
/// the end.
pub(crate) fn ready_then_wait(stage: &Stage) -> Outcome {
    let pulse = Pulse::start();
    let measure = stage.path("measure");
    stage.ready_then_wait_and(|| {
        if fs::remove_file(&measure).is_ok() {
            stage.publish("gap", &pulse.take_gap().to_string());
        }
    });
    stage.publish("gap", &pulse.stop()?.to_string());
    Ok(())
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    sleep_exactly();
    ready_then_wait(stage)
}
