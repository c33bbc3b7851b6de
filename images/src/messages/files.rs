//! Open files: `files.img` (one entry an open file description), `fdinfo-ID.img` (one entry a
//! descriptor), and what the entries of every kind share.

use prost::Message;

use super::events::{
    EventfdFileEntry, EventpollFileEntry, FanotifyFileEntry, InotifyFileEntry, SignalfdEntry,
    TimerfdEntry,
};
use super::pipes::{FifoEntry, PipeEntry};
use super::sockets::{InetSkEntry, NetlinkSkEntry, PacketSockEntry, UnixSkEntry};
use super::timers::Timeval;
use super::tty::TtyFileEntry;

/// What kind of file a [`FileEntry`] or a [`FdinfoEntry`] is of (`type`).
pub mod fd_type {
    /// None.
    pub const UND: u32 = 0;
    /// Something opened by a path: regular file, directory, device.
    pub const REG: u32 = 1;
    /// A pipe.
    pub const PIPE: u32 = 2;
    /// A fifo.
    pub const FIFO: u32 = 3;
    /// An internet socket.
    pub const INETSK: u32 = 4;
    /// A Unix socket.
    pub const UNIXSK: u32 = 5;
    /// An eventfd.
    pub const EVENTFD: u32 = 6;
    /// An epoll instance.
    pub const EVENTPOLL: u32 = 7;
    /// An inotify instance.
    pub const INOTIFY: u32 = 8;
    /// A signalfd.
    pub const SIGNALFD: u32 = 9;
    /// A packet socket.
    pub const PACKETSK: u32 = 10;
    /// A terminal.
    pub const TTY: u32 = 11;
    /// A fanotify group.
    pub const FANOTIFY: u32 = 12;
    /// A netlink socket.
    pub const NETLINKSK: u32 = 13;
    /// A namespace.
    pub const NS: u32 = 14;
    /// A tun device.
    pub const TUNF: u32 = 15;
    /// A file that a plugin or the caller provides.
    pub const EXT: u32 = 16;
    /// A timerfd.
    pub const TIMERFD: u32 = 17;
    /// A memfd.
    pub const MEMFD: u32 = 18;
    /// A BPF map.
    pub const BPFMAP: u32 = 19;
    /// A pidfd.
    pub const PIDFD: u32 = 20;
}

/// [`RemapFilePathEntry::remap_type`]: a name that stands in for the lost one.
pub const REMAP_LINKED: u32 = 0;
/// [`RemapFilePathEntry::remap_type`]: contents in `ghost-file-ID.img`.
pub const REMAP_GHOST: u32 = 1;
/// [`RemapFilePathEntry::remap_type`]: a /proc file of a process that has ended.
pub const REMAP_PROCFS: u32 = 2;

/// A descriptor of a descriptor table.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct FdinfoEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    #[prost(uint32, required, tag = "3")]
    pub r#type: u32,
    #[prost(uint32, required, tag = "4")]
    pub fd: u32,
    #[prost(string, optional, tag = "5")]
    pub xattr_security_selinux: Option<String>,
}

/// An open file description. Exactly one of the optional members is there, the one that `type`
/// ([`fd_type`]) names.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct FileEntry {
    #[prost(uint32, required, tag = "1")]
    pub r#type: u32,
    #[prost(uint32, required, tag = "2")]
    pub id: u32,
    #[prost(message, optional, tag = "3")]
    pub reg: Option<RegFileEntry>,
    #[prost(message, optional, tag = "4")]
    pub isk: Option<InetSkEntry>,
    #[prost(message, optional, tag = "5")]
    pub nsf: Option<NsFileEntry>,
    #[prost(message, optional, tag = "6")]
    pub psk: Option<PacketSockEntry>,
    #[prost(message, optional, tag = "7")]
    pub nlsk: Option<NetlinkSkEntry>,
    #[prost(message, optional, tag = "8")]
    pub efd: Option<EventfdFileEntry>,
    #[prost(message, optional, tag = "9")]
    pub epfd: Option<EventpollFileEntry>,
    #[prost(message, optional, tag = "10")]
    pub sgfd: Option<SignalfdEntry>,
    #[prost(message, optional, tag = "11")]
    pub tunf: Option<TunfileEntry>,
    #[prost(message, optional, tag = "12")]
    pub tfd: Option<TimerfdEntry>,
    #[prost(message, optional, tag = "13")]
    pub ify: Option<InotifyFileEntry>,
    #[prost(message, optional, tag = "14")]
    pub ffy: Option<FanotifyFileEntry>,
    #[prost(message, optional, tag = "15")]
    pub ext: Option<ExtFileEntry>,
    #[prost(message, optional, tag = "16")]
    pub usk: Option<UnixSkEntry>,
    #[prost(message, optional, tag = "17")]
    pub fifo: Option<FifoEntry>,
    #[prost(message, optional, tag = "18")]
    pub pipe: Option<PipeEntry>,
    #[prost(message, optional, tag = "19")]
    pub tty: Option<TtyFileEntry>,
    #[prost(message, optional, tag = "20")]
    pub memfd: Option<MemfdFileEntry>,
    #[prost(message, optional, tag = "21")]
    pub bpf: Option<BpfmapFileEntry>,
    #[prost(message, optional, tag = "22")]
    pub pidfd: Option<PidfdEntry>,
}

