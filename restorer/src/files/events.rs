//! eventfd, timerfd, signalfd and empty epolls.

use std::os::fd::OwnedFd;
use std::time::Duration;

use images::messages::{EventfdFileEntry, EventpollFileEntry, SignalfdEntry, TimerfdEntry};
use kernel::descriptors::{set_epoll_polling, set_status_flags};
use kernel::{signalfd, timerfd};
use nix::sys::epoll::{Epoll, EpollCreateFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::time::{ClockId, clock_gettime};

use super::{Error, kernel};

const O_ASYNC: u32 = libc::O_ASYNC.cast_unsigned();
/// See the dumper: the bit of the access mode that an eventfd does not use.
const SEMAPHORE: u32 = libc::EFD_SEMAPHORE.cast_unsigned();

fn flagged(fd: OwnedFd, flags: u32, what: &str) -> Result<OwnedFd, Error> {
    set_status_flags(&fd, flags & !O_ASYNC)
        .map_err(|source| Error::Kernel { operation: format!("set flags of {what}"), source })?;
    Ok(fd)
}

pub(super) fn eventfd(entry: &EventfdFileEntry) -> Result<OwnedFd, Error> {
    let what = format!("eventfd {}", entry.id);
    let mut flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    if entry.flags & SEMAPHORE != 0 {
        flags |= EfdFlags::EFD_SEMAPHORE;
    }
    let fd = EventFd::from_flags(flags).map_err(|errno| kernel(format!("make {what}"), errno))?;
    if entry.counter > 0 {
        fd.write(entry.counter).map_err(|errno| kernel(format!("set counter of {what}"), errno))?;
    }
    flagged(fd.into(), entry.flags & !SEMAPHORE, &what)
}

pub(super) fn signalfd(entry: &SignalfdEntry) -> Result<OwnedFd, Error> {
    let what = format!("signalfd {}", entry.id);
    let fd = signalfd::create(entry.sigmask)
        .map_err(|source| Error::Kernel { operation: format!("make {what}"), source })?;
    flagged(fd, entry.flags, &what)
}

pub(super) fn epoll(entry: &EventpollFileEntry) -> Result<OwnedFd, Error> {
    let what = format!("epoll {}", entry.id);
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
        .map_err(|errno| kernel(format!("make {what}"), errno))?;
    if let Some(polling) = &entry.polling {
        let parameters = polling.as_slice().try_into();
        let parameters = parameters.map_err(|_| Error::image(&what, "its parameters are none"))?;
        set_epoll_polling(&epoll.0, parameters).map_err(|source| Error::Kernel {
            operation: format!("set parameters of {what}"),
            source,
        })?;
    }
    flagged(epoll.0, entry.flags, &what)
}

fn duration(seconds: u64, nanoseconds: u64) -> Option<Duration> {
    let nanoseconds = u32::try_from(nanoseconds).ok().filter(|it| *it < 1_000_000_000)?;
    i64::try_from(seconds).ok()?;
    Some(Duration::new(seconds, nanoseconds))
}

pub(super) fn timerfd(entry: &TimerfdEntry) -> Result<OwnedFd, Error> {
    let what = format!("timerfd {}", entry.id);
    let malformed = || Error::image(&what, "its time is no time");
    let mut value = duration(entry.vsec, entry.vnsec).ok_or_else(malformed)?;
    let interval = duration(entry.isec, entry.insec).ok_or_else(malformed)?;
    let failed = |doing: &str| {
        let operation = format!("{doing} {what}");
        |source| Error::Kernel { operation, source }
    };
    let clock = i32::try_from(entry.clockid).map_err(|_| Error::image(&what, "no such clock"))?;
    let fd = timerfd::create(clock).map_err(failed("make"))?;
    // One that has expired and has not been read stands still until it is: it goes on from then.
    if value.is_zero() && entry.ticks > 0 {
        value = interval;
    }
    let flags = entry.settime_flags.cast_signed();
    // The images have the time that was left.
    let value = if flags & libc::TFD_TIMER_ABSTIME != 0 && !value.is_zero() {
        value + now(clock, &what)?
    } else {
        value
    };
    timerfd::set(&fd, flags, value, interval).map_err(failed("set"))?;
    if entry.ticks > 0 {
        timerfd::set_ticks(&fd, entry.ticks).map_err(failed("set expirations of"))?;
    }
    flagged(fd, entry.flags, &what)
}

fn now(clock: i32, what: &str) -> Result<Duration, Error> {
    // The clocks with alarms count as those without.
    let clock = match clock {
        libc::CLOCK_REALTIME_ALARM => libc::CLOCK_REALTIME,
        libc::CLOCK_BOOTTIME_ALARM => libc::CLOCK_BOOTTIME,
        other => other,
    };
    let time = clock_gettime(ClockId::from_raw(clock))
        .map_err(|errno| kernel(format!("read the clock of {what}"), errno))?;
    Ok(Duration::from(time))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::procfs::{Detail, Dir, FdInfo};
    use std::os::fd::AsRawFd;

    fn detail(fd: &OwnedFd) -> Detail {
        let dir = Dir::open(std::process::id().cast_signed()).unwrap();
        FdInfo::read(&dir, fd.as_raw_fd()).unwrap().detail
    }

    #[test]
    fn counters_and_semaphores() {
        let entry = EventfdFileEntry { flags: 3, counter: 1 << 40, ..EventfdFileEntry::default() };
        let Detail::Eventfd { count, semaphore, .. } = detail(&eventfd(&entry).unwrap()) else {
            panic!("no eventfd");
        };
        assert_eq!((count, semaphore), (1 << 40, Some(true)));
    }

    #[test]
    fn timers_relative_absolute_and_expired() {
        let entry = TimerfdEntry {
            clockid: 1,
            settime_flags: 1,
            vsec: 500,
            isec: 7,
            ..TimerfdEntry::default()
        };
        let Detail::Timerfd(timer) = detail(&timerfd(&entry).unwrap()) else { panic!("no timer") };
        assert_eq!((timer.value.0, timer.settime_flags, timer.interval), (499, 1, (7, 0)));
        let entry = TimerfdEntry { vsec: 0, ticks: 3, settime_flags: 0, ..entry };
        let Detail::Timerfd(timer) = detail(&timerfd(&entry).unwrap()) else { panic!("no timer") };
        assert_eq!((timer.ticks, timer.value.0), (3, 6));
        assert!(timerfd(&TimerfdEntry { insec: u64::MAX, ..entry }).is_err());
    }
}
