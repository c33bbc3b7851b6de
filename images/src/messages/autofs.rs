//! File systems of kind `autofs`.

use prost::Message;

/// `autofs-DEVICE.img`: a file system of kind `autofs`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct AutofsEntry {
    /// Descriptor of the pipe's writing end, of the process that reads the other one; it may have closed it since. -1 of a quiet one,
    /// which asks nobody.
    #[prost(int32, required, tag = "1")]
    pub fd: i32,
    /// Process group that is let through.
    #[prost(int32, required, tag = "2")]
    pub pgrp: i32,
    /// Seconds without use after which what is mounted may go.
    #[prost(int32, required, tag = "3")]
    pub timeout: i32,
    /// Oldest version of the protocol.
    #[prost(int32, required, tag = "4")]
    pub minproto: i32,
    /// Newest version of the protocol.
    #[prost(int32, required, tag = "5")]
    pub maxproto: i32,
    /// One of [`autofs_mode`].
    #[prost(int32, required, tag = "6")]
    pub mode: i32,
    /// Owner of what is in it.
    #[prost(int32, optional, tag = "7")]
    pub uid: Option<i32>,
    /// Group of what is in it.
    #[prost(int32, optional, tag = "8")]
    pub gid: Option<i32>,
    /// Descriptor of the reading end, if the process has closed the writing one.
    #[prost(int32, optional, tag = "9")]
    pub read_fd: Option<i32>,
    /// Extension: the process with these descriptors, if it is not the first one of the group.
    #[prost(int32, optional, tag = "1000")]
    pub reader: Option<i32>,
    /// Extension: what is in it, directories before what is in them.
    #[prost(message, repeated, tag = "1001")]
    pub nodes: Vec<AutofsNode>,
    /// Extension: further options.
    #[prost(string, repeated, tag = "1002")]
    pub flags: Vec<String>,
    /// Extension: permissions of its root.
    #[prost(uint32, optional, tag = "1003")]
    pub root_mode: Option<u32>,
}

/// A directory, or a symbolic link. An extension.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct AutofsNode {
    /// Its path from the root of the file system.
    #[prost(bytes = "vec", required, tag = "1")]
    pub path: Vec<u8>,
    /// Permissions.
    #[prost(uint32, required, tag = "2")]
    pub mode: u32,
    /// Where a link leads.
    #[prost(bytes = "vec", optional, tag = "3")]
    pub target: Option<Vec<u8>>,
    /// Owner, if that is not the one of the whole.
    #[prost(uint32, optional, tag = "4")]
    pub uid: Option<u32>,
    /// Group, if that is not the one of the whole.
    #[prost(uint32, optional, tag = "5")]
    pub gid: Option<u32>,
}

/// Values of [`AutofsEntry::mode`].
pub mod autofs_mode {
    /// What is mounted comes over the root.
    pub const DIRECT: i32 = 0;
    /// What is mounted comes to directories in the root.
    pub const INDIRECT: i32 = 1;
    /// As `DIRECT`, inside of what another one has mounted.
    pub const OFFSET: i32 = 2;
}
