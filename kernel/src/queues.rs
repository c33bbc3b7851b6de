//! What is queued in sockets (unix(7), recvmsg(2)): looked at, and put there.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{
    ControlMessage, MsgFlags, SockaddrLike, SockaddrStorage, UnixCredentials, sendmsg,
};

use crate::sockets::Address;

/// Who sent a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// Process; 0 if it is not known, or has no number in the caller's pid namespace.
    pub pid: i32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What [`peek`] found.
#[derive(Debug)]
pub struct Peeked {
    /// Bytes written to the buffer.
    pub bytes: usize,
    /// The message was longer than the buffer.
    pub truncated: bool,
    /// The descriptors that travel with the message, as our own.
    pub descriptors: Vec<OwnedFd>,
    /// More travels with it than there was room for: descriptors, unless they were asked for.
    pub has_more: bool,
    /// The name of who sent a datagram; empty for one without.
    pub name: Vec<u8>,
    /// Who sent it, if the socket asks for that (`SO_PASSCRED`).
    pub sender: Option<Sender>,
}

/// Room for what travels with a message, in words: as many descriptors as there can be, and the rest.
const ROOM: usize = 256;
/// Room for credentials, which come first, and for few descriptors.
const NO_DESCRIPTORS: usize = 4;
/// Longest address.
const NAME: usize = size_of::<libc::sockaddr_storage>();

/// Looks at what is queued in a socket, from its peek offset on, and leaves it there. `None` when
/// nothing (more) is queued.
///
/// # Errors
/// As recvmsg(2).
pub fn peek(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<Peeked>> {
    look(socket, buffer, ROOM)
}

/// The same, and keeps no descriptors: [`Peeked::has_more`] says whether there are any.
///
/// # Errors
/// As recvmsg(2).
pub fn peek_at_bytes(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<Peeked>> {
    let seen = look(socket, buffer, NO_DESCRIPTORS)?;
    // Without credentials a few descriptors have the room.
    Ok(seen.map(|seen| Peeked {
        has_more: seen.has_more || !seen.descriptors.is_empty(),
        descriptors: Vec::new(),
        ..seen
    }))
}

/// Looks at the parts of a stream that were sent together, from its peek offset on: returns how many bytes of
/// those there are that fit whole into the buffer. No descriptors come.
///
/// A part that does not fit ends in memory that cannot be written, and the kernel stops at that without a look
/// at what travels with it. (A look that asks for fewer bytes brings the descriptors of the next part.)
///
/// # Errors
/// As recvmsg(2).
pub fn peek_at_whole_parts(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let mut parts = [
        libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() },
        libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 1 },
    ];
    // SAFETY: all zero is a valid `msghdr`: null pointers with lengths of 0.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = parts.len() as _;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: the first part is the caller's buffer; the second is at the address 0, where nothing can be
    // mapped: the kernel writes nothing there, and fails.
    let count = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, flags) };
    if count >= 0 {
        return Ok(count as usize);
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EFAULT) => Ok(0),
        error if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        error => Err(error),
    }
}

fn look(socket: impl AsFd, buffer: &mut [u8], room: usize) -> io::Result<Option<Peeked>> {
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = [0_u64; ROOM];
    let mut name = [0_u8; NAME];
    // SAFETY: all zero is a valid `msghdr`: null pointers with lengths of 0.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_name = name.as_mut_ptr().cast();
    message.msg_namelen = size_of_val(&name) as _;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = (room.min(ROOM) * size_of::<u64>()) as _;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the header points to one part (the caller's buffer), to `name` and to `control`, with no
    // more than their lengths; all live until the call returns.
    let count = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, flags) };
    if count < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
    }
    let (descriptors, sender) = received(&message);
    Ok(Some(Peeked {
        bytes: count as usize,
        truncated: message.msg_flags & libc::MSG_TRUNC != 0,
        descriptors,
        has_more: message.msg_flags & libc::MSG_CTRUNC != 0,
        name: name
            .get(size_of::<libc::sa_family_t>()..message.msg_namelen as usize)
            .unwrap_or_default()
            .to_vec(),
        sender,
    }))
}

/// What came with a message. A pidfd of its sender (`SO_PASSPIDFD`) is closed.
fn received(message: &libc::msghdr) -> (Vec<OwnedFd>, Option<Sender>) {
    const SCM_PIDFD: i32 = 4;
    let (mut descriptors, mut sender) = (Vec::new(), None);
    // SAFETY: the header is one that recvmsg has just filled in, its control buffer lives.
    let mut head = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !head.is_null() {
        // SAFETY: `CMSG_FIRSTHDR` and `CMSG_NXTHDR` give null or a header inside the buffer.
        let part = unsafe { &*head };
        // SAFETY: as above.
        let data = unsafe { libc::CMSG_DATA(head) };
        let bytes = (part.cmsg_len as usize).saturating_sub(data as usize - head as usize);
        match (part.cmsg_level, part.cmsg_type) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS | SCM_PIDFD) => {
                let got = (0..bytes / size_of::<RawFd>()).map(|index| {
                    // SAFETY: the kernel wrote that many descriptors there, and they are ours.
                    unsafe {
                        OwnedFd::from_raw_fd(data.cast::<RawFd>().add(index).read_unaligned())
                    }
                });
                match part.cmsg_type {
                    SCM_PIDFD => got.for_each(drop),
                    _ => descriptors.extend(got),
                }
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if bytes >= size_of::<libc::ucred>() => {
                // SAFETY: the kernel wrote a `ucred` there.
                let ucred = unsafe { data.cast::<libc::ucred>().read_unaligned() };
                sender = Some(Sender { pid: ucred.pid, uid: ucred.uid, gid: ucred.gid });
            }
            _ => {}
        }
        // SAFETY: as above.
        head = unsafe { libc::CMSG_NXTHDR(message, head) };
    }
    (descriptors, sender)
}

