//! Why something open in a task cannot be dumped, said so that a person can act on it.

use std::fmt;

/// One thing that stands in the way of a dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The process that holds it.
    pub pid: i32,
    /// Where it holds it.
    pub place: Place,
    /// What it is: the path or the link text of `/proc/PID/fd/N`.
    pub object: String,
    /// Why it cannot be dumped.
    pub reason: String,
    /// What can be done about it.
    pub remedy: String,
}

/// The places in which a process holds a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// An open descriptor.
    Descriptor(i32),
    /// A mapping, by its first address.
    Mapping(u64),
    /// The program it runs.
    Exe,
    /// Its working directory.
    Cwd,
    /// Its root directory.
    Root,
    /// A thread's own, by its tid.
    Thread(i32),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Descriptor(fd) => write!(f, "descriptor {fd}"),
            Self::Mapping(start) => write!(f, "mapping at {start:#x}"),
            Self::Exe => write!(f, "program"),
            Self::Cwd => write!(f, "working directory"),
            Self::Root => write!(f, "root directory"),
            Self::Thread(tid) => write!(f, "thread {tid}"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "process {}, {}, {}: {}; {}",
            self.pid, self.place, self.object, self.reason, self.remedy
        )
    }
}
