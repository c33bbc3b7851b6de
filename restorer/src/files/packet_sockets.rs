//! Packet sockets, with what they are bound to, memberships, rings, and the group that they share packets with.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use images::messages::{FileEntry, PacketMclist, PacketRing, PacketSockEntry, fd_type};
use kernel::packet_diag::Ring;
use kernel::packet_ring::advance::advance;
use kernel::sockets::{self, Address, set_option, set_option_bytes};
use libc::{AF_PACKET, SOL_PACKET, SOL_SOCKET};

use support::Refusal;

use super::beside::{Beside, Part};
use super::content::Needs;
use super::file_kind::{FileKind, missing};
use super::images::FileImages;
use super::keep::Keep;
use super::opener::Opener;
use super::opening::{Opening, flagged};
use super::socket_options;
use super::user::User;
use super::{Error, Refused};

// include/uapi/linux/if_packet.h
const ADD_MEMBERSHIP: i32 = 1;
const RX_RING: i32 = 5;
const COPY_THRESH: i32 = 7;
const AUXDATA: i32 = 8;
const ORIGDEV: i32 = 9;
const VERSION: i32 = 10;
const RESERVE: i32 = 12;
const TX_RING: i32 = 13;
const LOSS: i32 = 14;
const VNET_HDR: i32 = 15;
const TIMESTAMP: i32 = 17;
const FANOUT: i32 = 18;
/// The old type of packet sockets, which are bound by a name.
const SOCK_PACKET: u32 = 10;

/// A packet socket.
#[derive(Debug)]
pub(super) struct PacketSocket;

/// The sockets with rings, which may be mapped, by the ids of their entries.
#[derive(Debug, Default)]
struct Mappable(BTreeMap<u32, OwnedFd>);

impl Part for Mappable {
    fn keep(&mut self, keep: Keep) -> io::Result<()> {
        for socket in self.0.values_mut() {
            *socket = keep.keep(socket.try_clone()?)?;
        }
        Ok(())
    }
}

impl FileKind for PacketSocket {
    fn r#type(&self) -> u32 {
        fd_type::PACKETSK
    }

    fn check(&self, file: &FileEntry, _images: &FileImages) -> Result<(), Error> {
        let entry = entry(file)?;
        let wrong = |reason: &str| Err(Error::image(what(entry), reason));
        let is_known = |kind: i32| entry.r#type == kind.cast_unsigned();
        if !is_known(libc::SOCK_RAW) && !is_known(libc::SOCK_DGRAM) && entry.r#type != SOCK_PACKET {
            return wrong("it is of no type that such sockets have");
        }
        if u16::try_from(entry.protocol).is_err() {
            return wrong("its protocol is none");
        }
        let all =
            entry.rx_ring.map_or(0, |ring| u64::from(ring.block_size) * u64::from(ring.block_nr));
        let unread = entry.ring_unread.iter().map(|part| part.bytes.len() as u64).sum::<u64>();
        if unread > all
            || entry.ring_next.is_some()
                && (entry.rx_ring.is_none() || entry.protocol == 0 || entry.r#type == SOCK_PACKET)
        {
            return wrong("more is unread of its ring than that has room for, or it has none");
        }
        match entry.mclist.iter().any(|it| it.addr.len() > MOST_BYTES || it.r#type > 0xffff) {
            true => wrong("it has a membership that nobody can have"),
            false => Ok(()),
        }
    }

    fn beyond(&self, file: &FileEntry, _user: &User<'_>) -> Option<(Refusal, String)> {
        Some((support::sockets::OF_ROOT, format!("socket of file {}", file.id)))
    }

    fn open(&self, opening: &mut Opening<'_>, files: &[&FileEntry]) -> Result<(), Error> {
        // All rings are brought to their places before anything is bound that would see the packets by which that is done.
        let mut made = Vec::new();
        for file in files {
            let entry = entry(file)?;
            made.push((entry, opening.opener.networks.within(entry.ns_id, || make(entry))?));
        }
        for (entry, socket) in made {
            let socket = opening.opener.networks.within(entry.ns_id, || complete(entry, socket))?;
            if entry.rx_ring.is_some() || entry.tx_ring.is_some() {
                let mapped = socket.try_clone().map_err(|source| Error::Kernel {
                    operation: format!("copy the descriptor of {}", what(entry)),
                    source,
                })?;
                opening.beside.of::<Mappable>().0.insert(entry.id, mapped);
            }
            opening.add(entry.id, socket)?;
        }
        Ok(())
    }

    fn map(
        &self,
        _opener: &mut Opener,
        beside: &mut Beside,
        file: &FileEntry,
        _with: u32,
        _needs: Needs,
    ) -> Result<OwnedFd, Error> {
        let entry = entry(file)?;
        let socket = beside.get::<Mappable>().and_then(|sockets| sockets.0.get(&entry.id));
        let socket =
            socket.ok_or_else(|| Error::image(what(entry), "it is mapped, and has no rings"))?;
        socket.try_clone().map_err(|source| Error::Kernel {
            operation: format!("copy the descriptor of {}", what(entry)),
            source,
        })
    }
}

