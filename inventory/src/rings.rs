//! io_urings.

use ids::HostPid;

/// An io_uring, by a descriptor that leads to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ring {
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
    /// The one thread that may submit; `None` if any may.
    pub submitter: Option<HostPid>,
    /// The number of the eventfd that is told of completions (`eventfd-id` in its fdinfo).
    pub eventfd: Option<u32>,
    /// The eventfd is told of those alone that come later than the call.
    pub eventfd_async: bool,
    /// Places for registered files.
    pub places: u32,
    /// Registered files, in the order of their places; empty if there are too many to be told.
    pub files: Vec<Registered>,
    /// The first place that the kernel may choose itself, and the first behind those.
    pub free_places: [u32; 2],
    /// Registered buffers.
    pub buffers: u32,
    /// What else it has: bits of [`ebpf_common::ring`].
    pub has: u32,
}

impl Ring {
    /// Whether a request has asked for no completion, so that none may ask to wait for those before it.
    #[must_use]
    pub const fn has_no_drain(&self) -> bool {
        self.has & ebpf_common::ring::NO_DRAIN != 0
    }
}

/// A place for a file that is registered with a ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registered {
    /// A descriptor of the process for the same open file.
    pub file: RegisteredFile,
    /// What its completion is to say when it is taken out.
    pub tag: u64,
}

/// What is in a place for registered files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RegisteredFile {
    /// Nothing.
    #[default]
    None,
    /// The open file that the process has as this descriptor.
    Descriptor(i32),
    /// One that the process has no descriptor for.
    Elsewhere,
}

/// What a thread has in flight with io_urings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requests {
    /// The thread.
    pub tid: HostPid,
    /// Requests that have not been completed; `None` where the kernel does not tell.
    pub in_flight: Option<u32>,
    /// Places in which it has rings registered.
    pub registered: u32,
}
