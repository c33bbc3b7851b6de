//! What a network namespace holds that nobody tells changes of: settings, neighbours, what bridges know, labels of addresses,
//! groups on links. And what of that kind cannot be carried.
//!
//! There are some hundreds of settings, each a file. So all of it is read as soon as the target runs again, and of one that ends
//! while it stands still for the last time.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use images::names::NetworkImage;
use images::network_settings::{has_place, is_below};
use kernel::rtnetlink::{Attribute, Message, Rtnetlink};
use kernel::{multicast, sysctl};
use support::Unsupported;
use support::networks::{self, Place};

use super::devices;
use super::strange::strange;

/// Bytes of `struct ndmsg`, and of `struct ifaddrlblmsg`.
const NEIGHBOUR: usize = 12;
const LABEL: usize = 12;

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Untold {
    /// All settings that have no place of their own in the images, by their paths below `/proc/sys/net`: what a new namespace is like
    /// another machine may see otherwise.
    pub(super) settings: BTreeMap<String, String>,
    /// Images of messages.
    pub(super) raw: BTreeMap<NetworkImage, Vec<u8>>,
    /// The addresses that somebody has devices listen to, by their numbers.
    pub(super) groups: BTreeMap<u32, Vec<Vec<u8>>>,
}

impl Untold {
    /// Reads that of the namespace that this thread is in, where those of its devices are `devices`.
    pub(super) fn read(devices: &[Message]) -> io::Result<Self> {
        let mut raw = BTreeMap::new();
        raw.insert(NetworkImage::Neighbours, neighbours(devices)?);
        raw.insert(NetworkImage::Labels, labels()?);
        raw.retain(|_, bytes| !bytes.is_empty());
        Ok(Self { settings: settings()?, raw, groups: multicast::link_groups()? })
    }
}

fn settings() -> io::Result<BTreeMap<String, String>> {
    let mut all = sysctl::all_below(Path::new("/proc/sys/net"))?;
    all.retain(|path, _| is_below(path) && !has_place(path));
    Ok(all)
}

/// Lists messages; a kernel without what is asked for has none.
fn list(kind: u16, fixed: &[u8]) -> io::Result<Vec<Message>> {
    const NOT_THERE: [i32; 3] = [libc::EOPNOTSUPP, libc::EAFNOSUPPORT, libc::EPFNOSUPPORT];
    let bytes = match Rtnetlink::open()?.list(kind, fixed) {
        Err(error) if error.raw_os_error().is_some_and(|it| NOT_THERE.contains(&it)) => Vec::new(),
        listed => listed?,
    };
    Message::read_all(&bytes, fixed.len()).ok_or_else(strange)
}

fn of_family<const LENGTH: usize>(family: i32) -> [u8; LENGTH] {
    let mut fixed = [0; LENGTH];
    fixed[0] = family as u8;
    fixed
}

/// The labels of addresses, without the count of their changes.
fn labels() -> io::Result<Vec<u8>> {
    const GET_LABEL: u16 = 74;
    let mut labels = Vec::new();
    for mut label in list(GET_LABEL, &of_family::<LABEL>(libc::AF_INET6))? {
        label.fixed[8..].fill(0);
        labels.push(label.bytes());
    }
    labels.sort_unstable();
    Ok(labels.concat())
}

// include/uapi/linux/neighbour.h: where `struct ndmsg` has the device, the state and the flags.
const DEVICE: std::ops::Range<usize> = 4..8;
const STATE: std::ops::Range<usize> = 8..10;
const FLAGS: usize = 10;
/// `NTF_SELF`, `NTF_MASTER`, `NTF_PROXY`, `NTF_EXT_LEARNED`, `NTF_OFFLOADED`.
const SELF: u8 = 0x2;
const MASTER: u8 = 0x4;
const PROXY: u8 = 0x8;
const LEARNED: u8 = 0x10;
const OFFLOADED: u8 = 0x20;
/// `NUD_NOARP` and `NUD_PERMANENT`.
const STATIC: u16 = 0x40;
const PERMANENT: u16 = 0x80;
/// The address on the link, and the bridge.
const LINK_ADDRESS: u16 = 2;
const BRIDGE: u16 = 9;
/// More flags, and `NTF_EXT_MANAGED` among them.
const MORE_FLAGS: u16 = 15;
const MANAGED: u32 = 1;

fn state(message: &Message) -> u16 {
    let bytes = message.fixed[STATE].try_into().unwrap_or_default();
    u16::from_ne_bytes(bytes)
}

/// The neighbours that somebody has told of, those that are answered for, and what bridges and devices have been told; as they are
/// told again.
fn neighbours(links: &[Message]) -> io::Result<Vec<u8>> {
    const GET_NEIGHBOUR: u16 = 30;
    let told = |it: &Message| {
        let is_managed = it.attribute(MORE_FLAGS).and_then(Attribute::number);
        let is_managed = is_managed.is_some_and(|flags| flags & MANAGED != 0);
        state(it) & PERMANENT != 0 || it.fixed[FLAGS] & LEARNED != 0 || is_managed
    };
    let mut found = list(GET_NEIGHBOUR, &of_family::<NEIGHBOUR>(libc::AF_UNSPEC))?;
    found.retain(told);
    let mut proxies = of_family::<NEIGHBOUR>(libc::AF_UNSPEC);
    proxies[FLAGS] = PROXY;
    found.extend(list(GET_NEIGHBOUR, &proxies)?);
    let own = devices::addresses(links);
    let forwarded = list(GET_NEIGHBOUR, &of_family::<NEIGHBOUR>(libc::AF_BRIDGE))?;
    found.extend(forwarded.into_iter().filter_map(|entry| of_bridge(entry, &own)));
    found.iter_mut().for_each(told_again);
    Ok(found.iter().flat_map(Message::bytes).collect())
}

