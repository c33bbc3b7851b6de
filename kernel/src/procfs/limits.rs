//! `/proc/PID/limits`.

use super::parse::{dec, lines, words};
use super::{Malformed, ProcFile};

/// A soft and a hard limit, in the units of `setrlimit`; `None` is unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Limit {
    pub soft: Option<u64>,
    pub hard: Option<u64>,
}

/// What is limited, by its `RLIMIT_*` number on every processor but Alpha, MIPS and SPARC, which
/// number some differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are those of setrlimit(2)")]
pub enum Resource {
    Cpu,
    FileSize,
    Data,
    Stack,
    Core,
    ResidentSet,
    Processes,
    OpenFiles,
    LockedMemory,
    AddressSpace,
    FileLocks,
    PendingSignals,
    MessageQueues,
    Nice,
    RealTimePriority,
    RealTimeTimeout,
}

/// The kernel's names, in the order of the numbers.
const NAMES: [(&[u8], Resource); 16] = [
    (b"Max cpu time", Resource::Cpu),
    (b"Max file size", Resource::FileSize),
    (b"Max data size", Resource::Data),
    (b"Max stack size", Resource::Stack),
    (b"Max core file size", Resource::Core),
    (b"Max resident set", Resource::ResidentSet),
    (b"Max processes", Resource::Processes),
    (b"Max open files", Resource::OpenFiles),
    (b"Max locked memory", Resource::LockedMemory),
    (b"Max address space", Resource::AddressSpace),
    (b"Max file locks", Resource::FileLocks),
    (b"Max pending signals", Resource::PendingSignals),
    (b"Max msgqueue size", Resource::MessageQueues),
    (b"Max nice priority", Resource::Nice),
    (b"Max realtime priority", Resource::RealTimePriority),
    (b"Max realtime timeout", Resource::RealTimeTimeout),
];

/// All limits of a process, in the order of [`Resource`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits(pub [Limit; 16]);

impl Limits {
    /// One of them.
    #[must_use]
    pub const fn get(&self, resource: Resource) -> Limit {
        self.0[resource as usize]
    }
}

fn value(word: Option<&[u8]>) -> Option<Option<u64>> {
    match word? {
        b"unlimited" => Some(None),
        number => Some(Some(dec(number)?)),
    }
}

impl ProcFile for Limits {
    const NAME: &'static str = "limits";

    fn parse(text: &[u8]) -> Result<Self, Malformed> {
        let mut limits = [None; 16];
        for line in lines(text) {
            for &(name, resource) in &NAMES {
                // The name fills a column of 25: what follows it is a blank.
                if let Some(rest) = line.strip_prefix(name)
                    && rest.first() == Some(&b' ')
                {
                    let mut words = words(rest);
                    let limit = value(words.next())
                        .zip(value(words.next()))
                        .ok_or(Malformed("a limit's value"))?;
                    limits[resource as usize] = Some(Limit { soft: limit.0, hard: limit.1 });
                }
            }
        }
        let mut all = [Limit { soft: None, hard: None }; 16];
        for (slot, limit) in all.iter_mut().zip(limits) {
            *slot = limit.ok_or(Malformed("a limit"))?;
        }
        Ok(Self(all))
    }
}

#[cfg(test)]
mod tests {
    use ids::HostPid;

    use super::*;

    #[test]
    fn own_limits_are_those_of_getrlimit() {
        let limits = Limits::read(&super::super::Dir::open(HostPid::own()).unwrap());
        let (soft, hard) =
            nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
        let expected = Limit { soft: Some(soft), hard: Some(hard) };
        assert_eq!(limits.unwrap().get(Resource::OpenFiles), expected);
    }

    #[test]
    fn missing_and_malformed_limits_are_refused() {
        assert_eq!(Limits::parse(b"Max cpu time  1 2 seconds\n"), Err(Malformed("a limit")));
        assert_eq!(Limits::parse(b"Max cpu time  x 2\n"), Err(Malformed("a limit's value")));
    }
}
