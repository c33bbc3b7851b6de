//! A packet socket.

use prost::Message;

use super::file_body::file_body;
use super::memory::vma_status;
use super::owned::{Id, Owned};

use super::parts::FownEntry;
use super::sockets::SkOptsEntry;

/// A packet socket.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct PacketSockEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// `SOCK_*`.
    #[prost(uint32, required, tag = "2")]
    pub r#type: u32,
    /// Protocol.
    #[prost(uint32, required, tag = "3")]
    pub protocol: u32,
    /// Flags, as `F_GETFL` gives them.
    #[prost(uint32, required, tag = "4")]
    pub flags: u32,
    /// Device.
    #[prost(uint32, required, tag = "5")]
    pub ifindex: u32,
    /// Who is signalled.
    #[prost(message, required, tag = "6")]
    pub fown: FownEntry,
    /// Options every socket has.
    #[prost(message, required, tag = "7")]
    pub opts: SkOptsEntry,
    /// `PACKET_VERSION`.
    #[prost(uint32, required, tag = "8")]
    pub version: u32,
    /// `PACKET_RESERVE`.
    #[prost(uint32, required, tag = "9")]
    pub reserve: u32,
    /// `PACKET_AUXDATA`.
    #[prost(bool, required, tag = "10")]
    pub aux_data: bool,
    /// `PACKET_ORIGDEV`.
    #[prost(bool, required, tag = "11")]
    pub orig_dev: bool,
    /// `PACKET_VNET_HDR`.
    #[prost(bool, required, tag = "12")]
    pub vnet_hdr: bool,
    /// `PACKET_LOSS`.
    #[prost(bool, required, tag = "13")]
    pub loss: bool,
    /// `PACKET_TIMESTAMP`.
    #[prost(uint32, required, tag = "14")]
    pub timestamp: u32,
    /// `PACKET_COPY_THRESH`.
    #[prost(uint32, required, tag = "15")]
    pub copy_thresh: u32,
    /// Memberships.
    #[prost(message, repeated, tag = "16")]
    pub mclist: Vec<PacketMclist>,
    /// `PACKET_FANOUT`.
    #[prost(uint32, optional, tag = "17", default = "0xffffffff")]
    pub fanout: Option<u32>,
    /// Ring for receiving.
    #[prost(message, optional, tag = "18")]
    pub rx_ring: Option<PacketRing>,
    /// Ring for sending.
    #[prost(message, optional, tag = "19")]
    pub tx_ring: Option<PacketRing>,
    /// Network namespace, as in [`TaskKobjIdsEntry`](super::TaskKobjIdsEntry).
    #[prost(uint32, optional, tag = "20")]
    pub ns_id: Option<u32>,
    /// Extension: name of the device, whose number may be another one's where it is restored.
    #[prost(string, optional, tag = "1000")]
    pub interface: Option<String>,
    /// The frame or block of its ring to receive by that the kernel goes on with (ours).
    #[prost(uint32, optional, tag = "1001")]
    pub ring_next: Option<u32>,
    /// What of that ring has not been read, in order (ours).
    #[prost(message, repeated, tag = "1002")]
    pub ring_unread: Vec<PacketRingPart>,
}

/// Extension: a frame, or a block, of a ring of packets.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct PacketRingPart {
    /// Which, from 0.
    #[prost(uint32, required, tag = "1")]
    pub index: u32,
    /// Its bytes from the beginning on, as far as they mean something.
    #[prost(bytes = "vec", required, tag = "2")]
    pub bytes: Vec<u8>,
}

/// A multicast membership of a packet socket.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct PacketMclist {
    /// Device.
    #[prost(uint32, required, tag = "1")]
    pub index: u32,
    /// Type.
    #[prost(uint32, required, tag = "2")]
    pub r#type: u32,
    /// Address.
    #[prost(bytes = "vec", required, tag = "3")]
    pub addr: Vec<u8>,
    /// Extension: name of the device.
    #[prost(string, optional, tag = "1000")]
    pub interface: Option<String>,
}

/// A ring of a packet socket.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct PacketRing {
    /// Bytes of a block.
    #[prost(uint32, required, tag = "1")]
    pub block_size: u32,
    /// Blocks.
    #[prost(uint32, required, tag = "2")]
    pub block_nr: u32,
    /// Bytes of a frame.
    #[prost(uint32, required, tag = "3")]
    pub frame_size: u32,
    /// Frames.
    #[prost(uint32, required, tag = "4")]
    pub frame_nr: u32,
    /// Milliseconds until a block is handed over.
    #[prost(uint32, required, tag = "5")]
    pub retire_tmo: u32,
    /// Bytes of private data.
    #[prost(uint32, required, tag = "6")]
    pub sizeof_priv: u32,
    /// Features asked for.
    #[prost(uint32, required, tag = "7")]
    pub features: u32,
}

file_body! {
    PacketSockEntry { signals in_network }

    fn each_id(&mut self, change: &mut dyn FnMut(Id, &mut u32)) {
        self.opts.inode.iter_mut().for_each(|inode| inode.each_id(change));
    }

    fn mapping_status(&self) -> u32 {
        vma_status::SOCKET
    }
}
