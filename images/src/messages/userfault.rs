//! userfaultfds: entries of `files.img` that CRIU has not.

use prost::Message;

use super::file_body::file_body;

use super::parts::FownEntry;

/// A userfaultfd, of the process that has it.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct UserfaultFileEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Flags, as `F_GETFL` gives them.
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    /// Who is signalled.
    #[prost(message, required, tag = "3")]
    pub fown: FownEntry,
    /// `UFFD_FEATURE_*`, if it was asked for them.
    #[prost(uint64, optional, tag = "4")]
    pub features: Option<u64>,
    /// Faults of the kernel's own accesses are not served.
    #[prost(bool, optional, tag = "5")]
    pub user_mode_only: Option<bool>,
    /// The memory whose faults it serves.
    #[prost(message, repeated, tag = "6")]
    pub served: Vec<UserfaultMemoryEntry>,
}

/// Memory whose faults are served.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct UserfaultMemoryEntry {
    /// First address.
    #[prost(uint64, required, tag = "1")]
    pub start: u64,
    /// Its bytes.
    #[prost(uint64, required, tag = "2")]
    pub bytes: u64,
    /// `UFFDIO_REGISTER_MODE_*`.
    #[prost(uint64, required, tag = "3")]
    pub modes: u64,
}

file_body! { UserfaultFileEntry { signals belongs_to_nobody } }
