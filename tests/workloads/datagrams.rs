//! Internet sockets without connections that few programs have: UDP-Lite, ping, raw, corked ones, and those that are
//! bound to addresses that are not there.

use std::net::Ipv6Addr;
use std::os::fd::OwnedFd;

use libc::{
    AF_INET, AF_INET6, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_RAW, IPPROTO_UDPLITE, SOCK_DGRAM,
    SOCK_RAW, SOL_IP, SOL_IPV6, SOL_UDP,
};

use crate::sockets::{
    bind, connect, connected_to, get, get_bytes, ipv4, ipv6, is_silent, name, new, receive, send,
    send_to, send_with, set, set_bytes, try_bind,
};
use crate::stage::{Findings, Outcome, Stage};

const SOL_RAW: i32 = 255;
const ICMP_FILTER: i32 = 1;
const LOOPBACK: [u8; 4] = [127, 0, 0, 1];

pub(crate) fn udplite(stage: &Stage) -> Outcome {
    let one = new(AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE);
    bind(&one, &ipv4(LOOPBACK, 0));
    let other = new(AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE);
    connect(&other, &name(&one));
    let names = (name(&one), name(&other));

    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("names", &names, &(name(&one), name(&other)));
    found.works("send", send(&other, b"light"));
    let mut bytes = [0; 16];
    found.same("receive", &Some(5), &receive(&one, &mut bytes).ok());
    found.outcome()
}

/// A UDP-Lite socket with its own coverage of checksums, a corked socket in which nothing is held back, one that may not bind any more where it is bound, and one that may
/// where nobody is.
pub(crate) fn bound(stage: &Stage) -> Outcome {
    const SEND_COVERAGE: i32 = 10;
    const RECEIVE_COVERAGE: i32 = 11;
    // TEST-NET-1, and the documentation's addresses of IPv6: nobody's. Each run has its own, so that no other one is
    // given a port that is free between a dump and its restore.
    let pid = std::process::id();
    let [.., high, low] = pid.to_be_bytes();
    let nowhere4 = [192, 0, 2, low];
    let nowhere = Ipv6Addr::new(
        0x2001,
        0xdb8,
        0,
        0,
        0,
        (pid >> 16) as u16,
        83,
        u16::from_be_bytes([high, low]),
    );
    let bind_at = |family, address: &[u8], stays: bool| {
        let socket = new(family, SOCK_DGRAM, 0);
        let (level, option) = match family {
            AF_INET => (SOL_IP, libc::IP_FREEBIND),
            _ => (SOL_IPV6, libc::IPV6_FREEBIND),
        };
        set(&socket, level, option, 1);
        bind(&socket, address);
        set(&socket, level, option, stays.into());
        (socket, level, option, stays)
    };
    let sockets = [
        bind_at(AF_INET, &ipv4(nowhere4, 0), false),
        bind_at(AF_INET, &ipv4(nowhere4, 0), true),
        bind_at(AF_INET6, &ipv6(nowhere, 0), false),
        bind_at(AF_INET6, &ipv6(nowhere, 0), true),
    ];
    let names = sockets.each_ref().map(|(socket, ..)| name(socket));
    let receiver = new(AF_INET, SOCK_DGRAM, 0);
    bind(&receiver, &ipv4(LOOPBACK, 0));
    let corked = new(AF_INET, SOCK_DGRAM, 0);
    connect(&corked, &name(&receiver));
    set(&corked, SOL_UDP, libc::UDP_CORK, 1);
    let light = new(AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE);
    set(&light, IPPROTO_UDPLITE, SEND_COVERAGE, 16);
    set(&light, IPPROTO_UDPLITE, RECEIVE_COVERAGE, 12);

    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("names", &names, &sockets.each_ref().map(|(socket, ..)| name(socket)));
    for (socket, level, option, stays) in &sockets {
        found.same("may bind", &u32::from(*stays), &get(socket, *level, *option));
    }
    found.same("coverage sent", &16, &get(&light, IPPROTO_UDPLITE, SEND_COVERAGE));
    found.same("coverage wanted", &12, &get(&light, IPPROTO_UDPLITE, RECEIVE_COVERAGE));
    found.same("UDP_CORK", &1, &get(&corked, SOL_UDP, libc::UDP_CORK));
    found.works("send", send(&corked, b"one, "));
    found.works("send", send(&corked, b"two"));
    found.must("it holds back", is_silent(&receiver));
    set(&corked, SOL_UDP, libc::UDP_CORK, 0);
    let mut bytes = [0; 16];
    found.same("receive", &Some(8), &receive(&receiver, &mut bytes).ok());
    found.outcome()
}

