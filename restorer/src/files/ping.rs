//! Making sockets that only certain groups may have: those that send and receive echo requests
//! (`IPPROTO_ICMP`), whose groups `net.ipv4.ping_group_range` names. Root is not among them everywhere.

use std::io;
use std::os::fd::OwnedFd;

use kernel::sockets;
use nix::unistd::{Gid, fchown, getegid, setegid};

/// Which groups may have such sockets: the lowest and the highest.
const GROUPS: &str = "/proc/sys/net/ipv4/ping_group_range";

/// A new socket; where our own group may not have it, as a member of one that may.
pub(super) fn create(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    let made = sockets::create(family, kind, protocol);
    let is_ping =
        kind == libc::SOCK_DGRAM && matches!(protocol, libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6);
    match made {
        Err(error) if is_ping && error.raw_os_error() == Some(libc::EACCES) => {
            let text = kernel::sysctl::read(GROUPS)?;
            let group = lowest(&text).ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    "no group may have it: sysctl -w net.ipv4.ping_group_range='0 2147483647'",
                )
            })?;
            let made = as_member(group, || sockets::create(family, kind, protocol))?;
            // It is of the group that made it.
            fchown(&made, None, Some(getegid()))?;
            Ok(made)
        }
        made => made,
    }
}

/// The first group of a range; `None` of an empty one.
fn lowest(text: &str) -> Option<u32> {
    let mut bounds = text.split_whitespace().map(|bound| bound.parse::<u32>().ok());
    let (low, high) = (bounds.next()??, bounds.next()??);
    (low <= high).then_some(low)
}

fn as_member<T>(group: u32, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let own = getegid();
    setegid(Gid::from_raw(group))?;
    let done = work();
    setegid(own)?;
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_groups() {
        assert_eq!(lowest("0\t2147483647\n"), Some(0));
        assert_eq!(lowest("5 5"), Some(5));
        assert_eq!(lowest("1\t0\n"), None);
        assert_eq!(lowest("7"), None);
    }
}
