//! Files that hold one number.

use super::parse::{dec, hex, words};
use super::{Malformed, ProcFile};

/// `/proc/PID/oom_score_adj`: -1000 to 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OomScoreAdj(pub i32);

impl ProcFile for OomScoreAdj {
    const NAME: &'static str = "oom_score_adj";

    fn parse(text: &[u8]) -> Result<Self, Malformed> {
        dec(text.trim_ascii()).map(Self).ok_or(Malformed("oom_score_adj"))
    }
}

/// `/proc/PID/loginuid`: `u32::MAX` for a process that no login started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginUid(pub u32);

impl ProcFile for LoginUid {
    const NAME: &'static str = "loginuid";

    fn parse(text: &[u8]) -> Result<Self, Malformed> {
        dec(text.trim_ascii()).map(Self).ok_or(Malformed("loginuid"))
    }
}

/// `/proc/PID/coredump_filter`: which kinds of mappings go into a core dump, one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreDumpFilter(pub u32);

impl ProcFile for CoreDumpFilter {
    const NAME: &'static str = "coredump_filter";

    fn parse(text: &[u8]) -> Result<Self, Malformed> {
        let bits = hex(text.trim_ascii()).and_then(|bits| u32::try_from(bits).ok());
        bits.map(Self).ok_or(Malformed("coredump_filter"))
    }
}

/// `/proc/PID/timerslack_ns`: nanoseconds by which a sleep of the thread may be late. It is there
/// for each thread by its own number, not in the folder of its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerSlack(pub u64);

impl ProcFile for TimerSlack {
    const NAME: &'static str = "timerslack_ns";

    fn parse(text: &[u8]) -> Result<Self, Malformed> {
        dec(text.trim_ascii()).map(Self).ok_or(Malformed("timerslack_ns"))
    }
}

/// `/proc/PID/autogroup`: the scheduling group of the session; only where sessions have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Autogroup {
    /// Its nice value.
    pub nice: i32,
}

impl ProcFile for Autogroup {
    const NAME: &'static str = "autogroup";

    fn parse(text: &[u8]) -> Result<Self, Malformed> {
        // "/autogroup-16 nice 0"
        let mut words = words(text).skip_while(|word| *word != b"nice").skip(1);
        let nice = words.next().and_then(dec).ok_or(Malformed("autogroup"))?;
        Ok(Self { nice })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read() {
        assert_eq!(OomScoreAdj::parse(b"-17\n"), Ok(OomScoreAdj(-17)));
        assert_eq!(LoginUid::parse(b"4294967295"), Ok(LoginUid(u32::MAX)));
        assert!(LoginUid::parse(b"").is_err());
        assert_eq!(CoreDumpFilter::parse(b"0000007f\n"), Ok(CoreDumpFilter(0x7f)));
        assert_eq!(TimerSlack::parse(b"50000\n"), Ok(TimerSlack(50_000)));
        assert_eq!(Autogroup::parse(b"/autogroup-16 nice -3\n"), Ok(Autogroup { nice: -3 }));
        assert!(Autogroup::parse(b"nice\n").is_err());
    }
}
