//! What the kernel's lists tell of netlink, packet, raw and ping sockets, asked for once in a look.

use std::collections::HashMap;

use ids::HostPid;
use kernel::netlink_diag::{self, NetlinkSocket};
use kernel::packet_diag::{self, PacketSocket};
use kernel::procfs::{Dir, Peer, datagram_peers};

use super::problem::{Doing, Problem};

/// The sockets of the network namespace by their inodes, as far as they have been asked for.
#[derive(Debug, Default)]
pub(super) struct Diagnosed {
    netlink: Option<HashMap<u32, NetlinkSocket>>,
    packet: Option<HashMap<u32, PacketSocket>>,
    peers: Option<HashMap<u64, Peer>>,
}

impl Diagnosed {
    /// A netlink socket; one that has neither a port nor groups is like a new one.
    pub(super) fn netlink(&mut self, inode: u64) -> Result<NetlinkSocket, Problem> {
        let known = match &mut self.netlink {
            Some(known) => known,
            none => none
                .insert(netlink_diag::netlink_sockets().doing("list the netlink sockets beside")?),
        };
        Ok(known.get(&(inode as u32)).cloned().unwrap_or_default())
    }

    /// Whom a raw or ping socket sends to, if it is connected to somebody.
    pub(super) fn peer(&mut self, inode: u64) -> Result<Option<Peer>, Problem> {
        let peers = match &mut self.peers {
            Some(peers) => peers,
            none => {
                let own = Dir::open(HostPid::own());
                let peers = own.and_then(|own| datagram_peers(&own));
                none.insert(peers.doing("list the raw and ping sockets beside")?)
            }
        };
        Ok(peers.get(&inode).cloned())
    }

    /// A packet socket; `None` if it has been closed.
    pub(super) fn packet(&mut self, inode: u64) -> Result<Option<PacketSocket>, Problem> {
        let known = match &mut self.packet {
            Some(known) => known,
            none => {
                none.insert(packet_diag::packet_sockets().doing("list the packet sockets beside")?)
            }
        };
        Ok(known.get(&(inode as u32)).cloned())
    }
}
