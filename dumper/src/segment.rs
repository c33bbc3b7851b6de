//! Memory that is dumped once, whoever maps it or has a descriptor of it.

use std::fs::File;

use ids::HostPid;

/// What tells one piece of memory from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// A file's device and inode. That of shared anonymous memory has such, too.
    File(u64, u64),
    /// A System V segment, whose inode number is its id: others may have that as well.
    SystemV {
        /// The kernel's number of its IPC namespace.
        namespace: u64,
        id: i32,
    },
}

/// Numbers of the images that would be equal are so far apart: farther than inodes and ids of the kernel's go.
pub(crate) const APART: u64 = 1 << 32;

/// Shared memory, or the memory behind a descriptor.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) file: File,
    /// A process that has it.
    pub(crate) pid: HostPid,
    /// Its size, or as far as any mapping reaches if that is more.
    pub(crate) bytes: u64,
    /// As far as any mapping reaches; what lies behind can come to be mapped again.
    pub(crate) mapped: u64,
    /// The number that the images give it.
    pub(crate) number: u64,
}
