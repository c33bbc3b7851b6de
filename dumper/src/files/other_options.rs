//! Socket options that CRIU's images have no place for: carried where they differ from those of a
//! new socket of the same kind.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::{AsFd, BorrowedFd};

use images::messages::SkOptEntry;
use kernel::socket_names::{self, SocketOption};
use kernel::sockets::{create, option_bytes};

use super::problem::{Doing, Problem};

/// Longest value among them: headers of IPv6 (`IPV6_HOPOPTS`). Nearly all are short.
const LONGEST: usize = 2048;
const SHORT: usize = 64;

/// Family, type and protocol.
type Kind = (i32, i32, i32);

/// The value of an option; `None` when sockets of this kind, or this kernel, do not have it.
type Value = Option<Vec<u8>>;

const MAXSEG: SocketOption =
    SocketOption { level: libc::SOL_TCP, number: libc::TCP_MAXSEG, name: "TCP_MAXSEG" };

/// Whether a `TCP_MAXSEG` is less than any that can be set: what the kernel computes for a socket that
/// sends IP options and is not connected.
fn is_computed(value: &[u8]) -> bool {
    const LEAST: u32 = 88;
    value.first_chunk().is_some_and(|bytes| u32::from_ne_bytes(*bytes) < LEAST)
}

/// What a new socket of some kind has.
#[derive(Debug)]
struct New {
    namespace: Option<[u8; 8]>,
    options: Vec<(SocketOption, Value)>,
}

/// What new sockets have, by network namespace and kind of socket.
#[derive(Debug, Default)]
pub(super) struct Usual(HashMap<(Option<[u8; 8]>, Kind), New>);

fn value(socket: BorrowedFd<'_>, option: SocketOption) -> Value {
    let mut short = [0; SHORT];
    match option_bytes(socket, option.level, option.number, &mut short) {
        Ok(length) if length < SHORT => return Some(short[..length].to_vec()),
        // The value fills the buffer, so it may be longer.
        Ok(_) => {}
        Err(error) if matches!(error.raw_os_error(), Some(libc::ERANGE | libc::EINVAL)) => {}
        Err(_) => return None,
    }
    let mut bytes = vec![0; LONGEST];
    let length = option_bytes(socket, option.level, option.number, &mut bytes).ok()?;
    bytes.truncate(length);
    Some(bytes)
}

/// The number of the network namespace that a socket is of: no two have had the same since the boot.
/// `None` before Linux 5.14.
fn namespace(socket: BorrowedFd<'_>) -> Option<[u8; 8]> {
    const SO_NETNS_COOKIE: i32 = 71;
    let mut cookie = [0; 8];
    option_bytes(socket, libc::SOL_SOCKET, SO_NETNS_COOKIE, &mut cookie).ok()?;
    Some(cookie)
}

fn of_new(kind: Kind) -> Result<New, Problem> {
    let protocol = match (kind.1, kind.2) {
        // Not everybody may have one; a UDP socket has the same options to begin with.
        (libc::SOCK_DGRAM, libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6) => libc::IPPROTO_UDP,
        (_, protocol) => protocol,
    };
    let new = create(kind.0, kind.1, protocol).doing("make a socket to compare with")?;
    let options = socket_names::of(kind.0, kind.1, kind.2).into_iter().flatten();
    let options = options.map(|option| (*option, value(new.as_fd(), *option))).collect();
    Ok(New { namespace: namespace(new.as_fd()), options })
}

impl Usual {
    /// What of a socket is not as in a new one.
    pub(super) fn differences(
        &mut self,
        socket: BorrowedFd<'_>,
        kind: Kind,
    ) -> Result<Vec<SkOptEntry>, Problem> {
        let own = namespace(socket);
        let usual = match self.0.entry((own, kind)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(of_new(kind)?),
        };
        if own != usual.namespace {
            return Err(Problem::Refused(support::sockets::OTHER_NETWORK));
        }
        Ok(usual
            .options
            .iter()
            .filter_map(|(option, usual)| {
                let value = value(socket, *option)?;
                if *option == MAXSEG && is_computed(&value) {
                    return None;
                }
                (Some(&value) != usual.as_ref()).then(|| SkOptEntry {
                    level: option.level.cast_unsigned(),
                    name: option.number.cast_unsigned(),
                    value,
                    interface: None,
                })
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::sockets::set_option;

    #[test]
    fn only_what_was_set() {
        let kind = (libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP);
        let socket = create(kind.0, kind.1, kind.2).unwrap();
        let mut usual = Usual::default();
        assert_eq!(usual.differences(socket.as_fd(), kind).unwrap(), []);
        set_option(&socket, libc::SOL_TCP, libc::TCP_DEFER_ACCEPT, 5).unwrap();
        let found = usual.differences(socket.as_fd(), kind).unwrap();
        assert_eq!((found.len(), found[0].name), (1, libc::TCP_DEFER_ACCEPT.cast_unsigned()));
    }

    #[test]
    fn what_the_kernel_computes_is_not_set() {
        let kind = (libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP);
        let socket = create(kind.0, kind.1, kind.2).unwrap();
        let options = [1; 4];
        let (level, name) = (libc::SOL_IP, libc::IP_OPTIONS);
        kernel::sockets::set_option_bytes(&socket, level, name, &options).unwrap();
        let found = Usual::default().differences(socket.as_fd(), kind).unwrap();
        assert!(found.iter().any(|option| option.name == libc::IP_OPTIONS.cast_unsigned()));
        assert!(found.iter().all(|option| option.level != libc::SOL_TCP.cast_unsigned()));
    }

    #[test]
    fn listening_and_connecting_change_nothing() {
        use std::net::{TcpListener, UdpSocket};
        let mut usual = Usual::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let kind = (libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP);
        assert_eq!(usual.differences(listener.as_fd(), kind).unwrap(), []);
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let kind = (libc::AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_TCP);
        assert_eq!(usual.differences(listener.as_fd(), kind).unwrap(), []);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(socket.local_addr().unwrap()).unwrap();
        let kind = (libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDP);
        assert_eq!(usual.differences(socket.as_fd(), kind).unwrap(), []);
    }
}
