//! Open files: `files.img` (one entry an open file description), `fdinfo-ID.img` (one entry a
//! descriptor).

use prost::Message;

use super::events::{
    EventfdFileEntry, EventpollFileEntry, FanotifyFileEntry, InotifyFileEntry, SignalfdEntry,
    TimerfdEntry,
};
use super::ghosts::AttributeEntry;
use super::io_uring::IoUringFileEntry;
use super::networks::TunLinkEntry;
use super::packet_sockets::{NetlinkSkEntry, PacketSockEntry};
use super::parts::{FileIdentity, FownEntry};
use super::pipes::{FifoEntry, PipeEntry};
use super::sockets::{InetSkEntry, UnixSkEntry};
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
    /// A POSIX message queue (ours: CRIU has none).
    pub const MQUEUE: u32 = 1000;
    /// An io_uring (ours: CRIU has none).
    pub const IO_URING: u32 = 1001;

    /// A kind in a word or two.
    #[must_use]
    pub const fn name(r#type: u32) -> &'static str {
        match r#type {
            REG => "file",
            PIPE => "pipe",
            FIFO => "fifo",
            INETSK => "internet socket",
            UNIXSK => "unix socket",
            EVENTFD => "eventfd",
            EVENTPOLL => "epoll",
            INOTIFY => "inotify",
            SIGNALFD => "signalfd",
            PACKETSK => "packet socket",
            TTY => "terminal",
            FANOTIFY => "fanotify",
            NETLINKSK => "netlink socket",
            NS => "namespace",
            TUNF => "tun device",
            EXT => "external file",
            TIMERFD => "timerfd",
            MEMFD => "memfd",
            BPFMAP => "bpf map",
            PIDFD => "pidfd",
            MQUEUE => "message queue",
            IO_URING => "io_uring",
            _ => "file of an unknown kind",
        }
    }
}

/// A descriptor of a descriptor table.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct FdinfoEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// `FD_CLOEXEC` or 0.
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    /// Kind of file ([`fd_type`]).
    #[prost(uint32, required, tag = "3")]
    pub r#type: u32,
    /// The descriptor.
    #[prost(uint32, required, tag = "4")]
    pub fd: u32,
    /// SELinux label of the descriptor.
    #[prost(string, optional, tag = "5")]
    pub xattr_security_selinux: Option<String>,
}

/// An open file description. Exactly one of the optional members is there, the one that `type`
/// ([`fd_type`]) names.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct FileEntry {
    /// Kind of file ([`fd_type`]).
    #[prost(uint32, required, tag = "1")]
    pub r#type: u32,
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "2")]
    pub id: u32,
    /// Of kind `REG`.
    #[prost(message, optional, tag = "3")]
    pub reg: Option<RegFileEntry>,
    /// Of kind `INETSK`.
    #[prost(message, optional, boxed, tag = "4")]
    pub isk: Option<Box<InetSkEntry>>,
    /// Of kind `NS`.
    #[prost(message, optional, tag = "5")]
    pub nsf: Option<NsFileEntry>,
    /// Of kind `PACKETSK`.
    #[prost(message, optional, boxed, tag = "6")]
    pub psk: Option<Box<PacketSockEntry>>,
    /// Of kind `NETLINKSK`.
    #[prost(message, optional, boxed, tag = "7")]
    pub nlsk: Option<Box<NetlinkSkEntry>>,
    /// Of kind `EVENTFD`.
    #[prost(message, optional, tag = "8")]
    pub efd: Option<EventfdFileEntry>,
    /// Of kind `EVENTPOLL`.
    #[prost(message, optional, tag = "9")]
    pub epfd: Option<EventpollFileEntry>,
    /// Of kind `SIGNALFD`.
    #[prost(message, optional, tag = "10")]
    pub sgfd: Option<SignalfdEntry>,
    /// Of kind `TUNF`.
    #[prost(message, optional, tag = "11")]
    pub tunf: Option<TunfileEntry>,
    /// Of kind `TIMERFD`.
    #[prost(message, optional, tag = "12")]
    pub tfd: Option<TimerfdEntry>,
    /// Of kind `INOTIFY`.
    #[prost(message, optional, tag = "13")]
    pub ify: Option<InotifyFileEntry>,
    /// Of kind `FANOTIFY`.
    #[prost(message, optional, tag = "14")]
    pub ffy: Option<FanotifyFileEntry>,
    /// Of kind `EXT`.
    #[prost(message, optional, tag = "15")]
    pub ext: Option<ExtFileEntry>,
    /// Of kind `UNIXSK`.
    #[prost(message, optional, boxed, tag = "16")]
    pub usk: Option<Box<UnixSkEntry>>,
    /// Of kind `FIFO`.
    #[prost(message, optional, tag = "17")]
    pub fifo: Option<FifoEntry>,
    /// Of kind `PIPE`.
    #[prost(message, optional, tag = "18")]
    pub pipe: Option<PipeEntry>,
    /// Of kind `TTY`.
    #[prost(message, optional, tag = "19")]
    pub tty: Option<TtyFileEntry>,
    /// Of kind `MEMFD`.
    #[prost(message, optional, tag = "20")]
    pub memfd: Option<MemfdFileEntry>,
    /// Of kind `BPFMAP`.
    #[prost(message, optional, boxed, tag = "21")]
    pub bpf: Option<Box<BpfmapFileEntry>>,
    /// Of kind `PIDFD`.
    #[prost(message, optional, tag = "22")]
    pub pidfd: Option<PidfdEntry>,
    /// Of kind `MQUEUE`.
    #[prost(message, optional, tag = "1001")]
    pub mq: Option<MqueueFileEntry>,
    /// Of kind `IO_URING`.
    #[prost(message, optional, boxed, tag = "1002")]
    pub uring: Option<Box<IoUringFileEntry>>,
}