/// An echo request with a number.
fn echo(kind: u8, number: u16) -> Vec<u8> {
    let mut packet = vec![kind, 0, 0, 0, 0, 0];
    packet.extend_from_slice(&number.to_be_bytes());
    packet.extend_from_slice(b"ping");
    packet
}

/// Whether an echo comes back.
fn answers(socket: &OwnedFd, (request, reply): (u8, u8), number: u16) -> bool {
    send(socket, &echo(request, number)).expect("send");
    let mut answer = [0; 64];
    let bytes = receive(socket, &mut answer).unwrap_or(0);
    answer[..bytes].first() == Some(&reply) && answer[6..8] == number.to_be_bytes()
}

/// Sockets that send and receive echo requests. (They need a group that may have some.)
pub(crate) fn ping(stage: &Stage) -> Outcome {
    const OF_IPV4: (u8, u8) = (8, 0);
    const OF_IPV6: (u8, u8) = (128, 129);
    let four = new(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);
    bind(&four, &ipv4(LOOPBACK, 4711));
    connect(&four, &ipv4(LOOPBACK, 0));
    set(&four, SOL_IP, libc::IP_TTL, 9);
    let six = new(AF_INET6, SOCK_DGRAM, IPPROTO_ICMPV6);
    // The kernel's 64 buckets are for both families, and so this one is found in the bucket of the first.
    bind(&six, &ipv6(Ipv6Addr::LOCALHOST, 4711 + 64));
    connect(&six, &ipv6(Ipv6Addr::LOCALHOST, 0));
    assert!(answers(&four, OF_IPV4, 1) && answers(&six, OF_IPV6, 2), "natively");
    let names = (name(&four), name(&six));

    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("names", &names, &(name(&four), name(&six)));
    found.same("TTL", &9, &get(&four, SOL_IP, libc::IP_TTL));
    found.must("it goes on over IPv4", answers(&four, OF_IPV4, 3));
    found.must("it goes on over IPv6", answers(&six, OF_IPV6, 4));
    found.outcome()
}

