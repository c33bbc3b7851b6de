//! Sockets: Unix, internet, netlink, packet, and what is queued in them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use prost::Message;

use super::parts::{FileIdentity, FownEntry};

/// `state` of a connected socket (the kernel's `TCP_ESTABLISHED`).
pub const SK_ESTABLISHED: u32 = 1;
/// `state` of a socket that is neither connected nor listening (`TCP_CLOSE`).
pub const SK_CLOSE: u32 = 7;
/// `state` of a listening socket (`TCP_LISTEN`).
pub const SK_LISTEN: u32 = 10;

/// `uflags` of a Unix socket outside of the tree, which others are connected to.
pub const UNIX_OUTSIDE: u32 = 1;
/// `uflags` of a Unix socket by which its process had asked to be dumped.
pub const UNIX_CLIENT: u32 = 2;

/// `shutdown`: both directions open.
pub const SHUTDOWN_NONE: u32 = 0;
/// `shutdown`: no more reading.
pub const SHUTDOWN_READ: u32 = 1;
/// `shutdown`: no more writing.
pub const SHUTDOWN_WRITE: u32 = 2;
/// `shutdown`: both directions closed.
pub const SHUTDOWN_BOTH: u32 = 3;

/// A Unix socket.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct UnixSkEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Inode, which is how other entries refer to it.
    #[prost(uint32, required, tag = "2")]
    pub ino: u32,
    /// `SOCK_*`.
    #[prost(uint32, required, tag = "3")]
    pub r#type: u32,
    /// `SK_*`.
    #[prost(uint32, required, tag = "4")]
    pub state: u32,
    /// Flags, as `F_GETFL` gives them.
    #[prost(uint32, required, tag = "5")]
    pub flags: u32,
    /// How CRIU treats it: 1 its peer is outside, 8 it is inherited.
    #[prost(uint32, required, tag = "6")]
    pub uflags: u32,
    /// Length of the queue of a listening socket.
    #[prost(uint32, required, tag = "7")]
    pub backlog: u32,
    /// `ino` of the other side; 0 if not connected.
    #[prost(uint32, required, tag = "8")]
    pub peer: u32,
    /// Who is signalled.
    #[prost(message, required, tag = "9")]
    pub fown: FownEntry,
    /// Options every socket has.
    #[prost(message, required, tag = "10")]
    pub opts: SkOptsEntry,
    /// As in `sun_path`: a path with its final NUL, or an abstract name that begins with NUL.
    #[prost(bytes = "vec", required, tag = "11")]
    pub name: Vec<u8>,
    /// `SHUTDOWN_*`; absent: none.
    #[prost(uint32, optional, tag = "12")]
    pub shutdown: Option<u32>,
    /// Owner and mode of its file.
    #[prost(message, optional, tag = "13")]
    pub file_perms: Option<FilePermsEntry>,
    /// Directory that a relative name is relative to.
    #[prost(bytes = "vec", optional, tag = "14")]
    pub name_dir: Option<Vec<u8>>,
    /// Its file is gone.
    #[prost(bool, optional, tag = "15")]
    pub deleted: Option<bool>,
    /// Network namespace, as in [`TaskKobjIdsEntry`](super::TaskKobjIdsEntry).
    #[prost(uint32, optional, tag = "16")]
    pub ns_id: Option<u32>,
    /// Mount, or -1 where there is one mount namespace.
    #[prost(sint32, optional, tag = "17", default = "-1")]
    pub mnt_id: Option<i32>,
    /// Extension: which file it is bound to.
    #[prost(message, optional, tag = "1000")]
    pub file: Option<FileIdentity>,
    /// Extension: which directory that file is in.
    #[prost(message, optional, tag = "1001")]
    pub directory: Option<FileIdentity>,
    /// Extension: the file's path as the kernel has it, without the links that there may be in `name`.
    #[prost(bytes = "vec", optional, tag = "1002")]
    pub path: Option<Vec<u8>>,
    /// Extension: who made, connected or listened to what it is connected to; of a listening socket who
    /// made it listen (`SO_PEERCRED`).
    #[prost(message, optional, tag = "1003")]
    pub peer_credentials: Option<PeerCredentials>,
    /// Extension: of one that waits to be accepted, whom the other end will be told of.
    #[prost(message, optional, tag = "1004")]
    pub connector: Option<PeerCredentials>,
}

/// What `SO_PEERCRED` and `SO_PEERGROUPS` tell. An extension.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Message)]
pub struct PeerCredentials {
    /// Process id; 0 if it is not known.
    #[prost(uint32, required, tag = "1")]
    pub pid: u32,
    /// Effective user id.
    #[prost(uint32, required, tag = "2")]
    pub uid: u32,
    /// Effective group id.
    #[prost(uint32, required, tag = "3")]
    pub gid: u32,
    /// Supplementary groups.
    #[prost(uint32, repeated, packed = "false", tag = "4")]
    pub groups: Vec<u32>,
}

