//! Sockets with any option and any address (socket(7), unix(7), ip(7)): what well-typed wrappers
//! leave out and a checkpoint needs, as plain bytes.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use ids::HostPid;

/// `SIOCUNIXFILE`: a descriptor for the file a Unix socket is bound to.
const SIOCUNIXFILE: libc::Ioctl = 0x89e0;

/// An address as the kernel takes and gives it: family and all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Address(Vec<u8>);

impl Address {
    /// Longest address that the kernel takes.
    const MAX: usize = size_of::<libc::sockaddr_storage>();

    /// An address of `family`, followed by `data`.
    ///
    /// # Errors
    /// When it is longer than an address can be.
    pub fn new(family: u16, data: &[u8]) -> io::Result<Self> {
        if data.len() + 2 > Self::MAX {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let mut bytes = family.to_ne_bytes().to_vec();
        bytes.extend_from_slice(data);
        Ok(Self(bytes))
    }

    /// What follows the family.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        self.0.get(2..).unwrap_or_default()
    }

    /// The family.
    #[must_use]
    pub fn family(&self) -> u16 {
        match self.0.first_chunk() {
            Some(bytes) => u16::from_ne_bytes(*bytes),
            None => 0,
        }
    }

    fn pointer(&self) -> *const libc::sockaddr {
        self.0.as_ptr().cast()
    }

    fn length(&self) -> libc::socklen_t {
        // An address is never longer than `MAX`.
        self.0.len() as libc::socklen_t
    }
}

fn answer(value: libc::c_int) -> io::Result<i32> {
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

fn owned(value: libc::c_int) -> io::Result<OwnedFd> {
    let fd = answer(value)?;
    // SAFETY: the system call has just returned this descriptor to us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A new socket, close-on-exec.
///
/// # Errors
/// When there is no such family, type or protocol, or not for us.
pub fn create(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes three integers.
    owned(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) })
}

/// Two Unix sockets that are connected to each other, close-on-exec.
///
/// # Errors
/// When there is no such type.
pub fn create_pair(kind: i32) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: the kernel writes two descriptors, which `fds` has room for.
    answer(unsafe {
        libc::socketpair(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr())
    })?;
    Ok((owned(fds[0])?, owned(fds[1])?))
}

/// Binds a socket.
///
/// # Errors
/// As bind(2).
pub fn bind(socket: impl AsFd, address: &Address) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: pointer and length are of one live vector.
    answer(unsafe { libc::bind(fd, address.pointer(), address.length()) }).map(drop)
}

/// Connects a socket.
///
/// # Errors
/// As connect(2).
pub fn connect(socket: impl AsFd, address: &Address) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: pointer and length are of one live vector.
    answer(unsafe { libc::connect(fd, address.pointer(), address.length()) }).map(drop)
}

/// Makes a socket listen.
///
/// # Errors
/// As listen(2).
pub fn listen(socket: impl AsFd, backlog: u32) -> io::Result<()> {
    // SAFETY: takes two integers.
    answer(unsafe { libc::listen(socket.as_fd().as_raw_fd(), backlog.cast_signed()) }).map(drop)
}

/// Accepts a connection; the new socket is close-on-exec.
///
/// # Errors
/// As accept4(2).
pub fn accept(socket: impl AsFd) -> io::Result<OwnedFd> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the peer's address is not asked for: both pointers may be null.
    owned(unsafe {
        libc::accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC)
    })
}

/// Shuts a socket down: `SHUT_RD`, `SHUT_WR` or `SHUT_RDWR`.
///
/// # Errors
/// As shutdown(2).
pub fn shutdown(socket: impl AsFd, how: i32) -> io::Result<()> {
    // SAFETY: takes two integers.
    answer(unsafe { libc::shutdown(socket.as_fd().as_raw_fd(), how) }).map(drop)
}

type NameCall =
    unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

fn name_by(call: NameCall, socket: impl AsFd) -> io::Result<Address> {
    let mut bytes = vec![0; Address::MAX];
    let mut length = Address::MAX as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which the vector has, and the length.
    answer(unsafe {
        call(socket.as_fd().as_raw_fd(), bytes.as_mut_ptr().cast(), &raw mut length)
    })?;
    bytes.truncate(length as usize);
    Ok(Address(bytes))
}