/// Raw sockets: what they are bound and connected to, what they let through, and who makes the headers.
pub(crate) fn raw(stage: &Stage) -> Outcome {
    const ECHO_REPLY_ONLY: u32 = !1;
    const IPV6_CHECKSUM: i32 = 7;
    // For experiments (RFC 3692).
    const EXPERIMENT: i32 = 253;
    let bound = new(AF_INET, SOCK_RAW, EXPERIMENT);
    bind(&bound, &ipv4([127, 0, 0, 83], 0));
    let aimed = new(AF_INET, SOCK_RAW, EXPERIMENT);
    connect(&aimed, &ipv4([127, 0, 0, 83], 0));
    let pings = new(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    set(&pings, SOL_RAW, ICMP_FILTER, ECHO_REPLY_ONLY);
    let pings6 = new(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6);
    let filter: [u8; 32] = std::array::from_fn(|at| at as u8);
    set_bytes(&pings6, IPPROTO_ICMPV6, ICMP_FILTER, &filter).expect("ICMP6_FILTER");
    let sums = new(AF_INET6, SOCK_RAW, EXPERIMENT);
    set(&sums, SOL_IPV6, IPV6_CHECKSUM, 6);
    // As a daemon that announces routes sets it: at the level of raw sockets.
    let announces = new(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6);
    set(&announces, SOL_RAW, IPV6_CHECKSUM, 4);
    let headers = new(AF_INET, SOCK_RAW, IPPROTO_RAW);
    set(&headers, SOL_IP, libc::IP_HDRINCL, 0);
    // What the kernel keeps of each is shorter than what it keeps of a TCP socket: behind it is something else.
    let families = [AF_INET, AF_INET6].into_iter().cycle();
    let of_tcp: Vec<OwnedFd> =
        families.take(48).map(|family| new(family, SOCK_RAW, libc::IPPROTO_TCP)).collect();

    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("address", &ipv4([127, 0, 0, 83], 253), &name(&bound));
    found.same("ICMP filter", &ECHO_REPLY_ONLY, &get(&pings, SOL_RAW, ICMP_FILTER));
    found.same("ICMPv6 filter", &filter, &get_bytes(&pings6, IPPROTO_ICMPV6, ICMP_FILTER));
    found.same("IPV6_CHECKSUM", &6, &get(&sums, SOL_IPV6, IPV6_CHECKSUM));
    found.same("checksum of ICMPv6", &4, &get(&announces, SOL_RAW, IPV6_CHECKSUM));
    found.same("IP_HDRINCL", &0, &get(&headers, SOL_IP, libc::IP_HDRINCL));
    let protocol = |socket| get(socket, libc::SOL_SOCKET, libc::SO_PROTOCOL);
    found.must("of TCP", of_tcp.iter().all(|socket| protocol(socket) == 6));
    found.works("send", send(&aimed, b"raw"));
    let mut bytes = [0; 64];
    found.same("receive", &Some(20 + 3), &receive(&bound, &mut bytes).ok());
    found.must("it has no port to send to", connected_to(&aimed).is_err());
    found.works("send elsewhere", send_to(&bound, b"x", &ipv4([127, 0, 0, 83], 0)));
    found.outcome()
}

/// Sockets with an address in common, which may not share it any more: one for all addresses and those of single
/// ones beside it, as a server of NTP has them, and two at the same address.
pub(crate) fn shared(stage: &Stage) -> Outcome {
    let bound = |family, address: &[u8]| {
        let socket = new(family, SOCK_DGRAM, 0);
        set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1);
        if family == AF_INET6 {
            set(&socket, SOL_IPV6, libc::IPV6_V6ONLY, 1);
        }
        bind(&socket, address);
        socket
    };
    let all = bound(AF_INET, &ipv4([0; 4], 0));
    let port = u16::from_be_bytes(name(&all)[2..4].try_into().expect("two"));
    let sockets = [
        bound(AF_INET, &ipv4(LOOPBACK, port)),
        bound(AF_INET, &ipv4([127, 0, 0, 83], port)),
        bound(AF_INET, &ipv4([127, 0, 0, 83], port)),
        bound(AF_INET6, &ipv6(Ipv6Addr::UNSPECIFIED, port)),
        bound(AF_INET6, &ipv6(Ipv6Addr::LOCALHOST, port)),
    ];
    let of = || std::iter::once(&all).chain(&sockets);
    // The last of them may share its address still.
    for socket in of().take(sockets.len()) {
        set(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 0);
    }
    let say = |socket| (name(socket), get(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR));
    let before: Vec<_> = of().map(say).collect();
    let peer = new(AF_INET, SOCK_DGRAM, 0);

    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("addresses and SO_REUSEADDR", &before, &of().map(say).collect());
    for (address, socket) in [([127, 0, 0, 99], &all), (LOOPBACK, &sockets[0])] {
        found.works("send", send_to(&peer, &address, &ipv4(address, port)));
        let mut bytes = [0; 16];
        found.same("receive", &Some(4), &receive(socket, &mut bytes).ok());
        found.same("what came", &address, bytes.first_chunk().expect("four"));
    }
    let other = new(AF_INET, SOCK_DGRAM, 0);
    set(&other, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1);
    found.must("nobody else may bind there", try_bind(&other, &ipv4(LOOPBACK, port)).is_err());
    found.outcome()
}