/// An internet socket. Addresses are words in network byte order as they lie in memory: one for
/// IPv4, four for IPv6; ports are in host order.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct InetSkEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Inode, which is how other entries refer to it.
    #[prost(uint32, required, tag = "2")]
    pub ino: u32,
    /// `AF_INET` 2 or `AF_INET6` 10.
    #[prost(uint32, required, tag = "3")]
    pub family: u32,
    /// `SOCK_*`.
    #[prost(uint32, required, tag = "4")]
    pub r#type: u32,
    /// `IPPROTO_*`.
    #[prost(uint32, required, tag = "5")]
    pub proto: u32,
    /// `SK_*`.
    #[prost(uint32, required, tag = "6")]
    pub state: u32,
    /// Own port.
    #[prost(uint32, required, tag = "7")]
    pub src_port: u32,
    /// Other side's port.
    #[prost(uint32, required, tag = "8")]
    pub dst_port: u32,
    /// Flags, as `F_GETFL` gives them.
    #[prost(uint32, required, tag = "9")]
    pub flags: u32,
    /// Length of the queue of a listening socket.
    #[prost(uint32, required, tag = "10")]
    pub backlog: u32,
    /// Own address.
    #[prost(uint32, repeated, packed = "false", tag = "11")]
    pub src_addr: Vec<u32>,
    /// Other side's address.
    #[prost(uint32, repeated, packed = "false", tag = "12")]
    pub dst_addr: Vec<u32>,
    /// Who is signalled.
    #[prost(message, required, tag = "13")]
    pub fown: FownEntry,
    /// Options every socket has.
    #[prost(message, required, tag = "14")]
    pub opts: SkOptsEntry,
    /// `IPV6_V6ONLY`.
    #[prost(bool, optional, tag = "15")]
    pub v6only: Option<bool>,
    /// Options of IP.
    #[prost(message, optional, tag = "16")]
    pub ip_opts: Option<IpOptsEntry>,
    /// Device of a link-local address.
    #[prost(string, optional, tag = "17")]
    pub ifname: Option<String>,
    /// Network namespace, as in [`TaskKobjIdsEntry`](super::TaskKobjIdsEntry).
    #[prost(uint32, optional, tag = "18")]
    pub ns_id: Option<u32>,
    /// `SHUTDOWN_*`; absent: none.
    #[prost(uint32, optional, tag = "19")]
    pub shutdown: Option<u32>,
    /// Options of TCP.
    #[prost(message, optional, tag = "20")]
    pub tcp_opts: Option<TcpOptsEntry>,
    /// Multicast groups that it is a member of. An extension.
    #[prost(message, repeated, tag = "1000")]
    pub groups: Vec<MulticastEntry>,
    /// It was bound to an address that nobody could bind to (`IP_FREEBIND`, `IP_TRANSPARENT`), though it may not do
    /// so itself any more. An extension.
    #[prost(bool, optional, tag = "1001")]
    pub nowhere: Option<bool>,
    /// What waits in a UDP or UDP-Lite socket, oldest first. An extension.
    #[prost(message, repeated, tag = "1002")]
    pub datagrams: Vec<DatagramEntry>,
    /// How a TCP connection that is over has ended, if a call has yet to be told of that. An extension.
    #[prost(message, optional, tag = "1003")]
    pub failure: Option<FailureEntry>,
}

/// The end of a TCP connection that nobody has been told of. An extension.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct FailureEntry {
    /// The error: `ECONNRESET` or `EPIPE`.
    #[prost(uint32, required, tag = "1")]
    pub error: u32,
    /// The peer had closed its side before.
    #[prost(bool, required, tag = "2")]
    pub ended: bool,
}

/// A datagram that waits in a socket. An extension.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct DatagramEntry {
    /// The sender's address, as in [`InetSkEntry`].
    #[prost(uint32, repeated, packed = "false", tag = "1")]
    pub address: Vec<u32>,
    /// The sender's port.
    #[prost(uint32, required, tag = "2")]
    pub port: u32,
    /// What is in it.
    #[prost(bytes = "vec", required, tag = "3")]
    pub bytes: Vec<u8>,
}

/// An address from its words and its port.
fn address(words: &[u32], port: u32) -> Option<SocketAddr> {
    let ip: IpAddr = match *words {
        [word] => Ipv4Addr::from(word.to_ne_bytes()).into(),
        [a, b, c, d] => {
            let mut bytes = [0; 16];
            for (place, word) in bytes.chunks_exact_mut(4).zip([a, b, c, d]) {
                place.copy_from_slice(&word.to_ne_bytes());
            }
            Ipv6Addr::from(bytes).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::try_from(port).ok()?))
}

impl InetSkEntry {
    /// Own address; `None` if it is none.
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        address(&self.src_addr, self.src_port)
    }

    /// Address of the other side; `None` if it is none.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        address(&self.dst_addr, self.dst_port)
    }

    /// Whether it is a TCP connection, or was one: then there is a [`TcpStreamEntry`], unless connections
    /// were dumped as closed.
    #[must_use]
    pub const fn is_connection(&self) -> bool {
        const STREAM: u32 = 1;
        const TCP: u32 = 6;
        self.r#type == STREAM && self.proto == TCP && self.dst_port != 0 && self.state != SK_LISTEN
    }
}

