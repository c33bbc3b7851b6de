//! Interval timers and POSIX timers: what is left of them, their intervals, and that they fire.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::stage::{Findings, Outcome, Stage, check};

static BEATS: AtomicU32 = AtomicU32::new(0);

extern "C" fn on_beat(_: i32) {
    BEATS.fetch_add(1, Ordering::SeqCst);
}

/// What is left and the interval, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Setting {
    left: i64,
    interval: i64,
}

impl Setting {
    fn of(spec: &libc::itimerspec) -> Self {
        let nanos = |t: &libc::timespec| t.tv_sec * 1_000_000_000 + t.tv_nsec;
        Self { left: nanos(&spec.it_value), interval: nanos(&spec.it_interval) }
    }

    fn to_spec(self) -> libc::itimerspec {
        let spec = |nanos: i64| libc::timespec {
            tv_sec: nanos / 1_000_000_000,
            tv_nsec: nanos % 1_000_000_000,
        };
        libc::itimerspec { it_value: spec(self.left), it_interval: spec(self.interval) }
    }
}

const SECOND: i64 = 1_000_000_000;
/// The kernel rounds times that it keeps in ticks or microseconds.
const ROUNDING: i64 = 20_000_000;

/// A POSIX timer, by the kernel's own number for it.
struct Timer {
    what: &'static str,
    id: i32,
}

impl Timer {
    fn new(what: &'static str, clock: i32, notify: i32, signal: i32, value: usize) -> Self {
        // SAFETY: a zeroed sigevent is valid; the kernel writes one timer id.
        unsafe {
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = notify;
            event.sigev_signo = signal;
            event.sigev_value = libc::sigval { sival_ptr: value as *mut libc::c_void };
            event.sigev_notify_thread_id = nix::unistd::gettid().as_raw();
            let mut id = 0_i32;
            let done = libc::syscall(libc::SYS_timer_create, clock, &raw mut event, &raw mut id);
            assert_eq!(done, 0, "timer_create: {}", std::io::Error::last_os_error());
            Self { what, id }
        }
    }

    fn set(&self, setting: Setting) {
        let spec = setting.to_spec();
        // SAFETY: the specification is valid for the call.
        let done =
            unsafe { libc::syscall(libc::SYS_timer_settime, self.id, 0, &raw const spec, 0) };
        assert_eq!(done, 0, "timer_settime");
    }

    fn get(&self) -> Option<Setting> {
        // SAFETY: a zeroed itimerspec is valid and the kernel fills it in.
        unsafe {
            let mut spec: libc::itimerspec = std::mem::zeroed();
            (libc::syscall(libc::SYS_timer_gettime, self.id, &raw mut spec) == 0)
                .then(|| Setting::of(&spec))
        }
    }

    fn delete(self) {
        // SAFETY: deletes our own timer.
        unsafe { libc::syscall(libc::SYS_timer_delete, self.id) };
    }
}

fn interval_timer(which: i32) -> Setting {
    // SAFETY: a zeroed itimerval is valid and the kernel fills it in.
    let value = unsafe {
        let mut value: libc::itimerval = std::mem::zeroed();
        check(libc::getitimer(which, &raw mut value)).expect("getitimer");
        value
    };
    let nanos = |t: &libc::timeval| t.tv_sec * SECOND + t.tv_usec * 1000;
    Setting { left: nanos(&value.it_value), interval: nanos(&value.it_interval) }
}

fn set_interval_timer(which: i32, setting: Setting) {
    let time =
        |nanos: i64| libc::timeval { tv_sec: nanos / SECOND, tv_usec: nanos % SECOND / 1000 };
    let value =
        libc::itimerval { it_interval: time(setting.interval), it_value: time(setting.left) };
    // SAFETY: the value is valid for the call.
    let done = unsafe { libc::setitimer(which, &raw const value, std::ptr::null_mut()) };
    check(done).expect("setitimer");
}

/// A checkpointed timer goes on where it was: time that passed while the program was not there
/// may or may not count (CRIU's does not), so the rest lies between both.
fn compare(found: &mut Findings, what: &str, before: Setting, after: Setting, passed: i64) {
    found.same(&format!("{what}: interval"), &before.interval, &after.interval);
    if before.left == 0 {
        found.same(&format!("{what}: disarmed"), &0, &after.left);
    } else {
        let least = before.left - passed - ROUNDING;
        let range = least..=before.left + ROUNDING;
        found.must(
            &format!("{what}: {} left of {}", after.left, before.left),
            range.contains(&after.left),
        );
    }
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let rt = libc::SIGRTMIN();
    // SAFETY: the handler only touches an atomic.
    unsafe { libc::signal(rt + 1, on_beat as *const () as libc::sighandler_t) };
    let far = Setting { left: 1000 * SECOND, interval: 7 * SECOND };
    for which in [libc::ITIMER_REAL, libc::ITIMER_VIRTUAL, libc::ITIMER_PROF] {
        set_interval_timer(which, far);
    }
    let signal = libc::SIGEV_SIGNAL;
    let gap = Timer::new("gap", libc::CLOCK_MONOTONIC, signal, rt + 2, 0);
    let timers = [
        Timer::new("realtime", libc::CLOCK_REALTIME, signal, rt + 2, 11),
        Timer::new("monotonic", libc::CLOCK_MONOTONIC, signal, rt + 3, 12),
        Timer::new("boot time", libc::CLOCK_BOOTTIME, signal, rt + 3, 13),
        Timer::new("silent", libc::CLOCK_MONOTONIC, libc::SIGEV_NONE, 0, 0),
        Timer::new("to a thread", libc::CLOCK_MONOTONIC, libc::SIGEV_THREAD_ID, rt + 4, 14),
        Timer::new("disarmed", libc::CLOCK_MONOTONIC, signal, rt + 2, 15),
    ];
    // The ids are not consecutive: one of them is gone again.
    gap.delete();
    for timer in &timers[..5] {
        timer.set(far);
    }
    let beat = Timer::new("beat", libc::CLOCK_MONOTONIC, signal, rt + 1, 0);
    beat.set(Setting { left: SECOND / 50, interval: SECOND / 50 });
    let started = Instant::now();
    let kinds = [libc::ITIMER_REAL, libc::ITIMER_VIRTUAL, libc::ITIMER_PROF];
    let interval_timers = kinds.map(interval_timer);
    let posix: Vec<_> = timers.iter().map(Timer::get).collect();

    stage.ready_then_wait();

    let passed = i64::try_from(started.elapsed().as_nanos()).expect("a short test");
    let mut found = Findings::default();
    for (kind, before) in kinds.into_iter().zip(interval_timers) {
        compare(
            &mut found,
            &format!("interval timer {kind}"),
            before,
            interval_timer(kind),
            passed,
        );
    }
    for (timer, before) in timers.iter().zip(posix) {
        match (before, timer.get()) {
            (Some(before), Some(after)) => compare(&mut found, timer.what, before, after, passed),
            (_, after) => found.must(&format!("{}: {after:?}", timer.what), false),
        }
    }
    let beats = BEATS.load(Ordering::SeqCst);
    let deadline = Instant::now() + Duration::from_secs(5);
    while BEATS.load(Ordering::SeqCst) < beats + 5 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    found.must("the beating timer beats on", BEATS.load(Ordering::SeqCst) >= beats + 5);
    let new = Timer::new("new", libc::CLOCK_MONOTONIC, signal, rt + 2, 0);
    found.must("a new timer gets a number of its own", timers.iter().all(|t| t.id != new.id));
    found.outcome()
}
