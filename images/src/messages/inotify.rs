//! An inotify instance.

use prost::Message;

use super::file_body::file_body;

use super::parts::{FhEntry, FileIdentity, FownEntry};

/// An inotify instance.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct InotifyFileEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Flags, as `F_GETFL` gives them.
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    /// Who is signalled.
    #[prost(message, required, tag = "4")]
    pub fown: FownEntry,
    /// Watches.
    #[prost(message, repeated, tag = "5")]
    pub wd: Vec<InotifyWdEntry>,
    /// Ours: events waited in it, which are lost.
    #[prost(bool, optional, tag = "1000")]
    pub events_lost: Option<bool>,
}

/// A watch of an inotify instance.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct InotifyWdEntry {
    /// File id of the instance.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Inode watched.
    #[prost(uint64, required, tag = "2")]
    pub i_ino: u64,
    /// Events asked for.
    #[prost(uint32, required, tag = "3")]
    pub mask: u32,
    /// Events ignored.
    #[prost(uint32, required, tag = "4")]
    pub ignored_mask: u32,
    /// Device it is on.
    #[prost(uint32, required, tag = "5")]
    pub s_dev: u32,
    /// Number of the watch.
    #[prost(uint32, required, tag = "6")]
    pub wd: u32,
    /// Handle of it.
    #[prost(message, required, tag = "7")]
    pub f_handle: FhEntry,
    /// Ours: which file the path leads to.
    #[prost(message, optional, tag = "1000")]
    pub identity: Option<FileIdentity>,
    /// Ours: its kind and permissions.
    #[prost(uint32, optional, tag = "1001")]
    pub mode: Option<u32>,
}

file_body! { InotifyFileEntry { signals belongs_to_nobody } }
