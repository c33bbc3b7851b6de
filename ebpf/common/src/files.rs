//! Open files, and who holds them.

#[cfg(feature = "host")]
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Header;

/// What there may be to an open file beside what it is.
pub mod beside {
    /// Somebody is to be signalled when it is ready, or was once (`F_SETOWN`, `F_SETSIG`).
    pub const OWNER: u16 = 1;
    /// There are locks or leases on its inode, whoever has them.
    pub const LOCKS: u16 = 1 << 1;
    /// It has never had a name, and may be given one: made by `O_TMPFILE` without `O_EXCL`.
    pub const LINKABLE: u16 = 1 << 2;
    /// A UDP, ping or raw socket that holds nothing back (`UDP_CORK`, `MSG_MORE`). Of another there is no telling.
    pub const UNCORKED: u16 = 1 << 3;
}

/// One descriptor, then `name_bytes` of name.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "host", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct FileRecord {
    /// The header.
    pub header: Header,
    /// Descriptor number.
    pub fd: i32,
    /// 1 for close on exec.
    pub close_on_exec: u16,
    /// Bits of [`beside`].
    pub beside: u16,
    /// Address of the open file description.
    pub file: u64,
    /// Position.
    pub position: u64,
    /// A fingerprint: equal ones of the same file, read at different times, mean that nothing has
    /// changed between but what the record says itself (and the contents of a file with a name); 0
    /// for one that has to be looked at each time.
    pub mark: u64,
    /// Of a regular file its bytes, of a pipe how many pages it may hold, of a Unix socket how many
    /// messages or connections wait in it, of another 0; meaningless without a mark.
    pub size: u64,
    /// Inode.
    pub inode: u64,
    /// `O_*` flags.
    pub flags: u32,
    /// Type and permissions.
    pub mode: u32,
    /// Device, in the kernel's encoding.
    pub device: u32,
    /// Bytes of name that follow, with its zero byte; 0 for a name too long, and for pipes and
    /// sockets, whose names are made of their inodes.
    pub name_bytes: u32,
    /// Which file system it is on (`*_SUPER_MAGIC`).
    pub magic: u64,
}

/// Who else can change an open file; where both are asked for, it follows its [`FileRecord`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "host", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct HoldersRecord {
    /// The header.
    pub header: Header,
    /// Descriptor number.
    pub fd: i32,
    /// Where touches of the file are counted ([`track::touched_place`]).
    pub place: u32,
    /// Address of the open file description.
    pub file: u64,
    /// Address of its inode.
    pub inode: u64,
    /// References to the open file description, without that of the reader; 0 if this kernel does
    /// not tell.
    pub references: u64,
    /// Of a Unix socket, the address of the description at its other end.
    pub peer: u64,
    /// Of a file with a name how many have it open for writing (negative: nobody may), of a pipe how
    /// many descriptions there are of it.
    pub writers: i32,
    /// How many tasks use the process's table of descriptors; 0 if nobody can tell who else changes
    /// it.
    pub sharers: u32,
    /// Of a file with a name a fingerprint: equal ones mean that nothing has been changed by its name
    /// between, if nothing has been mounted anywhere. 0 for none.
    pub print: u64,
}

/// A descriptor or a mapping of something without a name, with all that tells how many hold it: a pipe
/// or fifo, a socket, an anonymous inode, a deleted file, anonymous shared memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "host", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct HeldRecord {
    /// The header.
    pub header: Header,
    /// The process.
    pub tgid: i32,
    /// Descriptor number, -1 for a mapping.
    pub fd: i32,
    /// First address of the mapping, 0 for a descriptor.
    pub start: u64,
    /// Address of the open file description.
    pub file: u64,
    /// References to it, without that of the iterator over descriptors; 0 if this kernel does not tell.
    pub references: u64,
    /// Address of its inode.
    pub inode: u64,
    /// Which file system it is on (`*_SUPER_MAGIC`).
    pub magic: u64,
    /// Of a BPF map the references to it, of others that are anonymous without meaning; of a pipe or fifo how many descriptions there are of it, of a deleted file how many are open for
    /// writing.
    pub count: i32,
    /// How many mappings may write the file's pages for others to see.
    pub writable_mappings: i32,
    /// References to the name that a deleted file was opened by: one for each description.
    pub name_references: i32,
    /// References to the inode: one for each name that is in use.
    pub inode_references: i32,
    /// Of an eventfd the references to what it counts with; of others without meaning.
    pub context_references: i32,
    /// Type and permissions.
    pub mode: u32,
    /// `O_*` flags.
    pub flags: u32,
    /// What it does not tell itself: of [`peculiar`].
    pub peculiar: u32,
    /// 1 for a mapping of the program that the process runs, by the very description that it runs it by.
    pub program: u32,
    /// Of an IPv6 socket the largest packet that it sends whole (`IPV6_MTU`), 0 if that was not set.
    pub packet: u32,
    /// Of an IPv6 socket the address that it sends from (`IPV6_PKTINFO`), all zeros if none was set.
    pub source: [u8; 16],
    /// The number of the interface that it sends by (the same option), 0 if none was set.
    pub source_interface: u32,
    /// Of an internet socket the number of the interface that it sends multicast by (`IP_MULTICAST_IF`), 0 if none was set,
    /// or by its address, which can be asked for.
    pub multicast_interface: u32,
    /// Of an internet socket how many packets it polls for at once (`SO_BUSY_POLL_BUDGET`), 0 if that was
    /// not set.
    pub polled: u16,
    /// 1 for a file that has a name, which is shown for what is peculiar about it alone.
    pub named: u16,
    /// Of a TCP socket the error that a call has yet to be told of, if that is all that waits so; else 0.
    pub error: u16,
    /// 1 for a TCP socket whose peer has closed its side.
    pub ended: u16,
}

/// What only the kernel's structures tell of a socket or file.
pub mod peculiar {
    /// A program chooses who of several at one address is meant.
    pub const REUSEPORT_PROGRAM: u32 = 1;
    /// IPsec policies of its own.
    pub const IPSEC_POLICY: u32 = 2;
    /// It is a member of IPv6 anycast groups.
    pub const ANYCAST: u32 = 8;
    /// Keys by which TCP is signed.
    pub const SIGNED_TCP: u32 = 16;
    /// Leases of flow labels.
    pub const FLOW_LABELS: u32 = 32;
    /// Of a file: a write has failed, and who has it open was not told yet.
    pub const WRITE_ERROR: u32 = 128;
}
