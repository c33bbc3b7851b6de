//! TCP and UDP sockets on loopback that no peer is connected to.

use std::io::{Read, Write};
use std::net::{
    Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener, TcpStream, UdpSocket,
};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, Shutdown, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrStorage, bind,
    connect, getsockname, getsockopt, setsockopt, socket, sockopt,
};

use crate::stage::{Findings, Outcome, Stage, check};

fn options(socket: impl AsFd) -> (bool, bool, usize, usize) {
    (
        getsockopt(&socket, sockopt::ReuseAddr).expect("SO_REUSEADDR"),
        getsockopt(&socket, sockopt::KeepAlive).expect("SO_KEEPALIVE"),
        getsockopt(&socket, sockopt::SndBuf).expect("SO_SNDBUF"),
        getsockopt(&socket, sockopt::RcvBuf).expect("SO_RCVBUF"),
    )
}

fn serves(found: &mut Findings, listener: &TcpListener, address: SocketAddr) {
    found.same("address", &Some(address), &listener.local_addr().ok());
    let Some(mut client) = found.works("connect", TcpStream::connect(address)) else { return };
    found.works("wait for connections", listener.set_nonblocking(false));
    if let Some((mut server, _)) = found.works("accept", listener.accept()) {
        found.works("write", client.write_all(b"hello"));
        let mut bytes = [0; 5];
        found.works("read", server.read_exact(&mut bytes));
        found.same("what came", b"hello", &bytes);
    }
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    setsockopt(&listener, sockopt::KeepAlive, &true).expect("SO_KEEPALIVE");
    let any = TcpListener::bind("0.0.0.0:0").expect("bind");
    any.set_nonblocking(true).expect("non-blocking");
    let six = TcpListener::bind("[::1]:0").ok();
    let udp = UdpSocket::bind("127.0.0.1:0").expect("bind");
    udp.set_read_timeout(Some(Duration::from_secs(3))).expect("timeout");
    let connected = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let udp_address = udp.local_addr().expect("address");
    connected.connect(udp_address).expect("connect");
    setsockopt(&connected, sockopt::RcvBuf, &100_000).expect("SO_RCVBUF");
    let listens_only = UdpSocket::bind("127.0.0.1:0").expect("bind");
    listens_only.connect(udp_address).expect("connect");
    nix::sys::socket::shutdown(listens_only.as_raw_fd(), Shutdown::Write).expect("shutdown");
    let tcp = [&listener, &any].map(|l| (l.local_addr().expect("address"), options(l)));
    let six_address = six.as_ref().and_then(|l| l.local_addr().ok());
    let udp_before = [
        (udp_address, options(&udp)),
        (connected.local_addr().expect("address"), options(&connected)),
    ];

    stage.ready_then_wait();

    let mut found = Findings::default();
    for (listener, (address, before)) in [&listener, &any].into_iter().zip(tcp) {
        found.same("options", &before, &options(listener));
        serves(&mut found, listener, address);
    }
    if let (Some(six), Some(address)) = (&six, six_address) {
        serves(&mut found, six, address);
    }
    for (socket, (address, before)) in [&udp, &connected].into_iter().zip(udp_before) {
        found.same("UDP address", &Some(address), &socket.local_addr().ok());
        found.same("UDP options", &before, &options(socket));
    }
    found.same("UDP peer", &Some(udp_address), &connected.peer_addr().ok());
    found.must("a socket that is shut down sends nothing", listens_only.send(b"x").is_err());
    found.works("send", connected.send(b"ping"));
    let mut bytes = [0; 16];
    let from = udp.recv_from(&mut bytes).ok();
    found.same("receive", &connected.local_addr().ok().map(|a| (4, a)), &from);
    found.outcome()
}

/// Sockets that are bound to an address, and to no port: one that gets it when it connects (`IP_BIND_ADDRESS_NO_PORT`), as
/// proxies choose whom they are by, and one whose port went with its connection.
pub(crate) fn addresses_alone(stage: &Stage) -> Outcome {
    let here = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 77), 0);
    let later =
        socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).expect("socket");
    setsockopt(&later, sockopt::IpBindAddressNoPort, &true).expect("IP_BIND_ADDRESS_NO_PORT");
    bind(later.as_raw_fd(), &SockaddrIn::from(here)).expect("bind");
    let six =
        socket(AddressFamily::Inet6, SockType::Stream, SockFlag::empty(), None).expect("socket");
    setsockopt(&six, sockopt::IpBindAddressNoPort, &true).expect("IP_BIND_ADDRESS_NO_PORT");
    let mapped = SocketAddrV6::new(here.ip().to_ipv6_mapped(), 0, 0, 0);
    bind(six.as_raw_fd(), &SockaddrIn6::from(mapped)).expect("bind");
    let left = UdpSocket::bind(here).expect("bind");
    left.connect("127.0.0.1:9").expect("connect");
    disconnect(&left);
    assert_eq!(left.local_addr().ok(), Some(here.into()), "natively");

    stage.ready_then_wait();

    let mut found = Findings::default();
    let name =
        |fd: &OwnedFd| getsockname::<SockaddrStorage>(fd.as_raw_fd()).ok().map(|it| it.to_string());
    found.same("address of UDP", &Some(here.into()), &left.local_addr().ok());
    found.same("address", &Some(here.to_string()), &name(&later));
    found.same("address of IPv6", &Some(mapped.to_string()), &name(&six));
    for socket in [&later, &six] {
        found.same("option", &Some(true), &getsockopt(socket, sockopt::IpBindAddressNoPort).ok());
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("address").port();
    let there = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
    found.works("connect", connect(later.as_raw_fd(), &there));
    let from = listener.accept().map(|(_, from)| from.ip()).ok();
    found.same("whom it comes from", &Some((*here.ip()).into()), &from);
    found.outcome()
}

/// Ends what connect(2) began.
fn disconnect(socket: &UdpSocket) {
    // SAFETY: an all-zero address is one of no family, and outlives the call.
    let done = unsafe {
        let none: libc::sockaddr = std::mem::zeroed();
        libc::connect(socket.as_raw_fd(), &raw const none, size_of_val(&none) as libc::socklen_t)
    };
    check(done).expect("disconnect");
}