/// Sends a message with descriptors, and in the name of a sender, which the caller must be allowed to, to an
/// address or to where the socket is connected; it does not wait. Returns how many bytes were sent.
///
/// # Errors
/// As sendmsg(2): `ESRCH` when there is no such process as the sender.
pub fn send(
    socket: impl AsFd,
    bytes: &[u8],
    descriptors: &[RawFd],
    sender: Option<Sender>,
    address: Option<&Address>,
) -> io::Result<usize> {
    let sender =
        sender.map(|Sender { pid, uid, gid }| UnixCredentials::from(libc::ucred { pid, uid, gid }));
    let mut control = Vec::new();
    control.extend(sender.as_ref().map(ControlMessage::ScmCredentials));
    control.extend((!descriptors.is_empty()).then_some(ControlMessage::ScmRights(descriptors)));
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let by = socket.as_fd().as_raw_fd();
    let address = address.map(|address| {
        let (pointer, length) = address.parts();
        // SAFETY: pointer and length are of one live vector.
        unsafe { SockaddrStorage::from_raw(pointer, Some(length)) }
    });
    let address = match address {
        Some(None) => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
        address => address.flatten(),
    };
    Ok(sendmsg(by, &[IoSlice::new(bytes)], &control, flags, address.as_ref())?)
}

/// Whether an urgent byte (`MSG_OOB`) is queued in a stream socket; it stays there.
///
/// # Errors
/// As recv(2), but for those that say that there is none.
pub fn has_urgent_byte(socket: impl AsFd) -> io::Result<bool> {
    let flags = libc::MSG_OOB | libc::MSG_PEEK | libc::MSG_DONTWAIT;
    let mut byte = 0_u8;
    // SAFETY: the kernel writes at most one byte, which there is.
    let count = unsafe { libc::recv(socket.as_fd().as_raw_fd(), (&raw mut byte).cast(), 1, flags) };
    if count >= 0 {
        return Ok(count > 0);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // None; none, or in the stream (SO_OOBINLINE); a kernel that has none in Unix sockets.
        Some(libc::EAGAIN | libc::EINVAL | libc::EOPNOTSUPP) => Ok(false),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sockets::{create_pair, set_option};

    #[test]
    fn peeking_leaves_messages_where_they_are() {
        let (a, b) = create_pair(libc::SOCK_SEQPACKET).unwrap();
        nix::unistd::write(&a, b"one").unwrap();
        nix::unistd::write(&a, b"three").unwrap();
        set_option(&b, libc::SOL_SOCKET, libc::SO_PEEK_OFF, 0).unwrap();
        let mut buffer = [0; 16];
        let first = peek(&b, &mut buffer).unwrap().unwrap();
        assert_eq!(&buffer[..first.bytes], b"one");
        let second = peek(&b, &mut buffer).unwrap().unwrap();
        assert_eq!(&buffer[..second.bytes], b"three");
        assert!(peek(&b, &mut buffer).unwrap().is_none());
        assert!(first.descriptors.is_empty() && !first.truncated);
    }

    #[test]
    fn an_urgent_byte_is_seen_and_stays() {
        let (a, b) = create_pair(libc::SOCK_STREAM).unwrap();
        nix::unistd::write(&a, b"one").unwrap();
        assert!(!has_urgent_byte(&b).unwrap());
        // SAFETY: one byte is read.
        let sent = unsafe { libc::send(a.as_raw_fd(), c"!".as_ptr().cast(), 1, libc::MSG_OOB) };
        assert_eq!(sent, 1);
        assert!(has_urgent_byte(&b).unwrap() && has_urgent_byte(&b).unwrap());
    }

    #[test]
    fn what_travels_with_a_message_is_seen_and_stays() {
        let (a, b) = create_pair(libc::SOCK_STREAM).unwrap();
        let (read, write) = nix::unistd::pipe().unwrap();
        let own = Sender {
            pid: std::process::id().cast_signed(),
            uid: nix::unistd::getuid().as_raw(),
            gid: nix::unistd::getgid().as_raw(),
        };
        let sent = send(&a, b"with", &[read.as_raw_fd(), a.as_raw_fd()], Some(own), None).unwrap();
        assert_eq!(sent, 4);
        drop(read);
        set_option(&b, libc::SOL_SOCKET, libc::SO_PASSCRED, 1).unwrap();
        for _ in 0..2 {
            let mut buffer = [0; 8];
            let seen = peek_at_bytes(&b, &mut buffer).unwrap().unwrap();
            assert!(seen.has_more && seen.descriptors.is_empty());
            let seen = peek(&b, &mut buffer).unwrap().unwrap();
            assert!(!seen.has_more && seen.bytes == 4 && seen.sender == Some(own));
            assert_eq!(seen.descriptors.len(), 2);
            nix::unistd::write(&write, b"x").unwrap();
            let mut byte = [0];
            nix::unistd::read(&seen.descriptors[0], &mut byte).unwrap();
            assert_eq!(&byte, b"x");
        }
    }
}
