//! eventfd, timerfd and signalfd: all of them is in `/proc/PID/fdinfo`.

use images::messages::{EventfdFileEntry, FownEntry, SignalfdEntry, TimerfdEntry};
use kernel::procfs::{Detail, FdInfo, TimerSetting};

use super::problem::Problem;

/// `EFD_SEMAPHORE` in the flags of an eventfd's entry.
///
/// CRIU's entry has no place for it. An eventfd is always open for reading and writing (2), so
/// the other bit of the access mode is free to say it; CRIU passes over it.
const SEMAPHORE: u32 = libc::EFD_SEMAPHORE.cast_unsigned();

fn unexpected(kind: &str) -> Problem {
    Problem::Kernel {
        operation: "understand fdinfo of",
        source: std::io::Error::other(format!("it is not that of {kind}")),
    }
}

/// Whether this is a periodic timer that has run out and that nobody has read: the kernel has not
/// counted how often.
pub(super) fn stands_still(info: &FdInfo) -> bool {
    matches!(
        info.detail,
        Detail::Timerfd(timer) if timer.ticks > 0 && timer.value == (0, 0) && timer.interval != (0, 0)
    )
}

/// The entry of an eventfd.
pub(super) fn eventfd(
    info: &FdInfo,
    id: u32,
    flags: u32,
    fown: FownEntry,
) -> Result<EventfdFileEntry, Problem> {
    let Detail::Eventfd { count, semaphore, .. } = info.detail else {
        return Err(unexpected("an eventfd"));
    };
    let flags = if semaphore == Some(true) { flags | SEMAPHORE } else { flags };
    Ok(EventfdFileEntry { id, flags, fown, counter: count })
}

/// The entry of a signalfd.
pub(super) fn signalfd(
    info: &FdInfo,
    id: u32,
    flags: u32,
    fown: FownEntry,
) -> Result<SignalfdEntry, Problem> {
    let Detail::Signalfd { mask } = info.detail else { return Err(unexpected("a signalfd")) };
    Ok(SignalfdEntry { id, flags, fown, sigmask: mask })
}

/// The entry of a timerfd.
pub(super) fn timerfd(
    info: &FdInfo,
    id: u32,
    flags: u32,
    fown: FownEntry,
) -> Result<TimerfdEntry, Problem> {
    let Detail::Timerfd(TimerSetting { clock, ticks, settime_flags, value, interval }) =
        info.detail
    else {
        return Err(unexpected("a timerfd"));
    };
    let part = |part: i64| u64::try_from(part).map_err(|_| unexpected("a timerfd"));
    Ok(TimerfdEntry {
        id,
        flags,
        fown,
        clockid: clock.cast_unsigned(),
        ticks,
        settime_flags,
        vsec: part(value.0)?,
        vnsec: part(value.1)?,
        isec: part(interval.0)?,
        insec: part(interval.1)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_from_the_kernels_text() {
        let text =
            b"pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t1038\neventfd-count:                5\n\
            eventfd-id: 3\neventfd-semaphore: 1\n";
        let info = FdInfo::parse(text).unwrap();
        let entry = eventfd(&info, 7, 2, FownEntry::default()).unwrap();
        assert_eq!((entry.counter, entry.flags, entry.id), (5, 3, 7));
        assert!(signalfd(&info, 7, 2, FownEntry::default()).is_err());
        let text = b"pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t1038\nclockid: 1\nticks: 4\n\
            settime flags: 01\nit_value: (999, 57)\nit_interval: (100, 5)\n";
        let entry = timerfd(&FdInfo::parse(text).unwrap(), 8, 2, FownEntry::default()).unwrap();
        assert_eq!((entry.clockid, entry.ticks, entry.settime_flags), (1, 4, 1));
        assert_eq!((entry.vsec, entry.vnsec, entry.isec, entry.insec), (999, 57, 100, 5));
    }
}
