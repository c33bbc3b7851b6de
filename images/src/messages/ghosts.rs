//! Files whose names are gone: `remap-fpath.img` and `ghost-file-ID.img`.

use prost::Message;

use super::owned::owned;

use super::timers::Timeval;

/// [`RemapFilePathEntry::remap_type`]: a name that stands in for the lost one.
pub const REMAP_LINKED: u32 = 0;
/// [`RemapFilePathEntry::remap_type`]: contents in `ghost-file-ID.img`.
pub const REMAP_GHOST: u32 = 1;
/// [`RemapFilePathEntry::remap_type`]: a /proc file of a process that has ended.
pub const REMAP_PROCFS: u32 = 2;

/// `ghost-file-ID.img` (the id in hexadecimal): a file without a name. Its contents follow the
/// entry: the rest of the image, or with `chunks` a sequence of [`GhostChunkEntry`], each
/// followed by its bytes.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct GhostFileEntry {
    /// User id.
    #[prost(uint32, required, tag = "1")]
    pub uid: u32,
    /// Group id.
    #[prost(uint32, required, tag = "2")]
    pub gid: u32,
    /// Type and permissions, as `st_mode`.
    #[prost(uint32, required, tag = "3")]
    pub mode: u32,
    /// Device it was on.
    #[prost(uint32, optional, tag = "4")]
    pub dev: Option<u32>,
    /// Inode it had.
    #[prost(uint64, optional, tag = "5")]
    pub ino: Option<u64>,
    /// Which device it is, if it is one.
    #[prost(uint32, optional, tag = "6")]
    pub rdev: Option<u32>,
    /// Time of last access.
    #[prost(message, optional, tag = "7")]
    pub atim: Option<Timeval>,
    /// Time of last change.
    #[prost(message, optional, tag = "8")]
    pub mtim: Option<Timeval>,
    /// Contents follow in pieces.
    #[prost(bool, optional, tag = "9")]
    pub chunks: Option<bool>,
    /// Its size, where pieces follow.
    #[prost(uint64, optional, tag = "10")]
    pub size: Option<u64>,
    /// Where it leads, if it is a symbolic link.
    #[prost(bytes = "vec", optional, tag = "11")]
    pub symlnk_target: Option<Vec<u8>>,
    /// Extension: its attributes, access lists among them.
    #[prost(message, repeated, tag = "1000")]
    pub attributes: Vec<AttributeEntry>,
    /// Extension: nanoseconds of the times, which `atim` and `mtim` have in microseconds.
    #[prost(uint32, optional, tag = "1001")]
    pub atime_nanoseconds: Option<u32>,
    /// Extension: the same of the last change.
    #[prost(uint32, optional, tag = "1002")]
    pub mtime_nanoseconds: Option<u32>,
    /// Extension: its `FS_*_FL` flags (chattr(1)).
    #[prost(uint32, optional, tag = "1003")]
    pub flags: Option<u32>,
}

/// An attribute of a file (xattr(7)). An extension.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct AttributeEntry {
    /// Its name.
    #[prost(bytes = "vec", required, tag = "1")]
    pub name: Vec<u8>,
    /// Its value.
    #[prost(bytes = "vec", required, tag = "2")]
    pub value: Vec<u8>,
}

/// A piece of a sparse ghost file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct GhostChunkEntry {
    /// Bytes that follow.
    #[prost(uint64, required, tag = "1")]
    pub len: u64,
    /// Where they belong.
    #[prost(uint64, required, tag = "2")]
    pub off: u64,
}

/// `remap-fpath.img`: how a file whose name is gone is found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct RemapFilePathEntry {
    /// File id of what lost its name.
    #[prost(uint32, required, tag = "1")]
    pub orig_id: u32,
    /// File id, ghost number or process, by kind.
    #[prost(uint32, required, tag = "2")]
    pub remap_id: u32,
    /// Kind (`REMAP_*`).
    #[prost(uint32, optional, tag = "3")]
    pub remap_type: Option<u32>,
}

owned! { GhostFileEntry }
