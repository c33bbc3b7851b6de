//! What is opened by a path.

use prost::Message;

use super::file_body::file_body;

use super::parts::{FileIdentity, FownEntry};

/// Something opened by a path. Also stands for what is not open but has a path: mapped files,
/// executables, working and root directories.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct RegFileEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Flags, as `F_GETFL` gives them.
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    /// File position.
    #[prost(uint64, required, tag = "3")]
    pub pos: u64,
    /// Who is signalled.
    #[prost(message, required, tag = "5")]
    pub fown: FownEntry,
    /// Absolute path below the root of the mount namespace.
    #[prost(bytes = "vec", required, tag = "6")]
    pub name: Vec<u8>,
    /// Mount, or -1 where there is one mount namespace.
    #[prost(sint32, optional, tag = "7", default = "-1")]
    pub mnt_id: Option<i32>,
    /// Its size; if given, it must be the same at the restore.
    #[prost(uint64, optional, tag = "8")]
    pub size: Option<u64>,
    /// It is to be provided from outside.
    #[prost(bool, optional, tag = "9")]
    pub ext: Option<bool>,
    /// Type and permissions, as `st_mode`.
    #[prost(uint32, optional, tag = "10")]
    pub mode: Option<u32>,
    /// The program's build id, in words; if given, it must be the same at the restore.
    #[prost(uint32, repeated, packed = "false", tag = "11")]
    pub build_id: Vec<u32>,
    /// CRC32C of the file.
    #[prost(uint32, optional, tag = "12")]
    pub checksum: Option<u32>,
    /// Which bytes the checksum is of.
    #[prost(uint32, optional, tag = "13")]
    pub checksum_config: Option<u32>,
    /// Parameter of that.
    #[prost(uint32, optional, tag = "14")]
    pub checksum_parameter: Option<u32>,
    /// Extension: which file it was.
    #[prost(message, optional, tag = "1000")]
    pub identity: Option<FileIdentity>,
    /// Extension: what was in it, of a program or a mapped file.
    #[prost(message, optional, tag = "1001")]
    pub content: Option<FileContent>,
    /// Extension: it was made without a name by this open (`O_TMPFILE`), has none still, and may be given one.
    #[prost(bool, optional, tag = "1002")]
    pub unnamed: Option<bool>,
}

/// Extension: how to tell whether there is still in a file what was in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct FileContent {
    /// Last change of its contents, in nanoseconds since 1970.
    #[prost(sint64, required, tag = "1")]
    pub modified: i64,
    /// CRC-32 (IEEE) of all of it; of a file without a build id that is not too large.
    #[prost(fixed32, optional, tag = "2")]
    pub checksum: Option<u32>,
}

file_body! { RegFileEntry { signals belongs_to_nobody } }
