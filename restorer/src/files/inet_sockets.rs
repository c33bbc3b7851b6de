//! TCP sockets that wait for others or are connected ([`super::connections`]), and sockets without connections:
//! UDP, UDP-Lite, ping and raw ones.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use images::Checkpoint;
use images::messages::{FileEntry, InetSkEntry, SK_CLOSE, SK_ESTABLISHED, SK_LISTEN, fd_type};
use kernel::descriptors::set_status_flags;
use kernel::socket_filter;
use kernel::sockets::{self, set_option};
use libc::{SOL_IP, SOL_SOCKET};

use support::Refusal;

use super::Error;
use super::beside::Beside;
use super::connections;
use super::connections::Connections;
use super::datagrams;
use super::file_kind::{FileKind, missing};
use super::inet_common::{check, chosen_by_connect, create, finish, is_tcp, name, raw};
use super::makers::Makers;
use super::opening::Opening;
use super::socket_options;
use super::user::User;
use super::waiting;

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

    fn load(&self, checkpoint: &Checkpoint, beside: &mut Beside) -> Result<(), Error> {
        connections::load(checkpoint, beside)
    }

    fn beyond(&self, file: &FileEntry, user: &User<'_>) -> Option<(Refusal, String)> {
        let socket = file.isk.as_deref()?;
        // Repair mode asks nobody whether an address is free, or may be had.
        let is_one = socket.is_connection() || !socket.waiting.is_empty();
        if is_one && user.connections != Connections::Closed {
            let object = format!("TCP connection of file {}", file.id);
            return Some((support::host::CONNECTION_OF_USER, object));
        }
        let is_raw = socket.r#type == libc::SOCK_RAW.cast_unsigned();
        is_raw.then(|| (support::sockets::OF_ROOT, format!("socket of file {}", file.id)))
    }

    /// All are made before the first is finished: addresses may be shared.
    fn open(&self, opening: &mut Opening<'_>, files: &[&FileEntry]) -> Result<(), Error> {
        opening.have_room_for(files.len(), "sockets")?;
        let (mut sockets, mut connected) = (Vec::new(), Vec::new());
        for file in files {
            let entry = file.isk.as_deref().ok_or_else(|| missing(file))?;
            waiting::check(entry, &format!("socket {}", entry.id))?;
            match entry.is_connection() {
                true => connected.push(entry),
                false => sockets.push(entry),
            }
        }
        let shared = Shared::of(&sockets);
        let networks = opening.opener.networks.clone();
        let makers = Arc::clone(&opening.opener.makers);
        let opened = sockets.into_iter().map(|entry| {
            let socket =
                networks.within(entry.ns_id, || open(&makers, entry, shared.option(entry)))?;
            Ok((entry, socket))
        });
        let opened = opened.collect::<Result<Vec<_>, Error>>()?;
        waiting::put_back(opening.connections, &networks, &opened)?;
        let how = (opening.connections, &networks, &*makers);
        let connected = connections::open(how, &mut opening.beside, connected)?;
        for (id, socket) in connected {
            opening.add(id, socket)?;
        }
        for (entry, socket) in opened {
            networks.within(entry.ns_id, || finish(&socket, entry))?;
            opening.add(entry.id, socket)?;
        }
        Ok(())
    }
}

/// A port of a protocol in a network namespace.
type Port = (Option<u32>, u32, u32);

fn port_of(entry: &InetSkEntry) -> Port {
    (entry.ns_id, entry.proto, entry.src_port)
}

/// Ports that several sockets have, by an option that each had when it was bound, and that may have been set back
/// since: all of them are bound with it.
struct Shared {
    /// Of TCP, by `SO_REUSEPORT`.
    tcp: BTreeSet<Port>,
    /// Of all others, by `SO_REUSEADDR`: some of their addresses are the same, or are all addresses.
    others: BTreeSet<Port>,
}

