use super::*;
use images::messages::SHUTDOWN_BOTH;
use kernel::sockets::create_pair;
use std::os::fd::{AsFd, OwnedFd};

fn inode(fd: &OwnedFd) -> u64 {
    nix::sys::stat::fstat(fd).unwrap().st_ino
}

fn neighbours(held: &[&OwnedFd]) -> Neighbours {
    let held = held.iter().map(|fd| inode(fd) as u32).collect();
    let mut neighbours = Neighbours::new(held);
    neighbours.load().unwrap();
    neighbours
}

fn refusal<T: std::fmt::Debug>(result: Result<T, Problem>) -> String {
    match result {
        Err(Problem::Refused(refusal)) => refusal.reason.into_owned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pair_knows_its_ends() {
    let (a, b) = create_pair(SOCK_STREAM).unwrap();
    let both = neighbours(&[&a, &b]);
    let entry = entry(a.as_fd(), inode(&a), &both, true).unwrap();
    assert_eq!((entry.peer, entry.state), (inode(&b) as u32, SK_ESTABLISHED));
    let alone = neighbours(&[&a]);
    assert!(refusal(super::entry(a.as_fd(), inode(&a), &alone, true)).contains("outside the tree"));
}

#[test]
fn queues_of_each_kind() {
    for (kind, expected) in [
        (SOCK_STREAM, vec![b"onethree".to_vec()]),
        (SOCK_DGRAM, vec![b"one".to_vec(), b"three".to_vec()]),
        (SOCK_SEQPACKET, vec![b"one".to_vec(), b"three".to_vec()]),
    ] {
        let (a, b) = create_pair(kind).unwrap();
        nix::unistd::write(&a, b"one").unwrap();
        nix::unistd::write(&a, b"three").unwrap();
        assert_eq!(queue(b.as_fd(), kind, SK_ESTABLISHED, b"").unwrap(), expected);
        let nothing = queue(a.as_fd(), kind, SK_ESTABLISHED, b"").unwrap();
        assert_eq!(nothing, Vec::<Vec<u8>>::new());
        let offset = option(b.as_fd(), SOL_SOCKET, libc::SO_PEEK_OFF).unwrap();
        assert_eq!(offset, u32::MAX);
    }
}

#[test]
fn what_a_closed_peer_left_is_read() {
    let (a, b) = create_pair(SOCK_STREAM).unwrap();
    nix::unistd::write(&a, b"last words").unwrap();
    drop(a);
    let alone = neighbours(&[&b]);
    let entry = entry(b.as_fd(), inode(&b), &alone, true).unwrap();
    assert_eq!((entry.peer, entry.shutdown), (0, Some(SHUTDOWN_BOTH)));
    let queue = queue(b.as_fd(), SOCK_STREAM, SK_ESTABLISHED, b"").unwrap();
    assert_eq!(queue, [b"last words".to_vec()]);
}

#[test]
fn directories_of_relative_names() {
    assert_eq!(directory(b"/tmp/x/s", b"s").unwrap(), b"/tmp/x");
    assert_eq!(directory(b"/tmp/x/s", b"./x/s").unwrap(), b"/tmp");
    assert_eq!(directory(b"/s", b"s").unwrap(), b"/");
    assert!(refusal(directory(b"/tmp/x/s", b"../y/s")).contains("relative name"));
}

#[test]
fn one_that_is_asked_for_alone_is_as_among_all() {
    let (a, b) = create_pair(SOCK_STREAM).unwrap();
    nix::unistd::write(&a, b"some").unwrap();
    let all = neighbours(&[&a, &b]);
    let mut alone = Neighbours::new([inode(&a) as u32, inode(&b) as u32].into());
    alone.load_one(inode(&a) as u32).unwrap();
    assert!(alone.known.is_none());
    let by_all = entry(a.as_fd(), inode(&a), &all, true).unwrap();
    assert_eq!(entry(a.as_fd(), inode(&a), &alone, true).unwrap(), by_all);
    // Nothing but the list of all tells whether it waits at another.
    drop(b);
    let mut alone = Neighbours::new([inode(&a) as u32].into());
    alone.load_one(inode(&a) as u32).unwrap();
    assert!(alone.known.is_some());
}

#[test]
fn messages_that_say_who_sent_them() {
    let (a, b) = create_pair(SOCK_STREAM).unwrap();
    set_option(&b, SOL_SOCKET, libc::SO_PASSCRED, 1).unwrap();
    assert!(queue(b.as_fd(), SOCK_STREAM, SK_ESTABLISHED, b"").unwrap().is_empty());
    nix::unistd::write(&a, b"mine").unwrap();
    let refused = queue(b.as_fd(), SOCK_STREAM, SK_ESTABLISHED, b"");
    assert!(refusal(refused).contains("SO_PASSCRED"));
}

#[test]
fn datagrams_whose_sender_has_a_name() {
    use std::os::unix::net::UnixDatagram;
    let dir = tempfile::tempdir().unwrap();
    let path = |name| dir.path().join(name);
    let to = UnixDatagram::bind(path("to")).unwrap();
    let from = UnixDatagram::bind(path("from")).unwrap();
    from.send_to(b"hello", path("to")).unwrap();
    let mut name = path("from").into_os_string().into_vec();
    name.push(0);
    let queue = |sender: &[u8]| queue(to.as_fd(), SOCK_DGRAM, SK_CLOSE, sender);
    assert!(refusal(queue(b"")).contains("/from"));
    assert_eq!(queue(&name).unwrap(), [b"hello".to_vec()]);
}

#[test]
fn an_empty_message_is_not_the_end() {
    let (a, b) = create_pair(SOCK_SEQPACKET).unwrap();
    for message in [&b"one"[..], b"", b"three"] {
        nix::sys::socket::send(a.as_raw_fd(), message, nix::sys::socket::MsgFlags::empty())
            .unwrap();
    }
    let refused = queue(b.as_fd(), SOCK_SEQPACKET, SK_ESTABLISHED, b"");
    assert!(refusal(refused).contains("empty message"));
}
