//! Namespaces: the small ones whose state is a message.

use prost::Message;

use super::networks::NamedSysctl;
use super::owned::owned;

use super::timers::Timespec;

/// `utsns-ID.img`: host and domain name.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct UtsnsEntry {
    /// Host name.
    #[prost(bytes = "vec", required, tag = "1")]
    pub nodename: Vec<u8>,
    /// Domain name.
    #[prost(bytes = "vec", required, tag = "2")]
    pub domainname: Vec<u8>,
}

/// `ipcns-var-ID.img`: limits of an IPC namespace.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct IpcVarEntry {
    /// The limit of that name under /proc/sys (`kernel`, `fs/mqueue`).
    #[prost(uint32, repeated, packed = "false", tag = "1")]
    pub sem_ctls: Vec<u32>,
    /// The limit of that name under /proc/sys (`kernel`, `fs/mqueue`).
    #[prost(uint32, required, tag = "2")]
    pub msg_ctlmax: u32,
    /// The limit of that name under /proc/sys (`kernel`, `fs/mqueue`).
    #[prost(uint32, required, tag = "3")]
    pub msg_ctlmnb: u32,
    /// The limit of that name under /proc/sys (`kernel`, `fs/mqueue`).
    #[prost(uint32, required, tag = "4")]
    pub msg_ctlmni: u32,
    /// The limit of that name under /proc/sys (`kernel`, `fs/mqueue`).
    #[prost(uint32, required, tag = "5")]
    pub auto_msgmni: u32,
    /// The limit of that name under /proc/sys (`kernel`, `fs/mqueue`).
    #[prost(uint64, required, tag = "6")]
    pub shm_ctlmax: u64,
    /// The limit of that name under /proc/sys (`kernel`, `fs/mqueue`).
    #[prost(uint64, required, tag = "7")]
    pub shm_ctlall: u64,
    /// The limit of that name under /proc/sys (`kernel`, `fs/mqueue`).
    #[prost(uint32, required, tag = "8")]
    pub shm_ctlmni: u32,
    /// The limit of that name under /proc/sys (`kernel`, `fs/mqueue`).
    #[prost(uint32, required, tag = "9")]
    pub shm_rmid_forced: u32,
    /// The limit of that name under /proc/sys (`kernel`, `fs/mqueue`).
    #[prost(uint32, required, tag = "10")]
    pub mq_queues_max: u32,
    /// The limit of that name under /proc/sys (`kernel`, `fs/mqueue`).
    #[prost(uint32, required, tag = "11")]
    pub mq_msg_max: u32,
    /// The limit of that name under /proc/sys (`kernel`, `fs/mqueue`).
    #[prost(uint32, required, tag = "12")]
    pub mq_msgsize_max: u32,
    /// The limit of that name under /proc/sys (`kernel`, `fs/mqueue`).
    #[prost(uint32, optional, tag = "13")]
    pub mq_msg_default: Option<u32>,
    /// The limit of that name under /proc/sys (`kernel`, `fs/mqueue`).
    #[prost(uint32, optional, tag = "14")]
    pub mq_msgsize_default: Option<u32>,
    /// The limit of that name under /proc/sys (`kernel`, `fs/mqueue`).
    #[prost(uint32, optional, tag = "15")]
    pub msg_next_id: Option<u32>,
    /// The limit of that name under /proc/sys (`kernel`, `fs/mqueue`).
    #[prost(uint32, optional, tag = "16")]
    pub sem_next_id: Option<u32>,
    /// The limit of that name under /proc/sys (`kernel`, `fs/mqueue`).
    #[prost(uint32, optional, tag = "17")]
    pub shm_next_id: Option<u32>,
}

/// `timens-0.img`: the clocks when the dump was made, from which a restore computes offsets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct TimensEntry {
    /// `CLOCK_MONOTONIC`.
    #[prost(message, required, tag = "1")]
    pub monotonic: Timespec,
    /// `CLOCK_BOOTTIME`.
    #[prost(message, required, tag = "2")]
    pub boottime: Timespec,
}

/// `userns-ID.img`: how user and group ids map.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct UsernsEntry {
    /// User ids.
    #[prost(message, repeated, tag = "1")]
    pub uid_map: Vec<UidGidExtent>,
    /// Group ids.
    #[prost(message, repeated, tag = "2")]
    pub gid_map: Vec<UidGidExtent>,
    /// Extension: project ids, where they are mapped.
    #[prost(message, repeated, tag = "1000")]
    pub projid_map: Vec<UidGidExtent>,
    /// Extension: nobody in it may call setgroups(2).
    #[prost(bool, optional, tag = "1001")]
    pub setgroups_denied: Option<bool>,
    /// Extension: the numbers of those namespaces of the tree that belong to the user namespace around this one.
    #[prost(uint32, repeated, packed = "false", tag = "1002")]
    pub not_owned: Vec<u32>,
    /// Extension: the user who owns it, as he is called around it.
    #[prost(uint32, optional, tag = "1003")]
    pub owner: Option<u32>,
    /// Extension: it is below that of the tree's root. Ids of tasks in it are as the root's has them, and their capabilities are
    /// [`super::CredsEntry::cap_nested`].
    #[prost(bool, optional, tag = "1004")]
    pub nested: Option<bool>,
    /// Extension: the numbers of those namespaces of the tree that belong to it, of one that is nested.
    #[prost(uint32, repeated, packed = "false", tag = "1005")]
    pub owned: Vec<u32>,
    /// Extension: the number of the one around it, of one that is nested in another that is.
    #[prost(uint32, optional, tag = "1006")]
    pub around: Option<u32>,
    /// Extension: how many of something each of its users may have, where somebody has said so, by the names of files below
    /// `/proc/sys/user`.
    #[prost(message, repeated, tag = "1007")]
    pub limits: Vec<NamedSysctl>,
}