/// Who is signalled when input or output becomes possible (`F_SETOWN`, `F_SETSIG`). All zero
/// for nobody.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct FownEntry {
    #[prost(uint32, required, tag = "1")]
    pub uid: u32,
    #[prost(uint32, required, tag = "2")]
    pub euid: u32,
    #[prost(uint32, required, tag = "3")]
    pub signum: u32,
    #[prost(uint32, required, tag = "4")]
    pub pid_type: u32,
    #[prost(uint32, required, tag = "5")]
    pub pid: u32,
}

/// Something opened by a path. Also stands for what is not open but has a path: mapped files,
/// executables, working and root directories.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct RegFileEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    #[prost(uint64, required, tag = "3")]
    pub pos: u64,
    #[prost(message, required, tag = "5")]
    pub fown: FownEntry,
    #[prost(bytes = "vec", required, tag = "6")]
    pub name: Vec<u8>,
    #[prost(sint32, optional, tag = "7", default = "-1")]
    pub mnt_id: Option<i32>,
    #[prost(uint64, optional, tag = "8")]
    pub size: Option<u64>,
    #[prost(bool, optional, tag = "9")]
    pub ext: Option<bool>,
    #[prost(uint32, optional, tag = "10")]
    pub mode: Option<u32>,
    #[prost(uint32, repeated, packed = "false", tag = "11")]
    pub build_id: Vec<u32>,
    #[prost(uint32, optional, tag = "12")]
    pub checksum: Option<u32>,
    #[prost(uint32, optional, tag = "13")]
    pub checksum_config: Option<u32>,
    #[prost(uint32, optional, tag = "14")]
    pub checksum_parameter: Option<u32>,
}

/// A file that a plugin or the caller restores.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct ExtFileEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(message, required, tag = "5")]
    pub fown: FownEntry,
}

/// A namespace opened through /proc.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct NsFileEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(uint32, required, tag = "2")]
    pub ns_id: u32,
    #[prost(uint32, required, tag = "3")]
    pub ns_cflag: u32,
    #[prost(uint32, required, tag = "4")]
    pub flags: u32,
}

/// An open file description of a memfd.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct MemfdFileEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    #[prost(uint64, required, tag = "3")]
    pub pos: u64,
    #[prost(message, required, tag = "4")]
    pub fown: FownEntry,
    #[prost(uint32, required, tag = "5")]
    pub inode_id: u32,
}

/// `memfd.img`: a memfd's contents; the bytes are in the shared memory `shmid`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct MemfdInodeEntry {
    #[prost(bytes = "vec", required, tag = "1")]
    pub name: Vec<u8>,
    #[prost(uint32, required, tag = "2")]
    pub uid: u32,
    #[prost(uint32, required, tag = "3")]
    pub gid: u32,
    #[prost(uint64, required, tag = "4")]
    pub size: u64,
    #[prost(uint32, required, tag = "5")]
    pub shmid: u32,
    #[prost(uint32, required, tag = "6")]
    pub seals: u32,
    #[prost(uint64, required, tag = "7")]
    pub inode_id: u64,
    #[prost(uint32, optional, tag = "8")]
    pub hugetlb_flag: Option<u32>,
    #[prost(uint32, optional, tag = "9")]
    pub mode: Option<u32>,
}

