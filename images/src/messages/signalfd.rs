//! A signalfd.

use prost::Message;

use super::file_body::file_body;

use super::parts::FownEntry;

/// A signalfd.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct SignalfdEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Flags, as `F_GETFL` gives them.
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    /// Who is signalled.
    #[prost(message, required, tag = "3")]
    pub fown: FownEntry,
    /// Signals it tells of, signal 1 in bit 0.
    #[prost(uint64, required, tag = "4")]
    pub sigmask: u64,
}

file_body! { SignalfdEntry { signals belongs_to_nobody } }