/// A range of ids.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct UidGidExtent {
    /// First id inside.
    #[prost(uint32, required, tag = "1")]
    pub first: u32,
    /// First id outside.
    #[prost(uint32, required, tag = "2")]
    pub lower_first: u32,
    /// How many.
    #[prost(uint32, required, tag = "3")]
    pub count: u32,
}

/// `pidns-ID.img`: an external pid namespace.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct PidnsEntry {
    /// Key by which a restore is told what stands for it.
    #[prost(string, optional, tag = "1")]
    pub ext_key: Option<String>,
}

/// `mountpoints-ID.img`: a mount.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct MntEntry {
    /// Kind of file system, in CRIU's numbering.
    #[prost(uint32, required, tag = "1")]
    pub fstype: u32,
    /// Its number.
    #[prost(uint32, required, tag = "2")]
    pub mnt_id: u32,
    /// Device of its root.
    #[prost(uint32, required, tag = "3")]
    pub root_dev: u32,
    /// Mount that it is on.
    #[prost(uint32, required, tag = "4")]
    pub parent_mnt_id: u32,
    /// `MS_*` of the mount.
    #[prost(uint32, required, tag = "5")]
    pub flags: u32,
    /// What of the file system is mounted.
    #[prost(bytes = "vec", required, tag = "6")]
    pub root: Vec<u8>,
    /// Where, from the root of the namespace.
    #[prost(bytes = "vec", required, tag = "7")]
    pub mountpoint: Vec<u8>,
    /// From what.
    #[prost(bytes = "vec", required, tag = "8")]
    pub source: Vec<u8>,
    /// Options of the file system.
    #[prost(bytes = "vec", required, tag = "9")]
    pub options: Vec<u8>,
    /// Peer group.
    #[prost(uint32, optional, tag = "10")]
    pub shared_id: Option<u32>,
    /// Peer group it receives from.
    #[prost(uint32, optional, tag = "11")]
    pub master_id: Option<u32>,
    /// A plugin restores it.
    #[prost(bool, optional, tag = "12")]
    pub with_plugin: Option<bool>,
    /// It comes from outside.
    #[prost(bool, optional, tag = "13")]
    pub ext_mount: Option<bool>,
    /// Name of a file system that is not in the numbering.
    #[prost(string, optional, tag = "14")]
    pub fsname: Option<String>,
    /// Its sharing is within the namespaces dumped.
    #[prost(bool, optional, tag = "15")]
    pub internal_sharing: Option<bool>,
    /// What is mounted has been deleted since.
    #[prost(bool, optional, tag = "16")]
    pub deleted: Option<bool>,
    /// `MS_*` of the file system.
    #[prost(uint32, optional, tag = "17")]
    pub sb_flags: Option<u32>,
    /// Key by which a restore is told what stands for it.
    #[prost(string, optional, tag = "18")]
    pub ext_key: Option<String>,
    /// Extension: the pid namespace that it shows, of a `proc`, if that is below that of the tree's root.
    #[prost(uint32, optional, tag = "1000")]
    pub pid_ns_id: Option<u32>,
    /// What is mounted, if it has been deleted since. An extension.
    #[prost(message, optional, tag = "1001")]
    pub lost: Option<LostMountEntry>,
    /// The layers of this overlay are not what its options say where this mount is: another mount of it is made. An extension.
    #[prost(bool, optional, tag = "1002")]
    pub layers_elsewhere: Option<bool>,
    /// The layers of this overlay are what its options say in the namespace of who dumps and restores, or (`false`) in that of the
    /// mount. An extension.
    #[prost(bool, optional, tag = "1003")]
    pub layers_outside: Option<bool>,
}

/// A file or directory that is mounted and has been deleted since. An extension.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct LostMountEntry {
    /// Type and permissions.
    #[prost(uint32, required, tag = "1")]
    pub mode: u32,
    /// Owner.
    #[prost(uint32, required, tag = "2")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, required, tag = "3")]
    pub gid: u32,
    /// What is in a file.
    #[prost(bytes = "vec", required, tag = "4")]
    pub contents: Vec<u8>,
    /// Its inode, which tells it from others that were deleted.
    #[prost(uint64, required, tag = "5")]
    pub inode: u64,
}

owned! { LostMountEntry }
