//! System V IPC: shared memory, semaphores and message queues.

use prost::Message;

use super::owned::{Id, Owned};

use super::memory::HUGE_SHIFT;

/// What all System V objects have.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct IpcDescEntry {
    /// Key, 0 for none.
    #[prost(uint32, required, tag = "1")]
    pub key: u32,
    /// Owner.
    #[prost(uint32, required, tag = "2")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, required, tag = "3")]
    pub gid: u32,
    /// Who made it.
    #[prost(uint32, required, tag = "4")]
    pub cuid: u32,
    /// The group of who made it.
    #[prost(uint32, required, tag = "5")]
    pub cgid: u32,
    /// Permissions, and above them flags of the kernel's.
    #[prost(uint32, required, tag = "6")]
    pub mode: u32,
    /// Id.
    #[prost(uint32, required, tag = "7")]
    pub id: u32,
}

/// `ipcns-shm-ID.img`: a shared memory segment.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct IpcShmEntry {
    /// Whose it is.
    #[prost(message, required, tag = "1")]
    pub desc: IpcDescEntry,
    /// Its size in bytes.
    #[prost(uint64, required, tag = "2")]
    pub size: u64,
    /// Whether its contents are in page maps. If not, they follow the entry.
    #[prost(bool, optional, tag = "3")]
    pub in_pagemaps: Option<bool>,
    /// `SHM_HUGETLB` with the size of its pages.
    #[prost(uint32, optional, tag = "4")]
    pub hugetlb_flag: Option<u32>,
    /// The number of its page map, where that is not its id (ours).
    #[prost(uint64, optional, tag = "1000")]
    pub pages: Option<u64>,
    /// The machine's boot, of a segment in the dumper's own namespace: in the same one the kernel gives no id to two (ours).
    #[prost(fixed64, optional, tag = "1001")]
    pub boot: Option<u64>,
}

impl IpcShmEntry {
    /// The number of its page map: `pagemap-shmem-NUMBER.img`.
    pub fn page_map(&self) -> u64 {
        self.pages.unwrap_or_else(|| self.desc.id.into())
    }

    /// If it is in huge pages, of which size: two to the power of that; 0 for the size that the kernel takes by itself.
    pub fn huge_page_shift(&self) -> Option<u32> {
        self.hugetlb_flag.filter(|flags| *flags != 0).map(|flags| flags >> HUGE_SHIFT)
    }
}

/// `ipcns-sem-ID.img`: a set of semaphores. Their values follow, two bytes each, filled up to a multiple of 8 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct IpcSemEntry {
    /// Whose it is.
    #[prost(message, required, tag = "1")]
    pub desc: IpcDescEntry,
    /// How many there are.
    #[prost(uint32, required, tag = "2")]
    pub nsems: u32,
}

/// `ipcns-msg-ID.img`: a message queue. Its messages follow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct IpcMsgEntry {
    /// Whose it is.
    #[prost(message, required, tag = "1")]
    pub desc: IpcDescEntry,
    /// Most bytes in it.
    #[prost(uint32, required, tag = "2")]
    pub qbytes: u32,
    /// Messages in it.
    #[prost(uint32, required, tag = "3")]
    pub qnum: u32,
}

/// A message in a queue. Its bytes follow, filled up to a multiple of 8.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct IpcMsg {
    /// Type.
    #[prost(uint64, required, tag = "1")]
    pub mtype: u64,
    /// Bytes.
    #[prost(uint32, required, tag = "2")]
    pub msize: u32,
}

impl Owned for IpcDescEntry {
    fn each_id(&mut self, change: &mut dyn FnMut(Id, &mut u32)) {
        for user in [&mut self.uid, &mut self.cuid] {
            change(Id::User, user);
        }
        for group in [&mut self.gid, &mut self.cgid] {
            change(Id::Group, group);
        }
    }
}