/// The address a socket is bound to.
///
/// # Errors
/// As getsockname(2).
pub fn local_address(socket: impl AsFd) -> io::Result<Address> {
    name_by(libc::getsockname, socket)
}

/// The address a socket is connected to.
///
/// # Errors
/// As getpeername(2): `ENOTCONN` when there is none.
pub fn peer_address(socket: impl AsFd) -> io::Result<Address> {
    name_by(libc::getpeername, socket)
}

/// Who is at the other end of a Unix socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Process; `None` if it is outside of our pid namespace.
    pub pid: Option<HostPid>,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// Who is at the other end of a Unix socket (`SO_PEERCRED`, `SO_PEERGROUPS`), if it says.
///
/// # Errors
/// When it is no socket.
pub fn peer_credentials(socket: impl AsFd) -> io::Result<Option<PeerCredentials>> {
    const SO_PEERGROUPS: i32 = 59;
    const MOST_GROUPS: usize = 65536;
    let word = |bytes: &[u8]| bytes.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
    let mut bytes = [0; 12];
    option_bytes(&socket, libc::SOL_SOCKET, libc::SO_PEERCRED, &mut bytes)?;
    let pid = HostPid::new(word(&bytes).cast_signed());
    let (uid, gid) = (word(&bytes[4..]), word(&bytes[8..]));
    if uid == u32::MAX {
        return Ok(None);
    }
    let mut groups = vec![0; 32 * 4];
    let mut length = option_bytes(&socket, libc::SOL_SOCKET, SO_PEERGROUPS, &mut groups);
    if length.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::ERANGE)) {
        groups = vec![0; MOST_GROUPS * 4];
        length = option_bytes(&socket, libc::SOL_SOCKET, SO_PEERGROUPS, &mut groups);
    }
    // Kernels before 4.13 do not tell.
    let groups = groups.get(..length.unwrap_or(0)).unwrap_or_default();
    let groups = groups.chunks_exact(4).map(word).collect();
    Ok(Some(PeerCredentials { pid, uid, gid, groups }))
}

/// An option of at most `bytes.len()` bytes; returns how many it has.
///
/// # Errors
/// As getsockopt(2).
pub fn option_bytes(
    socket: impl AsFd,
    level: i32,
    name: i32,
    bytes: &mut [u8],
) -> io::Result<usize> {
    let filter = level == libc::SOL_SOCKET && name == libc::SO_ATTACH_FILTER;
    if filter && !bytes.is_empty() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut length = bytes.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which the slice has, and the length. (The
    // length of a filter counts instructions of 8 bytes: above it is kept at 0, with which the
    // kernel writes only the length.)
    answer(unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            bytes.as_mut_ptr().cast(),
            &raw mut length,
        )
    })?;
    Ok(length as usize)
}

/// An option that is an integer.
///
/// # Errors
/// As getsockopt(2).
pub fn option(socket: impl AsFd, level: i32, name: i32) -> io::Result<u32> {
    let mut bytes = [0; 4];
    option_bytes(socket, level, name, &mut bytes)?;
    Ok(u32::from_ne_bytes(bytes))
}

/// Sets an option of any type.
///
/// # Errors
/// As setsockopt(2).
pub fn set_option_bytes(socket: impl AsFd, level: i32, name: i32, bytes: &[u8]) -> io::Result<()> {
    // These hold a pointer.
    if level == libc::SOL_SOCKET
        && matches!(name, libc::SO_ATTACH_FILTER | libc::SO_ATTACH_REUSEPORT_CBPF)
    {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: pointer and length are of one live slice.
    answer(unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            bytes.as_ptr().cast(),
            bytes.len() as libc::socklen_t,
        )
    })
    .map(drop)
}

/// Sets an option that is an integer.
///
/// # Errors
/// As setsockopt(2).
pub fn set_option(socket: impl AsFd, level: i32, name: i32, value: u32) -> io::Result<()> {
    set_option_bytes(socket, level, name, &value.to_ne_bytes())
}

