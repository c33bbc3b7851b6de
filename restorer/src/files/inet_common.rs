//! What all internet sockets have in common, connected or not: how they are made, and their options.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use images::messages::{InetSkEntry, MulticastEntry, SK_CLOSE, SK_LISTEN, SkOptsEntry};
use kernel::multicast::{self, Group, Sources};
use kernel::sockets::{Address, set_option};
use libc::{
    AF_INET, AF_INET6, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE,
    SOCK_DGRAM, SOCK_RAW, SOCK_STREAM, SOL_SOCKET,
};

use super::Error;
use super::makers::Makers;
use super::socket_options;

/// The address as the kernel takes it: `sockaddr_in` or `sockaddr_in6`.
pub(super) fn raw(address: SocketAddr, scope: u32) -> std::io::Result<Address> {
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
pub(super) const fn name(kind: i32, protocol: i32) -> Option<&'static str> {
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
pub(super) const fn is_tcp(entry: &InetSkEntry) -> bool {
    entry.proto.cast_signed() == IPPROTO_TCP && !is_raw(entry)
}

const fn is_raw(entry: &InetSkEntry) -> bool {
    entry.r#type.cast_signed() == SOCK_RAW
}

/// Refuses what is not restored.
pub(super) fn check(entry: &InetSkEntry, what: &str) -> Result<(), Error> {
    let (kind, protocol) = (entry.r#type.cast_signed(), entry.proto.cast_signed());
    if name(kind, protocol).is_none() || !matches!(entry.family.cast_signed(), AF_INET | AF_INET6) {
        return Err(Error::refused(entry.id, support::images::OTHER_INTERNET_SOCKET, what));
    }
    let is_udp = kind == SOCK_DGRAM && matches!(protocol, IPPROTO_UDP | IPPROTO_UDPLITE);
    // They are sent to where it is bound, which must be nobody else's.
    let many = entry.local().is_none_or(|here| here.ip().to_canonical().is_multicast());
    if !entry.datagrams.is_empty() && (!is_udp || many || entry.src_port == 0) {
        return Err(Error::image(what, "datagrams wait in it, which cannot be"));
    }
    if kind == SOCK_STREAM && !entry.is_connection() && !matches!(entry.state, SK_LISTEN | SK_CLOSE)
    {
        return Err(Error::image(what, "it is connected, and has no peer"));
    }
    Ok(())
}

/// What a socket was bound to that was bound to no address, and has one by its connection. A bind to an IPv6
/// address sets `IPV6_V6ONLY`, which no call takes back.
pub(super) fn chosen_by_connect(entry: &InetSkEntry, here: SocketAddr) -> Option<SocketAddr> {
    let of_ipv6 = match here.ip() {
        IpAddr::V6(ip) => !ip.is_unspecified() && ip.to_ipv4_mapped().is_none(),
        IpAddr::V4(_) => false,
    };
    let chosen = of_ipv6 && entry.dst_port != 0 && entry.v6only == Some(false);
    chosen.then(|| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), here.port()))
}

/// A new socket of an entry, with what counts when it is bound; and the scope of its addresses.
pub(super) fn create(
    makers: &Makers,
    entry: &InetSkEntry,
    what: &str,
) -> Result<(OwnedFd, u32), Error> {
    let scope = match &entry.ifname {
        Some(name) => nix::net::if_::if_nametoindex(name.as_str())
            .map_err(|errno| Error::kernel(format!("find interface {name} of {what}"), errno))?,
        None => 0,
    };
    let family = entry.family.cast_signed();
    let socket = makers
        .create(entry)
        .map_err(|source| Error::Kernel { operation: format!("make {what}"), source })?;
    prepare(&socket, entry, family == AF_INET6, what)?;
    Ok((socket, scope))
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
    // A connection is put together first.
    if entry.datagrams.is_empty() && !entry.is_connection() {
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
    // They may have been set only to bind the socket.
    let set = |option, value: bool| {
        set_option(socket, SOL_SOCKET, option, value.into())
            .map_err(|source| Error::Kernel { operation: format!("finish {what}"), source })
    };
    set(libc::SO_REUSEADDR, entry.opts.reuseaddr())?;
    set(libc::SO_REUSEPORT, entry.opts.so_reuseport())?;
    finish_options(socket, entry, &entry.opts, &what)
}

/// All options but that one.
pub(super) fn finish_options(
    socket: &OwnedFd,
    entry: &InetSkEntry,
    options: &SkOptsEntry,
    what: &str,
) -> Result<(), Error> {
    socket_options::all(socket, options, None, what)?;
    for group in &entry.groups {
        join(socket, group, what)?;
    }
    match &entry.tcp_opts {
        Some(options) if is_tcp(entry) => socket_options::tcp(socket, options, what),
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
