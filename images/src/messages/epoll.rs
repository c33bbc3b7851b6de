//! An epoll instance.

use prost::Message;

use super::file_body::file_body;

use super::parts::FownEntry;

/// An epoll instance.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct EventpollFileEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Flags, as `F_GETFL` gives them.
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    /// Who is signalled.
    #[prost(message, required, tag = "3")]
    pub fown: FownEntry,
    /// What it watches.
    #[prost(message, repeated, tag = "4")]
    pub tfd: Vec<EventpollTfdEntry>,
    /// Ours: how it polls network cards (`struct epoll_params`, 8 bytes), if it does.
    #[prost(bytes = "vec", optional, tag = "1000")]
    pub polling: Option<Vec<u8>>,
}

/// A file an epoll instance watches.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct EventpollTfdEntry {
    /// Not used: 0.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Descriptor it was added by.
    #[prost(uint32, required, tag = "2")]
    pub tfd: u32,
    /// `EPOLL*`.
    #[prost(uint32, required, tag = "3")]
    pub events: u32,
    /// What the caller attached.
    #[prost(uint64, required, tag = "4")]
    pub data: u64,
    /// Device of the file, to find it when the descriptor has another now.
    #[prost(uint32, optional, tag = "5")]
    pub dev: Option<u32>,
    /// Inode of the file.
    #[prost(uint64, optional, tag = "6")]
    pub inode: Option<u64>,
    /// Position of the file.
    #[prost(uint64, optional, tag = "7")]
    pub pos: Option<u64>,
}

file_body! { EventpollFileEntry { signals belongs_to_nobody } }
