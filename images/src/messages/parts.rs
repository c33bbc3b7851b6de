//! What entries of several kinds have in them.

use prost::Message;

/// Who is signalled when input or output becomes possible (`F_SETOWN`, `F_SETSIG`). All zero
/// for nobody.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct FownEntry {
    /// Real user id of who asked for it.
    #[prost(uint32, required, tag = "1")]
    pub uid: u32,
    /// Effective user id of who asked for it.
    #[prost(uint32, required, tag = "2")]
    pub euid: u32,
    /// Signal, 0 for `SIGIO`.
    #[prost(uint32, required, tag = "3")]
    pub signum: u32,
    /// 0 thread, 1 process, 2 process group (the kernel's `PIDTYPE_*`).
    #[prost(uint32, required, tag = "4")]
    pub pid_type: u32,
    /// Number of that.
    #[prost(uint32, required, tag = "5")]
    pub pid: u32,
}

/// Extension: which file it was that a path led to, on the machine that it was dumped on. No two files
/// have the same device, inode and birth.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct FileIdentity {
    /// Device, as `st_dev`.
    #[prost(uint64, required, tag = "1")]
    pub device: u64,
    /// Inode.
    #[prost(uint64, required, tag = "2")]
    pub inode: u64,
    /// When it was born, in nanoseconds since 1970.
    #[prost(sint64, required, tag = "3")]
    pub birth: i64,
    /// Owner.
    #[prost(uint32, required, tag = "4")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, required, tag = "5")]
    pub gid: u32,
}

/// A file handle, as `name_to_handle_at` gives it.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct FhEntry {
    /// Bytes of the handle.
    #[prost(uint32, required, tag = "1")]
    pub bytes: u32,
    /// Type of the handle.
    #[prost(uint32, required, tag = "2")]
    pub r#type: u32,
    /// The handle, in double words.
    #[prost(uint64, repeated, packed = "false", tag = "3")]
    pub handle: Vec<u64>,
    /// A path of the file.
    #[prost(bytes = "vec", optional, tag = "4")]
    pub path: Option<Vec<u8>>,
    /// Mount it is on.
    #[prost(uint32, optional, tag = "5")]
    pub mnt_id: Option<u32>,
}
