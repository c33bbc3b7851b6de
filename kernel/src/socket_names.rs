//! The socket options that a program sets once and expects to keep, of every kind that can be
//! read and set again: what a checkpoint compares with a new socket's.

/// An option: level, number, and what to call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOption {
    /// `SOL_*`.
    pub level: i32,
    /// The number at that level.
    pub number: i32,
    /// Its name in C.
    pub name: &'static str,
}

macro_rules! options {
    ($level:ident: $($number:literal $name:literal,)*) => {
        &[$(SocketOption { level: libc::$level, number: $number, name: $name },)*]
    };
}

/// Of sockets of every family.
pub const GENERAL: &[SocketOption] = options! { SOL_SOCKET:
    1 "SO_DEBUG", 29 "SO_TIMESTAMP", 35 "SO_TIMESTAMPNS", 37 "SO_TIMESTAMPING", 40 "SO_RXQ_OVFL",
    42 "SO_PEEK_OFF", 45 "SO_SELECT_ERR_QUEUE", 46 "SO_BUSY_POLL", 47 "SO_MAX_PACING_RATE",
    41 "SO_WIFI_STATUS", 43 "SO_NOFCS", 44 "SO_LOCK_FILTER", 49 "SO_INCOMING_CPU", 60 "SO_ZEROCOPY", 61 "SO_TXTIME", 63 "SO_TIMESTAMP_NEW",
    64 "SO_TIMESTAMPNS_NEW", 65 "SO_TIMESTAMPING_NEW", 69 "SO_PREFER_BUSY_POLL", 73 "SO_RESERVE_MEM",
    74 "SO_TXREHASH", 75 "SO_RCVMARK", 76 "SO_PASSPIDFD", 82 "SO_RCVPRIORITY", 83 "SO_PASSRIGHTS", 84 "SO_INQ",
};

/// Of TCP sockets.
pub const TCP: &[SocketOption] = options! { SOL_TCP:
    2 "TCP_MAXSEG", 7 "TCP_SYNCNT", 8 "TCP_LINGER2", 9 "TCP_DEFER_ACCEPT",
    10 "TCP_WINDOW_CLAMP", 13 "TCP_CONGESTION",
    16 "TCP_THIN_LINEAR_TIMEOUTS", 18 "TCP_USER_TIMEOUT", 23 "TCP_FASTOPEN",
    25 "TCP_NOTSENT_LOWAT", 27 "TCP_SAVE_SYN", 30 "TCP_FASTOPEN_CONNECT",
    33 "TCP_FASTOPEN_KEY", 34 "TCP_FASTOPEN_NO_COOKIE", 36 "TCP_INQ", 37 "TCP_TX_DELAY", 44 "TCP_RTO_MAX_MS",
    45 "TCP_RTO_MIN_US", 46 "TCP_DELACK_MAX_US",
};

/// Of UDP sockets.
pub const UDP: &[SocketOption] = options! { SOL_UDP:
    1 "UDP_CORK", 100 "UDP_ENCAP", 101 "UDP_NO_CHECK6_TX", 102 "UDP_NO_CHECK6_RX", 103 "UDP_SEGMENT", 104 "UDP_GRO",
};

/// Of UDP-Lite sockets, beside those of UDP sockets.
pub const UDP_LITE: &[SocketOption] = &[
    SocketOption { level: libc::IPPROTO_UDPLITE, number: 10, name: "UDPLITE_SEND_CSCOV" },
    SocketOption { level: libc::IPPROTO_UDPLITE, number: 11, name: "UDPLITE_RECV_CSCOV" },
];

/// Of raw sockets.
pub const RAW: &[SocketOption] = &[
    SocketOption { level: libc::SOL_IP, number: 5, name: "IP_ROUTER_ALERT" },
    SocketOption { level: libc::SOL_IPV6, number: 7, name: "IPV6_CHECKSUM" },
    SocketOption { level: libc::SOL_IPV6, number: 22, name: "IPV6_ROUTER_ALERT" },
];

