//! A POSIX message queue.

use prost::Message;

use super::file_body::file_body;
use super::owned::Id;

use super::parts::FownEntry;

/// Extension: a POSIX message queue.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct MqueueFileEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Flags, as `F_GETFL` gives them.
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    /// Who is signalled.
    #[prost(message, required, tag = "3")]
    pub fown: FownEntry,
    /// Name, without the stroke.
    #[prost(bytes = "vec", required, tag = "4")]
    pub name: Vec<u8>,
    /// The name is gone, and so is the queue when nobody has it open any more.
    #[prost(bool, optional, tag = "5")]
    pub unlinked: Option<bool>,
    /// Inode: files of one queue have the same.
    #[prost(uint64, required, tag = "6")]
    pub inode: u64,
    /// The machine's boot, in which a queue with that inode is this one.
    #[prost(fixed64, optional, tag = "7")]
    pub boot: Option<u64>,
    /// Most messages.
    #[prost(uint64, required, tag = "8")]
    pub most: u64,
    /// Most bytes of each.
    #[prost(uint64, required, tag = "9")]
    pub bytes: u64,
    /// Owner.
    #[prost(uint32, required, tag = "10")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, required, tag = "11")]
    pub gid: u32,
    /// Type and permissions, as `st_mode`.
    #[prost(uint32, required, tag = "12")]
    pub mode: u32,
}

file_body! {
    MqueueFileEntry { signals }

    fn each_id(&mut self, change: &mut dyn FnMut(Id, &mut u32)) {
        change(Id::User, &mut self.uid);
        change(Id::Group, &mut self.gid);
    }
}
