//! Where the kernel looks for room for new mappings of a process: below the base that `execve` gives
//! its address space (`mm->mmap_base`), the same for all that it forks.
//!
//! No call sets the base, but execve computes it: from the limit of the stack and, unless the
//! personality forbids that, from chance. So a program that wants a certain base starts itself again.

use std::ffi::{CString, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt;

use nix::sys::personality::{self, Persona};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::execve;

/// What a program that has started itself again finds in its environment: its process number, and the
/// soft limit of the stack and the personality that it had.
const VARIABLE: &str = "STASIS_LAYOUT";

/// Gives this process the mapping base `base` by starting its program again, with the same arguments
/// and descriptors; to be called before anything else is done. Returns if that has been done, and
/// where it cannot be done: no limit of the stack means this base, or the hard limit is too low.
///
/// # Errors
/// If the limit or the personality of before cannot be had again.
pub fn take(base: u64) -> io::Result<()> {
    if let Some(before) = Before::of_the_environment() {
        return before.put_back();
    }
    let Some(wanted) = arch::memory::stack_limit_for(base) else { return Ok(()) };
    let (soft, hard) = getrlimit(Resource::RLIMIT_STACK)?;
    let personality = personality::get()?;
    let before = Before { soft, personality: personality.bits().cast_unsigned() };
    if setrlimit(Resource::RLIMIT_STACK, wanted, hard).is_err() {
        return Ok(());
    }
    let started = personality::set(personality | Persona::ADDR_NO_RANDOMIZE)
        .map_err(io::Error::from)
        .and_then(|_| again(&before));
    // Here it has failed: all goes on as if nothing had been tried.
    drop(started);
    before.put_back()
}

/// Starts this program again.
fn again(before: &Before) -> io::Result<()> {
    let string = |text: OsString| CString::new(text.into_vec()).map_err(io::Error::other);
    let arguments = std::env::args_os().map(string).collect::<io::Result<Vec<_>>>()?;
    let mut environment = std::env::vars_os()
        .filter(|(name, _)| name != VARIABLE)
        .map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            string(name)
        })
        .collect::<io::Result<Vec<_>>>()?;
    environment.push(string(format!("{VARIABLE}={}", before.encode()).into())?);
    execve(c"/proc/self/exe", &arguments, &environment)?;
    Ok(())
}

/// What is changed for the new start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Before {
    soft: u64,
    personality: u32,
}

impl Before {
    fn encode(self) -> String {
        format!("{}:{}:{}", std::process::id(), self.soft, self.personality)
    }

    /// `None` in a program that has not started itself: whatever it starts inherits the variable.
    fn of_the_environment() -> Option<Self> {
        Self::decode(&std::env::var(VARIABLE).ok()?, std::process::id())
    }

    fn decode(text: &str, own: u32) -> Option<Self> {
        let mut parts = text.split(':');
        let (pid, soft) = (parts.next()?, parts.next()?);
        let before = Self { soft: soft.parse().ok()?, personality: parts.next()?.parse().ok()? };
        (pid.parse() == Ok(own)).then_some(before)
    }

    fn put_back(self) -> io::Result<()> {
        let (_, hard) = getrlimit(Resource::RLIMIT_STACK)?;
        setrlimit(Resource::RLIMIT_STACK, self.soft, hard)?;
        personality::set(Persona::from_bits_retain(self.personality.cast_signed()))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_process_itself_is_meant() {
        let before = Before { soft: 8 << 20, personality: 0x40000 };
        let own = std::process::id();
        assert_eq!(Before::decode(&before.encode(), own), Some(before));
        assert_eq!(Before::decode(&before.encode(), own + 1), None);
        for strange in ["", "1", "1:2", "1:x:3", "-1:2:3"] {
            assert_eq!(Before::decode(strange, 1), None, "{strange}");
        }
    }
}
