//! TCP sockets that wait for others, and sockets without connections: UDP, UDP-Lite, ping and raw ones.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use images::messages::{
    FileEntry, InetSkEntry, MulticastEntry, SK_CLOSE, SK_ESTABLISHED, SK_LISTEN, SkOptsEntry,
    fd_type,
};
use kernel::descriptors::set_status_flags;
use kernel::multicast::{self, Group, Sources};
use kernel::sockets::{self, Address, set_option};
use libc::{
    AF_INET, AF_INET6, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE,
    SOCK_DGRAM, SOCK_RAW, SOCK_STREAM, SOL_SOCKET,
};

use super::Error;
use super::datagrams::{self, address};
use super::file_kind::{FileKind, missing};
use super::opening::Opening;
use super::ping;
use super::socket_options;

/// An internet socket.
#[derive(Debug)]
pub(super) struct InetSocket;

impl FileKind for InetSocket {
    fn r#type(&self) -> u32 {
        fd_type::INETSK
    }

    fn opens_others(&self) -> bool {
        true
    }

    /// All are made before the first is finished: addresses may be shared.
    fn open(&self, opening: &mut Opening<'_>, files: &[&FileEntry]) -> Result<(), Error> {
        opening.have_room_for(files.len(), "sockets")?;
        let mut sockets: Vec<(&InetSkEntry, OwnedFd)> = Vec::new();
        for file in files {
            let entry = file.isk.as_deref().ok_or_else(|| missing(file))?;
            sockets.push((entry, open(entry)?));
        }
        for (entry, socket) in sockets {
            finish(&socket, entry)?;
            opening.add(entry.id, socket)?;
        }
        Ok(())
    }
}

/// The address as the kernel takes it: `sockaddr_in` or `sockaddr_in6`.
fn raw(address: SocketAddr, scope: u32) -> std::io::Result<Address> {
    let mut data = address.port().to_be_bytes().to_vec();
    let family = match address.ip() {
        IpAddr::V4(ip) => {
            data.extend_from_slice(&ip.octets());
            data.extend_from_slice(&[0; 8]);
            AF_INET
        }
        IpAddr::V6(ip) => {
            data.extend_from_slice(&[0; 4]);
            data.extend_from_slice(&ip.octets());
            data.extend_from_slice(&scope.to_ne_bytes());
            AF_INET6
        }
    };
    Address::new(family as u16, &data)
}

/// What to call sockets of a type and protocol; `None` for those that are not restored.
const fn name(kind: i32, protocol: i32) -> Option<&'static str> {
    match (kind, protocol) {
        (SOCK_STREAM, IPPROTO_TCP) => Some("TCP"),
        (SOCK_DGRAM, IPPROTO_UDP) => Some("UDP"),
        (SOCK_DGRAM, IPPROTO_UDPLITE) => Some("UDP-Lite"),
        (SOCK_DGRAM, IPPROTO_ICMP | IPPROTO_ICMPV6) => Some("ping"),
        (SOCK_RAW, _) => Some("raw"),
        _ => None,
    }
}

/// Whether it is a TCP socket (and not a raw one that sends such packets).
const fn is_tcp(entry: &InetSkEntry) -> bool {
    entry.proto.cast_signed() == IPPROTO_TCP && !is_raw(entry)
}

const fn is_raw(entry: &InetSkEntry) -> bool {
    entry.r#type.cast_signed() == SOCK_RAW
}