impl FileEntry {
    /// Who is signalled, and the flags (`F_GETFL`); `None` for kinds that nobody is signalled by.
    #[must_use]
    pub fn owner(&self) -> Option<(&FownEntry, u32)> {
        macro_rules! first {
            ($($kind:ident)*) => {
                None$(.or_else(|| self.$kind.as_ref().map(|it| (&it.fown, it.flags))))*
            };
        }
        first!(reg pipe isk usk efd epfd sgfd tfd tty ify ffy psk nlsk memfd bpf pidfd mq uring)
    }

    /// Who is signalled, to be changed.
    pub fn owner_mut(&mut self) -> Option<&mut FownEntry> {
        macro_rules! first {
            ($($kind:ident)*) => {
                $(if let Some(it) = &mut self.$kind {
                    return Some(&mut it.fown);
                })*
            };
        }
        first!(reg pipe isk usk efd epfd sgfd tfd tty ify ffy psk nlsk memfd bpf pidfd mq uring);
        None
    }
}

/// Something opened by a path. Also stands for what is not open but has a path: mapped files,
/// executables, working and root directories.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct RegFileEntry {
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
    #[prost(message, required, tag = "5")]
    pub fown: FownEntry,
    /// Absolute path below the root of the mount namespace.
    #[prost(bytes = "vec", required, tag = "6")]
    pub name: Vec<u8>,
    /// Mount, or -1 where there is one mount namespace.
    #[prost(sint32, optional, tag = "7", default = "-1")]
    pub mnt_id: Option<i32>,
    /// Its size; if given, it must be the same at the restore.
    #[prost(uint64, optional, tag = "8")]
    pub size: Option<u64>,
    /// It is to be provided from outside.
    #[prost(bool, optional, tag = "9")]
    pub ext: Option<bool>,
    /// Type and permissions, as `st_mode`.
    #[prost(uint32, optional, tag = "10")]
    pub mode: Option<u32>,
    /// The program's build id, in words; if given, it must be the same at the restore.
    #[prost(uint32, repeated, packed = "false", tag = "11")]
    pub build_id: Vec<u32>,
    /// CRC32C of the file.
    #[prost(uint32, optional, tag = "12")]
    pub checksum: Option<u32>,
    /// Which bytes the checksum is of.
    #[prost(uint32, optional, tag = "13")]
    pub checksum_config: Option<u32>,
    /// Parameter of that.
    #[prost(uint32, optional, tag = "14")]
    pub checksum_parameter: Option<u32>,
    /// Extension: which file it was.
    #[prost(message, optional, tag = "1000")]
    pub identity: Option<FileIdentity>,
    /// Extension: what was in it, of a program or a mapped file.
    #[prost(message, optional, tag = "1001")]
    pub content: Option<FileContent>,
    /// Extension: it was made without a name by this open (`O_TMPFILE`), has none still, and may be given one.
    #[prost(bool, optional, tag = "1002")]
    pub unnamed: Option<bool>,
}

/// Extension: how to tell whether there is still in a file what was in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct FileContent {
    /// Last change of its contents, in nanoseconds since 1970.
    #[prost(sint64, required, tag = "1")]
    pub modified: i64,
    /// CRC-32 (IEEE) of all of it; of a file without a build id that is not too large.
    #[prost(fixed32, optional, tag = "2")]
    pub checksum: Option<u32>,
}

/// A file that a plugin or the caller restores.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct ExtFileEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Who is signalled.
    #[prost(message, required, tag = "5")]
    pub fown: FownEntry,
}

/// A namespace opened through /proc.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct NsFileEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Number of the namespace.
    #[prost(uint32, required, tag = "2")]
    pub ns_id: u32,
    /// Its kind (`CLONE_NEW*`).
    #[prost(uint32, required, tag = "3")]
    pub ns_cflag: u32,
    /// Flags, as `F_GETFL` gives them.
    #[prost(uint32, required, tag = "4")]
    pub flags: u32,
}

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

