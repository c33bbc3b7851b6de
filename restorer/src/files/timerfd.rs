//! timerfd: its clock, what is left of its time, and how often it has run out.

use std::os::fd::OwnedFd;
use std::time::Duration;

use images::messages::{FileEntry, TimerfdEntry, fd_type};
use kernel::timerfd;
use nix::time::{ClockId, clock_gettime};

use support::Refusal;

use super::Error;
use super::file_kind::{FileKind, missing};
use super::opening::{Opening, flagged};
use super::user::User;

/// A timerfd.
#[derive(Debug)]
pub(super) struct Timerfd;

impl FileKind for Timerfd {
    fn r#type(&self) -> u32 {
        fd_type::TIMERFD
    }

    fn beyond(&self, _file: &FileEntry, _user: &User<'_>) -> Option<(Refusal, String)> {
        None
    }

    fn open(&self, opening: &mut Opening<'_>, files: &[&FileEntry]) -> Result<(), Error> {
        for file in files {
            let entry = file.tfd.as_ref().ok_or_else(|| missing(file))?;
            opening.add(file.id, make(entry)?)?;
        }
        Ok(())
    }
}

fn duration(seconds: u64, nanoseconds: u64) -> Option<Duration> {
    let nanoseconds = u32::try_from(nanoseconds).ok().filter(|it| *it < 1_000_000_000)?;
    i64::try_from(seconds).ok()?;
    Some(Duration::new(seconds, nanoseconds))
}

fn make(entry: &TimerfdEntry) -> Result<OwnedFd, Error> {
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
        .map_err(|errno| Error::kernel(format!("read the clock of {what}"), errno))?;
    Ok(Duration::from(time))
}

#[cfg(test)]
mod tests {
    use ids::HostPid;

    use super::*;
    use kernel::procfs::{Detail, Dir, FdInfo};
    use std::os::fd::AsRawFd;

    fn detail(fd: &OwnedFd) -> Detail {
        let dir = Dir::open(HostPid::own()).unwrap();
        FdInfo::read(&dir, fd.as_raw_fd()).unwrap().detail
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
        let Detail::Timerfd(timer) = detail(&make(&entry).unwrap()) else { panic!("no timer") };
        assert_eq!((timer.value.0, timer.settime_flags, timer.interval), (499, 1, (7, 0)));
        let entry = TimerfdEntry { vsec: 0, ticks: 3, settime_flags: 0, ..entry };
        let Detail::Timerfd(timer) = detail(&make(&entry).unwrap()) else { panic!("no timer") };
        assert_eq!((timer.ticks, timer.value.0), (3, 6));
        assert!(make(&TimerfdEntry { insec: u64::MAX, ..entry }).is_err());
    }
}
