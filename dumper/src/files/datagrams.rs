//! Internet sockets without connections: UDP, UDP-Lite, ping and raw ones. What they have that TCP sockets have
//! not.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use images::messages::{DatagramEntry, IpOptsRawEntry, SHUTDOWN_NONE, SHUTDOWN_READ, SkOptsEntry};
use kernel::datagrams::peek;
use kernel::procfs::{Dir, udp_sockets_at};
use kernel::sockets::{
    Address, bind, bytes_unsent, connect, create, is_readable, local_address, option, option_bytes,
    set_option, shut_down,
};
use kernel::tty::bytes_waiting;
use libc::{
    AF_INET, AF_INET6, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_UDP, IPPROTO_UDPLITE, SOCK_DGRAM,
    SOCK_RAW, SOL_IP, SOL_IPV6, SOL_SOCKET,
};

use super::problem::{Doing, Problem};

/// What kind of socket without connections it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// UDP, or UDP-Lite.
    Udp,
    /// It sends and receives echo requests (`IPPROTO_ICMP`).
    Ping,
    /// It sends and receives packets with their headers.
    Raw,
}

impl Kind {
    /// The kind of sockets of a type and protocol; `None` if it is another.
    pub(super) const fn of(kind: i32, protocol: i32) -> Option<Self> {
        match (kind, protocol) {
            (SOCK_DGRAM, IPPROTO_UDP | IPPROTO_UDPLITE) => Some(Self::Udp),
            (SOCK_DGRAM, IPPROTO_ICMP | IPPROTO_ICMPV6) => Some(Self::Ping),
            (SOCK_RAW, _) => Some(Self::Raw),
            _ => None,
        }
    }

    /// How far a socket has been shut down, in the images' numbers. Of UDP sockets diagnosis tells all.
    pub(super) fn shutdown(
        self,
        socket: BorrowedFd<'_>,
        diagnosed: impl FnOnce() -> Result<u32, Problem>,
    ) -> Result<u32, Problem> {
        match self {
            Self::Udp => diagnosed(),
            Self::Ping | Self::Raw => {
                Ok(shut_down(socket).doing("look whether it is shut down, of")?.into())
            }
        }
    }

    /// Refuses a socket in which something waits that would be lost. `strict` says whether what waits only now counts, `frozen`
    /// whether the target stands still, `uncorked` whether it is known that no datagram waits for its end: what has been sent, and waits
    /// for the address of a neighbour, looks the same from outside.
    pub(super) fn is_empty(
        self,
        socket: BorrowedFd<'_>,
        shutdown: u32,
        (strict, frozen, uncorked): (bool, bool, bool),
    ) -> Result<(), Problem> {
        let corked = self == Self::Udp
            && option(socket, libc::SOL_UDP, libc::UDP_CORK).doing("get socket option of")? != 0;
        if !uncorked && (corked || strict) && holds_back(socket)? {
            return Err(Problem::Refused(support::sockets::HELD_BACK));
        }
        // Copies of what passes are left behind; what waits in UDP sockets is read when they stand still.
        let counts = match self {
            Self::Udp => strict && !frozen,
            Self::Ping => strict,
            Self::Raw => false,
        };
        if counts && waits(socket, shutdown)? {
            return Err(Problem::Refused(support::sockets::DATAGRAMS_WAIT));
        }
        Ok(())
    }
}

/// Whether anything waits to be read. Of one that receives nothing any more poll(2) does not tell.
pub(super) fn waits(socket: BorrowedFd<'_>, shutdown: u32) -> Result<bool, Problem> {
    if shutdown & SHUTDOWN_READ != SHUTDOWN_NONE {
        return Ok(bytes_waiting(socket).doing("get queue of")? > 0);
    }
    is_readable(socket).doing("look for datagrams in")
}

/// What waits in a UDP socket with these options, oldest first.
pub(super) fn queue(
    socket: BorrowedFd<'_>,
    shutdown: u32,
    options: &SkOptsEntry,
) -> Result<Vec<DatagramEntry>, Problem> {
    if !waits(socket, shutdown)? {
        return Ok(Vec::new());
    }
    // A restore sends them over the loopback interface, and of several sockets at one address the kernel chooses
    // one (SO_REUSEPORT).
    let device = options.so_bound_dev.as_deref();
    let is_reached = device.is_none_or(|device| device == "lo")
        && is_own(socket)?
        && (!options.so_reuseport() || has_its_port_alone(socket)?);
    if !is_reached {
        return Err(Problem::Refused(support::sockets::DATAGRAMS_WAIT));
    }
    // The peek offset is the target's own: it is put back.
    let before = option(socket, SOL_SOCKET, libc::SO_PEEK_OFF).doing("get peek offset of")?;
    set_option(socket, SOL_SOCKET, libc::SO_PEEK_OFF, 0).doing("set peek offset of")?;
    let found = walk(socket);
    set_option(socket, SOL_SOCKET, libc::SO_PEEK_OFF, before).doing("restore peek offset of")?;
    found
}

