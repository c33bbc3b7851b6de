//! Packet sockets: the interface and protocol that they are bound to, memberships, rings, and the group that they
//! share packets with.
//!
//! What waits in one are copies of what others have sent and received. They are left behind, as packets are for
//! which a socket has no room, and this is told. What the program has not read of a ring is carried.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use collector::{Mapping, OpenFile, Process};
use ids::HostPid;
use images::messages::{
    FileEntry, PacketMclist, PacketRing, PacketRingPart, PacketSockEntry, fd_type, vma_status,
};
use kernel::packet_diag::{Membership, PacketSocket as Known, Ring};
use kernel::packet_ring::MappedRings;
use kernel::packet_ring::advance::is_loopback_up;
use kernel::packet_ring::used::{Unclear, Used};
use kernel::sockets::{is_readable, option};
use kernel::tty::bytes_waiting;
use libc::SOL_PACKET;

use super::beside::Part;
use super::file_cache::Keeping;
use super::file_kind::FileKind;
use super::held::with_socket;
use super::problem::{Doing, Problem};
use super::socket_options;
use super::survey::Survey;

/// How the name of a mapping of a socket, and the link text of one, begins.
const PREFIX: &[u8] = b"socket:[";

/// A packet socket.
#[derive(Debug)]
pub(super) struct PacketSocket;

/// The rings that have been found, by the inodes of their sockets.
#[derive(Debug, Default)]
struct Rings(HashMap<u64, Mappable>);

impl Part for Rings {}

/// What of a socket can be mapped.
#[derive(Debug)]
struct Mappable {
    /// Of the file's entry.
    id: u32,
    bytes: u64,
}

impl FileKind for PacketSocket {
    fn types(&self) -> &'static [u32] {
        &[fd_type::PACKETSK]
    }

    fn families(&self) -> &'static [i32] {
        &[libc::AF_PACKET]
    }

    fn capture(
        &self,
        survey: &mut Survey<'_>,
        process: &Process,
        file: &OpenFile,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        if survey.context.for_user {
            return Err(Problem::Refused(support::sockets::OF_ROOT));
        }
        let pid = process.pid;
        let fown = survey.owner(pid, file)?;
        let common = survey.common(pid, file)?;
        let known = survey.diagnosed.packet(file.inode)?.ok_or(Problem::Gone)?;
        if known.receive_ring.is_some() || known.send_ring.is_some() {
            // What is in them is no part of the socket, nor of its mark.
            survey.to_keep = false;
        }
        let mut socket = with_socket(survey.held, pid, file, |socket| self::entry(socket, &known))?;
        let bytes = bytes(&known);
        let ring = with_socket(survey.held, pid, file, |socket| ring_of(socket, &known, bytes))?;
        let waits = |socket: BorrowedFd<'_>| match &ring {
            Some(ring) => Ok(ring.left_behind || has_queued(socket, &known)?),
            None => is_readable(socket).doing("look for packets in"),
        };
        // What is refused is refused in the plan.
        if with_socket(survey.held, pid, file, waits)? && survey.frozen {
            survey.out.left_behind += 1;
        }
        if let Some(Used { next, unread, .. }) = ring {
            socket.ring_next = Some(next).filter(|next| *next > 0);
            let part = |(index, bytes)| PacketRingPart { index, bytes };
            socket.ring_unread = unread.into_iter().map(part).collect();
        }
        if bytes > 0 {
            survey.out.beside.of::<Rings>().0.insert(file.inode, Mappable { id: entry.id, bytes });
        }
        socket.id = entry.id;
        socket.flags = file.flags;
        socket.fown = fown;
        socket.opts.others = common.others;
        Ok(FileEntry { r#type: fd_type::PACKETSK, psk: Some(Box::new(socket)), ..entry })
    }

    fn is_mapped(&self, inode: u64, called: &OsStr) -> bool {
        inode != 0 && called.as_bytes().starts_with(PREFIX)
    }

    fn mapping_status(&self) -> u32 {
        vma_status::SOCKET
    }

    /// The rings are mapped as a whole, and from the open file that has them.
    fn mapped_as(
        &self,
        survey: &mut Survey<'_>,
        mapping: &Mapping,
    ) -> Option<Result<u32, Problem>> {
        let rings = survey.out.beside.of::<Rings>().0.get(&mapping.inode);
        Some(match rings {
            Some(rings) if rings.bytes == mapping.end - mapping.start => Ok(rings.id),
            Some(_) => Err(Problem::Refused(support::sockets::RING_IN_PARTS)),
            None => Err(Problem::Refused(support::sockets::RING_WITHOUT_SOCKET)),
        })
    }

    /// A mark covers all that its protocol keeps of it; what is in a list beside is changed by options.
    fn holds(
        &self,
        _survey: &mut Survey<'_>,
        _pid: HostPid,
        _file: &OpenFile,
        _keeping: &mut Keeping,
    ) -> Result<bool, Problem> {
        Ok(true)
    }

    fn is_steady(&self, _entry: &FileEntry, _size: Option<u64>) -> bool {
        true
    }

    fn update(&self, entry: &mut FileEntry, keeping: &Keeping) {
        if let Some(socket) = &mut entry.psk {
            socket.flags = keeping.flags;
        }
    }
}

