//! Probes of sockets and of netlink.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

use super::Answer;
use super::probes::{no, outcome, owned, unknown};

const FLAGS: SockFlag = SockFlag::SOCK_CLOEXEC;

fn open(family: AddressFamily, kind: SockType) -> Result<OwnedFd, Answer> {
    socket(family, kind, FLAGS, None)
        .map_err(|errno| no(&format!("open a {family:?} socket"), errno))
}

/// The answer to a number of an ioctl that takes no argument and gives a descriptor.
fn descriptor(what: &str, file: &impl AsFd, number: libc::c_ulong) -> Result<OwnedFd, Answer> {
    // SAFETY: the request takes no argument.
    let result = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), number, 0) };
    owned(what, result.into())
}

/// The network namespace of a socket or device, by `SIOCGSKNS`.
pub(super) fn namespace(file: &impl AsFd, of: &str) -> Answer {
    const SIOCGSKNS: libc::c_ulong = 0x894c;
    let what = format!("SIOCGSKNS, the namespace of {of}");
    descriptor(&what, file, SIOCGSKNS).err().unwrap_or(Answer::Yes)
}

pub(super) fn socket_namespace() -> Answer {
    open(AddressFamily::Unix, SockType::Stream)
        .map_or_else(|answer| answer, |socket| namespace(&socket, "a socket"))
}

/// `SIOCUNIXFILE`: the file that a socket is bound to. Of one that is bound to none a kernel that knows
/// it says that there is none.
pub(super) fn socket_file() -> Answer {
    const SIOCUNIXFILE: libc::c_ulong = 0x89e0;
    let socket = match open(AddressFamily::Unix, SockType::Stream) {
        Ok(socket) => socket,
        Err(answer) => return answer,
    };
    // SAFETY: the request takes no argument.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCUNIXFILE, 0) };
    match (result, Errno::last()) {
        (-1, Errno::ENOENT) => Answer::Yes,
        (-1, errno) => no("SIOCUNIXFILE, the file of a Unix socket", errno),
        _ => Answer::Unknown("an unbound socket has a file".into()),
    }
}

/// Reads or, with a value, sets an option that is one int.
fn option(
    socket: &OwnedFd,
    (level, name): (libc::c_int, libc::c_int),
    value: Option<libc::c_int>,
) -> libc::c_long {
    let mut word = value.unwrap_or_default();
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    let socket = socket.as_raw_fd();
    let result = match value {
        // SAFETY: the option's value is one int, whose size is passed along.
        Some(_) => unsafe {
            libc::setsockopt(socket, level, name, (&raw const word).cast(), length)
        },
        // SAFETY: the kernel writes at most one int and the length, whose places are passed.
        None => unsafe {
            libc::getsockopt(socket, level, name, (&raw mut word).cast(), &raw mut length)
        },
    };
    result.into()
}

pub(super) fn buffer_locks() -> Answer {
    const SO_BUF_LOCK: libc::c_int = 72;
    open(AddressFamily::Unix, SockType::Stream).map_or_else(
        |answer| answer,
        |socket| outcome("SO_BUF_LOCK", option(&socket, (libc::SOL_SOCKET, SO_BUF_LOCK), None)),
    )
}

pub(super) fn ipv6_freebind() -> Answer {
    let what = "IPV6_FREEBIND";
    open(AddressFamily::Inet6, SockType::Stream).map_or_else(
        |answer| answer,
        |socket| outcome(what, option(&socket, (libc::SOL_IPV6, libc::IPV6_FREEBIND), Some(1))),
    )
}

fn repaired() -> Result<OwnedFd, Answer> {
    let socket = open(AddressFamily::Inet, SockType::Stream)?;
    match outcome("TCP_REPAIR", option(&socket, (libc::IPPROTO_TCP, libc::TCP_REPAIR), Some(1))) {
        Answer::Yes => Ok(socket),
        answer => Err(answer),
    }
}

pub(super) fn tcp_repair() -> Answer {
    repaired().err().unwrap_or(Answer::Yes)
}

/// `TCP_REPAIR_WINDOW`, without which the windows of a connection are lost, and its end where it is half closed.
pub(super) fn tcp_window() -> Answer {
    let socket = match repaired() {
        Ok(socket) => socket,
        Err(answer) => return answer,
    };
    // struct tcp_repair_window: five words.
    let mut window = [0_u32; 5];
    let mut length = size_of_val(&window) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which `window` has, and the length.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_REPAIR_WINDOW,
            window.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    outcome("TCP_REPAIR_WINDOW", result.into())
}

