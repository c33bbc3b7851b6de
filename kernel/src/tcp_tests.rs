//! These need root: repair mode is an administrator's.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use super::*;
use crate::sockets::{self, Address};

/// A connection over loopback, with both ends.
fn pair(address: &str) -> (TcpStream, TcpStream) {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    let listener = TcpListener::bind(address).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

fn wait_for(socket: &TcpStream, wanted: u8) {
    for _ in 0..1000 {
        if state(socket).unwrap().0 == wanted {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("state {} and not {wanted}", state(socket).unwrap().0);
}

type Ends = (SocketAddr, SocketAddr);

fn ends(socket: &TcpStream) -> Ends {
    (socket.local_addr().unwrap(), socket.peer_addr().unwrap())
}

/// Reads a connection and ends it, without a word to the peer.
fn take_apart(socket: TcpStream) -> Stream {
    let stream = read(socket.as_fd(), false).unwrap().unwrap();
    repair(&socket).unwrap();
    drop(socket);
    stream
}

fn raw(address: SocketAddr) -> Address {
    let mut data = address.port().to_be_bytes().to_vec();
    match address.ip() {
        std::net::IpAddr::V4(ip) => {
            data.extend(ip.octets());
            data.extend([0; 8]);
            Address::new(libc::AF_INET as u16, &data).unwrap()
        }
        std::net::IpAddr::V6(ip) => {
            data.extend([0; 4]);
            data.extend(ip.octets());
            data.extend([0; 4]);
            Address::new(libc::AF_INET6 as u16, &data).unwrap()
        }
    }
}

/// Puts connections together, as a restore does: all stand before any goes on.
fn put_together(streams: &[(&Stream, Ends)]) -> Vec<TcpStream> {
    let mut sockets: Vec<(OwnedFd, &Stream, Ends)> = Vec::new();
    for &(stream, ends) in streams {
        let family = if ends.0.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let socket = sockets::create(family, libc::SOCK_STREAM, 0).unwrap();
        for (option, size) in [(libc::SO_SNDBUF, 1 << 24), (libc::SO_RCVBUF, 1 << 24)] {
            set_option(&socket, SOL_SOCKET, option, size).unwrap();
        }
        stream.connect(socket.as_fd(), &raw(ends.0), &raw(ends.1)).unwrap();
        sockets.push((socket, stream, ends));
    }
    for (socket, stream, _) in &sockets {
        stream.send_rest(socket.as_fd()).unwrap();
    }
    for (socket, stream, ends) in &sockets {
        stream.close_sides(socket.as_fd(), ends.0, ends.1).unwrap();
    }
    for (socket, ..) in &sockets {
        end_repair(socket, false).unwrap();
    }
    sockets.into_iter().map(|(socket, ..)| socket.into()).collect()
}

#[test]
fn both_ends_go_on_with_what_was_between_them() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (mut client, mut server) = pair(address);
        client.set_nonblocking(true).unwrap();
        let mut sent = Vec::new();
        let piece: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        while let Ok(count) = client.write(&piece) {
            sent.extend_from_slice(&piece[..count]);
        }
        server.write_all(b"back").unwrap();
        let of = [ends(&client), ends(&server)];
        let (a, b) = (take_apart(client), take_apart(server));
        assert!(a.unsent > 0 && !b.received.is_empty(), "{} {}", a.unsent, b.received.len());
        assert_eq!(a.received, b"back");
        assert!(!is_before(b.received_seq, a.unconfirmed()));
        let again = put_together(&[(&a, of[0]), (&b, of[1])]);
        let [mut client, mut server] = <[TcpStream; 2]>::try_from(again).unwrap();
        let mut back = [0; 4];
        client.read_exact(&mut back).unwrap();
        let mut received = vec![0; sent.len()];
        server.read_exact(&mut received).unwrap();
        assert!((&back, received) == (b"back", sent));
        client.write_all(b"more").unwrap();
        server.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"more");
    }
}

#[test]
fn sides_that_were_closed_are_closed() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (client, mut server) = pair(address);
        server.write_all(b"last words").unwrap();
        server.shutdown(std::net::Shutdown::Write).unwrap();
        wait_for(&server, FIN_WAIT2);
        wait_for(&client, CLOSE_WAIT);
        let of = [ends(&client), ends(&server)];
        let (a, b) = (take_apart(client), take_apart(server));
        assert_eq!(a.received, b"last words");
        let again = put_together(&[(&a, of[0]), (&b, of[1])]);
        let [mut client, mut server] = <[TcpStream; 2]>::try_from(again).unwrap();
        assert_eq!((state(&client).unwrap().0, state(&server).unwrap().0), (CLOSE_WAIT, FIN_WAIT2));
        let mut said = String::new();
        client.read_to_string(&mut said).unwrap();
        assert_eq!(said, "last words");
        client.write_all(b"and back").unwrap();
        drop(client);
        said.clear();
        server.read_to_string(&mut said).unwrap();
        assert_eq!(said, "and back");
        wait_for(&server, CLOSE);
        // One that is over is so again, without its peer.
        let mut late = pair(address);
        late.0.write_all(b"late").unwrap();
        drop(late.0);
        wait_for(&late.1, CLOSE_WAIT);
        let of = ends(&late.1);
        late.1.shutdown(std::net::Shutdown::Write).unwrap();
        wait_for(&late.1, CLOSE);
        let stream = take_apart(late.1);
        let [mut over] = <[TcpStream; 1]>::try_from(put_together(&[(&stream, of)])).unwrap();
        assert_eq!(state(&over).unwrap().0, CLOSE);
        said.clear();
        over.read_to_string(&mut said).unwrap();
        assert_eq!(said, "late");
    }
}

#[test]
fn a_look_leaves_a_connection_as_it_was() {
    let (mut client, mut server) = pair("127.0.0.1:0");
    set_option(&client, SOL_SOCKET, libc::SO_REUSEADDR, 1).unwrap();
    server.write_all(b"unread").unwrap();
    wait_for(&client, ESTABLISHED);
    let first = read(client.as_fd(), true).unwrap().unwrap();
    let second = read(client.as_fd(), true).unwrap().unwrap();
    assert_eq!((first.received, first.sent_seq), (second.received, second.sent_seq));
    assert!(!is_repaired(&client).unwrap());
    assert_eq!(option(&client, SOL_SOCKET, libc::SO_REUSEADDR).unwrap(), 1);
    let mut text = [0; 6];
    client.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"unread");
}
