//! Sockets that are members of multicast groups, with and without a choice of sources.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use crate::stage::{Findings, Outcome, Stage, check};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 83, 7, 1);
const CHOOSY: Ipv4Addr = Ipv4Addr::new(239, 83, 7, 2);
const GROUP_V6: &str = "ff02::83:7";
/// Nobody sends from there.
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 83, 7, 9);

fn source_membership(socket: &UdpSocket, option: i32, source: Ipv4Addr) -> std::io::Result<i32> {
    let request = libc::ip_mreq_source {
        imr_multiaddr: libc::in_addr { s_addr: u32::from_ne_bytes(CHOOSY.octets()) },
        imr_interface: libc::in_addr { s_addr: u32::from_ne_bytes(Ipv4Addr::LOCALHOST.octets()) },
        imr_sourceaddr: libc::in_addr { s_addr: u32::from_ne_bytes(source.octets()) },
    };
    // SAFETY: the kernel reads the request, whose size is given.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_IP,
            option,
            (&raw const request).cast(),
            size_of_val(&request) as libc::socklen_t,
        )
    })
}

/// Whether a datagram to the group comes, sent from the loopback address.
fn hears(socket: &UdpSocket, group: Ipv4Addr) -> bool {
    let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    nix::sys::socket::setsockopt(&sender, nix::sys::socket::sockopt::IpMulticastTtl, &0).ok();
    let interface = u32::from_ne_bytes(Ipv4Addr::LOCALHOST.octets());
    // SAFETY: the kernel reads one address, which is that long.
    check(unsafe {
        libc::setsockopt(
            sender.as_raw_fd(),
            libc::SOL_IP,
            libc::IP_MULTICAST_IF,
            (&raw const interface).cast(),
            4,
        )
    })
    .expect("IP_MULTICAST_IF");
    let port = socket.local_addr().expect("address").port();
    sender.send_to(b"all", SocketAddrV4::new(group, port)).expect("send");
    let mut bytes = [0; 8];
    socket.recv(&mut bytes).is_ok_and(|count| &bytes[..count] == b"all")
}

fn new() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bind");
    socket.set_read_timeout(Some(Duration::from_millis(300))).expect("timeout");
    socket
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let member = new();
    member.join_multicast_v4(&GROUP, &Ipv4Addr::LOCALHOST).expect("join");
    let chosen = new();
    source_membership(&chosen, libc::IP_ADD_SOURCE_MEMBERSHIP, Ipv4Addr::LOCALHOST).expect("join");
    let deaf = new();
    source_membership(&deaf, libc::IP_ADD_SOURCE_MEMBERSHIP, STRANGER).expect("join");
    let six = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).expect("bind");
    let group: Ipv6Addr = GROUP_V6.parse().expect("an address");
    six.join_multicast_v6(&group, 1).expect("join");

    stage.ready_then_wait();

    let mut found = Findings::default();
    found.must("a member hears the group", hears(&member, GROUP));
    found.must("who chose the source hears it", hears(&chosen, CHOOSY));
    found.must("who chose another source does not", !hears(&deaf, CHOOSY));
    found.works("leave the IPv6 group", six.leave_multicast_v6(&group, 1));
    found.works("leave", member.leave_multicast_v4(&GROUP, &Ipv4Addr::LOCALHOST));
    found.works(
        "leave a source",
        source_membership(&chosen, libc::IP_DROP_SOURCE_MEMBERSHIP, Ipv4Addr::LOCALHOST),
    );
    found.outcome()
}
