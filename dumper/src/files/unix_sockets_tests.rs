use super::*;
use images::messages::SHUTDOWN_BOTH;
use kernel::sockets::create_pair;
use std::os::fd::{AsFd, OwnedFd};

fn inode(fd: &OwnedFd) -> u64 {
    nix::sys::stat::fstat(fd).unwrap().st_ino
}

fn neighbours(held: &[&OwnedFd]) -> Neighbours {
    let held = held.iter().map(|fd| inode(fd) as u32).collect();
    let mut neighbours = Neighbours::new(held, Default::default());
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
    let entry = entry(a.as_fd(), inode(&a), &both, &Numbers::default(), true).unwrap();
    assert_eq!((entry.peer, entry.state), (inode(&b) as u32, SK_ESTABLISHED));
    let alone = neighbours(&[&a]);
    let outside =
        super::entry(a.as_fd(), inode(&a), &alone, &Numbers::default(), true).unwrap().peer;
    assert!(outside == inode(&b) as u32 && !alone.holds(outside));
}

#[test]
fn what_a_closed_peer_left_is_read() {
    let (a, b) = create_pair(SOCK_STREAM).unwrap();
    nix::unistd::write(&a, b"last words").unwrap();
    drop(a);
    let alone = neighbours(&[&b]);
    let entry = entry(b.as_fd(), inode(&b), &alone, &Numbers::default(), true).unwrap();
    assert_eq!((entry.peer, entry.shutdown), (0, Some(SHUTDOWN_BOTH)));
    let queue = super::super::queues::read(b.as_fd(), SOCK_STREAM).unwrap();
    assert_eq!(queue[0].bytes, b"last words");
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
    let mut alone =
        Neighbours::new([inode(&a) as u32, inode(&b) as u32].into(), Default::default());
    alone.load_one(inode(&a) as u32).unwrap();
    assert!(alone.known.is_none());
    let by_all = entry(a.as_fd(), inode(&a), &all, &Numbers::default(), true).unwrap();
    assert_eq!(entry(a.as_fd(), inode(&a), &alone, &Numbers::default(), true).unwrap(), by_all);
    // Nothing but the list of all tells whether it waits at another.
    drop(b);
    let mut alone = Neighbours::new([inode(&a) as u32].into(), Default::default());
    alone.load_one(inode(&a) as u32).unwrap();
    assert!(alone.known.is_some());
}
