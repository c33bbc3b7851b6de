//! A fanotify group.

use prost::Message;

use super::file_body::file_body;

use super::parts::{FhEntry, FileIdentity, FownEntry};

/// A fanotify group.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct FanotifyFileEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Flags, as `F_GETFL` gives them.
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    /// Who is signalled.
    #[prost(message, required, tag = "3")]
    pub fown: FownEntry,
    /// Flags of `fanotify_init`.
    #[prost(uint32, required, tag = "4")]
    pub faflags: u32,
    /// Flags of the descriptors it hands out.
    #[prost(uint32, required, tag = "5")]
    pub evflags: u32,
    /// Marks.
    #[prost(message, repeated, tag = "6")]
    pub mark: Vec<FanotifyMarkEntry>,
}

/// A mark of a fanotify group.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct FanotifyMarkEntry {
    /// File id of the group.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// 1 on an inode, 2 on a mount; ours: 3 on the file system of one.
    #[prost(uint32, required, tag = "2")]
    pub r#type: u32,
    /// Flags of the mark.
    #[prost(uint32, required, tag = "3")]
    pub mflags: u32,
    /// Events asked for.
    #[prost(uint32, required, tag = "4")]
    pub mask: u32,
    /// Events ignored.
    #[prost(uint32, required, tag = "5")]
    pub ignored_mask: u32,
    /// Device it is on.
    #[prost(uint32, required, tag = "6")]
    pub s_dev: u32,
    /// For an inode.
    #[prost(message, optional, tag = "7")]
    pub ie: Option<FanotifyInodeMarkEntry>,
    /// For a mount.
    #[prost(message, optional, tag = "8")]
    pub me: Option<FanotifyMountMarkEntry>,
    /// Ours: which file the path of an inode mark leads to.
    #[prost(message, optional, tag = "1000")]
    pub identity: Option<FileIdentity>,
    /// Ours: its kind and permissions.
    #[prost(uint32, optional, tag = "1001")]
    pub mode: Option<u32>,
}

/// What an inode mark is on.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct FanotifyInodeMarkEntry {
    /// Inode watched.
    #[prost(uint64, required, tag = "1")]
    pub i_ino: u64,
    /// Handle of it.
    #[prost(message, required, tag = "2")]
    pub f_handle: FhEntry,
}

/// What a mount mark is on.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct FanotifyMountMarkEntry {
    /// Mount, or -1 where there is one mount namespace.
    #[prost(uint32, required, tag = "1")]
    pub mnt_id: u32,
    /// Its path.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub path: Option<Vec<u8>>,
}

file_body! { FanotifyFileEntry { signals belongs_to_nobody } }
