//! `cgroup.img`: which control groups the tasks are in, and how these are set up.

use prost::Message;

/// All control groups of the tree.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct CgroupEntry {
    /// Sets of memberships.
    #[prost(message, repeated, tag = "1")]
    pub sets: Vec<CgSetEntry>,
    /// Hierarchies.
    #[prost(message, repeated, tag = "2")]
    pub controllers: Vec<CgControllerEntry>,
}

/// Where a task is in every hierarchy.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct CgSetEntry {
    /// Number that threads refer to.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// A membership a hierarchy.
    #[prost(message, repeated, tag = "2")]
    pub ctls: Vec<CgMemberEntry>,
}

/// Where a task is in one hierarchy.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct CgMemberEntry {
    /// Controllers of the hierarchy, or `name=…`.
    #[prost(string, required, tag = "1")]
    pub name: String,
    /// Group.
    #[prost(bytes = "vec", required, tag = "2")]
    pub path: Vec<u8>,
    /// How much of the path is above the root of the cgroup namespace.
    #[prost(uint32, optional, tag = "3")]
    pub cgns_prefix: Option<u32>,
}

/// A hierarchy: its controllers and the groups in it that the tree uses.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct CgControllerEntry {
    /// Controllers.
    #[prost(string, repeated, tag = "1")]
    pub cnames: Vec<String>,
    /// Groups.
    #[prost(message, repeated, tag = "2")]
    pub dirs: Vec<CgroupDirEntry>,
    /// The hierarchy has threaded groups.
    #[prost(bool, optional, tag = "3")]
    pub is_threaded: Option<bool>,
}

/// A group.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct CgroupDirEntry {
    /// Path, from the group it is in.
    #[prost(bytes = "vec", required, tag = "1")]
    pub dir_name: Vec<u8>,
    /// Groups in it.
    #[prost(message, repeated, tag = "2")]
    pub children: Vec<CgroupDirEntry>,
    /// Its files.
    #[prost(message, repeated, tag = "3")]
    pub properties: Vec<CgroupPropEntry>,
    /// Owner and mode.
    #[prost(message, optional, tag = "4")]
    pub dir_perms: Option<CgroupPerms>,
}

/// A file of a group, and its text.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct CgroupPropEntry {
    /// Name of the file.
    #[prost(string, required, tag = "1")]
    pub name: String,
    /// Text of the file.
    #[prost(bytes = "vec", required, tag = "2")]
    pub value: Vec<u8>,
    /// Owner and mode.
    #[prost(message, optional, tag = "3")]
    pub perms: Option<CgroupPerms>,
}

/// Owner and mode.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct CgroupPerms {
    /// Type and permissions, as `st_mode`.
    #[prost(uint32, required, tag = "1")]
    pub mode: u32,
    /// User id.
    #[prost(uint32, required, tag = "2")]
    pub uid: u32,
    /// Group id.
    #[prost(uint32, required, tag = "3")]
    pub gid: u32,
}
