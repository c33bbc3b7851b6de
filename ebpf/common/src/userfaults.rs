//! Memory whose faults are served by userfaultfds.

#[cfg(feature = "host")]
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::Header;

/// A descriptor of a file without a name. (Who reads the records knows which are of userfaultfds; of others the rest is anything.)
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct UserfaultRecord {
    /// The header.
    pub header: Header,
    /// What the kernel keeps of it: equal ones are the same.
    pub context: u64,
    /// The descriptor.
    pub fd: i32,
    /// `UFFD_USER_MODE_ONLY`.
    pub flags: u32,
    /// `UFFD_FEATURE_*`, with a bit that says that it was asked for them.
    pub features: u32,
    /// 1 if it serves the memory of the process that has the descriptor.
    pub own: u32,
}

/// [`UserfaultRecord::features`]: the program has asked for them (`UFFDIO_API`), be it for none.
pub const USERFAULT_STARTED: u32 = 1 << 31;

/// A mapping whose faults are served.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct ServedRecord {
    /// The header.
    pub header: Header,
    /// Its first address.
    pub start: u64,
    /// By which userfaultfd.
    pub context: u64,
}