/// Refuses what is not restored.
fn check(entry: &InetSkEntry, what: &str) -> Result<(), Error> {
    let (kind, protocol) = (entry.r#type.cast_signed(), entry.proto.cast_signed());
    if name(kind, protocol).is_none() || !matches!(entry.family.cast_signed(), AF_INET | AF_INET6) {
        return Err(Error::refused(support::images::OTHER_INTERNET_SOCKET.of(0, what)));
    }
    let is_udp = kind == SOCK_DGRAM && matches!(protocol, IPPROTO_UDP | IPPROTO_UDPLITE);
    // They are sent to where it is bound, which must be nobody else's.
    let many =
        address(&entry.src_addr, 0).is_none_or(|here| here.ip().to_canonical().is_multicast());
    if !entry.datagrams.is_empty() && (!is_udp || many || entry.src_port == 0) {
        return Err(Error::image(what, "datagrams wait in it, which cannot be"));
    }
    if kind == SOCK_STREAM && !matches!(entry.state, SK_LISTEN | SK_CLOSE) {
        return Err(Error::refused(support::images::ESTABLISHED.of(0, what)));
    }
    Ok(())
}

/// Makes the socket of an entry.
pub(super) fn open(entry: &InetSkEntry) -> Result<OwnedFd, Error> {
    let kind = name(entry.r#type.cast_signed(), entry.proto.cast_signed()).unwrap_or("internet");
    let here = address(&entry.src_addr, entry.src_port);
    let there = address(&entry.dst_addr, entry.dst_port);
    let (Some(here), Some(there)) = (here, there) else {
        return Err(Error::image(format!("socket {}", entry.id), "its address is none"));
    };
    let what = format!("{kind} socket {} ({here})", entry.id);
    check(entry, &what)?;
    let failed = |doing: &str| {
        let operation = format!("{doing} {what}");
        move |source| Error::Kernel { operation, source }
    };
    let scope = match &entry.ifname {
        Some(name) => nix::net::if_::if_nametoindex(name.as_str())
            .map_err(|errno| Error::kernel(format!("find interface {name} of {what}"), errno))?,
        None => 0,
    };
    let loosely = match chosen_by_connect(entry, here) {
        true => bound(
            entry,
            SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), here.port()),
            there,
            scope,
            &what,
        )
        .ok()
        .filter(|socket| {
            raw(here, scope)
                .is_ok_and(|here| sockets::local_address(socket).is_ok_and(|now| now == here))
        }),
        false => None,
    };
    let socket = match loosely {
        Some(socket) => socket,
        None => bound(entry, here, there, scope, &what)?,
    };
    set_status_flags(&socket, entry.flags & !libc::O_ASYNC.cast_unsigned())
        .map_err(failed("set flags of"))?;
    if let Some(shutdown) = entry.shutdown.filter(|it| *it != 0) {
        // `SHUT_RD` is 0, and so on: one less than in the images.
        match sockets::shutdown(&socket, shutdown.cast_signed() - 1) {
            Err(error) if error.raw_os_error() != Some(libc::ENOTCONN) => {
                return Err(failed("shut down")(error));
            }
            _ => {}
        }
    }
    Ok(socket)
}

/// Whether a socket was bound to no address, and has one by its connection. A bind to an IPv6 address sets
/// `IPV6_V6ONLY`, which no call takes back.
fn chosen_by_connect(entry: &InetSkEntry, here: SocketAddr) -> bool {
    let of_ipv6 = match here.ip() {
        IpAddr::V6(ip) => !ip.is_unspecified() && ip.to_ipv4_mapped().is_none(),
        IpAddr::V4(_) => false,
    };
    of_ipv6 && entry.dst_port != 0 && entry.v6only == Some(false)
}

