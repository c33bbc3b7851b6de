//! `/proc/PID/timers`: POSIX timers.

use ids::HostPid;

use super::parse::{dec, hex, key_value, lines, split_once};
use super::{Malformed, ProcFile};

/// How a timer tells that it has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notify {
    /// `SIGEV_SIGNAL`.
    Signal,
    /// `SIGEV_NONE`.
    None,
    /// `SIGEV_THREAD`.
    Thread,
}

/// Whom it tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotifyTarget {
    /// The process.
    Process(HostPid),
    /// One thread (`SIGEV_THREAD_ID`).
    Thread(HostPid),
}

/// One POSIX timer. Its setting is only to be had from inside (`timer_gettime`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PosixTimer {
    /// Timer id.
    pub id: i32,
    /// Signal number.
    pub signal: i32,
    /// `sigev_value`.
    pub value: u64,
    /// How it tells.
    pub notify: Notify,
    /// Whom it tells.
    pub target: NotifyTarget,
    /// `CLOCK_*`.
    pub clock: i32,
}

/// All POSIX timers of a process, in the kernel's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PosixTimers(pub Vec<PosixTimer>);

fn signal(value: &[u8]) -> Option<(i32, u64)> {
    let (number, value) = split_once(value, b'/')?;
    Some((dec(number)?, hex(value)?))
}

fn notify(value: &[u8]) -> Option<(Notify, NotifyTarget)> {
    let (how, whom) = split_once(value, b'/')?;
    let how = match how {
        b"signal" => Notify::Signal,
        b"none" => Notify::None,
        b"thread" => Notify::Thread,
        _ => return None,
    };
    let (kind, id) = split_once(whom, b'.')?;
    let whom = match kind {
        b"pid" => NotifyTarget::Process(dec(id)?),
        b"tid" => NotifyTarget::Thread(dec(id)?),
        _ => return None,
    };
    Some((how, whom))
}

impl ProcFile for PosixTimers {
    const NAME: &'static str = "timers";
    const SINGLE: bool = false;

    fn parse(text: &[u8]) -> Result<Self, Malformed> {
        let mut lines = lines(text).map(key_value);
        let mut timers = Vec::new();
        while let Some(first) = lines.next() {
            let mut line = Some(first);
            let mut next = |name: &'static [u8]| {
                let (key, value) = line.take().or_else(|| lines.next())??;
                (key == name).then_some(value)
            };
            let id = next(b"ID").and_then(dec).ok_or(Malformed("ID"))?;
            let (signal, value) = next(b"signal").and_then(signal).ok_or(Malformed("signal"))?;
            let (notify, target) = next(b"notify").and_then(notify).ok_or(Malformed("notify"))?;
            let clock = next(b"ClockID").and_then(dec).ok_or(Malformed("ClockID"))?;
            timers.push(PosixTimer { id, signal, value, notify, target, clock });
        }
        Ok(Self(timers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_are_read() {
        let text = b"ID: 1\nsignal: 14/00007ffc00000001\nnotify: signal/tid.17164\nClockID: 0\nID: 0\nsignal: 0/0000000000000000\nnotify: none/pid.5\nClockID: -6\n";
        let timers = PosixTimers::parse(text).unwrap().0;
        assert_eq!(timers.len(), 2);
        assert_eq!((timers[0].id, timers[0].signal, timers[0].value), (1, 14, 0x7ffc_0000_0001));
        assert_eq!(
            (timers[0].notify, timers[0].target),
            (Notify::Signal, NotifyTarget::Thread(HostPid::new(17164).unwrap()))
        );
        assert_eq!((timers[1].notify, timers[1].clock), (Notify::None, -6));
        assert!(PosixTimers::parse(b"").unwrap().0.is_empty());
        assert!(PosixTimers::parse(b"ID: 1\nsignal: 14/0\n").is_err());
        assert!(PosixTimers::parse(b"signal: 14/0\n").is_err());
    }
}
