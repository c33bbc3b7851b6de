//! io_urings: entries of `files.img` that CRIU has not.

use prost::Message;

use super::file_body::file_body;
use super::memory::vma_status;

use super::parts::FownEntry;

/// An io_uring.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct IoUringFileEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Flags, as `F_GETFL` gives them.
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    /// Who is signalled.
    #[prost(message, required, tag = "3")]
    pub fown: FownEntry,
    /// `IORING_SETUP_*`.
    #[prost(uint32, required, tag = "4")]
    pub setup: u32,
    /// Entries of the submission queue.
    #[prost(uint32, required, tag = "5")]
    pub sq_entries: u32,
    /// Entries of the completion queue.
    #[prost(uint32, required, tag = "6")]
    pub cq_entries: u32,
    /// How many submissions the kernel had taken.
    #[prost(uint32, required, tag = "7")]
    pub submitted: u32,
    /// How many completions it had posted.
    #[prost(uint32, required, tag = "8")]
    pub completed: u32,
    /// How many of these had not been taken.
    #[prost(uint32, required, tag = "9")]
    pub unread: u32,
    /// A request had asked for no completion, so that none could ask to wait for those before it.
    #[prost(bool, optional, tag = "10")]
    pub no_drain: Option<bool>,
    /// The memory of both queues.
    #[prost(bytes = "vec", required, tag = "11")]
    pub queues: Vec<u8>,
    /// That of the submissions.
    #[prost(bytes = "vec", required, tag = "12")]
    pub submissions: Vec<u8>,
    /// Registered files, in the order of their places.
    #[prost(message, repeated, tag = "13")]
    pub files: Vec<RingFileEntry>,
    /// The first place in which the kernel may put a file that it opens.
    #[prost(uint32, optional, tag = "14")]
    pub free_start: Option<u32>,
    /// The first behind those.
    #[prost(uint32, optional, tag = "15")]
    pub free_end: Option<u32>,
    /// The eventfd that is told of completions: a number of a file in the checkpoint.
    #[prost(uint32, optional, tag = "16")]
    pub eventfd: Option<u32>,
    /// It is told of those alone that come later than the call.
    #[prost(bool, optional, tag = "17")]
    pub eventfd_async: Option<bool>,
    /// The thread that alone may submit, if it is one.
    #[prost(uint32, optional, tag = "18")]
    pub submitter: Option<u32>,
}

/// A place for a registered file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct RingFileEntry {
    /// The file's number in the checkpoint; none if the place is free.
    #[prost(uint32, optional, tag = "1")]
    pub file: Option<u32>,
    /// What the completion is to say when it is taken out.
    #[prost(uint64, optional, tag = "2")]
    pub tag: Option<u64>,
}

file_body! {
    IoUringFileEntry { signals belongs_to_nobody }

    fn mapping_status(&self) -> u32 {
        vma_status::IO_URING
    }
}
