//! Filters of system calls: read from every thread that has some, and numbered for the images, where each
//! stands once and names the one that was installed before it.
//!
//! Nothing is ever run in a task that has filters: what they forbid would end it, and a dump that is killed
//! could not keep them from it. So a task under seccomp is dumped where the kernel's structures tell all of
//! it ([`refuse_to_ask`]).

use std::collections::BTreeMap;

use collector::Process;
use ids::HostPid;
use images::messages::{
    SECCOMP_MODE_DISABLED, SECCOMP_MODE_FILTER, SECCOMP_MODE_STRICT, SeccompEntry, SeccompFilter,
};
use kernel::ptrace::Stopped;
use kernel::seccomp::Filter;
use support::Unsupported;
use support::settings::{seccomp_asked, seccomp_supervised};

use crate::error::Error;

/// What a thread may call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Seccomp {
    /// Everything.
    #[default]
    Off,
    /// Read, write, exit and sigreturn.
    Strict,
    /// What these let through, the one first that was installed first.
    Filters(Vec<Filter>),
}

impl Seccomp {
    /// Reads what a thread has that is in this mode (`/proc/PID/status`).
    pub(crate) fn read(stopped: &Stopped, mode: u32) -> Result<Self, Error> {
        match mode {
            SECCOMP_MODE_DISABLED => Ok(Self::Off),
            SECCOMP_MODE_STRICT => Ok(Self::Strict),
            _ => Ok(Self::Filters(stopped.seccomp_filters()?)),
        }
    }

    const fn mode(&self) -> u32 {
        match self {
            Self::Off => SECCOMP_MODE_DISABLED,
            Self::Strict => SECCOMP_MODE_STRICT,
            Self::Filters(_) => SECCOMP_MODE_FILTER,
        }
    }

    /// A supervisor, to whom filters hand calls, is lost: it holds a descriptor that belongs to the filter.
    pub(crate) fn unsupported(&self, tid: HostPid) -> Option<Unsupported> {
        match self {
            Self::Filters(filters) if filters.iter().any(Filter::notifies) => {
                Some(seccomp_supervised(tid))
            }
            _ => None,
        }
    }
}

/// Refuses to run code in a thread under seccomp.
pub(crate) fn refuse_to_ask(
    process: &Process,
    tid: HostPid,
    seccomp: &Seccomp,
) -> Result<(), Error> {
    match seccomp {
        Seccomp::Off => Ok(()),
        _ => {
            let found = vec![seccomp_asked(tid, process.in_process.is_some())];
            Err(Error::Refused { root: process.pid, found })
        }
    }
}

/// The filters of a tree, each with the one before it.
#[derive(Debug, Default)]
pub(crate) struct Numbered {
    filters: Vec<SeccompFilter>,
    numbers: BTreeMap<(Option<u32>, Filter), u32>,
}

impl Numbered {
    /// Those of all threads.
    pub(crate) fn of<'a>(threads: impl Iterator<Item = &'a Seccomp>) -> Self {
        let mut numbered = Self::default();
        for seccomp in threads {
            let Seccomp::Filters(filters) = seccomp else { continue };
            let mut prev = None;
            for filter in filters {
                let next = u32::try_from(numbered.filters.len()).unwrap_or(u32::MAX);
                let number = *numbered.numbers.entry((prev, filter.clone())).or_insert(next);
                if number == next {
                    numbered.filters.push(SeccompFilter {
                        filter: filter.instructions.clone(),
                        prev,
                        flags: (filter.flags != 0).then_some(filter.flags),
                    });
                }
                prev = Some(number);
            }
        }
        numbered
    }

    /// A thread's mode, and the number of the filter that it installed last.
    pub(crate) fn of_thread(&self, seccomp: &Seccomp) -> (u32, Option<u32>) {
        let last = match seccomp {
            Seccomp::Filters(filters) => filters
                .iter()
                .fold(None, |prev, filter| self.numbers.get(&(prev, filter.clone())).copied()),
            _ => None,
        };
        (seccomp.mode(), last)
    }

    /// What `seccomp.img` says.
    pub(crate) fn encode(self) -> SeccompEntry {
        SeccompEntry { seccomp_filters: self.filters }
    }
}
