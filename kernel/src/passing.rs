//! Descriptors that are passed to another process in a message (`SCM_RIGHTS`, unix(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

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
    let mut parts = [IoSliceMut::new(bytes)];
    let mut space = cmsg_space!([RawFd; MOST]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
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
