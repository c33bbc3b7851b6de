//! TCP and UDP sockets on loopback that no peer is connected to.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::sys::socket::{Shutdown, getsockopt, setsockopt, sockopt};

use crate::stage::{Findings, Outcome, Stage};

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
