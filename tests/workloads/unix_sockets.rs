//! Unix sockets: pairs, listeners, connections, each with what is queued in them.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair, sockopt};
use nix::sys::socket::{getsockopt, setsockopt};

use crate::stage::{Findings, Outcome, Stage, pattern};

fn pair(kind: SockType) -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, kind, None, SockFlag::empty()).expect("socketpair")
}

/// A user's sockets whose names have gone with their directories.
pub(crate) fn of_user(stage: &Stage) -> Outcome {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(stage.dir(), PermissionsExt::from_mode(0o777)).expect("chmod");
    let user = nix::unistd::Uid::from_raw(1234);
    nix::unistd::setresuid(user, user, user).expect("setresuid");
    let gone = stage.path("gone");
    std::fs::create_dir_all(gone.join("inner")).expect("mkdir");
    let names = ["inner/one", "inner/two", "three"].map(|name| gone.join(name));
    let sockets = names.each_ref().map(|name| UnixListener::bind(name).expect("bind"));
    std::fs::remove_dir_all(&gone).expect("remove");
    stage.ready_then_wait();
    let mut found = Findings::default();
    for (socket, name) in sockets.iter().zip(&names) {
        let address = socket.local_addr().ok();
        let address = address.as_ref().and_then(|address| address.as_pathname());
        found.same("its name", &Some(&**name), &address);
    }
    found.must("nothing is there", !gone.exists());
    found.outcome()
}

fn options(socket: impl AsFd) -> (usize, usize, bool) {
    (
        getsockopt(&socket, sockopt::SndBuf).expect("SO_SNDBUF"),
        getsockopt(&socket, sockopt::RcvBuf).expect("SO_RCVBUF"),
        getsockopt(&socket, sockopt::PassCred).expect("SO_PASSCRED"),
    )
}

fn receives(found: &mut Findings, what: &str, from: &mut impl Read, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    found.works(what, from.read_exact(&mut bytes));
    found.must(what, bytes == expected);
}

fn stream_pair(found: &mut Findings, (a, b): &mut (UnixStream, UnixStream)) {
    receives(found, "stream pair: queued for the first", a, b"to a");
    receives(found, "stream pair: queued for the second", b, &pattern(61, 50_000));
    found.works("stream pair: write", a.write_all(b"later"));
    receives(found, "stream pair: goes on", b, b"later");
}

fn datagrams(found: &mut Findings, a: &UnixDatagram, b: &UnixDatagram) {
    let mut bytes = [0; 64];
    for expected in [b"one".as_slice(), b"second"] {
        let got = b.recv(&mut bytes).ok().map(|len| bytes[..len].to_vec());
        found.same("datagram", &Some(expected.to_vec()), &got);
    }
    found.works("send a datagram", b.send(b"back"));
    found.same("datagram back", &Some(4), &a.recv(&mut bytes).ok());
}

/// A server with one accepted connection, data under way in both directions.
struct Server {
    listener: UnixListener,
    client: UnixStream,
    accepted: UnixStream,
}

impl Server {
    fn new(address: &std::os::unix::net::SocketAddr) -> Self {
        let listener = UnixListener::bind_addr(address).expect("bind");
        let mut client = UnixStream::connect_addr(address).expect("connect");
        let (mut accepted, _) = listener.accept().expect("accept");
        client.write_all(b"request").expect("write");
        accepted.write_all(&pattern(62, 10_000)).expect("write");
        Self { listener, client, accepted }
    }

    fn verify(mut self, found: &mut Findings, address: &std::os::unix::net::SocketAddr) {
        receives(found, "request", &mut self.accepted, b"request");
        receives(found, "reply", &mut self.client, &pattern(62, 10_000));
        drop(self.client);
        let mut rest = Vec::new();
        found.works("end of the connection", self.accepted.read_to_end(&mut rest));
        let client = found.works("connect anew", UnixStream::connect_addr(address));
        found.works("do not wait", self.listener.set_nonblocking(true));
        let accepted = found.works("accept anew", self.listener.accept());
        if let (Some(mut client), Some((mut accepted, _))) = (client, accepted) {
            found.works("write anew", client.write_all(b"new"));
            receives(found, "new connection", &mut accepted, b"new");
        }
    }
}

/// Receivers that had the same name in turn, in a directory that has gone, each with a sender.
fn namesakes(stage: &Stage) -> [(UnixDatagram, UnixDatagram); 2] {
    let directory = stage.path("passing");
    std::fs::create_dir(&directory).expect("mkdir");
    let name = directory.join("name");
    let made = [(); 2].map(|()| {
        let receiver = UnixDatagram::bind(&name).expect("bind");
        receiver.set_nonblocking(true).expect("do not wait");
        let sender = UnixDatagram::unbound().expect("socket");
        sender.connect(&name).expect("connect");
        std::fs::remove_file(&name).expect("unlink");
        (receiver, sender)
    });
    std::fs::remove_dir(&directory).expect("rmdir");
    made
}

