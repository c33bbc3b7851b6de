//! Datagrams of UDP and UDP-Lite that wait in sockets: looked at, and put back.
//!
//! Who sends a datagram is told by its header, and the header is made by whoever may have raw sockets. What is sent
//! to an address of this machine comes by the loopback interface and is delivered at once, whomever it says that it
//! is from.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use crate::sockets::create;

/// More bytes than a datagram has.
const MOST: usize = 1 << 16;

/// A datagram that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Who sent it.
    pub sender: SocketAddr,
    /// What is in it.
    pub bytes: Vec<u8>,
    /// Whoever receives it is told more of it than who sent it (`IP_PKTINFO`, `UDP_GRO`, …): other things than
    /// when it was received.
    pub told: bool,
}

/// Looks at the next datagram, from the socket's peek offset on, and leaves it there.
///
/// # Errors
/// As recvmsg(2), and for a sender that is none.
pub fn peek(socket: impl AsFd) -> io::Result<Option<Datagram>> {
    let mut bytes = vec![0_u8; MOST];
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut control = [0_u64; 64];
    // SAFETY: all zero is a valid address of no family, and a valid `msghdr`: null pointers with lengths of 0.
    let (mut sender, mut message): (libc::sockaddr_storage, libc::msghdr) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_name = (&raw mut sender).cast();
    message.msg_namelen = size_of_val(&sender) as _;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: the header points to one part, to `sender` and to `control`, with their true lengths; all live until
    // the call returns.
    let count = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, flags) };
    let Ok(count) = usize::try_from(count) else {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
    };
    bytes.truncate(count);
    let lost = message.msg_flags & (libc::MSG_CTRUNC | libc::MSG_TRUNC) != 0;
    Ok(Some(Datagram { sender: address(&sender)?, bytes, told: lost || is_told(&message) }))
}

/// Whether control messages say more than when a datagram was received.
fn is_told(message: &libc::msghdr) -> bool {
    // The numbers of SO_TIMESTAMP, SO_TIMESTAMPNS and SO_TIMESTAMPING, old and new.
    const TIMES: [i32; 6] = [29, 35, 37, 63, 64, 65];
    // SAFETY: the header is one that recvmsg has just filled in, its control buffer lives.
    let mut head = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !head.is_null() {
        // SAFETY: `CMSG_FIRSTHDR` and `CMSG_NXTHDR` give null or a header inside the buffer.
        let part = unsafe { &*head };
        if part.cmsg_level != libc::SOL_SOCKET || !TIMES.contains(&part.cmsg_type) {
            return true;
        }
        // SAFETY: as above.
        head = unsafe { libc::CMSG_NXTHDR(message, head) };
    }
    false
}

