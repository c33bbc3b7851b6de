//! What a network namespace holds that nobody tells changes of: settings, neighbours, what bridges know, labels of addresses,
//! groups on links. And what of that kind cannot be carried.
//!
//! It is read while the target runs, and once more when the frozen time is over or does not matter, as it takes long: some
//! hundreds of settings. Where the two differ the later one is in the images, and it is said so.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use images::names::NetworkImage;
use images::network_settings::{device_of, has_place};
use kernel::namespaces::{new_network, within_network};
use kernel::rtnetlink::{Attribute, Message, Rtnetlink};
use kernel::{multicast, sysctl};
use support::Unsupported;
use support::networks::{self, Place};

use super::devices;
use super::strange::strange;

/// Bytes of `struct ndmsg`, and of `struct ifaddrlblmsg`.
const NEIGHBOUR: usize = 12;
const LABEL: usize = 12;

/// What a new namespace of this machine is like.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    settings: BTreeMap<String, String>,
    labels: Vec<u8>,
}

impl Fresh {
    /// Looks into one. Where none can be made all counts as set.
    pub(super) fn read() -> Self {
        let read = || Ok(Self { settings: settings()?, labels: labels()? });
        let made = new_network().and_then(|made| within_network(made, read).flatten());
        made.unwrap_or_else(|error| {
            tracing::info!(%error, "a new network namespace cannot be looked into");
            Self::default()
        })
    }
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Untold {
    /// All settings that have no place of their own in the images and are of devices, or not as in a new namespace, by their paths
    /// below `/proc/sys/net`.
    pub(super) settings: BTreeMap<String, String>,
    /// Images of messages.
    pub(super) raw: BTreeMap<NetworkImage, Vec<u8>>,
    /// The addresses that somebody has devices listen to, by their numbers.
    pub(super) groups: BTreeMap<u32, Vec<Vec<u8>>>,
}

impl Untold {
    /// Reads that of the namespace that this thread is in, where those of its devices are `devices`.
    pub(super) fn read(devices: &[Message], fresh: &Fresh) -> io::Result<Self> {
        let mut settings = settings()?;
        // What is set for all devices is set of each: so none of theirs goes without saying.
        settings.retain(|path, value| {
            device_of(path).is_some() || fresh.settings.get(path) != Some(value)
        });
        let labels = labels()?;
        let mut raw = BTreeMap::new();
        raw.insert(NetworkImage::Neighbours, neighbours(devices)?);
        if labels != fresh.labels {
            raw.insert(NetworkImage::Labels, labels);
        }
        raw.retain(|_, bytes| !bytes.is_empty());
        Ok(Self { settings, raw, groups: multicast::link_groups()? })
    }

    /// What has changed since another look.
    pub(super) fn changes(&self, before: &Self) -> Vec<String> {
        let paths = self.settings.keys().chain(before.settings.keys());
        let differs = |path: &&String| self.settings.get(*path) != before.settings.get(*path);
        let mut found: Vec<String> =
            paths.filter(differs).map(|path| format!("/proc/sys/net/{path}")).collect();
        if self.raw != before.raw {
            found.push("its neighbours, or labels of addresses".to_owned());
        }
        if self.groups != before.groups {
            found.push("the addresses that its devices listen to".to_owned());
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

fn settings() -> io::Result<BTreeMap<String, String>> {
    let mut all = sysctl::all_below(Path::new("/proc/sys/net"))?;
    all.retain(|path, _| !has_place(path));
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

fn state(message: &Message) -> u16 {
    let bytes = message.fixed[STATE].try_into().unwrap_or_default();
    u16::from_ne_bytes(bytes)
}

/// The neighbours that somebody has told of, those that are answered for, and what bridges and devices have been told; as they are
/// told again.
fn neighbours(links: &[Message]) -> io::Result<Vec<u8>> {
    const GET_NEIGHBOUR: u16 = 30;
    let told = |it: &Message| state(it) & PERMANENT != 0 || it.fixed[FLAGS] & LEARNED != 0;
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
    if !is_told || own.contains(&address) {
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
    const TOLD: [u16; 8] = [1, LINK_ADDRESS, 5, 6, 7, 12, 14, 15];
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
    let listed = |kind| Rtnetlink::open_ipsec().and_then(|door| door.list(kind, &[0; 4]));
    LISTS.into_iter().any(|kind| listed(kind).is_ok_and(|list| !list.is_empty()))
}
