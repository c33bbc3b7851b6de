//! Files that hold one number.

use super::parse::dec;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read() {
        assert_eq!(OomScoreAdj::parse(b"-17\n"), Ok(OomScoreAdj(-17)));
        assert_eq!(LoginUid::parse(b"4294967295"), Ok(LoginUid(u32::MAX)));
        assert!(LoginUid::parse(b"").is_err());
    }
}