fn address(storage: &libc::sockaddr_storage) -> io::Result<SocketAddr> {
    let start = std::ptr::from_ref(storage);
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the storage is large enough and aligned for addresses of every family, and its family says
            // that it is one of this.
            let address = unsafe { &*start.cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(address.sin_addr.s_addr.to_ne_bytes());
            Ok(SocketAddrV4::new(ip, u16::from_be(address.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let address = unsafe { &*start.cast::<libc::sockaddr_in6>() };
            let (ip, port) = (address.sin6_addr.s6_addr.into(), u16::from_be(address.sin6_port));
            Ok(SocketAddrV6::new(ip, port, 0, address.sin6_scope_id).into())
        }
        _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
    }
}

/// Sends datagrams to sockets of this machine on behalf of anybody.
#[derive(Debug, Default)]
pub struct Courier {
    raw: [Option<OwnedFd>; 2],
}

impl Courier {
    /// Sends a datagram of a protocol (UDP or UDP-Lite). IPv4 addresses that are mapped into IPv6 are IPv4's. What
    /// says that it is from somebody else may not leave the machine: the address must be one of its own.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrNotAvailable`] for other addresses; `EPERM` without `CAP_NET_RAW`; `EINVAL` for addresses of two families, or bytes that no datagram has room
    /// for; or as sendto(2).
    pub fn deliver(
        &mut self,
        protocol: u8,
        from: SocketAddr,
        to: SocketAddr,
        bytes: &[u8],
    ) -> io::Result<()> {
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        let (source, target) = (from.ip().to_canonical(), to.ip().to_canonical());
        let datagram = datagram(protocol, (source, from.port()), (target, to.port()), bytes);
        let datagram = datagram.ok_or_else(invalid)?;
        if !is_of_this_machine(target) {
            let reason = "the socket's address is none of this machine's";
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, reason));
        }
        let (family, nth) = if target.is_ipv4() { (libc::AF_INET, 0) } else { (libc::AF_INET6, 1) };
        let raw = match &mut self.raw[nth] {
            Some(raw) => raw,
            none => none.insert(create(family, libc::SOCK_RAW, libc::IPPROTO_RAW)?),
        };
        let name = SocketAddr::new(target, 0);
        let sent = nix::sys::socket::sendto(
            raw.as_raw_fd(),
            &datagram,
            &nix::sys::socket::SockaddrStorage::from(name),
            nix::sys::socket::MsgFlags::empty(),
        )?;
        if sent == datagram.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

/// Whether what is sent to an address stays here: the kernel sends to its own addresses from the same one. (A bind
/// does not tell: there are options by which it takes any address.)
fn is_of_this_machine(target: IpAddr) -> bool {
    /// Nothing is sent there.
    const ANY_PORT: u16 = 9;
    let unspecified: IpAddr = match target {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let from = UdpSocket::bind((unspecified, 0))
        .and_then(|socket| socket.connect((target, ANY_PORT)).and_then(|()| socket.local_addr()));
    target.is_loopback() || from.is_ok_and(|from| from.ip() == target)
}

/// A packet with all its headers; `None` if there can be none.
fn datagram(
    protocol: u8,
    (source, from): (IpAddr, u16),
    (target, to): (IpAddr, u16),
    bytes: &[u8],
) -> Option<Vec<u8>> {
    let length = u16::try_from(8 + bytes.len()).ok()?;
    let (mut packet, addresses) = match (source, target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            let addresses = [source.octets(), target.octets()].concat();
            let whole = length.checked_add(20)?;
            let front = [&[0x45, 0][..], &whole.to_be_bytes(), &[0; 4], &[64, protocol, 0, 0]];
            ([front.concat(), addresses.clone()].concat(), addresses)
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            let addresses = [source.octets(), target.octets()].concat();
            let front = [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[protocol, 64]];
            ([front.concat(), addresses.clone()].concat(), addresses)
        }
        _ => return None,
    };
    let header = [from.to_be_bytes(), to.to_be_bytes(), length.to_be_bytes(), [0; 2]].concat();
    let begins = packet.len();
    packet.extend_from_slice(&header);
    packet.extend_from_slice(bytes);
    // What is summed up begins with the addresses, the length and the protocol.
    let covered =
        sum(&addresses) + u64::from(length) + u64::from(protocol) + sum(&packet[begins..]);
    let check = match !folded(covered) {
        // Which stands for none.
        0 => u16::MAX,
        check => check,
    };
    packet[begins + 6..begins + 8].copy_from_slice(&check.to_be_bytes());
    Some(packet)
}

/// The sum of words of 16 bits; an odd byte at the end is the first of a word.
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(2).map(|word| match *word {
        [first, second] => u16::from_be_bytes([first, second]),
        [first] => u16::from_be_bytes([first, 0]),
        _ => 0,
    });
    words.map(u64::from).sum()
}

const fn folded(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs root.
    #[test]
    fn datagrams_from_anybody() {
        let mut courier = Courier::default();
        for (own, sender) in [
            ("127.0.0.1:0", "192.0.2.7:4711"),
            ("0.0.0.0:0", "198.51.100.9:53"),
            ("[::1]:0", "[2001:db8::7]:9"),
        ] {
            let socket = UdpSocket::bind(own).unwrap();
            let mut to = socket.local_addr().unwrap();
            if to.ip().is_unspecified() {
                to.set_ip(Ipv4Addr::LOCALHOST.into());
            }
            let sender: SocketAddr = sender.parse().unwrap();
            for bytes in [&b"odd"[..], b"even", &[7; 1400]] {
                courier.deliver(libc::IPPROTO_UDP as u8, sender, to, bytes).expect("needs root");
                let seen = peek(&socket).unwrap().unwrap();
                let expected = Datagram { sender, bytes: bytes.to_vec(), told: false };
                assert_eq!(seen, expected);
                let mut received = [0; 2000];
                assert_eq!(socket.recv_from(&mut received).unwrap(), (bytes.len(), sender));
            }
            assert_eq!(peek(&socket).unwrap(), None);
        }
    }

    #[test]
    fn what_is_told_beside() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        crate::sockets::set_option(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMP, 1).unwrap();
        assert!(!peek(&socket).unwrap().unwrap().told);
        crate::sockets::set_option(&socket, libc::SOL_IP, libc::IP_PKTINFO, 1).unwrap();
        assert!(peek(&socket).unwrap().unwrap().told);
    }

    #[test]
    fn nothing_is_sent_to_other_machines() {
        let sender: SocketAddr = "198.51.100.9:53".parse().unwrap();
        for other in ["192.0.2.77:9", "224.0.0.251:9", "255.255.255.255:9", "[2001:db8::77]:9"] {
            let other: SocketAddr = other.parse().unwrap();
            let from = if other.is_ipv4() { sender } else { "[2001:db8::7]:9".parse().unwrap() };
            let error = Courier::default().deliver(17, from, other, b"x").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable, "{other}");
        }
        assert!(is_of_this_machine("127.0.0.9".parse().unwrap()));
        assert!(is_of_this_machine("::1".parse().unwrap()));
    }

    #[test]
    fn packets_that_cannot_be() {
        let (four, six) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([0_u16; 8]));
        assert_eq!(datagram(17, (four, 1), (six, 1), b""), None);
        assert_eq!(datagram(17, (four, 1), (four, 1), &vec![0; 0xffff]), None);
        // The example of RFC 1071.
        assert_eq!(folded(sum(&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
    }
}
