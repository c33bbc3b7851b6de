//! Descriptors on their way in messages (`SCM_RIGHTS`): of pipes, files, sockets with messages of their own,
//! epolls and connections, with and without another descriptor for the same open file.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};

use nix::cmsg_space;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use nix::sys::socket::sockopt::PassCred;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
    UnixCredentials, recvmsg, sendmsg, setsockopt, socketpair,
};
use nix::unistd::{getgid, getuid};

use crate::stage::{Findings, Outcome, Stage};

type Pair = (OwnedFd, OwnedFd);

fn pair(kind: SockType) -> Pair {
    socketpair(AddressFamily::Unix, kind, None, SockFlag::empty()).expect("socketpair")
}

fn send(by: impl AsFd, bytes: &[u8], files: &[&dyn AsRawFd]) {
    let numbers: Vec<RawFd> = files.iter().map(|file| file.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let with = if numbers.is_empty() { &rights[..0] } else { &rights[..] };
    let by = by.as_fd().as_raw_fd();
    sendmsg::<()>(by, &[IoSlice::new(bytes)], with, MsgFlags::empty(), None).expect("send");
}

/// What one call received.
#[derive(Debug, Default)]
struct Received {
    bytes: Vec<u8>,
    files: Vec<OwnedFd>,
    sender: Option<UnixCredentials>,
}

fn receive(by: impl AsFd, most: usize) -> Received {
    let mut buffer = vec![0; most];
    let mut received = Received::default();
    let mut space = cmsg_space!([RawFd; 16], UnixCredentials);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let by = by.as_fd().as_raw_fd();
    let flags = MsgFlags::MSG_DONTWAIT;
    let Ok(message) = recvmsg::<()>(by, &mut parts, Some(&mut space), flags) else {
        return received;
    };
    for part in message.cmsgs().into_iter().flatten() {
        match part {
            ControlMessageOwned::ScmRights(numbers) => {
                // SAFETY: the kernel has just made these descriptors for us; nobody else owns them.
                let files = numbers.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
                received.files.extend(files);
            }
            ControlMessageOwned::ScmCredentials(sender) => received.sender = Some(sender),
            _ => {}
        }
    }
    let count = message.bytes;
    received.bytes = buffer[..count].to_vec();
    received
}

/// The only file of a message.
fn one(found: &mut Findings, what: &str, by: impl AsFd) -> Option<OwnedFd> {
    let mut received = receive(by, 64);
    found.same(what, &1, &received.files.len());
    received.files.pop()
}

fn reads(found: &mut Findings, what: &str, from: OwnedFd, expected: &[u8]) {
    let mut bytes = vec![0; expected.len() + 1];
    let count = File::from(from).read(&mut bytes).unwrap_or(0);
    found.same(what, &expected, &&bytes[..count]);
}

/// Ends of a pipe with something in it, which nobody has but the messages.
fn pipes(kind: SockType) -> Pair {
    let channel = pair(kind);
    let (read, write) = nix::unistd::pipe().expect("pipe");
    nix::unistd::write(&write, b"in the pipe").expect("write");
    send(&channel.0, b"before", &[]);
    send(&channel.0, b"read", &[&read]);
    send(&channel.0, b"both", &[&read, &write]);
    send(&channel.0, b"after", &[]);
    channel
}

fn check_pipes(found: &mut Findings, channel: &Pair, kind: SockType) {
    let what = format!("{kind:?}");
    // Fewer bytes than there are before the descriptors bring none.
    let most = if kind == SockType::Stream { 3 } else { 64 };
    let before = receive(&channel.1, most);
    found.same(&what, &0, &before.files.len());
    if kind == SockType::Stream {
        found.same(&what, &&b"bef"[..], &&before.bytes[..]);
        let rest = receive(&channel.1, 3);
        found.same(&what, &(&b"ore"[..], 0), &(&rest.bytes[..], rest.files.len()));
    }
    let mut read = receive(&channel.1, 64);
    found.same(&what, &(&b"read"[..], 1), &(&read.bytes[..], read.files.len()));
    let mut both = receive(&channel.1, 64);
    found.same(&what, &(&b"both"[..], 2), &(&both.bytes[..], both.files.len()));
    found.same(&what, &&b"after"[..], &&receive(&channel.1, 64).bytes[..]);
    if let (Some(read), Some(write), Some(_)) =
        (read.files.pop(), both.files.pop(), both.files.pop())
    {
        found.works("write to the pipe", nix::unistd::write(&write, b" and more"));
        reads(found, &what, read, b"in the pipe and more");
    }
}

/// A socket that brings a socket that brings a file, and all but the first have been closed.
fn nested(file: &File) -> Pair {
    let outer = pair(SockType::Datagram);
    let middle = pair(SockType::Stream);
    let inner = pair(SockType::SeqPacket);
    send(&inner.0, b"file", &[file]);
    send(&middle.0, b"socket", &[&inner.1]);
    send(&middle.0, b"its peer", &[&inner.0]);
    send(&outer.0, b"socket", &[&middle.1]);
    outer
}

fn check_nested(found: &mut Findings, outer: &Pair, file: &mut File) {
    let Some(middle) = one(found, "the middle socket", &outer.1) else { return };
    let Some(inner) = one(found, "the inner socket", &middle) else { return };
    let peer = one(found, "its peer", &middle);
    let Some(sent) = one(found, "the file", &inner) else { return };
    let mut sent = File::from(sent);
    // They are one open file: they share a position.
    found.works("seek", file.seek(SeekFrom::Start(4)));
    let mut rest = String::new();
    found.works("read", sent.read_to_string(&mut rest));
    found.same("the file", &"ents", &rest.as_str());
    if let Some(peer) = peer {
        found.works("the peer sends", nix::unistd::write(&peer, b"x"));
        found.same("the peer's message", &1, &receive(&inner, 8).bytes.len());
    }
}

/// An epoll that only messages have, twice; it watches the socket that receives it.
fn watched() -> Pair {
    let channel = pair(SockType::Datagram);
    let epoll = Epoll::new(EpollCreateFlags::empty()).expect("epoll");
    epoll.add(&channel.1, EpollEvent::new(EpollFlags::EPOLLIN, 7)).expect("add");
    send(&channel.0, b"epoll", &[&epoll.0]);
    send(&channel.0, b"epoll", &[&epoll.0]);
    channel
}

fn check_watched(found: &mut Findings, channel: &Pair) {
    let Some(first) = one(found, "an epoll", &channel.1) else { return };
    let mut events = [EpollEvent::empty()];
    let ready = Epoll(first).wait(&mut events, EpollTimeout::ZERO);
    found.same("events", &Ok(1), &ready);
    found.same("which", &7, &events[0].data());
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let kinds = [SockType::Stream, SockType::Datagram, SockType::SeqPacket];
    let channels = kinds.map(pipes);
    std::fs::write(stage.path("file"), "contents").expect("write");
    let mut file = File::open(stage.path("file")).expect("open");
    let outer = nested(&file);
    let watched = watched();
    // The sender has gone, and the descriptor is kept as well.
    let event = EventFd::from_value(5).expect("eventfd");
    let (gone, receiver) = pair(SockType::Stream);
    send(&gone, b"event", &[&event, &event]);
    drop(gone);
    // A socket in its own queue.
    let own = pair(SockType::Stream);
    send(&own.0, b"itself", &[&own.1]);
    // An accepted connection, and its listener.
    let listener = UnixListener::bind(stage.path("listener")).expect("bind");
    let mut client = UnixStream::connect(stage.path("listener")).expect("connect");
    let (accepted, _) = listener.accept().expect("accept");
    let served = pair(SockType::SeqPacket);
    send(&served.0, b"connection", &[&accepted]);
    send(&served.0, b"listener", &[&listener]);
    drop((accepted, listener));

    stage.ready_then_wait();

    let mut found = Findings::default();
    for (channel, kind) in channels.iter().zip(kinds) {
        check_pipes(&mut found, channel, kind);
    }
    check_nested(&mut found, &outer, &mut file);
    check_watched(&mut found, &watched);
    let both = receive(&receiver, 64);
    found.same("the sender has gone", &(&b"event"[..], 2), &(&both.bytes[..], both.files.len()));
    let mut count = [0; 8];
    for sent in both.files {
        found.works("count", event.write(1));
        found.works("read", File::from(sent).read(&mut count));
    }
    found.same("the counts", &1, &u64::from_ne_bytes(count));
    let itself = one(&mut found, "itself", &own.1);
    found.works("write", nix::unistd::write(&own.0, b"again"));
    if let Some(itself) = itself {
        reads(&mut found, "itself", itself, b"again");
    }
    let connection = one(&mut found, "a connection", &served.1);
    if let Some(connection) = connection {
        found.works("write", client.write_all(b"request"));
        reads(&mut found, "the connection", connection, b"request");
    }
    if let Some(listener) = one(&mut found, "a listener", &served.1) {
        let client = UnixStream::connect(stage.path("listener"));
        found.works("connect again", client);
        found.works("accept", UnixListener::from(listener).accept());
    }
    found.outcome()
}

/// What CRIU carries, too.
pub(crate) fn plain(stage: &Stage) -> Outcome {
    let kinds = [SockType::Datagram, SockType::SeqPacket];
    let channels = kinds.map(pipes);
    let watched = watched();
    let event = EventFd::from_value(5).expect("eventfd");
    let (sender, receiver) = pair(SockType::Stream);
    send(&sender, b"event", &[&event, &event]);

    stage.ready_then_wait();

    let mut found = Findings::default();
    for (channel, kind) in channels.iter().zip(kinds) {
        check_pipes(&mut found, channel, kind);
    }
    check_watched(&mut found, &watched);
    let both = receive(&receiver, 64);
    found.same("events", &(&b"event"[..], 2), &(&both.bytes[..], both.files.len()));
    found.same("count", &Ok(5), &event.read());
    drop(sender);
    found.outcome()
}

/// A receiver of datagrams from others that have names, of which two have gone.
struct Named {
    receiver: UnixDatagram,
    there: UnixDatagram,
}

impl Named {
    fn new(stage: &Stage) -> Self {
        let receiver = UnixDatagram::bind(stage.path("receiver")).expect("bind");
        let there = UnixDatagram::bind(stage.path("there")).expect("bind");
        let gone = UnixDatagram::bind(stage.path("gone")).expect("bind");
        std::fs::remove_file(stage.path("gone")).expect("unlink");
        let hidden = UnixDatagram::bind_addr(&Self::hidden(stage)).expect("bind");
        let nameless = UnixDatagram::unbound().expect("socket");
        for sender in [&there, &gone, &hidden, &nameless, &there] {
            sender.send_to(b"hello", stage.path("receiver")).expect("send");
        }
        receiver.set_nonblocking(true).expect("do not wait");
        Self { receiver, there }
    }

    fn hidden(stage: &Stage) -> SocketAddr {
        let name = stage.path("hidden");
        SocketAddr::from_abstract_name(name.as_os_str().as_bytes()).expect("a name")
    }

    fn check(&self, found: &mut Findings, stage: &Stage) {
        let mut bytes = [0; 8];
        let mut answers = 0;
        let path = |name: &str| SocketAddr::from_pathname(stage.path(name)).expect("a path");
        let (there, gone, hidden) = (path("there"), path("gone"), Self::hidden(stage));
        for expected in [Some(&there), Some(&gone), Some(&hidden), None, Some(&there)] {
            let received = found.works("receive", self.receiver.recv_from(&mut bytes));
            let Some((count, from)) = received else { continue };
            found.same("what was sent", &&b"hello"[..], &&bytes[..count]);
            let is_named = from.as_pathname().is_some() || from.as_abstract_name().is_some();
            let sender = is_named.then_some(&from);
            found.same("its sender", &format!("{expected:?}"), &format!("{sender:?}"));
            answers += usize::from(self.receiver.send_to_addr(b"answer", &from).is_ok());
        }
        found.same("answers", &2, &answers);
        found.same("an answer", &Some(6), &self.there.recv(&mut bytes).ok());
        found.must("what has gone is gone", !stage.path("gone").exists());
    }
}

/// Messages that say who sent them.
pub(crate) fn credentials(stage: &Stage) -> Outcome {
    let kinds = [SockType::Stream, SockType::Datagram, SockType::SeqPacket];
    let channels = kinds.map(pair);
    let (read, write) = nix::unistd::pipe().expect("pipe");
    let named = Named::new(stage);
    for channel in &channels {
        send(&channel.0, b"unsaid", &[]);
        setsockopt(&channel.1, PassCred, &true).expect("SO_PASSCRED");
        send(&channel.0, b"said", &[]);
        send(&channel.0, b"with", &[&read]);
    }
    drop(read);

    stage.ready_then_wait();

    let mut found = Findings::default();
    let own = (nix::unistd::getpid().as_raw(), getuid().as_raw(), getgid().as_raw());
    for (channel, kind) in channels.iter().zip(kinds) {
        for (text, files, is_said) in [("unsaid", 0, false), ("said", 0, true), ("with", 1, true)] {
            let what = format!("{kind:?}, {text}");
            let received = receive(&channel.1, text.len());
            found.same(&what, &text.as_bytes(), &&received.bytes[..]);
            found.same(&what, &files, &received.files.len());
            let sender = received.sender.map(|it| (it.pid(), it.uid(), it.gid()));
            found.same(&what, &is_said, &(sender == Some(own)));
        }
    }
    drop(write);
    named.check(&mut found, stage);
    found.outcome()
}