/// A BPF map.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct BpfmapFileEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    #[prost(uint64, required, tag = "3")]
    pub pos: u64,
    #[prost(message, required, tag = "4")]
    pub fown: FownEntry,
    #[prost(uint32, required, tag = "5")]
    pub map_type: u32,
    #[prost(uint32, required, tag = "6")]
    pub key_size: u32,
    #[prost(uint32, required, tag = "7")]
    pub value_size: u32,
    #[prost(uint32, required, tag = "8")]
    pub map_id: u32,
    #[prost(uint32, required, tag = "9")]
    pub max_entries: u32,
    #[prost(uint32, required, tag = "10")]
    pub map_flags: u32,
    #[prost(uint64, required, tag = "11")]
    pub memlock: u64,
    #[prost(bool, required, tag = "12", default = "false")]
    pub frozen: bool,
    #[prost(bytes = "vec", required, tag = "13")]
    pub map_name: Vec<u8>,
    #[prost(uint32, required, tag = "14", default = "0")]
    pub ifindex: u32,
    #[prost(sint32, optional, tag = "15", default = "-1")]
    pub mnt_id: Option<i32>,
    #[prost(uint64, optional, tag = "16")]
    pub map_extra: Option<u64>,
}

/// A tun device's control file.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct TunfileEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(string, optional, tag = "2")]
    pub netdev: Option<String>,
    #[prost(bool, optional, tag = "3")]
    pub detached: Option<bool>,
    #[prost(uint32, optional, tag = "4")]
    pub ns_id: Option<u32>,
}

/// A pidfd.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct PidfdEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(uint32, required, tag = "2")]
    pub ino: u32,
    #[prost(uint32, required, tag = "3")]
    pub flags: u32,
    #[prost(int32, required, tag = "4")]
    pub nspid: i32,
    #[prost(message, required, tag = "5")]
    pub fown: FownEntry,
}

/// `ghost-file-ID.img` (the id in hexadecimal): a file without a name. Its contents follow the
/// entry: the rest of the image, or with `chunks` a sequence of [`GhostChunkEntry`], each
/// followed by its bytes.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct GhostFileEntry {
    #[prost(uint32, required, tag = "1")]
    pub uid: u32,
    #[prost(uint32, required, tag = "2")]
    pub gid: u32,
    #[prost(uint32, required, tag = "3")]
    pub mode: u32,
    #[prost(uint32, optional, tag = "4")]
    pub dev: Option<u32>,
    #[prost(uint64, optional, tag = "5")]
    pub ino: Option<u64>,
    #[prost(uint32, optional, tag = "6")]
    pub rdev: Option<u32>,
    #[prost(message, optional, tag = "7")]
    pub atim: Option<Timeval>,
    #[prost(message, optional, tag = "8")]
    pub mtim: Option<Timeval>,
    #[prost(bool, optional, tag = "9")]
    pub chunks: Option<bool>,
    #[prost(uint64, optional, tag = "10")]
    pub size: Option<u64>,
    #[prost(bytes = "vec", optional, tag = "11")]
    pub symlnk_target: Option<Vec<u8>>,
}

/// A piece of a sparse ghost file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct GhostChunkEntry {
    #[prost(uint64, required, tag = "1")]
    pub len: u64,
    #[prost(uint64, required, tag = "2")]
    pub off: u64,
}

/// `remap-fpath.img`: how a file whose name is gone is found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct RemapFilePathEntry {
    #[prost(uint32, required, tag = "1")]
    pub orig_id: u32,
    #[prost(uint32, required, tag = "2")]
    pub remap_id: u32,
    #[prost(uint32, optional, tag = "3")]
    pub remap_type: Option<u32>,
}

/// `filelocks.img`: a lock on a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct FileLockEntry {
    #[prost(uint32, required, tag = "1")]
    pub flag: u32,
    #[prost(uint32, required, tag = "2")]
    pub r#type: u32,
    #[prost(int32, required, tag = "3")]
    pub pid: i32,
    #[prost(int32, required, tag = "4")]
    pub fd: i32,
    #[prost(int64, required, tag = "5")]
    pub start: i64,
    #[prost(int64, required, tag = "6")]
    pub len: i64,
}

/// A file handle, as `name_to_handle_at` gives it.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct FhEntry {
    #[prost(uint32, required, tag = "1")]
    pub bytes: u32,
    #[prost(uint32, required, tag = "2")]
    pub r#type: u32,
    #[prost(uint64, repeated, packed = "false", tag = "3")]
    pub handle: Vec<u64>,
    #[prost(bytes = "vec", optional, tag = "4")]
    pub path: Option<Vec<u8>>,
    #[prost(uint32, optional, tag = "5")]
    pub mnt_id: Option<u32>,
}
