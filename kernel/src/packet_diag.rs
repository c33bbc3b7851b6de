//! sock_diag(7) of packet sockets.

use std::collections::HashMap;
use std::io;

use crate::sock_diag::{attributes, dump_as, half, word};

/// A membership of a packet socket (`PACKET_ADD_MEMBERSHIP`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Number of the interface.
    pub interface: u32,
    /// How often it was asked for.
    pub count: u32,
    /// `PACKET_MR_*`.
    pub kind: u16,
    /// The address, if it is one of an address.
    pub address: Vec<u8>,
}

/// A ring, as `struct tpacket_req3` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Bytes of a block.
    pub block_size: u32,
    /// Blocks.
    pub block_count: u32,
    /// Bytes of a frame.
    pub frame_size: u32,
    /// Frames.
    pub frame_count: u32,
    /// Milliseconds after which a block is handed over.
    pub timeout: u32,
    /// Bytes of each block that are the program's own.
    pub private: u32,
    /// Features that were asked for.
    pub features: u32,
}

impl Ring {
    /// Bytes of all its blocks.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        u64::from(self.block_size).saturating_mul(self.block_count.into())
    }
}

/// A packet socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PacketSocket {
    /// `SOCK_*`.
    pub kind: u32,
    /// The protocol, in the order of this machine.
    pub protocol: u16,
    /// Number of the interface that it is bound to, 0 for all; -1 if that has gone.
    pub interface: u32,
    /// `PACKET_VERSION`.
    pub version: u32,
    /// `PACKET_RESERVE`.
    pub reserve: u32,
    /// `PACKET_COPY_THRESH`.
    pub copy_threshold: u32,
    /// `PACKET_TIMESTAMP`.
    pub timestamp: u32,
    /// `PACKET_AUXDATA`.
    pub auxiliary_data: bool,
    /// `PACKET_ORIGDEV`.
    pub original_device: bool,
    /// `PACKET_VNET_HDR`.
    pub network_header: bool,
    /// `PACKET_LOSS`.
    pub loss: bool,
    /// Memberships.
    pub memberships: Vec<Membership>,
    /// It shares packets with others (`PACKET_FANOUT`).
    pub shares: bool,
    /// The ring that packets are received in.
    pub receive_ring: Option<Ring>,
    /// The ring that packets are sent from.
    pub send_ring: Option<Ring>,
}

// include/uapi/linux/packet_diag.h
const SHOW_INFO: u32 = 1;
const SHOW_MEMBERSHIPS: u32 = 2;
const SHOW_RINGS: u32 = 4;
const SHOW_SHARES: u32 = 8;
const INFO: u16 = 0;
const MEMBERSHIPS: u16 = 1;
const RECEIVE_RING: u16 = 2;
const SEND_RING: u16 = 3;
const SHARES: u16 = 4;
const AUXILIARY_DATA: u32 = 2;
const ORIGINAL_DEVICE: u32 = 4;
const NETWORK_HEADER: u32 = 8;
const LOSS: u32 = 16;
/// Bytes of `struct packet_diag_msg` and of `struct packet_diag_mclist`, with the place of the address in it.
const MESSAGE: usize = 16;
const MEMBERSHIP: usize = 44;
const ADDRESS: usize = 12;

/// The packet sockets of the caller's network namespace by their inodes.
///
/// # Errors
/// When the kernel was built without `PACKET_DIAG`, or answers with what is not understood.
pub fn packet_sockets() -> io::Result<HashMap<u32, PacketSocket>> {
    // `struct packet_diag_req`.
    let mut request = vec![libc::AF_PACKET as u8, 0, 0, 0, 0, 0, 0, 0];
    let shown = SHOW_INFO | SHOW_MEMBERSHIPS | SHOW_RINGS | SHOW_SHARES;
    request.extend_from_slice(&shown.to_ne_bytes());
    request.resize(20, 0);
    let mut found = HashMap::new();
    dump_as(&request, |answer| found.extend(socket(answer)))?;
    Ok(found)
}

fn socket(answer: &[u8]) -> Option<(u32, PacketSocket)> {
    let mut socket = PacketSocket {
        kind: (*answer.get(1)?).into(),
        protocol: half(answer, 2)?,
        ..PacketSocket::default()
    };
    let inode = word(answer, 4)?;
    for (kind, value) in attributes(answer.get(MESSAGE..)?) {
        match kind {
            INFO => info(&mut socket, value)?,
            MEMBERSHIPS => {
                let listed = value.chunks_exact(MEMBERSHIP).map(membership);
                socket.memberships = listed.collect::<Option<_>>()?;
            }
            RECEIVE_RING => socket.receive_ring = Some(ring(value)?),
            SHARES => socket.shares = true,
            SEND_RING => socket.send_ring = Some(ring(value)?),
            _ => {}
        }
    }
    Some((inode, socket))
}

fn info(socket: &mut PacketSocket, value: &[u8]) -> Option<()> {
    socket.interface = word(value, 0)?;
    socket.version = word(value, 4)?;
    socket.reserve = word(value, 8)?;
    socket.copy_threshold = word(value, 12)?;
    socket.timestamp = word(value, 16)?;
    let flags = word(value, 20)?;
    socket.auxiliary_data = flags & AUXILIARY_DATA != 0;
    socket.original_device = flags & ORIGINAL_DEVICE != 0;
    socket.network_header = flags & NETWORK_HEADER != 0;
    socket.loss = flags & LOSS != 0;
    Some(())
}

fn membership(value: &[u8]) -> Option<Membership> {
    let length = usize::from(half(value, 10)?);
    Some(Membership {
        interface: word(value, 0)?,
        count: word(value, 4)?,
        kind: half(value, 8)?,
        address: value.get(ADDRESS..ADDRESS + length)?.to_vec(),
    })
}

fn ring(value: &[u8]) -> Option<Ring> {
    let at = |nth: usize| word(value, nth * 4);
    Some(Ring {
        block_size: at(0)?,
        block_count: at(1)?,
        frame_size: at(2)?,
        frame_count: at(3)?,
        timeout: at(4)?,
        private: at(5)?,
        features: at(6)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sockets::{create, set_option};

    /// Needs root.
    #[test]
    fn an_own_socket_is_listed() {
        const ETH_P_LOOP: u16 = 0x60;
        const SOL_PACKET: i32 = 263;
        const PACKET_AUXDATA: i32 = 8;
        let protocol = i32::from(ETH_P_LOOP.to_be());
        let own = create(libc::AF_PACKET, libc::SOCK_DGRAM, protocol).expect("needs root");
        set_option(&own, SOL_PACKET, PACKET_AUXDATA, 1).unwrap();
        let inode = u32::try_from(nix::sys::stat::fstat(&own).unwrap().st_ino).unwrap();
        let known = packet_sockets().unwrap();
        let expected = PacketSocket {
            kind: libc::SOCK_DGRAM.cast_unsigned(),
            protocol: ETH_P_LOOP,
            auxiliary_data: true,
            ..PacketSocket::default()
        };
        assert_eq!(known[&inode], expected);
    }

    #[test]
    fn answers_that_are_cut_short_are_none() {
        for length in 0..MESSAGE {
            assert_eq!(socket(&vec![1; length]), None);
        }
        let too_long = [[0; 10].as_slice(), &[33, 0], &[0; 32]].concat();
        assert_eq!(membership(&too_long), None);
        assert_eq!(ring(&[0; 27]), None);
    }
}