/// A receiver whose name has been unlinked, and another that has the name now, each with a sender
/// and something to read.
fn successors(stage: &Stage) -> [(UnixDatagram, UnixDatagram); 2] {
    let name = stage.path("successor");
    [0, 1].map(|nth| {
        if nth == 1 {
            std::fs::remove_file(&name).expect("unlink");
        }
        let receiver = UnixDatagram::bind(&name).expect("bind");
        receiver.set_nonblocking(true).expect("do not wait");
        let sender = UnixDatagram::unbound().expect("socket");
        sender.connect(&name).expect("connect");
        sender.send(&[b"first", b"other"][nth][..]).expect("send");
        (receiver, sender)
    })
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;

    let mut streams = UnixStream::pair().expect("pair");
    streams.0.write_all(&pattern(61, 50_000)).expect("write");
    streams.1.write_all(b"to a").expect("write");
    streams.0.set_read_timeout(Some(Duration::from_secs(3))).expect("timeout");
    // Where nothing is queued: a queued message would carry its sender's credentials.
    let quiet = UnixStream::pair().expect("pair");
    setsockopt(&quiet.0, sockopt::PassCred, &true).expect("SO_PASSCRED");
    setsockopt(&streams.1, sockopt::SndBuf, &100_000).expect("SO_SNDBUF");
    let half = UnixStream::pair().expect("pair");
    (&half.0).write_all(b"bye").expect("write");
    half.0.shutdown(std::net::Shutdown::Write).expect("shutdown");
    let (a, b) = UnixDatagram::pair().expect("pair");
    b.set_read_timeout(Some(Duration::from_secs(3))).expect("timeout");
    for text in [b"one".as_slice(), b"second"] {
        a.send(text).expect("send");
    }
    let (first, second) = pair(SockType::SeqPacket);
    nix::unistd::write(&first, b"record 1").expect("write");
    nix::unistd::write(&first, b"2").expect("write");
    let path = SocketAddr::from_pathname(stage.path("socket")).expect("address");
    let name = format!("stasis-workload-{}", std::process::id());
    let name = SocketAddr::from_abstract_name(name).expect("address");
    let servers = [&path, &name].map(Server::new);
    let bound = UnixDatagram::bind(stage.path("datagrams")).expect("bind");
    let sender = UnixDatagram::unbound().expect("socket");
    sender.connect(stage.path("datagrams")).expect("connect");
    sender.send(b"queued").expect("send");
    // What was sent by one that has gone since.
    let (orphan, gone) = UnixDatagram::pair().expect("pair");
    gone.send(b"last words").expect("send");
    drop(gone);
    let namesakes = namesakes(stage);
    let successors = successors(stage);
    let before = [&streams.0, &streams.1, &quiet.0, &quiet.1].map(options);
    let number = streams.0.as_raw_fd();

    stage.ready_then_wait();

    let mut found = Findings::default();
    let after = [&streams.0, &streams.1, &quiet.0, &quiet.1].map(options);
    found.same("options", &before, &after);
    found.same("number", &number, &streams.0.as_raw_fd());
    let timeout = streams.0.read_timeout().ok().flatten();
    found.same("receive timeout", &Some(Duration::from_secs(3)), &timeout);
    stream_pair(&mut found, &mut streams);
    let mut words = String::new();
    found.works("half-closed stream ends", (&half.1).read_to_string(&mut words));
    found.same("half-closed stream", &"bye", &words.as_str());
    found.works("its other direction", (&half.1).write_all(b"still"));
    receives(&mut found, "its other direction", &mut (&half.0), b"still");
    datagrams(&mut found, &a, &b);
    let mut record = [0; 64];
    found.same("record", &Ok(8), &nix::unistd::read(&second, &mut record));
    found.same("record", &Ok(1), &nix::unistd::read(&second, &mut record));
    for (server, address) in servers.into_iter().zip([&path, &name]) {
        server.verify(&mut found, address);
    }
    found.same("queued datagram", &Some(6), &bound.recv(&mut record).ok());
    found.works("send to the name", sender.send(b"more"));
    found.same("next datagram", &Some(4), &bound.recv(&mut record).ok());
    found.same("from one that has gone", &Some(10), &orphan.recv(&mut record).ok());
    found.must("nobody is there to send to", orphan.send(b"back").is_err());
    for ((receiver, _), expected) in successors.iter().zip([b"first", b"other"]) {
        let count = receiver.recv(&mut record).ok();
        found.same("queued for its own name", &Some(&expected[..]), &count.map(|n| &record[..n]));
    }
    for (receiver, sender) in namesakes.iter().chain(&successors) {
        found.works("send to a name that has gone", sender.send(b"still"));
        found.same("receive by it", &Some(5), &receiver.recv(&mut record).ok());
    }
    found.outcome()
}
