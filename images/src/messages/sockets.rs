//! What all sockets have: states, options, owners, and packets in their queues (`sk-queues.img`).

use prost::Message;

use super::owned::{Id, NOBODY, Owned, owned};

/// `state` of a connected socket (the kernel's `TCP_ESTABLISHED`).
pub const SK_ESTABLISHED: u32 = 1;
/// `state` of a socket that is neither connected nor listening (`TCP_CLOSE`).
pub const SK_CLOSE: u32 = 7;
/// `state` of a listening socket (`TCP_LISTEN`).
pub const SK_LISTEN: u32 = 10;

/// `shutdown`: both directions open.
pub const SHUTDOWN_NONE: u32 = 0;
/// `shutdown`: no more reading.
pub const SHUTDOWN_READ: u32 = 1;
/// `shutdown`: no more writing.
pub const SHUTDOWN_WRITE: u32 = 2;
/// `shutdown`: both directions closed.
pub const SHUTDOWN_BOTH: u32 = 3;

/// Options that every kind of socket has.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct SkOptsEntry {
    /// `SO_SNDBUF`, as `getsockopt` gives it (twice what was set).
    #[prost(uint32, required, tag = "1")]
    pub so_sndbuf: u32,
    /// `SO_RCVBUF`, likewise.
    #[prost(uint32, required, tag = "2")]
    pub so_rcvbuf: u32,
    /// `SO_SNDTIMEO`, seconds.
    #[prost(uint64, required, tag = "3")]
    pub so_snd_tmo_sec: u64,
    /// `SO_SNDTIMEO`, microseconds.
    #[prost(uint64, required, tag = "4")]
    pub so_snd_tmo_usec: u64,
    /// `SO_RCVTIMEO`, seconds.
    #[prost(uint64, required, tag = "5")]
    pub so_rcv_tmo_sec: u64,
    /// `SO_RCVTIMEO`, microseconds.
    #[prost(uint64, required, tag = "6")]
    pub so_rcv_tmo_usec: u64,
    /// `SO_REUSEADDR`.
    #[prost(bool, optional, tag = "7")]
    pub reuseaddr: Option<bool>,
    /// `SO_PRIORITY`.
    #[prost(uint32, optional, tag = "8")]
    pub so_priority: Option<u32>,
    /// `SO_RCVLOWAT`.
    #[prost(uint32, optional, tag = "9")]
    pub so_rcvlowat: Option<u32>,
    /// `SO_MARK`.
    #[prost(uint32, optional, tag = "10")]
    pub so_mark: Option<u32>,
    /// `SO_PASSCRED`.
    #[prost(bool, optional, tag = "11")]
    pub so_passcred: Option<bool>,
    /// `SO_PASSSEC`.
    #[prost(bool, optional, tag = "12")]
    pub so_passsec: Option<bool>,
    /// `SO_DONTROUTE`.
    #[prost(bool, optional, tag = "13")]
    pub so_dontroute: Option<bool>,
    /// `SO_NO_CHECK`.
    #[prost(bool, optional, tag = "14")]
    pub so_no_check: Option<bool>,
    /// `SO_BINDTODEVICE`.
    #[prost(string, optional, tag = "15")]
    pub so_bound_dev: Option<String>,
    /// `SO_ATTACH_FILTER`: an instruction each.
    #[prost(fixed64, repeated, packed = "false", tag = "16")]
    pub so_filter: Vec<u64>,
    /// `SO_REUSEPORT`.
    #[prost(bool, optional, tag = "17")]
    pub so_reuseport: Option<bool>,
    /// `SO_BROADCAST`.
    #[prost(bool, optional, tag = "18")]
    pub so_broadcast: Option<bool>,
    /// `SO_KEEPALIVE`.
    #[prost(bool, optional, tag = "19")]
    pub so_keepalive: Option<bool>,
    /// Older images: now in [`TcpOptsEntry`].
    #[prost(uint32, optional, tag = "20")]
    pub tcp_keepcnt: Option<u32>,
    /// Older images: now in [`TcpOptsEntry`].
    #[prost(uint32, optional, tag = "21")]
    pub tcp_keepidle: Option<u32>,
    /// Older images: now in [`TcpOptsEntry`].
    #[prost(uint32, optional, tag = "22")]
    pub tcp_keepintvl: Option<u32>,
    /// `SO_OOBINLINE`.
    #[prost(uint32, optional, tag = "23")]
    pub so_oobinline: Option<u32>,
    /// `SO_LINGER`, seconds.
    #[prost(uint32, optional, tag = "24")]
    pub so_linger: Option<u32>,
    /// `SO_BUF_LOCK`: sizes that were set by hand.
    #[prost(uint32, optional, tag = "25")]
    pub so_buf_lock: Option<u32>,
    /// Options that CRIU has no place for, where they differ from a new socket's. An extension.
    #[prost(message, repeated, tag = "1000")]
    pub others: Vec<SkOptEntry>,
    /// Owner and mode of the socket itself, where they are not a new one's of root. An extension.
    #[prost(message, optional, tag = "1001")]
    pub inode: Option<FilePermsEntry>,
}

