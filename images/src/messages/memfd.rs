//! A memfd, and its contents (`memfd.img`).

use prost::Message;

use super::file_body::file_body;
use super::memory::vma_status;
use super::owned::owned;

use super::ghosts::AttributeEntry;
use super::parts::FownEntry;

/// An open file description of a memfd.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct MemfdFileEntry {
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
    #[prost(message, required, tag = "4")]
    pub fown: FownEntry,
    /// Its contents, a [`MemfdInodeEntry`].
    #[prost(uint32, required, tag = "5")]
    pub inode_id: u32,
}

/// `memfd.img`: a memfd's contents; the bytes are in the shared memory `shmid`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct MemfdInodeEntry {
    /// Name without `memfd:`; `/dev/zero` for shared anonymous memory.
    #[prost(bytes = "vec", required, tag = "1")]
    pub name: Vec<u8>,
    /// User id.
    #[prost(uint32, required, tag = "2")]
    pub uid: u32,
    /// Group id.
    #[prost(uint32, required, tag = "3")]
    pub gid: u32,
    /// Size in bytes.
    #[prost(uint64, required, tag = "4")]
    pub size: u64,
    /// Its pages: `pagemap-shmem-ID.img`.
    #[prost(uint32, required, tag = "5")]
    pub shmid: u32,
    /// `F_SEAL_*`.
    #[prost(uint32, required, tag = "6")]
    pub seals: u32,
    /// Number that files refer to.
    #[prost(uint64, required, tag = "7")]
    pub inode_id: u64,
    /// Size of huge pages, as `MFD_HUGE_*`.
    #[prost(uint32, optional, tag = "8")]
    pub hugetlb_flag: Option<u32>,
    /// Type and permissions, as `st_mode`.
    #[prost(uint32, optional, tag = "9")]
    pub mode: Option<u32>,
    /// Extension: its attributes.
    #[prost(message, repeated, tag = "1000")]
    pub attributes: Vec<AttributeEntry>,
    /// Extension: when it was read and written last.
    #[prost(message, optional, tag = "1001")]
    pub times: Option<FileTimesEntry>,
    /// Extension: blocks of 512 bytes that it has, those among them that are only reserved.
    #[prost(uint64, optional, tag = "1002")]
    pub blocks: Option<u64>,
    /// Extension: its `FS_*_FL` flags (chattr(1)).
    #[prost(uint32, optional, tag = "1003")]
    pub flags: Option<u32>,
}

/// Times of a file, since 1970. An extension.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct FileTimesEntry {
    /// Seconds of the last access.
    #[prost(sint64, required, tag = "1")]
    pub accessed: i64,
    /// Its nanoseconds.
    #[prost(uint32, required, tag = "2")]
    pub accessed_nanoseconds: u32,
    /// Seconds of the last change of the contents.
    #[prost(sint64, required, tag = "3")]
    pub changed: i64,
    /// Its nanoseconds.
    #[prost(uint32, required, tag = "4")]
    pub changed_nanoseconds: u32,
}

file_body! {
    MemfdFileEntry { signals belongs_to_nobody }

    fn mapping_status(&self) -> u32 {
        vma_status::MEMFD
    }
}

owned! { MemfdInodeEntry }
