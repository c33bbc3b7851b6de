//! A pidfd.

use prost::Message;

use super::file_body::file_body;

use super::parts::FownEntry;

/// A pidfd.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct PidfdEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Inode on the pidfd file system.
    #[prost(uint32, required, tag = "2")]
    pub ino: u32,
    /// Flags, as `F_GETFL` gives them, without the access mode.
    #[prost(uint32, required, tag = "3")]
    pub flags: u32,
    /// Process in the namespace; -1 if it has ended.
    #[prost(int32, required, tag = "4")]
    pub nspid: i32,
    /// Who is signalled.
    #[prost(message, required, tag = "5")]
    pub fown: FownEntry,
    /// Extension: how it ended, as wait(2) has it, where the kernel tells.
    #[prost(int32, optional, tag = "1000")]
    pub exit_status: Option<i32>,
}

file_body! { PidfdEntry { signals belongs_to_nobody } }