/// An option of a socket, as `getsockopt` gives it and `setsockopt` takes it.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct SkOptEntry {
    /// `SOL_*`.
    #[prost(uint32, required, tag = "1")]
    pub level: u32,
    /// The option's number at this level.
    #[prost(uint32, required, tag = "2")]
    pub name: u32,
    /// Its value.
    #[prost(bytes = "vec", required, tag = "3")]
    pub value: Vec<u8>,
    /// The name of the network interface whose number ends the value, where there is one.
    #[prost(string, optional, tag = "4")]
    pub interface: Option<String>,
}

/// Owner and mode of a socket, of its file, or of a pipe.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct FilePermsEntry {
    /// Type and permissions, as `st_mode`.
    #[prost(uint32, required, tag = "1")]
    pub mode: u32,
    /// User id.
    #[prost(uint32, required, tag = "2")]
    pub uid: u32,
    /// Group id.
    #[prost(uint32, required, tag = "3")]
    pub gid: u32,
}

/// `sk-queues.img`: a packet in a socket's receive queue. `length` bytes follow.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct SkPacketEntry {
    /// File id of the socket whose queue it is in.
    #[prost(uint32, required, tag = "1")]
    pub id_for: u32,
    /// Bytes that follow.
    #[prost(uint32, required, tag = "2")]
    pub length: u32,
    /// What travels with it.
    #[prost(message, repeated, tag = "4")]
    pub scm: Vec<ScmEntry>,
    /// Extension: who sent it, as the socket asks for that (`SO_PASSCRED`).
    #[prost(message, optional, tag = "1000")]
    pub sender: Option<PacketSender>,
    /// Extension: the name of the socket that sent it, if that is not the one that this one is connected
    /// to. As in `sun_path`.
    #[prost(bytes = "vec", optional, tag = "1001")]
    pub from: Option<Vec<u8>>,
}

/// Who sent a packet. An extension.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct PacketSender {
    /// Process id.
    #[prost(uint32, required, tag = "1")]
    pub pid: u32,
    /// User id.
    #[prost(uint32, required, tag = "2")]
    pub uid: u32,
    /// Group id.
    #[prost(uint32, required, tag = "3")]
    pub gid: u32,
}

/// A control message that travels with a packet.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct ScmEntry {
    /// `SCM_*`.
    #[prost(uint32, required, tag = "1")]
    pub r#type: u32,
    /// File ids.
    #[prost(uint32, repeated, packed = "false", tag = "2")]
    pub rights: Vec<u32>,
}

owned! { FilePermsEntry }

impl Owned for SkPacketEntry {
    fn each_id(&mut self, change: &mut dyn FnMut(Id, &mut u32)) {
        let Some(sender) = &mut self.sender else { return };
        change(Id::User, &mut sender.uid);
        change(Id::Group, &mut sender.gid);
        // Somebody of outside.
        if sender.uid == NOBODY || sender.gid == NOBODY {
            self.sender = None;
        }
    }
}
