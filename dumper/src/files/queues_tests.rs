use super::*;
use kernel::sockets::create_pair;
use std::os::fd::{AsFd, AsRawFd};

fn refusal<T: std::fmt::Debug>(result: Result<T, Problem>) -> String {
    match result {
        Err(Problem::Refused(refusal)) => refusal.reason.into_owned(),
        other => panic!("{other:?}"),
    }
}

fn bytes(socket: impl AsFd, kind: i32) -> Vec<Vec<u8>> {
    read(socket.as_fd(), kind).unwrap().into_iter().map(|message| message.bytes).collect()
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
        assert_eq!(bytes(&b, kind), expected);
        assert_eq!(bytes(&a, kind), Vec::<Vec<u8>>::new());
        let offset = option(b.as_fd(), SOL_SOCKET, libc::SO_PEEK_OFF).unwrap();
        assert_eq!(offset, u32::MAX);
    }
}

#[test]
fn messages_say_who_sent_them() {
    let (a, b) = create_pair(SOCK_STREAM).unwrap();
    nix::unistd::write(&a, b"nobody").unwrap();
    set_option(&b, SOL_SOCKET, libc::SO_PASSCRED, 1).unwrap();
    nix::unistd::write(&a, b"mine").unwrap();
    let seen = read(b.as_fd(), SOCK_STREAM).unwrap();
    let own = std::process::id().cast_signed();
    let told: Vec<_> =
        seen.iter().map(|it| (&it.bytes[..], it.sender.map(|sender| sender.pid))).collect();
    assert_eq!(told, [(&b"nobody"[..], None), (b"mine", Some(own))]);
    set_option(&b, SOL_SOCKET, SO_PASSPIDFD, 1).unwrap();
    assert!(refusal(read(b.as_fd(), SOCK_STREAM)).contains("SO_PASSPIDFD"));
}

#[test]
fn datagrams_whose_sender_has_a_name() {
    use std::os::unix::ffi::OsStringExt;
    use std::os::unix::net::UnixDatagram;
    let dir = tempfile::tempdir().unwrap();
    let path = |name| dir.path().join(name);
    let to = UnixDatagram::bind(path("to")).unwrap();
    let from = UnixDatagram::bind(path("from")).unwrap();
    from.send_to(b"hello", path("to")).unwrap();
    let mut name = path("from").into_os_string().into_vec();
    name.push(0);
    assert_eq!(read(to.as_fd(), SOCK_DGRAM).unwrap()[0].name, name);
}

#[test]
fn an_empty_message_is_not_the_end() {
    let (a, b) = create_pair(SOCK_SEQPACKET).unwrap();
    for message in [&b"one"[..], b"", b"three"] {
        nix::sys::socket::send(a.as_raw_fd(), message, nix::sys::socket::MsgFlags::empty())
            .unwrap();
    }
    assert!(refusal(read(b.as_fd(), SOCK_SEQPACKET)).contains("empty message"));
}

/// Descriptors come with the bytes that they were sent with, and with none before.
#[test]
fn descriptors_travel_with_their_own_bytes() {
    for kind in [SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET] {
        let (a, b) = create_pair(kind).unwrap();
        let send = |bytes: &[u8], files: &[i32]| {
            kernel::queues::send(&a, bytes, files, None, None).unwrap();
        };
        send(b"plain", &[]);
        send(b"more", &[]);
        send(b"one", &[a.as_raw_fd()]);
        send(b"two", &[a.as_raw_fd(), b.as_raw_fd()]);
        send(b"rest", &[]);
        let seen = read(b.as_fd(), kind).unwrap();
        let seen: Vec<_> = seen.iter().map(|it| (&it.bytes[..], it.files.len())).collect();
        let last = [(&b"one"[..], 1), (b"two", 2), (b"rest", 0)];
        let mut expected = match kind {
            SOCK_STREAM => vec![(&b"plainmore"[..], 0)],
            _ => vec![(&b"plain"[..], 0), (b"more", 0)],
        };
        expected.extend(last);
        assert_eq!(seen, expected);
        assert_eq!(option(b.as_fd(), SOL_SOCKET, libc::SO_PEEK_OFF).unwrap(), u32::MAX);
        // A look at a stream goes on until descriptors come.
        let first = usize::from(kind == SOCK_STREAM);
        assert_eq!(first_files(b.as_fd()).unwrap().len(), first);
    }
}