fn entry(file: &FileEntry) -> Result<&PacketSockEntry, Error> {
    file.psk.as_deref().ok_or_else(|| missing(file))
}

fn what(entry: &PacketSockEntry) -> String {
    format!("packet socket {}", entry.id)
}

/// Makes the socket of an entry, with its rings. It is bound when all else is as it was ([`complete`]): before that it
/// receives nothing.
fn make(entry: &PacketSockEntry) -> Result<OwnedFd, Error> {
    let what = what(entry);
    let failed = |doing: &str| {
        let operation = format!("{doing} {what}");
        move |source| Error::Kernel { operation, source }
    };
    let old = entry.r#type == SOCK_PACKET;
    // One of the old type is given its protocol when it is made, and never again.
    let protocol = if old { entry.protocol.cast_signed() } else { 0 };
    let socket = sockets::create(AF_PACKET, entry.r#type.cast_signed(), protocol);
    let socket = socket.map_err(failed("make"))?;
    socket_options::all(&socket, &entry.opts, None, &what)?;
    if !old {
        packet_options(&socket, entry).map_err(failed("set the options of"))?;
    }
    socket_options::others(&socket, &entry.opts, &what)?;
    for (option, ring) in [(RX_RING, &entry.rx_ring), (TX_RING, &entry.tx_ring)] {
        if let Some(ring) = ring {
            set_option_bytes(&socket, SOL_PACKET, option, &request(ring))
                .map_err(failed("make a ring of"))?;
        }
    }
    if let Some(ring) = &entry.rx_ring {
        fill(&socket, entry, ring, &what)?;
    }
    Ok(socket)
}

/// Brings a ring to where the kernel went on in it, with what has not been read.
fn fill(
    socket: &OwnedFd,
    entry: &PacketSockEntry,
    ring: &PacketRing,
    what: &str,
) -> Result<(), Error> {
    let next = entry.ring_next.unwrap_or(0);
    if next == 0 && entry.ring_unread.is_empty() {
        return Ok(());
    }
    let ring = known(ring);
    let bytes = ring.bytes() + entry.tx_ring.as_ref().map_or(0, |ring| known(ring).bytes());
    let unread: Vec<_> =
        entry.ring_unread.iter().map(|part| (part.index, &part.bytes[..])).collect();
    match advance(socket.as_fd(), (&ring, entry.version), bytes, next, &unread) {
        Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => {
            Err(Error::Refused(vec![Refused::new(
                entry.id,
                support::sockets::RING_NOT_ADVANCED.of(0, what),
            )]))
        }
        done => done.map_err(|source| {
            let operation = format!("bring the ring to its place of {what}");
            Error::Kernel { operation, source }
        }),
    }
}

/// What is bound, receives.
fn complete(entry: &PacketSockEntry, socket: OwnedFd) -> Result<OwnedFd, Error> {
    let what = what(entry);
    let failed = |doing: &str| {
        let operation = format!("{doing} {what}");
        move |source| Error::Kernel { operation, source }
    };
    socket_options::filter(&socket, &entry.opts, &what)?;
    for membership in &entry.mclist {
        let interface = number(membership.index, membership.interface.as_deref(), &what)?;
        join(&socket, membership, interface).map_err(failed("make a member of a group"))?;
    }
    let interface = number(entry.ifindex, entry.interface.as_deref(), &what)?;
    if let Some(address) = address(entry, interface).map_err(failed("name the interface of"))? {
        sockets::bind(&socket, &address).map_err(failed("bind"))?;
        // An interface that is down says so; whoever had the socket has been told.
        sockets::option(&socket, SOL_SOCKET, libc::SO_ERROR).map_err(failed("bind"))?;
    }
    if let Some(group) = entry.fanout {
        set_option(&socket, SOL_PACKET, FANOUT, group)
            .map_err(failed(&format!("join the group {} of", group & 0xffff)))?;
    }
    flagged(socket, entry.flags, &what)
}

fn packet_options(socket: &OwnedFd, entry: &PacketSockEntry) -> io::Result<()> {
    let set = |option, value: u32| match value {
        0 => Ok(()),
        value => set_option(socket, SOL_PACKET, option, value),
    };
    set(VERSION, entry.version)?;
    set(RESERVE, entry.reserve)?;
    set(TIMESTAMP, entry.timestamp)?;
    set(COPY_THRESH, entry.copy_thresh)?;
    set(AUXDATA, entry.aux_data.into())?;
    set(ORIGDEV, entry.orig_dev.into())?;
    set(VNET_HDR, entry.vnet_hdr.into())?;
    set(LOSS, entry.loss.into())
}

/// The number of an interface: by its name, where the images have that.
fn number(was: u32, name: Option<&str>, what: &str) -> Result<u32, Error> {
    match name {
        None => Ok(was),
        Some(name) => nix::net::if_::if_nametoindex(name)
            .map_err(|errno| Error::kernel(format!("find interface {name} of {what}"), errno)),
    }
}

/// What the socket is bound to: `sockaddr_ll`, or the name of an interface; `None` if nothing has to be bound.
fn address(entry: &PacketSockEntry, interface: u32) -> io::Result<Option<Address>> {
    /// Bytes of `sockaddr` behind the family.
    const NAME: usize = 14;
    let family = AF_PACKET as u16;
    if entry.r#type != SOCK_PACKET {
        if (interface, entry.protocol) == (0, 0) {
            return Ok(None);
        }
        // In the order of the network, as in the images.
        let protocol = (entry.protocol as u16).to_ne_bytes();
        let data = [&protocol[..], &interface.to_ne_bytes(), &[0; 12]].concat();
        return Address::new(family, &data).map(Some);
    }
    if interface == 0 {
        return Ok(None);
    }
    let mut name = sockets::interface_name(interface)?.into_bytes();
    name.resize(NAME, 0);
    Address::new(family, &name).map(Some)
}