impl Shared {
    fn of(entries: &[&InetSkEntry]) -> Self {
        let tcp = entries.iter().filter(|entry| is_tcp(entry));
        let tcp = tcp.filter(|entry| entry.opts.so_reuseport());
        let mut places: BTreeMap<Port, Vec<&InetSkEntry>> = BTreeMap::new();
        for entry in entries.iter().filter(|entry| !is_tcp(entry) && entry.src_port != 0) {
            places.entry(port_of(entry)).or_default().push(entry);
        }
        places.retain(|_, entries| {
            let addresses = entries.iter().filter_map(|it| Some(it.local()?.ip().to_canonical()));
            let addresses: BTreeSet<IpAddr> = addresses.collect();
            // What each of them still has need not be given to them.
            let kept = entries.iter().all(|it| it.opts.reuseaddr())
                || entries.iter().all(|it| it.opts.so_reuseport());
            let meet = addresses.len() < entries.len()
                || entries.len() > 1 && addresses.iter().any(IpAddr::is_unspecified);
            meet && !kept
        });
        Self {
            tcp: tcp.map(|entry| port_of(entry)).collect(),
            others: places.into_keys().collect(),
        }
    }

    /// The option that a socket is bound with.
    fn option(&self, entry: &InetSkEntry) -> Option<i32> {
        let (ports, option) = match is_tcp(entry) {
            true => (&self.tcp, libc::SO_REUSEPORT),
            false => (&self.others, libc::SO_REUSEADDR),
        };
        ports.contains(&port_of(entry)).then_some(option)
    }
}

