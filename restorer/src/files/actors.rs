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
use std::os::fd::OwnedFd;

use ids::HostPid;
use images::messages::PeerCredentials;
use kernel::passing;
use kernel::process::{Fork, exit_now, fork_any, fork_as_any, send_signal, wait_status};
use kernel::sockets::create_pair;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{
    Gid, Uid, getegid, geteuid, getgroups, getppid, setfsuid, setgroups, setresgid, setresuid,
};

/// How many pairs an actor makes before it hands them over: their descriptors fit into one message.
const AT_ONCE: usize = 100;

/// Runs `work` as somebody; as ourselves where the images do not say who it was.
pub(super) fn act(
    who: Option<&PeerCredentials>,
    work: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    match somebody_else(who)? {
        None => work(),
        Some(who) => Actor::start(who, work)?.end(),
    }
}

/// Makes pairs of sockets of a type (`SOCK_*`) as somebody.
///
/// The actor hands them over by messages, many in each: to ask for each pair and to fetch it would
/// take four calls and two changes of process.
pub(super) fn pairs(
    who: Option<&PeerCredentials>,
    kind: i32,
    count: usize,
) -> io::Result<Vec<(OwnedFd, OwnedFd)>> {
    let Some(who) = somebody_else(who)? else {
        return (0..count).map(|_| create_pair(kind)).collect();
    };
    let (ours, theirs) = create_pair(libc::SOCK_SEQPACKET)?;
    let actor = Actor::start(who, || hand_over(&theirs, kind, count))?;
    drop(theirs);
    let mut made = Vec::with_capacity(count);
    while made.len() < count {
        let mut ends = passing::receive(&ours, &mut [0])?.into_iter();
        if ends.len() == 0 {
            break;
        }
        while let (Some(one), Some(other)) = (ends.next(), ends.next()) {
            made.push((one, other));
        }
    }
    actor.end()?;
    if made.len() < count {
        return Err(io::Error::other("the process that was to make it has ended"));
    }
    Ok(made)
}

/// Makes pairs and sends them.
fn hand_over(channel: &OwnedFd, kind: i32, count: usize) -> io::Result<()> {
    let mut missing = count;
    while missing > 0 {
        let batch = missing.min(AT_ONCE);
        let made = (0..batch).map(|_| create_pair(kind)).collect::<io::Result<Vec<_>>>()?;
        let ends: Vec<&OwnedFd> = made.iter().flat_map(|(one, other)| [one, other]).collect();
        passing::send(channel, b".", &ends)?;
        missing -= made.len();
    }
    Ok(())
}

/// Who an actor is needed for: nobody, if it is us.
fn somebody_else(who: Option<&PeerCredentials>) -> io::Result<Option<&PeerCredentials>> {
    let Some(who) = who else { return Ok(None) };
    let is_us = who.pid == std::process::id()
        && who.uid == geteuid().as_raw()
        && who.gid == getegid().as_raw()
        && getgroups()?.iter().map(|group| group.as_raw()).eq(who.groups.iter().copied());
    Ok((!is_us).then_some(who))
}

/// A child that does something as somebody.
#[derive(Debug)]
struct Actor {
    /// Nothing once it has been waited for.
    pid: Option<HostPid>,
}

impl Actor {
    fn start(who: &PeerCredentials, work: impl FnOnce() -> io::Result<()>) -> io::Result<Self> {
        let maker = HostPid::own();
        if let Some(pid) = fork(who)? {
            return Ok(Self { pid: Some(pid) });
        }
        exit_now(match become_actor(who, maker).and_then(|()| work()) {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
        })
    }

    /// Waits for it to have done its work.
    fn end(mut self) -> io::Result<()> {
        let Some(pid) = self.pid.take() else { return Ok(()) };
        let status = wait_status(pid)?;
        match (libc::WIFEXITED(status), libc::WEXITSTATUS(status)) {
            (true, 0) => Ok(()),
            (true, errno) => Err(io::Error::from_raw_os_error(errno)),
            (false, _) => Err(io::Error::other("the process that was to do it has been killed")),
        }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            // It may have been ended by others, and is waited for all the same.
            drop(send_signal(pid, libc::SIGKILL));
            drop(wait_status(pid));
        }
    }
}