/// How many instructions the socket's packet filter has, 0 for no filter.
///
/// # Errors
/// When it is no socket.
pub fn filter_length(socket: impl AsFd) -> io::Result<usize> {
    option_bytes(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &mut [])
}

/// An `O_PATH` descriptor for the file that a Unix socket is bound to.
///
/// # Errors
/// `ENOENT` when it is bound to none.
pub fn unix_file(socket: impl AsFd) -> io::Result<OwnedFd> {
    // SAFETY: takes no argument.
    owned(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), SIOCUNIXFILE) })
}

/// The name of the protocol of the socket that process `pid` has as `fd` (`TCP`, `UNIX-STREAM`,
/// `NETLINK`, …), without touching it; `None` when it is no socket, or has gone.
#[must_use]
pub fn protocol_name(pid: HostPid, fd: i32) -> Option<String> {
    let path = std::ffi::CString::new(format!("/proc/{pid}/fd/{fd}")).ok()?;
    let mut name = [0_u8; 64];
    // SAFETY: two strings that end in 0, and a buffer with its length.
    let length = unsafe {
        libc::getxattr(
            path.as_ptr(),
            c"system.sockprotoname".as_ptr(),
            name.as_mut_ptr().cast(),
            name.len(),
        )
    };
    let name = name.get(..usize::try_from(length).ok()?)?;
    let name = name.split(|&byte| byte == 0).next()?;
    std::str::from_utf8(name).ok().map(str::to_owned)
}

/// What [`peek`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peeked {
    /// Bytes written to the buffer.
    pub bytes: usize,
    /// The message was longer than the buffer.
    pub truncated: bool,
    /// Descriptors travel with the message. (They are not received.)
    pub descriptors: bool,
    /// The name of who sent a datagram; empty for one without.
    pub sender: Vec<u8>,
}

/// Looks at what is queued in a socket, from its peek offset on, and leaves it there. `None` when
/// nothing (more) is queued.
///
/// # Errors
/// As recvmsg(2).
pub fn peek(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<Peeked>> {
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // Room for credentials, which come first, but not for a descriptor: the kernel then drops
    // what does not fit and says so.
    let mut control = [0_u64; 4];
    let mut sender = [0_u8; Address::MAX];
    // SAFETY: all zero is a valid `msghdr`: null pointers with lengths of 0.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_name = sender.as_mut_ptr().cast();
    message.msg_namelen = size_of_val(&sender) as _;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the header points to one part (the caller's buffer), to `sender` and to `control`, with
    // their true lengths; all live until the call returns.
    let count = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, flags) };
    if count < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
    }
    let descriptors = close_received(&message) || message.msg_flags & libc::MSG_CTRUNC != 0;
    Ok(Some(Peeked {
        bytes: count as usize,
        truncated: message.msg_flags & libc::MSG_TRUNC != 0,
        descriptors,
        sender: sender
            .get(size_of::<libc::sa_family_t>()..message.msg_namelen as usize)
            .unwrap_or_default()
            .to_vec(),
    }))
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

/// Whether an error waits in a socket that has not been received (`SO_ERROR`, `MSG_ERRQUEUE`); it stays
/// there.
///
/// # Errors
/// As poll(2).
pub fn has_error(socket: impl AsFd) -> io::Result<bool> {
    Ok(events(socket, 0)? & libc::POLLERR != 0)
}

/// Whether something waits in a socket, or nothing will come any more.
///
/// # Errors
/// As poll(2).
pub fn is_readable(socket: impl AsFd) -> io::Result<bool> {
    Ok(events(socket, libc::POLLIN)? & libc::POLLIN != 0)
}

/// How many bytes have been sent by a datagram socket and have not left the machine: what waits for the rest of
/// its datagram (`MSG_MORE`, `UDP_CORK`), and what is on its way through the network card.
///
/// # Errors
/// When it is no socket. Kinds that do not tell have none.
pub fn bytes_unsent(socket: impl AsFd) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one integer.
    let done = unsafe {
        libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ as libc::Ioctl, &raw mut bytes)
    };
    match answer(done) {
        Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => Ok(0),
        Err(error) => Err(error),
        Ok(_) => Ok(bytes.cast_unsigned()),
    }
}

