//! Multicast: the groups that sockets are members of.
//!
//! A socket does not list its groups, but tells of one that it is asked for. A group that any socket of
//! the network namespace is a member of is in `/proc/net/igmp` or `igmp6`: so each of these is asked for.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::sockets::{option_bytes, set_option_bytes};

/// A group on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Number of the interface.
    pub interface: u32,
    /// The group's address.
    pub address: IpAddr,
}

/// Which sources of a group a member listens to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// Only to those listed (`MCAST_INCLUDE`), or to all but those.
    pub only: bool,
    /// The sources.
    pub list: Vec<IpAddr>,
}

// include/uapi/linux/in.h
const MCAST_JOIN_GROUP: i32 = 42;
const MCAST_MSFILTER: i32 = 48;
const MCAST_INCLUDE: u32 = 1;

/// Bytes of `sockaddr_storage`.
const STORAGE: usize = 128;
/// Where `struct group_req` and `struct group_filter` have the address, and the latter what follows.
const ADDRESS: usize = 8;
const MODE: usize = ADDRESS + STORAGE;
const COUNT: usize = MODE + 4;
const LIST: usize = COUNT + 4;

/// More sources than the kernel lets a socket have, unless its limits were raised.
const MOST: usize = 1024;

const fn level(address: IpAddr) -> i32 {
    match address {
        IpAddr::V4(_) => libc::SOL_IP,
        IpAddr::V6(_) => libc::SOL_IPV6,
    }
}

fn storage(address: IpAddr) -> [u8; STORAGE] {
    let mut bytes = [0; STORAGE];
    match address {
        IpAddr::V4(address) => {
            bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            bytes[4..8].copy_from_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            bytes[8..24].copy_from_slice(&address.octets());
        }
    }
    bytes
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match i32::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?)) {
        libc::AF_INET => Some(IpAddr::from(<[u8; 4]>::try_from(bytes.get(4..8)?).ok()?)),
        libc::AF_INET6 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes.get(8..24)?).ok()?)),
        _ => None,
    }
}

fn request(group: Group) -> Vec<u8> {
    let mut bytes = group.interface.to_ne_bytes().to_vec();
    bytes.resize(ADDRESS, 0);
    bytes.extend_from_slice(&storage(group.address));
    bytes
}

/// The groups of this network namespace.
///
/// # Errors
/// If they cannot be read or understood.
pub fn groups() -> io::Result<Vec<Group>> {
    let read = |path: &str| match std::fs::read_to_string(path) {
        // The kernel was built without.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        text => text,
    };
    let strange = || io::Error::other("understand the list of multicast groups");
    let mut groups = of_ipv4(&read("/proc/thread-self/net/igmp")?).ok_or_else(strange)?;
    groups.extend(of_ipv6(&read("/proc/thread-self/net/igmp6")?).ok_or_else(strange)?);
    Ok(groups)
}

/// A line for each interface, then one for each of its groups, which begin with blanks.
fn of_ipv4(text: &str) -> Option<Vec<Group>> {
    let mut interface = 0;
    let mut groups = Vec::new();
    for line in text.lines().skip(1) {
        let first = line.split_whitespace().next()?;
        if line.starts_with([' ', '\t']) {
            // The address as it lies in memory, printed as a number.
            let address = u32::from_str_radix(first, 16).ok()?.to_ne_bytes();
            groups.push(Group { interface, address: Ipv4Addr::from(address).into() });
        } else {
            interface = first.parse().ok()?;
        }
    }
    Some(groups)
}

fn of_ipv6(text: &str) -> Option<Vec<Group>> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let interface = words.next()?.parse().ok()?;
        let address = u128::from_str_radix(words.nth(1)?, 16).ok()?;
        Some(Group { interface, address: Ipv6Addr::from(address).into() })
    };
    text.lines().map(line).collect()
}

/// The addresses on the link that somebody has the devices of this network namespace listen to (`ip maddress add`), by the devices'
/// numbers.
///
/// # Errors
/// If they cannot be read or understood.
pub fn link_groups() -> io::Result<BTreeMap<u32, Vec<Vec<u8>>>> {
    let strange = || io::Error::other("understand the list of addresses that devices listen to");
    of_links(&std::fs::read_to_string("/proc/thread-self/net/dev_mcast")?).ok_or_else(strange)
}

/// A line for each: the device's number and name, how many use it, whether somebody has it so, the address.
fn of_links(text: &str) -> Option<BTreeMap<u32, Vec<Vec<u8>>>> {
    let mut found = BTreeMap::<u32, Vec<Vec<u8>>>::new();
    for line in text.lines() {
        // Names may have blanks of other alphabets, and some devices have addresses of no length.
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [device, _, _, by_somebody, ref address @ ..] = words[..] else { return None };
        let address = address.first().copied().unwrap_or_default();
        let digits = address.as_bytes().chunks(2).map(|two| std::str::from_utf8(two).ok());
        let address: Option<Vec<u8>> =
            digits.map(|two| u8::from_str_radix(two?, 16).ok()).collect();
        if by_somebody.parse::<u32>().ok()? > 0 {
            found.entry(device.parse().ok()?).or_default().push(address?);
        }
    }
    Some(found)
}