/// Datagrams that wait: of several senders, some of which have gone, in sockets of every kind of address.
pub(crate) fn waiting(stage: &Stage) -> Outcome {
    let large: Vec<u8> = crate::stage::pattern(83, 9000);
    let four = new(AF_INET, SOCK_DGRAM, 0);
    bind(&four, &ipv4(LOOPBACK, 0));
    // Both kinds of senders reach it.
    let six = new(AF_INET6, SOCK_DGRAM, 0);
    bind(&six, &ipv6(Ipv6Addr::UNSPECIFIED, 0));
    let aimed = new(AF_INET, SOCK_DGRAM, 0);
    // It might share its address, and does not.
    set(&aimed, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1);
    bind(&aimed, &ipv4(LOOPBACK, 0));
    let light = new(AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE);
    bind(&light, &ipv4(LOOPBACK, 0));
    let port = |socket: &OwnedFd| u16::from_be_bytes(name(socket)[2..4].try_into().expect("two"));
    let sends = |sender: &OwnedFd, to: &[u8], bytes: &[u8]| {
        send_to(sender, bytes, to).expect("send");
        name(sender)
    };
    let peer = new(AF_INET, SOCK_DGRAM, 0);
    bind(&peer, &ipv4([127, 0, 0, 83], 0));
    let gone = new(AF_INET, SOCK_DGRAM, 0);
    bind(&gone, &ipv4([127, 0, 0, 84], 0));
    let gone6 = new(AF_INET6, SOCK_DGRAM, 0);
    bind(&gone6, &ipv6(Ipv6Addr::LOCALHOST, 0));
    let lite = new(AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE);
    bind(&lite, &ipv4(LOOPBACK, 0));
    let mapped = |address: &[u8]| {
        let ip = std::net::Ipv4Addr::new(address[4], address[5], address[6], address[7]);
        ipv6(ip.to_ipv6_mapped(), u16::from_be_bytes([address[2], address[3]]))
    };
    let expected = [
        (&four, sends(&peer, &name(&four), b"first"), b"first".to_vec()),
        (&four, sends(&gone, &name(&four), &large), large.clone()),
        (&four, sends(&peer, &name(&four), b"third"), b"third".to_vec()),
        (&six, mapped(&sends(&gone, &ipv4(LOOPBACK, port(&six)), b"four")), b"four".to_vec()),
        (&six, sends(&gone6, &ipv6(Ipv6Addr::LOCALHOST, port(&six)), b"six"), b"six".to_vec()),
        (&aimed, sends(&peer, &name(&aimed), b"of the peer"), b"of the peer".to_vec()),
        (&light, sends(&lite, &name(&light), b"light"), b"light".to_vec()),
    ];
    connect(&aimed, &name(&peer));
    drop((gone, gone6));

    stage.ready_then_wait();

    let mut found = Findings::default();
    for (socket, sender, bytes) in &expected {
        let mut received = vec![0; 10_000];
        let from = crate::sockets::receive_from(*socket, &mut received);
        let from = from.map(|(count, from)| (from, received[..count].to_vec()));
        found.same("datagram", &Some((sender.clone(), bytes.clone())), &from.ok());
    }
    for socket in [&four, &six, &aimed, &light] {
        found.must("nothing else waits", is_silent(socket));
    }
    found.same("peer", &Some(name(&peer)), &connected_to(&aimed).ok());
    found.outcome()
}

/// Sockets of families and protocols that are not carried.
pub(crate) fn of_others(stage: &Stage) -> Outcome {
    const IPPROTO_MPTCP: i32 = 262;
    let _mptcp = new(AF_INET, libc::SOCK_STREAM, IPPROTO_MPTCP);
    let _vsock = new(libc::AF_VSOCK, libc::SOCK_STREAM, 0);
    let _xdp = new(libc::AF_XDP, SOCK_RAW, 0);
    stage.ready_then_wait();
    Ok(())
}

/// The first part of a datagram.
pub(crate) fn held_back(stage: &Stage) -> Outcome {
    let receiver = new(AF_INET, SOCK_DGRAM, 0);
    bind(&receiver, &ipv4(LOOPBACK, 0));
    let corked = new(AF_INET, SOCK_DGRAM, 0);
    connect(&corked, &name(&receiver));
    set(&corked, SOL_UDP, libc::UDP_CORK, 1);
    send_with(&corked, b"one, ", libc::MSG_MORE).expect("send");
    stage.ready_then_wait();
    set(&corked, SOL_UDP, libc::UDP_CORK, 0);
    let mut found = Findings::default();
    let mut bytes = [0; 16];
    found.same("receive", &Some(5), &receive(&receiver, &mut bytes).ok());
    found.outcome()
}
