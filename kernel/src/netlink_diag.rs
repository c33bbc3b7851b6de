//! sock_diag(7) of netlink sockets.

use std::collections::HashMap;
use std::io;

use crate::sock_diag::{attributes, dump_as, word};

/// A netlink socket that has a port or groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetlinkSocket {
    /// 1 of one that is connected (`NETLINK_CONNECTED`); of others 0, or 7 before they ever were.
    pub state: u32,
    /// Own port, 0 for none.
    pub port: u32,
    /// The port that it is connected to.
    pub peer_port: u32,
    /// The group that it is connected to, from 1 on; 0 for none.
    pub peer_group: u32,
    /// The groups that it is a member of: bit 0 of the first word is group 1. The last word is none of zeros.
    pub groups: Vec<u32>,
    /// A list that was asked for is still being sent.
    pub sending: bool,
}

// include/uapi/linux/netlink_diag.h
const ALL_PROTOCOLS: u8 = 0xff;
const SHOW_GROUPS: u32 = 2;
const SHOW_FLAGS: u32 = 8;
const GROUPS: u16 = 1;
const FLAGS: u16 = 4;
const SENDING: u32 = 1;
/// Bytes of `struct netlink_diag_msg`.
const MESSAGE: usize = 28;

/// The netlink sockets of the caller's network namespace by their inodes. Those without a port that are members
/// of no group are not among them.
///
/// # Errors
/// When the kernel was built without `NETLINK_DIAG`, or answers with what is not understood.
pub fn netlink_sockets() -> io::Result<HashMap<u32, NetlinkSocket>> {
    // `struct netlink_diag_req`.
    let mut request = vec![libc::AF_NETLINK as u8, ALL_PROTOCOLS, 0, 0, 0, 0, 0, 0];
    request.extend_from_slice(&(SHOW_GROUPS | SHOW_FLAGS).to_ne_bytes());
    request.resize(20, 0);
    let mut found = HashMap::new();
    dump_as(&request, |answer| found.extend(socket(answer)))?;
    Ok(found)
}

fn socket(answer: &[u8]) -> Option<(u32, NetlinkSocket)> {
    let mut socket = NetlinkSocket {
        state: (*answer.get(3)?).into(),
        port: word(answer, 4)?,
        peer_port: word(answer, 8)?,
        peer_group: word(answer, 12)?,
        ..NetlinkSocket::default()
    };
    let inode = word(answer, 16)?;
    for (kind, value) in attributes(answer.get(MESSAGE..)?) {
        match kind {
            GROUPS => socket.groups = groups(value),
            FLAGS => socket.sending = word(value, 0).is_some_and(|flags| flags & SENDING != 0),
            _ => {}
        }
    }
    Some((inode, socket))
}

/// The kernel has them in words of its own size, each with its lowest bit first.
fn groups(value: &[u8]) -> Vec<u32> {
    let words = value.chunks_exact(size_of::<usize>()).filter_map(|word| word.try_into().ok());
    let halves = words
        .map(usize::from_ne_bytes)
        .flat_map(|word| (0..usize::BITS).step_by(32).map(move |shift| (word >> shift) as u32));
    let mut groups: Vec<u32> = halves.collect();
    let used = groups.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1);
    groups.truncate(used);
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sockets::{Address, bind, create, set_option};
    use std::os::fd::OwnedFd;

    const SOL_NETLINK: i32 = 270;
    const ADD_MEMBERSHIP: i32 = 1;

    fn inode(socket: &OwnedFd) -> u32 {
        u32::try_from(nix::sys::stat::fstat(socket).unwrap().st_ino).unwrap()
    }

    #[test]
    fn ports_and_groups() {
        let new = || create(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE).unwrap();
        let (bound, member, plain) = (new(), new(), new());
        let port = 0x7000_0000 | std::process::id();
        let address = [&[0, 0][..], &port.to_ne_bytes(), &[0; 4]].concat();
        bind(&bound, &Address::new(libc::AF_NETLINK as u16, &address).unwrap()).unwrap();
        set_option(&bound, SOL_NETLINK, ADD_MEMBERSHIP, 1).unwrap();
        // RTNLGRP_NEXTHOP is 32, the first that a word of 32 bits ends with; 33 is in the next.
        set_option(&member, SOL_NETLINK, ADD_MEMBERSHIP, 33).unwrap();
        let known = netlink_sockets().unwrap();
        let first = &known[&inode(&bound)];
        assert_eq!((first.port, &first.groups[..]), (port, &[1][..]));
        assert_ne!(first.state, 1, "it is connected to nobody");
        let second = &known[&inode(&member)];
        assert_eq!((second.port, &second.groups[..]), (0, &[0, 1][..]));
        assert!(!known.contains_key(&inode(&plain)));
    }

    #[test]
    fn answers_that_are_cut_short_are_none() {
        for length in 0..MESSAGE {
            assert_eq!(socket(&vec![1; length]), None);
        }
        assert_eq!(attributes(&[3, 0, 0, 0]).count(), 0);
        assert_eq!(attributes(&[9, 0, 1, 0, 0]).count(), 0);
        assert_eq!(groups(&[0; 8]), []);
    }
}
