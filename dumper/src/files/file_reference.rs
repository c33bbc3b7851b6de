//! Where a process holds a file.

use std::fmt;

use ids::HostPid;

/// The places in which a process holds a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileReference {
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
    Thread(HostPid),
    /// A message that waits in the socket of a descriptor.
    Queue(i32),
}

impl fmt::Display for FileReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Descriptor(fd) => write!(f, "descriptor {fd}"),
            Self::Mapping(start) => write!(f, "mapping at {start:#x}"),
            Self::Exe => write!(f, "program"),
            Self::Cwd => write!(f, "working directory"),
            Self::Root => write!(f, "root directory"),
            Self::Thread(tid) => write!(f, "thread {tid}"),
            Self::Queue(fd) => write!(f, "queue of descriptor {fd}"),
        }
    }
}
