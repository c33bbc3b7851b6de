//! An internet socket, and what is in a TCP connection (`tcp-stream-INO.img`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use prost::Message;

use super::file_body::file_body;
use super::owned::{Id, Owned};

use super::parts::FownEntry;
use super::sockets::{SK_LISTEN, SkOptsEntry};

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
    /// The TCP connections that wait to be accepted at a socket that listens, oldest first. An extension.
    #[prost(message, repeated, tag = "1004")]
    pub waiting: Vec<WaitingEntry>,
}

/// A TCP connection that nobody has accepted yet. An extension.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct WaitingEntry {
    /// Its own address, as in [`InetSkEntry`]; its port is that of the socket.
    #[prost(uint32, repeated, packed = "false", tag = "1")]
    pub local: Vec<u32>,
    /// Its peer's address.
    #[prost(uint32, repeated, packed = "false", tag = "2")]
    pub peer: Vec<u32>,
    /// Its peer's port.
    #[prost(uint32, required, tag = "3")]
    pub peer_port: u32,
    /// Its numbers and what was agreed on; nothing has been sent.
    #[prost(message, required, tag = "4")]
    pub stream: TcpStreamEntry,
    /// The newest timestamp of its peer.
    #[prost(uint32, required, tag = "5")]
    pub peer_clock: u32,
    /// The peer has closed its side.
    #[prost(bool, required, tag = "6")]
    pub ended: bool,
    /// The peer has reset it.
    #[prost(bool, required, tag = "7")]
    pub reset: bool,
    /// What it has received.
    #[prost(bytes = "vec", required, tag = "8")]
    pub received: Vec<u8>,
}

impl WaitingEntry {
    /// Its own address, at the port of its socket, and its peer's; `None` if they are none.
    #[must_use]
    pub fn ends(&self, port: u32) -> Option<(SocketAddr, SocketAddr)> {
        Some((address(&self.local, port)?, address(&self.peer, self.peer_port)?))
    }
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

file_body! {
    InetSkEntry { signals in_network }

    fn connections(&self) -> Vec<(SocketAddr, SocketAddr)> {
        match self.is_connection() {
            true => self.local().zip(self.peer()).into_iter().collect(),
            false => self.waiting.iter().filter_map(|one| one.ends(self.src_port)).collect(),
        }
    }

    fn each_id(&mut self, change: &mut dyn FnMut(Id, &mut u32)) {
        self.opts.inode.iter_mut().for_each(|inode| inode.each_id(change));
    }
}
