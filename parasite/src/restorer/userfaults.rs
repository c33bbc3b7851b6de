//! Userfaultfds.

/// A call by which a userfaultfd of the process comes to serve what it served.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserfaultCall {
    /// Its descriptor.
    pub fd: i32,
    /// One of [`ASK`], [`REGISTER`].
    pub call: u32,
    /// The features to ask for, or the first address of memory.
    pub start: u64,
    /// Its bytes.
    pub bytes: u64,
    /// `UFFDIO_REGISTER_MODE_*`.
    pub mode: u64,
}

/// [`UserfaultCall::call`]: to ask for features (`UFFDIO_API`).
pub const ASK: u32 = 0;
/// [`UserfaultCall::call`]: to have it serve memory (`UFFDIO_REGISTER`).
pub const REGISTER: u32 = 1;
