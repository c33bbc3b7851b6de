//! Where the kernel looks for room for new mappings of a process: below the base that `execve` gives
//! its address space (`mm->mmap_base`), the same for all that it forks.
//!
//! No call sets the base, but execve computes it: from the limit of the stack and, unless the
//! personality forbids that, from chance. So a program that wants a certain base starts itself again.

use std::ffi::{CString, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use nix::sys::personality::{self, Persona};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::execve;

use crate::procfs::maps;

/// What a program that has started itself again finds in its environment ([`Before`]).
const VARIABLE: &str = "STASIS_LAYOUT";

/// Whether new mappings will go where they are to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The process has the base.
    Taken,
    /// It has another one, because.
    Other(&'static str),
}

/// Gives this process the mapping base `base` by starting its program again, with the same arguments,
/// descriptors and name; to be called before anything else is done, and in particular before there is a
/// second thread. Returns when that has been done, or cannot be.
///
/// # Errors
/// If the limit or the personality of before cannot be had again.
pub fn take(base: u64) -> io::Result<Layout> {
    if let Some(before) = Before::of_the_environment() {
        forget_variable();
        before.put_back()?;
        return Ok(Layout::Taken);
    }
    let Some(wanted) = arch::memory::stack_limit_for(base) else {
        return Ok(Layout::Other("its program was started with an unlimited stack"));
    };
    // Started by a loader by hand, or by an emulator, that would be started instead.
    if !is_executed() {
        return Ok(Layout::Other("/proc/self/exe is not this program"));
    }
    let (soft, hard) = getrlimit(Resource::RLIMIT_STACK)?;
    let personality = personality::get()?;
    let before = Before {
        soft,
        personality: personality.bits().cast_unsigned(),
        name: prctl::get_name()?.to_bytes().to_vec(),
    };
    if setrlimit(Resource::RLIMIT_STACK, wanted, hard).is_err() {
        return Ok(Layout::Other("the hard limit of the stack (ulimit -Hs) is too low"));
    }
    // It returns only if it fails, and then all is as it was once this is put back.
    let failed = personality::set(personality | Persona::ADDR_NO_RANDOMIZE)
        .map_err(io::Error::from)
        .and_then(|_| again(&before))
        .is_err();
    before.put_back()?;
    Ok(match failed {
        true => Layout::Other("this program cannot be started again"),
        false => Layout::Taken,
    })
}

/// Whether the program of this process is the file that this code is mapped from.
fn is_executed() -> bool {
    let (Ok(program), Ok(text)) =
        (std::fs::read_link("/proc/self/exe"), std::fs::read("/proc/self/maps"))
    else {
        return false;
    };
    let here = is_executed as *const () as u64;
    maps(&text).flatten().any(|map| {
        (map.start..map.end).contains(&here) && *map.name() == *program.as_os_str().as_bytes()
    })
}

/// Takes the variable out of the environment, which whatever is started from here on would inherit.
fn forget_variable() {
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if threads == 1 {
        // SAFETY: nobody else reads or writes the environment: this is the only thread.
        unsafe { std::env::remove_var(VARIABLE) };
    }
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
    let mut variable = OsString::from(format!("{VARIABLE}="));
    variable.push(before.encode());
    environment.push(string(variable)?);
    execve(c"/proc/self/exe", &arguments, &environment)?;
    Ok(())
}

/// What is changed for the new start, or by it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Before {
    /// Soft limit of the stack.
    soft: u64,
    personality: u32,
    /// Name of the process, which would be `exe`.
    name: Vec<u8>,
}

impl Before {
    fn encode(&self) -> OsString {
        let mut text =
            format!("{}:{}:{}:", std::process::id(), self.soft, self.personality).into_bytes();
        text.extend(&self.name);
        OsString::from_vec(text)
    }

    /// `None` in a program that has not started itself: whatever it starts inherits the variable.
    fn of_the_environment() -> Option<Self> {
        Self::decode(std::env::var_os(VARIABLE)?.as_bytes(), std::process::id())
    }

    fn decode(text: &[u8], own: u32) -> Option<Self> {
        let mut parts = text.splitn(4, |&byte| byte == b':');
        let mut next = || parts.next();
        let (pid, soft, personality, name) = (next()?, next()?, next()?, next()?);
        let text = |bytes| std::str::from_utf8(bytes).ok();
        (text(pid)?.parse() == Ok(own)).then_some(Self {
            soft: text(soft)?.parse().ok()?,
            personality: text(personality)?.parse().ok()?,
            name: name.to_vec(),
        })
    }

    fn put_back(&self) -> io::Result<()> {
        let (_, hard) = getrlimit(Resource::RLIMIT_STACK)?;
        setrlimit(Resource::RLIMIT_STACK, self.soft, hard)?;
        personality::set(Persona::from_bits_retain(self.personality.cast_signed()))?;
        if let Ok(name) = CString::new(self.name.clone()) {
            prctl::set_name(&name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_process_itself_is_meant() {
        let before = Before { soft: 8 << 20, personality: 0x40000, name: b"a:b".to_vec() };
        let own = std::process::id();
        let text = before.encode();
        assert_eq!(Before::decode(text.as_bytes(), own), Some(before));
        assert_eq!(Before::decode(text.as_bytes(), own + 1), None);
        for strange in ["", "1", "1:2:3", "1:x:3:n", "-1:2:3:n"] {
            assert_eq!(Before::decode(strange.as_bytes(), 1), None, "{strange}");
        }
    }

    #[test]
    fn this_program_is_the_one_that_is_executed() {
        assert!(is_executed());
    }
}
