//! Unix sockets that are connected to a program outside of the tree, by a path, by an abstract name, and by a
//! stream.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};

use crate::stage::{Findings, Outcome, Stage};

fn said(found: &mut Findings, stage: &Stage, text: &str, logs: &[UnixDatagram]) {
    for log in logs {
        let line = format!("{}: {text}", stage.dir().display());
        found.works("tell the log", log.send(line.as_bytes()));
    }
}

/// Sends datagrams to a path and to an abstract name.
pub(crate) fn datagrams(stage: &Stage) -> Outcome {
    let mut found = Findings::default();
    let named = UnixDatagram::bind(stage.path("named")).expect("bind");
    named.connect(stage.path("syslog")).expect("connect to a path");
    let other = UnixDatagram::unbound().expect("socket");
    other.connect(stage.path("syslog")).expect("connect to a path");
    let hidden = UnixDatagram::unbound().expect("socket");
    let name = SocketAddr::from_abstract_name(stage.path("syslog").as_os_str().as_bytes());
    hidden.connect_addr(&name.expect("a name")).expect("connect to an abstract name");
    let logs = [named, other, hidden];
    said(&mut found, stage, "before", &logs);
    stage.ready_then_wait();
    said(&mut found, stage, "after", &logs);
    let mut answer = [0; 64];
    logs[0].set_nonblocking(true).expect("do not wait");
    found.same("what was answered", &Ok(6), &logs[0].recv(&mut answer).map_err(|it| it.kind()));
    found.outcome()
}

/// Has a stream to a listener.
pub(crate) fn stream(stage: &Stage) -> Outcome {
    let mut found = Findings::default();
    let mut stream = UnixStream::connect(stage.path("listener")).expect("connect");
    stream.write_all(b"before").expect("write");
    let link = format!("/proc/self/fd/{}", stream.as_raw_fd());
    stage.publish("inode", &std::fs::metadata(link).expect("stat").ino().to_string());
    stage.ready_then_wait();
    found.works("write", stream.write_all(b"after"));
    found.outcome()
}

/// Has a stream that a program outside has connected to it, and to which nobody could connect again.
pub(crate) fn client(stage: &Stage) -> Outcome {
    let mut found = Findings::default();
    let listener = UnixListener::bind(stage.path("service")).expect("bind");
    stage.publish("listens", "");
    let (mut stream, _) = listener.accept().expect("accept");
    drop(listener);
    stream.write_all(b"before").expect("write");
    let link = format!("/proc/self/fd/{}", stream.as_raw_fd());
    stage.publish("inode", &std::fs::metadata(link).expect("stat").ino().to_string());
    stage.ready_then_wait();
    found.works("write", stream.write_all(b"after"));
    let mut answer = [0; 6];
    found.works("read", stream.read_exact(&mut answer));
    found.same("what was answered", b"answer", &answer);
    found.outcome()
}