/// How far a socket is shut down, as far as poll(2) tells: receive side (bit 0), and both (bits 0 and 1).
///
/// # Errors
/// As poll(2).
pub fn shut_down(socket: impl AsFd) -> io::Result<u8> {
    let found = events(socket, libc::POLLRDHUP)?;
    Ok(match (found & libc::POLLHUP != 0, found & libc::POLLRDHUP != 0) {
        (true, _) => 3,
        (false, receive) => u8::from(receive),
    })
}

/// Which of the events that are asked for, and of those that always are, a descriptor has.
fn events(file: impl AsFd, wanted: i16) -> io::Result<i16> {
    let mut asked = libc::pollfd { fd: file.as_fd().as_raw_fd(), events: wanted, revents: 0 };
    // SAFETY: one structure is passed, and the call does not wait.
    answer(unsafe { libc::poll(&raw mut asked, 1, 0) })?;
    Ok(asked.revents)
}

/// Closes the descriptors that a message brought; returns whether there were any.
fn close_received(message: &libc::msghdr) -> bool {
    let mut found = false;
    // SAFETY: the header is one that recvmsg has just filled in, its control buffer lives.
    let mut head = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !head.is_null() {
        // SAFETY: `CMSG_FIRSTHDR` and `CMSG_NXTHDR` give null or a header inside the buffer.
        let part = unsafe { &*head };
        if part.cmsg_level == libc::SOL_SOCKET && part.cmsg_type == libc::SCM_RIGHTS {
            found = true;
            // SAFETY: the kernel wrote as many descriptors behind the header as `cmsg_len`
            // has room for, and they are ours.
            unsafe {
                let data = libc::CMSG_DATA(head).cast::<libc::c_int>();
                let count = (part.cmsg_len as usize - libc::CMSG_LEN(0) as usize) / 4;
                for index in 0..count {
                    drop(OwnedFd::from_raw_fd(data.add(index).read_unaligned()));
                }
            }
        }
        // SAFETY: as above.
        head = unsafe { libc::CMSG_NXTHDR(message, head) };
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_have_names() {
        let pid = HostPid::own();
        for (family, kind, name) in [
            (libc::AF_NETLINK, libc::SOCK_RAW, "NETLINK"),
            (libc::AF_INET6, libc::SOCK_STREAM, "TCPv6"),
        ] {
            let socket = create(family, kind, 0).unwrap();
            assert_eq!(protocol_name(pid, socket.as_raw_fd()).as_deref(), Some(name));
        }
        assert_eq!(protocol_name(pid, 9999), None);
    }

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
        assert_eq!(peek(&b, &mut buffer).unwrap(), None);
        assert!(!first.descriptors && !first.truncated);
    }

    #[test]
    fn an_error_is_seen_and_stays() {
        let refused = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(refused.local_addr().unwrap()).unwrap();
        drop(refused);
        assert!(!has_error(&socket).unwrap());
        socket.send(b"to nobody").unwrap();
        assert!(has_error(&socket).unwrap() && has_error(&socket).unwrap());
        assert!(socket.take_error().unwrap().is_some());
        assert!(!has_error(&socket).unwrap());
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
    fn descriptors_in_flight_are_seen_and_not_kept() {
        use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
        let (a, b) = create_pair(libc::SOCK_STREAM).unwrap();
        let rights = [a.as_raw_fd()];
        sendmsg::<()>(
            a.as_raw_fd(),
            &[io::IoSlice::new(b"x")],
            &[ControlMessage::ScmRights(&rights)],
            MsgFlags::empty(),
            None,
        )
        .unwrap();
        let before = std::fs::read_dir("/proc/self/fd").unwrap().count();
        assert!(peek(&b, &mut [0; 8]).unwrap().unwrap().descriptors);
        assert_eq!(std::fs::read_dir("/proc/self/fd").unwrap().count(), before);
    }
}
