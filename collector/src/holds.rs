//! That processes hold things that have no name.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use ids::HostPid;

/// Where a process holds something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hold {
    /// By a descriptor.
    Descriptor(i32),
    /// By a mapping, named by its first address.
    Mapping(u64),
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Descriptor(fd) => write!(f, "descriptor {fd}"),
            Self::Mapping(start) => write!(f, "mapping at {start:#x}"),
        }
    }
}

/// Counts of references; those that are not known are `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct References {
    /// To the open file description.
    pub(crate) description: u64,
    /// Of a pipe or fifo, the descriptions that there are; of a BPF map, the references to it.
    pub(crate) descriptions: u64,
    /// Of a file, the descriptions that were opened by this name.
    pub(crate) by_name: u64,
    /// Of a file, the names that are in use.
    pub(crate) names: u64,
    /// Of an eventfd, those to what it counts with.
    pub(crate) context: u64,
}

/// The class of what is held, as far as that shows from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Pipe,
    Socket,
    /// Of whichever kind.
    Anonymous,
    /// A file with a name, which is told of for what is peculiar about it.
    Named,
    /// A file without a name, that can be written by one of those who hold it, or not.
    File {
        is_written: bool,
    },
}

/// What a descriptor can be used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) reads: bool,
    pub(crate) writes: bool,
}

impl Ends {
    /// By `O_*` flags.
    pub(crate) const fn of(flags: u32) -> Self {
        let mode = flags.cast_signed() & libc::O_ACCMODE;
        Self {
            reads: matches!(mode, libc::O_RDONLY | libc::O_RDWR),
            writes: matches!(mode, libc::O_WRONLY | libc::O_RDWR),
        }
    }
}

/// What no call reads back of a socket, and what can be made again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hidden {
    /// `IPV6_MTU`, 0 if it was not set.
    pub packet: u32,
    /// The address and the number of the interface of `IPV6_PKTINFO`, if either was set.
    pub source: Option<(std::net::Ipv6Addr, u32)>,
    /// The number of the interface of `IP_MULTICAST_IF`, if it was set by that alone; else 0.
    pub multicast: u32,
    /// `SO_BUSY_POLL_BUDGET`, 0 if it was not set.
    pub polled: u16,
    /// How its connection ended, if a call has yet to be told of that.
    pub failure: Option<Failure>,
}

/// The end of a TCP connection that nobody has been told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The error: `ECONNRESET` and others.
    pub error: u16,
    /// The peer had closed its side before.
    pub ended: bool,
}

/// That a process holds something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) pid: HostPid,
    pub(crate) hold: Hold,
    pub(crate) class: Class,
    /// Of a pipe.
    pub(crate) ends: Ends,
    /// Names the open file description.
    pub(crate) description: u64,
    /// Names the inode.
    pub(crate) inode: (u64, u64),
    pub(crate) references: Option<References>,
    /// What it does not tell itself.
    pub(crate) peculiar: u32,
    /// Options of a socket that it does not tell itself.
    pub(crate) hidden: Hidden,
    /// A mapping of the program that the process runs, which holds the description once more.
    pub(crate) is_program: bool,
}

/// Whether what is open may be of a kind that must not be cut in two.
#[must_use]
pub fn is_candidate(file: &crate::OpenFile) -> bool {
    let kind = file.mode & libc::S_IFMT;
    let target = file.target.as_bytes();
    matches!(kind, libc::S_IFIFO | libc::S_IFSOCK)
        || target.starts_with(ANONYMOUS) && !is_the_same_twice(&file.target)
        || kind == libc::S_IFREG && target.ends_with(b" (deleted)")
}

const ANONYMOUS: &[u8] = b"anon_inode:";

/// Whether two of an anonymous kind are as good as one, by the link text: a signalfd gives each reader his own signals, and a
/// pidfd has nothing but its process.
pub(crate) fn is_the_same_twice(target: &OsStr) -> bool {
    matches!(target.as_bytes(), b"anon_inode:[signalfd]" | b"anon_inode:[pidfd]")
}
