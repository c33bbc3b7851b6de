//! On whose behalf something is asked.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A user who is not root, by the numbers that the kernel attests of a peer on a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
}

/// Why a text is no [`User`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserError;

impl std::fmt::Display for UserError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a user is written UID:GID, in decimal")
    }
}

impl std::error::Error for UserError {}

impl User {
    /// The header by which the gateway tells a service on whose behalf it asks. Without it, it asks
    /// for somebody who may do everything.
    pub const HEADER: &'static str = "stasis-on-behalf-of";
}

/// `UID:GID`, as the header has it.
impl std::fmt::Display for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

impl FromStr for User {
    type Err = UserError;

    fn from_str(text: &str) -> Result<Self, UserError> {
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten().ok_or(UserError)
        };
        let (uid, gid) = text.split_once(':').ok_or(UserError)?;
        Ok(Self { uid: number(uid)?, gid: number(gid)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_written_and_read() {
        let user = User { uid: 1000, gid: 50 };
        assert_eq!(user.to_string(), "1000:50");
        assert_eq!("1000:50".parse(), Ok(user));
        for wrong in ["", ":", "1000", "1000:", ":50", "+1:2", "1:2:3", "4294967296:1", " 1:1"] {
            assert_eq!(wrong.parse::<User>(), Err(UserError), "{wrong:?}");
        }
    }
}
