//! Netlink sockets: ports, groups, connections and options.

use std::os::fd::{AsRawFd, OwnedFd};

use crate::sockets::{bind, connect, connected_to, get, new, receive, send, set};
use crate::stage::{Findings, Outcome, Stage};

const SOL_NETLINK: i32 = 270;
const ADD_MEMBERSHIP: i32 = 1;
const PKTINFO: i32 = 3;
const LIST_MEMBERSHIPS: i32 = 9;
const EXT_ACK: i32 = 11;
/// Anybody's, for messages between programs.
const USERSOCK: i32 = 2;
const GROUP: u32 = 7;

fn address(port: u32, groups: u32) -> Vec<u8> {
    let family = (libc::AF_NETLINK as u16).to_ne_bytes();
    [&family[..], &[0, 0], &port.to_ne_bytes(), &groups.to_ne_bytes()].concat()
}

/// Own port and groups.
fn name(socket: &OwnedFd) -> (u32, u32) {
    let name = crate::sockets::name(socket);
    let word = |at: usize| u32::from_ne_bytes(name[at..at + 4].try_into().expect("4 bytes"));
    (word(4), word(8))
}

/// Asks for the loopback interface, and whether the answer is of it.
fn asks_for_loopback(socket: &OwnedFd) -> bool {
    const RTM_GETLINK: u16 = 18;
    const NEW_LINK: u16 = 16;
    const REQUEST: u16 = 1;
    let mut request = 32_u32.to_ne_bytes().to_vec();
    request.extend_from_slice(&RTM_GETLINK.to_ne_bytes());
    request.extend_from_slice(&REQUEST.to_ne_bytes());
    request.resize(16 + 4, 0);
    request.extend_from_slice(&1_u32.to_ne_bytes());
    request.resize(32, 0);
    send(socket, &request).expect("send");
    let mut answer = [0; 8192];
    let bytes = receive(socket, &mut answer).expect("receive");
    bytes >= 32 && answer[4..6] == NEW_LINK.to_ne_bytes() && answer[20..24] == 1_u32.to_ne_bytes()
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let port = std::process::id() | 0x4000_0000;
    let receiver = new(libc::AF_NETLINK, libc::SOCK_RAW, USERSOCK);
    bind(&receiver, &address(port, 1 << (GROUP - 1)));
    set(&receiver, libc::SOL_SOCKET, libc::SO_RCVBUF, 70_000);
    set(&receiver, libc::SOL_SOCKET, libc::SO_PASSCRED, 1);
    let buffer = get(&receiver, libc::SOL_SOCKET, libc::SO_RCVBUF);
    // What is sent to a group and a port goes to that port once.
    let member = new(libc::AF_NETLINK, libc::SOCK_RAW, USERSOCK);
    bind(&member, &address(0, 1 << (GROUP - 1)));
    let sender = new(libc::AF_NETLINK, libc::SOCK_RAW, USERSOCK);
    connect(&sender, &address(port, 1 << (GROUP - 1)));
    let own = name(&sender);
    let plain = new(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE);
    let asked = new(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE);
    assert!(asks_for_loopback(&asked), "natively");
    let asked_by = name(&asked);

    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("port and groups", &(port, 1 << (GROUP - 1)), &name(&receiver));
    found.same("the port that the kernel chose", &own, &name(&sender));
    found.same("peer", &(port, 1 << (GROUP - 1)), &{
        let peer = connected_to(&sender).expect("a peer");
        let word = |at: usize| u32::from_ne_bytes(peer[at..at + 4].try_into().expect("4 bytes"));
        (word(4), word(8))
    });
    found.same("SO_PASSCRED", &1, &get(&receiver, libc::SOL_SOCKET, libc::SO_PASSCRED));
    found.same("SO_RCVBUF", &buffer, &get(&receiver, libc::SOL_SOCKET, libc::SO_RCVBUF));
    found.works("send", send(&sender, b"to all"));
    let mut bytes = [0; 16];
    for socket in [&receiver, &member] {
        found.same("receive", &Some(6), &receive(socket, &mut bytes).ok());
        found.same("message", b"to all", &bytes[..6].try_into().expect("6 bytes"));
    }
    found.same("no port", &(0, 0), &name(&plain));
    found.must("a new one asks the kernel", asks_for_loopback(&plain));
    found.same("the port of one that has asked", &asked_by, &name(&asked));
    found.must("one that has asked asks the kernel again", asks_for_loopback(&asked));
    found.outcome()
}

/// What CRIU does not carry: groups beyond the 32nd, groups without a port, options, sockets of datagrams.
pub(crate) fn groups(stage: &Stage) -> Outcome {
    const NEXTHOP: u32 = 32;
    const BRVLAN: u32 = 33;
    let groups = |socket: &OwnedFd| {
        let mut words = [0_u8; 16];
        let mut length = size_of_val(&words) as libc::socklen_t;
        // SAFETY: the kernel writes at most as many bytes as there are.
        let done = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                SOL_NETLINK,
                LIST_MEMBERSHIPS,
                words.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        assert_eq!(done, 0, "NETLINK_LIST_MEMBERSHIPS: {}", std::io::Error::last_os_error());
        words
    };
    let member = new(libc::AF_NETLINK, libc::SOCK_DGRAM, libc::NETLINK_ROUTE);
    set(&member, SOL_NETLINK, ADD_MEMBERSHIP, NEXTHOP);
    set(&member, SOL_NETLINK, ADD_MEMBERSHIP, BRVLAN);
    set(&member, SOL_NETLINK, PKTINFO, 1);
    set(&member, SOL_NETLINK, EXT_ACK, 1);
    let before = groups(&member);

    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("groups", &before, &groups(&member));
    found.same("NETLINK_PKTINFO", &1, &get(&member, SOL_NETLINK, PKTINFO));
    found.same("NETLINK_EXT_ACK", &1, &get(&member, SOL_NETLINK, EXT_ACK));
    found.same("port", &0, &name(&member).0);
    let kind = get(&member, libc::SOL_SOCKET, libc::SO_TYPE);
    found.same("type", &libc::SOCK_DGRAM.cast_unsigned(), &kind);
    found.outcome()
}

/// A message waits in it.
pub(crate) fn waiting(stage: &Stage) -> Outcome {
    let port = std::process::id() | 0x4000_0000;
    let receiver = new(libc::AF_NETLINK, libc::SOCK_RAW, USERSOCK);
    bind(&receiver, &address(port, 0));
    let sender = new(libc::AF_NETLINK, libc::SOCK_RAW, USERSOCK);
    connect(&sender, &address(port, 0));
    send(&sender, b"waits").expect("send");
    stage.ready_then_wait();
    let mut found = Findings::default();
    let mut bytes = [0; 16];
    found.same("receive", &Some(5), &receive(&receiver, &mut bytes).ok());
    found.outcome()
}
