//! A pipe, and what is in one (`pipes-data.img`, `fifo-data.img`).

use prost::Message;

use super::file_body::file_body;
use super::owned::{Id, Owned};

use super::parts::FownEntry;
use super::sockets::FilePermsEntry;

/// One end of a pipe. Ends with the same `pipe_id` are of one pipe; `flags` says which end.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct PipeEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Inode of the pipe.
    #[prost(uint32, required, tag = "2")]
    pub pipe_id: u32,
    /// Flags, as `F_GETFL` gives them: they say which end it is.
    #[prost(uint32, required, tag = "3")]
    pub flags: u32,
    /// Who is signalled.
    #[prost(message, required, tag = "4")]
    pub fown: FownEntry,
    /// The pipe is held by others as well, who keep it as it is: it is joined again if it is there still.
    /// The machine's boot in which it was (the first half of its boot id). Not CRIU's.
    #[prost(fixed64, optional, tag = "1000")]
    pub boot: Option<u64>,
    /// Owner and mode of the pipe, where they are not a new one's of root. An extension.
    #[prost(message, optional, tag = "1001")]
    pub inode: Option<FilePermsEntry>,
}

/// `pipes-data.img` and `fifo-data.img`: what is in a pipe. `bytes` bytes follow the entry.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct PipeDataEntry {
    /// Which pipe.
    #[prost(uint32, required, tag = "1")]
    pub pipe_id: u32,
    /// Bytes that follow.
    #[prost(uint32, required, tag = "2")]
    pub bytes: u32,
    /// Size of its buffer (`F_GETPIPE_SZ`).
    #[prost(uint32, optional, tag = "3")]
    pub size: Option<u32>,
    /// Extension: lengths of the packets (written with `O_DIRECT`) that the bytes begin with.
    #[prost(uint32, repeated, tag = "1000")]
    pub packets: Vec<u32>,
}

file_body! {
    PipeEntry { signals }

    fn each_id(&mut self, change: &mut dyn FnMut(Id, &mut u32)) {
        self.inode.iter_mut().for_each(|inode| inode.each_id(change));
    }
}