/// Sends one request by netlink and returns the type of the answer, or the error that it says.
fn ask(
    protocol: SockProtocol,
    (kind, flags): (u16, libc::c_int),
    body: &[u8],
) -> nix::Result<Result<u16, Errno>> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, FLAGS, protocol)?;
    let mut message = Vec::with_capacity(16 + body.len());
    message.extend((16 + body.len() as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(((libc::NLM_F_REQUEST | flags) as u16).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    send(socket.as_raw_fd(), &message, MsgFlags::empty())?;
    let mut answer = [0_u8; 8192];
    // The kernel has answered within `send`, so this does not wait.
    let received = recv(socket.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT)?;
    if received < 20 {
        return Err(Errno::EBADMSG);
    }
    let kind = u16::from_ne_bytes([answer[4], answer[5]]);
    let error = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
    match i32::from(kind) == libc::NLMSG_ERROR && error != 0 {
        true => Ok(Err(Errno::from_raw(-error))),
        false => Ok(Ok(kind)),
    }
}

/// The answer where an error says that there is no such thing.
fn answered(what: &str, answer: nix::Result<Result<u16, Errno>>, absent: &[Errno]) -> Answer {
    match answer {
        Ok(Ok(_)) => Answer::Yes,
        Ok(Err(errno)) if absent.contains(&errno) => {
            Answer::No(format!("the kernel has no {what}"))
        }
        Ok(Err(errno)) => no(what, errno),
        Err(errno) => unknown(what, errno),
    }
}

/// Sends a dump request that matches no socket: the kernel has the handler, or has not.
fn sock_diag(what: &str, body: &[u8]) -> Answer {
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    let request = (SOCK_DIAG_BY_FAMILY, libc::NLM_F_DUMP);
    answered(what, ask(SockProtocol::NetlinkSockDiag, request, body), &[Errno::ENOENT])
}

pub(super) fn unix_diag() -> Answer {
    // struct unix_diag_req: family, protocol, pad, states (none: no answer but the end), inode,
    // show, cookie.
    let mut request = [0_u8; 24];
    request[0] = libc::AF_UNIX as u8;
    sock_diag("UNIX_DIAG", &request)
}

/// `struct inet_diag_req_v2`: family, protocol, extensions, pad, states (none), socket id.
fn inet(protocol: libc::c_int, what: &str) -> Answer {
    let mut request = [0_u8; 56];
    request[0] = libc::AF_INET as u8;
    request[1] = protocol as u8;
    sock_diag(what, &request)
}

pub(super) fn inet_diag() -> Answer {
    match inet(libc::IPPROTO_TCP, "INET_TCP_DIAG") {
        Answer::Yes => inet(libc::IPPROTO_UDP, "INET_UDP_DIAG"),
        answer => answer,
    }
}

pub(super) fn raw_diag() -> Answer {
    inet(libc::IPPROTO_RAW, "INET_RAW_DIAG")
}

/// An attribute of one word, after the head of its message.
fn attribute(head: &[u8], name: u16, value: i32) -> Vec<u8> {
    let mut body = head.to_vec();
    body.extend(8_u16.to_ne_bytes());
    body.extend(name.to_ne_bytes());
    body.extend(value.to_ne_bytes());
    body
}

/// Asks what number our own network namespace has here (none, which is an answer).
pub(super) fn namespace_numbers() -> Answer {
    const RTM_GETNSID: u16 = 90;
    const NETNSA_PID: u16 = 2;
    // struct rtgenmsg, padded.
    let body = attribute(&[0; 4], NETNSA_PID, super::probes::own_pid());
    answered(
        "RTM_GETNSID",
        ask(SockProtocol::NetlinkRoute, (RTM_GETNSID, 0), &body),
        &[Errno::EOPNOTSUPP],
    )
}

/// Sets the loopback device to an index that no device can have: a kernel that knows the attribute
/// refuses it, one that does not finds nothing to do.
pub(super) fn new_index() -> Answer {
    const RTM_SETLINK: u16 = 19;
    const IFLA_NEW_IFINDEX: u16 = 49;
    // struct ifinfomsg: family, pad, type, index, flags, change.
    let mut head = [0_u8; 16];
    head[4..8].copy_from_slice(&1_i32.to_ne_bytes());
    let body = attribute(&head, IFLA_NEW_IFINDEX, -1);
    let request = (RTM_SETLINK, libc::NLM_F_ACK);
    match ask(SockProtocol::NetlinkRoute, request, &body) {
        Ok(Err(Errno::ERANGE | Errno::EINVAL)) => Answer::Yes,
        Ok(Ok(_)) => Answer::No("a device that moves cannot be given its index".into()),
        answer => answered("IFLA_NEW_IFINDEX", answer, &[]),
    }
}

/// Asks for the generation of the rules.
pub(super) fn nftables() -> Answer {
    const NFT_MSG_GETGEN: u16 = 10 << 8 | 16;
    // struct nfgenmsg: family, version, resource.
    let answer = ask(SockProtocol::NetlinkNetFilter, (NFT_MSG_GETGEN, 0), &[0; 4]);
    answered("nftables", answer, &[Errno::EINVAL])
}