/// Bytes of the longest address of hardware (`MAX_ADDR_LEN`).
const MOST_BYTES: usize = 32;

/// By `struct packet_mreq`, with as long an address as there may be.
fn join(socket: &OwnedFd, entry: &PacketMclist, interface: u32) -> io::Result<()> {
    let mut request = interface.to_ne_bytes().to_vec();
    request.extend_from_slice(&(entry.r#type as u16).to_ne_bytes());
    request.extend_from_slice(&(entry.addr.len() as u16).to_ne_bytes());
    request.extend_from_slice(&entry.addr);
    request.resize(8 + MOST_BYTES, 0);
    set_option_bytes(socket, SOL_PACKET, ADD_MEMBERSHIP, &request)
}

const fn known(ring: &PacketRing) -> Ring {
    Ring {
        block_size: ring.block_size,
        block_count: ring.block_nr,
        frame_size: ring.frame_size,
        frame_count: ring.frame_nr,
        timeout: ring.retire_tmo,
        private: ring.sizeof_priv,
        features: ring.features,
    }
}

/// `struct tpacket_req3`, which begins as `struct tpacket_req`.
fn request(ring: &PacketRing) -> Vec<u8> {
    let PacketRing { block_size, block_nr, frame_size, frame_nr, .. } = *ring;
    let words = [
        block_size,
        block_nr,
        frame_size,
        frame_nr,
        ring.retire_tmo,
        ring.sizeof_priv,
        ring.features,
    ];
    words.map(u32::to_ne_bytes).concat()
}
