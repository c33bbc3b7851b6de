//! Interval and POSIX timers: what is outside (`/proc/PID/timers`) joined to what the parasite
//! read (settings and overruns).

use images::messages::{ItimerEntry, PosixTimerEntry, TaskTimersEntry};
use kernel::procfs::{Notify, NotifyTarget, PosixTimer, PosixTimers};
use parasite::task::{TimerState, TimerValue};

use crate::inject::ParasiteReport;
use crate::numbers::Numbers;

/// `SIGEV_*`.
const SIGEV_SIGNAL: u32 = 0;
const SIGEV_NONE: u32 = 1;
const SIGEV_THREAD: u32 = 2;
const SIGEV_THREAD_ID: u32 = 4;

pub(crate) fn encode(
    report: &ParasiteReport,
    posix: &PosixTimers,
    numbers: &Numbers,
) -> TaskTimersEntry {
    let [real, virt, prof] = report.state.interval_timers.map(interval);
    TaskTimersEntry {
        real,
        virt,
        prof,
        posix: posix
            .0
            .iter()
            .zip(&report.timers)
            .map(|(timer, state)| one(timer, state, numbers))
            .collect(),
    }
}

fn interval(TimerValue { interval, value }: TimerValue) -> ItimerEntry {
    ItimerEntry {
        isec: interval.seconds.cast_unsigned(),
        iusec: interval.fraction.cast_unsigned(),
        vsec: value.seconds.cast_unsigned(),
        vusec: value.fraction.cast_unsigned(),
    }
}

fn one(timer: &PosixTimer, state: &TimerState, numbers: &Numbers) -> PosixTimerEntry {
    let how = match timer.notify {
        Notify::Signal => SIGEV_SIGNAL,
        Notify::None => SIGEV_NONE,
        Notify::Thread => SIGEV_THREAD,
    };
    let (to_thread, thread) = match timer.target {
        NotifyTarget::Process(_) => (0, None),
        NotifyTarget::Thread(tid) => (SIGEV_THREAD_ID, Some(tid)),
    };
    let TimerValue { interval, value } = state.setting;
    PosixTimerEntry {
        it_id: timer.id.cast_unsigned(),
        clock_id: timer.clock.cast_unsigned(),
        si_signo: timer.signal.cast_unsigned(),
        it_sigev_notify: how | to_thread,
        sival_ptr: timer.value,
        overrun: state.overrun.cast_unsigned(),
        isec: interval.seconds.cast_unsigned(),
        insec: interval.fraction.cast_unsigned(),
        vsec: value.seconds.cast_unsigned(),
        vnsec: value.fraction.cast_unsigned(),
        notify_thread_id: thread.map(|tid| numbers.message(Some(tid)).cast_signed()),
    }
}