/// A multicast group that a socket is a member of. An extension.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct MulticastEntry {
    /// Name of the interface.
    #[prost(string, required, tag = "1")]
    pub interface: String,
    /// Address of the group.
    #[prost(string, required, tag = "2")]
    pub group: String,
    /// It listens to `sources` only, not to all but those.
    #[prost(bool, required, tag = "3")]
    pub only: bool,
    /// Addresses of sources.
    #[prost(string, repeated, tag = "4")]
    pub sources: Vec<String>,
}

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

/// Options of IPPROTO_IP or IPPROTO_IPV6.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct IpOptsEntry {
    /// `IP_FREEBIND`.
    #[prost(bool, optional, tag = "1")]
    pub freebind: Option<bool>,
    /// Options of raw sockets.
    #[prost(message, optional, tag = "4")]
    pub raw: Option<IpOptsRawEntry>,
    /// `IP_PKTINFO`.
    #[prost(bool, optional, tag = "5")]
    pub pktinfo: Option<bool>,
    /// `IP_TOS`.
    #[prost(uint32, optional, tag = "6")]
    pub tos: Option<u32>,
    /// `IP_TTL`.
    #[prost(uint32, optional, tag = "7")]
    pub ttl: Option<u32>,
}

/// Options of raw sockets.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct IpOptsRawEntry {
    /// `IP_HDRINCL`.
    #[prost(bool, optional, tag = "1")]
    pub hdrincl: Option<bool>,
    /// `IP_NODEFRAG`.
    #[prost(bool, optional, tag = "2")]
    pub nodefrag: Option<bool>,
    /// `IPV6_CHECKSUM`.
    #[prost(bool, optional, tag = "3")]
    pub checksum: Option<bool>,
    /// `ICMP_FILTER` or `ICMPV6_FILTER`.
    #[prost(uint32, repeated, packed = "false", tag = "4")]
    pub icmpv_filter: Vec<u32>,
}

/// Options of IPPROTO_TCP.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct TcpOptsEntry {
    /// `TCP_CORK`.
    #[prost(bool, optional, tag = "1")]
    pub cork: Option<bool>,
    /// `TCP_NODELAY`.
    #[prost(bool, optional, tag = "2")]
    pub nodelay: Option<bool>,
    /// `TCP_KEEPCNT`.
    #[prost(uint32, optional, tag = "3")]
    pub keepcnt: Option<u32>,
    /// `TCP_KEEPIDLE`.
    #[prost(uint32, optional, tag = "4")]
    pub keepidle: Option<u32>,
    /// `TCP_KEEPINTVL`.
    #[prost(uint32, optional, tag = "5")]
    pub keepintvl: Option<u32>,
}

/// `tcp-stream-INO.img` (the inode in hexadecimal): an established connection. `inq_len`
/// received bytes and `outq_len` bytes to be sent follow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct TcpStreamEntry {
    /// Bytes received and not read.
    #[prost(uint32, required, tag = "1")]
    pub inq_len: u32,
    /// Sequence number after them.
    #[prost(uint32, required, tag = "2")]
    pub inq_seq: u32,
    /// Bytes sent and not acknowledged, or not sent.
    #[prost(uint32, required, tag = "3")]
    pub outq_len: u32,
    /// Sequence number after them.
    #[prost(uint32, required, tag = "4")]
    pub outq_seq: u32,
    /// `TCPI_OPT_*`.
    #[prost(uint32, required, tag = "5")]
    pub opt_mask: u32,
    /// Window scale of the other side.
    #[prost(uint32, required, tag = "6")]
    pub snd_wscale: u32,
    /// Largest segment.
    #[prost(uint32, required, tag = "7")]
    pub mss_clamp: u32,
    /// Own window scale.
    #[prost(uint32, optional, tag = "8")]
    pub rcv_wscale: Option<u32>,
    /// Clock of timestamps.
    #[prost(uint32, optional, tag = "9")]
    pub timestamp: Option<u32>,
    /// `TCP_CORK`.
    #[prost(bool, optional, tag = "10")]
    pub cork: Option<bool>,
    /// `TCP_NODELAY`.
    #[prost(bool, optional, tag = "11")]
    pub nodelay: Option<bool>,
    /// Bytes not sent, of `outq_len`.
    #[prost(uint32, optional, tag = "12")]
    pub unsq_len: Option<u32>,
    /// Window state (`TCP_REPAIR_WINDOW`).
    #[prost(uint32, optional, tag = "13")]
    pub snd_wl1: Option<u32>,
    /// Window state.
    #[prost(uint32, optional, tag = "14")]
    pub snd_wnd: Option<u32>,
    /// Window state.
    #[prost(uint32, optional, tag = "15")]
    pub max_window: Option<u32>,
    /// Window state.
    #[prost(uint32, optional, tag = "16")]
    pub rcv_wnd: Option<u32>,
    /// Window state.
    #[prost(uint32, optional, tag = "17")]
    pub rcv_wup: Option<u32>,
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
