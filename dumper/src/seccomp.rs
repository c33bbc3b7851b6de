//! Filters of system calls: read from every thread that has some, and numbered for the images, where each
//! stands once and names the one that was installed before it.
//!
//! What they forbid would end a task in which it is run, and a dump that is killed could not keep them from it.
//! So a task under seccomp is dumped where the kernel's structures tell all of it, or where its filters let pass
//! every call that asking it takes ([`refuse_to_ask`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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
use crate::filters::{Call, first_denied};

/// What a thread may call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Seccomp {
    /// Everything.
    #[default]
    Off,
    /// Read, write, exit and sigreturn.
    Strict,
    /// What these let through, the one first that was installed first.
    Filters(Chain),
}

/// Filters, each installed after the one before it; one copy for all threads that have the same.
type Chain = Arc<[Filter]>;

/// The filters that have been read: threads of a program have the same as a rule, and there may be thousands.
#[derive(Debug, Default)]
pub(crate) struct Chains(BTreeSet<Chain>);

impl Chains {
    /// The one copy of these.
    fn share(&mut self, filters: Vec<Filter>) -> Chain {
        if let Some(known) = self.0.get(&filters[..]) {
            return Arc::clone(known);
        }
        let chain: Chain = filters.into();
        self.0.insert(Arc::clone(&chain));
        chain
    }
}

impl Seccomp {
    /// Reads what a thread has that is in this mode (`/proc/PID/status`).
    pub(crate) fn read(stopped: &Stopped, mode: u32, known: &mut Chains) -> Result<Self, Error> {
        match mode {
            SECCOMP_MODE_DISABLED => Ok(Self::Off),
            SECCOMP_MODE_STRICT => Ok(Self::Strict),
            _ => Ok(Self::Filters(known.share(stopped.seccomp_filters()?))),
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

/// Refuses to make calls in a thread under seccomp that does not let them pass.
pub(crate) fn refuse_to_ask(
    process: &Process,
    tid: HostPid,
    seccomp: &Seccomp,
    calls: &[Call],
) -> Result<(), Error> {
    let denied = match seccomp {
        Seccomp::Off => None,
        // Of all calls four.
        Seccomp::Strict => calls.first(),
        Seccomp::Filters(filters) => first_denied(filters, calls),
    };
    let Some(call) = denied else { return Ok(()) };
    let found = vec![seccomp_asked(tid, call.name, process.in_process.is_some())];
    Err(Error::Refused { root: process.pid, found })
}

/// The filters of a tree, each with the one before it.
#[derive(Debug, Default)]
pub(crate) struct Numbered {
    filters: Vec<SeccompFilter>,
    numbers: BTreeMap<(Option<u32>, Filter), u32>,
    /// The number of the last filter of each chain.
    last: BTreeMap<Chain, Option<u32>>,
}

impl Numbered {
    /// Those of all threads.
    pub(crate) fn of<'a>(threads: impl Iterator<Item = &'a Seccomp>) -> Self {
        let mut numbered = Self::default();
        for seccomp in threads {
            let Seccomp::Filters(filters) = seccomp else { continue };
            if numbered.last.contains_key(filters) {
                continue;
            }
            let mut prev = None;
            for filter in filters.iter() {
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
            numbered.last.insert(Arc::clone(filters), prev);
        }
        numbered
    }

    /// A thread's mode, and the number of the filter that it installed last.
    pub(crate) fn of_thread(&self, seccomp: &Seccomp) -> (u32, Option<u32>) {
        let last = match seccomp {
            Seccomp::Filters(filters) => self.last.get(filters).copied().flatten(),
            _ => None,
        };
        (seccomp.mode(), last)
    }

    /// What `seccomp.img` says.
    pub(crate) fn encode(self) -> SeccompEntry {
        SeccompEntry { seccomp_filters: self.filters }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_with_the_same_filters_share_them() {
        let filter = |number: u8| Filter { instructions: vec![number; 8], flags: 0 };
        let mut chains = Chains::default();
        let one = chains.share(vec![filter(1), filter(2)]);
        let again = chains.share(vec![filter(1), filter(2)]);
        assert!(Arc::ptr_eq(&one, &again));
        let other = chains.share(vec![filter(1), filter(3)]);
        let threads = [one, again, other].map(Seccomp::Filters);
        let numbered = Numbered::of(threads.iter());
        let last: Vec<_> = threads.iter().map(|thread| numbered.of_thread(thread).1).collect();
        assert_eq!(last, [Some(1), Some(1), Some(2)]);
        let prev: Vec<_> = numbered.encode().seccomp_filters.iter().map(|it| it.prev).collect();
        assert_eq!(prev, [None, Some(0), Some(0)]);
    }
}
