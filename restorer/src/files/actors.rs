//! Who made, connected and listened to Unix sockets.
//!
//! A Unix socket tells the process and the ids of who is at its other end (`SO_PEERCRED`): those of who
//! called socketpair(2), connect(2) or listen(2), as they were then. Programs decide by them what a client
//! may do, so a restore must not make them its own, which are root's. Such a call is therefore made by an
//! *actor*: a copy of the coordinator with the number and the ids of who made it first. It ends before the
//! task is born that is to have that number. The kernel goes on to tell the number of a process that has
//! ended; what it does not is lead to it (`SO_PEERPIDFD`).
//!
//! Where the number is taken (that of a process which ended long ago may be somebody else's by now), an
//! actor with another number does, for the ids count more.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use images::messages::PeerCredentials;
use kernel::pidfd::PidFd;
use kernel::process::{Fork, exit_now, fork_any, fork_as, send_signal, wait_status};
use kernel::sockets::create_pair;
use nix::sys::socket::{MsgFlags, recv, send};
use nix::unistd::{Gid, Uid, getppid, setfsuid, setgroups, setresgid, setresuid};

/// Runs `work` as somebody; as ourselves where the images do not say who it was.
pub(super) fn act(
    who: Option<&PeerCredentials>,
    work: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let Some(who) = who else { return work() };
    let pid = match fork(who)? {
        0 => exit_now(match become_actor(who).and_then(|()| work()) {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
        }),
        pid => pid,
    };
    let status = wait_status(pid)?;
    match (libc::WIFEXITED(status), libc::WEXITSTATUS(status)) {
        (true, 0) => Ok(()),
        (true, errno) => Err(io::Error::from_raw_os_error(errno)),
        (false, _) => Err(io::Error::other("the process that was to do it has been killed")),
    }
}

/// The number of the child; 0 in it.
fn fork(who: &PeerCredentials) -> io::Result<i32> {
    let wanted = who.pid.cast_signed();
    if wanted > 0 {
        match fork_as(wanted, false) {
            Ok(Fork::Child) => return Ok(0),
            Ok(Fork::Parent) => return Ok(wanted),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            // There may be no such number here.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(error),
        }
    }
    fork_any()
}

/// Takes on the ids of somebody, and stays able to reach what we have opened.
fn become_actor(who: &PeerCredentials) -> io::Result<()> {
    let groups: Vec<Gid> = who.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups)?;
    let (keep_user, keep_group) = (Uid::from_raw(u32::MAX), Gid::from_raw(u32::MAX));
    setresgid(keep_group, Gid::from_raw(who.gid), keep_group)?;
    setresuid(keep_user, Uid::from_raw(who.uid), keep_user)?;
    // Files are looked up with our own rights: which they are has been judged.
    setfsuid(Uid::from_raw(0));
    Ok(())
}

/// Makes connected pairs, as whoever made them.
#[derive(Debug, Default)]
pub(super) struct PairMaker {
    actor: Option<Actor>,
}

#[derive(Debug)]
struct Actor {
    who: PeerCredentials,
    process: PidFd,
    channel: OwnedFd,
}

impl PairMaker {
    /// A pair of sockets of a type (`SOCK_*`).
    pub(super) fn pair(
        &mut self,
        who: Option<&PeerCredentials>,
        kind: i32,
    ) -> io::Result<(OwnedFd, OwnedFd)> {
        let Some(who) = who else { return create_pair(kind) };
        let actor = match self.actor.take().filter(|actor| actor.who == *who) {
            Some(actor) => self.actor.insert(actor),
            None => self.actor.insert(Actor::start(who)?),
        };
        actor.pair(kind)
    }
}

impl Actor {
    fn start(who: &PeerCredentials) -> io::Result<Self> {
        let (channel, theirs) = create_pair(libc::SOCK_SEQPACKET)?;
        let maker = std::process::id().cast_signed();
        match fork(who)? {
            0 => {
                drop(channel);
                make_pairs(who, &theirs, maker)
            }
            pid => Ok(Self { who: who.clone(), process: PidFd::open(pid)?, channel }),
        }
    }

