//! These need root, and a kernel with what they are about.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

use super::*;
use crate::tcp;

fn waiting(received: &[u8]) -> Waiting {
    Waiting {
        received_seq: 0x10_u32.wrapping_add(received.len() as u32),
        received: received.to_vec(),
        sent_seq: u32::MAX - 7,
        options: OPTION_SACK | OPTION_TIMESTAMPS | OPTION_WINDOW_SCALE,
        sent_scale: 7,
        received_scale: 9,
        segment: 1400,
        window: 512 << 7,
        clock: 123_456,
        peer_clock: 77,
        ended: false,
        reset: false,
    }
}

/// A namespace of its own for the thread of a test, with a loopback device that is up.
fn alone() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
    assert!(up.success());
}

fn put(listener: &TcpListener, peer: &str, waiting: &Waiting) -> Result<(), Error> {
    let filler = Filler::new().unwrap();
    let local = listener.local_addr().unwrap();
    filler.put((listener.as_fd(), 0), (local, peer.parse().unwrap()), waiting)
}

#[test]
fn what_has_been_put_into_a_queue_is_accepted() {
    alone();
    fs::write(COOKIES, "0").unwrap();
    for (here, peers) in [
        ("127.0.0.1:0", ["127.0.0.1:4000", "127.0.0.9:4001", "127.0.0.9:4000"]),
        ("[::1]:0", ["[::1]:4000", "[::1]:4002", "[::1]:4001"]),
    ] {
        let listener = TcpListener::bind(here).unwrap();
        let large: Vec<u8> = (0..60_000_u32).map(|at| (at % 251) as u8).collect();
        let data: [&[u8]; 3] = [b"", b"odd", &large];
        for (peer, data) in peers.iter().zip(data) {
            let ended = !data.is_empty();
            put(&listener, peer, &Waiting { ended, ..waiting(data) }).unwrap();
        }
        assert_eq!(tcp::state(&listener).unwrap().1, 3);
        for (peer, data) in peers.iter().zip(data) {
            let (socket, address) = listener.accept().unwrap();
            assert_eq!(address, peer.parse().unwrap());
            let read = tcp::read(socket.as_fd(), false).unwrap().unwrap();
            let state = if data.is_empty() { tcp::ESTABLISHED } else { tcp::CLOSE_WAIT };
            assert_eq!(read.state, state);
            assert!(read.received == data);
            assert_eq!((read.sent_seq, read.sent_scale, read.received_scale), (u32::MAX - 7, 7, 9));
            let clock = read.timestamp.unwrap();
            assert!((123_456..133_456).contains(&clock), "{clock}");
            assert_eq!(read.window.unwrap().sent, 512 << 7);
            tcp::repair(&socket).unwrap();
        }
    }
    assert_eq!(fs::read(COOKIES).unwrap().trim_ascii(), b"0");
}

#[test]
fn one_that_was_reset_is_reset() {
    alone();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    put(&listener, "127.0.0.1:4000", &Waiting { reset: true, ..waiting(b"last words") }).unwrap();
    let (mut socket, _) = listener.accept().unwrap();
    let mut told = [0; 32];
    assert_eq!(socket.read(&mut told).unwrap(), 10);
    assert_eq!(socket.read(&mut told).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

/// The listener is the one that it is put to, of many that share a port, and other connections are not disturbed.
#[test]
fn it_is_put_to_that_listener() {
    alone();
    let open = || {
        let socket = crate::sockets::create(libc::AF_INET, libc::SOCK_STREAM, 0).unwrap();
        set_option(&socket, SOL_SOCKET, libc::SO_REUSEPORT, 1).unwrap();
        let mut data = 4711_u16.to_be_bytes().to_vec();
        data.extend([0; 12]);
        let any = crate::sockets::Address::new(libc::AF_INET as u16, &data).unwrap();
        crate::sockets::bind(&socket, &any).unwrap();
        crate::sockets::listen(&socket, 5).unwrap();
        socket
    };
    let listeners = [(); 3].map(|()| open());
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let filler = Filler::new().unwrap();
    for (nth, listener) in (0..12).zip(listeners.iter().cycle()) {
        let ends =
            ("127.0.0.1:4711".parse().unwrap(), SocketAddr::new([127, 0, 0, 1].into(), 5000 + nth));
        filler.put((listener.as_fd(), 0), ends, &waiting(b"x")).unwrap();
        let mut client = TcpStream::connect(other.local_addr().unwrap()).unwrap();
        client.write_all(b"y").unwrap();
        let mut byte = [0];
        other.accept().unwrap().0.read_exact(&mut byte).unwrap();
    }
    for listener in &listeners {
        assert_eq!(tcp::state(listener).unwrap().1, 4);
        assert_eq!(option(listener, SOL_SOCKET, libc::SO_REUSEPORT).unwrap(), 1);
    }
}

#[test]
fn a_queue_that_is_full_is_told() {
    alone();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    crate::sockets::listen(&listener, 0).unwrap();
    put(&listener, "127.0.0.1:4000", &waiting(b"")).unwrap();
    let error = put(&listener, "127.0.0.1:4001", &waiting(b"")).unwrap_err();
    assert_eq!(error.source.kind(), io::ErrorKind::TimedOut);
}
