//! Open files: `files.img` (one entry an open file description), `fdinfo-ID.img` (one entry a
//! descriptor).

use prost::Message;

use super::bpfmap::BpfmapFileEntry;
use super::epoll::EventpollFileEntry;
use super::eventfd::EventfdFileEntry;
use super::external::ExtFileEntry;
use super::fanotify::FanotifyFileEntry;
use super::fifos::FifoEntry;
use super::file_body::FileBody;
use super::inet_sockets::InetSkEntry;
use super::inotify::InotifyFileEntry;
use super::io_uring::IoUringFileEntry;
use super::memfd::MemfdFileEntry;
use super::mqueue::MqueueFileEntry;
use super::netlink_sockets::NetlinkSkEntry;
use super::nsfs::NsFileEntry;
use super::owned::{Id, Owned};
use super::packet_sockets::PacketSockEntry;
use super::parts::FownEntry;
use super::pidfd::PidfdEntry;
use super::pipes::PipeEntry;
use super::regular::RegFileEntry;
use super::signalfd::SignalfdEntry;
use super::terminals::TtyFileEntry;
use super::timerfd::TimerfdEntry;
use super::tun::TunfileEntry;
use super::unix_sockets::UnixSkEntry;
use super::userfault::UserfaultFileEntry;

/// The table of the kinds of open file: number, what it is called, and its member of [`FileEntry`].
macro_rules! kinds {
    ($(#[doc = $doc:literal] $name:ident = $number:literal, $called:literal, $member:ident;)*) => {
        /// What kind of file a [`FileEntry`] or a [`FdinfoEntry`] is of (`type`).
        pub mod fd_type {
            /// None.
            pub const UND: u32 = 0;
            $(#[doc = $doc] pub const $name: u32 = $number;)*

            /// A kind in a word or two.
            #[must_use]
            pub const fn name(r#type: u32) -> &'static str {
                match r#type {
                    $($name => $called,)*
                    _ => "file of an unknown kind",
                }
            }
        }

        impl FileEntry {
            /// The member that `type` names; `None` if that is missing or the type is not known.
            #[must_use]
            pub fn body(&self) -> Option<&dyn FileBody> {
                // (A member that is not in the table is not known here.)
                let Self { r#type: _, id: _, $($member),* } = self;
                match self.r#type {
                    $(fd_type::$name => $member.as_ref().map(|member| member as &dyn FileBody),)*
                    _ => None,
                }
            }

            /// The same, to be changed.
            pub fn body_mut(&mut self) -> Option<&mut dyn FileBody> {
                match self.r#type {
                    $(fd_type::$name => {
                        self.$member.as_mut().map(|member| member as &mut dyn FileBody)
                    })*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// Something opened by a path: regular file, directory, device.
    REG = 1, "file", reg;
    /// A pipe.
    PIPE = 2, "pipe", pipe;
    /// A fifo.
    FIFO = 3, "fifo", fifo;
    /// An internet socket.
    INETSK = 4, "internet socket", isk;
    /// A Unix socket.
    UNIXSK = 5, "unix socket", usk;
    /// An eventfd.
    EVENTFD = 6, "eventfd", efd;
    /// An epoll instance.
    EVENTPOLL = 7, "epoll", epfd;
    /// An inotify instance.
    INOTIFY = 8, "inotify", ify;
    /// A signalfd.
    SIGNALFD = 9, "signalfd", sgfd;
    /// A packet socket.
    PACKETSK = 10, "packet socket", psk;
    /// A terminal.
    TTY = 11, "terminal", tty;
    /// A fanotify group.
    FANOTIFY = 12, "fanotify", ffy;
    /// A netlink socket.
    NETLINKSK = 13, "netlink socket", nlsk;
    /// A namespace.
    NS = 14, "namespace", nsf;
    /// A tun device.
    TUNF = 15, "tun device", tunf;
    /// A file that a plugin or the caller provides.
    EXT = 16, "external file", ext;
    /// A timerfd.
    TIMERFD = 17, "timerfd", tfd;
    /// A memfd.
    MEMFD = 18, "memfd", memfd;
    /// A BPF map.
    BPFMAP = 19, "bpf map", bpf;
    /// A pidfd.
    PIDFD = 20, "pidfd", pidfd;
    /// A POSIX message queue (ours: CRIU has none).
    MQUEUE = 1000, "message queue", mq;
    /// An io_uring (ours: CRIU has none).
    IO_URING = 1001, "io_uring", uring;
    /// A userfaultfd.
    USERFAULT = 1002, "userfaultfd", userfault;
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
    /// Of kind `USERFAULT`.
    #[prost(message, optional, boxed, tag = "1003")]
    pub userfault: Option<Box<UserfaultFileEntry>>,
}

impl FileEntry {
    /// Who is signalled, and the flags (`F_GETFL`); `None` for kinds that nobody is signalled by. A device that was opened by a
    /// path has those of its path.
    #[must_use]
    pub fn owner(&self) -> Option<(&FownEntry, u32)> {
        let own = self.body().and_then(FileBody::owner);
        own.or_else(|| self.reg.as_ref()?.owner())
    }

    /// Who is signalled, to be changed.
    fn owner_mut(&mut self) -> Option<&mut FownEntry> {
        match self.owner() {
            None => None,
            Some(_) if self.reg.is_some() => self.reg.as_mut()?.owner_mut(),
            Some(_) => self.body_mut()?.owner_mut(),
        }
    }

    /// The network namespace that a socket, or the device of a program, belongs to, if that is told.
    #[must_use]
    pub fn network(&self) -> Option<u32> {
        self.body()?.network()
    }
}

impl Owned for FileEntry {
    fn each_id(&mut self, change: &mut dyn FnMut(Id, &mut u32)) {
        if let Some(body) = self.body_mut() {
            body.each_id(change);
        }
        if let Some(owner) = self.owner_mut().filter(|owner| owner.pid != 0) {
            change(Id::User, &mut owner.uid);
            change(Id::User, &mut owner.euid);
        }
    }
}