/// Makes the socket of an entry; `shares` is the option by which it shares its port with others.
pub(super) fn open(
    makers: &Makers,
    entry: &InetSkEntry,
    shares: Option<i32>,
) -> Result<OwnedFd, Error> {
    let kind = name(entry.r#type.cast_signed(), entry.proto.cast_signed()).unwrap_or("internet");
    let (Some(here), Some(there)) = (entry.local(), entry.peer()) else {
        return Err(Error::image(format!("socket {}", entry.id), "its address is none"));
    };
    let what = format!("{kind} socket {} ({here})", entry.id);
    check(entry, &what)?;
    let failed = |doing: &str| {
        let operation = format!("{doing} {what}");
        move |source| Error::Kernel { operation, source }
    };
    let is_there = |socket: &OwnedFd, scope| {
        raw(here, scope)
            .is_ok_and(|here| sockets::local_address(socket).is_ok_and(|now| now == here))
    };
    let loosely = chosen_by_connect(entry, here)
        .and_then(|any| bound(makers, entry, (any, there), shares, &what).ok())
        .filter(|(socket, scope)| is_there(socket, *scope));
    let socket = match loosely {
        Some((socket, _)) => socket,
        None => bound(makers, entry, (here, there), shares, &what)?.0,
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

/// Whether a socket is bound to an address, and has no port yet (`IP_BIND_ADDRESS_NO_PORT`), or no more.
fn has_address_alone(entry: &InetSkEntry, here: SocketAddr) -> bool {
    let protocols = [libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_UDPLITE];
    let is_raw = entry.r#type == libc::SOCK_RAW.cast_unsigned();
    let of_ports = !is_raw && protocols.contains(&entry.proto.cast_signed());
    of_ports && entry.state == SK_CLOSE && entry.src_port == 0 && !here.ip().is_unspecified()
}

/// A socket of an entry, bound to an address, that listens or is connected; and the scope of its
/// addresses.
fn bound(
    makers: &Makers,
    entry: &InetSkEntry,
    (here, there): (SocketAddr, SocketAddr),
    shares: Option<i32>,
    what: &str,
) -> Result<(OwnedFd, u32), Error> {
    let failed = |doing: &str| {
        let operation = format!("{doing} {what}");
        move |source| Error::Kernel { operation, source }
    };
    let (socket, scope) = create(makers, entry, what)?;
    if let Some(option) = shares {
        set_option(&socket, SOL_SOCKET, option, 1).map_err(failed("prepare"))?;
    }
    if !entry.datagrams.is_empty() {
        // Nobody else's come in until it is connected, and has its own filter.
        socket_filter::attach(&socket, &socket_filter::FROM_LOOPBACK).map_err(failed("prepare"))?;
    }
    let without_port = has_address_alone(entry, here);
    if entry.src_port != 0 || without_port {
        let family = entry.family.cast_signed();
        let address = raw(here, scope).map_err(failed("name"))?;
        let nowhere = entry.nowhere();
        if nowhere {
            socket_options::free_bind(&socket, family, true).map_err(failed("prepare"))?;
        }
        if without_port {
            let number = libc::IP_BIND_ADDRESS_NO_PORT;
            let was = sockets::option(&socket, SOL_IP, number).map_err(failed("prepare"))?;
            set_option(&socket, SOL_IP, number, 1).map_err(failed("prepare"))?;
            sockets::bind(&socket, &address).map_err(failed("bind"))?;
            set_option(&socket, SOL_IP, number, was).map_err(failed("finish"))?;
        } else {
            sockets::bind(&socket, &address).map_err(failed("bind"))?;
        }
        if nowhere {
            socket_options::free_bind(&socket, family, false).map_err(failed("finish"))?;
        }
    }
    if !entry.datagrams.is_empty() {
        datagrams::put_back(&socket, entry, here, what)?;
    }
    if entry.state == SK_LISTEN {
        sockets::listen(&socket, entry.backlog).map_err(failed("listen on"))?;
    }
    // Where there is no port to send to it need not have one.
    if entry.dst_port != 0 || entry.state == SK_ESTABLISHED && !is_tcp(entry) {
        let address = raw(there, scope).map_err(failed("name the peer of"))?;
        sockets::connect(&socket, &address).map_err(failed("connect"))?;
    }
    if !entry.datagrams.is_empty() {
        if entry.opts.so_filter.is_empty() {
            socket_filter::detach(&socket).map_err(failed("finish"))?;
        }
        socket_options::filter(&socket, &entry.opts, what)?;
    }
    Ok((socket, scope))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(entry: &InetSkEntry) -> Result<OwnedFd, Error> {
        super::open(&Makers::default(), entry, None)
    }
    use images::messages::{DatagramEntry, SkOptsEntry};
    use libc::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, SOCK_DGRAM, SOCK_STREAM};
    use std::net::{Ipv6Addr, TcpListener};

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

    /// Those whose addresses meet, if they could not be bound again with what they have now.
    #[test]
    fn addresses_that_were_shared_when_they_were_bound() {
        let at = |address: [u8; 4], reuseaddr| {
            let mut entry = entry(SOCK_DGRAM, IPPROTO_UDP, SK_CLOSE, 123);
            entry.src_addr = vec![u32::from_ne_bytes(address)];
            entry.opts.reuseaddr = Some(reuseaddr);
            entry
        };
        let shared = |one: &InetSkEntry, other: &InetSkEntry| {
            let shared = Shared::of(&[one, other]);
            (shared.option(one), shared.option(other))
        };
        let (any, here, there) = ([0; 4], [127, 0, 0, 1], [127, 0, 0, 2]);
        let set = (Some(libc::SO_REUSEADDR), Some(libc::SO_REUSEADDR));
        assert_eq!(shared(&at(any, false), &at(here, false)), set);
        assert_eq!(shared(&at(here, true), &at(here, false)), set);
        assert_eq!(shared(&at(here, true), &at(here, true)), (None, None));
        assert_eq!(shared(&at(there, false), &at(here, false)), (None, None));
        let elsewhere = InetSkEntry { ns_id: Some(7), ..at(any, false) };
        assert_eq!(shared(&elsewhere, &at(here, false)), (None, None));
    }

    #[test]
    fn connections_and_strange_sockets_are_refused() {
        // A connection without a peer.
        assert!(open(&entry(SOCK_STREAM, IPPROTO_TCP, 1, 0)).is_err());
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
