//! An eventfd.

use prost::Message;

use super::file_body::file_body;

use super::parts::FownEntry;

/// An eventfd.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct EventfdFileEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Flags, as `F_GETFL` gives them.
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    /// Who is signalled.
    #[prost(message, required, tag = "3")]
    pub fown: FownEntry,
    /// Its counter.
    #[prost(uint64, required, tag = "4")]
    pub counter: u64,
}

file_body! { EventfdFileEntry { signals belongs_to_nobody } }