/// Of IPv4 sockets, and of IPv6 sockets that take IPv4, too.
pub const IP: &[SocketOption] = options! { SOL_IP:
    4 "IP_OPTIONS", 6 "IP_RECVOPTS", 7 "IP_RETOPTS", 10 "IP_MTU_DISCOVER", 11 "IP_RECVERR", 12 "IP_RECVTTL",
    13 "IP_RECVTOS", 18 "IP_PASSSEC", 19 "IP_TRANSPARENT", 20 "IP_RECVORIGDSTADDR", 21 "IP_MINTTL",
    23 "IP_CHECKSUM", 24 "IP_BIND_ADDRESS_NO_PORT", 25 "IP_RECVFRAGSIZE", 26 "IP_RECVERR_RFC4884",
    32 "IP_MULTICAST_IF", 33 "IP_MULTICAST_TTL", 34 "IP_MULTICAST_LOOP",
    49 "IP_MULTICAST_ALL", 50 "IP_UNICAST_IF", 51 "IP_LOCAL_PORT_RANGE",
};

/// Of IPv6 sockets that take IPv4, too, what the images have places for of IPv4 sockets only.
pub const IP_OF_IPV6: &[SocketOption] = options! { SOL_IP:
    1 "IP_TOS", 2 "IP_TTL", 8 "IP_PKTINFO",
};

/// Of IPv6 sockets.
pub const IPV6: &[SocketOption] = options! { SOL_IPV6:
    2 "IPV6_2292PKTINFO", 3 "IPV6_2292HOPOPTS", 4 "IPV6_2292DSTOPTS", 5 "IPV6_2292RTHDR",
    8 "IPV6_2292HOPLIMIT", 11 "IPV6_FLOWINFO", 16 "IPV6_UNICAST_HOPS", 17 "IPV6_MULTICAST_IF", 18 "IPV6_MULTICAST_HOPS", 19 "IPV6_MULTICAST_LOOP",
    23 "IPV6_MTU_DISCOVER", 25 "IPV6_RECVERR", 29 "IPV6_MULTICAST_ALL", 30 "IPV6_ROUTER_ALERT_ISOLATE",
    31 "IPV6_RECVERR_RFC4884", 33 "IPV6_FLOWINFO_SEND", 51 "IPV6_RECVHOPLIMIT", 53 "IPV6_RECVHOPOPTS",
    54 "IPV6_HOPOPTS", 55 "IPV6_RTHDRDSTOPTS", 56 "IPV6_RECVRTHDR", 57 "IPV6_RTHDR",
    58 "IPV6_RECVDSTOPTS", 59 "IPV6_DSTOPTS", 60 "IPV6_RECVPATHMTU", 62 "IPV6_DONTFRAG", 66 "IPV6_RECVTCLASS", 67 "IPV6_TCLASS",
    70 "IPV6_AUTOFLOWLABEL", 72 "IPV6_ADDR_PREFERENCES", 73 "IPV6_MINHOPCOUNT", 74 "IPV6_RECVORIGDSTADDR",
    75 "IPV6_TRANSPARENT", 76 "IPV6_UNICAST_IF", 77 "IPV6_RECVFRAGSIZE",
};

/// Of packet sockets.
pub const PACKET: &[SocketOption] = options! { SOL_PACKET:
    19 "PACKET_TX_HAS_OFF", 20 "PACKET_QDISC_BYPASS", 23 "PACKET_IGNORE_OUTGOING", 24 "PACKET_VNET_HDR_SZ",
};

/// `SOL_NETLINK`, of netlink sockets.
const SOL_NETLINK: i32 = 270;

/// Of netlink sockets.
pub const NETLINK: &[SocketOption] = &[
    SocketOption { level: SOL_NETLINK, number: 3, name: "NETLINK_PKTINFO" },
    SocketOption { level: SOL_NETLINK, number: 4, name: "NETLINK_BROADCAST_ERROR" },
    SocketOption { level: SOL_NETLINK, number: 5, name: "NETLINK_NO_ENOBUFS" },
    SocketOption { level: SOL_NETLINK, number: 8, name: "NETLINK_LISTEN_ALL_NSID" },
    SocketOption { level: SOL_NETLINK, number: 10, name: "NETLINK_CAP_ACK" },
    SocketOption { level: SOL_NETLINK, number: 11, name: "NETLINK_EXT_ACK" },
    SocketOption { level: SOL_NETLINK, number: 12, name: "NETLINK_GET_STRICT_CHK" },
];

