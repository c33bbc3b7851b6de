//! `cgroup.img`: which control groups the tasks are in, and how these are set up.

use prost::Message;

/// All control groups of the tree.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct CgroupEntry {
    #[prost(message, repeated, tag = "1")]
    pub sets: Vec<CgSetEntry>,
    #[prost(message, repeated, tag = "2")]
    pub controllers: Vec<CgControllerEntry>,
}

/// Where a task is in every hierarchy.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct CgSetEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(message, repeated, tag = "2")]
    pub ctls: Vec<CgMemberEntry>,
}

/// Where a task is in one hierarchy.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct CgMemberEntry {
    #[prost(string, required, tag = "1")]
    pub name: String,
    #[prost(bytes = "vec", required, tag = "2")]
    pub path: Vec<u8>,
    #[prost(uint32, optional, tag = "3")]
    pub cgns_prefix: Option<u32>,
}

/// A hierarchy: its controllers and the groups in it that the tree uses.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct CgControllerEntry {
    #[prost(string, repeated, tag = "1")]
    pub cnames: Vec<String>,
    #[prost(message, repeated, tag = "2")]
    pub dirs: Vec<CgroupDirEntry>,
    #[prost(bool, optional, tag = "3")]
    pub is_threaded: Option<bool>,
}

/// A group.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct CgroupDirEntry {
    #[prost(bytes = "vec", required, tag = "1")]
    pub dir_name: Vec<u8>,
    #[prost(message, repeated, tag = "2")]
    pub children: Vec<CgroupDirEntry>,
    #[prost(message, repeated, tag = "3")]
    pub properties: Vec<CgroupPropEntry>,
    #[prost(message, optional, tag = "4")]
    pub dir_perms: Option<CgroupPerms>,
}

/// A file of a group, and its text.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct CgroupPropEntry {
    #[prost(string, required, tag = "1")]
    pub name: String,
    #[prost(bytes = "vec", required, tag = "2")]
    pub value: Vec<u8>,
    #[prost(message, optional, tag = "3")]
    pub perms: Option<CgroupPerms>,
}

/// Owner and mode.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct CgroupPerms {
    #[prost(uint32, required, tag = "1")]
    pub mode: u32,
    #[prost(uint32, required, tag = "2")]
    pub uid: u32,
    #[prost(uint32, required, tag = "3")]
    pub gid: u32,
}
