//! Interval and POSIX timers of a process.

use prost::Message;

/// All timers of a process.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct TaskTimersEntry {
    /// `ITIMER_REAL`.
    #[prost(message, required, tag = "1")]
    pub real: ItimerEntry,
    /// `ITIMER_VIRTUAL`.
    #[prost(message, required, tag = "2")]
    pub virt: ItimerEntry,
    /// `ITIMER_PROF`.
    #[prost(message, required, tag = "3")]
    pub prof: ItimerEntry,
    /// POSIX timers.
    #[prost(message, repeated, tag = "4")]
    pub posix: Vec<PosixTimerEntry>,
}

/// An interval timer: interval (`i`), then time left (`v`); all zero when it is off.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct ItimerEntry {
    /// Interval, seconds.
    #[prost(uint64, required, tag = "1")]
    pub isec: u64,
    /// Interval, microseconds.
    #[prost(uint64, required, tag = "2")]
    pub iusec: u64,
    /// Time left, seconds.
    #[prost(uint64, required, tag = "3")]
    pub vsec: u64,
    /// Time left, microseconds.
    #[prost(uint64, required, tag = "4")]
    pub vusec: u64,
}

/// A POSIX timer: what it sends, its interval (`i`), and the time left (`v`), which is relative
/// whatever the clock.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct PosixTimerEntry {
    /// Its number.
    #[prost(uint32, required, tag = "1")]
    pub it_id: u32,
    /// Its clock.
    #[prost(uint32, required, tag = "2")]
    pub clock_id: u32,
    /// Signal it sends.
    #[prost(uint32, required, tag = "3")]
    pub si_signo: u32,
    /// `SIGEV_*`.
    #[prost(uint32, required, tag = "4")]
    pub it_sigev_notify: u32,
    /// Value it sends.
    #[prost(uint64, required, tag = "5")]
    pub sival_ptr: u64,
    /// Expirations not yet told.
    #[prost(uint32, required, tag = "6")]
    pub overrun: u32,
    /// Interval, seconds.
    #[prost(uint64, required, tag = "7")]
    pub isec: u64,
    /// Interval, nanoseconds.
    #[prost(uint64, required, tag = "8")]
    pub insec: u64,
    /// Time left, seconds.
    #[prost(uint64, required, tag = "9")]
    pub vsec: u64,
    /// Time left, nanoseconds.
    #[prost(uint64, required, tag = "10")]
    pub vnsec: u64,
    /// Thread it signals, as an index into the process's threads.
    #[prost(int32, optional, tag = "11")]
    pub notify_thread_id: Option<i32>,
}

/// Seconds and microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct Timeval {
    /// Seconds.
    #[prost(uint64, required, tag = "1")]
    pub tv_sec: u64,
    /// Microseconds.
    #[prost(uint64, required, tag = "2")]
    pub tv_usec: u64,
}

/// Seconds and nanoseconds; negative values wrap around.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct Timespec {
    /// Seconds.
    #[prost(uint64, required, tag = "1")]
    pub tv_sec: u64,
    /// Nanoseconds.
    #[prost(uint64, required, tag = "2")]
    pub tv_nsec: u64,
}
