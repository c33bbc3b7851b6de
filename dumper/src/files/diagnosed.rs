//! What the kernel's lists tell of netlink, packet, raw and ping sockets, asked for once in a look.

use std::collections::HashMap;
use std::io;

use kernel::netlink_diag::{self, NetlinkSocket};
use kernel::packet_diag::{self, PacketSocket};
use kernel::procfs::{Dir, Peer, datagram_peers};

use super::networks::All;
use super::problem::{Doing, Problem};

/// How often a list is asked for in all, when somebody is missed in it: the kernel goes on in it by counting, and
/// leaves one out when another is closed meanwhile.
const TIMES: u32 = 3;

/// A list of the kernel's, by inodes.
#[derive(Debug)]
struct List<T> {
    known: HashMap<u32, T>,
    asked: u32,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self { known: HashMap::new(), asked: 0 }
    }
}

impl<T: Clone> List<T> {
    /// The one with an inode; `None` if it is in none of the lists that `ask` gives.
    fn get(
        &mut self,
        inode: u64,
        mut ask: impl FnMut() -> io::Result<HashMap<u32, T>>,
    ) -> io::Result<Option<T>> {
        loop {
            match self.known.get(&(inode as u32)) {
                None if self.asked < TIMES => self.known.extend(ask()?),
                found => return Ok(found.cloned()),
            }
            self.asked += 1;
        }
    }
}

/// What `ask` gives in each namespace, together.
fn merged<K: Eq + std::hash::Hash, T>(
    networks: &All,
    ask: impl FnMut() -> io::Result<HashMap<K, T>>,
) -> io::Result<HashMap<K, T>> {
    Ok(networks.each(ask)?.into_iter().flatten().collect())
}

/// The sockets of the network namespaces by their inodes, as far as they have been asked for.
#[derive(Debug, Default)]
pub(super) struct Diagnosed {
    netlink: List<NetlinkSocket>,
    packet: List<PacketSocket>,
    peers: Option<HashMap<(u64, i32), Peer>>,
    /// The namespaces in which there are sockets of the tree.
    pub(super) networks: All,
}

impl Diagnosed {
    /// A netlink socket; one that has neither a port nor groups is like a new one.
    pub(super) fn netlink(&mut self, inode: u64) -> Result<NetlinkSocket, Problem> {
        let known =
            self.netlink.get(inode, || merged(&self.networks, netlink_diag::netlink_sockets));
        Ok(known.doing("list the netlink sockets beside")?.unwrap_or_default())
    }

    /// Whom a raw or ping socket of a family (`AF_*`) sends to, if it is connected to somebody.
    pub(super) fn peer(&mut self, inode: u64, family: i32) -> Result<Option<Peer>, Problem> {
        let peers = match &mut self.peers {
            Some(peers) => peers,
            none => {
                let peers = || {
                    let own = Dir::of_this_thread();
                    own.and_then(|own| datagram_peers(&own)).map_err(io::Error::other)
                };
                let peers = merged(&self.networks, peers);
                none.insert(peers.doing("list the raw and ping sockets beside")?)
            }
        };
        Ok(peers.get(&(inode, family)).cloned())
    }

    /// A packet socket; `None` if it has been closed.
    pub(super) fn packet(&mut self, inode: u64) -> Result<Option<PacketSocket>, Problem> {
        let known = self.packet.get(inode, || merged(&self.networks, packet_diag::packet_sockets));
        known.doing("list the packet sockets beside")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_missed_is_asked_for_again() {
        let mut list = List::default();
        let mut asked = 0;
        let mut get = |inode| {
            list.get(inode, || {
                asked += 1;
                Ok(if asked == 2 { HashMap::from([(7, 'b')]) } else { HashMap::from([(5, 'a')]) })
            })
            .unwrap()
        };
        assert_eq!((get(5), get(7), get(9), get(9)), (Some('a'), Some('b'), None, None));
        assert_eq!(asked, TIMES);
    }
}
