//! Descriptors that tell of events: eventfd, epoll, signalfd, timerfd, inotify, fanotify.

use prost::Message;

use super::parts::{FhEntry, FileIdentity, FownEntry};

/// An eventfd.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct EventfdFileEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Flags, as `F_GETFL` gives them.
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    /// Who is signalled.
    #[prost(message, required, tag = "3")]
    pub fown: FownEntry,
    /// Its counter.
    #[prost(uint64, required, tag = "4")]
    pub counter: u64,
}

/// An epoll instance.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct EventpollFileEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Flags, as `F_GETFL` gives them.
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    /// Who is signalled.
    #[prost(message, required, tag = "3")]
    pub fown: FownEntry,
    /// What it watches.
    #[prost(message, repeated, tag = "4")]
    pub tfd: Vec<EventpollTfdEntry>,
    /// Ours: how it polls network cards (`struct epoll_params`, 8 bytes), if it does.
    #[prost(bytes = "vec", optional, tag = "1000")]
    pub polling: Option<Vec<u8>>,
}

/// A file an epoll instance watches.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct EventpollTfdEntry {
    /// Not used: 0.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Descriptor it was added by.
    #[prost(uint32, required, tag = "2")]
    pub tfd: u32,
    /// `EPOLL*`.
    #[prost(uint32, required, tag = "3")]
    pub events: u32,
    /// What the caller attached.
    #[prost(uint64, required, tag = "4")]
    pub data: u64,
    /// Device of the file, to find it when the descriptor has another now.
    #[prost(uint32, optional, tag = "5")]
    pub dev: Option<u32>,
    /// Inode of the file.
    #[prost(uint64, optional, tag = "6")]
    pub inode: Option<u64>,
    /// Position of the file.
    #[prost(uint64, optional, tag = "7")]
    pub pos: Option<u64>,
}

/// A signalfd.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct SignalfdEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Flags, as `F_GETFL` gives them.
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    /// Who is signalled.
    #[prost(message, required, tag = "3")]
    pub fown: FownEntry,
    /// Signals it tells of, signal 1 in bit 0.
    #[prost(uint64, required, tag = "4")]
    pub sigmask: u64,
}

/// A timerfd: interval (`i`) and time left (`v`), which is relative.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct TimerfdEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Flags, as `F_GETFL` gives them.
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    /// Who is signalled.
    #[prost(message, required, tag = "3")]
    pub fown: FownEntry,
    /// Its clock.
    #[prost(uint32, required, tag = "4")]
    pub clockid: u32,
    /// Expirations not yet read.
    #[prost(uint64, required, tag = "5")]
    pub ticks: u64,
    /// `TFD_TIMER_*`.
    #[prost(uint32, required, tag = "6")]
    pub settime_flags: u32,
    /// Time left, seconds.
    #[prost(uint64, required, tag = "7")]
    pub vsec: u64,
    /// Time left, nanoseconds.
    #[prost(uint64, required, tag = "8")]
    pub vnsec: u64,
    /// Interval, seconds.
    #[prost(uint64, required, tag = "9")]
    pub isec: u64,
    /// Interval, nanoseconds.
    #[prost(uint64, required, tag = "10")]
    pub insec: u64,
}

/// An inotify instance.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct InotifyFileEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Flags, as `F_GETFL` gives them.
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    /// Who is signalled.
    #[prost(message, required, tag = "4")]
    pub fown: FownEntry,
    /// Watches.
    #[prost(message, repeated, tag = "5")]
    pub wd: Vec<InotifyWdEntry>,
    /// Ours: events waited in it, which are lost.
    #[prost(bool, optional, tag = "1000")]
    pub events_lost: Option<bool>,
}

/// A watch of an inotify instance.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct InotifyWdEntry {
    /// File id of the instance.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Inode watched.
    #[prost(uint64, required, tag = "2")]
    pub i_ino: u64,
    /// Events asked for.
    #[prost(uint32, required, tag = "3")]
    pub mask: u32,
    /// Events ignored.
    #[prost(uint32, required, tag = "4")]
    pub ignored_mask: u32,
    /// Device it is on.
    #[prost(uint32, required, tag = "5")]
    pub s_dev: u32,
    /// Number of the watch.
    #[prost(uint32, required, tag = "6")]
    pub wd: u32,
    /// Handle of it.
    #[prost(message, required, tag = "7")]
    pub f_handle: FhEntry,
    /// Ours: which file the path leads to.
    #[prost(message, optional, tag = "1000")]
    pub identity: Option<FileIdentity>,
    /// Ours: its kind and permissions.
    #[prost(uint32, optional, tag = "1001")]
    pub mode: Option<u32>,
}

/// A fanotify group.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct FanotifyFileEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Flags, as `F_GETFL` gives them.
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    /// Who is signalled.
    #[prost(message, required, tag = "3")]
    pub fown: FownEntry,
    /// Flags of `fanotify_init`.
    #[prost(uint32, required, tag = "4")]
    pub faflags: u32,
    /// Flags of the descriptors it hands out.
    #[prost(uint32, required, tag = "5")]
    pub evflags: u32,
    /// Marks.
    #[prost(message, repeated, tag = "6")]
    pub mark: Vec<FanotifyMarkEntry>,
}

/// A mark of a fanotify group.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct FanotifyMarkEntry {
    /// File id of the group.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// 1 on an inode, 2 on a mount; ours: 3 on the file system of one.
    #[prost(uint32, required, tag = "2")]
    pub r#type: u32,
    /// Flags of the mark.
    #[prost(uint32, required, tag = "3")]
    pub mflags: u32,
    /// Events asked for.
    #[prost(uint32, required, tag = "4")]
    pub mask: u32,
    /// Events ignored.
    #[prost(uint32, required, tag = "5")]
    pub ignored_mask: u32,
    /// Device it is on.
    #[prost(uint32, required, tag = "6")]
    pub s_dev: u32,
    /// For an inode.
    #[prost(message, optional, tag = "7")]
    pub ie: Option<FanotifyInodeMarkEntry>,
    /// For a mount.
    #[prost(message, optional, tag = "8")]
    pub me: Option<FanotifyMountMarkEntry>,
    /// Ours: which file the path of an inode mark leads to.
    #[prost(message, optional, tag = "1000")]
    pub identity: Option<FileIdentity>,
    /// Ours: its kind and permissions.
    #[prost(uint32, optional, tag = "1001")]
    pub mode: Option<u32>,
}

/// What an inode mark is on.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct FanotifyInodeMarkEntry {
    /// Inode watched.
    #[prost(uint64, required, tag = "1")]
    pub i_ino: u64,
    /// Handle of it.
    #[prost(message, required, tag = "2")]
    pub f_handle: FhEntry,
}

/// What a mount mark is on.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct FanotifyMountMarkEntry {
    /// Mount, or -1 where there is one mount namespace.
    #[prost(uint32, required, tag = "1")]
    pub mnt_id: u32,
    /// Its path.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub path: Option<Vec<u8>>,
}
