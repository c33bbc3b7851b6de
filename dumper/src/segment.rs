//! Memory that is dumped once, whoever maps it or has a descriptor of it.

use std::fs::File;

use ids::HostPid;

/// Shared memory, or the memory behind a descriptor.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) file: File,
    /// A process that has it.
    pub(crate) pid: HostPid,
    /// As far as any mapping reaches, or its size.
    pub(crate) bytes: u64,
    /// The number that the images give it.
    pub(crate) number: u64,
}
