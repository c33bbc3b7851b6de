//! TCP connections that wait to be accepted, as the programs tell them. Needs root, and a kernel that lets it load BPF programs.
#![allow(clippy::unwrap_used, reason = "a test ends at what it does not expect")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use stasis_collector::{Collector, Unaccepted, WaitingConnection};

fn told(collector: &mut Collector, listener: &TcpListener) -> Vec<WaitingConnection> {
    for _ in 0..100 {
        match collector.waiting(listener.as_fd(), 64 << 20).unwrap().unwrap() {
            Unaccepted::All(all) => return all,
            Unaccepted::Moves => std::thread::sleep(Duration::from_millis(5)),
            Unaccepted::More => panic!("too much"),
        }
    }
    panic!("it moves");
}

fn text(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|place| (place % 251) as u8 ^ seed).collect()
}

#[test]
fn connections_are_told_and_stay() {
    let mut collector = Collector::with_bpf().unwrap();
    for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
        let listener = TcpListener::bind(address).unwrap();
        assert_eq!(told(&mut collector, &listener), []);
        let port = listener.local_addr().unwrap().port();
        let mut to = listener.local_addr().unwrap();
        if to.ip().is_unspecified() {
            // It comes by IPv4.
            to = SocketAddr::new([127, 0, 0, 1].into(), port);
        }
        let lengths = [0, 1, 100, 4088, 5000, 50_000];
        let mut clients = Vec::new();
        for (nth, length) in lengths.into_iter().enumerate() {
            let mut client = TcpStream::connect(to).unwrap();
            let data = text(length, nth as u8);
            // In two pieces, of which the second is small.
            let (one, two) = data.split_at(length.saturating_sub(7));
            client.write_all(one).unwrap();
            client.write_all(two).unwrap();
            if nth % 2 == 1 {
                client.shutdown(Shutdown::Write).unwrap();
            }
            clients.push((client, data));
        }
        std::thread::sleep(Duration::from_millis(50));
        let all = told(&mut collector, &listener);
        assert_eq!(all.len(), lengths.len());
        let plain =
            |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        for (nth, (one, (client, data))) in all.iter().zip(&clients).enumerate() {
            assert_eq!(plain(one.peer), client.local_addr().unwrap());
            assert_eq!(plain(one.local), client.peer_addr().unwrap());
            assert_eq!(one.ended, nth % 2 == 1);
            assert_eq!(one.state, if one.ended { 8 } else { 1 });
            assert!(one.received.as_ref() == Some(data), "{nth}: {one:?}");
            assert_eq!((one.error, one.peculiar), (0, None));
            let read = kernel::tcp::read(client.as_fd(), false).unwrap().unwrap();
            assert_eq!(one.sent_seq, read.received_seq);
            assert_eq!(one.received_seq, read.sent_seq.wrapping_sub(one.ended.into()));
            assert_eq!(one.options & 7, read.options & 7);
            assert_eq!(
                (one.sent_scale, one.received_scale),
                (read.received_scale, read.sent_scale)
            );
        }
        assert_eq!(told(&mut collector, &listener).len(), all.len());
        // They are as they were.
        for (mut client, data) in clients {
            let (mut accepted, peer) = listener.accept().unwrap();
            assert_eq!(plain(peer), client.local_addr().unwrap());
            let mut received = vec![0; data.len()];
            accepted.read_exact(&mut received).unwrap();
            assert!(received == data);
            let clock =
                kernel::tcp::read(accepted.as_fd(), false).unwrap().unwrap().timestamp.unwrap();
            let told = all.iter().find(|one| one.peer == peer).unwrap();
            // What a program is told of the clock may be a little ahead.
            let later = clock.wrapping_sub(told.clock).wrapping_add(10);
            assert!(later < 10_000, "{clock} {}", told.clock);
            assert!(told.segment > 1000);
            accepted.write_all(b"answer").unwrap();
            let mut answer = [0; 6];
            client.read_exact(&mut answer).unwrap();
        }
    }
}

#[test]
fn many_connections_are_told() {
    const MANY: usize = 600;
    let mut collector = Collector::with_bpf().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    kernel::sockets::listen(&listener, 4096).unwrap();
    let clients: Vec<TcpStream> = (0..MANY)
        .map(|nth| {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            client.write_all(&text(nth * 3, 0)).unwrap();
            client
        })
        .collect();
    std::thread::sleep(Duration::from_millis(50));
    let all = told(&mut collector, &listener);
    assert_eq!(all.len(), MANY);
    for (nth, (one, client)) in all.iter().zip(&clients).enumerate() {
        assert_eq!(one.peer, client.local_addr().unwrap());
        assert!(one.received.as_ref() == Some(&text(nth * 3, 0)), "{nth}");
    }
}

#[test]
fn other_sockets_tell_nothing() {
    let mut collector = Collector::with_bpf().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    assert_eq!(collector.waiting(client.as_fd(), 100).unwrap(), None);
    let file = tempfile::tempfile().unwrap();
    assert_eq!(collector.waiting(file.as_fd(), 100).unwrap(), None);
}