/// The number of the child; nothing in it.
fn fork(who: &PeerCredentials) -> io::Result<Option<HostPid>> {
    // The pid namespace of the tree is ours.
    if let Ok(wanted) = HostPid::try_from(who.pid) {
        match fork_as_any([wanted]) {
            Ok(Some((_, Fork::Child))) => return Ok(None),
            Ok(Some((number, Fork::Parent))) => return Ok(Some(number)),
            Ok(None) => {}
            // There may be no such number here.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(error),
        }
    }
    fork_any()
}

/// Takes on the ids of somebody, and stays able to reach what we have opened. It ends with its maker at
/// the latest.
fn become_actor(who: &PeerCredentials, maker: HostPid) -> io::Result<()> {
    let groups: Vec<Gid> = who.groups.iter().copied().map(Gid::from_raw).collect();
    // In a user namespace nobody may set them, and they may be right.
    if getgroups()? != groups {
        setgroups(&groups)?;
    }
    let (keep_user, keep_group) = (Uid::from_raw(u32::MAX), Gid::from_raw(u32::MAX));
    setresgid(keep_group, Gid::from_raw(who.gid), keep_group)?;
    setresuid(keep_user, Uid::from_raw(who.uid), keep_user)?;
    // Files are looked up with our own rights: which they are has been judged.
    setfsuid(Uid::from_raw(0));
    // The kernel forgets this at a change of ids.
    ends_with(maker)
}

/// Has this process end with its maker at the latest.
pub(super) fn ends_with(maker: HostPid) -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    if getppid().as_raw() != maker.get() {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::sockets::{Address, bind, connect, create, listen, peer_credentials};

    /// A number that nobody has, and that no other test takes meanwhile: each looks from where its own number says.
    fn free_number() -> u32 {
        let first = 300 + HostPid::own().get() % 20_000;
        let free =
            (first..30_000).filter_map(HostPid::new).find(|id| !kernel::process::exists(*id));
        free.unwrap().unsigned()
    }

    fn who(uid: u32) -> PeerCredentials {
        PeerCredentials { pid: free_number(), uid, gid: uid + 1, groups: vec![7, 8] }
    }

    fn seen(socket: &OwnedFd) -> PeerCredentials {
        let peer = peer_credentials(socket).unwrap().unwrap();
        PeerCredentials {
            pid: peer.pid.map_or(0, HostPid::unsigned),
            uid: peer.uid,
            gid: peer.gid,
            groups: peer.groups,
        }
    }

    #[test]
    fn pairs_tell_who_made_them() {
        for (who, count) in [(who(1000), 1), (who(0), 2 * AT_ONCE + 1)] {
            let made = pairs(Some(&who), libc::SOCK_STREAM, count).unwrap();
            assert_eq!(made.len(), count);
            for (index, (a, b)) in made.iter().enumerate() {
                assert_eq!((seen(a), seen(b)), (who.clone(), who.clone()));
                let message = index.to_ne_bytes();
                nix::unistd::write(a, &message).unwrap();
                let mut received = [0; size_of::<usize>()];
                nix::unistd::read(b, &mut received).unwrap();
                assert_eq!(received, message);
            }
        }
        let error = pairs(Some(&who(7)), libc::SOCK_RDM, 3).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESOCKTNOSUPPORT));
    }

    #[test]
    fn what_we_did_ourselves_takes_no_actor() {
        let mut us = PeerCredentials {
            pid: std::process::id(),
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
            groups: getgroups().unwrap().iter().map(|group| group.as_raw()).collect(),
        };
        assert_eq!(somebody_else(Some(&us)).unwrap(), None);
        let (a, _b) = pairs(Some(&us), libc::SOCK_STREAM, 1).unwrap().remove(0);
        assert_eq!(seen(&a), us);
        us.groups.push(12_345);
        assert!(somebody_else(Some(&us)).unwrap().is_some());
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