fn has_its_port_alone(socket: BorrowedFd<'_>) -> Result<bool, Problem> {
    let address = local_address(socket).doing("get the address of")?;
    let port = address.data().first_chunk().map_or(0, |port| u16::from_be_bytes(*port));
    let own = Dir::of_this_thread().doing("list the UDP sockets beside")?;
    Ok(udp_sockets_at(&own, port).doing("list the UDP sockets beside")? <= 1)
}

fn walk(socket: BorrowedFd<'_>) -> Result<Vec<DatagramEntry>, Problem> {
    let mut found = Vec::new();
    while let Some(seen) = peek(socket).doing("look into the queue of")? {
        // The kernel shows an empty one to one look only.
        if seen.bytes.is_empty() {
            return Err(Problem::Refused(support::sockets::EMPTY_MESSAGE));
        }
        let is_local = matches!(seen.sender, SocketAddr::V6(sender) if sender.scope_id() != 0);
        if seen.told || is_local {
            return Err(Problem::Refused(support::sockets::DATAGRAM_TOLD));
        }
        found.push(DatagramEntry {
            address: words(seen.sender.ip()),
            port: seen.sender.port().into(),
            bytes: seen.bytes,
        });
    }
    Ok(found)
}

fn words(ip: IpAddr) -> Vec<u32> {
    let bytes = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let words = bytes.chunks_exact(4).filter_map(|word| word.try_into().ok());
    words.map(u32::from_ne_bytes).collect()
}

/// Whether a socket is bound to an address that is this machine's alone, or to none.
fn is_own(socket: BorrowedFd<'_>) -> Result<bool, Problem> {
    let address = local_address(socket).doing("get the address of")?;
    let ip = match i32::from(address.family()) {
        AF_INET => address.data().get(2..6),
        _ => address.data().get(6..22),
    };
    let ip = ip.unwrap_or_default();
    if ip.iter().all(|byte| *byte == 0) {
        return Ok(true);
    }
    let many = matches!(*ip, [224..=239, _, _, _]) || ip.len() == 16 && ip[0] == 0xff;
    if many || is_nowhere(&address)? {
        return Ok(false);
    }
    // To send to all of a network one has to ask for it.
    let other = create(address.family().into(), SOCK_DGRAM, 0);
    let other = other.doing("make a socket to compare with")?;
    Ok(connect(&other, &address).is_ok())
}

/// Whether parts of a datagram wait for the rest of it. What the network card has been given yet is gone in a
/// moment.
fn holds_back(socket: BorrowedFd<'_>) -> Result<bool, Problem> {
    const LOOKS: u32 = 8;
    for look in 0..LOOKS {
        if bytes_unsent(socket).doing("get what is unsent of")? == 0 {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_micros(20 << look));
    }
    Ok(true)
}

/// Refuses a raw socket that may be the one by which a program routes multicast (`MRT_INIT`): the kernel does not
/// tell which it is, but whether anybody does.
fn routes_nothing(v6: bool, protocol: i32) -> Result<(), Problem> {
    let switch = match (v6, protocol) {
        (false, libc::IPPROTO_IGMP) => "/proc/sys/net/ipv4/conf/all/mc_forwarding",
        (true, IPPROTO_ICMPV6) => "/proc/sys/net/ipv6/conf/all/mc_forwarding",
        _ => return Ok(()),
    };
    match kernel::sysctl::read(switch) {
        Ok(text) if text.trim() != "0" => Err(Problem::Refused(support::sockets::MULTICAST_ROUTER)),
        // Without the switch nobody can.
        _ => Ok(()),
    }
}

/// The options of a raw socket.
pub(super) fn raw_options(
    socket: BorrowedFd<'_>,
    v6: bool,
    protocol: i32,
) -> Result<IpOptsRawEntry, Problem> {
    const SOL_RAW: i32 = 255;
    const SOL_ICMPV6: i32 = 58;
    const ICMP_FILTER: i32 = 1;
    const IPV6_HDRINCL: i32 = 36;
    const IP_NODEFRAG: i32 = 22;
    routes_nothing(v6, protocol)?;
    let is_set = |level, name| -> Result<Option<bool>, Problem> {
        Ok(Some(option(socket, level, name).doing("get socket option of")? != 0))
    };
    let filter = |level, bytes: &mut [u8]| -> Result<Vec<u32>, Problem> {
        option_bytes(socket, level, ICMP_FILTER, bytes).doing("get ICMP filter of")?;
        let words = bytes.chunks_exact(4).filter_map(|word| word.try_into().ok());
        Ok(words.map(u32::from_ne_bytes).collect())
    };
    Ok(IpOptsRawEntry {
        hdrincl: match v6 {
            true => is_set(SOL_IPV6, IPV6_HDRINCL)?,
            false => is_set(SOL_IP, libc::IP_HDRINCL)?,
        },
        nodefrag: if v6 { None } else { is_set(SOL_IP, IP_NODEFRAG)?.filter(|on| *on) },
        checksum: None,
        icmpv_filter: match (v6, protocol) {
            (false, IPPROTO_ICMP) => filter(SOL_RAW, &mut [0; 4])?,
            (true, IPPROTO_ICMPV6) => filter(SOL_ICMPV6, &mut [0; 32])?,
            _ => Vec::new(),
        },
    })
}

