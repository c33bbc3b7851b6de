//! A fifo.

use prost::Message;

use super::file_body::file_body;

/// An open fifo: pipe identity plus the [`RegFileEntry`](super::RegFileEntry) with id `regf_id`
/// (or its own id in old images) for its path.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct FifoEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Inode of the fifo.
    #[prost(uint32, required, tag = "2")]
    pub pipe_id: u32,
    /// File id of its path.
    #[prost(uint32, optional, tag = "3")]
    pub regf_id: Option<u32>,
}

file_body! {
    // It is the file of its path that signals.
    FifoEntry { signals_nobody belongs_to_nobody }

    fn path(&self) -> Option<u32> {
        self.regf_id
    }
}
