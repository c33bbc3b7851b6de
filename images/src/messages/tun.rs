//! A tun device's control file.

use prost::Message;

use super::file_body::file_body;
use super::owned::{Id, Owned};

use super::networks::TunLinkEntry;

/// A tun device's control file.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct TunfileEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Name of the device.
    #[prost(string, optional, tag = "2")]
    pub netdev: Option<String>,
    /// The queue is detached.
    #[prost(bool, optional, tag = "3")]
    pub detached: Option<bool>,
    /// Network namespace, as in [`TaskKobjIdsEntry`](super::TaskKobjIdsEntry).
    #[prost(uint32, optional, tag = "4")]
    pub ns_id: Option<u32>,
    /// What its device has, as this file tells it. An extension.
    #[prost(message, optional, tag = "1000")]
    pub link: Option<TunLinkEntry>,
    /// What of packets the program does itself (`TUN_F_*`). An extension.
    #[prost(uint32, optional, tag = "1001")]
    pub offloads: Option<u32>,
    /// The header before packets is little-endian. An extension.
    #[prost(bool, optional, tag = "1002")]
    pub little_endian: Option<bool>,
    /// It is big-endian. An extension.
    #[prost(bool, optional, tag = "1003")]
    pub big_endian: Option<bool>,
}

file_body! {
    // It is the file of its path that signals.
    TunfileEntry { signals_nobody in_network }

    fn each_id(&mut self, change: &mut dyn FnMut(Id, &mut u32)) {
        self.link.iter_mut().for_each(|device| device.each_id(change));
    }

    fn has_path_apart(&self) -> bool {
        true
    }
}
