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

    /// As the kernel takes it.
    pub(crate) fn parts(&self) -> (*const libc::sockaddr, libc::socklen_t) {
        (self.pointer(), self.length())
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

/// The network namespace that a socket is in.
///
/// # Errors
/// Without `CAP_NET_ADMIN` there.
pub fn network_namespace(socket: impl AsFd) -> io::Result<OwnedFd> {
    const SIOCGSKNS: libc::c_ulong = 0x894c;
    // SAFETY: the request takes no argument, and returns a descriptor.
    owned(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), SIOCGSKNS, 0) })
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

/// The address a socket is connected to, or was, or will be when the peer has answered.
///
/// # Errors
/// As getpeername(2): `ENOTCONN` when there is none.
pub fn peer_name(socket: impl AsFd) -> io::Result<Address> {
    const SO_PEERNAME: i32 = 28;
    // The kernel gives no more than is asked for, and refuses to give less.
    let mut bytes = vec![0; local_address(&socket)?.0.len()];
    let length = option_bytes(socket, libc::SOL_SOCKET, SO_PEERNAME, &mut bytes)?;
    bytes.truncate(length);
    Ok(Address(bytes))
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

/// The name of a network interface of the calling thread's namespace, by its number (netdevice(7), `SIOCGIFNAME`).
///
/// # Errors
/// `ENXIO` when there is none of this number.
pub fn interface_name(number: u32) -> io::Result<std::ffi::CString> {
    let name = nix::net::if_::if_indextoname(number)?;
    // Where the C library finds none, what is called here says nothing of an error, and gives no name.
    if name.is_empty() { Err(io::Error::from_raw_os_error(libc::ENXIO)) } else { Ok(name) }
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
}