/// Has a device of this network namespace listen to an address on the link, as `ip maddress add` has it.
///
/// # Errors
/// As netdevice(7) of `SIOCADDMULTI`.
pub fn join_on_link(device: &str, address: &[u8]) -> io::Result<()> {
    const SIOCADDMULTI: libc::Ioctl = 0x8931;
    /// Where `struct ifreq` has the address, behind the name and a family of none.
    const NAME: usize = 16;
    const AT: usize = NAME + 2;
    let mut request = [0_u8; 40];
    if device.len() >= NAME || address.len() > request.len() - AT {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    request[..device.len()].copy_from_slice(device.as_bytes());
    request[AT..AT + address.len()].copy_from_slice(address);
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: this request reads a `struct ifreq`, which the array is as large as.
    match unsafe { libc::ioctl(socket.as_raw_fd(), SIOCADDMULTI, request.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What a socket listens to of a group; `None` if it is no member.
///
/// # Errors
/// As getsockopt(2), and for more sources than anybody has.
pub fn membership(socket: impl AsFd, group: Group) -> io::Result<Option<Sources>> {
    let mut bytes = request(group);
    bytes.resize(LIST, 0);
    bytes[COUNT..LIST].copy_from_slice(&(MOST as u32).to_ne_bytes());
    bytes.resize(LIST + MOST * STORAGE, 0);
    match option_bytes(socket, level(group.address), MCAST_MSFILTER, &mut bytes) {
        Ok(_) => {}
        Err(error) => match error.raw_os_error() {
            Some(libc::EADDRNOTAVAIL | libc::ENODEV) => return Ok(None),
            // It has no groups of this family.
            Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP) => return Ok(None),
            _ => return Err(error),
        },
    }
    let word = |at: usize| bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
    let word = |at: usize| word(at).map_or(0, u32::from_ne_bytes);
    let count = word(COUNT) as usize;
    if count > MOST {
        return Err(io::Error::other(format!(
            "it listens to {count} sources of a multicast group"
        )));
    }
    let list = bytes[LIST..].chunks_exact(STORAGE).take(count).map(address);
    let list =
        list.collect::<Option<_>>().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(Some(Sources { only: word(MODE) == MCAST_INCLUDE, list }))
}

/// Makes a socket a member.
///
/// # Errors
/// As setsockopt(2).
pub fn join(socket: impl AsFd, group: Group, sources: &Sources) -> io::Result<()> {
    let socket = socket.as_fd();
    let level = level(group.address);
    let mut bytes = request(group);
    set_option_bytes(socket, level, MCAST_JOIN_GROUP, &bytes)?;
    if !sources.only && sources.list.is_empty() {
        return Ok(());
    }
    bytes.extend_from_slice(&u32::from(sources.only).to_ne_bytes());
    bytes.extend_from_slice(&(sources.list.len() as u32).to_ne_bytes());
    for source in &sources.list {
        bytes.extend_from_slice(&storage(*source));
    }
    set_option_bytes(socket, level, MCAST_MSFILTER, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn lists_are_read() {
        let text = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
            1\tlo        :     2      V3\n\
            \t\t\t\t030201EF     1 0:00000000\t\t0\n";
        let address = u32::from_str_radix("030201EF", 16).unwrap().to_ne_bytes();
        let group = Group { interface: 1, address: Ipv4Addr::from(address).into() };
        assert_eq!(of_ipv4(text), Some(vec![group]));
        let text = "4    eth0            ff020000000000000000000000000001     1 0000000C 0\n";
        let group = Group { interface: 4, address: "ff02::1".parse().unwrap() };
        assert_eq!(of_ipv6(text), Some(vec![group]));
        let text = "3    eth0            1     0     333300000001\n3    eth0            2     1     01005e000023\n";
        let mine = [(3, vec![vec![1, 0, 0x5e, 0, 0, 0x23]])];
        assert_eq!(of_links(text), Some(mine.into()));
        assert!(of_links("3 eth0 1 1 0\u{e9}\n").is_none() && of_links("3 eth0 1\n").is_none());
        assert_eq!(of_links("3 a\u{2003}b 1 1 \n"), Some([(3, vec![Vec::new()])].into()));
        assert_eq!(of_ipv4("Idx\nx\n"), None);
        assert_eq!(of_ipv6("x\n"), None);
    }

    #[test]
    fn members_and_their_sources() {
        for (own, group, source) in
            [("127.0.0.1:0", "239.7.7.7", "127.0.0.9"), ("[::]:0", "ff02::7:7", "fe80::9")]
        {
            let group = Group { interface: 1, address: group.parse().unwrap() };
            let all = Sources { only: false, list: Vec::new() };
            let some = Sources { only: true, list: vec![source.parse().unwrap()] };
            for sources in [all, some] {
                let socket = UdpSocket::bind(own).unwrap();
                assert_eq!(membership(&socket, group).unwrap(), None);
                join(&socket, group, &sources).unwrap();
                assert_eq!(membership(&socket, group).unwrap(), Some(sources));
                assert!(groups().unwrap().contains(&group));
            }
        }
        let stream = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let group = Group { interface: 1, address: "ff02::7:7".parse().unwrap() };
        assert_eq!(membership(&stream, group).unwrap(), None);
    }
}
