//! A timerfd.

use prost::Message;

use super::file_body::file_body;

use super::parts::FownEntry;

/// A timerfd: interval (`i`) and time left (`v`), which is relative.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct TimerfdEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Flags, as `F_GETFL` gives them.
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    /// Who is signalled.
    #[prost(message, required, tag = "3")]
    pub fown: FownEntry,
    /// Its clock.
    #[prost(uint32, required, tag = "4")]
    pub clockid: u32,
    /// Expirations not yet read.
    #[prost(uint64, required, tag = "5")]
    pub ticks: u64,
    /// `TFD_TIMER_*`.
    #[prost(uint32, required, tag = "6")]
    pub settime_flags: u32,
    /// Time left, seconds.
    #[prost(uint64, required, tag = "7")]
    pub vsec: u64,
    /// Time left, nanoseconds.
    #[prost(uint64, required, tag = "8")]
    pub vnsec: u64,
    /// Interval, seconds.
    #[prost(uint64, required, tag = "9")]
    pub isec: u64,
    /// Interval, nanoseconds.
    #[prost(uint64, required, tag = "10")]
    pub insec: u64,
}

file_body! { TimerfdEntry { signals belongs_to_nobody } }
