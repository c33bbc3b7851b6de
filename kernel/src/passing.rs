//! Descriptors that are passed to another process in a message (`SCM_RIGHTS`, unix(7)), and who passes a
//! message (`SCM_CREDENTIALS`).

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use ids::HostPid;
use nix::cmsg_space;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, setsockopt, socketpair, sockopt,
};

/// The most descriptors in one message (`SCM_MAX_FD`).
pub const MOST: usize = 253;

/// Sends descriptors, with at least one byte.
///
/// # Errors
/// As sendmsg(2).
pub fn send(socket: impl AsFd, bytes: &[u8], passed: &[impl AsFd]) -> io::Result<()> {
    let numbers: Vec<RawFd> = passed.iter().map(|fd| fd.as_fd().as_raw_fd()).collect();
    let parts = [IoSlice::new(bytes)];
    let rights = [ControlMessage::ScmRights(&numbers)];
    let to = socket.as_fd().as_raw_fd();
    sendmsg::<()>(to, &parts, &rights, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// The descriptors of one message, as the kernel numbered them; none at the end of the connection.
///
/// # Errors
/// As recvmsg(2); `EMFILE` where the limit of open files does not allow all of them. Those that came
/// all the same stay open then.
pub fn receive(socket: impl AsFd, bytes: &mut [u8]) -> io::Result<Vec<OwnedFd>> {
    receive_as(socket, bytes, MsgFlags::empty())
}

/// Peeks at the next message and returns new descriptors for the files that it brings. The message stays in the queue, so
/// everybody who looks gets descriptors of his own. An error if no message waits.
///
/// # Errors
/// As those of [`receive`].
pub fn look_at(socket: impl AsFd) -> io::Result<Vec<OwnedFd>> {
    receive_as(socket, &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT)
}

fn receive_as(socket: impl AsFd, bytes: &mut [u8], how: MsgFlags) -> io::Result<Vec<OwnedFd>> {
    let mut parts = [IoSliceMut::new(bytes)];
    let mut space = cmsg_space!([RawFd; MOST]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | how;
    let from = socket.as_fd().as_raw_fd();
    let message = recvmsg::<()>(from, &mut parts, Some(&mut space), flags)?;
    if message.flags.contains(MsgFlags::MSG_CTRUNC) {
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    let mut received = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = part {
            // SAFETY: the kernel has just made these descriptors for us; nobody else owns them.
            received.extend(numbers.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok(received)
}

/// A pair of sockets, the first of which tells who writes to the second.
///
/// # Errors
/// As socketpair(2).
pub fn pair_with_senders() -> io::Result<(OwnedFd, OwnedFd)> {
    let (kind, flags) = (SockType::SeqPacket, SockFlag::SOCK_CLOEXEC);
    let (read, write) = socketpair(AddressFamily::Unix, kind, None, flags)?;
    setsockopt(&read, sockopt::PassCred, &true)?;
    Ok((read, write))
}

/// Writes to a [pair](pair_with_senders).
///
/// # Errors
/// When nobody reads any more.
pub fn tell_sender(socket: impl AsFd) -> io::Result<()> {
    send(socket, b".", &[] as &[&OwnedFd])
}

/// Waits for somebody to write to a [pair](pair_with_senders): who that is in the pid namespace of the caller, whatever
/// number it has in its own.
///
/// # Errors
/// When nobody is there to do so any more (`UnexpectedEof`), or it is in a pid namespace that is not seen from here.
pub fn await_sender(socket: impl AsFd) -> io::Result<HostPid> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = cmsg_space!(libc::ucred);
    let from = socket.as_fd().as_raw_fd();
    let message = recvmsg::<()>(from, &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut told = message.cmsgs()?.filter_map(|part| match part {
        ControlMessageOwned::ScmCredentials(sender) => HostPid::new(sender.pid()),
        _ => None,
    });
    let sender = told.next().filter(|_| message.bytes > 0);
    sender.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_looks_leaves_it_to_others() {
        let (one, other) = crate::sockets::create_pair(libc::SOCK_SEQPACKET).unwrap();
        assert_eq!(look_at(&other).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        send(&one, b".", &[&one]).unwrap();
        for _ in 0..2 {
            assert_eq!(look_at(&other).unwrap().len(), 1);
        }
        assert_eq!(receive(&other, &mut [0]).unwrap().len(), 1);
    }

    #[test]
    fn who_writes_is_told() {
        let (read, write) = pair_with_senders().unwrap();
        tell_sender(&write).unwrap();
        assert_eq!(await_sender(&read).unwrap(), HostPid::own());
        drop(write);
        assert_eq!(await_sender(&read).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