/// A BPF map.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct BpfmapFileEntry {
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
    /// Type of the map.
    #[prost(uint32, required, tag = "5")]
    pub map_type: u32,
    /// Bytes of a key.
    #[prost(uint32, required, tag = "6")]
    pub key_size: u32,
    /// Bytes of a value.
    #[prost(uint32, required, tag = "7")]
    pub value_size: u32,
    /// Number of the map.
    #[prost(uint32, required, tag = "8")]
    pub map_id: u32,
    /// Most entries.
    #[prost(uint32, required, tag = "9")]
    pub max_entries: u32,
    /// `BPF_F_*`.
    #[prost(uint32, required, tag = "10")]
    pub map_flags: u32,
    /// Bytes locked.
    #[prost(uint64, required, tag = "11")]
    pub memlock: u64,
    /// User space cannot write it.
    #[prost(bool, required, tag = "12", default = "false")]
    pub frozen: bool,
    /// Name.
    #[prost(bytes = "vec", required, tag = "13")]
    pub map_name: Vec<u8>,
    /// Network device.
    #[prost(uint32, required, tag = "14", default = "0")]
    pub ifindex: u32,
    /// Mount, or -1 where there is one mount namespace.
    #[prost(sint32, optional, tag = "15", default = "-1")]
    pub mnt_id: Option<i32>,
    /// More flags.
    #[prost(uint64, optional, tag = "16")]
    pub map_extra: Option<u64>,
}

/// A tun device's control file.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct TunfileEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Name of the device.
    #[prost(string, optional, tag = "2")]
    pub netdev: Option<String>,
    /// The queue is detached.
    #[prost(bool, optional, tag = "3")]
    pub detached: Option<bool>,
    /// Network namespace, as in [`TaskKobjIdsEntry`](super::TaskKobjIdsEntry).
    #[prost(uint32, optional, tag = "4")]
    pub ns_id: Option<u32>,
    /// What its device has, as this file tells it. An extension.
    #[prost(message, optional, tag = "1000")]
    pub link: Option<TunLinkEntry>,
    /// What of packets the program does itself (`TUN_F_*`). An extension.
    #[prost(uint32, optional, tag = "1001")]
    pub offloads: Option<u32>,
    /// The header before packets is little-endian. An extension.
    #[prost(bool, optional, tag = "1002")]
    pub little_endian: Option<bool>,
    /// It is big-endian. An extension.
    #[prost(bool, optional, tag = "1003")]
    pub big_endian: Option<bool>,
}

/// A pidfd.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct PidfdEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Inode on the pidfd file system.
    #[prost(uint32, required, tag = "2")]
    pub ino: u32,
    /// Flags, as `F_GETFL` gives them, without the access mode.
    #[prost(uint32, required, tag = "3")]
    pub flags: u32,
    /// Process in the namespace; -1 if it has ended.
    #[prost(int32, required, tag = "4")]
    pub nspid: i32,
    /// Who is signalled.
    #[prost(message, required, tag = "5")]
    pub fown: FownEntry,
    /// Extension: how it ended, as wait(2) has it, where the kernel tells.
    #[prost(int32, optional, tag = "1000")]
    pub exit_status: Option<i32>,
}

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

/// Kinds of locks ([`FileLockEntry::flag`]).
pub mod lock_kind {
    /// Of a process, on a range (`F_SETLK`).
    pub const POSIX: u32 = 1;
    /// Of an open file, on all of it (`flock`).
    pub const FLOCK: u32 = 2;
    /// Of an open file, on a range (`F_OFD_SETLK`).
    pub const OFD: u32 = 4;
    /// A lease (`F_SETLEASE`).
    pub const LEASE: u32 = 8;
}

/// Bit of [`FileLockEntry::type`]: somebody waits for the lease.
pub const LEASE_BREAKING: u32 = 4;

/// `filelocks.img`: a lock on a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct FileLockEntry {
    /// One of [`lock_kind`].
    #[prost(uint32, required, tag = "1")]
    pub flag: u32,
    /// `F_RDLCK` 0, `F_WRLCK` 1, `F_UNLCK` 2, for flock as well; of a lease that is being broken what it is
    /// to become, with [`LEASE_BREAKING`].
    #[prost(uint32, required, tag = "2")]
    pub r#type: u32,
    /// Process that holds it.
    #[prost(int32, required, tag = "3")]
    pub pid: i32,
    /// Descriptor that it was taken through.
    #[prost(int32, required, tag = "4")]
    pub fd: i32,
    /// First byte.
    #[prost(int64, required, tag = "5")]
    pub start: i64,
    /// How many bytes; 0 to the end.
    #[prost(int64, required, tag = "6")]
    pub len: i64,
}