/// What a bridge was told of an address, or a device that it is to listen to. The addresses of devices, and of the groups that they
/// are in, are there by themselves.
fn of_bridge(mut entry: Message, own: &[Vec<u8>]) -> Option<Message> {
    const GROUP: u8 = 1;
    let address = entry.attribute(LINK_ADDRESS)?.value.clone();
    let is_told = state(&entry) & (STATIC | PERMANENT) != 0 || entry.fixed[FLAGS] & LEARNED != 0;
    if !is_told || state(&entry) & PERMANENT != 0 && own.contains(&address) {
        return None;
    }
    match entry.attribute(BRIDGE).and_then(Attribute::number) {
        // Of the bridge itself, or of one of its ports.
        Some(bridge) => {
            let of_itself = entry.fixed[DEVICE] == bridge.to_ne_bytes();
            entry.fixed[FLAGS] |= if of_itself { SELF } else { MASTER };
            Some(entry)
        }
        None => (address.first()? & GROUP == 0).then_some(entry),
    }
}

/// Leaves out what only the kernel says: the bridge, counts and times.
fn told_again(entry: &mut Message) {
    const TOLD: [u16; 8] = [1, LINK_ADDRESS, 5, 6, 7, 12, 14, MORE_FLAGS];
    entry.flags = 0;
    entry.fixed[FLAGS] &= !OFFLOADED;
    entry.attributes.retain(|attribute| TOLD.contains(&attribute.kind));
}

/// What cannot be carried of the namespace that this thread is in.
pub(super) fn unsupported(links: &[Message], place: Place) -> io::Result<Vec<Unsupported>> {
    let object = "network namespace";
    let mut found = Vec::new();
    for (device, kind) in queues()? {
        let name = devices::name(links, device).unwrap_or_else(|| device.to_string());
        found.push(networks::queue(place, &name, &kind).of(place.task, object));
    }
    if has_told_groups()? {
        found.push(networks::bridge_groups(place).of(place.task, object));
    }
    if has_next_hops() {
        found.push(networks::next_hops(place).of(place.task, object));
    }
    if has_ipsec() {
        found.push(networks::ipsec(place).of(place.task, object));
    }
    Ok(found)
}

/// Devices with a way of queueing that somebody has chosen, and its kind: what comes by itself has no handle.
fn queues() -> io::Result<Vec<(u32, String)>> {
    const GET_QUEUE: u16 = 38;
    /// Bytes of `struct tcmsg`: the family, the device, the handle, the parent, more.
    const QUEUE: usize = 20;
    const KIND: u16 = 1;
    let number =
        |it: &Message, at: usize| it.fixed.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let chosen = |it: Message| {
        let kind = it.attribute(KIND).and_then(Attribute::text).unwrap_or_default().to_owned();
        (number(&it, 8)? != 0).then_some((number(&it, 4)?, kind))
    };
    Ok(list(GET_QUEUE, &[0; QUEUE])?.into_iter().filter_map(chosen).collect())
}

/// Whether somebody has told a bridge of who is in a group.
fn has_told_groups() -> io::Result<bool> {
    const GET_GROUPS: u16 = 86;
    /// Bytes of `struct br_port_msg`.
    const PORT: usize = 8;
    const GROUPS: u16 = 1;
    /// Where `struct br_mdb_entry` has the state, and the one of those that stay.
    const STATE: usize = 4;
    const STAYS: u8 = 1;
    let inner = |attribute: &Attribute| attribute.inner().unwrap_or_default();
    let lists = list(GET_GROUPS, &of_family::<PORT>(libc::AF_BRIDGE))?;
    let lists = lists.iter().filter_map(|it| it.attribute(GROUPS)).flat_map(inner);
    let mut entries = lists.flat_map(|entry| inner(&entry));
    Ok(entries.any(|entry| entry.value.get(STATE) == Some(&STAYS)))
}

/// Whether there are next hops as objects of their own.
fn has_next_hops() -> bool {
    const GET_NEXT_HOP: u16 = 106;
    /// `struct nhmsg`.
    const NEXT_HOP: usize = 8;
    let door = Rtnetlink::open();
    let listed = door.and_then(|door| door.list(GET_NEXT_HOP, &[0; NEXT_HOP]));
    // A kernel without such objects has none.
    listed.is_ok_and(|list| !list.is_empty())
}

/// Whether there are policies or associations of IPsec.
fn has_ipsec() -> bool {
    const LISTS: [u16; 2] = [18, 21];
    let listed = |kind| Rtnetlink::open_ipsec().and_then(|door| door.list(kind, &[]));
    LISTS.into_iter().any(|kind| listed(kind).is_ok_and(|list| !list.is_empty()))
}
