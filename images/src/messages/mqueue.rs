//! A POSIX message queue.

use prost::Message;

use super::file_body::file_body;
use super::owned::{Id, owned};

use super::parts::FownEntry;
use super::timers::Timespec;

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
    /// The queue is in the images: its number ([`MqueueEntry::id`]).
    #[prost(uint32, optional, tag = "13")]
    pub queue: Option<u32>,
}

/// `ipcns-mq-ID.img`: extension: a POSIX message queue that a restore makes, with its messages. Their bytes follow the entry, in the
/// same order.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct MqueueEntry {
    /// Number of the queue in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Name, without the stroke; none of one that has lost its name.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub name: Option<Vec<u8>>,
    /// Most messages.
    #[prost(uint64, required, tag = "3")]
    pub most: u64,
    /// Most bytes of each.
    #[prost(uint64, required, tag = "4")]
    pub bytes: u64,
    /// Owner.
    #[prost(uint32, required, tag = "5")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, required, tag = "6")]
    pub gid: u32,
    /// Type and permissions, as `st_mode`.
    #[prost(uint32, required, tag = "7")]
    pub mode: u32,
    /// When it was read last.
    #[prost(message, required, tag = "8")]
    pub accessed: Timespec,
    /// When it was changed last.
    #[prost(message, required, tag = "9")]
    pub modified: Timespec,
    /// Its messages, in the order in which they are received.
    #[prost(message, repeated, tag = "10")]
    pub messages: Vec<MqueueMessage>,
}

/// A message in a POSIX queue.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct MqueueMessage {
    /// Its priority.
    #[prost(uint32, required, tag = "1")]
    pub priority: u32,
    /// Its bytes.
    #[prost(uint32, required, tag = "2")]
    pub bytes: u32,
}

owned!(MqueueEntry);

file_body! {
    MqueueFileEntry { signals }

    fn each_id(&mut self, change: &mut dyn FnMut(Id, &mut u32)) {
        change(Id::User, &mut self.uid);
        change(Id::Group, &mut self.gid);
    }
}
