//! A namespace.

use prost::Message;

use super::file_body::file_body;

/// A namespace opened through /proc.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct NsFileEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Number of the namespace.
    #[prost(uint32, required, tag = "2")]
    pub ns_id: u32,
    /// Its kind (`CLONE_NEW*`).
    #[prost(uint32, required, tag = "3")]
    pub ns_cflag: u32,
    /// Flags, as `F_GETFL` gives them.
    #[prost(uint32, required, tag = "4")]
    pub flags: u32,
}

file_body! {
    NsFileEntry { signals_nobody belongs_to_nobody }

    fn namespace_mut(&mut self) -> Option<(u32, &mut u32)> {
        Some((self.ns_cflag, &mut self.ns_id))
    }
}
