//! What a plugin or the caller provides.

use prost::Message;

use super::file_body::file_body;

use super::parts::FownEntry;

/// A file that a plugin or the caller restores.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct ExtFileEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Who is signalled.
    #[prost(message, required, tag = "5")]
    pub fown: FownEntry,
}

file_body! {
    // It has no flags of its own: whoever provides it sets who is signalled.
    ExtFileEntry { signals_nobody belongs_to_nobody }
}
