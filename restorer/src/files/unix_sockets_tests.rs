use super::*;
use crate::files::approve::Trust;
use crate::files::holders::Holders;
use images::messages::{SK_CLOSE, SK_ESTABLISHED, SkOptsEntry};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;

fn approver() -> Approver {
    Approver::new(None, std::sync::Arc::default(), Holders::default(), Trust::Files).unwrap()
}

fn socket(ino: u32, state: u32, peer: u32, name: &[u8]) -> UnixSkEntry {
    UnixSkEntry {
        id: ino + 100,
        ino,
        r#type: libc::SOCK_STREAM.cast_unsigned(),
        state,
        peer,
        backlog: 5,
        name: name.to_vec(),
        flags: 2,
        opts: SkOptsEntry { so_sndbuf: 212_992, so_rcvbuf: 212_992, ..SkOptsEntry::default() },
        ..UnixSkEntry::default()
    }
}

fn plain(bytes: &[u8]) -> Message {
    Message { bytes: bytes.to_vec(), ..Message::default() }
}

fn make(entries: &[UnixSkEntry], queues: &Queues) -> Result<Vec<OwnedFd>, Error> {
    let outside = Outside::default();
    let at_hand = |id: u32| Err(Error::image(format!("file {id}"), "it is not there"));
    let networks = Networks::default();
    let others = Others { queues, outside: &outside, at_hand: &at_hand, networks: &networks };
    open(&entries.iter().collect::<Vec<_>>(), &others, &approver())
}

#[test]
fn an_accepted_connection_has_its_listeners_name() {
    let dir = tempfile::tempdir().unwrap();
    let directory = Some(dir.path().as_os_str().as_bytes().to_vec());
    let named = |entry: UnixSkEntry| UnixSkEntry { name_dir: directory.clone(), ..entry };
    std::fs::write(dir.path().join("other"), "x").unwrap();
    let entries = [
        socket(1, SK_ESTABLISHED, 2, b""),
        named(socket(2, SK_ESTABLISHED, 1, b"s\0")),
        named(socket(3, SK_LISTEN, 0, b"s\0")),
        socket(4, SK_CLOSE, 0, b""),
        socket(5, SK_ESTABLISHED, 3, b""),
    ];
    let queues = Queues::from([(102, vec![plain(b"to the server")])]);
    let made = make(&entries, &queues).unwrap();
    assert_eq!(sockets::local_address(&made[1]).unwrap().data(), b"s\0");
    let server = UnixStream::from(made[1].try_clone().unwrap());
    let mut bytes = [0; 13];
    (&server).read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"to the server");
    sockets::accept(&made[2]).unwrap();
    UnixStream::connect(dir.path().join("s")).unwrap();
    assert_eq!(sockets::option(&made[0], libc::SOL_SOCKET, libc::SO_SNDBUF).unwrap(), 212_992);
}

#[test]
fn half_closed_connections_keep_their_last_words() {
    let half = UnixSkEntry { shutdown: Some(2), ..socket(1, SK_ESTABLISHED, 2, b"") };
    let other = UnixSkEntry { shutdown: Some(1), ..socket(2, SK_ESTABLISHED, 1, b"") };
    let gone = UnixSkEntry { shutdown: Some(3), ..socket(3, SK_ESTABLISHED, 0, b"") };
    let queues = Queues::from([(102, vec![plain(b"bye")]), (103, vec![plain(b"last")])]);
    let mut made = make(&[half, other, gone], &queues).unwrap().into_iter();
    let _half = made.next().unwrap();
    for expected in ["bye", "last"] {
        let mut text = String::new();
        UnixStream::from(made.next().unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, expected);
    }
}

#[test]
fn what_is_in_the_way_is_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    std::fs::write(&path, "precious").unwrap();
    let mut name = path.as_os_str().as_bytes().to_vec();
    name.push(0);
    let entry = socket(1, SK_LISTEN, 0, &name);
    assert!(make(std::slice::from_ref(&entry), &Queues::new()).is_err());
    let deleted = UnixSkEntry { deleted: Some(true), ..entry.clone() };
    let made = make(&[deleted], &Queues::new()).unwrap();
    assert_eq!(sockets::local_address(&made[0]).unwrap().data(), name);
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    std::fs::remove_file(&path).unwrap();
    drop(make(std::slice::from_ref(&entry), &Queues::new()).unwrap());
    make(&[entry], &Queues::new()).unwrap();
}

#[test]
fn datagrams_to_a_name_and_between_two() {
    let kind = libc::SOCK_DGRAM.cast_unsigned();
    let of = |entry: UnixSkEntry| UnixSkEntry { r#type: kind, ..entry };
    let name = format!("\0stasis-test-{}", std::process::id());
    let entries = [
        of(socket(1, SK_CLOSE, 0, name.as_bytes())),
        of(socket(2, SK_ESTABLISHED, 1, b"")),
        of(socket(3, SK_ESTABLISHED, 4, b"")),
        of(socket(4, SK_ESTABLISHED, 3, b"")),
    ];
    let queues =
        Queues::from([(101, vec![plain(b"one"), plain(b"three")]), (104, vec![plain(b"x")])]);
    let made = make(&entries, &queues).unwrap();
    let receive = |index: usize| {
        let mut bytes = [0; 16];
        let count = nix::unistd::read(&made[index], &mut bytes).unwrap();
        bytes[..count].to_vec()
    };
    assert_eq!((receive(0), receive(0), receive(3)), (b"one".into(), b"three".into(), b"x".into()));
    nix::unistd::write(&made[1], b"log").unwrap();
    assert_eq!(receive(0), b"log");
}