/// The entry of a packet socket, without its id, flags and owner.
fn entry(socket: BorrowedFd<'_>, known: &Known) -> Result<PacketSockEntry, Problem> {
    Ok(PacketSockEntry {
        id: 0,
        r#type: known.kind,
        protocol: known.protocol.to_be().into(),
        flags: 0,
        ifindex: known.interface,
        fown: Default::default(),
        opts: socket_options::options(socket, false)?,
        version: known.version,
        reserve: known.reserve,
        aux_data: known.auxiliary_data,
        orig_dev: known.original_device,
        vnet_hdr: known.network_header,
        loss: known.loss,
        timestamp: known.timestamp,
        copy_thresh: known.copy_threshold,
        mclist: known.memberships.iter().map(membership).collect::<Result<Vec<_>, _>>()?.concat(),
        fanout: if known.shares { Some(fanout(socket)?) } else { None },
        rx_ring: known.receive_ring.map(ring),
        tx_ring: known.send_ring.map(ring),
        ns_id: None,
        interface: interface(known.interface)?,
        ring_next: None,
        ring_unread: Vec::new(),
    })
}

/// The name of an interface, `None` for all of them.
fn interface(number: u32) -> Result<Option<String>, Problem> {
    /// Of a socket that was bound to one that has gone.
    const GONE: u32 = u32::MAX;
    match number {
        0 => Ok(None),
        GONE => Err(Problem::Refused(support::sockets::INTERFACE_GONE)),
        number => {
            let name = kernel::sockets::interface_name(number);
            let name = name.doing("name the interface of")?;
            Ok(Some(name.to_string_lossy().into_owned()))
        }
    }
}

/// A membership as often as it was asked for. The kernel counts without an end, and a restore asks again each time.
fn membership(known: &Membership) -> Result<Vec<PacketMclist>, Problem> {
    const MOST: u32 = 4096;
    if known.count > MOST {
        return Err(Problem::Refused(support::sockets::membership_count(known.count)));
    }
    let entry = PacketMclist {
        index: known.interface,
        r#type: known.kind.into(),
        addr: known.address.clone(),
        interface: interface(known.interface)?,
    };
    Ok(vec![entry; known.count as usize])
}

/// Whether packets wait beside the ring: from before there was one, or those that were too long for it (`PACKET_COPY_THRESH`), of which the
/// ring says that they are there.
fn has_queued(socket: BorrowedFd<'_>, known: &Known) -> Result<bool, Problem> {
    let queued = bytes_waiting(socket).doing("look for packets in")? > 0;
    match queued && known.receive_ring.is_some() && known.copy_threshold > 0 {
        true => Err(Problem::Refused(support::sockets::RING_WITH_COPIES)),
        false => Ok(queued),
    }
}

/// Number, type and flags of the group that the socket shares packets with.
fn fanout(socket: BorrowedFd<'_>) -> Result<u32, Problem> {
    const PACKET_FANOUT: i32 = 18;
    const CLASSIC: u32 = 6;
    const EBPF: u32 = 7;
    let value = option(socket, SOL_PACKET, PACKET_FANOUT).doing("get socket option of")?;
    match value >> 16 & 0xff {
        CLASSIC | EBPF => Err(Problem::Refused(support::sockets::FANOUT_PROGRAM)),
        _ => Ok(value),
    }
}

const fn ring(known: Ring) -> PacketRing {
    PacketRing {
        block_size: known.block_size,
        block_nr: known.block_count,
        frame_size: known.frame_size,
        frame_nr: known.frame_count,
        retire_tmo: known.timeout,
        sizeof_priv: known.private,
        features: known.features,
    }
}

/// Bytes of both rings together.
fn bytes(known: &Known) -> u64 {
    [known.receive_ring, known.send_ring].iter().flatten().map(Ring::bytes).sum()
}

/// What is in the ring to receive by of a socket, if it has rings.
fn ring_of(socket: BorrowedFd<'_>, known: &Known, bytes: u64) -> Result<Option<Used>, Problem> {
    if bytes == 0 {
        return Ok(None);
    }
    let refused = |rule| Err(Problem::Refused(rule));
    let mapped = MappedRings::new(socket, bytes).doing("map the rings of")?;
    let used = match mapped.used(known) {
        Ok(used) => used,
        Err(Unclear::Place) => return refused(support::sockets::RING_UNCLEAR),
        Err(Unclear::Sending) => return refused(support::sockets::RING_OF_SENDING),
        Err(Unclear::Private) => return refused(support::sockets::RING_WITH_PRIVATE_PARTS),
    };
    if used.next > 0 {
        // A restore brings the kernel there by packets over the loopback interface, before the socket is bound.
        if known.kind == OLD || known.protocol == 0 {
            return refused(support::sockets::RING_UNBOUND);
        }
        if !is_loopback_up(socket).doing("look at the loopback interface beside")? {
            return refused(support::sockets::RING_WITHOUT_LOOPBACK);
        }
    }
    Ok(Some(used))
}

/// The old type of packet sockets, which are bound by a name.
const OLD: u32 = 10;