    fn pair(&self, kind: i32) -> io::Result<(OwnedFd, OwnedFd)> {
        send(self.channel.as_raw_fd(), &kind.to_ne_bytes(), MsgFlags::MSG_NOSIGNAL)?;
        let mut answer = [0; 12];
        if recv(self.channel.as_raw_fd(), &mut answer, MsgFlags::empty())? != answer.len() {
            return Err(io::Error::other("the process that was to make it has ended"));
        }
        let [errno, one, other] = [0, 4, 8].map(|at| {
            let word = answer.get(at..).and_then(|rest| rest.first_chunk());
            word.map_or(libc::EIO, |word| i32::from_ne_bytes(*word))
        });
        if errno != 0 {
            return Err(io::Error::from_raw_os_error(errno));
        }
        Ok((self.process.get(one)?, self.process.get(other)?))
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // It may have been ended by others, and is waited for all the same.
        drop(send_signal(self.process.pid(), libc::SIGKILL));
        drop(wait_status(self.process.pid()));
    }
}

/// The life of an actor that makes pairs: it ends with its maker at the latest.
fn make_pairs(who: &PeerCredentials, channel: &OwnedFd, maker: i32) -> ! {
    let become_it = || {
        become_actor(who)?;
        // The kernel forgets this at a change of ids.
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
        // The maker fetches what is made here.
        nix::sys::prctl::set_dumpable(true)?;
        Ok::<_, io::Error>(getppid().as_raw() == maker)
    };
    if !become_it().unwrap_or(false) {
        exit_now(1);
    }
    let mut kind = [0; 4];
    // Until the next is asked for, the last is open: it is fetched meanwhile.
    let mut last;
    loop {
        match recv(channel.as_raw_fd(), &mut kind, MsgFlags::empty()) {
            Ok(4) => {}
            _ => exit_now(0),
        }
        last = create_pair(i32::from_ne_bytes(kind));
        let numbers = match &last {
            Ok((one, other)) => [0, one.as_raw_fd(), other.as_raw_fd()],
            Err(error) => [error.raw_os_error().unwrap_or(libc::EIO), 0, 0],
        };
        let answer: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
        if send(channel.as_raw_fd(), &answer, MsgFlags::MSG_NOSIGNAL).is_err() {
            exit_now(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::sockets::{Address, bind, connect, create, listen, peer_credentials};

    /// A number that nobody has.
    fn free_number() -> u32 {
        let free = (1..30_000).rev().find(|id| !kernel::process::exists(*id));
        free.unwrap().cast_unsigned()
    }

    fn who(uid: u32) -> PeerCredentials {
        PeerCredentials { pid: free_number(), uid, gid: uid + 1, groups: vec![7, 8] }
    }

    fn seen(socket: &OwnedFd) -> PeerCredentials {
        let peer = peer_credentials(socket).unwrap().unwrap();
        PeerCredentials { pid: peer.pid, uid: peer.uid, gid: peer.gid, groups: peer.groups }
    }

    #[test]
    fn pairs_tell_who_made_them() {
        let mut maker = PairMaker::default();
        for who in [who(1000), who(0)] {
            for _ in 0..3 {
                let (a, b) = maker.pair(Some(&who), libc::SOCK_STREAM).unwrap();
                assert_eq!((seen(&a), seen(&b)), (who.clone(), who.clone()));
            }
        }
        drop(maker);
    }

    #[test]
    fn connections_tell_who_is_at_the_other_end() {
        let name = format!("\0stasis-actors-{}", std::process::id());
        let address = Address::new(libc::AF_UNIX as u16, name.as_bytes()).unwrap();
        let make = || create(libc::AF_UNIX, libc::SOCK_STREAM, 0).unwrap();
        let (server, client) = (make(), make());
        bind(&server, &address).unwrap();
        let (listens, connects) = (who(1000), PeerCredentials { pid: 1, ..who(2000) });
        act(Some(&listens), || listen(&server, 3)).unwrap();
        act(Some(&connects), || connect(&client, &address)).unwrap();
        assert_eq!(seen(&client), listens);
        let accepted = kernel::sockets::accept(&server).unwrap();
        // Number 1 is taken.
        let told = seen(&accepted);
        assert_eq!((told.uid, told.gid, &told.groups), (2000, 2001, &connects.groups));
        let failed = act(Some(&listens), || connect(&server, &address));
        assert!(failed.is_err());
    }
}