/// `IPV6_MTU`, which only tells of the way to the peer when it is read.
pub const IPV6_MTU: SocketOption =
    SocketOption { level: libc::SOL_IPV6, number: 24, name: "IPV6_MTU" };
/// `IPV6_PKTINFO`: the address and interface to send from.
pub const IPV6_PKTINFO: SocketOption =
    SocketOption { level: libc::SOL_IPV6, number: 50, name: "IPV6_PKTINFO" };
/// `SO_BUSY_POLL_BUDGET`.
pub const SO_BUSY_POLL_BUDGET: SocketOption =
    SocketOption { level: libc::SOL_SOCKET, number: 70, name: "SO_BUSY_POLL_BUDGET" };

/// `IP_MULTICAST_IF`: reading it gives an address alone.
pub const IP_MULTICAST_IF: SocketOption =
    SocketOption { level: libc::SOL_IP, number: libc::IP_MULTICAST_IF, name: "IP_MULTICAST_IF" };

/// What no call reads back.
pub const HIDDEN: &[SocketOption] = &[IPV6_MTU, IPV6_PKTINFO, SO_BUSY_POLL_BUDGET];

/// How the number of a network interface stands at the end of an option's value, by level, number and length of the value.
fn interface_order((level, number): (i32, i32), bytes: usize) -> Option<fn(u32) -> u32> {
    const IP_UNICAST_IF: i32 = 50;
    match (level, number, bytes) {
        (libc::SOL_IP, libc::IP_MULTICAST_IF, 12)
        | (libc::SOL_IPV6, libc::IPV6_MULTICAST_IF, 4)
        | (libc::SOL_IPV6, libc::IPV6_PKTINFO, 20) => Some(std::convert::identity),
        (libc::SOL_IP, IP_UNICAST_IF, 4) | (libc::SOL_IPV6, libc::IPV6_UNICAST_IF, 4) => {
            Some(u32::to_be)
        }
        _ => None,
    }
}

/// The number of the network interface in the value of an option (level and number), if there is one.
#[must_use]
pub fn interface_in(option: (i32, i32), value: &[u8]) -> Option<u32> {
    let order = interface_order(option, value.len())?;
    let number = u32::from_ne_bytes(*value.last_chunk()?);
    Some(order(number)).filter(|number| *number != 0)
}

/// Puts the number of another network interface into the value of an option; whether it has a place for one.
pub fn set_interface(option: (i32, i32), value: &mut [u8], number: u32) -> bool {
    let order = interface_order(option, value.len());
    let Some((order, place)) = order.zip(value.last_chunk_mut()) else { return false };
    *place = order(number).to_ne_bytes();
    true
}

/// The lists that a socket of this family, type and protocol is held against.
#[must_use]
pub fn of(family: i32, kind: i32, protocol: i32) -> Vec<&'static [SocketOption]> {
    let mut lists = vec![GENERAL];
    match family {
        libc::AF_NETLINK => lists.push(NETLINK),
        libc::AF_PACKET => lists.push(PACKET),
        libc::AF_INET => lists.push(IP),
        libc::AF_INET6 => lists.extend([IP, IP_OF_IPV6, IPV6]),
        _ => {}
    }
    if matches!(family, libc::AF_INET | libc::AF_INET6) {
        match (kind, protocol) {
            (libc::SOCK_RAW, _) => lists.push(RAW),
            (_, libc::IPPROTO_TCP) => lists.push(TCP),
            (_, libc::IPPROTO_UDP) => lists.push(UDP),
            (_, libc::IPPROTO_UDPLITE) => lists.extend([UDP, UDP_LITE]),
            _ => {}
        }
    }
    lists
}

/// The option with this level and number.
#[must_use]
pub fn find(level: i32, number: i32) -> Option<SocketOption> {
    [GENERAL, TCP, UDP, UDP_LITE, RAW, IP, IP_OF_IPV6, IPV6, NETLINK, PACKET, HIDDEN]
        .into_iter()
        .flatten()
        .copied()
        .find(|option| (option.level, option.number) == (level, number))
}
