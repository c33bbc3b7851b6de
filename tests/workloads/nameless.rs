//! What belongs to things without a name: owner and mode of sockets and pipes.

use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket, socketpair};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::{Gid, Uid, fchown, pipe};

use crate::stage::{Findings, Outcome, Stage};

/// Gives away what is open: to user 1000 and group 1001, who may read and write.
fn give_away(file: &impl AsFd) {
    fchown(file, Some(Uid::from_raw(1000)), Some(Gid::from_raw(1001))).expect("chown");
    fchmod(file, Mode::from_bits_truncate(0o660)).expect("chmod");
}

fn owner(file: &impl AsFd) -> (u32, u32, u32) {
    let stat = fstat(file).expect("stat");
    (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777)
}

fn open(family: AddressFamily, kind: SockType) -> OwnedFd {
    socket(family, kind, SockFlag::empty(), None).expect("socket")
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let (reader, writer) = pipe().expect("pipe");
    let unix = SockFlag::empty();
    let (one, other) = socketpair(AddressFamily::Unix, SockType::Stream, None, unix).expect("pair");
    let files = [
        ("pipe", reader),
        ("one of a pair", one),
        ("TCP", open(AddressFamily::Inet, SockType::Stream)),
        ("UDP", open(AddressFamily::Inet6, SockType::Datagram)),
        ("Unix", open(AddressFamily::Unix, SockType::Datagram)),
    ];
    for (_, file) in &files {
        give_away(file);
    }
    let usual = owner(&other);
    stage.ready_then_wait();
    let mut found = Findings::default();
    for (what, file) in &files {
        found.same(what, &(1000, 1001, 0o660), &owner(file));
    }
    found.same("the other end of the pipe", &(1000, 1001, 0o660), &owner(&writer));
    found.same("the other of the pair", &usual, &owner(&other));
    found.outcome()
}