/// Whether a socket has an address that nobody could bind to without being allowed to (`IP_FREEBIND`,
/// `IP_TRANSPARENT`): that may have been so for a moment only.
pub(super) fn is_nowhere(address: &Address) -> Result<bool, Problem> {
    let family = i32::from(address.family());
    let places = match family {
        AF_INET => 2..6,
        AF_INET6 => 6..22,
        _ => return Ok(false),
    };
    let ip = address.data().get(places).unwrap_or_default();
    if ip.iter().all(|byte| *byte == 0) || family == AF_INET && ip[0] == 127 {
        return Ok(false);
    }
    // Any port.
    let any = [&[0, 0], address.data().get(2..).unwrap_or_default()].concat();
    let tried = Address::new(address.family(), &any).doing("copy the address of")?;
    let other = create(family, SOCK_DGRAM, 0).doing("make a socket to compare with")?;
    Ok(bind(&other, &tried).is_err_and(|error| error.raw_os_error() == Some(libc::EADDRNOTAVAIL)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    #[test]
    fn empty_datagrams_wait_as_others_do() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let is_empty = || Kind::Udp.is_empty(socket.as_fd(), SHUTDOWN_NONE, (true, false, false));
        assert!(is_empty().is_ok());
        socket.send_to(b"", socket.local_addr().unwrap()).unwrap();
        assert!(matches!(is_empty(), Err(Problem::Refused(_))));
        assert!(Kind::Udp.is_empty(socket.as_fd(), SHUTDOWN_NONE, (false, false, false)).is_ok());
        assert!(matches!(
            queue(socket.as_fd(), SHUTDOWN_NONE, &SkOptsEntry::default()),
            Err(Problem::Refused(_))
        ));
    }

    #[test]
    fn queues_are_read_and_stay() {
        let socket = UdpSocket::bind("[::]:0").unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = ("127.0.0.1", socket.local_addr().unwrap().port());
        for bytes in [&b"one"[..], b"two"] {
            sender.send_to(bytes, to).unwrap();
        }
        for _ in 0..2 {
            let options = SkOptsEntry::default();
            let found = queue(socket.as_fd(), SHUTDOWN_NONE, &options).unwrap();
            let bytes: Vec<_> = found.iter().map(|it| &it.bytes[..]).collect();
            assert_eq!(bytes, [b"one", b"two"]);
            assert_eq!(found[0].port, u32::from(sender.local_addr().unwrap().port()));
            assert_eq!(found[0].address[3], u32::from_ne_bytes([127, 0, 0, 1]));
        }
        let elsewhere = SkOptsEntry { so_bound_dev: Some("eth0".into()), ..Default::default() };
        assert!(queue(socket.as_fd(), SHUTDOWN_NONE, &elsewhere).is_err());
        let shared = SkOptsEntry { so_reuseport: Some(true), ..Default::default() };
        assert!(queue(socket.as_fd(), SHUTDOWN_NONE, &shared).is_ok());
    }

    #[test]
    fn parts_of_a_datagram_are_seen() {
        use std::os::fd::AsRawFd;
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect("127.0.0.1:9").unwrap();
        assert!(!holds_back(socket.as_fd()).unwrap());
        let part = b"part";
        let (fd, flags) =
            (socket.as_raw_fd(), nix::sys::socket::MsgFlags::from_bits_retain(libc::MSG_MORE));
        nix::sys::socket::send(fd, part, flags).unwrap();
        assert!(holds_back(socket.as_fd()).unwrap());
    }

    #[test]
    fn addresses_that_are_not_there() {
        let address = |ip: [u8; 4]| {
            let data = [&[0, 80][..], &ip, &[0; 8]].concat();
            is_nowhere(&Address::new(AF_INET as u16, &data).unwrap()).unwrap()
        };
        // TEST-NET-1 (RFC 5737) is nobody's.
        assert!(address([192, 0, 2, 1]));
        assert!(!address([127, 0, 0, 1]) && !address([0; 4]));
    }
}
