//! io_urings.

#[cfg(feature = "host")]
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::Header;

/// What a descriptor leads to that may be an io_uring: of something else it says nothing that makes sense.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct RingRecord {
    /// The header.
    pub header: Header,
    /// The descriptor.
    pub fd: i32,
    /// `IORING_SETUP_*`.
    pub flags: u32,
    /// Entries of the submission queue.
    pub submission_entries: u32,
    /// How many entries the kernel has taken from it.
    pub submitted: u32,
    /// Entries of the completion queue.
    pub completion_entries: u32,
    /// How many entries the kernel has put into it.
    pub completed: u32,
    /// The one thread that may submit; 0 if any may.
    pub submitter: i32,
    /// The number of the eventfd that is told of completions, or -1.
    pub eventfd: i32,
    /// 1 if the eventfd is told of those alone that come later than the call.
    pub eventfd_async: u32,
    /// Places for registered files.
    pub files: u32,
    /// The first place that the kernel may choose itself, and the first behind those.
    pub free_places: [u32; 2],
    /// Registered buffers.
    pub buffers: u32,
    /// What else it has: bits of [`ring`].
    pub has: u32,
}

/// What a ring may have that a checkpoint does not carry, and whether that can be told.
pub mod ring {
    /// This kernel lacks what tells the rest.
    pub const UNKNOWN: u32 = 1 << 0;
    /// Credentials that requests may ask for.
    pub const PERSONALITIES: u32 = 1 << 1;
    /// Operations that are forbidden.
    pub const RESTRICTIONS: u32 = 1 << 2;
    /// Groups of buffers that the kernel chooses from.
    pub const BUFFER_GROUPS: u32 = 1 << 3;
    /// Completions that there was no room for.
    pub const OVERFLOW: u32 = 1 << 4;
    /// Network devices that are polled.
    pub const POLLED_DEVICES: u32 = 1 << 5;
    /// A region of memory with arguments of waits.
    pub const WAIT_REGION: u32 = 1 << 6;
    /// Queues of network devices that it receives from.
    pub const RECEIVE_QUEUES: u32 = 1 << 7;
    /// Limits on the kernel's threads that work for it.
    pub const WORKERS: u32 = 1 << 8;
    /// Another clock than that which is usual.
    pub const CLOCK: u32 = 1 << 9;
    /// Requests that wait for a time.
    pub const TIMEOUTS: u32 = 1 << 10;
    /// (Not refused.) No request may ask to wait for those before it: one has asked for no completion.
    pub const NO_DRAIN: u32 = 1 << 11;
}

/// A place for a file that is registered with a ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct RegisteredFile {
    /// Names the open file description; 0 if the place is free.
    pub file: u64,
    /// What its completion is to say when it is taken out.
    pub tag: u64,
}

/// So many registered files of a ring are told.
pub const REGISTERED_FILES: u32 = 128;

/// A thread that has submitted to rings.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "host", derive(FromBytes, Immutable, KnownLayout))]
pub struct RequestsRecord {
    /// The header.
    pub header: Header,
    /// The thread.
    pub tid: i32,
    /// Requests of it that have not been completed; [`AIO_UNKNOWN`] where that cannot be told.
    pub in_flight: u32,
    /// Places in which it has rings registered.
    pub registered: u32,
    /// Nothing.
    pub pad: u32,
}
