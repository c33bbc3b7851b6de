//! A netlink socket.

use prost::Message;

use super::file_body::file_body;
use super::owned::{Id, Owned};

use super::parts::FownEntry;
use super::sockets::SkOptsEntry;

/// A netlink socket.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct NetlinkSkEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Inode, which is how other entries refer to it.
    #[prost(uint32, required, tag = "2")]
    pub ino: u32,
    /// `NETLINK_*`.
    #[prost(uint32, required, tag = "3")]
    pub protocol: u32,
    /// `SK_*`.
    #[prost(uint32, required, tag = "4")]
    pub state: u32,
    /// Flags, as `F_GETFL` gives them.
    #[prost(uint32, required, tag = "6")]
    pub flags: u32,
    /// Own port.
    #[prost(uint32, required, tag = "7")]
    pub portid: u32,
    /// Groups joined, as a bit map.
    #[prost(uint32, repeated, packed = "false", tag = "8")]
    pub groups: Vec<u32>,
    /// Other side's port.
    #[prost(uint32, required, tag = "9")]
    pub dst_portid: u32,
    /// Other side's group.
    #[prost(uint32, required, tag = "10")]
    pub dst_group: u32,
    /// Who is signalled.
    #[prost(message, required, tag = "11")]
    pub fown: FownEntry,
    /// Options every socket has.
    #[prost(message, required, tag = "12")]
    pub opts: SkOptsEntry,
    /// Network namespace, as in [`TaskKobjIdsEntry`](super::TaskKobjIdsEntry).
    #[prost(uint32, optional, tag = "13")]
    pub ns_id: Option<u32>,
    /// Extension: `SOCK_RAW` or `SOCK_DGRAM`; CRIU makes all of them raw.
    #[prost(uint32, optional, tag = "1000")]
    pub r#type: Option<u32>,
}

file_body! {
    NetlinkSkEntry { signals in_network }

    fn each_id(&mut self, change: &mut dyn FnMut(Id, &mut u32)) {
        self.opts.inode.iter_mut().for_each(|inode| inode.each_id(change));
    }
}