/// A socket of an entry, bound to an address, that listens or is connected.
fn bound(
    entry: &InetSkEntry,
    here: SocketAddr,
    there: SocketAddr,
    scope: u32,
    what: &str,
) -> Result<OwnedFd, Error> {
    let failed = |doing: &str| {
        let operation = format!("{doing} {what}");
        move |source| Error::Kernel { operation, source }
    };
    let family = entry.family.cast_signed();
    let socket = ping::create(family, entry.r#type.cast_signed(), entry.proto.cast_signed())
        .map_err(failed("make"))?;
    prepare(&socket, entry, family == AF_INET6, what)?;
    if entry.src_port != 0 {
        let address = raw(here, scope).map_err(failed("name"))?;
        let nowhere = entry.nowhere();
        if nowhere {
            socket_options::free_bind(&socket, family, true).map_err(failed("prepare"))?;
        }
        sockets::bind(&socket, &address).map_err(failed("bind"))?;
        if nowhere {
            socket_options::free_bind(&socket, family, false).map_err(failed("finish"))?;
        }
    }
    if !entry.datagrams.is_empty() {
        datagrams::put_back(&socket, entry, here, what)?;
        socket_options::filter(&socket, &entry.opts, what)?;
    }
    if entry.state == SK_LISTEN {
        sockets::listen(&socket, entry.backlog).map_err(failed("listen on"))?;
    }
    // Where there is no port to send to it need not have one.
    if entry.dst_port != 0 || entry.state == SK_ESTABLISHED && !is_tcp(entry) {
        let address = raw(there, scope).map_err(failed("name the peer of"))?;
        sockets::connect(&socket, &address).map_err(failed("connect"))?;
    }
    Ok(socket)
}

/// What counts when the socket is bound.
fn prepare(socket: &OwnedFd, entry: &InetSkEntry, v6: bool, what: &str) -> Result<(), Error> {
    let set = |level, option, value: bool| {
        set_option(socket, level, option, value.into())
            .map_err(|source| Error::Kernel { operation: format!("prepare {what}"), source })
    };
    // Of a raw socket it cannot be set, and means nothing.
    if v6 && !is_raw(entry) {
        set(libc::SOL_IPV6, libc::IPV6_V6ONLY, entry.v6only())?;
    }
    // A listener's port may still be held by connections that linger (TIME_WAIT).
    set(SOL_SOCKET, libc::SO_REUSEADDR, is_tcp(entry) || entry.opts.reuseaddr())?;
    socket_options::before_bind(socket, &entry.opts, what)?;
    socket_options::others(socket, &entry.opts, what)?;
    if entry.datagrams.is_empty() {
        socket_options::filter(socket, &entry.opts, what)?;
    }
    if let Some(options) = &entry.ip_opts {
        socket_options::ip(socket, options, v6, what)?;
        if let Some(options) = options.raw.as_ref().filter(|_| is_raw(entry)) {
            socket_options::raw(socket, options, (v6, entry.proto.cast_signed()), what)?;
        }
    }
    Ok(())
}

/// The other options, once every socket is bound: two of them may share an address only because
/// `SO_REUSEADDR` was set when they were.
pub(super) fn finish(socket: &OwnedFd, entry: &InetSkEntry) -> Result<(), Error> {
    let what = format!("socket {}", entry.id);
    let options: &SkOptsEntry = &entry.opts;
    // It may have been set only to bind the socket.
    set_option(socket, SOL_SOCKET, libc::SO_REUSEADDR, entry.opts.reuseaddr().into())
        .map_err(|source| Error::Kernel { operation: format!("finish {what}"), source })?;
    socket_options::all(socket, options, None, &what)?;
    for group in &entry.groups {
        join(socket, group, &what)?;
    }
    match &entry.tcp_opts {
        Some(options) if is_tcp(entry) => socket_options::tcp(socket, options, &what),
        _ => Ok(()),
    }
}

/// Makes the socket a member of a multicast group again.
fn join(socket: &OwnedFd, entry: &MulticastEntry, what: &str) -> Result<(), Error> {
    let read = |text: &str| {
        let address: Option<IpAddr> = text.parse().ok();
        address.ok_or_else(|| Error::image(what, "a multicast group has an address that is none"))
    };
    let MulticastEntry { interface, group, .. } = entry;
    let address = read(group)?;
    let list = entry.sources.iter().map(|source| read(source)).collect::<Result<_, _>>()?;
    let interface = nix::net::if_::if_nametoindex(interface.as_str()).map_err(|errno| {
        Error::kernel(format!("find interface {interface} of group {group} of {what}"), errno)
    })?;
    let sources = Sources { only: entry.only, list };
    multicast::join(socket, Group { interface, address }, &sources).map_err(|source| {
        Error::Kernel { operation: format!("join multicast group {group} with {what}"), source }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use images::messages::DatagramEntry;
    use std::net::TcpListener;

    fn entry(kind: i32, protocol: i32, state: u32, port: u16) -> InetSkEntry {
        InetSkEntry {
            family: AF_INET.cast_unsigned(),
            r#type: kind.cast_unsigned(),
            proto: protocol.cast_unsigned(),
            state,
            src_port: port.into(),
            src_addr: vec![u32::from_ne_bytes([127, 0, 0, 1])],
            dst_addr: vec![0],
            backlog: 3,
            opts: SkOptsEntry { so_sndbuf: 20000, so_rcvbuf: 30000, ..SkOptsEntry::default() },
            ..InetSkEntry::default()
        }
    }

    fn free_port() -> u16 {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    #[test]
    fn a_listener_listens() {
        let port = free_port();
        let entry = entry(SOCK_STREAM, IPPROTO_TCP, SK_LISTEN, port);
        let socket = open(&entry).unwrap();
        finish(&socket, &entry).unwrap();
        assert_eq!(sockets::option(&socket, SOL_SOCKET, libc::SO_SNDBUF).unwrap(), 20000);
        assert_eq!(sockets::option(&socket, SOL_SOCKET, libc::SO_REUSEADDR).unwrap(), 0);
        std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert!(open(&entry).unwrap_err().to_string().contains(&format!("127.0.0.1:{port}")));
    }

    /// Bound to any address and connected, it goes on to be for IPv4, too.
    #[test]
    fn an_address_that_the_connection_chose() {
        let peer = std::net::UdpSocket::bind("[::1]:0").unwrap();
        let loopback = vec![0, 0, 0, u32::from_ne_bytes([0, 0, 0, 1])];
        let port = free_port();
        let of_ipv6 = InetSkEntry {
            family: AF_INET6.cast_unsigned(),
            src_addr: loopback.clone(),
            dst_addr: loopback,
            dst_port: peer.local_addr().unwrap().port().into(),
            v6only: Some(false),
            ..entry(SOCK_DGRAM, IPPROTO_UDP, 1, port)
        };
        for only in [false, true] {
            let socket = open(&InetSkEntry { v6only: Some(only), ..of_ipv6.clone() }).unwrap();
            let value = sockets::option(&socket, libc::SOL_IPV6, libc::IPV6_V6ONLY).unwrap();
            assert_eq!(value, u32::from(only));
            let socket = std::net::UdpSocket::from(socket);
            assert_eq!(
                socket.local_addr().unwrap(),
                SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port)
            );
            assert_eq!(socket.peer_addr().unwrap(), peer.local_addr().unwrap());
        }
        // A connection would choose another address: that of the dump counts.
        let elsewhere = vec![0, 0, 0, u32::from_ne_bytes([0, 0, 0, 7])];
        assert!(open(&InetSkEntry { src_addr: elsewhere, ..of_ipv6 }).is_err());
    }

    #[test]
    fn connections_and_strange_sockets_are_refused() {
        assert!(open(&entry(SOCK_STREAM, IPPROTO_TCP, 1, 80)).is_err());
        assert!(open(&entry(libc::SOCK_SEQPACKET, 132, SK_CLOSE, 0)).is_err());
        let bad = InetSkEntry { src_addr: vec![1, 2], ..entry(SOCK_DGRAM, IPPROTO_UDP, 7, 0) };
        assert!(open(&bad).is_err());
    }

    #[test]
    fn datagrams_are_put_back_where_they_can_have_been() {
        let waiting = DatagramEntry {
            address: vec![u32::from_ne_bytes([192, 0, 2, 7])],
            port: 53,
            bytes: b"waits".to_vec(),
        };
        let udp = InetSkEntry {
            datagrams: vec![waiting],
            ..entry(SOCK_DGRAM, IPPROTO_UDP, SK_CLOSE, free_port())
        };
        let group =
            InetSkEntry { src_addr: vec![u32::from_ne_bytes([239, 83, 7, 1])], ..udp.clone() };
        assert!(open(&group).unwrap_err().to_string().contains("cannot be"));
        let stream = InetSkEntry {
            r#type: SOCK_STREAM.cast_unsigned(),
            proto: IPPROTO_TCP.cast_unsigned(),
            state: SK_LISTEN,
            ..udp.clone()
        };
        assert!(open(&stream).unwrap_err().to_string().contains("cannot be"));
        // This needs root.
        let socket = std::net::UdpSocket::from(open(&udp).unwrap());
        let mut bytes = [0; 16];
        let (count, sender) = socket.recv_from(&mut bytes).unwrap();
        assert_eq!(
            (&bytes[..count], sender.to_string()),
            (&b"waits"[..], "192.0.2.7:53".to_owned())
        );
    }
}
